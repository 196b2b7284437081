"""What a learner learns from in one update: rows of stretches, as numpy, drawn from the experience or replayed.

A step is a stretch of length one. Shape letters: B rows, T time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Array = NDArray[Any]


class Batch(NamedTuple):
    """B stretches. Rows [0, fresh) come from the experience, the others were replayed.

    `whole`: every row is an item from its beginning to its end, so that no memory is carried to the next batch. Otherwise row b goes
    on with what row b of the batch before was, except where it `starts`.
    `kept`: the learner keeps the fresh rows itself and shows all of them when the task is over, so that nobody else need store them.
    """

    inputs: Array  # (B, T, ...)
    targets: Array  # (B, T, ...)
    scored: Bool  # (B, T), positions that enter the loss
    starts: Bool  # (B,), an item begins at the first position
    whole: bool
    fresh: int
    kept: bool = False

    @property
    def arrays(self) -> tuple[Array, Array, Bool]:
        """What an item is made of, for those who store it."""
        return self.inputs, self.targets, self.scored


def whole_items(inputs: Array, targets: Array, scored: Bool, *, fresh: int | None = None) -> Batch:
    """A batch in which every row is a whole item."""
    return Batch(inputs, targets, scored, np.ones(len(inputs), dtype=bool), True, len(inputs) if fresh is None else fresh)


def padded(array: Array, length: int) -> Array:
    """`array` (B, T, ...) filled up with zeros to (B, length, ...)."""
    missing = length - array.shape[1]
    return np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]) if missing > 0 else array


def joined(first: Batch, second: Batch) -> Batch:
    """The rows of both, those of `first` in front; the shorter stretches are filled up with positions that are not scored."""
    length = max(first.inputs.shape[1], second.inputs.shape[1])
    pairs = zip(first.arrays, second.arrays, strict=True)
    inputs, targets, scored = (np.concatenate([padded(a, length), padded(b, length)]) for a, b in pairs)
    return Batch(inputs, targets, scored, np.concatenate([first.starts, second.starts]), first.whole, first.fresh, first.kept)
