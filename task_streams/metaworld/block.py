"""The arrays through which an evaluation and whatever steps its episodes speak."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CAPACITY = 1024
"""Most episodes in one batch."""

OBSERVATION_SIZE = 39
ACTION_SIZE = 4

BYTES = 8 * (OBSERVATION_SIZE + ACTION_SIZE + 1 + 1) * CAPACITY + 64

KEPT_TASKS = 12
"""Tasks whose environments are kept from batch to batch."""


class Block:
    """The arrays of up to CAPACITY episodes over one piece of memory of BYTES."""

    def __init__(self, memory: Any) -> None:
        self.observation = self._take(memory, 0, OBSERVATION_SIZE)  # (CAPACITY, 39)
        self.action = self._take(memory, OBSERVATION_SIZE, ACTION_SIZE)  # (CAPACITY, 4)
        self.reward = self._take(memory, OBSERVATION_SIZE + ACTION_SIZE, 1)[:, 0]  # (CAPACITY,)
        flags = np.frombuffer(memory, dtype=np.bool_, count=8 * CAPACITY, offset=8 * CAPACITY * (OBSERVATION_SIZE + ACTION_SIZE + 1))
        self.success, self.active = flags[:CAPACITY], flags[CAPACITY : 2 * CAPACITY]  # (CAPACITY,)

    @staticmethod
    def _take(memory: Any, before: int, width: int) -> Array:
        return np.frombuffer(memory, dtype=np.float64, count=CAPACITY * width, offset=8 * CAPACITY * before).reshape(CAPACITY, width)


class Engine(Protocol):
    """Where episodes are stepped."""

    block: Block

    @property
    def closed(self) -> bool:
        """Whether it can step no more."""
        ...

    def begin(self, task_name: str, positions: Array) -> None:
        """Start an episode at each of `positions` (n, .) and write its first observation into its row."""
        ...

    def step(self) -> None:
        """One step of every active episode."""
        ...

    def close(self) -> None:
        """End what was started for it."""
        ...
