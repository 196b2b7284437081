"""How long a memory lasts: until its segment, its episode or its task is over, or for the agent's lifetime.

    segment   every segment begins with a fresh memory: what remains is a model of one segment, the ablation of all recurrence
    episode   every episode, document or example begins with a fresh one: the default
    task      what was read stays until the next task begins; every episode of a policy begins with what the learner's first lane remembers,
              and so with what all of them do where the backbone keeps one memory for all (`shared`)
    never     what was read stays

The first is a property of reading, and so of a backbone: `ForgetsSegments` puts a reset before each segment. The others are a matter of
what a learner hands in: see `learners.learner`. Spec: memory.md 3.3. Shape letters: B batch, T time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.errors import UserError, unknown_name

from .backbone import Backbone, Output, State
from .pieces import positions

SCOPES = ("segment", "episode", "task", "never")
LASTING = ("task", "never")
"""Scopes that outlive an episode."""


class ForgetsSegments(Backbone):
    """A backbone whose memory begins anew with every segment."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.spec = backbone, backbone.spec
        self.input_size, self.output_size, self.reads_context = backbone.input_size, backbone.output_size, backbone.reads_context

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        return self.backbone.initial_state(batch, device=device, dtype=dtype)

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
        B, T = x.shape[:2]
        if reset is not None and reset.ndim == 1:
            later = torch.zeros(B, T - 1, dtype=torch.bool, device=x.device)
            reset = torch.cat([reset[:, None], later], dim=1)
        begins = positions(state["seg_pos"], reset, pad, T) % self.spec.segment_length == 0  # (B, T)
        if pad is not None:
            begins = begins & ~pad
        if reset is not None:
            begins = begins | reset
        return self.backbone(x, state, reset=begins, pad=pad, write=write, context=context)


def scoped(backbone: Backbone, scope: str, *, carried: bool, otherwise: str = "") -> Backbone:
    """`backbone` with a memory that lasts as long as `scope` says; refused where it has none that could.

    carried: whether the learner hands what one batch left to the next; `otherwise` says what to do where it does not.
    """
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES, "agents/backbones/scope.py")
    if scope in LASTING and not backbone.initial_state(1):
        raise UserError(f"scope={scope} needs a backbone with a memory, and {_named(backbone)} has none; leave scope at episode")
    if scope not in LASTING and backbone.shared:
        kind = _named(backbone)
        raise UserError(f"{kind}: shared=true keeps one memory for all episodes; expected scope=task or never, got scope={scope}")
    if scope in LASTING and not carried:
        raise UserError(f"scope={scope} carries memory from one example to the next; {otherwise}")
    return forgetting(backbone, "scope=segment") if scope == "segment" else backbone


def forgetting(backbone: Backbone, option: str) -> ForgetsSegments:
    """`backbone` with a memory that begins anew with each segment; refused where it has no segments, naming the `option` that asks."""
    if "seg_pos" not in backbone.initial_state(1):
        raise UserError(f"{option} needs a backbone that reads in segments, and {_named(backbone)} reads without; leave it out")
    return ForgetsSegments(backbone)


def _named(backbone: Backbone) -> str:
    return "a perceptron" if backbone.spec.kind == "none" else backbone.spec.kind
