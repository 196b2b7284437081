"""Variational continual learning: weights are distributions, and what a task leaves is the prior of the next.

Nguyen et al. 2018, arXiv:1710.10628, equations 1-4, in the form of Continual World (Wolczyk et al. 2021, arXiv:2105.10919, section 4 and
`continualworld/methods/vcl.py`): every linear layer of the networks that answer (in soft actor-critic: of the actor) has a Gaussian for
each weight, independent of the others, of log variance -6 at first; a forward pass draws one sample. The penalty is the Kullback-Leibler
divergence from the prior, N(0, 1) before the first task is over and afterwards what the last task left; it covers the layers that tasks
share (`ItemLearner.held`). What else they share (norms, embeddings) stands still from the second task on.

Departures: as in the paper and unlike the code the divergence counts for one of `samples` items, over whose likelihood a task's loss is the
mean; a policy plays the means, so that an answer depends on nothing else that is asked; a weight that is read several times in a pass is
drawn each time. Without task boundaries the prior stays N(0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner, copied
from .method import Method

FIRST = -6.0  # log variance


class Drawn(nn.Module):
    """A weight that is drawn anew each time it is read while learning, and its mean otherwise."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.full_like(weight, FIRST))

    def forward(self, mean: Tensor) -> Tensor:
        """A sample of the shape of `mean`."""
        return mean + (0.5 * self.log_variance).exp() * torch.randn_like(mean) if self.training else mean


class Variational(Method):
    """`strength` 1 is Bayes' rule for tasks of `samples` items."""

    changes_batches = False
    steady = True

    def __init__(self, seed: int, *, strength: float = 1.0, samples: int = 10_000) -> None:
        super().__init__(seed)
        if strength < 0 or samples < 1:
            raise UserError(f"variational: strength must be at least 0 and samples at least 1, got {strength} and {samples}")
        self.strength, self.samples = strength, samples
        self.prior: dict[str, tuple[Tensor, Tensor]] = {}  # by name of a layer's mean: mean and log variance; empty: N(0, 1)

    @property
    def needs_batches(self) -> bool:
        """It does not look at them, but asks for what only learners of items have."""
        return True

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        answering = getattr(networks, "actor", networks)
        for layer in [module for module in answering.modules() if isinstance(module, nn.Linear)]:
            for name in ("weight", "bias"):
                if getattr(layer, name) is not None:
                    parametrize.register_parametrization(layer, name, Drawn(getattr(layer, name).detach()))
        return networks

    def penalty(self, learner: Learner) -> Tensor | None:
        if self.strength == 0:
            return None
        total = torch.zeros((), device=learner.device)
        for name, mean, log_variance in self._shared(learner):
            if name in self.prior:
                before, width = (part.to(mean.device) for part in self.prior[name])
            else:
                before, width = torch.zeros_like(mean), torch.zeros_like(mean)
            ratio = log_variance - width
            total = total + 0.5 * (ratio.exp() + (mean - before).square() * (-width).exp() - 1 - ratio).sum()
        return self.strength * total / self.samples

    def adjust_gradients(self, learner: Learner) -> None:
        if not self.prior:
            return
        assert isinstance(learner, ItemLearner)
        moving = {id(part) for _, mean, log_variance in self._shared(learner) for part in (mean, log_variance)}
        for parameter in learner.held:
            if id(parameter) not in moving:
                parameter.grad = None  # norms and the like; the optimiser passes them by

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        self.prior = {name: (copied(mean), copied(log_variance)) for name, mean, log_variance in self._shared(learner)}

    @staticmethod
    def _shared(learner: Learner) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """Name, mean and log variance of every weight that is drawn and that tasks share."""
        assert isinstance(learner, ItemLearner)
        held = {id(parameter) for parameter in learner.held}
        named = dict(learner.networks.named_parameters())
        ending = ".original"
        pairs = ((name, named[name], named[name.removesuffix(ending) + ".0.log_variance"]) for name in named if name.endswith(ending))
        return [(name, mean, log_variance) for name, mean, log_variance in pairs if id(mean) in held]

    def state_dict(self) -> dict[str, Any]:
        return {"prior": copied(self.prior)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.prior = {name: tuple(part) for name, part in copied(state["prior"]).items()}
