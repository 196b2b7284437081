"""Transformer-XL: the layers of a segment also read what the layers below them said of the segments before it.

Dai et al. 2019, arXiv:1901.02860, section 3.2 (recurrence), 3.3 (relative positions); kimiyoung/transformer-xl
`pytorch/mem_transformer.py`. For token i and key j of layer n, over c = [sg(memory) ; h]:

    A_ij = ((q_i + u) k_j + (q_i + v) r_{i-j}) / sqrt(D/H)      r_d = W_r sinusoid(d)

u and v are shared by all layers, W_r is each layer's own. The memory keeps the last `memory_length` inputs of every layer, with
their gradient stopped; the open segment keeps its own, with gradient, so that any cut of a sequence into calls is exact.

Departures: norms before the sublayers by default (`post_norm` is the paper's); no scaling of embeddings; no `same_length` and no
`clamp_len`; n memories instead of n + 1, as the last layer's output is never read; unwritten rows are masked, not read as zeros.
Shape letters: B batch, T time, L segment length, C memory length, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State
from .pieces import Piece, read_in_pieces
from .segment_transformer import SegmentTransformer

Beside = Callable[[int, Tensor], Tensor]  # layer and its queries (B, H, T, D/H) -> what is read beside its attention (B, T, D)


class TransformerXL(Backbone):
    """State: memory.n (B, C, D) and open.n (B, L-1, D), inputs of layer n; fill (B,) written rows of C; seg_pos (B,) of L."""

    sinusoids: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        segment_length: int = 16,
        memory_length: int = 32,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if segment_length < 1 or memory_length < 0:
            raise UserError(
                f"transformer-xl: segment_length must be at least 1 and memory_length at least 0, got {segment_length}, {memory_length}"
            )
        self.trunk = SegmentTransformer(
            input_size, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, post_norm=post_norm
        )
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))  # u (H, 1, D/H)
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))  # v (H, 1, D/H)
        self.position_maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.input_size, self.output_size, self.heads = input_size, width, heads
        self.segment_length, self.memory_length = segment_length, memory_length
        self.spec = MemorySpec("transformer-xl", width, layers, segment_length, capacity=memory_length, memory_layers=tuple(range(layers)))
        distance = torch.arange(memory_length + segment_length)[:, None]
        angle = distance * 10000.0 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("sinusoids", torch.cat([angle.sin(), angle.cos()], dim=1), persistent=False)  # (C + L, D)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        device, dtype = device or self.content_bias.device, dtype or self.content_bias.dtype
        lengths = {"memory": self.memory_length, "open": self.segment_length - 1}
        names = [(kind, n) for n in range(len(self.trunk.blocks)) for kind in lengths]
        state = {f"{kind}.{n}": torch.zeros(batch, lengths[kind], self.output_size, device=device, dtype=dtype) for kind, n in names}
        return {**state, **{name: torch.zeros(batch, device=device, dtype=torch.int32) for name in ("fill", "seg_pos")}}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        hidden, state = read_in_pieces(
            self.read,
            x,
            state,
            partial(self.initial_state, len(x), device=x.device, dtype=state["memory.0"].dtype),
            segment_length=self.segment_length,
            reset=reset,
            pad=pad,
            write=write,
        )
        return Output(hidden, state, x.new_zeros(()))

    def read(self, piece: Piece, state: State, beside: Beside | None = None) -> tuple[Tensor, State]:
        """Hidden rows (B, T, D) of a piece, and the state after it. `beside` says what another memory adds to the heads of a layer."""
        return self._read_beginning(piece, state, beside) if piece.clock == 0 else self._read_part(piece, state, beside)

    def _read_beginning(self, piece: Piece, state: State, beside: Beside | None) -> tuple[Tensor, State]:
        """A segment from its beginning in all streams: what is kept of a whole one goes straight to the memory."""
        C, L, T, device = self.memory_length, self.segment_length, piece.x.shape[1], piece.x.device
        key = torch.arange(C + T, device=device)
        unseen = (key < C - state["fill"][:, None, None, None]) | (key > C + torch.arange(T, device=device)[:, None])  # (B, 1, T, C + T)
        after: State = {}
        h = self.trunk.embed(piece.x)
        for n, block in enumerate(self.trunk.blocks):
            rows = torch.cat([state[f"memory.{n}"].to(h.dtype), h], dim=1)  # (B, C + T, D)
            if T == L:
                after[f"memory.{n}"] = rows[:, L:].detach()
            elif piece.kept:
                after[f"open.{n}"] = functional.pad(h, (0, 0, 0, L - 1 - T))
            q = block.queries(h)  # (B, H, T, D/H)
            bias = relative_shift((q + self.position_bias) @ self._positions(n)[:, : C + T].flip(1).transpose(1, 2))
            h = h if beside is None else h + beside(n, q)
            h = self._attend(block, h, q, rows, bias.masked_fill(unseen, -torch.inf))
        if T == L:
            after["fill"] = (state["fill"] + L).clamp(max=C)
        else:
            after["seg_pos"] = torch.full_like(state["seg_pos"], T)
        return self.trunk.norm(h), state | after

    def _read_part(self, piece: Piece, state: State, beside: Beside | None) -> tuple[Tensor, State]:
        """Part of a segment, each stream at its own place: rows are put behind those of the open segment that are there."""
        B, T, _ = piece.x.shape
        C, L, device = self.memory_length, self.segment_length, piece.x.device
        token = torch.arange(T, device=device)
        length = torch.full_like(state["seg_pos"], T) if piece.length is None else piece.length
        slots = torch.where(token < length[:, None], C + state["seg_pos"][:, None] + token, C + L)  # (B, T); nobody sees C + L
        key = torch.arange(C + L, device=device)
        distance = slots[:, None, :, None] - key  # (B, 1, T, C + L)
        unseen = (distance < 0) | (key < C - state["fill"][:, None, None, None])
        distance = distance.clamp(0, C + L - 1).expand(B, self.heads, T, C + L)
        kept: State = {}
        h = self.trunk.embed(piece.x)
        for n, block in enumerate(self.trunk.blocks):
            old = [state[f"memory.{n}"].to(h.dtype), state[f"open.{n}"].to(h.dtype), h.new_zeros(B, 2, h.shape[-1])]
            kept[str(n)] = torch.cat(old, dim=1).scatter(1, slots[..., None].expand(h.shape), h)[:, :-1]  # (B, C + L, D)
            q = block.queries(h)  # (B, H, T, D/H)
            bias = ((q + self.position_bias) @ self._positions(n).transpose(1, 2)).gather(3, distance)
            h = h if beside is None else h + beside(n, q)
            h = self._attend(block, h, q, kept[str(n)], bias.masked_fill(unseen, -torch.inf))
        seg_pos = state["seg_pos"] + length.to(torch.int32)
        return self.trunk.norm(h), self._close(kept, state, seg_pos)

    def _close(self, kept: State, state: State, seg_pos: Tensor) -> State:
        """The state after rows (B, C + L, D) of every layer: streams whose segment is full move it into their memory."""
        C, L = self.memory_length, self.segment_length
        closes = seg_pos == L
        after = {
            "fill": torch.where(closes, (state["fill"] + L).clamp(max=C), state["fill"]),
            "seg_pos": seg_pos.masked_fill(closes, 0),
        }
        for n, rows in kept.items():
            after[f"memory.{n}"] = torch.where(closes[:, None, None], rows[:, L:], rows[:, :C]).detach()
            after[f"open.{n}"] = rows[:, C:-1].masked_fill(closes[:, None, None], 0)
        return after

    def _positions(self, layer: int) -> Tensor:
        """r_d of one layer for d = 0 ... C + L - 1: (H, C + L, D/H)."""
        return self.position_maps[layer](self.sinusoids).view(len(self.sinusoids), self.heads, -1).transpose(0, 1)

    def _attend(self, block: nn.Module, h: Tensor, q: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """The next layer's rows; `bias` (B, H, T, S) is the part of A that depends on distance, before its scale."""
        k, v = block.keys_values(rows)  # (B, H, S, D/H)
        return block.finish(h, scaled_dot_product_attention(q + self.content_bias, k, v, attn_mask=bias * q.shape[-1] ** -0.5))


def relative_shift(scores: Tensor) -> Tensor:
    """(..., L, S) with column j for distance S-1-j becomes column j for key j, where query i stands at key S-L+i.

    Entries of keys after the query are left over from other rows and must be masked. Dai et al. 2019, appendix B.
    """
    *head, L, S = scores.shape
    padded = torch.cat([scores.new_zeros(*head, L, 1), scores], dim=-1)  # (..., L, S + 1)
    return padded.view(*head, S + 1, L)[..., 1:, :].reshape(*head, L, S)
