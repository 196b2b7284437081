"""Meta-World tasks to learn by acting: what an agent sees, pays and is scored by."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.protocol import Session
from clbench.store import EventLog, MemorySink, determined, parse_events
from clbench.stream import TaskStream
from clbench.task_streams.metaworld.expert import expert_policy
from clbench.task_streams.metaworld.goals import goals
from clbench.task_streams.metaworld.reinforcement import reinforcement_stream

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def stream(**options: Any) -> TaskStream:
    small = {"tasks": ["reach", "window-close"], "environments": 4, "horizon": 20, "episodes": 3, "units": 160, "points": 2}
    return reinforcement_stream(name="few", version=1, budget="smoke", **{**small, **options})


def test_an_observation_ends_with_the_one_hot_of_its_task() -> None:
    made = stream()
    for number, task in enumerate(made.tasks):
        assert (task.info.index, task.info.num_tasks, task.info.input_size, task.info.section) == (number, 2, 41, "control")
        seen = task.experience(0).observation
        assert seen.shape == (4, 41) and seen.dtype == np.float32
        assert (seen[:, 39:] == np.eye(2)[number]).all()
        assert {tuple(goal) for goal in seen[:, 36:39].tolist()} <= {
            tuple(np.float32(at[-3:]).tolist()) for at in goals(task.name, "train")
        } or number  # window-close computes its goal
    hidden = stream(identity="hidden")
    assert hidden.name == "few-hidden" and hidden.tasks[0].info.index is None
    assert hidden.tasks[0].experience(0).observation.shape == (4, 39)
    assert [task.name for task in stream(repeats=2).tasks] == ["reach", "window-close", "reach-2", "window-close-2"]
    assert [phase.columns for phase in stream(repeats=2, identity="hidden").phases] == [(0,), (1,), (0,), (1,)]


def test_steps_are_paid_for_all_environments_and_episodes_end_by_the_clock() -> None:
    experience = stream().tasks[0].experience(0)
    experience.meter.grant(160)
    ends = []
    while experience.remaining:
        before = experience.observation
        transition = experience.step(np.full((4, 4), 0.3))
        assert not transition.terminated.any() and not np.array_equal(before, transition.next_observation)
        ends.append(transition.truncated.all())
        same = np.array_equal(transition.final_observation, transition.next_observation)
        assert same != transition.truncated.any()
    assert np.flatnonzero(ends).tolist() == [19, 39]


def test_saved_within_an_episode_experience_goes_on() -> None:
    task = stream().tasks[1]
    one, other = task.experience(0), task.experience(5)
    for each in (one, other):
        each.meter.grant(400)
    draws = np.random.default_rng(0)
    for _ in range(27):
        one.step(draws.uniform(-1, 1, (4, 4)))
    other.step(np.zeros((4, 4)))
    other.load_state_dict(pickle.loads(pickle.dumps(one.state_dict())))
    assert np.array_equal(one.observation, other.observation)
    for _ in range(30):
        action = draws.uniform(-1, 1, (4, 4))
        a, b = one.step(action), other.step(action)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_score_is_success_on_positions_that_training_never_has() -> None:
    made = stream(horizon=200, episodes=5)
    for task in made.tasks:
        found = task.evaluate(expert_policy(task.name), 0)
        assert found.score.tolist() == [1.0] * 5
    assert not {at.tobytes() for at in goals("reach", "evaluation")} & {at.tobytes() for at in goals("reach", "train")}
    assert made.hash() != stream(horizon=200, episodes=5, validation=True).hash()


def run(agent_seed: int, should_stop: Any = lambda: False, state: Any = None, saved: list[Any] | None = None) -> list[str]:
    from clbench.agents.composed import Composed

    options = {"batch_size": 8, "capacity": 500, "start_steps": 40, "update_after": 40, "update_every": 16, "updates": 1}
    section = {"learner": {"kind": "soft-actor-critic", **options}, "backbone": {"kind": "mlp", "width": 8, "depth": 1}}
    sink = MemorySink()
    session = Session(lambda task, seed: Composed(task, seed, control=section, device="cpu"), stream(), agent_seed, EventLog(sink))
    if state is not None:
        session.load_state_dict(state)

    def save(kept: dict[str, Any]) -> dict[str, Any]:
        if saved is not None:
            saved.append((kept, len(sink.lines)))
        return {}

    session.run(save, seconds_between_saves=0.0)
    return determined(parse_events("".join(line + "\n" for line in sink.lines).encode(), "memory"))


def test_a_run_that_is_continued_anywhere_has_the_events_of_one_that_was_not() -> None:
    """The simulators' states, the transitions and the generators are all in what was saved."""
    saved: list[Any] = []
    whole = run(3, saved=saved)
    assert len(saved) >= 6
    for kept, _ in saved[1:6:2]:
        rest = run(3, state=kept)
        assert rest == whole[-len(rest) :] and len(rest) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 150}, "whole steps of 4 environments at each of 2 points, a multiple of 8; got 150"),
        ({"environments": 0}, "environments must be > 0, got 0"),
        ({"identity": "shown"}, "identity must be cued or hidden, got 'shown'"),
        ({"tasks": ["reech"]}, "Did you mean reach"),
        ({"episodes": 61}, r"episodes must be in 1..60, got 61"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(**options)
