"""Tasks that are observed and rewarded as arrays, stepped by threads of this process."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import native
from .block import BYTES, KEPT_TASKS, Array, Block
from .task_groups import Arrays, on_threads
from .workers import return_memory


class Threads:
    """A `block.Engine` on `count` threads; the environments of a task are kept, as many as its largest batch had."""

    def __init__(self, count: int) -> None:
        self.block = Block(bytearray(BYTES))
        self._threads = count
        self._pool = ThreadPoolExecutor(count - 1, "clbench-evaluation") if count > 1 else None
        self._kept: OrderedDict[str, Arrays] = OrderedDict()
        self._group: Arrays | None = None
        self._count = 0
        self.closed = False

    def begin(self, task_name: str, positions: Array) -> None:
        """Start an episode at each of `positions` (n, .); environments beyond them stay where they are."""
        self._count = len(positions)
        self._group = group = self._of(task_name.removesuffix("-v3"), self._count)
        for n, position in enumerate(positions):
            group.begin(n, position)
        self.block.observation[: self._count] = group.observation[: self._count]

    def _of(self, name: str, count: int) -> Arrays:
        group = self._kept.pop(name, None)
        if group is None or len(group.rows) < count:
            settling = None if group is None else group.settling
            group = Arrays(name, np.arange(count), "exact", self._threads, helper=native.available(), settling=settling)
            return_memory()
        self._kept[name] = group
        while len(self._kept) > KEPT_TASKS:
            self._kept.popitem(last=False)
        return group

    def step(self) -> None:
        """One step of every active episode."""
        group, block, count = self._group, self.block, self._count
        assert group is not None
        active = np.zeros(len(group.rows), dtype=bool)
        active[:count] = block.active[:count]
        actions = np.zeros((len(group.rows), block.action.shape[1]))
        actions[:count] = block.action[:count]
        group.prepare(actions, active)
        on_threads(self._pool, self._threads, group.simulate)
        reward, success = group.observe(actions)
        rows = np.flatnonzero(active)
        block.observation[rows], block.reward[rows], block.success[rows] = group.observation[rows], reward[rows], success[rows]

    def close(self) -> None:
        """End the threads."""
        self.closed = True
        if self._pool is not None:
            self._pool.shutdown()
