"""Where tensors live, by name."""

from __future__ import annotations

import torch

from clbench.errors import UserError


def chosen_device(name: str) -> torch.device:
    """The device called `name`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device={name}: torch finds no CUDA device here; use device=cpu or device=auto")
    return torch.device(name)
