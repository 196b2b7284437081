"""Cloning of its own past: on inputs of earlier tasks the networks are held to what they said when those tasks were over.

Behavioural cloning as in ClonEx-SAC (Wolczyk et al. 2022, arXiv:2209.13900, section 5.1): penalty = strength * KL(then || now), of the
actor's distributions there; of the predicted tokens or the Gaussian actions for other learners, where it is the memory-based form of
learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282; Buzzega et al. 2020, arXiv:2004.07211).

Departures: the penalty is added to the loss, where the published code averages two gradients, each clipped or not; a finished task leaves
a uniform sample without replacement. Without task boundaries nothing is ever kept, and this is fine-tuning.
Shape letters: n items, L length of the longest, K numbers that name a distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench import seeding
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.batch import Array, Batch, padded, whole_items
from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner
from .method import Method
from .reservoir import Reservoir

AT_ONCE = 256  # items that are answered together


class Cloning(Method):
    """Keeps `capacity` items of each finished task with their answers; a penalty looks at `batch_size` of all, drawn with replacement."""

    changes_batches = False

    def __init__(self, seed: int, *, strength: float = 1.0, capacity: int = 500, batch_size: int = 128) -> None:
        super().__init__(seed)
        if strength < 0 or batch_size < 1:
            raise UserError(f"cloning: strength must be at least 0 and batch_size at least 1, got {strength} and {batch_size}")
        self.strength, self.capacity, self.batch_size = strength, capacity, batch_size
        self.past: list[Array] = []  # inputs (n, L, ...), targets (n, L, ...), scored (n, L), answers (n, L, K); empty before the first
        self._present = Reservoir(capacity, seeding.generator(seed, "reservoir"))
        self._draws = seeding.generator(seed, "cloning")

    def wrap_buffer(self, batch: Batch) -> Batch:
        self._present.offer(batch)
        return batch

    def penalty(self, learner: Learner) -> Tensor | None:
        if not self.past or self.strength == 0:
            return None
        assert isinstance(learner, ItemLearner)
        index = self._draws.integers(len(self.past[0]), size=self.batch_size)
        inputs, targets, scored, answers = (array[index] for array in self.past)
        return self.strength * learner.divergence(learner.tensor(answers), whole_items(inputs, targets, scored, fresh=0))

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        assert isinstance(learner, ItemLearner)
        self._present.finish(learner)
        if len(self._present):
            new = self._answered(learner)
            if self.past:
                length = max(self.past[0].shape[1], new[0].shape[1])
                new = [np.concatenate([padded(old, length), padded(fresh, length)]) for old, fresh in zip(self.past, new, strict=True)]
            self.past = new
        self._present.clear()

    def _answered(self, learner: ItemLearner) -> list[Array]:
        learner.networks.eval()
        whole = self._present.items(np.arange(len(self._present)))
        answers = []
        with torch.no_grad():
            for begin in range(0, len(whole.inputs), AT_ONCE):
                inputs, targets, scored = (array[begin : begin + AT_ONCE] for array in whole.arrays)
                answers.append(learner.answers(whole_items(inputs, targets, scored, fresh=0)).float().cpu().numpy())
        return [*whole.arrays, np.concatenate(answers)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "past": [array.copy() for array in self.past],
            "present": self._present.state_dict(),
            "draws": self._draws.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.past = [np.array(array) for array in state["past"]]
        self._present.load_state_dict(state["present"])
        self._draws.bit_generator.state = state["draws"]
