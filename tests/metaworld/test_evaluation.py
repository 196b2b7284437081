"""Evaluation: the same numbers for any number of workers, the expert succeeds, random actions do not, no worker outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clbench.errors import ClbenchError, UserError
from clbench.task_streams.metaworld import simulation
from clbench.task_streams.metaworld.benchmark import CW10, evaluation_throughput
from clbench.task_streams.metaworld.evaluation import evaluate
from clbench.task_streams.metaworld.expert import RandomPolicy, expert_policy
from clbench.task_streams.metaworld.fast_env import make_env
from clbench.task_streams.metaworld.goals import goals
from clbench.task_streams.metaworld.threads import Threads
from clbench.task_streams.metaworld.workers import InProcess


@pytest.mark.parametrize("task", ["push", "reach"])  # on threads, in processes
def test_any_number_of_workers_gives_the_same_numbers(task, monkeypatch):
    positions = goals(task, "evaluation")[:5]
    results = []
    for workers in ("0", "2", "3"):
        monkeypatch.setenv("CLBENCH_WORKERS", workers)
        results.append(evaluate(task, positions, RandomPolicy(1), 30))
        results.append(evaluate(task, positions, RandomPolicy(1), 30))
    for result in results[1:]:
        assert np.array_equal(result.score, results[0].score)
        for fact in ("length", "return"):
            assert np.array_equal(result.facts[fact], results[0].facts[fact])
    assert len(set(results[0].facts["return"])) == 5


def test_lock_step_equals_one_episode_after_another():
    positions = goals("window-close", "evaluation")[:4]
    expert = expert_policy("window-close")
    result = evaluate("window-close", positions, expert, 200)
    env = make_env("window-close")
    for n, position in enumerate(positions):
        observation, total, steps = env.reset_to(position), 0.0, 0
        while steps < 200:
            action = np.clip(expert.response(observation[None].astype(np.float32))[0], -1.0, 1.0)
            observation, reward, _, _, info = env.step(action)
            total, steps = total + reward, steps + 1
            if info["success"]:
                break
        assert (result.score[n], result.facts["length"][n]) == (info["success"], steps)
        assert result.facts["return"][n] == pytest.approx(total, abs=1e-12)


def stepped(engine, task, positions, steps=60):
    """What a block says after every step of noisy experts; episode n is left alone after 11 n steps."""
    draws, expert, found = np.random.default_rng(0), expert_policy(task), []
    count, block = len(positions), engine.block
    engine.begin(task, positions)
    for step in range(steps):
        response = expert.response(block.observation[:count])
        block.action[:count] = np.clip(response + draws.normal(0, 0.3, (count, 4)), -1, 1)
        block.active[:count] = step < 11 * np.arange(1, count + 1)
        engine.step()
        found.append([array[:count].copy() for array in (block.observation, block.success, block.reward)])
    return [np.array(each) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("task", CW10)
def test_threads_and_processes_step_alike_whoever_stands_still(task):
    positions = goals(task, "evaluation")
    threads = Threads(2)
    stepped(threads, task, positions[20:27], 5)  # more of them, elsewhere
    for chosen in (positions[:4], positions[4:8], positions[:9]):
        (observation, success, reward), theirs = stepped(threads, task, chosen), stepped(InProcess(), task, chosen)
        assert np.array_equal(observation, theirs[0]) and np.array_equal(success, theirs[1])
        assert np.abs(reward - theirs[2]).max() <= 1e-12
        assert not np.array_equal(observation[10, 0], observation[9, 0]) and np.array_equal(observation[11, 0], observation[10, 0])
    threads.close()


def test_policies_see_float32_with_the_cue_and_keep_their_own_state():
    class Probe:
        def initial_state(self, batch):
            return np.zeros(batch)

        def act(self, observation, state):
            assert (observation.dtype, observation.shape) == (np.float32, (3, 41))
            assert np.array_equal(observation[:, 39:], [[0, 1]] * 3)
            seen.append((state.copy(), observation))
            return np.full((3, 4), 5.0), state + 1  # clipped to 1

    seen: list = []
    evaluate("reach", goals("reach", "evaluation")[:3], Probe(), 4, np.array([0.0, 1.0]))
    assert [state.tolist() for state, _ in seen] == [[n] * 3 for n in range(4)]
    assert not np.array_equal(seen[0][1], seen[1][1])  # arrays of their own, not one that changes


def test_episodes_that_succeeded_stand_still():
    seen: list = []

    class Watched:
        inner = expert_policy("handle-press-side")

        def initial_state(self, batch):
            return None

        def act(self, observation, state):
            seen.append(observation)
            return self.inner.act(observation, state)

    result = evaluate("handle-press-side", goals("handle-press-side", "evaluation")[:4], Watched(), 200)
    assert result.score.tolist() == [1.0] * 4
    assert len(seen) == result.facts["length"].max()
    first = int(result.facts["length"].argmin())
    steps = int(result.facts["length"][first])
    assert steps < len(seen)
    assert np.array_equal(seen[steps][first], seen[-1][first])


@pytest.mark.parametrize("task", CW10)
def test_expert_solves_continual_worlds_tasks(task):
    assert evaluate(task, goals(task, "evaluation")[:10], expert_policy(task), 500).score.mean() >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("task", CW10)
def test_expert_solves_continual_worlds_tasks_on_every_goal(task):
    positions = np.concatenate([goals(task, split) for split in ("train", "evaluation", "few-shot")])
    assert evaluate(task, positions, expert_policy(task), 500).score.mean() >= 0.9


@pytest.mark.parametrize("task", ["hammer", "push", "stick-pull", "window-close"])
def test_random_actions_solve_nothing(task):
    assert evaluate(task, goals(task, "evaluation")[:10], RandomPolicy(0), 100).score.mean() <= 0.1


def test_wrong_requests_are_refused(monkeypatch):
    positions = goals("push", "evaluation")
    with pytest.raises(UserError, match=r"horizon must be in 1..500, got 501"):
        evaluate("push", positions, RandomPolicy(0), 501)
    with pytest.raises(UserError, match="at least one goal"):
        evaluate("push", positions[:0], RandomPolicy(0), 10)
    monkeypatch.setenv("CLBENCH_WORKERS", "many")
    with pytest.raises(UserError, match="CLBENCH_WORKERS: expected a number of processes"):
        evaluate("push", positions, RandomPolicy(0), 10)


def test_an_error_in_a_worker_reaches_the_user_and_the_next_evaluation_works(monkeypatch):
    monkeypatch.setenv("CLBENCH_WORKERS", "2")
    with pytest.raises(UserError, match="expected a position vector of shape"):
        evaluate("reach", np.zeros((2, 3)), RandomPolicy(0), 10)
    assert evaluate("reach", goals("reach", "train")[:2], RandomPolicy(0), 2).facts["length"].tolist() == [2.0, 2.0]


def test_a_killed_worker_is_an_error_in_one_line_and_the_next_evaluation_works(monkeypatch):
    monkeypatch.setenv("CLBENCH_WORKERS", "2")
    positions = goals("reach", "train")[:2]

    class Murderer(RandomPolicy):
        def act(self, observation, state):
            engine = simulation._engine("reach", 2)
            os.kill(engine.pids[0], signal.SIGKILL)
            return super().act(observation, state)

    with pytest.raises(ClbenchError, match="a simulation worker ended"):
        evaluate("reach", positions, Murderer(0), 10)
    assert evaluate("reach", positions, RandomPolicy(0), 2).facts["length"].tolist() == [2.0, 2.0]


PARENT = """
import sys, time
from clbench.task_streams.metaworld import simulation
from clbench.task_streams.metaworld.evaluation import evaluate
from clbench.task_streams.metaworld.expert import RandomPolicy
from clbench.task_streams.metaworld.goals import goals

class Endless(RandomPolicy):
    def act(self, observation, state):
        if state == 2:
            sys.stdout.write(" ".join(map(str, simulation._engine("reach", 2).pids)) + "\\n")
            sys.stdout.flush()
        return super().act(observation, state)

while True:
    evaluate("reach", goals("reach", "train")[:8], Endless(0), 500)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_killed_parent_leaves_no_worker():
    environment = {**os.environ, "CLBENCH_WORKERS": "2"}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_the_benchmark_counts_the_same_successes_on_both_sides():
    result = evaluation_throughput(["window-close"], episodes=4, repetitions=1)
    (row,) = result.rows
    assert row.same_success
    assert row.ratio == row.reference_seconds / row.ours_seconds
    assert result.geometric_mean == pytest.approx(row.ratio)
    assert result.table().row_count == 2
