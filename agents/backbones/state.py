"""What can be done with any backbone's memory: a flat mapping from a name to a tensor whose first dimension is B.

A state is a value. Every function here returns a new one and leaves its arguments as they are; a backbone does the same.
Spec: memory.md 3.2. States are written by `torch.save` and read with `weights_only=True`; safetensors is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clbench.errors import ValidationError

State = dict[str, Tensor]


def detach(state: State) -> State:
    """The same memory, out of which no gradient flows: a learner ends its backpropagation through time here."""
    return {name: leaf.detach() for name, leaf in state.items()}


def clone(state: State) -> State:
    """A copy that shares no storage with `state`; gradients still flow through it."""
    return {name: leaf.clone() for name, leaf in state.items()}


def to(state: State, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
    """The state on `device`, its floating leaves in `dtype`; clocks and counts keep their integer type."""
    return {name: leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None) for name, leaf in state.items()}


def bytes(state: State) -> int:
    """What the memory of all B streams occupies, in bytes."""
    return sum(leaf.numel() * leaf.element_size() for leaf in state.values())


def select(state: State, index: Tensor | slice | Sequence[int]) -> State:
    """The streams named by `index`, in its order: integers, a slice or a mask (B,)."""
    return {name: leaf[index] for name, leaf in state.items()}


def cat(states: Sequence[State]) -> State:
    """One state with the streams of all `states`, in order."""
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def where(mask: Tensor, chosen: State, other: State) -> State:
    """Stream by stream, `chosen` where mask (B,) is True and `other` elsewhere."""
    return {name: torch.where(_like(mask, leaf), leaf, other[name]) for name, leaf in chosen.items()}


def reset(state: State, fresh: State, done: Tensor) -> State:
    """The state in which the streams that are `done` (B,) begin again as `fresh`."""
    return where(done, fresh, state)


def save(state: State, path: Path | str, digest: str) -> None:
    """Write the state whole or not at all, together with the `MemorySpec.digest` of the backbone it belongs to."""
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        torch.save({"digest": digest, "state": {name: leaf.detach().clone() for name, leaf in state.items()}}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path | str, digest: str, device: torch.device | str = "cpu") -> State:
    """The state in `path`, on `device`; refused where it was written by a backbone of another shape."""
    stored = torch.load(path, map_location=device, weights_only=True)
    if stored["digest"] != digest:
        raise ValidationError(
            f"{path}: memory of a backbone with digest {digest} expected, got {stored['digest']}; build it with the same options"
        )
    return stored["state"]


def begun(fresh: Callable[[int], State], batch: int, lasting: State | None) -> State:
    """The memory with which each of `batch` episodes begins: a `fresh` one, or what the one stream of `lasting` remembers."""
    return fresh(batch) if lasting is None else select(lasting, [0] * batch)


def _like(mask: Tensor, leaf: Tensor) -> Tensor:
    return mask.to(leaf.device).view(-1, *(1,) * (leaf.ndim - 1))  # (B, 1, ..., 1); a paged memory's leaves lie elsewhere
