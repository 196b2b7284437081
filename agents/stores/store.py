"""What an external memory of keys and values offers a layer of attention, and how what is read from it joins the local context.

A memory is a `State`, as a backbone's is: a flat mapping from a name to a tensor whose first dimension is B, so that `states.select`,
`cat`, `where`, `reset`, `clone`, `save` and `load` work on it. Every store has these leaves, and some have more:

    keys    (B, H, M, dk)      entries lie in slots; what is in a slot that holds nothing is never read
    values  (B, H, M, dv)
    fill    (B,) int32         slots that hold an entry; these are 0 ... fill - 1
    ptr     (B,) int32         the slot that is written next, where entries leave in the order in which they came

Capacity M, heads and widths are read off the shapes, so that a store itself holds options and no memory.
Spec: memory.md 3.4. Shape letters: B batch (streams), H heads, T tokens of a call, M slots, dk and dv widths of a key and of a value.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..backbones.state import State

__all__ = ["Attended", "MemoryStore", "State", "concat", "gate"]


class Attended(NamedTuple):
    """What queries read; where a stream's memory is empty, output is 0 and lse is -inf, and no gradient is NaN."""

    output: Tensor  # (B, H, T, dv)
    lse: Tensor  # (B, H, T) log of the sum of exp(score) over the entries read
    diagnostics: dict[str, Tensor]  # detached: reads (B, T) int64, entries read over heads; with top-k also selected, weights (B, H, T, k)


class MemoryStore(Protocol):
    """Where keys and values lie and how the nearest ones are found. `State` in, `State` out; arguments are never changed."""

    notes: bool  # whether `noted` changes a memory, so that tokens which find it empty count as well

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
        """The memory with which `batch` streams begin: `capacity` slots each, none of which holds an entry."""
        ...

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """The memory after k (B, H, T, dk) and v (B, H, T, dv) were written in order of time, where valid (B, T) holds; T may exceed M."""
        ...

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Read with q (B, H, T, dk), by a softmax over scale * q k of the `topk` entries nearest to each, or over all (None, or >= M)."""
        ...

    def noted(self, state: State, attended: Attended, valid: Tensor | None = None) -> State:
        """The memory that knows what its tokens read, where valid (B, T) holds; `state` itself where eviction does not ask for it."""
        ...

    def entry_bytes(self, heads: int, key_width: int, value_width: int, dtype: torch.dtype | None = None) -> int:
        """What one entry of one stream occupies, over all heads."""
        ...


def concat(local: Tensor, local_lse: Tensor, memory: Tensor, memory_lse: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over local context and memory, from the output (..., T, dv) and lse (..., T) of each; its output and its lse.

    o = (e^lse_c o_c + e^lse_m o_m) / (e^lse_c + e^lse_m). An empty side leaves the other's output as it is, bit by bit.
    """
    top = torch.maximum(local_lse, memory_lse).detach()
    top = top.masked_fill(top.isneginf(), 0)  # both empty
    of_local, of_memory = (local_lse - top).exp()[..., None], (memory_lse - top).exp()[..., None]
    total = of_local + of_memory
    empty = total == 0
    total = total.masked_fill(empty, 1)
    lse = torch.where(empty, -torch.inf, total.log())[..., 0] + top
    return ((of_local * local + of_memory * memory) / total).to(local.dtype), lse


def gate(share: Tensor, local: Tensor, memory: Tensor, memory_lse: Tensor) -> Tensor:
    """The sum g o_m + (1 - g) o_c with g = share (broadcast to (B, H, T, 1)), and g = 0 where nothing was read: there local, bit by bit."""
    g = torch.where(memory_lse.isneginf()[..., None], 0, share)
    return g * memory + (1 - g) * local
