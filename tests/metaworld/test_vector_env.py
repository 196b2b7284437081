"""Many environments at once against Meta-World itself: equal bits in observations, rewards within 1e-12, mixed or saved or alone."""

from __future__ import annotations

import gc
import pickle

import gymnasium
import metaworld
import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from clbench.errors import UserError
from clbench.task_streams.metaworld.benchmark import CW10
from clbench.task_streams.metaworld.expert import expert_policy
from clbench.task_streams.metaworld.fast_env import NamedData, task_names
from clbench.task_streams.metaworld.goals import goals
from clbench.task_streams.metaworld.vector_env import VectorMetaWorld
from clbench.task_streams.metaworld.vector_tasks import VECTOR_TASKS, length, quaternions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's casts of bounds, the experts' "may be too high"
OTHERS = [task for task in task_names() if task not in VECTOR_TASKS]


class Plain:
    """Meta-World as it is, one environment for each of `count`, each with other episodes behind it."""

    def __init__(self, task: str, count: int) -> None:
        self.name, self.positions = task + "-v3", goals(task, "train")
        self.cls = ALL_V3_ENVIRONMENTS[self.name]
        self.envs = [self.cls() for _ in range(count)]

    def begin(self, n: int, position: int):
        data = {"rand_vec": self.positions[position], "env_cls": self.cls, "partially_observable": False}
        self.envs[n].set_task(metaworld.Task(env_name=self.name, data=pickle.dumps(data)))
        return self.envs[n].reset()[0]

    def reset(self, positions):
        return np.array([self.begin(n, position) for n, position in enumerate(positions)])

    def step(self, actions):
        outcomes = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        observation, reward, _, _, info = zip(*outcomes, strict=True)
        return np.array(observation), np.array(reward, dtype=np.float64), np.array([each["success"] > 0 for each in info])


def actions_for(task: str, observation, step: int, draws: np.random.Generator, dtype=np.float64):
    """The scripted expert with noise, then for a while anything."""
    if step % 40 >= 32:
        return draws.uniform(-1.2, 1.2, (len(observation), 4)).astype(dtype)
    return (expert_policy(task).response(observation) + draws.normal(0, 0.2, (len(observation), 4))).clip(-1, 1).astype(dtype)


def compare(task: str, count: int, horizon: int, steps: int, dtype=np.float64, reward_error: float = 1e-12, **options) -> None:
    """Steps of both, through the ends of episodes, with equal bits."""
    ours, plain, draws = VectorMetaWorld(task, count, horizon=horizon, **options), Plain(task, count), np.random.default_rng(5)
    try:
        observation, info = ours.reset()
        assert np.array_equal(observation, plain.reset(info["position"])), f"{task}: reset"
        for step in range(steps):
            actions = actions_for(task, observation, step, draws, dtype)
            observation, reward, terminated, truncated, info = ours.step(actions)
            theirs, their_reward, their_success = plain.step(actions)
            ended = (step + 1) % horizon == 0
            assert truncated.tolist() == [ended] * count and not terminated.any()
            assert np.array_equal(info["final_obs"] if ended else observation, theirs), f"{task}: observation {step}"
            assert np.abs(reward - their_reward).max() <= reward_error, f"{task}: reward {step}"
            assert np.array_equal(info["success"], their_success), f"{task}: success {step}"
            if ended:
                assert np.array_equal(info["final_info"]["success"], their_success) and info["_final_info"].all()
                assert np.array_equal(observation, plain.reset(info["position"])), f"{task}: reset at {step}"
    finally:
        ours.close()


@pytest.mark.parametrize("task", CW10)
def test_tasks_stepped_as_arrays_equal_the_reference(task: str) -> None:
    compare(task, count=3, horizon=120, steps=170, threads=2)


@pytest.mark.parametrize("task", ["stick-pull", "peg-unplug-side", "shelf-place"])
def test_actions_in_single_precision_change_no_observation(task: str) -> None:
    compare(task, count=2, horizon=80, steps=90, dtype=np.float32, reward_error=1e-6)


@pytest.mark.parametrize("task", ["reach", "door-lock", "basketball"])
def test_other_tasks_have_the_same_interface(task: str) -> None:
    """Two of them have constants that move with the simulator."""
    compare(task, count=2, horizon=40, steps=60, threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("task", CW10)
def test_twenty_whole_episodes_of_each_continual_world_task(task: str) -> None:
    compare(task, count=10, horizon=200, steps=400)


@pytest.mark.slow
@pytest.mark.parametrize("task", OTHERS)
def test_every_other_task_equals_the_reference(task: str) -> None:
    compare(task, count=2, horizon=60, steps=130)


def test_continual_worlds_tasks_are_stepped_as_arrays() -> None:
    assert set(VECTOR_TASKS) == set(CW10) and len(OTHERS) == 40


def play(env: VectorMetaWorld, steps: int, seed: int = 0):
    """What random actions bring: (steps, B, 39) and (steps, B)."""
    draws = np.random.default_rng(seed)
    found = [env.step(draws.uniform(-1, 1, (env.num_envs, 4)))[:2] for _ in range(steps)]
    return np.array([observation for observation, _ in found]), np.array([reward for _, reward in found])


def test_numbers_do_not_depend_on_threads_or_on_neighbours() -> None:
    """Environment n draws from a generator of its own, also where the others are of other tasks."""
    mixed = ["window-close", "reach", "window-close", "push", "reach", "push"]
    results = []
    for threads in (1, 2, 5):
        env = VectorMetaWorld(mixed, horizon=15, threads=threads, seed=3)
        first, _ = env.reset()
        results.append((first, *play(env, 40)))
        env.close()
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    alone = VectorMetaWorld(mixed[:4], horizon=15, threads=1, seed=3)
    first, _ = alone.reset()
    draws = np.random.default_rng(0)
    for step in range(40):
        observation, *_ = alone.step(draws.uniform(-1, 1, (6, 4))[:4])
        assert np.array_equal(observation, results[0][1][step, :4])
    assert np.array_equal(first, results[0][0][:4])


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_saved_within_an_episode_it_goes_on_bit_for_bit(mode: str) -> None:
    """Through pickle, by a new set of environments that has lived through other episodes."""
    tasks = ["push", "stick-pull", "door-lock", "basketball", "push"]
    env = VectorMetaWorld(tasks, horizon=20, mode=mode, threads=1, seed=1)
    env.reset()
    play(env, 33)
    kept = pickle.dumps(env.state_dict())
    expected = play(env, 30, seed=1)
    other = VectorMetaWorld(tasks, horizon=20, mode=mode, threads=2, seed=8)
    other.reset()
    play(other, 7, seed=4)
    other.load_state_dict(pickle.loads(kept))
    assert all(np.array_equal(a, b) for a, b in zip(expected, play(other, 30, seed=1), strict=True))
    other.close()
    with pytest.raises(UserError, match="build them with the same tasks"):
        VectorMetaWorld("push", 5).load_state_dict(pickle.loads(kept))


def test_seeds_seed() -> None:
    env = VectorMetaWorld("reach", 6, horizon=2, threads=1, seed=0)

    def drawn(**options):
        found = [env.reset(**options)[1]["position"]]
        for _ in range(6):
            found.append(env.step(np.zeros((6, 4)))[4]["position"])
        return np.array(found)[::2]

    first, second = drawn(), drawn()
    assert not np.array_equal(first, second)  # the generators go on
    assert np.array_equal(drawn(seed=0), first) and not np.array_equal(drawn(seed=1), first)
    assert len(set(first.flatten().tolist())) > 12 and first.max() < 60
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn()
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002  no global generator is asked


def test_chosen_environments_begin_anew_at_chosen_positions() -> None:
    env = VectorMetaWorld("push", 4, horizon=50, threads=1)
    first, info = env.reset(options={"positions": [7, 8, 9, 7]})
    assert info["position"].tolist() == [7, 8, 9, 7]
    assert np.array_equal(first[0], first[3]) and not np.array_equal(first[0], first[1])
    stepped = env.step(np.full((4, 4), 0.5))[0]
    mixed, info = env.reset(options={"mask": [False, True, False, False], "positions": [0, 9, 0, 0]})
    assert info["position"].tolist() == [7, 9, 9, 7]
    assert np.array_equal(mixed[[0, 2, 3]], stepped[[0, 2, 3]]) and np.array_equal(mixed[1], first[2])
    for _ in range(48):
        *_, truncated, _ = env.step(np.zeros((4, 4)))
        assert not truncated.any()
    assert env.step(np.zeros((4, 4)))[3].tolist() == [True, False, True, True]


def test_positions_may_be_given() -> None:
    at = goals("window-close", "evaluation")[:3]
    env = VectorMetaWorld("window-close", 2, positions={"window-close": at}, threads=1)
    observation, _ = env.reset(options={"positions": [2, 0]})
    assert np.array_equal(observation[:, 36:39], at[[2, 0]])


def test_fast_mode_differs_in_the_last_digits_only_until_contact_amplifies_them() -> None:
    found = {}
    for mode in ("exact", "fast"):
        env = VectorMetaWorld("push", 8, mode=mode, threads=1)
        env.reset(options={"positions": np.arange(8)})
        found[mode] = play(env, 30)[0]
    difference = np.abs(found["exact"] - found["fast"]).max(axis=(1, 2))
    assert difference[:3].max() < 1e-6 and 0 < difference.max() < 0.05


def test_it_is_what_gymnasium_expects() -> None:
    env = VectorMetaWorld("push", 3, horizon=2, threads=1)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation) and env.action_space.shape == (3, 4)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward.shape, terminated.dtype, truncated.tolist()) == ((3,), bool, [True] * 3)
    assert info["final_obs"].shape == observation.shape and info["_final_obs"].all()
    assert not np.array_equal(info["final_obs"], observation)
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(VectorMetaWorld("push", 2, horizon=3, threads=1))
    recorded.reset()
    infos = [recorded.step(np.zeros((2, 4), dtype=np.float32))[4] for _ in range(3)]
    assert infos[-1]["episode"]["l"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VectorMetaWorld("pusch", 2), "Did you mean push"),
        (lambda: VectorMetaWorld(["push", "reach"], 3), "one for each of num_envs=3 environments, got 2"),
        (lambda: VectorMetaWorld([], 0), "got 0"),
        (lambda: VectorMetaWorld("push", 1, horizon=501), r"horizon must be in 1..500, got 501"),
        (lambda: VectorMetaWorld("push", 1, mode="quick"), "mode must be exact or fast, got 'quick'"),
        (lambda: VectorMetaWorld("push", 1).step(np.zeros((1, 4))), "no episode is open; call reset first"),
        (lambda: VectorMetaWorld("push", 2).reset(options={"mask": [True, False]}), "marks every environment without an open episode"),
        (lambda: VectorMetaWorld("push", 1).reset(options={"positions": [60]}), r"push: expected a position 0..59, got 60"),
        (lambda: VectorMetaWorld("push", 1).reset(options={"goals": [1]}), "got 'goals'"),
        (lambda: _opened().step(np.zeros((2, 3))), r"expected actions \(2, 4\), got \(2, 3\)"),
    ],
)
def test_what_cannot_be_is_refused(build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def _opened() -> VectorMetaWorld:
    env = VectorMetaWorld("reach", 2, threads=1)
    env.reset()
    return env


def test_quaternions_of_every_branch_equal_scipys() -> None:
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_quat(np.random.default_rng(0).normal(size=(500, 4))).as_matrix()
    turns[-1] *= 1 + 1e-6  # not orthonormal: scipy mends it first
    found = quaternions(turns.reshape(-1, 9))
    assert np.array_equal(found, np.array([Rotation.from_matrix(turn).as_quat() for turn in turns]))


def test_lengths_equal_those_of_single_vectors() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3))
    assert np.array_equal(length(rows), [np.linalg.norm(row) for row in rows])


@pytest.mark.parametrize("task", ["push-wall", "push-back", "push", "shelf-place", "stick-pull", "peg-unplug-side", "hammer"])
def test_rewards_equal_the_reference_wherever_the_object_is(task: str) -> None:
    """The object is put somewhere between its start and beyond the goal, near the hand or far from it, and one step is taken."""
    ours, plain, draws = VectorMetaWorld(task, 1, threads=1), Plain(task, 1), np.random.default_rng(1)
    found = set()
    for trial in range(40):
        _, info = ours.reset()
        plain.reset(info["position"])
        group, reference = ours._groups[0], plain.envs[0]
        data, model, kind = group._data[0], group._models[0], mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, data, group._states[0], kind)
        goal, qpos, qvel = reference._target_pos, reference.data.qpos.copy(), reference.data.qvel.copy()
        share = draws.uniform(0, 1.2)
        at = qpos[9:12] + share * (goal - qpos[9:12]) + draws.normal(0, [0.05, 0.05, 0.08])
        qpos[9:12] = reference.tcp_center if trial % 4 == 0 else [at[0], at[1], max(at[2], qpos[11])]
        qvel[:] = 0
        reference.set_state(qpos, qvel)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = qpos, qvel, reference.data.qacc_warmstart
        mujoco.mj_getState(model, data, group._states[0], kind)
        actions = draws.uniform(-1, 1, (1, 4))
        observation, reward, _, _, info = ours.step(actions)
        theirs, their_reward, their_success = plain.step(actions)
        assert np.abs(observation - theirs).max() < 1e-9
        assert abs(reward[0] - their_reward[0]) < 1e-6 * max(1, abs(their_reward[0])), trial
        assert info["success"][0] == their_success[0]
        found.add(round(float(reward[0]), 3))
    assert len(found) > 8


def test_an_object_that_is_carried_below_the_shelf_is_rewarded_less_as_in_the_reference() -> None:
    ours, plain = VectorMetaWorld("shelf-place", 2, threads=1), Plain("shelf-place", 2)
    observation, info = ours.reset(options={"positions": [0, 1]})
    plain.reset(info["position"])
    below = 0
    for step in range(110):
        actions = expert_policy("shelf-place").response(observation) if step < 50 else np.tile([0.0, 0.8, -0.25, 1.0], (2, 1))
        observation, reward, *_ = ours.step(np.clip(actions, -1, 1))
        theirs, their_reward, _ = plain.step(np.clip(actions, -1, 1))
        assert np.array_equal(observation, theirs) and np.abs(reward - their_reward).max() <= 1e-12
        at, goal = observation[:, 4:7], observation[:, 36:39]
        held = np.linalg.norm(at - observation[:, :3], axis=1) < 0.1
        below += int((held & (at[:, 2] < 0.24) & (at[:, 1] > goal[:, 1] - 0.15) & (at[:, 1] < goal[:, 1])).sum())
    assert below > 5


def test_nothing_stays_behind_of_environments_that_are_gone():
    def there():
        gc.collect()
        return sum(type(thing) is NamedData for thing in gc.get_objects())

    before = there()
    env = VectorMetaWorld(["push", "push", "door-open"], horizon=5)
    env.reset(seed=0)
    for _ in range(7):
        env.step(np.zeros((3, 4)))
    assert there() > before
    env.close()
    del env
    assert there() == before


def test_environments_share_the_simulators_of_the_threads():
    env = VectorMetaWorld("push", 40, threads=2)
    group = env._groups[0]
    assert len(group._data) == len(group._models) == 2 and group._states.nbytes < 40 * 4096
    env.close()
