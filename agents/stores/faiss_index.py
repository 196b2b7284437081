"""Approximate indexes of faiss over the keys of each stream and head, kept in step with a ring of slots without ever being emptied.

An index here only grows: entries get numbers in order of time, those that the ring has overwritten are passed over by the search, and an
index is built anew once it holds twice as many as it was built with (so that building costs a constant factor and lists and links fit
what is there). lucidrains/memorizing-transformers-pytorch instead empties its index when it is full, and loses all memory.
The entries found are approximate, and depend on when the index was built: A10 of memory.md 7.3 asks for a recall of 0.9.
Spec: memory.md 3.5 and 7.4. Shape letters as in `store`; n rows, d width of a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .store import State

Rows = NDArray[np.float32]
LEAST_BUILT = 256  # entries: an index with fewer is not built anew
TRAINING_ROWS = 39  # faiss asks for as many per list


class Index(Protocol):
    """A kind of index and its options."""

    def build(self, faiss: ModuleType, rows: Rows) -> Any:
        """An index for inner products that holds rows (n, d), numbered in their order; n may be 0."""
        ...

    def parameters(self, faiss: ModuleType, index: Any, live: Any) -> Any:
        """How `index` is to be searched among the entries that `live` selects."""
        ...


@dataclass(frozen=True)
class InvertedFile:
    """Keys in `lists` clusters, of which a query searches `probes`; fewer lists where there are too few keys to train them."""

    lists: int = 64
    probes: int = 16

    def build(self, faiss: ModuleType, rows: Rows) -> Any:
        """k-means over the rows, and the rows in its lists."""
        lists = min(self.lists, len(rows) // TRAINING_ROWS)
        if lists < 2:
            index = faiss.IndexFlatIP(rows.shape[1])
        else:
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
            index.train(rows)
        index.add(rows)
        return index

    def parameters(self, faiss: ModuleType, index: Any, live: Any) -> Any:
        """The `probes` nearest lists."""
        return faiss.SearchParametersIVF(sel=live, nprobe=self.probes) if hasattr(index, "nlist") else faiss.SearchParameters(sel=live)


@dataclass(frozen=True)
class Graph:
    """A hierarchical graph of near neighbours (HNSW; Malkov and Yashunin 2018, arXiv:1603.09320) with `links` links a node.

    `build_width` and `search_width` are the candidates held while a row is added and while one is sought.
    """

    links: int = 32
    build_width: int = 64
    search_width: int = 256

    def build(self, faiss: ModuleType, rows: Rows) -> Any:
        """A graph of the rows."""
        index = faiss.IndexHNSWFlat(rows.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_width
        index.add(rows)
        return index

    def parameters(self, faiss: ModuleType, index: Any, live: Any) -> Any:
        """`search_width` candidates."""
        return faiss.SearchParametersHNSW(sel=live, efSearch=self.search_width)


class Indexed:
    """The indexes (B x H) of one state. It knows which state that is, and follows the writes of its store."""

    def __init__(self, faiss: ModuleType, kind: Index, state: State) -> None:
        self._faiss, self._kind = faiss, kind
        fill, (B, H, self._capacity, _) = state["fill"].tolist(), state["keys"].shape
        self._origin, self._count, self._built_with = [0] * B, fill, [0] * B  # of each stream: the slot of entry 0, entries so far
        self._indexes: list[list[Any]] = [[None] * H for _ in range(B)]
        for b in range(B):
            self._build(state, b)
        self._of = _signature(state)

    def belongs_to(self, state: State) -> bool:
        """Whether nothing has been written into `state` since, but by its store."""
        return self._of == _signature(state)

    def follow(self, state: State, added: list[int]) -> None:
        """Take in the last `added` entries of each stream of `state`, which is what became of the one that was indexed."""
        for b, new in enumerate(added):
            self._count[b] += new
            if self._count[b] >= 2 * max(self._built_with[b], LEAST_BUILT):
                self._build(state, b)
            elif new:
                for index, rows in zip(self._indexes[b], self._rows(state, b, new), strict=True):
                    index.add(rows)
        self._of = _signature(state)

    def search(self, b: int, h: int, q: Rows, topk: int) -> NDArray[np.int64]:
        """Slots (n, topk) of the entries found for q (n, d); -1 where there are too few."""
        index, count, capacity = self._indexes[b][h], self._count[b], self._capacity
        live = self._faiss.IDSelectorRange(max(0, count - capacity), count)
        _, found = index.search(q, topk, params=self._kind.parameters(self._faiss, index, live))
        return np.where(found < 0, -1, (found + self._origin[b]) % capacity)

    def _build(self, state: State, b: int) -> None:
        fill = int(state["fill"][b])
        self._origin[b], self._count[b], self._built_with[b] = (int(state["ptr"][b]) - fill) % self._capacity, fill, fill
        self._indexes[b] = [self._kind.build(self._faiss, rows) for rows in self._rows(state, b, fill)]

    def _rows(self, state: State, b: int, count: int) -> Rows:
        """Keys (H, count, d) of the last `count` entries, oldest first."""
        slots = (int(state["ptr"][b]) - count + torch.arange(count)) % self._capacity
        return rows_of(state["keys"][b, :, slots])


def rows_of(x: Tensor) -> Rows:
    """`x` as faiss wants it; without a copy where it lies in host memory in float32 and without gaps."""
    return x.detach().to("cpu", torch.float32).contiguous().numpy()


def _signature(state: State) -> tuple[object, ...]:
    """Equal for two states only if they hold the same entries: same memory, not written since, same clocks."""
    keys = state["keys"]
    place = (StorageWeakRef(keys.untyped_storage()), keys.data_ptr(), keys.stride(), keys.shape, keys._version)
    return (*place, state["ptr"].tolist(), state["fill"].tolist())
