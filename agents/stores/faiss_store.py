"""A ring of slots in host memory whose nearest entries are found by faiss, one stream and head at a time.

Douze et al. 2024, arXiv:2401.08281. Without an index the search is exact (`faiss.knn`, on a GPU where faiss was built for one and the
queries are there) and the store as free of state as a ring; with an index it is approximate, and `faiss_index` says how it follows the
ring. Only which entries are read is faiss's; their scores are made again here, in the type of the queries and with gradients.
faiss decides among equal scores, and compares in float32. It reads all entries (no top-k) as the ring does.
Spec: memory.md 3.4; tests A7 and A10. Shape letters as in `store`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench.errors import UserError

from . import streaming
from .faiss_index import Index, Indexed, rows_of
from .paged import PagedStore
from .ring import arrange
from .store import Attended, State


class FaissStore(PagedStore):
    """State: that of `PagedStore`. An index is no part of it: it follows from the keys, and one state's is kept from call to call."""

    def __init__(self, index: Index | None = None) -> None:
        self.index = index
        self._faiss = imported_faiss()
        self._indexed: Indexed | None = None
        self._gpu: Any = None

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """As the ring; the index goes over to the new state, and one of `state` would be built anew."""
        after = super().append(state, k, v, valid)
        self._follow(state, after, k.shape[2], valid)
        return after

    def append_in_place(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> None:
        """As the ring."""
        belonged = self._indexed is not None and self._indexed.belongs_to(state)
        super().append_in_place(state, k, v, valid)
        if belonged and self._indexed is not None:
            self._indexed.follow(state, arrange(state, k.shape[2], valid).count[:, 0].tolist())

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Exact over the entries that were found; only an index may miss some."""
        if topk is None or topk >= state["keys"].shape[2]:
            return streaming.attend_all(state, q, scale)
        return streaming.attend_selected(state, q, self.nearest(state, q * scale, topk), scale)

    def nearest(self, state: State, q: Tensor, topk: int) -> Tensor:
        """Slots (B, H, T, topk) of the entries found for the largest q k; -1 where there are too few."""
        fills, (B, H, _, _) = state["fill"].tolist(), state["keys"].shape
        queries, found = rows_of(q), np.full((B, H, q.shape[2], topk), -1, dtype=np.int64)
        indexed = None if self.index is None else self._indexes(state)
        for b, h in ((b, h) for b in range(B) if fills[b] for h in range(H)):
            if indexed is None:
                found[b, h] = self._exact(state["keys"][b, h, : fills[b]], queries[b, h], topk, q.is_cuda)
            else:
                found[b, h] = indexed.search(b, h, queries[b, h], topk)
        return torch.from_numpy(found).to(q.device)

    def _exact(self, keys: Tensor, q: Any, topk: int, on_gpu: bool) -> Any:
        inner_product = self._faiss.METRIC_INNER_PRODUCT
        kept = min(topk, len(keys))
        if on_gpu and hasattr(self._faiss, "StandardGpuResources"):
            self._gpu = self._gpu or self._faiss.StandardGpuResources()
            _, found = self._faiss.knn_gpu(self._gpu, q, rows_of(keys), kept, metric=inner_product)
        else:
            _, found = self._faiss.knn(q, rows_of(keys), kept, metric=inner_product)
        return np.pad(found, ((0, 0), (0, topk - kept)), constant_values=-1)

    def _indexes(self, state: State) -> Indexed:
        assert self.index is not None
        if self._indexed is None or not self._indexed.belongs_to(state):
            self._indexed = Indexed(self._faiss, self.index, state)
        return self._indexed

    def _follow(self, before: State, after: State, tokens: int, valid: Tensor | None) -> None:
        if self._indexed is not None and self._indexed.belongs_to(before):
            self._indexed.follow(after, arrange(before, tokens, valid).count[:, 0].tolist())

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: a copy builds its own index."""
        return {"index": self.index}

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(**options)


def imported_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "memory: a faiss store needs faiss, which is not installed; type: pip install 'clbench[cpu]', or 'clbench[gpu]' with CUDA"
        ) from error
    return faiss
