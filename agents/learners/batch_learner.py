"""Learners that take batches from their experience, one update each; a method may keep them, and add rows of its own.

Shape letters: B rows, T time.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backbones import state as states
from ..backbones.scope import LASTING
from ..backbones.state import State
from .batch import Batch
from .item_learner import ItemLearner
from .learner import Hooks


class Judged(NamedTuple):
    """The loss of a batch, the memory after it, and what the backbone says of its reading."""

    loss: Tensor  # ()
    state: State
    diagnostics: dict[str, Tensor] | None = None  # of the backbone


class BatchLearner(ItemLearner):
    """A subclass says how a batch is drawn and judged."""

    @abstractmethod
    def draw(self, experience: Any) -> Batch | None:
        """The next batch; spends units. None where what was left is too little to learn from."""

    @abstractmethod
    def judge(self, batch: Batch, state: State, reset: Tensor | None) -> Judged:
        """The mean loss over the scored positions of `batch`, read from `state`."""

    def loss(self, batch: Batch) -> Tensor:
        return self.judge(batch, self._fresh_memory(batch), None).loss

    # ---- the loop

    def learn(self, experience: Any, hooks: Hooks) -> None:
        """Update until nothing remains."""
        self.networks.train()
        with self.randomness.lent():
            while experience.remaining > 0:
                batch = self.draw(experience)
                if batch is not None:
                    self.update(hooks.wrap_buffer(batch), hooks)

    def update(self, batch: Batch, hooks: Hooks) -> None:
        """One step of the optimiser; a batch in which nothing is scored only moves the memory on, as all do once weights are frozen."""
        state, reset = self._memory_for(batch)
        if batch.scored.any() and not self.frozen:
            judged = self.judge(batch, state, reset)
            self._step(judged.loss, hooks)
        else:
            with torch.no_grad():
                judged = self.judge(batch, state, reset)
            if batch.scored.any():
                self._scalars = {"loss": judged.loss}
        self._note(judged.diagnostics or {})
        self._memory = None if batch.whole else states.detach(judged.state)  # backpropagation through time ends with the batch

    # ---- memory of the backbone

    def _fresh_memory(self, batch: Batch) -> State:
        return self.networks.initial_state(len(batch.starts))  # type: ignore[operator]

    def _memory_for(self, batch: Batch) -> tuple[State, Tensor | None]:
        """The memory with which each row is read, and which rows begin anew (None: no mask is needed)."""
        starts = batch.starts
        if self.scope in LASTING:  # of what is lived through nothing begins anew; what is replayed does as it did
            starts = np.where(np.arange(len(starts)) < batch.fresh, False, starts)
        if self._memory is None or starts.all():
            return self._fresh_memory(batch), None
        memory, rows = self._memory, len(batch.starts)
        kept = min(rows, len(next(iter(memory.values()))))
        memory = states.select(memory, slice(kept))
        if kept < rows:  # replayed rows have joined; they start, so that any memory does
            fresh = states.detach(states.select(self._fresh_memory(batch), slice(kept, rows)))
            memory = states.cat([memory, {name: leaf.to(memory[name].device) for name, leaf in fresh.items()}])
        return memory, self.tensor(starts) if starts.any() else None
