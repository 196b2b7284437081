"""Gaussian policies: what two of them differ in, and what a weight that moves them is worth.

Shape letters: A action; any axes may stand in front.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) (...) of Gaussians given as mean and log std (..., 2A), summed over their coordinates."""
    (mean, log_std), (other, other_log_std) = first.chunk(2, dim=-1), second.chunk(2, dim=-1)
    ratio = 2 * (log_std - other_log_std)
    return 0.5 * (ratio.exp() + ((mean - other) * (-other_log_std).exp()).square() - 1 - ratio).sum(-1)


def information(mean: Tensor, log_std: Tensor) -> Tensor:
    """Scalars (..., 2A) whose squared gradients add up to the Fisher information.

    Wolczyk et al. 2021, section 4, with the code's 1e-6: sum over the action of (dmu^2 + 2 dstd^2) / (std^2 + 1e-6).
    """
    std = log_std.exp().expand_as(mean)
    scale = (std.square() + 1e-6).rsqrt().detach()
    return torch.cat([mean * scale, math.sqrt(2.0) * std * scale], dim=-1)
