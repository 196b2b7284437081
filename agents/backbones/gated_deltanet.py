"""Gated DeltaNet: instead of attention each layer keeps one matrix a head, which every token fades, corrects and reads.

Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464, section 3 and figure 1; for the rule see delta_rule.py. With x the normed input of a
layer, conv a causal convolution of each channel over the last `convolution` tokens and l2 the division by the length:

    q, k = l2(silu(conv(W x)))   v = silu(conv(W x))   beta = sigmoid(W x)   log alpha = -exp(a) softplus(W x + b)
    h += W_o (norm(S^T q) * silu(W x))

A memory of constant size that overwrites: a token costs the same whatever came before. The options `rule` delta and linear take away
first the fading and then the overwriting.

Departures: the feed-forward of the other backbones, not SwiGLU; keys as wide as values (the authors: half as wide);
half of the heads begin with queries like keys, as everywhere here; a begins at 0 and b so that heads fade by 1/1000 to 1/16 a token.
Shape letters: B batch, T time, W convolution, H heads, D width.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State
from .delta_rule import Tokens, recall_all
from .pieces import Piece, read_in_pieces
from .segment_transformer import Block, SegmentTransformer

RULES = ("gated", "delta", "linear")


class GatedDeltaNet(Backbone):
    """State: tail.n (B, W-1, 3 D), maps of the last tokens, and matrix.n (B, H, D/H, D/H), in single precision at least."""

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 4,
        convolution: int = 4,
        rule: Literal["gated", "delta", "linear"] = "gated",
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if convolution < 1 or rule not in RULES:
            raise UserError(
                f"gated-deltanet: convolution must be at least 1 and rule one of {', '.join(RULES)}, got {convolution}, '{rule}'"
            )
        self.trunk = SegmentTransformer(
            input_size, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, post_norm=post_norm
        )
        self.mixers = nn.ModuleList(
            _Mixer(width, heads, convolution, fades=rule == "gated", erases=rule != "linear") for _ in range(layers)
        )
        self.input_size, self.output_size, self.heads, self.convolution = input_size, width, heads, convolution
        self.spec = MemorySpec(
            "gated-deltanet", width, layers, segment_length=0, capacity=width // heads, memory_layers=tuple(range(layers))
        )

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        weight = self.trunk.blocks[0].project_in.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        precision, size = torch.promote_types(dtype, torch.float32), self.output_size // self.heads
        state: State = {}
        for n in range(len(self.mixers)):
            state[f"tail.{n}"] = torch.zeros(batch, self.convolution - 1, 3 * self.output_size, device=device, dtype=dtype)
            state[f"matrix.{n}"] = torch.zeros(batch, self.heads, size, size, device=device, dtype=precision)
        return state

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        fresh = partial(self.initial_state, len(x), device=x.device, dtype=state["tail.0"].dtype)
        hidden, state = read_in_pieces(self._read, x, state, fresh, segment_length=0, reset=reset, pad=pad, write=write)
        return Output(hidden, state, x.new_zeros(()))

    def _read(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        after: State = {}
        h = self.trunk.embed(piece.x)  # (B, T, D)
        for n, (block, mixer) in enumerate(zip(self.trunk.blocks, self.mixers, strict=True)):
            h, after[f"tail.{n}"], after[f"matrix.{n}"] = mixer(block, h, state[f"tail.{n}"], state[f"matrix.{n}"], piece.length)
        return self.trunk.norm(h), after


class _Mixer(nn.Module):
    """What stands where a block has its attention."""

    def __init__(self, width: int, heads: int, convolution: int, *, fades: bool, erases: bool) -> None:
        super().__init__()
        self.heads, self.fades, self.erases = heads, fades, erases
        self.filters = nn.Parameter(torch.empty(3 * width, 1, convolution).uniform_(-1, 1) / math.sqrt(convolution))
        self.gate = nn.Linear(width, width, bias=False)
        self.strength = nn.Linear(width, heads, bias=False)
        self.norm = nn.RMSNorm(width // heads, eps=1e-5)
        if fades:
            self.fading = nn.Linear(width, heads)
            self.speed = nn.Parameter(torch.zeros(heads))  # a
            with torch.no_grad():
                rates = torch.logspace(-3, math.log10(1 / 16), heads)
                self.fading.bias.copy_(rates + torch.log(-torch.expm1(-rates)))  # the inverse of softplus

    def forward(self, block: Block, h: Tensor, tail: Tensor, matrix: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The rows h (B, T, D) of the next layer, and tail and matrix after the first `length` (B,) of them, or after all."""
        B, T, D = h.shape
        x = block.before(h)
        rows = torch.cat([tail.to(h.dtype), block.project_in(x)], dim=1)  # (B, W - 1 + T, 3 D)
        mixed = functional.silu(functional.conv1d(rows.transpose(1, 2), self.filters, groups=3 * D))  # (B, 3 D, T)
        q, k, v = mixed.view(B, 3, self.heads, D // self.heads, T).permute(1, 0, 2, 4, 3)  # (B, H, T, D/H)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        strength = self.strength(x).sigmoid().transpose(1, 2)  # (B, H, T)
        log_decay = None
        if self.fades:
            log_decay = -self.speed.exp()[:, None] * functional.softplus(self.fading(x)).transpose(1, 2)
        if length is not None:
            there = (torch.arange(T, device=h.device) < length[:, None])[:, None]  # (B, 1, T)
            strength = strength * there
            log_decay = None if log_decay is None else log_decay * there
        read, matrix = recall_all(Tokens(q, k, v, strength, log_decay), matrix, erase=self.erases)
        gate = functional.silu(self.gate(x)).view(B, T, self.heads, -1).transpose(1, 2)
        return block.finish(h, self.norm(read) * gate), _newest(rows, tail.shape[1], length).to(tail.dtype), matrix


def _newest(rows: Tensor, count: int, length: Tensor | None) -> Tensor:
    """The last `count` of rows (B, count + T, D), of whose T new ones the first `length` (B,) count."""
    if length is None:
        return rows[:, rows.shape[1] - count :]
    index = torch.arange(count, device=rows.device) + length[:, None]  # (B, count)
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
