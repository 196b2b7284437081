"""Many episodes of one task in lock-step, on all cores that this process may use.

`with simulation(task, positions) as batch:` gives the first observations; `batch.step(actions, active)` advances every active episode by
one step. Tasks that are observed and rewarded as arrays are stepped by threads of this process (`threads`), the others in processes of
their own (`workers`); observations and success are equal bit for bit either way, rewards to 1e-12. Numbers do not depend on how many of
them there are, because an episode starts from a remembered state and touches no other. `CLBENCH_WORKERS` sets how many; with 1 (or 0) this
thread does all.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError

from .block import CAPACITY, Array, Engine
from .cores import worker_count

Bool = NDArray[np.bool_]


class Batch:
    """Episodes of one task. `observation` (n, 39), `reward` (n,) and `success` (n,) are of the latest step of each; copy what you keep."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine, self._count = engine, count
        engine.block.reward[:count] = 0.0
        engine.block.success[:count] = False
        self.observation: Array = engine.block.observation[:count]
        self.reward: Array = engine.block.reward[:count]
        self.success: Bool = engine.block.success[:count]

    def step(self, action: Array, active: Bool) -> None:
        """Advance the episodes that `active` (n,) marks by their row of `action` (n, 4) in [-1, 1]; the others stay as they are."""
        self._engine.block.action[: self._count] = action
        self._engine.block.active[: self._count] = active
        self._engine.step()


_lock = threading.Lock()
_engines: dict[tuple[int, int, bool], Engine] = {}  # by (process, cores, whether arrays): a forked child must not talk to its parent's


def _engine(task_name: str, count: int) -> Engine:
    from .fast_env import reference_name
    from .vector_tasks import VECTOR_TASKS

    arrays = reference_name(task_name).removesuffix("-v3") in VECTOR_TASKS
    key = (os.getpid(), count, arrays)
    engine = _engines.get(key)
    if engine is None or engine.closed:
        _close(arrays)
        engine = _engines[key] = _started(count, arrays)
    return engine


def _started(count: int, arrays: bool) -> Engine:
    if arrays:
        from .threads import Threads

        return Threads(count)
    from .workers import InProcess, Pool

    return Pool(count) if count > 1 and os.name == "posix" else InProcess()


def _close(arrays: bool) -> None:
    for process, count, kind in list(_engines):
        if process == os.getpid() and kind == arrays:
            _engines.pop((process, count, kind)).close()


def close_workers() -> None:
    """End the threads and processes that this process started; the next batch starts new ones."""
    for arrays in (True, False):
        _close(arrays)


atexit.register(close_workers)


@contextmanager
def simulation(task_name: str, positions: Array) -> Iterator[Batch]:
    """Episodes of `task_name` at `positions` (n, .), at most CAPACITY, with their first observations; one batch at a time."""
    if not 1 <= len(positions) <= CAPACITY:
        raise UserError(f"{task_name}: expected 1 to {CAPACITY} episodes at once, got {len(positions)}")
    with _lock:
        engine = _engine(task_name, worker_count())
        engine.begin(task_name, np.asarray(positions, dtype=np.float64))
        yield Batch(engine, len(positions))
