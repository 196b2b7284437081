"""The recurrent memory transformer in its decoder form: memory tokens in front of a segment are read, those behind it written.

Bulatov, Kuratov, Burtsev 2022, arXiv:2207.06881, section 3, equations of "RMT"; 2023, arXiv:2304.11062. For segment s with
memory m_s (M rows):

    h_0 = [m_s ; x_s ; m_s]          both copies are the same tensor
    [read ; hidden ; m_s+1] = layers(h_0)

Read rows see each other; tokens see the read rows and their own past; write rows see everything. The new memory is the output
of the last layer at the write rows. Gradients flow through it from segment to segment until the learner detaches the state.

With `cache_length` C > 0 each layer also keeps the keys and values of the last C tokens of earlier segments, as Transformer-XL does
(the authors' RMT with a cache, section 4.1): tokens and write rows see them, read rows do not, and no gradient enters them. They stand in
front of the memory, at the positions -C to -1; when a segment closes, keys are turned on by its length.

Departures: rotary positions inside the concatenated segment instead of Transformer-XL's relative ones (spec 13.3 uses the same);
norms before the sublayers by default, so that the memory has passed the final norm, as in the authors' Hugging Face code; the M
initial rows are drawn apart (the authors replicate one), with entries of deviation `initial_std`: 1 is the size of the entries of tokens
and of a written memory, the authors begin with that of their embeddings, .02. Under small ones the first write rows are what they read, and
copying took off earlier and reached further on six seeds of seven. The cache holds keys and values, not the hidden states that they
were made of, so that old ones are those of older weights.
Shape letters: B batch, T time, L segment length, M memory tokens, C cached tokens, R rows, H heads, D width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from clbench.errors import UserError

from . import state as states
from .backbone import Backbone, MemorySpec, Output, State
from .pieces import Piece, put, read_in_pieces, slots_of
from .segment_transformer import SegmentTransformer, rotary, rotate

_KINDS = ("keys", "values")


class RecurrentMemoryTransformer(Backbone):
    """State: memory (B, M, D), seg_pos (B,) tokens in the open segment, and that segment's keys.n, values.n (B, H, M+L-1, D/H).

    Every row of a segment has a slot: M to read, L tokens, M to write, and one that nobody sees. A row sees the slots before
    `reach[slot]`, so that a segment that is read in parts, each stream at its own place, needs no other mask.
    With a cache also cache.keys.n, cache.values.n (B, H, C, D/H), of which the last cache.fill (B,) hold a token.
    `bptt_segments` k > 0 lets the loss at a call's end reach the inputs of its last k segments only; 0: of all.
    """

    visible: Tensor
    turn: Tensor
    back: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        segment_length: int = 16,
        memory_tokens: int = 4,
        bptt_segments: int = 0,
        initial_std: float = 1.0,
        cache_length: int = 0,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if segment_length < 1 or memory_tokens < 0 or bptt_segments < 0:
            raise UserError(
                "rmt: segment_length must be at least 1, memory_tokens and bptt_segments at least 0, "
                f"got {segment_length}, {memory_tokens}, {bptt_segments}"
            )
        self.trunk = SegmentTransformer(
            input_size, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, post_norm=post_norm
        )
        if initial_std < 0 or cache_length < 0:
            raise UserError(f"rmt: initial_std and cache_length must be at least 0, got {initial_std} and {cache_length}")
        self.memory = nn.Parameter(initial_std * torch.randn(memory_tokens, width))  # (M, D)
        self.input_size, self.output_size, self.heads = input_size, width, heads
        self.segment_length, self.memory_tokens, self.bptt_segments = segment_length, memory_tokens, bptt_segments
        self.cache_length = cache_length
        kind = f"rmt with a cache of {cache_length}" if cache_length else "rmt"
        self.spec = MemorySpec(kind, width, layers, segment_length, capacity=memory_tokens)
        M, L = memory_tokens, segment_length
        reach = torch.cat([torch.full((M,), M), torch.arange(M, M + L) + 1, torch.full((M,), M + L + M), torch.ones(1)])
        self.register_buffer("visible", torch.arange(M + L + M + 1) < reach[:, None], persistent=False)  # (2M+L+1, 2M+L+1)
        turn = rotary(torch.arange(M + L + M + 1.0), width // heads)
        self.register_buffer("turn", turn, persistent=False)  # (2M+L+1, D/2H, 2)
        back = rotary(torch.tensor([-float(L), -float(L + M)]), width // heads)  # of what is cached, and of what a segment adds to it
        self.register_buffer("back", back, persistent=False)  # (2, D/2H, 2)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        device, dtype = device or self.memory.device, dtype or self.memory.dtype
        shape = (batch, self.heads, self.memory_tokens + self.segment_length - 1, self.output_size // self.heads)
        names = [f"{kind}.{n}" for n in range(len(self.trunk.blocks)) for kind in _KINDS]
        state = {name: torch.zeros(shape, device=device, dtype=dtype) for name in names}  # (B, H, M+L-1, D/H)
        memory = self.memory.to(device=device, dtype=dtype).repeat(batch, 1, 1)  # (B, M, D)
        if self.cache_length:
            nothing = torch.zeros(batch, self.heads, self.cache_length, shape[-1], device=device, dtype=dtype)  # (B, H, C, D/H)
            state |= {f"cache.{name}": nothing.clone() for name in names}
            state["cache.fill"] = torch.zeros(batch, device=device, dtype=torch.int32)
        return {"memory": memory, "seg_pos": torch.zeros(batch, device=device, dtype=torch.int32), **state}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        hidden, state = read_in_pieces(
            self._read,
            x,
            state,
            partial(self.initial_state, len(x), device=x.device, dtype=state["keys.0"].dtype),
            segment_length=self.segment_length,
            reset=reset,
            pad=pad,
            write=write,
            bptt_segments=self.bptt_segments,
        )
        return Output(hidden, state, x.new_zeros(()))

    def rows(self, state: State) -> Tensor:
        """What a segment reads in front of its tokens and what it writes upon behind them: (B, M, D)."""
        return state["memory"]

    def before_layer(self, layer: int, h: Tensor, state: State) -> Tensor:
        """Rows h (B, R, D) as a layer reads them."""
        return h

    def after_layer(self, layer: int, written: Tensor, state: State) -> State:
        """What a closed segment changes in `state`, from the rows `written` (B, M, D) as they come out of a layer."""
        return {}

    def after_segment(self, written: Tensor) -> State:
        """What a closed segment changes in `state`, from the rows `written` (B, M, D) as they come out of the last norm."""
        return {"memory": written}

    def _read(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        return self._read_beginning(piece, state) if piece.clock == 0 else self._read_part(piece, state)

    def _read_beginning(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        """A segment from its beginning in all streams: nothing is looked up, and after a whole one nothing kept but the memory."""
        M, L, T = self.memory_tokens, self.segment_length, piece.x.shape[1]
        memory, x = self.rows(state), self.trunk.embed(piece.x)
        writes = M if T == L else 0
        h = torch.cat([memory.to(x.dtype), x, memory[:, :writes].to(x.dtype)], dim=1)  # (B, R, D)
        R = h.shape[1]
        mask, turn = self._beside_cache(self.visible[:R, :R], torch.arange(R, device=h.device)[None], state), self.turn[:R]
        after: State = {}
        for n, block in enumerate(self.trunk.blocks):
            h = self.before_layer(n, h, state)
            q, k, v = block.project(h)  # (B, H, R, D/H)
            k = rotate(k, turn)
            h = block.finish(h, scaled_dot_product_attention(rotate(q, turn), *self._behind_cache(n, state, k, v), attn_mask=mask))
            if T == L:
                after |= self.after_layer(n, h[:, M + L :], state) | self._cached(n, state, k, v)
            elif piece.kept:
                after[f"keys.{n}"], after[f"values.{n}"] = (functional.pad(new, (0, 0, 0, M + L - 1 - R)) for new in (k, v))
        h = self.trunk.norm(h)
        after |= self.after_segment(h[:, M + L :]) if T == L else {"seg_pos": torch.full_like(state["seg_pos"], T)}
        return h[:, M : M + T], state | after

    def _read_part(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        """Part of a segment: rows are put at their slots among those kept, and read all that is written up to there."""
        M, L, T = self.memory_tokens, self.segment_length, piece.x.shape[1]
        slots, reads, writes = slots_of(piece, state["seg_pos"], M, L)  # (B or 1, R)
        memory, x = self.rows(state), self.trunk.embed(piece.x)
        h = torch.cat([memory[:, :reads].to(x.dtype), x, memory[:, :writes].to(x.dtype)], dim=1)  # (B, R, D)
        mask, turn = self._beside_cache(self.visible[slots][:, None], slots, state), self.turn[slots][:, None]
        opened: State = {}
        closed: State = {}
        for n, block in enumerate(self.trunk.blocks):
            h = self.before_layer(n, h, state)
            q, k, v = block.project(h)  # (B, H, R, D/H)
            k = put(state[f"keys.{n}"], rotate(k, turn), slots, len(self.visible))  # (B, H, 2M+L+1, D/H)
            v = put(state[f"values.{n}"], v, slots, len(self.visible))
            h = block.finish(h, scaled_dot_product_attention(rotate(q, turn), *self._behind_cache(n, state, k, v), attn_mask=mask))
            opened[f"keys.{n}"], opened[f"values.{n}"] = k[:, :, : M + L - 1], v[:, :, : M + L - 1]
            if writes:
                closed |= self.after_layer(n, h[:, reads + T :], state) | self._cached(n, state, k, v)
        h = self.trunk.norm(h)
        seg_pos = state["seg_pos"] + (T if piece.length is None else piece.length.to(torch.int32))
        closes = seg_pos == L
        after = {name: leaf.masked_fill(closes[:, None, None, None], 0) for name, leaf in opened.items()}
        if writes:
            after |= states.where(closes, closed | self.after_segment(h[:, reads + T :]), state)
        return h[:, reads : reads + T], state | after | {"seg_pos": seg_pos.masked_fill(closes, 0)}

    def _beside_cache(self, mask: Tensor, slots: Tensor, state: State) -> Tensor:
        """What rows at slots (B or 1, R) see: the mask (..., R, S), behind what they see of the cache."""
        C = self.cache_length
        if not C:
            return mask
        held = torch.arange(C, device=mask.device) >= C - state["cache.fill"][:, None, None, None]  # (B, 1, 1, C)
        cached = held & (slots >= self.memory_tokens)[:, None, :, None]  # (B, 1, R, C)
        return torch.cat([cached, mask.expand(*cached.shape[:3], mask.shape[-1])], dim=-1)

    def _behind_cache(self, n: int, state: State, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, D/H) of layer n, behind those of its cache."""
        if not self.cache_length:
            return k, v
        keys, values = (torch.cat([state[f"cache.{kind}.{n}"].to(new.dtype), new], dim=2) for kind, new in zip(_KINDS, (k, v), strict=True))
        return keys, values

    def _cached(self, n: int, state: State, k: Tensor, v: Tensor) -> State:
        """The cache of layer n behind a segment with keys and values (B, H, 2M + L or more, D/H) at their slots."""
        M, L, C = self.memory_tokens, self.segment_length, self.cache_length
        if not C:
            return {}
        old = rotate(state[f"cache.keys.{n}"].to(k.dtype), self.back[:1]), state[f"cache.values.{n}"].to(v.dtype)
        new = rotate(k[:, :, M : M + L].detach(), self.back[1:]), v[:, :, M : M + L].detach()
        after = {f"cache.{kind}.{n}": torch.cat([was, now], dim=2)[:, :, -C:] for kind, was, now in zip(_KINDS, old, new, strict=True)}
        return {**after, "cache.fill": (state["cache.fill"] + L).clamp(max=C).to(torch.int32)}
