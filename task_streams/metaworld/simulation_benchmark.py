"""Environment steps a second: `VectorMetaWorld` against gymnasium's AsyncVectorEnv over Meta-World, and against the physics alone.

    clbench benchmark simulation

All play the same actions, recorded from each task's scripted expert with noise, so that the same contacts are solved: 64 environments here,
as many processes there as this one may use cores, and as many threads. Whole episodes of 200 steps, resets included; starting processes,
compiling models and the first visit of a position are left out on both sides. The physics alone is `mj_step` on the same threads and
nothing else: no sixth forward pass, no observation, no reward. Repetitions alternate; rates are medians, and ratios of this machine.

Where `envpool` is installed (`pip install envpool`, 0.8 GB; no dependency of ours) it is a fifth: the same number of environments on the
same threads, its own positions, which cannot be given to it, so that the same actions meet other contacts, and Meta-World 3.0.0's physics.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from . import native
from .benchmark import CW10, PlainEpisodes
from .cores import cores
from .expert import expert_policy
from .fast_env import ACTION_SIZE, PHYSICS, Shared, make_env
from .goals import goals
from .task_groups import SUBSTEPS, Arrays
from .vector_env import VectorMetaWorld

Array = NDArray[np.float64]

HORIZON, ENVIRONMENTS, NOISE = 200, 64, 0.1
FASTER, SHARE, HELPED = 2.5, 0.6, 0.75
"""What the geometric means of exact mode must reach: over gymnasium, of the physics in Python, of the physics with the compiled helper."""


@dataclass(frozen=True)
class Row:
    """One task: environment steps a second."""

    task: str
    exact: float
    fast: float
    reference: float
    physics: float
    envpool: float | None = None  # where it is installed
    helped: float | None = None  # exact, where the compiled helper was built


@dataclass(frozen=True)
class Simulation:
    """All tasks."""

    rows: tuple[Row, ...]
    cores: int

    def mean(self, ratio: Callable[[Row], float]) -> float:
        """The geometric mean over tasks."""
        return _geometric(ratio(row) for row in self.rows)

    @property
    def fulfilled(self) -> bool:
        """Whether all requirements hold, that of the compiled helper where it was built."""
        helped = self.measured(lambda row: row.helped, lambda row: row.physics)
        plain = self.mean(lambda row: row.exact / row.reference) >= FASTER and self.mean(lambda row: row.exact / row.physics) >= SHARE
        return plain and (not helped or _geometric(helped.values()) >= HELPED)

    def measured(self, above: Callable[[Row], float | None], below: Callable[[Row], float | None]) -> dict[str, float]:
        """A ratio by task, of those that have both."""
        pairs = {row.task: (above(row), below(row)) for row in self.rows}
        return {task: a / b for task, (a, b) in pairs.items() if a is not None and b is not None}

    def table(self) -> Table:
        """For a terminal."""
        title = f"simulation: {ENVIRONMENTS} environments on {self.cores} threads, {self.cores} processes of gymnasium AsyncVectorEnv"
        table = Table(title=title)
        for heading in (
            "task",
            "exact/s",
            "fast/s",
            "gymnasium/s",
            "physics/s",
            "exact, faster",
            "of physics",
            "fast, faster",
            "of physics ",
        ):
            table.add_column(heading, justify="left" if heading == "task" else "right", no_wrap=True)
        for row in self.rows:
            rates = (f"{value:,.0f}" for value in (row.exact, row.fast, row.reference, row.physics))
            shares = (f"{value:.2f}" for value in self._ratios(row))
            table.add_row(row.task, *rates, *shares)
        captions = [
            f"{said}: {_geometric(found.values()):.2f} (" + ", ".join(f"{task} {value:.2f}" for task, value in found.items()) + ")"
            for said, found in (
                (
                    f"with the helper, of physics (at least {HELPED})",
                    self.measured(lambda row: row.helped, lambda row: row.physics),
                ),
                ("with the helper, over gymnasium", self.measured(lambda row: row.helped, lambda row: row.reference)),
                ("exact over envpool, which draws its own positions", self.measured(lambda row: row.exact, lambda row: row.envpool)),
                ("with the helper, over envpool", self.measured(lambda row: row.helped, lambda row: row.envpool)),
            )
            if found
        ]
        table.caption = "\n".join(captions) or None
        means = [self.mean(lambda row, n=n: self._ratios(row)[n]) for n in range(4)]
        table.add_row("geometric mean", "", "", "", "", *(f"{value:.2f}" for value in means))
        table.add_row("at least", "", "", "", "", f"{FASTER:.2f}", f"{SHARE:.2f}", "", "")
        return table

    @staticmethod
    def _ratios(row: Row) -> tuple[float, float, float, float]:
        return row.exact / row.reference, row.exact / row.physics, row.fast / row.reference, row.fast / row.physics


def _geometric(ratios: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


class Endless(PlainEpisodes):
    """Meta-World as it is, one whole episode after another, from the first position again after the last."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """The first observation of the next episode."""
        if self._episode + 1 >= len(self._positions):
            self._episode = -1
        return super().reset(seed=seed)

    def step(self, action: NDArray[np.float32]) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One step; success ends nothing."""
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


def recorded(task: str, positions: Array) -> NDArray[np.float32]:
    """What the scripted expert does with noise from each of positions (P, .): actions (P, 200, 4)."""
    shared, policy, draws = Shared(), expert_policy(task), np.random.default_rng(0)
    tape = np.empty((len(positions), HORIZON, ACTION_SIZE), dtype=np.float32)
    env = make_env(task, shared)
    for actions, position in zip(tape, positions, strict=True):
        observation, state = env.reset_to(position), policy.initial_state(1)
        for step in range(HORIZON):
            action, state = policy.act(observation[None].astype(np.float32), state)
            actions[step] = np.clip(action[0] + draws.normal(size=ACTION_SIZE, scale=NOISE), -1, 1)
            observation = env.step(actions[step])[0]
    return tape


def simulation(
    tasks: Sequence[str] = CW10,
    *,
    environments: int = ENVIRONMENTS,
    episodes: int = 1,
    repetitions: int = 3,
    say: Callable[[str], None] = lambda _: None,
) -> Simulation:
    """Rates of `episodes` whole episodes of each environment, on each of `tasks`; `say` hears which are done."""
    rows: list[Row] = []
    for task in tasks:
        rows.append(_row(task, cores(), environments, episodes, repetitions))
        say(f"{len(rows)} of {len(tasks)}  {task}: {rows[-1].exact:,.0f} steps a second, {rows[-1].physics:,.0f} the physics alone")
    return Simulation(tuple(rows), cores())


def _row(task: str, threads: int, environments: int, episodes: int, repetitions: int) -> Row:
    positions = goals(task, "train")
    tape = recorded(task, positions)
    contestants: dict[str, Callable[[], float]] = {}
    vectors = {
        mode: VectorMetaWorld(task, environments, horizon=HORIZON, mode=mode, threads=threads, helper="off") for mode in ("exact", "fast")
    }
    if native.available():
        vectors["helped"] = VectorMetaWorld(task, environments, horizon=HORIZON, threads=threads)
    for mode, vector in vectors.items():
        for first in range(0, len(positions), environments):  # every position once, so that all are remembered
            vector.reset(options={"positions": (first + np.arange(environments)) % len(positions)})
        contestants[mode] = partial(_ours, vector, tape, episodes)
    makers = [partial(Endless, task, positions[worker::threads], HORIZON) for worker in range(threads)]
    reference = gymnasium.vector.AsyncVectorEnv(makers, context="spawn", autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    contestants["reference"] = partial(_reference, reference, [tape[worker::threads] for worker in range(threads)], episodes)
    pool = ThreadPoolExecutor(threads)
    contestants["physics"] = partial(_physics, vectors["exact"], tape, pool, episodes)
    pooled = _envpool(task, environments, threads)
    if pooled is not None:
        contestants["envpool"] = partial(_pooled, pooled, np.resize(tape, (environments, *tape.shape[1:])), episodes)
    try:
        rates = {name: [run()] for name, run in contestants.items()}  # the first is for warming up
        for _ in range(repetitions):
            for name, run in contestants.items():
                rates[name].append(run())
    finally:
        reference.close()
        pool.shutdown()
        for vector in vectors.values():
            vector.close()
    return Row(task, **{name: statistics.median(found[1:]) for name, found in rates.items()})


def _ours(vector: VectorMetaWorld, tape: NDArray[np.float32], episodes: int) -> float:
    began = time.perf_counter()
    _, info = vector.reset()
    for _ in range(episodes):
        actions = tape[info["position"]]  # (B, 200, 4)
        for step in range(HORIZON):
            _, _, _, _, info = vector.step(actions[:, step])
    return vector.num_envs * episodes * HORIZON / (time.perf_counter() - began)


def _reference(envs: gymnasium.vector.AsyncVectorEnv, tapes: Sequence[NDArray[np.float32]], episodes: int) -> float:
    began = time.perf_counter()
    envs.reset()
    for _ in range(episodes):
        for step in range(HORIZON):
            envs.step(np.stack([tape[0, step] for tape in tapes]))
    return len(tapes) * episodes * HORIZON / (time.perf_counter() - began)


def _envpool(task: str, environments: int, threads: int) -> Any:
    """EnvPool's environments of `task`; None where it is not installed."""
    try:
        import envpool  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    name = f"MetaWorld/{task.replace('-', ' ').title().replace(' ', '')}-v3"
    return envpool.make_gymnasium(
        name, num_envs=environments, num_threads=threads, max_episode_steps=HORIZON, partially_observable=False, seed=0
    )


def _pooled(envs: Any, tape: NDArray[np.float32], episodes: int) -> float:
    """An episode of 200 steps, and the call in which it begins the next one."""
    began = time.perf_counter()
    envs.reset()
    for episode in range(episodes):
        for step in range(HORIZON):
            envs.step(tape[:, step])
        if episode + 1 < episodes:
            envs.step(tape[:, 0])
    return len(tape) * episodes * HORIZON / (time.perf_counter() - began)


def _physics(vector: VectorMetaWorld, tape: NDArray[np.float32], pool: ThreadPoolExecutor, episodes: int) -> float:
    """`mj_step` alone, from the beginnings and with the actions of the others."""
    group = vector._groups[0]
    assert isinstance(group, Arrays)
    taken = 0.0
    for _ in range(episodes):
        _, info = vector.reset()
        moves = np.empty((vector.num_envs, HORIZON, 3))
        grips = np.empty((vector.num_envs, HORIZON, 2))
        for step in range(HORIZON):
            group.prepare(tape[info["position"], step])
            moves[:, step], grips[:, step] = group._mocap, group._grip
        began = time.perf_counter()
        list(pool.map(partial(_play, group, moves, grips), range(len(group._models))))
        taken += time.perf_counter() - began
    return vector.num_envs * episodes * HORIZON / taken


def _play(group: Arrays, moves: Array, grips: Array, thread: int) -> None:
    model, data, (body_pos, site_pos, hand, control) = group._models[thread], group._data[thread], group._views[thread]
    for n in range(thread, len(moves), len(group._models)):
        beginning = group._open[n]
        assert beginning is not None
        body_pos[:], site_pos[:] = beginning.body_pos, beginning.site_pos
        mujoco.mj_setState(model, data, beginning.physics, PHYSICS)
        for move, grip in zip(moves[n], grips[n], strict=True):
            hand[0], control[:] = move, grip
            mujoco.mj_step(model, data, SUBSTEPS)
