"""Meta-World tasks to learn by acting: what an agent sees, pays and is scored by."""

from __future__ import annotations

import pickle
from pathlib import Path
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


def test_held_out_tasks_are_adapted_to_from_whole_episodes_of_one_environment() -> None:
    made = stream(held_out=["door-close"], shots=(0, 2), draws=1)
    few = made.few_shot
    assert few is not None and few.each and few.units == 20 and few.after == (-1, 1) and made.tasks[0].info.num_tasks == 3
    assert made.hash() != stream().hash() and len(made.tasks) == 2
    assert stream(held_out=["door-close"], shots=(0, 2), draws=1, joint=True).few_shot is not None
    experience = few.tasks[0].experience(3, shots=2)
    assert experience.observation.shape == (1, 42) and (experience.observation[0, 39:] == [0, 0, 1]).all()

    taken: list[int] = []

    class Counting:
        """Stands still, and counts what it is granted."""

        def __init__(self, task: Any, seed: int) -> None:
            self.granted = 0

        def begin_task(self, task: Any) -> None: ...
        def end_task(self, task: Any) -> None: ...

        def learn(self, experience: Any) -> None:
            taken.append(experience.remaining)
            while experience.remaining:
                experience.step(np.zeros((len(experience.observation), 4)))

        def policy(self, task: Any) -> Any:
            return expert_policy("door-close")

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    sink = MemorySink()
    Session(Counting, made, 0, EventLog(sink)).run()
    assert taken == [40, 80, 80, 80, 80, 40]  # two episodes of 20 steps, before and after the phases
    adapted = [event for event in parse_events("".join(line + "\n" for line in sink.lines).encode(), "m") if event["kind"] == "adapt"]
    assert [(event["phase"], event["shots"]) for event in adapted] == [(-1, 0), (-1, 2), (1, 0), (1, 2)]


def test_a_goal_is_shown_as_long_as_the_stream_says() -> None:
    made = stream(tasks=["reach"], goal_steps=2)
    assert made.name == "few-masked" and made.hash() != stream(tasks=["reach"], goal_steps=1).hash()
    assert stream(tasks=["reach"]).hash() != made.hash() and "goal_visible" not in stream(tasks=["reach"]).options
    experience, plain = made.tasks[0].experience(0), stream(tasks=["reach"]).tasks[0].experience(0)
    for one in (experience, plain):
        one.meter.grant(4 * 45)
    shown = []
    for _ in range(45):  # over two ends of episodes of 20 steps
        assert np.array_equal(np.delete(experience.observation, np.s_[36:39], 1), np.delete(plain.observation, np.s_[36:39], 1))
        shown.append(bool(experience.observation[:, 36:39].any()))
        action = np.full((4, 4), 0.1)
        transition, other = experience.step(action), plain.step(action)
        assert np.array_equal(transition.reward, other.reward)
        assert not transition.final_observation[:, 36:39].any() or len(shown) in (1, 21, 41)  # the second step of an episode is shown
    assert np.flatnonzero(shown).tolist() == [0, 1, 20, 21, 40, 41]
    again = made.tasks[0].experience(7)
    again.load_state_dict(pickle.loads(pickle.dumps(experience.state_dict())))
    again.meter.grant(4)
    assert np.array_equal(again.observation, experience.observation)

    class Watching:
        """Remembers what it sees of the goal."""

        def __init__(self) -> None:
            self.seen: list[bool] = []

        def initial_state(self, batch: int) -> None:
            return None

        def act(self, observation: np.ndarray, state: None) -> tuple[np.ndarray, None]:
            self.seen.append(bool(observation[:, 36:39].any()))
            return np.zeros((len(observation), 4)), None

    watching = Watching()
    made.tasks[0].evaluate(watching, 0)
    assert watching.seen == [True] * 2 + [False] * 18


def test_a_task_that_stands_twice_in_the_list_is_visited_twice() -> None:
    twice = stream(tasks=["reach", "window-close", "reach"])
    assert [task.name for task in twice.tasks] == ["reach", "window-close", "reach-2"]
    assert [phase.columns for phase in twice.phases] == [(0,), (1,), (2,)]
    hidden = stream(tasks=["reach", "window-close", "reach"], identity="hidden", repeats=2)
    assert [task.name for task in hidden.tasks] == ["reach", "window-close"]
    assert [phase.columns for phase in hidden.phases] == [(0,), (1,), (0,)] * 2


def test_in_a_joint_phase_the_environments_of_all_tasks_stand_side_by_side() -> None:
    made = stream(joint=True)
    assert made.name == "few-joint" and made.role == "joint" and [phase.columns for phase in made.phases] == [(0, 1)]
    assert stream(joint=True, points=4, window=4).phases[0].points == 4  # as many rows as its numbers average over
    assert made.phases[0].units == 320 and made.phases[0].points == 2 and made.info(0).index is None and made.info(0).num_tasks == 2
    parts = [task.experience(number) for number, task in enumerate(made.tasks)]
    joint = type(parts[0]).joint(parts, 0)
    joint.meter.grant(400)
    seen = joint.observation
    assert seen.shape == (8, 41) and (seen[:4, 39:] == [1, 0]).all() and (seen[4:, 39:] == [0, 1]).all()
    apart = [task.experience(number) for number, task in enumerate(made.tasks)]
    for one in apart:
        one.meter.grant(200)
    draws = np.random.default_rng(0)
    for step in range(25):  # over the end of an episode
        actions = draws.uniform(-1, 1, (8, 4))
        together, single = joint.step(actions), [one.step(actions[4 * n : 4 * n + 4]) for n, one in enumerate(apart)]
        for column, parts_of in zip(together, zip(*single, strict=True), strict=True):
            assert np.array_equal(column, np.concatenate(parts_of)), step
    assert joint.remaining == 400 - 25 * 8
    other = type(parts[0]).joint([task.experience(9) for task in made.tasks], 0)
    other.load_state_dict(pickle.loads(pickle.dumps(joint.state_dict())))
    assert np.array_equal(other.observation, joint.observation)


def test_triplets_and_the_ten_twice_are_there_as_published() -> None:
    import yaml

    folder = Path(__file__).parent.parent.parent / "configs" / "stream"
    ten = yaml.safe_load((folder / "cw10.yaml").read_text())["tasks"]
    assert len(set(ten)) == 10
    for number in range(8):
        values = yaml.safe_load((folder / f"cw3-{number}.yaml").read_text())
        assert set(values["tasks"]) <= set(ten) and len(values["tasks"]) == 3 and values["name"] == f"cw3-{number}"
    twenty = yaml.safe_load((folder / "cw20.yaml").read_text())
    assert twenty["tasks"] == ten and twenty["repeats"] == 2


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
        ({"goal_steps": -1}, r"goal_steps must be >= 0 or null, got -1"),
        ({"window": 3}, r"window must be in 1..2, the points of a phase, got 3"),
        ({"joint": True, "units": 164, "points": 1}, "whole steps of 8 environments at each of 2 points, a multiple of 16; got 328"),
        ({"joint": True, "only": 0}, "joint and only exclude each other"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(**options)
