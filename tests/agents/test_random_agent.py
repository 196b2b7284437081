"""The floor spends its budget, learns nothing and is the same for every batch."""

import numpy as np
import pytest

from clbench.agents.random_agent import RandomAgent
from clbench.experience import Interaction, Transition
from clbench.interfaces import TaskInfo

CONTROL = TaskInfo(0, 2, "demonstrations", 7, 3)
TEXT = TaskInfo(None, 1, "text", 7, 7)


@pytest.mark.parametrize("units", [1, 33, 4097])
def test_every_budget_is_spent_exactly(shown, told, units):
    for task, experience in ((CONTROL, shown(0, units)), (TEXT, told(0, min(units, 33)))):
        RandomAgent(task, 0).learn(experience)
        assert experience.remaining == 0 and experience.meter.consumed == experience.meter.granted


def test_actions_are_uniform_and_depend_on_the_observation_the_step_and_the_seed():
    """4000 x 3 numbers in 10 bins: 1200 each, standard deviation 33."""
    seen = np.random.default_rng(0).normal(size=(4000, 7)).astype(np.float32)
    policy = RandomAgent(CONTROL, 0).policy(CONTROL)
    actions, state = policy.act(seen, policy.initial_state(4000))
    assert actions.shape == (4000, 3) and actions.dtype == np.float32 and np.abs(actions).max() <= 1.0
    assert np.abs(np.histogram(actions, bins=10, range=(-1, 1))[0] - 1200).max() < 5 * 33
    assert np.abs(np.corrcoef(actions.T)[np.triu_indices(3, 1)]).max() < 0.08
    later, _ = policy.act(seen, state)
    other, _ = RandomAgent(CONTROL, 1).policy(CONTROL).act(seen, 0)
    for answer in (later, other):
        assert abs(np.corrcoef(answer.ravel(), actions.ravel())[0, 1]) < 0.05
    assert np.array_equal(policy.act(seen, policy.initial_state(4000))[0], actions)


def test_one_row_is_answered_as_in_a_batch_of_eight():
    seen = np.random.default_rng(0).normal(size=(8, 7))
    policy = RandomAgent(CONTROL, 0).policy(CONTROL)
    alone = np.concatenate([policy.act(seen[row : row + 1], 3)[0] for row in range(8)])
    assert np.array_equal(alone, policy.act(seen, 3)[0])


def test_text_is_scored_alike_everywhere():
    policy = RandomAgent(TEXT, 0).policy(TEXT)
    logits, state = policy.logits(np.zeros((2, 5), dtype=np.int64), policy.initial_state(2))
    assert logits.shape == (2, 5, 7) and not logits.any() and state is None


class Counter:
    """Two environments that show how often they were stepped."""

    def __init__(self) -> None:
        self.observation = np.zeros((2, 1))
        self.actions: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> Transition:
        self.actions.append(action)
        self.observation = self.observation + 1
        zeros = np.zeros(2)
        return Transition(zeros, zeros > 0, zeros > 0, self.observation, self.observation)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def test_in_a_world_it_acts_by_chance_and_goes_on_where_it_stopped():
    task, world = TaskInfo(0, 1, "interaction", 1, 3), Counter()
    agent, experience = RandomAgent(task, 0), Interaction(world)
    experience.meter.grant(10)
    agent.learn(experience)
    resumed = RandomAgent(task, 7)
    resumed.load_state_dict(agent.state_dict())
    for other in (agent, resumed):
        experience.meter.grant(2)
        other.learn(experience)
    assert len(world.actions) == 7 and np.array_equal(world.actions[-1], world.actions[-2])
    assert len({action.tobytes() for action in world.actions}) == 6
