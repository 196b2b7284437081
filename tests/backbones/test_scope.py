"""How long a memory lasts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clbench.agents.backbones.associative_memory import AssociativeMemoryTransformer
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.lstm import LSTM
from clbench.agents.backbones.memorizing_transformer import MemorizingTransformer
from clbench.agents.backbones.mlp import MLP
from clbench.agents.backbones.recurrent_memory import RecurrentMemoryTransformer
from clbench.agents.backbones.scope import ForgetsSegments, scoped
from clbench.agents.backbones.transformer_xl import TransformerXL
from clbench.errors import UserError

L = 4
SMALL = {"width": 16, "layers": 2, "heads": 2, "segment_length": L}
KINDS: dict[str, tuple[type[Backbone], dict[str, int]]] = {
    "rmt": (RecurrentMemoryTransformer, {"memory_tokens": 2}),
    "transformer-xl": (TransformerXL, {"memory_length": 6}),
    "memorizing-transformer": (MemorizingTransformer, {"memory_size": 8, "topk": 3}),
    "armt": (AssociativeMemoryTransformer, {"memory_tokens": 1, "key_width": 4}),
}


@pytest.mark.parametrize("name", KINDS)
def test_with_scope_segment_each_segment_is_read_as_if_it_were_the_first(name: str, build: Callable[..., Backbone]) -> None:
    kind, options = KINDS[name]
    backbone = build(kind, **SMALL, **options)
    x = torch.randn(3, 3 * L + 2, 5, dtype=torch.double)
    apart = torch.cat([backbone(part, backbone.initial_state(3)).hidden for part in x.split(L, dim=1)], dim=1)
    forgetting = scoped(backbone, "segment", carried=True)
    assert isinstance(forgetting, ForgetsSegments)
    torch.testing.assert_close(forgetting(x, forgetting.initial_state(3)).hidden, apart, atol=1e-9, rtol=0)
    remembered = backbone(x, backbone.initial_state(3)).hidden
    assert torch.equal(remembered[:, :L], apart[:, :L]) and (remembered - apart)[:, L:].abs().max() > 1e-3


@pytest.mark.parametrize("scope", ["episode", "task", "never"])
def test_other_scopes_leave_reading_as_it_is(scope: str) -> None:
    backbone = LSTM(5, width=8)
    assert scoped(backbone, scope, carried=True) is backbone


@pytest.mark.parametrize(
    ("kind", "scope", "carried", "message"),
    [
        (LSTM, "segments", True, "segment"),
        (LSTM, "segment", True, "scope=segment needs a backbone that reads in segments, and lstm reads without"),
        (MLP, "segment", True, "scope=segment needs a backbone that reads in segments"),
        (MLP, "never", True, "scope=never needs a backbone with a memory, and a perceptron has none"),
        (LSTM, "task", False, "scope=task carries memory from one example to the next; give a window"),
    ],
)
def test_a_scope_that_cannot_be_is_refused_in_one_line(kind: type[Backbone], scope: str, carried: bool, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        scoped(kind(5, width=8), scope, carried=carried, otherwise="give a window")
    assert "\n" not in str(error.value)


def test_one_memory_for_all_streams_needs_a_scope_that_lasts() -> None:
    backbone = MemorizingTransformer(5, **SMALL, shared=True)
    for scope in ("segment", "episode"):
        with pytest.raises(UserError, match=f"shared=true .* expected scope=task or never, got scope={scope}"):
            scoped(backbone, scope, carried=True)
    assert scoped(backbone, "never", carried=True) is backbone
