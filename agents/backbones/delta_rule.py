"""Matrices that map keys to values and can be overwritten: the delta rule, gated and plain, and the linear attention it improves on.

Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464, section 3 (gated); Yang et al. 2024, arXiv:2406.06484, section 3 (plain, chunkwise);
Schlag, Irie, Schmidhuber 2021, arXiv:2102.11174 (the rule, DPFP features). For token t, the matrix read after it is written:

    S_t = alpha_t (I - beta_t k_t k_t^T) S_t-1 + beta_t k_t v_t^T      o_t = S_t^T q_t

alpha = 1 is the plain delta rule; without the term in k k^T it is linear attention, with the same write strengths so that nothing but the
overwriting differs. Chunkwise, with g_i = alpha_1 ... alpha_i and S_0 the matrix before the chunk, what is really written solves a
triangular system (UT transform):

    u_i = beta_i (v_i - g_i S_0^T k_i - sum_j<i (g_i / g_j) (k_i k_j) u_j)      S_i = g_i S_0 + sum_j<=i (g_i / g_j) k_j u_j^T

All is done in single precision at least. beta = 0 and alpha = 1 make a token that is not there.
Shape letters: B batch, H heads, T time, C tokens of a chunk, N chunks, K key width, V value width, M rows, F features, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_CHUNK = 64  # tokens solved at once: a longer text costs in proportion to its length times this
_TINY = 1e-5  # as in the code of Rodkin et al.


class Tokens(NamedTuple):
    """What the tokens of a layer ask, write and forget."""

    q: Tensor  # (B, H, T, K)
    k: Tensor  # (B, H, T, K)
    v: Tensor  # (B, H, T, V)
    strength: Tensor  # (B, H, T): beta
    log_decay: Tensor | None = None  # (B, H, T): log alpha <= 0; None: nothing fades


def recall_all(tokens: Tokens, matrix: Tensor, *, erase: bool = True) -> tuple[Tensor, Tensor]:
    """What the queries read (B, H, T, V), and matrix (B, H, K, V) after the last token; without `erase` this is linear attention."""
    precision = torch.promote_types(tokens.v.dtype, torch.float32)
    log_decay = torch.zeros_like(tokens.strength) if tokens.log_decay is None else tokens.log_decay
    q, k, v, strength, log_decay = (part.to(precision) for part in (*tokens[:4], log_decay))
    read = _one if q.shape[2] == 1 else _chunks
    outputs, matrix = read((q, k, v, strength, log_decay), matrix.to(precision), erase)
    return outputs.to(tokens.v.dtype), matrix


def _one(tokens: tuple[Tensor, ...], matrix: Tensor, erase: bool) -> tuple[Tensor, Tensor]:
    """The rule as it is written, for one token."""
    q, k, v, strength, log_decay = tokens
    faded = log_decay.exp()[..., None] * matrix  # (B, H, K, V)
    written = v - k @ faded if erase else v  # (B, H, 1, V)
    matrix = faded + (strength[..., None] * k).transpose(2, 3) * written
    return q @ matrix, matrix


def _chunks(tokens: tuple[Tensor, ...], matrix: Tensor, erase: bool) -> tuple[Tensor, Tensor]:
    """What does not depend on the matrix for all chunks at once, then the matrix from chunk to chunk."""
    q, k, v, strength, log_decay = tokens
    T = q.shape[2]
    C = -(-T // -(-T // _CHUNK))  # chunks of one size, so that little is filled up
    q, k, v = (functional.pad(part, (0, 0, 0, -T % C)).unflatten(2, (-1, C)) for part in (q, k, v))  # (B, H, N, C, K or V)
    strength, log_decay = (functional.pad(part, (0, -T % C)).unflatten(2, (-1, C)) for part in (strength, log_decay))  # (B, H, N, C)
    total = log_decay.cumsum(-1)
    later = torch.ones(C, C, dtype=torch.bool, device=q.device).triu(1)
    fades = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()  # (B, H, N, C, C): g_i / g_j, 0 for j > i
    since = total.exp()[..., None]  # (B, H, N, C, 1): g_i
    values, erased = strength[..., None] * v, None
    if erase:
        system = strength[..., None] * fades * (k @ k.transpose(-1, -2))  # its diagonal is taken to be 1
        right = torch.cat([values, strength[..., None] * since * k], dim=-1)
        values, erased = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split([v.shape[-1], k.shape[-1]], -1)
    inside = fades * (q @ k.transpose(-1, -2))
    asking, kept = since * q, fades[..., -1, :, None] * k  # what reads S_0, and what of each token is left at the end
    outputs = []
    for n in range(q.shape[2]):
        u = values[:, :, n] if erased is None else values[:, :, n] - erased[:, :, n] @ matrix  # (B, H, C, V)
        outputs.append(asking[:, :, n] @ matrix + inside[:, :, n] @ u)
        matrix = since[:, :, n, -1:] * matrix + kept[:, :, n].transpose(2, 3) @ u
    return torch.cat(outputs, dim=2)[:, :, :T], matrix


def features(x: Tensor, rolls: int = 3) -> Tensor:
    """DPFP of x (..., K): products of max(x, 0) and max(-x, 0) with themselves shifted, (..., 2 K rolls), none of them negative."""
    parts = torch.cat([x.relu(), (-x).relu()], dim=-1)
    return torch.cat([parts * parts.roll(n, dims=-1) for n in range(1, rolls + 1)], dim=-1)


def recall(matrix: Tensor, normaliser: Tensor, q: Tensor) -> Tensor:
    """What features q (B, R, F) read of matrix (B, F, D), whose normaliser (B, F) says how much of each feature is written: (B, R, D)."""
    return q @ matrix / (q @ normaliser[..., None] + _TINY)


def write_at_once(matrix: Tensor, normaliser: Tensor, k: Tensor, v: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix (B, F, D) and normaliser (B, F) after features k (B, M, F) are given values v (B, M, D); none of the M sees another.

    Each replaces what its key read before, to the part strength (B, M, 1). The normaliser grows to |k|^2 along a key and no further
    (Rodkin et al. 2024, arXiv:2407.04841), so that a key written again does not read less than its value.
    """
    written = k @ normaliser[..., None]  # (B, M, 1)
    matrix = matrix + (strength * k).transpose(1, 2) @ (v - recall(matrix, normaliser, k))
    new = (1 - written / (k.square().sum(-1, keepdim=True) + _TINY)).clamp(0, 1).detach()
    return matrix, normaliser + (new * k).sum(1)
