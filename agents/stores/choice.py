"""Which store a memory of a given size is to lie in, as `clbench benchmark memory-stores` measures it.

On one CPU thread the ring's streaming selection takes less time than faiss's exact one from 2^11 to 2^20 keys (the benchmark's sizes), so
that there is no size from which faiss is chosen; its indexes are approximate, and for whoever asks for them. On a device the ring is
taken as long as its memory leaves room for the model, and host memory beyond that: every chunk then travels.
Spec: memory.md 3.5. Shape letters as in `store`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from clbench.errors import unknown_name

from .faiss_index import Graph, InvertedFile
from .faiss_store import FaissStore
from .least_recently_read import LeastRecentlyReadStore
from .paged import PagedStore
from .ring import RingStore
from .store import MemoryStore

StoreName = Literal["auto", "ring", "paged", "least-recently-read", "faiss", "faiss-ivf", "faiss-hnsw"]
STORES: dict[str, Callable[[], MemoryStore]] = {
    "auto": RingStore,  # whose reading serves a paged memory as well: see `choose`, which says where one is to lie
    "ring": RingStore,  # on the model's device; first in, first out
    "paged": PagedStore,  # in host memory
    "least-recently-read": LeastRecentlyReadStore,  # as the ring, but what was not read for longest is forgotten
    "faiss": FaissStore,  # exact search by faiss
    "faiss-ivf": lambda: FaissStore(InvertedFile()),  # approximate, in clusters
    "faiss-hnsw": lambda: FaissStore(Graph()),  # approximate, along a graph
}
SHARE_OF_MEMORY = 0.25  # a write that keeps the old state needs the memory twice, the model and its gradients the rest


def named(name: str) -> MemoryStore:
    """A store of the kind that an option names."""
    if name not in STORES:
        raise unknown_name("store", name, STORES, "agents/stores/choice.py")
    return STORES[name]()


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
    """The fastest exact store for a memory of this shape that fits `device_bytes` (None: a quarter of what the device has, used or not).

    So that the same shape always lies in the same place.
    """
    device, ring = torch.device(device), RingStore()
    if device.type != "cuda":
        return ring
    room = SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory if device_bytes is None else device_bytes
    needed = batch * capacity * ring.entry_bytes(heads, key_width, value_width, dtype)
    return ring if needed <= room else PagedStore()
