"""The training loop of the probes that benchmarks of backbones use: AdamW, a warm-up, clipped gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int, *, learning_rate: float, warmup: int, clip: float) -> None:
    """Make `steps` updates of `model`, each on what `loss` says next; the rate rises linearly over `warmup` of them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / warmup)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
