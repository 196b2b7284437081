"""A-GEM: a step may not raise the loss on what is kept of past tasks, to first order.

Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", arXiv:1812.00420, equation 11:

    g~ = g - (g . g_ref / g_ref . g_ref) g_ref    where g . g_ref < 0, else g

As in Continual World (Wolczyk et al. 2021), a uniform sample of each finished task is kept and drawn from with replacement. Without task
boundaries no task is ever finished, nothing is kept, and this is fine-tuning.
Shape letters: B rows.
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

from ..learners.batch import Batch, joined
from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner
from .method import Method
from .reservoir import Reservoir


class AGEM(Method):
    """Keeps `capacity` items of each finished task; the reference gradient is that of `batch_size` of them. Each task is equally likely."""

    changes_batches = False

    def __init__(self, seed: int, *, capacity: int = 500, batch_size: int = 128) -> None:
        super().__init__(seed)
        if batch_size < 1:
            raise UserError(f"a-gem: batch_size must be at least 1, got {batch_size}")
        self.capacity, self.batch_size = capacity, batch_size
        self.past: list[Reservoir] = []
        self._admissions = seeding.generator(seed, "reservoir")  # one for all reservoirs, of which one at a time admits
        self._present = Reservoir(capacity, self._admissions)
        self._draws = seeding.generator(seed, "reference")

    def wrap_buffer(self, batch: Batch) -> Batch:
        self._present.offer(batch)
        return batch

    def adjust_gradients(self, learner: Learner) -> None:
        if not self.past:
            return
        assert isinstance(learner, ItemLearner)
        parameters = learner.constrained
        loss = learner.loss(self._reference())
        reference = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        project([parameter.grad for parameter in parameters if parameter.grad is not None], reference)

    def _reference(self) -> Batch:
        """`batch_size` items of past tasks."""
        tasks = np.bincount(self._draws.integers(len(self.past), size=self.batch_size), minlength=len(self.past))
        drawn = [past.sample(int(number), self._draws) for past, number in zip(self.past, tasks, strict=True) if number]
        batch = drawn[0]
        for other in drawn[1:]:
            batch = joined(batch, other)
        return batch

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        assert isinstance(learner, ItemLearner)
        self._present.finish(learner)
        if len(self._present):
            self.past.append(self._present)
            self._present = Reservoir(self.capacity, self._admissions)

    def state_dict(self) -> dict[str, Any]:
        return {
            "past": [reservoir.state_dict() for reservoir in self.past],
            "present": self._present.state_dict(),
            "draws": self._draws.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.past = [Reservoir(self.capacity, self._admissions) for _ in state["past"]]
        self._present = Reservoir(self.capacity, self._admissions)
        for reservoir, kept in zip([*self.past, self._present], [*state["past"], state["present"]], strict=True):
            reservoir.load_state_dict(kept)
        self._draws.bit_generator.state = state["draws"]


def project(gradients: list[Tensor], reference: tuple[Tensor, ...] | list[Tensor]) -> None:
    """Take out of `gradients`, in place, what points against `reference`.

    The factor is clamped instead of compared, so that the host does not wait for the device: 0 times the reference leaves them as they are.
    """
    along = sum(torch.dot(g.flatten(), r.flatten()) for g, r in zip(gradients, reference, strict=True))
    length = sum(r.square().sum() for r in reference)
    factor = (along / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=0.0)  # type: ignore[union-attr]
    for gradient, against in zip(gradients, reference, strict=True):
        gradient.sub_(factor * against)
