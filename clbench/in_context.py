"""Few examples as a text in front of each question, and no weight changes: what a predictor makes of a new task by reading alone.

Brown et al. 2020, arXiv:2005.14165 (in-context learning); spec language.md 2.8, FS-ctx. A predictor with a memory reads them into it.
Shape letters: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .experience import Text
from .interfaces import Predictor

Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]


class Behind:
    """`predictor` where each document stands behind `support` (T,), which is read first."""

    def __init__(self, predictor: Predictor, support: Integer) -> None:
        self._predictor, self._support = predictor, support

    def initial_state(self, batch: int) -> Any:
        """The state behind `support`, of each of `batch` documents."""
        state = self._predictor.initial_state(batch)
        return self._predictor.logits(np.repeat(self._support[None], batch, axis=0), state)[1]

    def logits(self, tokens: Integer, state: Any) -> tuple[Float, Any]:
        """Scores (B, T, V) of the token that follows each of tokens (B, T), and the new state after all T."""
        return self._predictor.logits(tokens, state)


def support_text(experience: Text, shots: int) -> Integer:
    """The few examples of `experience`, `shots` or (of each answer so many) all there are, one behind the other: tokens (T,)."""
    count = experience.distinct or shots
    experience.meter.grant(count)
    tokens, lengths = experience.whole(count)
    return np.concatenate([row[:length] for row, length in zip(tokens, lengths, strict=True)])
