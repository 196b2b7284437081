"""What a memory costs, as numbers: how many entries fit into a cap in bytes, and what one call wrote, read and keeps.

An account is data that a backbone returns with its output; nothing is counted on a module or in the state, so that resets lose nothing
and a policy that reads without writing does not change what it reads. A learner keeps a total with `added` and shows it among its
diagnostics, which a run writes down with each phase.
Spec: memory.md 3.4. Shape letters as in `store`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clbench.errors import UserError

from ..backbones import state as states
from .store import Attended, MemoryStore, State

ACCOUNT = ("memory_bytes", "memory_writes", "memory_reads")


def account(state: State, written: Tensor, attended: Attended, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Bytes of all streams' memory, entries written (B, S) True, and entries read by tokens valid (B, T): three int64 (), detached.

    An entry that is read by two heads or by two tokens is read twice; one that is written holds the keys of all heads and counts once.
    """
    read = reads(attended, valid)
    size = torch.tensor(states.bytes(state), device=read.device)
    return {"memory_bytes": size, "memory_writes": written.sum(), "memory_reads": read}


def reads(attended: Attended, valid: Tensor | None = None) -> Tensor:
    """Entries read by tokens valid (B, T), over heads: int64 ()."""
    found = attended.diagnostics["reads"]  # (B, T)
    return (found if valid is None else found.masked_fill(~valid, 0)).sum()


def added(total: Mapping[str, Tensor], bill: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The account of a whole life: writes and reads of all calls so far, bytes as they are now; `total` may be empty."""
    return {**total, **{name: value if name == "memory_bytes" else total.get(name, 0) + value for name, value in bill.items()}}


def capacity_within(
    store: MemoryStore, limit_bytes: int, heads: int, key_width: int, value_width: int, *, dtype: torch.dtype | None = None
) -> int:
    """Entries of one stream whose memory occupies at most `limit_bytes`, its clocks included."""
    clocks = store.empty(1, heads, 1, key_width, value_width, dtype=dtype)
    entry = store.entry_bytes(heads, key_width, value_width, dtype)
    beside = states.bytes(clocks) - entry
    capacity = (limit_bytes - beside) // entry
    if capacity < 1:
        raise UserError(f"memory: a cap of {limit_bytes} bytes holds no entry; one needs {entry + beside} bytes for {heads} heads")
    return capacity
