"""Demonstrations succeed, carry the expert's clean answers, do not depend on how many are asked for, and survive a broken cache."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.metaworld import cache
from clbench.task_streams.metaworld import demonstrations as module
from clbench.task_streams.metaworld.demonstrations import demonstrations
from clbench.task_streams.metaworld.expert import expert_policy
from clbench.task_streams.metaworld.fast_env import make_env
from clbench.task_streams.metaworld.goals import goals


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path))
    return tmp_path


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x[0], y[0]) and np.array_equal(x[1], y[1]) for x, y in zip(a, b, strict=True))


def test_noiseless_demonstrations_replay_to_a_success_five_steps_before_their_end():
    env = make_env("window-close")
    for observations, actions in demonstrations("window-close", 3, 3, noise=0.0):
        begins = [p for p in goals("window-close", "train") if np.array_equal(env.reset_to(p).astype(np.float32), observations[0])]
        assert len(begins) == 1
        env.reset_to(begins[0])
        success = []
        for n, action in enumerate(actions):
            observation, _, _, _, info = env.step(action.astype(np.float64))
            success.append(info["success"] > 0)
            if n + 1 < len(observations):
                assert np.array_equal(observation.astype(np.float32), observations[n + 1])
        assert success.index(True) == len(actions) - 1 - module.STEPS_AFTER_SUCCESS


def test_labels_are_the_experts_clean_answers_at_noisy_states():
    expert = expert_policy("push")
    clean, noisy = demonstrations("push", 0, 3, noise=0.0), demonstrations("push", 0, 3, noise=0.3)
    assert not equal(clean, noisy)
    for observations, actions in noisy:
        assert observations.dtype == actions.dtype == np.float32
        assert (observations.shape[1], actions.shape[1]) == (39, 4)
        assert np.abs(actions).max() <= 1.0
        # The expert saw float64 and multiplies errors of position by 10: 1e-7 of rounding may grow, a branch may flip at a threshold.
        agree = np.isclose(expert.act(observations, None)[0], actions, atol=1e-4).all(axis=1)
        assert agree.mean() > 0.95


def test_a_smaller_count_is_a_prefix_of_a_larger_one(folder):
    three = demonstrations("reach", 5, 3)
    five = demonstrations("reach", 5, 5)  # goes on from the three that are kept
    for file in folder.rglob("*.npz"):
        file.unlink()
    assert equal(five, demonstrations("reach", 5, 5))
    assert equal(three, five[:3])
    assert not equal(three, demonstrations("reach", 6, 3))
    assert not equal(three, demonstrations("reach", 5, 3, split="few-shot"))


def test_failures_are_replaced_by_successes():
    # push-back's expert needs more than 200 steps on a third of the goals, so some numbers need other goals.
    episodes = demonstrations("push-back", 1, 12)
    assert len(episodes) == 12
    assert all(len(actions) <= 200 for _, actions in episodes)


def test_an_expert_that_cannot_succeed_is_an_error():
    with pytest.raises(UserError, match=r"failed 45 times to give demonstration 0 with noise 0\.1 within 2 steps"):
        demonstrations("stick-pull", 0, 1, horizon=2)


def test_kept_demonstrations_are_read_and_not_made_again(folder, monkeypatch):
    made = demonstrations("reach", 0, 2)
    assert len(list(folder.rglob("*.npz"))) == 1
    assert not list(folder.rglob("*.tmp"))
    monkeypatch.setattr(module, "_play", lambda *_: pytest.fail("made again"))
    assert equal(made, demonstrations("reach", 0, 2))


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:200] + b"\xff" * 64 + b[264:], lambda b: b"PK" * 99]
)
def test_a_broken_file_is_made_anew(folder, damage):
    made = demonstrations("reach", 0, 2)
    (file,) = folder.rglob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert equal(made, demonstrations("reach", 0, 2))
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("CLBENCH_CACHE", str(blocked))
    cache._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        first = demonstrations("reach", 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(first, demonstrations("reach", 0, 1))


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("CLBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "clbench"


def test_the_door_experts_leave_observations_alone():
    # Meta-World's own write into what they are given.
    for task in ("door-lock", "door-unlock"):
        observation = make_env(task).reset_to(goals(task, "train")[0])[None]
        seen = observation.copy()
        expert_policy(task).act(observation, None)
        assert np.array_equal(observation, seen)
