"""Penalties that hold weights where past tasks left them: L2, EWC, MAS.

    penalty = strength * sum_p importance_p (theta_p - anchor_p)^2

L2 and EWC: Kirkpatrick et al. 2017, arXiv:1612.00796, equation 3; MAS: Aljundi et al. 2018, arXiv:1711.09601, equations 2-4. As in
Continual World (Wolczyk et al. 2021, arXiv:2105.10919, section 4), importances are added over tasks and the anchor is the last task's
weights only.
Held are the weights that tasks share (`ItemLearner.held`): as there the actor's torso in soft actor-critic with its head for each task, all
weights where one head serves all tasks. Departure: importances come from a uniform sample of the finished task's data.
Without task boundaries nothing is ever consolidated, and these are fine-tuning.
Shape letters: P parameters, K scalars of the learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clbench import seeding
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.batch import Batch
from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner
from .method import Method
from .reservoir import Reservoir


class QuadraticPenalty(Method):
    """A subclass says how important each weight is for one item of the finished task; the mean over `samples` items counts."""

    changes_batches = False
    steady = True

    def __init__(self, seed: int, strength: float, samples: int) -> None:
        super().__init__(seed)
        if strength < 0:
            raise UserError(f"{type(self).__name__}: strength must be at least 0, got {strength}")
        if samples < 1:
            raise UserError(f"{type(self).__name__}: samples must be at least 1, got {samples}")
        self.strength = strength
        self.importance: Tensor | None = None  # (P,), summed over the tasks that are finished
        self.anchor: Tensor | None = None  # (P,)
        self._items = Reservoir(samples, seeding.generator(seed, "reservoir"))
        self._draws = seeding.generator(seed, "importance")

    def item_importance(self, learner: ItemLearner, item: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
        """(P,), for one item (one row)."""
        raise NotImplementedError

    def task_importance(self, learner: ItemLearner) -> Tensor | None:
        """(P,), the mean over the sample; None where the task brought no items."""
        self._items.finish(learner)
        if not len(self._items):
            return None
        parameters = learner.held
        learner.networks.eval()
        total = torch.zeros_like(flat(parameters))
        for item in self._items:
            total += self.item_importance(learner, item, parameters)
        return total / len(self._items)

    def wrap_buffer(self, batch: Batch) -> Batch:
        self._items.offer(batch)
        return batch

    def penalty(self, learner: Learner) -> Tensor | None:
        if self.importance is None or self.anchor is None or self.strength == 0:
            return None
        assert isinstance(learner, ItemLearner)
        return self.strength * torch.dot(self.importance, (flat(learner.held) - self.anchor).square())

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        assert isinstance(learner, ItemLearner)
        importance = self.task_importance(learner)
        self._items.clear()
        if importance is not None:
            self.importance = importance if self.importance is None else self.importance + importance
            self.anchor = flat(learner.held).detach().clone()

    def state_dict(self) -> dict[str, Any]:
        importance, anchor = (None if tensor is None else tensor.clone() for tensor in (self.importance, self.anchor))
        draws = self._draws.bit_generator.state
        return {"importance": importance, "anchor": anchor, "items": self._items.state_dict(), "draws": draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.importance, self.anchor = (None if state[name] is None else state[name].clone() for name in ("importance", "anchor"))
        self._items.load_state_dict(state["items"])
        self._draws.bit_generator.state = state["draws"]


class L2(QuadraticPenalty):
    """Importance 1 for every weight and task: the longer the stream, the stiffer the weights."""

    def __init__(self, seed: int, *, strength: float = 1.0) -> None:
        super().__init__(seed, strength, samples=1)

    def item_importance(self, learner: ItemLearner, item: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
        return torch.ones_like(flat(parameters))


class EWC(QuadraticPenalty):
    """Importance: the diagonal of the Fisher information, clipped from below at `floor` for each item, as in Continual World."""

    def __init__(self, seed: int, *, strength: float = 10.0, samples: int = 500, floor: float = 1e-5) -> None:
        super().__init__(seed, strength, samples)
        self.floor = floor

    def item_importance(self, learner: ItemLearner, item: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
        total = torch.zeros_like(flat(parameters))
        for scalar in learner.information(item, self._draws):  # (K,): one backward pass each is faster than K of them batched by vmap
            total += gradient(scalar, parameters).square()
        return total.clamp(min=self.floor)


class MAS(QuadraticPenalty):
    """Importance: how strongly the squared length of the output reacts to each weight."""

    def __init__(self, seed: int, *, strength: float = 1.0, samples: int = 500) -> None:
        super().__init__(seed, strength, samples)

    def item_importance(self, learner: ItemLearner, item: Batch, parameters: Sequence[nn.Parameter]) -> Tensor:
        return gradient(learner.output_norm(item), parameters).abs()


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All of them behind one another, (P,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def gradient(scalar: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """Its gradient (P,), 0 for parameters it does not depend on; the graph is kept."""
    found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return flat(found)
