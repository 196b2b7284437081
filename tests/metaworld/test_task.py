"""MetaWorldTask keeps the contract of clbench.interfaces.Task."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from clbench import configuration
from clbench.errors import UserError
from clbench.interfaces import TaskInfo
from clbench.task_streams.metaworld.goals import goals
from clbench.task_streams.metaworld.task import MetaWorldTask


def cued(name: str, index: int = 1, **options) -> MetaWorldTask:
    return MetaWorldTask(name, TaskInfo(index, 3, "demonstrations", 42, 4), cue=True, **options)


def test_cued_demonstrations_carry_the_one_hot():
    experience = cued("reach", demonstrations=4).experience(0)
    assert experience.num_episodes == 4
    experience.meter.grant(50)
    observations, actions = experience.steps(50)
    assert (observations.shape, actions.shape) == ((50, 42), (50, 4))
    assert np.array_equal(observations[:, 39:], [[0, 1, 0]] * 50)


def test_hidden_identity_adds_nothing():
    task = MetaWorldTask("reach", TaskInfo(None, 1, "demonstrations", 39, 4), cue=False, demonstrations=2, episodes=2)
    experience = task.experience(0)
    experience.meter.grant(5)
    assert experience.steps(5)[0].shape == (5, 39)
    assert task.evaluate(task.expert(), 0).score.shape == (2,)


def test_shots_are_nested_and_come_from_goals_of_their_own():
    task = cued("reach", demonstrations=5)

    def episodes(**options):
        return task.experience(7, **options)._episodes

    one, five, twelve = (episodes(shots=shots) for shots in (1, 5, 12))
    assert [len(e) for e in (one, five, twelve)] == [1, 5, 12]
    for small, large in ((one, five), (five, twelve)):
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(small, large, strict=False))
    # reach shows its goal in entries 36..38: the last three numbers of the position vector.
    shown = {tuple(e[0][0, 36:39]) for e in twelve}
    assert shown <= {tuple(g) for g in goals("reach", "few-shot")[:, -3:].astype(np.float32)}
    assert {tuple(e[0][0, 36:39]) for e in episodes()} <= {tuple(g) for g in goals("reach", "train")[:, -3:].astype(np.float32)}


def test_seeds_give_other_demonstrations_and_the_same_evaluation():
    task = cued("reach", demonstrations=2, episodes=3)
    first, second = (task.experience(seed)._episodes[0][0] for seed in (0, 1))
    assert not np.array_equal(first[:10], second[:10])
    returns = [task.evaluate(task.random(), seed).facts["return"] for seed in (0, 1)]
    assert np.array_equal(*returns)


def test_expert_and_random_bracket_the_scale():
    task = cued("window-close", episodes=5)
    assert task.scale == (0.0, 1.0)
    assert task.evaluate(task.expert(), 0).score.tolist() == [1.0] * 5
    assert task.evaluate(task.random(), 0).score.tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("info", "options", "message"),
    [
        (TaskInfo(0, 3, "demonstrations", 39, 4), {}, r"expected input and output sizes \(42, 4\).*got \(39, 4\)"),
        (TaskInfo(None, 3, "demonstrations", 42, 4), {}, "needs the number of the task"),
        (TaskInfo(0, 3, "demonstrations", 42, 4), {"episodes": 61}, r"episodes must be in 1..60, got 61"),
        (TaskInfo(0, 3, "demonstrations", 42, 4), {"demonstrations": 0}, "demonstrations must be > 0, got 0"),
    ],
)
def test_wrong_arguments_are_refused(info, options, message):
    with pytest.raises(UserError, match=message):
        MetaWorldTask("reach", info, cue=True, **options)


def test_zero_shots_need_no_experience():
    with pytest.raises(UserError, match="K = 0 needs no experience"):
        cued("reach").experience(0, shots=0)


def test_the_package_and_the_task_import_no_simulator():
    code = (
        "import sys, clbench.task_streams.metaworld, clbench.task_streams.metaworld.task; "
        "sys.exit(any(name in sys.modules for name in ('mujoco', 'metaworld', 'torch', 'gymnasium')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tuning_is_scored_on_goals_that_no_table_uses():
    table, tuning = cued("reach", episodes=60), cued("reach", episodes=60, scored_on="validation")
    assert not {tuple(g) for g in table._goals} & {tuple(g) for g in tuning._goals}
    assert np.array_equal(tuning._goals, goals("reach", "validation"))
    assert np.array_equal(table.experience(0)._episodes[0][0], tuning.experience(0)._episodes[0][0])


def test_the_validation_variant_has_a_name_and_evaluation_seeds_of_its_own():
    table, tuning = (configuration.stream_named("mw3-demo", "smoke", {"validation": on}) for on in (False, True))
    assert (table.name, tuning.name) == ("mw3-demo", "mw3-demo-validation")
    assert table.seed("evaluation", table.tasks[0]) != tuning.seed("evaluation", tuning.tasks[0])
    assert table.hash() != tuning.hash()


def masked(name, goal_steps):
    info = TaskInfo(0, 2, "demonstrations", 41, 4)
    return MetaWorldTask(name, info, demonstrations=3, horizon=150, episodes=4, cue=True, goal_steps=goal_steps)


@pytest.mark.parametrize("goal_steps", [0, 1, 5])
def test_a_masked_goal_is_shown_in_the_first_steps_only_and_nothing_else_changes(goal_steps):
    open_, closed = masked("reach", None).experience(0), masked("reach", goal_steps).experience(0)
    for lived in (open_, closed):
        lived.meter.grant(200)
    (seen, actions, _), (hidden, same, _) = open_.windows(2, 20), closed.windows(2, 20)
    assert np.array_equal(actions, same)  # the expert saw the goal
    assert np.array_equal(np.delete(seen, [36, 37, 38], axis=2), np.delete(hidden, [36, 37, 38], axis=2))
    assert np.array_equal(seen[:, :goal_steps], hidden[:, :goal_steps])
    assert seen[:, :, 36:39].any(axis=2).all()
    assert not hidden[:, goal_steps:, 36:39].any()


def test_a_masked_goal_must_be_remembered():
    """The expert reads the goal at every step; one that keeps the goal of the first step does as well as where it is always shown."""

    class Remembers:
        def initial_state(self, batch):
            return None

        def act(self, observation, state):
            goal = observation[:, 36:39].copy() if state is None else state
            recalled = observation.copy()
            recalled[:, 36:39] = goal
            return expert.act(recalled, None)[0], goal

    task, expert = masked("reach", 1), masked("reach", 1).expert()
    assert masked("reach", None).evaluate(expert, 0).score.mean() == 1.0
    assert task.evaluate(expert, 0).score.mean() == 0.0
    remembered, shown = task.evaluate(Remembers(), 0), masked("reach", None).evaluate(expert, 0)
    assert np.array_equal(remembered.facts["return"], shown.facts["return"])
    assert masked("reach", 0).evaluate(Remembers(), 0).score.mean() == 0.0


@pytest.mark.parametrize(
    ("options", "name", "goal_visible"),
    [
        ({}, "mw3-demo", True),
        ({"goal_steps": 1}, "mw3-demo-masked", 1),
        ({"goal_steps": 0, "identity": "hidden"}, "mw3-demo-masked-hidden", 0),
    ],
)
def test_a_stream_with_a_masked_goal_has_a_name_of_its_own(options, name, goal_visible):
    stream = configuration.stream_named("mw3-demo", "smoke", options)
    assert stream.name == name
    assert stream.options["goal_visible"] == goal_visible
    assert configuration.stream_named("mw3-masked", "smoke").name == "mw3-masked"


def test_the_stream_in_which_the_goal_decides_has_a_twin_in_which_it_is_seen():
    hidden, seen = (configuration.stream_named(name, "smoke") for name in ("mw3-goal-masked", "mw3-goal"))
    assert [task.name for task in hidden.tasks] == [task.name for task in seen.tasks] == ["reach", "pick-place", "push"]
    told = [{key: repr(value) for key, value in stream.options.items()} for stream in (hidden, seen)]  # 1 == True
    assert {key: (told[0][key], told[1][key]) for key in told[0] if told[0][key] != told[1][key]} == {"goal_visible": ("1", "True")}
    assert hidden.hash() != seen.hash()
    assert configuration.stream_named("mw3-goal", "smoke", {"goal_steps": 1}).hash() == hidden.hash()
