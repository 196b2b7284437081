"""A ring of slots in host memory: for memories that a device cannot hold. Chunks of keys travel to the queries, and so do the rows read.

The numbers are those of `RingStore`. Where there is a CUDA device the host memory is pinned, so that chunks travel without being copied
once more. A state of this store must stay in host memory: `states.to(state, device)` would undo what it is for.
Spec: memory.md 3.4. Shape letters as in `store`.
"""

from __future__ import annotations

import torch

from .ring import RingStore
from .store import State


class PagedStore(RingStore):
    """As `RingStore`, with every leaf in host memory, whatever device is asked for; queries may be on any device."""

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
        """`capacity` empty slots for each stream, in host memory."""
        state = super().empty(batch, heads, capacity, key_width, value_width, device="cpu", dtype=dtype)
        return {name: leaf.pin_memory() for name, leaf in state.items()} if torch.cuda.is_available() else state
