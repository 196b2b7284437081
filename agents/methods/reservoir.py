"""A uniform sample of all items that were ever offered, in bounded room.

Vitter 1985, "Random sampling with a reservoir", algorithm R: item n (from 0) replaces a random place j of [0, n] where j is inside the
room. An item is what begins and ends: a step, an episode, an example. Shape letters: B rows, T time, n items, L length of the longest item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError

from ..learners.batch import Array, Batch, padded, whole_items
from ..learners.item_learner import ItemLearner

Integer = NDArray[np.integer[Any]]


class Reservoir:
    """Takes items from the fresh rows of batches. Items that arrive as windows are put together; one is offered when the next begins.

    Room is taken as it is needed: places double up to `capacity`, lengths grow to the longest item.
    """

    def __init__(self, capacity: int, generator: np.random.Generator) -> None:
        if capacity < 0:
            raise UserError(f"capacity must be at least 0 items, got {capacity}")
        self.capacity, self.generator = capacity, generator
        self.clear()

    def clear(self) -> None:
        """Forget everything but the place in the random sequence."""
        self.offered, self._count = 0, 0
        self._columns: list[Array] = []  # inputs (n, L, ...), targets (n, L, ...), scored (n, L)
        self._lengths = np.zeros(0, dtype=np.int64)  # (n,)
        self._open: dict[int, list[tuple[Array, ...]]] = {}  # row: the windows of its item so far, each array (T, ...)

    def __len__(self) -> int:
        return self._count

    def offer(self, batch: Batch) -> None:
        """Offer the items that the fresh rows of `batch` hold or bring to an end; none where its learner keeps them."""
        rows = batch.fresh
        if not self.capacity or not rows or batch.kept:
            return
        arrays = tuple(array[:rows] for array in batch.arrays)
        if batch.whole:
            self._insert(arrays)
            return
        for row in range(rows):
            if batch.starts[row]:
                self._close(row)
            self._open.setdefault(row, []).append(tuple(array[row].copy() for array in arrays))

    def finish(self, learner: ItemLearner | None = None) -> None:
        """Offer what is still open, as far as it came, and what `learner` kept itself of the task that is over."""
        for row in sorted(self._open):
            self._close(row)
        if learner is not None:
            self.take_over(learner)

    def take_over(self, learner: ItemLearner) -> None:
        """Offer what `learner` kept itself of the task that is over."""
        for batch in learner.own_items():
            self.offer(batch._replace(kept=False))

    def _close(self, row: int) -> None:
        pieces = self._open.pop(row, [])
        if pieces:
            item = tuple(np.concatenate(column)[None] for column in zip(*pieces, strict=True))  # (1, L, ...)
            if item[-1].any():
                self._insert(item)

    def _insert(self, arrays: tuple[Array, ...]) -> None:
        number, length = arrays[-1].shape
        ranks = self.offered + np.arange(number)
        draws = np.floor(self.generator.random(number) * (ranks + 1)).astype(np.int64)
        places = np.where(ranks < self.capacity, ranks, draws)
        rows = np.flatnonzero(places < self.capacity)
        self.offered += number
        self._count = min(self.capacity, self.offered)
        self._make_room(arrays, self._count, length)
        places = places[rows]
        self._lengths[places] = length  # where two rows of a batch take one place, the later stands
        for column, array in zip(self._columns, arrays, strict=True):
            column[places, :length] = array[rows]
            column[places, length:] = 0

    def _make_room(self, arrays: tuple[Array, ...], items: int, length: int) -> None:
        if not self._columns:
            self._columns = [np.zeros((0, length, *array.shape[2:]), dtype=array.dtype) for array in arrays]
        if length > self._columns[0].shape[1]:
            self._columns = [padded(column, length) for column in self._columns]
        have = len(self._lengths)
        if items > have:
            more = min(self.capacity, max(items, 2 * have)) - have
            self._columns = [np.concatenate([c, np.zeros((more, *c.shape[1:]), dtype=c.dtype)]) for c in self._columns]
            self._lengths = np.concatenate([self._lengths, np.zeros(more, dtype=np.int64)])

    def items(self, index: Integer) -> Batch:
        """The items in places `index` (n,), whole, filled up to the longest of them."""
        length = int(self._lengths[index].max())
        inputs, targets, scored = (column[index, :length] for column in self._columns)
        return whole_items(inputs, targets, scored, fresh=0)

    def sample(self, number: int, generator: np.random.Generator | None = None) -> Batch:
        """`number` items, drawn independently with replacement."""
        return self.items((generator or self.generator).integers(self._count, size=number))

    def __iter__(self) -> Iterator[Batch]:
        return (self.items(np.array([place])) for place in range(self._count))

    def state_dict(self) -> dict[str, Any]:
        """A copy."""
        return {
            "generator": self.generator.bit_generator.state,
            "offered": self.offered,
            "columns": [column[: self._count].copy() for column in self._columns],
            "lengths": self._lengths[: self._count].copy(),
            "open": {row: [list(piece) for piece in pieces] for row, pieces in self._open.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self.generator.bit_generator.state = state["generator"]
        self.offered = int(state["offered"])
        self._count = len(state["lengths"])
        self._columns = [np.array(column) for column in state["columns"]]
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._open = {int(row): [tuple(np.array(array) for array in piece) for piece in pieces] for row, pieces in state["open"].items()}
