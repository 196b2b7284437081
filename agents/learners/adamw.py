"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) by torch's fused kernel, with less around it.

`torch.optim.AdamW` counts the steps of each parameter apart, one small operation for each, and sorts parameters by device and type at
every step: of an update of two layers of 128 on a CPU a tenth. Here parameters that always move together share one count. Numbers and what
is saved are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.AdamW):
    """One group of `weights`. On other devices than the CPU, and where they are of several types, it is torch's own."""

    def __init__(self, weights: Iterable[nn.Parameter], learning_rate: float, *, betas: tuple[float, float], weight_decay: float) -> None:
        first, *others = list(weights)
        recorded = first.device.type == "cuda"  # an update may be
        super().__init__([first, *others], learning_rate, betas=betas, weight_decay=weight_decay, fused=True, capturable=recorded)
        self._shares = first.device.type == "cpu" and all((one.device, one.dtype) == (first.device, first.dtype) for one in others)
        self._sharing = 0  # parameters whose count of steps is one tensor; 0: each has its own

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        if not self._shares:
            super().step()
            return
        (group,) = self.param_groups
        moved = [weight for weight in group["params"] if weight.grad is not None]
        states = [self.state[weight] for weight in moved]
        counts = [state.get("step") for state in states]
        if len(moved) != self._sharing or not moved or counts[0] is None or any(count is not counts[0] for count in counts):
            self._step_apart()
            return
        beta1, beta2 = group["betas"]
        counts[0].add_(1)
        torch.ops.aten._fused_adamw_(
            moved,
            [weight.grad for weight in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            counts,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _step_apart(self) -> None:
        """As torch does; those that moved share a count from then on, where they have come equally far."""
        if self._sharing:
            for state in self.state.values():
                if "step" in state:
                    state["step"] = state["step"].clone()
            self._sharing = 0
        super().step()
        moved = [weight for weight in self.param_groups[0]["params"] if weight.grad is not None]
        counts: list[Tensor] = [self.state[weight]["step"] for weight in moved]
        if len({float(count) for count in counts}) == 1:
            self._sharing = len(moved)
            for weight in moved:
                self.state[weight]["step"] = counts[0]

    def state_dict(self) -> dict[str, Any]:
        """What is to be saved, with a count of its own for every parameter."""
        saved = super().state_dict()
        for number, state in saved["state"].items():
            saved["state"][number] = {**state, "step": state["step"].clone()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was saved."""
        super().load_state_dict(state_dict)
        self.param_groups[0]["capturable"] = self.defaults["capturable"]  # whatever device it was saved on
        self._sharing = 0
