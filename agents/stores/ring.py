"""A ring of slots for each stream, on the device: a full memory forgets its oldest entries, one for each that is written.

Wu et al. 2022, arXiv:2203.08913, section 3.2 (a cache of fixed size for each document of the batch, first in, first out).
Reading is exact (`streaming`). Spec: memory.md 3.4; tests A7 and A9. Shape letters as in `store`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clbench.errors import UserError

from . import streaming
from .store import Attended, State


class RingStore:
    """State: keys (B, H, M, dk), values (B, H, M, dv); ptr, fill (B,). Gradients flow into what was appended, if it has any."""

    notes = False

    def empty(
        self,
        batch: int,
        heads: int,
        capacity: int,
        key_width: int,
        value_width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """`capacity` empty slots for each stream."""
        if capacity < 1:
            raise UserError(f"memory: capacity must be at least 1 entry, got {capacity}")
        widths = {"keys": key_width, "values": value_width}
        rows = {name: torch.zeros(batch, heads, capacity, width, device=device, dtype=dtype) for name, width in widths.items()}
        return {**rows, **{name: torch.zeros(batch, device=device, dtype=torch.int32) for name in ("ptr", "fill")}}

    def entry_bytes(self, heads: int, key_width: int, value_width: int, dtype: torch.dtype | None = None) -> int:
        """A key and a value for each head."""
        return heads * (key_width + value_width) * (dtype or torch.get_default_dtype()).itemsize

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """A copy of the memory in which the last M valid tokens have taken the place of the oldest entries."""
        tokens = arrange(state, k.shape[2], valid)
        slot, clocks = self._place(state, tokens)
        rows = {name: state[name].scatter(2, *_written(state[name], new, tokens, slot)) for name, new in (("keys", k), ("values", v))}
        return {**state, **rows, **clocks}

    def append_in_place(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> None:
        """`append` into the tensors of a state that the caller owns; no memory is copied. Not where gradients are recorded."""
        assert not torch.is_grad_enabled(), "append_in_place would change tensors that a backward pass may need"
        tokens = arrange(state, k.shape[2], valid)
        slot, clocks = self._place(state, tokens)
        for name, new in (("keys", k), ("values", v)):
            state[name].scatter_(2, *_written(state[name], new, tokens, slot))
        for name, clock in clocks.items():
            state[name].copy_(clock)

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Exact, whether over all entries or over the nearest."""
        if topk is None or topk >= state["keys"].shape[2]:
            return streaming.attend_all(state, q, scale)
        return streaming.attend_nearest(state, q, topk, scale)

    def noted(self, state: State, attended: Attended, valid: Tensor | None = None) -> State:
        """`state` itself: the oldest entry goes, read or not."""
        return state

    def _place(self, state: State, tokens: Tokens) -> tuple[Tensor, State]:
        """The slot (B, T) of every token and the clocks after all of them."""
        capacity, count = state["keys"].shape[2], tokens.count[:, 0]
        slot = (state["ptr"].long()[:, None] + tokens.rank) % capacity
        ptr, fill = (state["ptr"] + count) % capacity, (state["fill"] + count).clamp(max=capacity)
        return slot, {"ptr": ptr.to(torch.int32), "fill": fill.to(torch.int32)}


class Tokens(NamedTuple):
    """Which tokens of a call are written. Of each stream the last M valid ones are kept; any other stands for the last of these.

    No slot is then written with two values, so that the order of writing does not matter.
    """

    source: Tensor  # (B, T) the token that is written in each one's stead: itself where it is kept
    kept: Tensor  # (B, T)
    rank: Tensor  # (B, T) of `source` among its stream's valid tokens; 0 where it has none
    count: Tensor  # (B, 1) of valid tokens


def arrange(state: State, length: int, valid: Tensor | None) -> Tokens:
    """What becomes of `length` tokens, of which valid (B, T) are there."""
    fill, capacity = state["fill"], state["keys"].shape[2]
    there = torch.ones(len(fill), length, dtype=torch.bool, device=fill.device) if valid is None else valid.to(fill.device)
    rank = there.cumsum(1) - 1  # (B, T)
    count = rank[:, -1:] + 1  # (B, 1)
    kept = there & (rank >= count - capacity)
    token = torch.arange(length, device=fill.device).expand(len(fill), -1)
    last = torch.where(there, token, 0).amax(1, keepdim=True)  # (B, 1)
    source = torch.where(kept, token, last)
    return Tokens(source, kept, rank.gather(1, source).clamp(min=0), count)


def _written(rows: Tensor, new: Tensor, tokens: Tokens, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Index and source (B, H, T, d) of the scatter of new (B, H, T, d) into rows (B, H, M, d)."""
    new = new.to(rows.device, rows.dtype)
    index = slot[:, None, :, None].expand(new.shape)
    moved = new.gather(2, tokens.source[:, None, :, None].expand(new.shape))
    any_token = (tokens.count > 0)[:, :, None, None]  # (B, 1, 1, 1); a stream without one writes what is there already
    repeated = torch.where(any_token, moved, rows.gather(2, index)).detach()
    return index, torch.where(tokens.kept[:, None, :, None], new, repeated)
