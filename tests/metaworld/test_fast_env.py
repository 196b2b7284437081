"""The faster environment and experts against Meta-World itself: equal bits in observations and actions, rewards within 1e-12."""

from __future__ import annotations

import pickle

import metaworld
import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from scipy.spatial.transform import Rotation

from clbench.errors import UserError
from clbench.task_streams.metaworld import fast_env
from clbench.task_streams.metaworld.benchmark import CW10
from clbench.task_streams.metaworld.expert import expert_policy
from clbench.task_streams.metaworld.fast_env import Shared, make_env, task_names
from clbench.task_streams.metaworld.goals import goals

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's casts of bounds, the experts' "may be too high"


class Reference:
    """Meta-World as a user would drive it."""

    def __init__(self, task: str) -> None:
        self.name = task + "-v3"
        self.cls = ALL_V3_ENVIRONMENTS[self.name]
        self.env = self.cls()

    def reset_to(self, position):
        data = {"rand_vec": position, "env_cls": self.cls, "partially_observable": False}
        self.env.set_task(metaworld.Task(env_name=self.name, data=pickle.dumps(data)))
        return self.env.reset()[0]


def compare(task: str, positions, steps: int, dtype=np.float64, reward_error: float = 1e-12) -> None:
    reference, shared = Reference(task), Shared()
    fast, neighbour = make_env(task, shared), make_env(task, shared)
    expert, our_expert = ENV_POLICY_MAP[task + "-v3"](), expert_policy(task)
    draws = np.random.default_rng(3)
    neighbour.reset_to(positions[-1])
    for episode, position in enumerate([*positions, positions[0]]):  # the first again: from memory here, after other episodes there
        observation = reference.reset_to(position)
        assert np.array_equal(observation, fast.reset_to(position)), f"{task}: reset of episode {episode}"
        for step in range(steps):
            response = expert.get_action(observation.copy())
            assert np.array_equal(response, our_expert.response(observation[None])[0])
            action = np.clip(response + draws.normal(0.0, 0.2, 4), -1.0, 1.0)
            action = (action if step % 40 < 30 else draws.uniform(-1.0, 1.0, 4)).astype(dtype)
            observation, reward, _, truncated, info = reference.env.step(action)
            ours, our_reward, terminated, our_truncated, our_info = fast.step(action)
            assert np.array_equal(observation, ours), f"{task}: observation {step} of episode {episode}"
            assert abs(float(reward) - float(our_reward)) <= reward_error
            assert info.keys() == our_info.keys()
            for key in info:
                assert abs(float(info[key]) - float(our_info[key])) <= reward_error, key
            assert (info["success"], truncated, False) == (our_info["success"], our_truncated, terminated)
            if step % 5 == 0:
                neighbour.step(-action)  # shares the model and must not be felt
        neighbour.reset_to(position)


@pytest.mark.parametrize("task", task_names())
def test_equals_metaworld(task):
    compare(task, goals(task, "evaluation")[:2], 60)


@pytest.mark.slow
@pytest.mark.parametrize("task", CW10)
def test_equals_metaworld_over_whole_episodes(task):
    compare(task, goals(task, "evaluation")[:4], 499)


def test_float32_actions_give_equal_observations():
    compare("push", goals("push", "train")[:1], 80, np.float32, reward_error=1e-6)


def test_the_500th_step_truncates_and_the_501st_is_refused():
    env = make_env("reach")
    env.reset_to(goals("reach", "train")[0])
    assert [env.step(np.zeros(4))[3] for _ in range(500)] == [False] * 499 + [True]
    with pytest.raises(UserError, match="call reset_to first"):
        env.step(np.zeros(4))


def test_reset_from_memory_undoes_everything():
    env = make_env("hammer")
    position, other = goals("hammer", "train")[:2]

    def play():
        env.reset_to(position)
        return [env.step(np.full(4, 0.3))[:2] for _ in range(40)]

    first = play()
    env.reset_to(other)
    for _ in range(60):
        env.step(np.array([0.5, 1.0, -1.0, 1.0]))
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, play(), strict=True))


def test_a_rejected_position_is_refused_and_not_asked_for_for_ever():
    # stick-pull asks for another vector while the stick (first two numbers) is within 0.1 m of the goal (third and second but last).
    position = goals("stick-pull", "train")[0]
    position[-3:-1] = position[:2] + 0.05
    with pytest.raises(UserError, match="violates the task's own distances"):
        make_env("stick-pull").reset_to(position)


def test_wrong_shape_and_unknown_name_are_refused():
    with pytest.raises(UserError, match=r"expected a position vector of shape \(6,\), got \(3,\)"):
        make_env("push").reset_to(np.zeros(3))
    with pytest.raises(UserError, match=r"Unknown Meta-World task 'push-wal'\. Did you mean push-wall"):
        make_env("push-wal")


def test_the_reference_stays_as_it_is():
    module = __import__("metaworld.envs.sawyer_push_v3", fromlist=["x"])
    make_env("push").reset_to(goals("push", "train")[0])
    assert module.np is np
    assert module.Rotation is Rotation
    assert module.SawyerPushEnvV3.compute_reward.__globals__ is vars(module)
    assert type(Reference("push").env.data) is mujoco.MjData


def test_no_global_generator_is_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    env = make_env("push")
    env.reset_to(goals("push", "train")[0])
    env.step(np.zeros(4))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_scalar_quaternion_equals_scipy():
    draws = np.random.default_rng(0)
    turns = Rotation.from_quat(draws.normal(size=(2000, 4))).as_matrix()
    halves = np.array([np.diag(d) for d in ([1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0])])
    assert fast_env.quaternion() is fast_env._scalar_quaternion
    for matrix in [*turns, *halves, turns[0] * 1.001]:
        assert np.array_equal(fast_env._scalar_quaternion(matrix), Rotation.from_matrix(matrix).as_quat())


def test_tolerance_and_norm_equal_the_originals():
    from metaworld.utils.reward_utils import tolerance

    draws = np.random.default_rng(1)
    for sigmoid in ("gaussian", "long_tail", "linear"):
        for x, margin in zip(draws.uniform(-1, 2, 200), np.concatenate([[0.0], draws.uniform(0, 1, 199)]), strict=True):
            arguments = {"bounds": (0.1, 0.4), "margin": margin, "sigmoid": sigmoid}
            assert abs(fast_env.tolerance(x, **arguments) - tolerance(x, **arguments)) < 1e-15
    with pytest.raises(ValueError, match="Lower bound"):
        fast_env.tolerance(0.5, bounds=(1.0, 0.0))
    with pytest.raises(ValueError, match="margin"):
        fast_env.tolerance(0.5, margin=-1.0)
    for vector in draws.normal(size=(50, 3)):
        assert fast_env.norm(vector) == np.linalg.norm(vector)
        assert fast_env.norm(vector[0]) == np.linalg.norm(vector[0])
    matrix = draws.normal(size=(3, 3))
    assert fast_env.norm(matrix, axis=0).tolist() == np.linalg.norm(matrix, axis=0).tolist()
    assert fast_env.norm(matrix[0], ord=1) == np.linalg.norm(matrix[0], ord=1)
