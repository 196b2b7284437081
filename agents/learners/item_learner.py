"""Learners whose experience falls into items (steps, episodes, examples), which a method may keep and come back to.

Shape letters: B rows, T time, K numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from .batch import Batch
from .learner import Hooks, Learner, trainable


class ItemLearner(Learner):
    """A subclass says how it learns from items, how it judges them, and what its networks are sensitive to."""

    @abstractmethod
    def update(self, batch: Batch, hooks: Hooks) -> None:
        """One step of the optimiser."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The loss () of whole items, read from fresh memory."""

    @abstractmethod
    def information(self, item: Batch, generator: np.random.Generator) -> Tensor:
        """Scalars (K,) whose squared gradients add up to the Fisher information per scored position of `item` (one row).

        Exactly, or in expectation over `generator`.
        """

    @abstractmethod
    def output_norm(self, item: Batch) -> Tensor:
        """Squared length () of the networks' output, averaged over the scored positions of `item` (one row)."""

    @abstractmethod
    def answers(self, batch: Batch) -> Tensor:
        """What the networks say of whole items, (B, T, K): enough to name the distributions that they answer with."""

    @abstractmethod
    def divergence(self, answers: Tensor, batch: Batch) -> Tensor:
        """Kullback-Leibler divergence () of what the networks say now from `answers` (B, T, K), averaged over the scored positions."""

    def own_items(self) -> Iterator[Batch]:
        """What the learner itself keeps of the present task, in the order in which it came; batches of it are `kept`. None by default."""
        return iter(())

    def own_batch(self, size: int) -> Batch | None:
        """`size` of these, drawn with replacement; None where there are none."""
        return None

    @property
    def held(self) -> list[nn.Parameter]:
        """The parameters that past tasks and the present one share, which methods hold in place."""
        return trainable(self.networks)

    @property
    def constrained(self) -> list[nn.Parameter]:
        """The parameters whose gradients a method may turn."""
        return trainable(self.networks)
