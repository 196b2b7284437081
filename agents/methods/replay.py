"""Experience replay: every batch is joined by rows from a reservoir over all that was seen.

Chaudhry et al. 2019, "On tiny episodic memories in continual learning", arXiv:1902.10486, algorithm 1 with the reservoir update. With room
for everything it is Continual World's Perfect Memory. It needs no task boundaries.
Shape letters: B rows, T time, L length of the longest item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clbench import seeding
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.batch import Array, Batch, joined, padded
from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner
from .method import Method
from .reservoir import Reservoir


class Replay(Method):
    """Keeps `capacity` items (steps, episodes, examples) and adds `ratio` replayed rows for every fresh row.

    The loss is the mean over all positions, so that ratio 1 weighs past and present alike. A batch is stored after it was joined. What a
    learner keeps itself (`Batch.kept`) is offered when its task is over: until then the learner draws from it.
    """

    def __init__(self, seed: int, *, capacity: int = 5000, ratio: float = 1.0) -> None:
        super().__init__(seed)
        if ratio < 0:
            raise UserError(f"replay: ratio must be at least 0, got {ratio}")
        self.ratio = ratio
        self.memory = Reservoir(capacity, seeding.generator(seed, "reservoir"))
        self._draws = seeding.generator(seed, "replay")
        self._lanes = Lanes()

    def wrap_buffer(self, batch: Batch) -> Batch:
        number = round(self.ratio * batch.fresh)
        replayed = self._replayed(number, batch) if number and len(self.memory) else None
        self.memory.offer(batch)
        return batch if replayed is None else joined(batch, replayed)

    def _replayed(self, number: int, batch: Batch) -> Batch:
        if batch.whole:
            return self.memory.sample(number, self._draws)
        return self._lanes.window(number, batch.inputs.shape[1], self.memory, self._draws)

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        assert isinstance(learner, ItemLearner)
        self.memory.take_over(learner)

    def state_dict(self) -> dict[str, Any]:
        return {
            "memory": self.memory.state_dict(),
            "draws": self._draws.bit_generator.state,
            "lanes": [array.copy() for array in self._lanes.arrays],
            "offset": self._lanes.offset.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self._draws.bit_generator.state = state["draws"]
        self._lanes.arrays = [np.array(array) for array in state["lanes"]]
        self._lanes.offset = np.array(state["offset"], dtype=np.int64)


class Lanes:
    """Items of a reservoir, read side by side in windows, so that a memory can be carried through each of them.

    A lane holds its own copy: the reservoir may give the item's place away while it is being read.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []  # inputs (B, L, ...), targets (B, L, ...), scored (B, L)
        self.offset = np.zeros(0, dtype=np.int64)  # (B,), where each lane reads next

    def window(self, lanes: int, length: int, memory: Reservoir, draws: np.random.Generator) -> Batch:
        """The next `length` positions of each lane; a lane at its end takes a new item. Another number of lanes begins all anew."""
        if lanes != len(self.offset):
            self.arrays, self.offset = [], np.zeros(lanes, dtype=np.int64)
            starts = np.ones(lanes, dtype=bool)
        else:
            starts = np.logical_not(self._rest().any(axis=1))
        if starts.any():
            self._refill(starts, memory.sample(int(starts.sum()), draws))
        index = self.offset[:, None] + np.arange(length)  # (B, T)
        total = self.arrays[-1].shape[1]
        rows, inside = np.arange(lanes)[:, None], np.minimum(index, total - 1)
        inputs, targets, scored = (array[rows, inside] for array in self.arrays)
        self.offset = self.offset + length
        return Batch(inputs, targets, scored & (index < total), starts, False, 0)

    def _rest(self) -> Array:
        """Scored positions that are still to come, (B, L)."""
        return self.arrays[-1] & (np.arange(self.arrays[-1].shape[1]) >= self.offset[:, None])

    def _refill(self, lanes: Array, items: Batch) -> None:
        if not self.arrays:
            self.arrays = [np.zeros((len(lanes), *array.shape[1:]), dtype=array.dtype) for array in items.arrays]
        length = max(self.arrays[-1].shape[1], items.scored.shape[1])
        self.arrays = [padded(array, length) for array in self.arrays]
        for array, new in zip(self.arrays, items.arrays, strict=True):
            array[lanes] = padded(new, length)
        self.offset = np.where(lanes, 0, self.offset)
