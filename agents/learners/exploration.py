"""How a new task is explored before anything is learned of it: by heads of earlier tasks, each tried, and the best one followed.

"Best-return exploration" of ClonEx-SAC (Wolczyk et al. 2022, arXiv:2209.13900, section 5.2): every old head plays an episode of the new
task, then the one of the highest mean return acts for the rest of the random steps. Here in many environments at once: where there are
more of them than heads, a head is tried in several, and an environment whose trials are over repeats its last head until all have ended.
Shape letters: B environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]
Bool = NDArray[np.bool_]


class BestReturn:
    """Says which of `heads` acts in each of `environments`, and hears what came of it."""

    def __init__(self, heads: Sequence[int], environments: int) -> None:
        self.heads = [int(head) for head in heads]
        count = len(self.heads)
        mine = [self.heads[row::environments] if environments < count else [self.heads[row % count]] for row in range(environments)]
        rounds = max(len(queue) for queue in mine)
        self._trials = np.array([queue + [-1] * (rounds - len(queue)) for queue in mine])  # (B, rounds), -1: none
        self._round = np.zeros(environments, dtype=np.int64)  # (B,), of the trial that is open; `rounds` and beyond: over
        self._return = np.zeros(environments)  # (B,), of the open episode
        self._sums, self._counts = np.zeros(count), np.zeros(count)
        self.best: int | None = None

    def playing(self) -> Integer:
        """The head (B,) that acts in each environment."""
        rows, rounds = np.arange(len(self._round)), self._trials.shape[1]
        if self.best is not None:
            return np.full(len(rows), self.best)
        last = (self._trials >= 0).sum(axis=1) - 1
        return self._trials[rows, np.minimum(np.minimum(self._round, last), rounds - 1)]

    def hear(self, reward: Float, over: Bool) -> None:
        """What the last step brought (B,), and where an episode ended with it (B,)."""
        if self.best is not None:
            return
        self._return += reward
        numbers = {head: number for number, head in enumerate(self.heads)}
        for row in np.flatnonzero(over):
            if self._open(row):
                number = numbers[int(self._trials[row, self._round[row]])]
                self._sums[number] += self._return[row]
                self._counts[number] += 1
                self._round[row] += 1
            self._return[row] = 0.0
        if not any(self._open(row) for row in range(len(self._round))):
            self.best = self.heads[int(np.argmax(self._sums / np.maximum(self._counts, 1)))]

    def _open(self, row: int) -> bool:
        return self._round[row] < self._trials.shape[1] and self._trials[row, self._round[row]] >= 0

    def state_dict(self) -> dict[str, Any]:
        """A copy."""
        arrays = {"round": self._round, "return": self._return, "sums": self._sums, "counts": self._counts}
        return {"heads": list(self.heads), "best": self.best, **{name: array.copy() for name, array in arrays.items()}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> BestReturn:
        """The one that `state` was taken from."""
        made = cls(state["heads"], len(state["round"]))
        made.best = None if state["best"] is None else int(state["best"])
        made._round, made._return = np.array(state["round"]), np.array(state["return"])
        made._sums, made._counts = np.array(state["sums"]), np.array(state["counts"])
        return made
