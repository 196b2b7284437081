"""Which store a memory of a given size is to lie in, as `clbench benchmark memory-stores` measures it.

On one CPU thread the ring's streaming selection takes less time than faiss's exact one from 2^11 to 2^20 keys (the benchmark's sizes), so
that there is no size from which faiss is chosen; its indexes are approximate, and for whoever asks for them. On a device the ring is
taken as long as its memory leaves room for the model, and host memory beyond that: every chunk then travels.
Spec: memory.md 3.5. Shape letters as in `store`.
"""

from __future__ import annotations

import torch

from .paged import PagedStore
from .ring import RingStore
from .store import MemoryStore

SHARE_OF_FREE_MEMORY = 0.25  # a write that keeps the old state needs the memory twice, the model and its gradients the rest


def choose(
    batch: int,
    heads: int,
    capacity: int,
    key_width: int,
    value_width: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    device_bytes: int | None = None,
) -> MemoryStore:
    """The fastest exact store for a memory of this shape that fits `device_bytes` (None: a quarter of what is free now)."""
    device, ring = torch.device(device), RingStore()
    if device.type != "cuda":
        return ring
    room = SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0] if device_bytes is None else device_bytes
    needed = batch * capacity * ring.entry_bytes(heads, key_width, value_width, dtype)
    return ring if needed <= room else PagedStore()
