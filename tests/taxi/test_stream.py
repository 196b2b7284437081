"""The Taxi world as a stream: what is learned in it, what is asked, and how answers are scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clbench import configuration, runs, seeding
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import Policy
from clbench.store import determined
from clbench.task_streams.taxi.expert import expert
from clbench.task_streams.taxi.stream import taxi_stream
from clbench.task_streams.taxi.task import Lockstep, later_visits
from clbench.task_streams.taxi.world import PASSENGER_TASKS, TASKS, TaxiWorld, observation_size


def stream(**options: Any) -> Any:
    small = {"environments": 8, "units": [160], "points": 2, "test_episodes": 8}
    return taxi_stream(name="taxi", version=1, budget="smoke", **{**small, **options})


class Driver:
    """Knows the map of every episode: it drives a world of its own beside the one that is asked about."""

    def __init__(self, world: TaxiWorld, lazy: bool = False) -> None:
        self.world, self.lazy = world, lazy

    def initial_state(self, batch: int) -> int:
        return 0

    def act(self, observation: np.ndarray, state: int) -> tuple[np.ndarray, int]:
        assert np.array_equal(observation, self.world.observation())
        action = expert(self.world)
        if self.lazy and state % 2:
            action = np.full_like(action, 5)  # a dropoff anywhere but at the destination does nothing
        self.world.step(action)
        return np.eye(6, dtype=np.float32)[action], state + 1


def test_a_driver_who_knows_the_map_scores_about_one_and_one_who_dawdles_half() -> None:
    made = stream(test_episodes=64)
    for task in made.tasks:
        seed = made.seed("evaluation", task)
        world = seeding.integer(seed, "taxi", "test")
        policies = [_policy(Driver(TaxiWorld(64, seed=world), lazy)) for lazy in (False, True)]
        scores = [task.evaluate(policy, seed).score.mean() / task.scale[1] for policy in policies]
        assert scores[0] == pytest.approx(1, abs=0.1)
        assert scores[1] < 0.75 * scores[0]


def _policy(driver: Driver) -> Policy:
    return driver


def test_the_largest_number_is_the_action_and_what_comes_back_is_the_worlds() -> None:
    world, experience = TaxiWorld(4, seed=1011, episode_steps=5), Interaction(Lockstep(TaxiWorld(4, seed=1011, episode_steps=5)))
    experience.meter.grant(4 * 12)
    draws = np.random.default_rng(0)
    for _ in range(12):
        assert np.array_equal(experience.observation, world.observation())
        numbers = draws.uniform(-1, 1, (4, 6))
        step, transition = world.step(numbers.argmax(1)), experience.step(numbers)
        assert np.array_equal(transition.reward, step.reward) and not transition.terminated.any()
        assert (transition.truncated == step.ended).all()
        assert np.array_equal(transition.next_observation, step.observation) and np.array_equal(transition.final_observation, step.final)


def test_later_visits_count_by_hand() -> None:
    """One environment and the actions of the expert: every visit of find_p from the third on, step by step."""
    world = TaxiWorld(1, seed=1010, episode_steps=120)
    spent, solved = later_visits(world, lambda w, s: (expert(w), s), None, 0, 3)
    again, visits, expected = TaxiWorld(1, seed=1010, episode_steps=120), 0, [0, 0]
    new = True
    for _ in range(120):
        finding = again.task[0] == TASKS.index("find_p")
        visits += int(new and finding)
        status = again.step(expert(again)).status[0]
        if finding and visits >= 3:
            expected[0] += 1
            expected[1] += int(status == 1)
        new = status != 0
    assert (spent[0], solved[0]) == tuple(expected) and solved[0] > 3


def test_an_episode_in_which_it_did_not_come_to_that_counts_nothing() -> None:
    class Stands:
        def initial_state(self, batch: int) -> None:
            return None

        def act(self, observation: np.ndarray, state: None) -> tuple[np.ndarray, None]:
            return np.tile([0, 0, 0, 0, 0, 1.0], (len(observation), 1)), None

    task = stream().tasks[0]
    episodes = task.evaluate(Stands(), 3)
    assert (episodes.score == 0).all() and (episodes.facts["successes"] == 0).all()


def test_training_test_and_validation_maps_differ_and_agents_share_theirs() -> None:
    made, tuned = stream(), stream(validation=True)
    task, other = made.tasks[0], tuned.tasks[0]
    assert made.seed("evaluation", task) != tuned.seed("evaluation", other)
    first, again, seed = (task.experience(n).observation for n in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, seed)


def test_a_sub_task_that_comes_later_is_asked_about_from_the_beginning() -> None:
    made = stream(taught=["find_p+pickup", "find_p+pickup+convey_p"], units=[160])
    assert [task.name for task in made.tasks] == list(PASSENGER_TASKS)
    assert made.trained == ((0,), (2,))
    observation = made.tasks[0].experience(0).observation
    assert observation.shape == (8, observation_size())
    assert made.tasks[0]._group == ("find_p", "pickup") and made.tasks[2]._group == PASSENGER_TASKS == made.tasks[0]._asked_in


def test_a_new_sub_task_that_is_named_late_has_its_place_in_every_observation() -> None:
    """The frozen core's experiment: what is learned first must already leave room for what comes."""
    made = stream(taught=["find_p+pickup+convey_p", "find_p+pickup+convey_p+reach_d"], units=[160, 16])
    assert [task.name for task in made.tasks] == list(TASKS[:4])
    assert made.trained == ((0,), (3,))
    assert all(task.info.input_size == observation_size(4) == observation_size() + 1 for task in made.tasks)
    first, then = (made.tasks[n].experience(0) for n in (0, 3))
    assert first.observation.shape == then.observation.shape == (8, observation_size(4))
    assert made.tasks[3].scale[1] > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": [100]}, "a multiple of 16; got 100"),
        ({"units": [160, 160]}, "expected units for 1 phases, got 2"),
        ({"taught": []}, "every entry of taught must bring a sub-task"),
        ({"taught": ["find_p+pickup", "pickup+find_p"]}, "every entry of taught must bring a sub-task"),
        ({"taught": ["find_p+pickup+fly"]}, "fly"),
        ({"taught": ["fly"]}, "Unknown sub-task 'fly'"),
        ({"taught": ["find_p+pickup", "find_q"]}, "Unknown sub-task 'find_q'. Did you mean find_p"),
        ({"environments": 0}, "environments, test_episodes and from_visit must be at least 1"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        stream(**options).tasks[0].experience(0)
    assert "\n" not in str(error.value)


AGENTS = ["sem", "lstm", "rmt", "transformer-xl", "gated-deltanet", "armt", "memorizing-transformer", "focused-transformer"]
AGENTS += ["memory-transformer", "infinity-former", "transformer", "fine-tuning", "reset", "random"]


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_with_a_memory_live_through_it_and_a_seed_gives_one_run(agent: str) -> None:
    spec = configuration.agent_spec(agent, None, "cpu")
    made = replace(stream(episode_steps=30))
    first, again = (runs.execute(runs.Request(spec, made, 0)) for _ in range(2))
    assert determined(first.events) == determined(again.events)
    assert np.isfinite(first.matrix.score[[0, -1]]).all()
