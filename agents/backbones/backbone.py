"""The base of all backbones: a sequence map whose memory goes in and comes out as a value.

Embedding and heads live outside; no memory lives on the module. Spec: memory.md 3.2 and 3.3.
Shape letters: B batch (streams), T time, D width.

Not here: the scope of a memory: who calls reset (document, episode, task, never) is the learner's choice, not a shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import state as states
from .state import State

__all__ = ["Backbone", "MemorySpec", "Output", "State", "TokenRows"]


@dataclass(frozen=True)
class MemorySpec:
    """The shape of a memory; two backbones with equal specs can read each other's states."""

    kind: str
    width: int
    layers: int
    segment_length: int  # tokens between two writes; 0: every token writes
    capacity: int  # vectors kept per layer in `memory_layers`, or in all if that is empty
    memory_layers: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this shape in checkpoints."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


class TokenRows(NamedTuple):
    """Where a stream's N tokens begin: rows to read (N, D) and a first token's (D,), rows to speak (N, D) or None where these are the same.

    `learned`: whether they go on learning.
    """

    read: Tensor
    first: Tensor
    spoken: Tensor | None
    learned: bool


class Output(NamedTuple):
    """What a backbone returns; `step` returns `hidden` without T."""

    hidden: Tensor  # (B, T, output_size)
    state: State
    auxiliary_loss: Tensor  # (): to be added to the learner's loss; 0 where a backbone has none
    diagnostics: dict[str, Tensor] | None = None  # detached scalars (); those of `stores.account` are added up, of others the last counts


class Backbone(nn.Module):
    """Maps x (B, T, input_size) and a state to hidden (B, T, output_size) and the next state.

    A subclass sets `spec` and `output_size` and implements `initial_state` and `advance`. Cutting a sequence into calls
    anywhere changes neither outputs nor state (X1), so that a learner's windows and a policy's single steps agree.
    """

    spec: MemorySpec
    input_size: int
    output_size: int
    reads_context = False  # whether `advance` takes the keyword `context` of `forward`
    shared = False  # whether, while it learns, all streams have one memory, which must then outlast an episode
    tasks = 0  # the last entries of x that it reads as the one-hot of a task

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        """The state in which `batch` streams begin; on the module's device and in its type unless told otherwise."""
        raise NotImplementedError

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        """`forward` after its arguments are in order: reset (B, T) never holds at t = 0, and a mask without a True is None.

        Without `write` nobody reads the returned state, so that what only it needs may be left out.
        """
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        state: State,
        *,
        reset: Tensor | None = None,
        pad: Tensor | None = None,
        write: bool | Tensor = True,
        context: Tensor | None = None,
    ) -> Output:
        """Read x (B, T, input_size).

        reset: bool (B,), a new episode starts at t = 0, or (B, T), one starts AT t, before t is read.
        pad: bool (B, T), True = not there: no clock moves, nothing is written, and the output at that place means nothing.
        write: where False, for all streams or per stream (B,), the returned state is the one that came in, bit by bit.
        context: int64 (B, d), the rows whose memories each row reads as if they were one, in training with distractors (crossbatch,
        Tworkowski et al. 2023); None: its own. Only where `reads_context` holds.
        Gradients flow through `state` until the learner detaches it. `state` itself is never changed.
        """
        if x.ndim != 3 or x.shape[-1] != self.input_size:
            raise ValueError(f"{type(self).__name__}: x must have shape (B, T, {self.input_size}). Got {tuple(x.shape)}")
        begun, later, pad = self._begin(x, state, reset, pad)
        advance = self.advance if context is None else partial(self.advance, context=context)
        output = advance(x, begun, later, pad, write is not False)
        if isinstance(write, Tensor):
            return output._replace(state=states.where(write, output.state, state))
        return output if write else output._replace(state=state)

    def token_rows(self, written: tuple[str, ...], size: int) -> TokenRows | None:
        """Where rows of `size` tokens, `written` as `TaskInfo.tokens` says, begin; None: where the learner likes. Asked once."""
        return None

    def step(self, x: Tensor, state: State, *, reset: Tensor | None = None, write: bool | Tensor = True) -> Output:
        """`forward` for one token: x (B, input_size), reset (B,), hidden (B, output_size)."""
        output = self(x[:, None], state, reset=reset, write=write)
        return output._replace(hidden=output.hidden[:, 0])

    def _begin(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None) -> tuple[State, Tensor | None, Tensor | None]:
        """The state after resets at t = 0, the later resets and the pads; one transfer to the host, and only if there are masks."""
        if reset is None and pad is None:
            return state, None, None
        masks = {}
        if reset is not None:
            masks["reset"] = reset if reset.ndim == 1 else reset[:, 0]
            if reset.ndim == 2:
                masks["later"] = torch.cat([torch.zeros_like(reset[:, :1]), reset[:, 1:]], dim=1)  # (B, T)
        if pad is not None:
            masks["pad"] = pad
        found = torch.stack([mask.any() for mask in masks.values()]).tolist()
        true = {name: mask for (name, mask), any_true in zip(masks.items(), found, strict=True) if any_true}
        if "reset" in true:
            fresh = self.initial_state(len(x), device=x.device, dtype=_floating_type(state))
            state = states.reset(state, fresh, true["reset"])
        return state, true.get("later"), true.get("pad")


def _floating_type(state: State) -> torch.dtype | None:
    return next((leaf.dtype for leaf in state.values() if leaf.is_floating_point()), None)
