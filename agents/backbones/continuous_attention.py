"""A signal over [0, 1] as a sum of Gaussian bumps: fitted by ridge regression, contracted, and read by Gaussian densities in closed form.

Martins, Marinho, Martins 2022 (∞-former), arXiv:2109.00301, sections 2.2, 3.1 and 3.2; continuous attention after Martins et al. 2020,
arXiv:2006.07214; deep-spin/infinite-former `sorting/long_term_attention.py`. With the N functions psi_j(t) = Normal(t; m_j, s_j²):

    fit           B = Gᵀ X,  G = Fᵀ (F Fᵀ + lambda I)^-1,  F_ji = psi_j(t_i)          X(t) = Bᵀ psi(t)
    contraction   old samples X(u_s) at tau u_s and new vectors on (tau, 1], fitted together
    reading       E_p[X(t)] = Bᵀ r,  r_j = Normal(mean; m_j, variance + s_j²)           p = Normal(mean, variance)

Departures: vectors and samples stand in the middle of their cells (the code: its new ones at the right end), so that contraction by tau is
the same at both ends; r in closed form instead of a custom gradient; locations are drawn from the density of past attention as its
quantiles instead of at random, which needs no generator in the memory and is plain, even sampling where attention was even.
Nothing here is learned and nothing is kept. Shape letters: B batch, L vectors, N basis functions, S samples, D width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Basis(NamedTuple):
    """Gaussian bumps of unit area."""

    centres: Tensor  # (N,)
    widths: Tensor  # (N,), standard deviations

    def __call__(self, positions: Tensor) -> Tensor:
        """The functions at `positions` (...): (..., N)."""
        return normal(positions[..., None], self.centres, self.widths.square())

    def expected(self, mean: Tensor, variance: Tensor) -> Tensor:
        """What the functions are on average under Normal(mean, variance), both (...): (..., N)."""
        return normal(mean[..., None], self.centres, variance[..., None] + self.widths.square())


def gaussians(count: int, widths: tuple[float, float]) -> Basis:
    """`count` bumps in double precision: half as many centres, evenly over [0, 1], each with a narrow and a broad one."""
    centres = torch.linspace(0, 1, count // 2, dtype=torch.float64)
    return Basis(centres.repeat_interleave(2), torch.tensor(widths, dtype=torch.float64).repeat(count // 2))


def normal(t: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The normal density at t."""
    return torch.exp(-0.5 * (t - mean).square() / variance) * (2 * math.pi * variance).rsqrt()


def middles(count: int) -> Tensor:
    """The middles (count,) of `count` equal cells of [0, 1], in double precision."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def regression(basis: Basis, positions: Tensor, *, ridge: float, zero_padding: bool) -> Tensor:
    """G (L, N), which turns vectors X (L, D) at `positions` (L,) into coefficients Gᵀ X.

    zero_padding: as many points again, half of them on each side of [0, 1], at which the signal is to vanish.
    """
    outside = middles(len(positions))[: len(positions) // 2] if zero_padding else positions[:0]
    F = basis(torch.cat([positions, -outside, 1 + outside])).T  # (N, L + padding)
    gram = F @ F.T + ridge * torch.eye(len(F), dtype=F.dtype)
    return torch.linalg.solve(gram, F)[:, : len(positions)].T


def contraction(basis: Basis, length: int, samples: int, *, tau: float, ridge: float, zero_padding: bool) -> tuple[Tensor, Tensor]:
    """The rows of G that belong to `samples` of the old signal, squeezed into [0, tau]: (S, N), and to `length` new vectors: (L, N)."""
    positions = torch.cat([tau * middles(samples), tau + (1 - tau) * middles(length)])
    old, new = regression(basis, positions, ridge=ridge, zero_padding=zero_padding).split([samples, length])
    return old, new


def mass(mean: Tensor, variance: Tensor, bins: int) -> Tensor:
    """What Normal(mean, variance), both (...), puts into each of `bins` equal cells of [0, 1]: (..., bins)."""
    edges = torch.linspace(0, 1, bins + 1, dtype=mean.dtype, device=mean.device)
    return torch.special.ndtr((edges - mean[..., None]) * variance.rsqrt()[..., None]).diff(dim=-1)


def quantiles(mass: Tensor, count: int) -> Tensor:
    """`count` locations (B, count) in rising order, spread like mass (B, bins) over cells and evenly in each; without mass, evenly."""
    mass = mass + (mass.sum(-1, keepdim=True) <= 0)
    above = mass.cumsum(-1)
    wanted = (middles(count).to(mass) * above[:, -1:]).contiguous()  # (B, count)
    cell = torch.searchsorted(above, wanted).clamp(max=mass.shape[-1] - 1)
    into = 1 - (above.gather(1, cell) - wanted) / mass.gather(1, cell)
    return (cell + into.clamp(0, 1)) / mass.shape[-1]


def divergence(variance: Tensor, prior: float) -> Tensor:
    """The Kullback-Leibler divergence of Normal(mean, variance) from Normal(mean, prior)."""
    ratio = variance / prior
    return 0.5 * (ratio - ratio.log() - 1)
