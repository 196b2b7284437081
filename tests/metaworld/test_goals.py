"""The frozen position vectors: complete, disjoint, reproducible, accepted by their tasks."""

from __future__ import annotations

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.metaworld.fast_env import make_env, task_names
from clbench.task_streams.metaworld.goals import SPLITS, draw, goals


def test_every_task_has_every_split_and_no_vector_twice():
    assert len(task_names()) == 50
    for task in task_names():
        vectors = [goals(task, split) for split in SPLITS]
        assert [len(v) for v in vectors] == [60, 60, 40, 60]
        assert len(np.unique(np.concatenate(vectors), axis=0)) == 220, task


@pytest.mark.parametrize("task", ["push", "stick-pull", "window-close", "basketball"])
def test_drawn_again_they_are_the_same(task):
    drawn = draw(task)
    for split in SPLITS:
        assert np.array_equal(drawn[split], goals(task, split))


def test_vectors_lie_in_the_tasks_own_space():
    for task in ("push", "door-lock", "handle-press-side", "peg-unplug-side"):
        space = make_env(task)._random_reset_space
        for split in SPLITS:
            vectors = goals(task, split)
            assert np.all(vectors >= space.low)
            assert np.all(vectors <= space.high)


def test_objects_keep_their_distance_from_goals():
    for split in SPLITS:
        sticks = goals("stick-pull", split)  # rejected below 0.1 m
        assert np.linalg.norm(sticks[:, :2] - sticks[:, -3:-1], axis=1).min() >= 0.1
        pucks = goals("push", split)  # rejected below 0.15 m
        assert np.linalg.norm(pucks[:, :2] - pucks[:, -3:-1], axis=1).min() >= 0.15


def test_a_caller_cannot_change_them():
    goals("push", "train")[:] = 0.0
    assert goals("push", "train").any()


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"Unknown Meta-World task 'pusch'\. Did you mean push"):
        goals("pusch", "train")
    with pytest.raises(UserError, match=r"Unknown split 'evaluate'\. Did you mean evaluation"):
        goals("push", "evaluate")
