"""A memory that forgets what has not been read for longest: for memories of a lifetime, in which age alone says little.

Not of the Memorizing Transformer, whose memory is first in, first out; the rule is that of a cache (least recently used). An entry counts
as read when it is written. Entries that were read by the same token leave in the order in which they came, so that any cut of a stream
into calls keeps the same entries in the same slots. Where all entries are read (no top-k), it is first in, first out.
Spec: memory.md 3.4. Shape letters as in `store`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ring import RingStore, Tokens
from .store import Attended, State


class LeastRecentlyReadStore(RingStore):
    """State: as `RingStore` without ptr; written (B, M) and read (B, M) int32, of each entry; writes (B,) and reads (B,), tokens so far."""

    notes = True

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
        state = super().empty(batch, heads, capacity, key_width, value_width, device=device, dtype=dtype)
        clock = state.pop("ptr")
        notes = {name: clock.new_zeros(batch, capacity) for name in ("written", "read")}
        return {**state, **notes, "writes": clock, "reads": clock.clone()}

    def entry_bytes(self, heads: int, key_width: int, value_width: int, dtype: torch.dtype | None = None) -> int:
        """A key and a value for each head, and when it was written and read."""
        return super().entry_bytes(heads, key_width, value_width, dtype) + 2 * torch.int32.itemsize

    def noted(self, state: State, attended: Attended, valid: Tensor | None = None) -> State:
        """The memory in which every entry knows the last token that read it."""
        reads, device = attended.diagnostics["reads"], state["read"].device
        valid = torch.ones_like(reads, dtype=torch.bool) if valid is None else valid
        time = (state["reads"][:, None] + valid.to(device).cumsum(1)).to(torch.int32)  # (B, T)
        selected = attended.diagnostics.get("selected")
        if selected is None:
            entry = torch.arange(state["read"].shape[1], device=device) < state["fill"][:, None]  # (B, M)
            read = torch.where(valid.to(device).any(1, keepdim=True) & entry, time[:, -1:], state["read"])
        else:
            there = (selected >= 0) & (selected < state["fill"].to(selected.device)[:, None, None, None]) & valid[:, None, :, None]
            stamp = torch.where(there.to(device), time[:, None, :, None], 0)  # (B, H, T, k)
            read = state["read"].scatter_reduce(1, selected.clamp(min=0).to(device).flatten(1), stamp.flatten(1), "amax")
        return {**state, "read": read, "reads": time[:, -1]}

    def _place(self, state: State, tokens: Tokens) -> tuple[Tensor, State]:
        """Empty slots first, then those of the entries that have not been read for longest."""
        capacity, count = state["keys"].shape[2], tokens.count
        slots = torch.arange(capacity, device=count.device)
        order = torch.where(slots < state["fill"][:, None], state["read"].long() << 32 | state["written"].long(), slots - capacity)
        slot = order.argsort(1).gather(1, tokens.rank % capacity)  # (B, T)
        number = torch.where(count > 0, state["writes"][:, None] + tokens.rank, state["written"].gather(1, slot)).to(torch.int32)
        last_read = torch.where(count > 0, state["reads"][:, None], state["read"].gather(1, slot))
        return slot, {
            "fill": (state["fill"] + count[:, 0]).clamp(max=capacity).to(torch.int32),
            "written": state["written"].scatter(1, slot, number),
            "read": state["read"].scatter(1, slot, last_read),
            "writes": (state["writes"] + count[:, 0]).to(torch.int32),
        }
