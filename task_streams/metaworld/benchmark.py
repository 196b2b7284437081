"""How much faster an evaluation is here than with what a user would pick instead: gymnasium's AsyncVectorEnv over Meta-World as it is.

    python -m clbench.task_streams.metaworld.benchmark          # or: clbench benchmark evaluation

Both evaluate the scripted expert on the same goals of each Continual World task with horizon 200, stop an episode at its success, include
resets, and use as many processes as this one may use cores. Repetitions of the two alternate, so that a busy machine slows both; medians.
Starting processes and compiling models is left out on both sides. The numbers are ratios of this machine, never results to publish.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clbench.interfaces import Policy

from .cores import worker_count
from .evaluation import evaluate
from .goals import goals

CW10 = (
    "hammer",
    "push-wall",
    "faucet-close",
    "push-back",
    "stick-pull",
    "handle-press-side",
    "push",
    "shelf-place",
    "window-close",
    "peg-unplug-side",
)
"""Continual World's ten tasks in their order (Wolczyk et al. 2021, arXiv:2105.10919)."""

REQUIREMENT = 2.0
"""The geometric mean of the ratios must not be below this."""


@dataclass(frozen=True)
class Row:
    """One task: median seconds for the whole evaluation set, and how many times faster ours is.

    `first_seconds`: ours where no start of an episode is remembered yet. `same_success`: both count the same episodes as solved.
    """

    task: str
    episodes: int
    ours_seconds: float
    first_seconds: float
    reference_seconds: float
    same_success: bool

    @property
    def ratio(self) -> float:
        """Reference over ours."""
        return self.reference_seconds / self.ours_seconds


@dataclass(frozen=True)
class Throughput:
    """All rows and the processes used on both sides."""

    rows: tuple[Row, ...]
    workers: int

    @property
    def geometric_mean(self) -> float:
        """Of the ratios of all tasks."""
        return math.exp(statistics.fmean(math.log(row.ratio) for row in self.rows))

    @property
    def fulfilled(self) -> bool:
        """Whether the requirement holds."""
        return self.geometric_mean >= REQUIREMENT and all(row.same_success for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        title = f"evaluation: clbench against gymnasium AsyncVectorEnv, {self.workers} processes each"
        table = Table(title=title)
        for heading in ("task", "n", "ours s", "first s", "gymnasium s", "faster", "same"):
            table.add_column(heading, no_wrap=True)
        for row in self.rows:
            seconds = (f"{value:.2f}" for value in (row.ours_seconds, row.first_seconds, row.reference_seconds))
            table.add_row(row.task, str(row.episodes), *seconds, f"{row.ratio:.2f}", "yes" if row.same_success else "NO")
        table.add_row("geometric mean", "", "", "", "", f"{self.geometric_mean:.2f}", f">= {REQUIREMENT:.0f}")
        return table


class PlainEpisodes(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Meta-World as it is, playing one episode after another at `positions` (n, .); when all are over it stands still."""

    def __init__(self, task_name: str, positions: NDArray[np.float64], horizon: int) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        from .fast_env import reference_name

        warnings.simplefilter("ignore")  # in its own process: gymnasium tells of casts of bounds
        self._name = reference_name(task_name)
        self._class = ALL_V3_ENVIRONMENTS[self._name]
        self._env = self._class()
        self._positions, self._horizon, self._episode, self._steps = positions, horizon, -1, 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = self._env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """The first observation of the next episode."""
        import pickle

        from metaworld import Task

        if options:
            self._episode = -1
        self._episode, self._steps = self._episode + 1, 0
        if self._episode >= len(self._positions):
            return np.zeros(39), {}
        task = {"rand_vec": self._positions[self._episode], "env_cls": self._class, "partially_observable": False}
        self._env.set_task(Task(env_name=self._name, data=pickle.dumps(task)))
        return self._env.reset()

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """One step; the episode terminates at its success."""
        if self._episode >= len(self._positions):
            return np.zeros(39), 0.0, False, False, {"success": 0.0}
        observation, reward, _, _, info = self._env.step(action)
        self._steps += 1
        return observation, float(reward), info["success"] > 0, self._steps >= self._horizon, info


class _Reference:
    """Evaluations by AsyncVectorEnv; its processes are started once."""

    def __init__(self, task_name: str, positions: NDArray[np.float64], horizon: int, workers: int) -> None:
        shares = [positions[worker::workers] for worker in range(workers)]
        self._order = np.concatenate([np.arange(len(positions))[worker::workers] for worker in range(workers)])
        self._quota = np.array([len(share) for share in shares])
        makers = [partial(PlainEpisodes, task_name, share, horizon) for share in shares]
        mode = gymnasium.vector.AutoresetMode.SAME_STEP
        self._envs = gymnasium.vector.AsyncVectorEnv(makers, context="spawn", autoreset_mode=mode)

    def evaluate(self, policy: Policy) -> NDArray[np.float64]:
        """Success (n,) of each position."""
        observation, _ = self._envs.reset(options={"again": True})
        solved: list[list[float]] = [[] for _ in self._quota]
        state = policy.initial_state(len(self._quota))
        while any(len(done) < quota for done, quota in zip(solved, self._quota, strict=True)):
            action, state = policy.act(observation.astype(np.float32), state)
            observation, _, terminated, truncated, _ = self._envs.step(action.astype(np.float32))
            for worker in np.flatnonzero(terminated | truncated):
                solved[worker].append(float(terminated[worker]))
        score = np.zeros(len(self._order))
        score[self._order] = [value for done in solved for value in done]
        return score

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


def evaluation_throughput(
    tasks: Sequence[str] = CW10, *, episodes: int = 50, horizon: int = 200, repetitions: int = 3, policy: Policy | None = None
) -> Throughput:
    """Times of evaluations of `policy` (None: each task's scripted expert) on the first `episodes` frozen goals of each task."""
    rows = [_row(task, goals(task, "evaluation")[:episodes], policy, horizon=horizon, repetitions=repetitions) for task in tasks]
    return Throughput(tuple(rows), worker_count())


def _row(task: str, positions: NDArray[np.float64], policy: Policy | None, *, horizon: int, repetitions: int) -> Row:
    from .expert import expert_policy

    policy = expert_policy(task) if policy is None else policy
    reference = _Reference(task, positions, horizon, worker_count())
    try:
        evaluate(task, goals(task, "train")[: len(positions)], policy, 1)  # starts workers, compiles models
        began = time.perf_counter()
        evaluate(task, positions, policy, horizon)
        first = time.perf_counter() - began
        ours, theirs, scores = [], [], []
        for _ in range(repetitions):
            began = time.perf_counter()
            scores.append(evaluate(task, positions, policy, horizon).score)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            scores.append(reference.evaluate(policy))
            theirs.append(time.perf_counter() - began)
    finally:
        reference.close()
    same = all(np.array_equal(scores[0], score) for score in scores[1:])
    return Row(task, len(positions), statistics.median(ours), first, statistics.median(theirs), same)


def main() -> None:
    """Measure and show."""
    result = evaluation_throughput()
    Console().print(result.table())
    raise SystemExit(0 if result.fulfilled else 1)


if __name__ == "__main__":
    main()
