"""One memory for all streams: every one writes into it and reads what the others wrote. It belongs to an agent for its lifetime.

Its state is that of a store for one stream without the leading B: keys (H, M, dk), values (H, M, dv), ptr (), fill (). It is therefore no
part of a backbone's state, is not reset with a stream, and is saved with the agent. Tokens are written in order of time, and those of one
time in the order of the streams, so that a cut into calls changes nothing as long as all streams are cut alike.
`Together` is the same behind the state of a backbone, whose leaves begin with B: each row is a view of the one memory.
Spec: memory.md 3.4. Shape letters as in `store`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ring import RingStore
from .store import Attended, MemoryStore, State


class SharedStore:
    """Of any kind of store, one memory for all streams."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = RingStore() if store is None else store
        self.notes = self.store.notes

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
        """`capacity` empty slots for all streams together, however many they are."""
        return _without_batch(self.store.empty(1, heads, capacity, key_width, value_width, device=device, dtype=dtype))

    def entry_bytes(self, heads: int, key_width: int, value_width: int, dtype: torch.dtype | None = None) -> int:
        """As the store's for one stream."""
        return self.store.entry_bytes(heads, key_width, value_width, dtype)

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """The memory after the tokens of all streams."""
        valid = None if valid is None else valid.transpose(0, 1).reshape(1, -1)  # (1, T * B)
        return _without_batch(self.store.append(_with_batch(state), _joined(k), _joined(v), valid))

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Each stream reads all that any of them wrote."""
        attended, batch = self.store.attend(_with_batch(state), _joined(q), topk, scale), len(q)
        diagnostics = {name: _parted(leaf, batch) for name, leaf in attended.diagnostics.items() if name != "reads"}
        diagnostics["reads"] = attended.diagnostics["reads"].view(-1, batch).transpose(0, 1)
        return Attended(_parted(attended.output, batch), _parted(attended.lse, batch), diagnostics)

    def noted(self, state: State, attended: Attended, valid: Tensor | None = None) -> State:
        """What any stream has read is read."""
        diagnostics = {name: _joined(leaf) for name, leaf in attended.diagnostics.items() if name != "reads"}
        diagnostics["reads"] = attended.diagnostics["reads"].transpose(0, 1).reshape(1, -1)
        together = Attended(_joined(attended.output), _joined(attended.lse), diagnostics)
        valid = None if valid is None else valid.transpose(0, 1).reshape(1, -1)
        return _without_batch(self.store.noted(_with_batch(state), together, valid))


class Together(SharedStore):
    """A `SharedStore` whose state has a row for each stream, all of them the one memory; what a row says alone is never read."""

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
        """`capacity` empty slots for all streams together, seen by each."""
        return _by_stream(super().empty(batch, heads, capacity, key_width, value_width, device=device, dtype=dtype), batch)

    def append(self, state: State, k: Tensor, v: Tensor, valid: Tensor | None = None) -> State:
        """The memory after the tokens of all streams, for each of them."""
        return _by_stream(super().append(_without_batch(state), k, v, valid), len(k))

    def attend(self, state: State, q: Tensor, topk: int | None = None, scale: float = 1.0) -> Attended:
        """Each stream reads all that any of them wrote."""
        return super().attend(_without_batch(state), q, topk, scale)

    def noted(self, state: State, attended: Attended, valid: Tensor | None = None) -> State:
        """What any stream has read is read."""
        return _by_stream(super().noted(_without_batch(state), attended, valid), len(attended.lse))


def _by_stream(state: State, batch: int) -> State:
    return {name: leaf.expand(batch, *leaf.shape) for name, leaf in state.items()}


def _with_batch(state: State) -> State:
    return {name: leaf[None] for name, leaf in state.items()}


def _without_batch(state: State) -> State:
    return {name: leaf[0] for name, leaf in state.items()}


def _joined(x: Tensor) -> Tensor:
    """Of x (B, H, T, ...) the tokens of all streams in order of time: (1, H, T * B, ...)."""
    return x.transpose(0, 1).transpose(1, 2).flatten(1, 2)[None]


def _parted(x: Tensor, batch: int) -> Tensor:
    """Of x (1, H, T * B, ...) each stream's: (B, H, T, ...)."""
    return x[0].unflatten(1, (-1, batch)).movedim(2, 0)
