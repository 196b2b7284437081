"""A ring of slots for each stream, on the device: a full memory forgets its oldest entries, one for each that is written.

Wu et al. 2022, arXiv:2203.08913, section 3.2 (a cache of fixed size for each document of the batch, first in, first out).
Reading is exact (`streaming`). Spec: memory.md 3.4; tests A7 and A9. Shape letters as in `store`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.errors import UserError

from . import streaming
from .store import Attended, State


class RingStore:
    """State: keys (B, H, M, dk), values (B, H, M, dv); ptr, fill (B,). Gradients flow into what was appended, if it has any."""

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

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """A copy of the memory in which the last M valid tokens have taken the place of the oldest entries."""
        place = _Place(state, k.shape[2], valid)
        rows = {name: state[name].scatter(2, *place.written(state[name], new)) for name, new in (("keys", k), ("values", v))}
        return {**state, **rows, **place.clocks(state)}

    def append_in_place(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> None:
        """`append` into the tensors of a state that the caller owns; nothing is copied. Not where gradients are recorded."""
        assert not torch.is_grad_enabled(), "append_in_place would change tensors that a backward pass may need"
        place = _Place(state, k.shape[2], valid)
        for name, new in (("keys", k), ("values", v)):
            state[name].scatter_(2, *place.written(state[name], new))
        for name, clock in place.clocks(state).items():
            state[name].copy_(clock)

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Exact, whether over all entries or over the nearest."""
        if topk is None or topk >= state["keys"].shape[2]:
            return streaming.attend_all(state, q, scale)
        return streaming.attend_nearest(state, q, topk, scale)

    def noted(self, state: State, attended: Attended) -> State:
        """`state` itself: the oldest entry goes, read or not."""
        return state


class _Place:
    """Where the tokens of one call go, such that no slot is written with two values and the order of writing does not matter.

    The last M valid ones of a stream have slots of their own; any other token repeats the last of these.
    """

    def __init__(self, state: State, tokens: int, valid: Tensor | None) -> None:
        B, device = len(state["ptr"]), state["ptr"].device
        capacity = state["keys"].shape[2]
        there = torch.ones(B, tokens, dtype=torch.bool, device=device) if valid is None else valid.to(device)
        rank = there.cumsum(1) - 1  # (B, T) of a valid token among its stream's
        self.count = rank[:, -1:] + 1  # (B, 1) of valid tokens
        self.kept = there & (rank >= self.count - capacity)  # (B, T)
        token = torch.arange(tokens, device=device).expand(B, -1)
        last = torch.where(there, token, 0).amax(1, keepdim=True)  # (B, 1)
        self.source = torch.where(self.kept, token, last)  # (B, T)
        self.slot = (state["ptr"].long()[:, None] + rank.gather(1, self.source).clamp(min=0)) % capacity  # (B, T)

    def written(self, rows: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Index and source (B, H, T, d) of a scatter of new (B, H, T, d) into rows (B, H, M, d)."""
        new = new.to(rows.device, rows.dtype)
        index = self.slot[:, None, :, None].expand(new.shape)
        moved = new.gather(2, self.source[:, None, :, None].expand(new.shape))
        any_token = (self.count > 0)[:, :, None, None]  # (B, 1, 1, 1); a stream without one writes what is there already
        repeated = torch.where(any_token, moved, rows.gather(2, index)).detach()
        return index, torch.where(self.kept[:, None, :, None], new, repeated)

    def clocks(self, state: State) -> State:
        """`ptr` and `fill` after the tokens."""
        capacity, count = state["keys"].shape[2], self.count[:, 0]
        ptr, fill = (state["ptr"] + count) % capacity, (state["fill"] + count).clamp(max=capacity)
        return {"ptr": ptr.to(torch.int32), "fill": fill.to(torch.int32)}
