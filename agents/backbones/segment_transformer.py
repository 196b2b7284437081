"""The layers that Transformer, Transformer-XL and RMT share; each backbone decides what a row may see and what is kept.

Vaswani et al. 2017, arXiv:1706.03762; without biases in attention, as in Transformer-XL; rotary positions of Su et al. 2021,
arXiv:2104.09864. Normalisation comes before each sublayer and once at the end, or after each one with `post_norm`.
In half of the heads, and in one that stands alone, queries and keys begin alike and with entries of unit size, so that a token first reads
tokens of its own kind (after Trockman and Kolter 2023, arXiv:2305.09828, who give the product of their maps a dominant diagonal):
associative recall then takes off earlier. The other heads begin as PyTorch draws them; without such heads sorting took off late. Without
`alike` all do.
Shape letters: B batch, R rows (tokens of a segment and memory rows), S keys, H heads, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError


class Block(nn.Module):
    """One layer in three steps, so that a backbone can put its memory between them: project, attend, finish."""

    def __init__(self, *, width: int, heads: int, feedforward: int, dropout: float, post_norm: bool, alike: bool = True) -> None:
        super().__init__()
        self.heads, self.post_norm = heads, post_norm
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width, bias=False)  # queries, keys, values
        if alike:
            with torch.no_grad():
                queries, keys = self.project_in.weight.view(3, heads, -1, width)[:2, : (heads + 1) // 2]  # (H/2, D/H, D)
                queries.mul_(math.sqrt(3.0))  # PyTorch draws them with variance 1/(3 D)
                keys.copy_(queries)
        self.project_out = nn.Linear(width, width, bias=False)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward * width), nn.ReLU(), nn.Linear(feedforward * width, width))
        self.dropout = nn.Dropout(dropout)

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of rows h (B, R, D), each (B, H, R, D/H)."""
        rows = self.project_in(self.before(h)).view(*h.shape[:2], 3, self.heads, h.shape[-1] // self.heads)  # (B, R, 3, H, D/H)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        return q, k, v

    def queries(self, h: Tensor) -> Tensor:
        """Queries of rows h (B, R, D) alone: (B, H, R, D/H)."""
        weight = self.project_in.weight[: h.shape[-1]]
        return functional.linear(self.before(h), weight).view(*h.shape[:2], self.heads, h.shape[-1] // self.heads).transpose(1, 2)

    def keys_values(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of rows h (B, S, D) alone, each (B, H, S, D/H)."""
        weight = self.project_in.weight[h.shape[-1] :]
        rows = functional.linear(self.before(h), weight).view(*h.shape[:2], 2, self.heads, h.shape[-1] // self.heads)
        k, v = rows.permute(2, 0, 3, 1, 4)
        return k, v

    def finish(self, h: Tensor, attended: Tensor) -> Tensor:
        """Rows h (B, R, D) and what their heads read (B, H, R, D/H) become the rows of the next layer (B, R, D)."""
        read = self.dropout(self.project_out(attended.transpose(1, 2).reshape(h.shape)))
        if self.post_norm:
            h = self.attention_norm(h + read)
            return self.feedforward_norm(h + self.dropout(self.feedforward(h)))
        h = h + read
        return h + self.dropout(self.feedforward(self.feedforward_norm(h)))

    def before(self, h: Tensor) -> Tensor:
        """Rows h as the maps of attention see them."""
        return h if self.post_norm else self.attention_norm(h)


class SegmentTransformer(nn.Module):
    """An input map to `width`, the blocks, and the last norm; the loop over `blocks` belongs to the backbone."""

    def __init__(
        self,
        input_size: int,
        *,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        post_norm: bool,
        alike: bool = True,
    ) -> None:
        super().__init__()
        if min(width, layers, heads, feedforward) < 1 or width % (2 * heads):
            raise UserError(
                "backbone: width must be a multiple of 2 * heads, and layers and feedforward at least 1, "
                f"got width={width}, heads={heads}, layers={layers}, feedforward={feedforward}"
            )
        self.embed = nn.Sequential(nn.Identity() if input_size == width else nn.Linear(input_size, width), nn.Dropout(dropout))
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, feedforward=feedforward, dropout=dropout, post_norm=post_norm, alike=alike)
            for _ in range(layers)
        )
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width)


def rotary(positions: Tensor, width: int) -> Tensor:
    """Cosines and sines (..., width/2, 2) by which a head of `width` is turned at `positions` (...), in their precision."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=positions.device, dtype=positions.dtype) / width)  # (width/2,)
    angle = positions[..., None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def rotate(heads: Tensor, turn: Tensor) -> Tensor:
    """`heads` (B, H, R, D/H) turned by `rotary`'s (R, D/2H, 2) or (B, 1, R, D/2H, 2); products then depend on distances only.

    Neighbouring entries are a complex number each: one multiplication, in single precision at least.
    """
    precision = torch.promote_types(heads.dtype, torch.float32)
    points = torch.view_as_complex(heads.to(precision).unflatten(-1, (-1, 2)))  # (B, H, R, D/2H)
    turned = points * torch.view_as_complex(turn.to(precision))
    return torch.view_as_real(turned).flatten(-2).to(heads.dtype)
