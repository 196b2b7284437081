"""The base of all gradient learners: networks, their optimiser, the memory that is carried, and what is saved.

A learner owns the data flow (what it learns from, which memory goes with it, where backpropagation through time ends) and the loss. What
is kept from past tasks is a method's business; methods reach in through `Hooks` and through the members under "for methods".
Shape letters: B rows, T time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench.errors import UserError

from ..backbones import state as states
from ..backbones.backbone import Backbone
from ..backbones.scope import LASTING
from ..backbones.state import State
from ..stores.account import ACCOUNT, added
from .adamw import AdamW
from .batch import Batch
from .randomness import Randomness

BuildBackbone = Callable[[int], Backbone]  # from the width of its input


class Hooks(Protocol):
    """What a learner asks of the method that accompanies it."""

    @property
    def changes_batches(self) -> bool: ...
    @property
    def steady(self) -> bool: ...
    def wrap_buffer(self, batch: Batch) -> Batch: ...
    def penalty(self, learner: Learner) -> Tensor | None: ...
    def adjust_gradients(self, learner: Learner) -> None: ...


@dataclass(frozen=True)
class OptimizerSettings:
    """`AdamW` with a linear warm-up of `warmup` updates; `gradient_clip` 0 = no clipping.

    `anneal` > 0: the learning rate falls linearly from update `anneal_from` on, to a tenth at update `anneal`, and stays there; updates
    are counted since the optimiser began. A constant rate that falls at the end is Hägele et al. 2024, arXiv:2405.18392, section 2.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 0
    gradient_clip: float = 0.0
    reset: bool = True  # at the beginning of a task
    anneal: int = 0
    anneal_from: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"learner: learning_rate must be > 0, got {self.learning_rate}")
        if min(self.warmup, self.gradient_clip, self.weight_decay, self.anneal, self.anneal_from) < 0:
            raise UserError(
                "learner: warmup, gradient_clip, weight_decay, anneal and anneal_from must be >= 0, "
                f"got {self.warmup}, {self.gradient_clip}, {self.weight_decay}, {self.anneal}, {self.anneal_from}"
            )
        if self.anneal_from and self.anneal_from >= self.anneal:
            raise UserError(
                f"learner: anneal_from={self.anneal_from}: expected anneal, the update at which the rate has fallen, to lie behind it, "
                f"got anneal={self.anneal}"
            )

    def rate(self, update: int) -> float | None:
        """The learning rate of an update, counted from 0 since the optimiser began; None: as it is."""
        if update < self.warmup:
            return self.learning_rate * (update + 1) / self.warmup
        if not self.anneal:
            return None
        fallen = (update - self.anneal_from) / (self.anneal - self.anneal_from)
        return self.learning_rate * (1 - 0.9 * min(1.0, max(0.0, fallen)))

    def steady(self, update: int) -> bool:
        """Whether the learning rate moves no more from this update on."""
        return update >= max(self.warmup, self.anneal)

    def build(self, networks: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimiser over the trainable parameters."""
        parameters = trainable(networks)
        return AdamW(parameters, self.learning_rate, betas=self.betas, weight_decay=self.weight_decay)


class Learner(ABC):
    """A subclass builds `networks` inside `self.randomness.lent()`, calls `install`, and implements the abstract members."""

    networks: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, seed: int, device: torch.device, settings: OptimizerSettings, scope: str = "episode") -> None:
        self.device, self.settings, self.scope = device, settings, scope
        self.frozen = False  # no weight learns any more: batches only move the memory on
        self.randomness = Randomness(seed, device)
        self.gradient_steps = 0
        self._scalars: dict[str, Tensor] = {}  # of the last update; read only when asked for, so that no update waits for the device
        self._account: dict[str, Tensor] = {}  # of an external memory: bytes now, entries written and read by all updates
        self._memory: State | None = None  # of the rows of the last batch; None where none is carried
        self._optimizer_steps = 0

    def install(self, networks: nn.Module) -> None:
        """Learn with `networks` from here on, with a fresh optimiser."""
        self.networks = networks.to(self.device)
        self.reset_optimizer()

    @abstractmethod
    def snapshot(self, networks: nn.Module) -> Any:
        """A policy or predictor that plays `networks`, which belong to it."""

    @abstractmethod
    def learn(self, experience: Any, hooks: Hooks) -> None:
        """Update until nothing remains."""

    # ---- for methods

    def begin_task(self, weights: Mapping[str, Tensor] | None) -> None:
        """A task begins: go on with `weights` where there are any, and forget the momentum where the settings say so."""
        if self.scope != "never":
            self._memory = None
        if weights is not None:
            self.go_on_with(weights)
        elif self.settings.reset:
            self.reset_optimizer()

    def end_task(self, weights: Mapping[str, Tensor] | None) -> None:
        """A task is over: go on with `weights` where there are any."""
        if weights is not None:
            self.go_on_with(weights)

    def go_on_with(self, weights: Mapping[str, Tensor]) -> None:
        """Learn on with other weights, without memory and momentum."""
        self.networks.load_state_dict(dict(weights))
        self._memory = None  # what other weights wrote means nothing
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Begin without momentum and with a new warm-up."""
        self.optimizer = self.settings.build(self.networks)
        self._optimizer_steps = 0

    # ---- one update

    def _note(self, diagnostics: Mapping[str, Tensor]) -> None:
        bill = {name: value for name, value in diagnostics.items() if name in ACCOUNT}
        self._account = added(self._account, bill)
        self._scalars |= {name: value for name, value in diagnostics.items() if name not in ACCOUNT}

    def _step(self, loss: Tensor, hooks: Hooks, *, differentiated: bool = False) -> None:
        """One step down `loss`, or, where that was `differentiated`, down the gradients that stand at the parameters."""
        penalty = hooks.penalty(self)
        if not differentiated:
            self.optimizer.zero_grad()
            (loss if penalty is None else loss + penalty).backward()
        elif penalty is not None:
            penalty.backward()  # adds to them
        hooks.adjust_gradients(self)
        self._scalars = {"loss": loss.detach()} | ({} if penalty is None else {"penalty": penalty.detach()})
        if self.settings.gradient_clip:
            self._scalars["gradient_norm"] = self._clip(self.settings.gradient_clip)
        rate = self.settings.rate(self._optimizer_steps)
        if rate is not None:
            self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self._optimizer_steps += 1
        self.gradient_steps += 1

    def _clip(self, most: float) -> Tensor:
        """Shorten the gradient to `most`; its length () before."""
        return nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], most)

    # ---- memory of the backbone

    @property
    def lasting_memory(self) -> State | None:
        """What every episode of a policy of now begins with: that of the first lane, as one row; None: a fresh memory."""
        if self.scope not in LASTING or self._memory is None:
            return None
        return copied(states.select(self._memory, slice(1)))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """`array` on the learner's device."""
        return torch.from_numpy(array).to(self.device)

    def _seen(self, array: Any) -> Tensor:
        return self.tensor(np.asarray(array, dtype=np.float32))

    # ---- what is saved

    @property
    def diagnostics(self) -> dict[str, float]:
        """Of the last update, what the memory of one stream occupies, and the account of an external memory."""
        own = {"memory_bytes_per_stream": states.bytes(self.networks.initial_state(1))}  # type: ignore[operator]
        return {name: float(value) for name, value in (self._scalars | own | self._account).items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that an update depends on; a copy."""
        return {
            "networks": copied(dict(self.networks.state_dict())),
            "optimizer": copied(self.optimizer.state_dict()),
            "optimizer_steps": self._optimizer_steps,
            "gradient_steps": self.gradient_steps,
            "randomness": copied(self.randomness.states),
            "memory": copied(self._memory),
            "frozen": self.frozen,
            "scalars": copied(self._scalars),
            "account": copied(self._account),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(copied(state["optimizer"]))
        self._optimizer_steps, self.gradient_steps = int(state["optimizer_steps"]), int(state["gradient_steps"])
        self.randomness.states = [value.cpu() for value in copied(state["randomness"])]
        self._memory = memory = copied(state["memory"])
        if memory:  # a store may keep its leaves elsewhere than the networks are
            fresh = self.networks.initial_state(len(next(iter(memory.values()))))  # type: ignore[operator]
            self._memory = {name: leaf.to(fresh[name].device) for name, leaf in memory.items()}
        self.frozen = bool(state["frozen"])
        self._scalars, self._account = copied(state["scalars"]), copied(state["account"])


def trainable(networks: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, in the order of their definition."""
    return [parameter for parameter in networks.parameters() if parameter.requires_grad]


def copied(value: Any) -> Any:
    """`value` with its own tensors and arrays, so that going on to learn does not change it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value
