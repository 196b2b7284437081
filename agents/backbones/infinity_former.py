"""The infinity-former: what falls out of Transformer-XL's memory is kept for ever, as a continuous signal of N coefficients a layer.

Martins, Marinho, Martins 2022, arXiv:2109.00301, sections 3.1 to 3.3; deep-spin/infinite-former. Every layer has a signal of its own, into
which the inputs of that layer go; `continuous_attention.py` says how it is fitted, contracted and read. A query q reads, per head,

    s = q K^T / sqrt(D/H),  K = B W_K, V = B W_V          mean = sigmoid(w_m . s),  variance = softplus(w_v . s)
    read = V^T r(mean, variance)                          added, through W_O, to what the head reads from the segment and the cache

A signal is re-fitted when a segment ends, from itself and the segment that falls out of the cache at that moment, so that a segment
costs the same however long the history, and the signal holds neither tokens of the open segment nor of the cache. The first one
that falls out fills [0, 1]; before, nothing is read. With `sticky` the old signal is sampled where the segment that ends has read it.

The gradient stops at the old coefficients and at the vectors that fall out; it reaches the maps of the reading, and `input_mask` through
the newest segment of the signal. The auxiliary loss draws the variance of every reading to `prior_deviation` squared.

Departures: norms before the sublayers by default, as in our Transformer-XL; no mean in the divergence (the code's test for it is
inverted); no zeros outside [0, 1] unless `zero_padding` asks for the code's, as they make a constant sag; widths of the bumps in units
of 1/N; w_m and w_v begin sqrt(N) times as large as PyTorch draws them, as coefficients are about N times smaller than the vectors they
stand for: sorting under drift came out better on each of two seeds, and worse with w six times larger still.
Shape letters: B batch, T time, L segment length, C memory length, H heads, N basis functions, S samples, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError

from . import continuous_attention as continuous
from .backbone import Backbone, MemorySpec, Output, State
from .continuous_attention import Basis
from .pieces import Piece, read_in_pieces
from .transformer_xl import TransformerXL

BINS = 128  # cells of [0, 1] in which a sticky memory counts what was attended
LEAST_VARIANCE = 1e-6


class InfinityFormer(Backbone):
    """State: that of Transformer-XL, coefficients.n (B, N, D), fits (B,) segments in the signal; with `sticky` attended.n (B, bins).

    `attended.n`: what the heads and tokens of the open segment have put into each cell of the signal of layer n.
    """

    bumps: Tensor
    first: Tensor
    kept: Tensor
    old: Tensor
    new: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        segment_length: int = 16,
        memory_length: int = 16,
        basis_functions: int = 32,
        basis_widths: tuple[float, float] = (1.0, 3.0),
        ridge: float = 0.1,
        zero_padding: bool = False,
        contraction: float = 0.75,
        samples: int = 64,
        sticky: bool = False,
        input_mask: bool = False,
        divergence_weight: float = 1e-6,
        prior_deviation: float = 0.05,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if segment_length < 1 or memory_length < 1 or memory_length % segment_length:
            raise UserError(
                f"infinity-former: memory_length must be a positive multiple of segment_length, got {memory_length} and {segment_length}"
            )
        if basis_functions < 4 or basis_functions % 2 or samples < 1:
            raise UserError(
                f"infinity-former: basis_functions must be even and at least 4, and samples at least 1, got {basis_functions} and {samples}"
            )
        if not 0 < contraction < 1 or min(*basis_widths, ridge, prior_deviation) <= 0 or divergence_weight < 0:
            raise UserError(
                "infinity-former: contraction must lie between 0 and 1, basis_widths, ridge and prior_deviation be > 0, and "
                f"divergence_weight >= 0, got {contraction}, {list(basis_widths)}, {ridge}, {prior_deviation}, {divergence_weight}"
            )
        options = {"width": width, "layers": layers, "heads": heads, "feedforward": feedforward, "dropout": dropout, "post_norm": post_norm}
        self.short_term = TransformerXL(input_size, segment_length=segment_length, memory_length=memory_length, **options)
        self.long_term = nn.ModuleList(LongTermAttention(width, heads, basis_functions, input_mask=input_mask) for _ in range(layers))
        self.input_size, self.output_size, self.sticky = input_size, width, sticky
        self.segment_length, self.memory_length = segment_length, memory_length
        self.divergence_weight, self.prior_deviation = divergence_weight, prior_deviation
        kind = f"infinity-former-{basis_functions}{'-sticky' if sticky else ''}"
        self.spec = MemorySpec(kind, width, layers, segment_length, basis_functions + memory_length, tuple(range(layers)))
        self._invert(basis_functions, basis_widths, samples, contraction, {"ridge": ridge, "zero_padding": zero_padding})

    def _invert(self, count: int, widths: tuple[float, float], samples: int, tau: float, options: Mapping[str, Any]) -> None:
        """The matrices of all fits, once, in double precision; buffers hold the bits of their float32, which `to(dtype)` cannot round."""
        L, basis = self.segment_length, continuous.gaussians(count, (widths[0] / count, widths[1] / count))
        old, new = continuous.contraction(basis, L, samples, tau=tau, **options)  # (S, N), (L, N)
        matrices = {
            "bumps": torch.stack([basis.centres, basis.widths]),  # (2, N)
            "first": continuous.regression(basis, continuous.middles(L), **options).T,  # (N, L), from vectors
            "new": new.T,  # (N, L), from vectors
            "old": old.T,  # (N, S), from samples of the old signal
            "kept": old.T @ basis(continuous.middles(samples)),  # (N, N), from the coefficients of the old signal
        }
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix.float().contiguous().view(torch.int32), persistent=False)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        short = self.short_term.initial_state(batch, device=device, dtype=dtype)
        like = short["memory.0"]
        long = {"fits": torch.zeros_like(short["fill"])}
        for n in range(len(self.long_term)):
            long[f"coefficients.{n}"] = like.new_zeros(batch, len(self.kept), self.output_size)
            if self.sticky:
                long[f"attended.{n}"] = like.new_zeros(batch, BINS)
        return short | long

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        divergences: list[Tensor] = []  # of every layer and piece their sum and number (2,)
        hidden, state = read_in_pieces(
            partial(self._read, divergences),
            x,
            state,
            partial(self.initial_state, len(x), device=x.device, dtype=state["memory.0"].dtype),
            segment_length=self.segment_length,
            reset=reset,
            pad=pad,
            write=write,
        )
        total, number = torch.stack(divergences).sum(0)
        divergence = total / number.clamp(min=1)
        return Output(hidden, state, (self.divergence_weight * divergence).to(hidden.dtype), {"divergence": divergence.detach()})

    def _read(self, divergences: list[Tensor], piece: Piece, state: State) -> tuple[Tensor, State]:
        """A piece is read beside the signals as they are, which change where it ends a segment."""
        B, T, _ = piece.x.shape
        reads = (state["fits"] > 0)[:, None]  # (B, 1)
        if piece.length is not None:
            reads = reads & (torch.arange(T, device=piece.x.device) < piece.length[:, None])
        reads = reads.expand(B, T)[:, None]  # (B, 1, T)
        basis = self._basis(torch.promote_types(piece.x.dtype, torch.float32))
        long: State = {}

        def beside(n: int, q: Tensor) -> Tensor:
            """What layer n reads from its signal (B, T, D)."""
            rows, mean, variance = self.long_term[n](q, state[f"coefficients.{n}"], basis)
            apart = continuous.divergence(variance, self.prior_deviation**2)  # (B, H, T)
            divergences.append(torch.stack([apart.masked_fill(~reads, 0).sum(), (reads.sum() * q.shape[1]).to(apart.dtype)]))
            if self.sticky and piece.kept:
                with torch.no_grad():
                    attended = continuous.mass(mean, variance, BINS).masked_fill(~reads[..., None], 0).sum((1, 2))  # (B, bins)
                long[f"attended.{n}"] = state[f"attended.{n}"] + attended.to(state[f"attended.{n}"].dtype)
            return rows

        hidden, short = self.short_term.read(piece, state, beside)
        after = state | short | long
        return hidden, self._close(piece, state, after) if piece.kept else after

    def _close(self, piece: Piece, state: State, after: State) -> State:
        """`after` with the signals re-fitted in the streams whose segment has ended and whose cache was full before."""
        if piece.clock is not None and piece.clock + piece.x.shape[1] < self.segment_length:
            return after
        closes = after["seg_pos"] == 0  # (B,)
        if piece.length is not None:
            closes = closes & (piece.length > 0)
        falls = closes & (state["fill"] == self.memory_length)
        closed = {"fits": state["fits"] + falls.to(torch.int32)}
        for n in range(len(self.long_term)):
            name, leaving = f"coefficients.{n}", state[f"memory.{n}"][:, : self.segment_length]  # (B, L, D)
            refitted = self._refit(n, state[name].detach(), leaving, state["fits"] > 0, after.get(f"attended.{n}"))
            closed[name] = torch.where(falls[:, None, None], refitted.to(state[name].dtype), state[name])
            if self.sticky:
                closed[f"attended.{n}"] = after[f"attended.{n}"].masked_fill(closes[:, None], 0)
        return after | closed

    def _refit(self, n: int, coefficients: Tensor, leaving: Tensor, written: Tensor, attended: Tensor | None) -> Tensor:
        """Coefficients (B, N, D) of the signal of layer n that has taken up `leaving` (B, L, D); `written` (B,): it is not the first."""
        precision = torch.promote_types(leaving.dtype, torch.float32)
        leaving, coefficients = self.long_term[n].filter(leaving).to(precision), coefficients.to(precision)
        if attended is None:
            contracted = self._matrix("kept", precision) @ coefficients
        else:
            places = continuous.quantiles(attended.to(precision), self.old.shape[1])  # (B, S)
            contracted = self._matrix("old", precision) @ (self._basis(precision)(places) @ coefficients)
        added = contracted + self._matrix("new", precision) @ leaving
        return torch.where(written[:, None, None], added, self._matrix("first", precision) @ leaving)

    def _matrix(self, name: str, dtype: torch.dtype) -> Tensor:
        return getattr(self, name).view(torch.float32).to(dtype)

    def _basis(self, dtype: torch.dtype) -> Basis:
        return Basis(*self._matrix("bumps", dtype))


class LongTermAttention(nn.Module):
    """What the heads of one layer read from its signal: W_K, W_V, W_O, w_m and w_v, and the mask of what enters it."""

    def __init__(self, width: int, heads: int, basis_functions: int, *, input_mask: bool) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 2 * width, bias=False)  # keys, values
        self.project_out = nn.Linear(width, width, bias=False)
        self.density = nn.Parameter(2 * torch.rand(2, basis_functions) - 1)  # w_m, w_v
        self.input_mask = nn.Conv1d(width, width, 3, padding=1) if input_mask else None

    def forward(self, q: Tensor, coefficients: Tensor, basis: Basis) -> tuple[Tensor, Tensor, Tensor]:
        """What queries (B, H, T, D/H) read from coefficients (B, N, D): rows (B, T, D), mean and variance (B, H, T).

        w . s = q (W_K^T B^T w) / sqrt(D/H), so that two keys of a head say all that its N keys do.
        """
        B, H, T, size = q.shape
        key_map, value_map = self.project_in.weight.chunk(2)  # (D, D)
        coefficients = coefficients.to(q.dtype)
        keys = functional.linear(self.density @ coefficients, key_map).view(B, 2, H, size)  # (B, 2, H, D/H)
        logits = (q @ keys.permute(0, 2, 3, 1)) * size**-0.5  # (B, H, T, 2)
        logits = logits.to(torch.promote_types(q.dtype, torch.float32))
        mean, variance = logits[..., 0].sigmoid(), functional.softplus(logits[..., 1]).clamp(min=LEAST_VARIANCE)
        values = functional.linear(coefficients, value_map).view(B, -1, H, size).transpose(1, 2)  # (B, H, N, D/H)
        read = basis.expected(mean, variance).to(q.dtype) @ values  # (B, H, T, D/H)
        return self.project_out(read.transpose(1, 2).reshape(B, T, H * size)), mean, variance

    def filter(self, x: Tensor) -> Tensor:
        """What of x (B, L, D) enters the signal."""
        return x if self.input_mask is None else x * self.input_mask(x.transpose(1, 2)).transpose(1, 2).sigmoid()
