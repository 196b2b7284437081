from __future__ import annotations

from collections.abc import Callable

import torch

from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.transformer import Transformer


def test_each_token_sees_itself_and_context_tokens_before_it(build: Callable[..., Backbone]) -> None:
    """One layer, context 3: token 9 reads tokens 6 to 9 and nothing else, whether they came in this call or before."""
    backbone = build(Transformer, width=16, layers=1, heads=2, context=3)
    x = torch.randn(1, 10, 5, dtype=torch.double, requires_grad=True)
    for cut in (0, 4, 8, 9):
        state = backbone.initial_state(1)
        if cut:
            state = backbone(x[:, :cut], state).state
        hidden = backbone(x[:, cut:], state).hidden
        (gradient,) = torch.autograd.grad(hidden[0, -1].square().sum(), x)
        assert gradient[0].any(-1).tolist() == [False] * 6 + [True] * 4


def test_two_layers_see_twice_as_far(build: Callable[..., Backbone]) -> None:
    backbone = build(Transformer, width=16, layers=2, heads=2, context=3)
    x = torch.randn(1, 10, 5, dtype=torch.double, requires_grad=True)
    hidden = backbone(x, backbone.initial_state(1)).hidden
    (gradient,) = torch.autograd.grad(hidden[0, -1].square().sum(), x)
    assert gradient[0].any(-1).tolist() == [False] * 3 + [True] * 7


def test_order_matters_within_the_window(build: Callable[..., Backbone]) -> None:
    backbone = build(Transformer, width=16, layers=1, heads=2, context=8)
    x = torch.randn(1, 6, 5, dtype=torch.double)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    left, right = (backbone(tokens, backbone.initial_state(1)).hidden[0, -1] for tokens in (x, swapped))
    assert (left - right).abs().max() > 1e-3


def test_the_age_of_a_stream_does_not_show(build: Callable[..., Backbone]) -> None:
    """After `layers * context` tokens nothing of what came before is left, so a stream's age cannot change its outputs."""
    backbone = build(Transformer, width=16, layers=2, heads=2, context=3)
    past, x = torch.randn(1, 50, 5, dtype=torch.double), torch.randn(1, 10, 5, dtype=torch.double)
    old = backbone(x, backbone(past, backbone.initial_state(1)).state).hidden
    young = backbone(x, backbone.initial_state(1)).hidden
    torch.testing.assert_close(old[:, 6:], young[:, 6:], atol=1e-9, rtol=0)
    assert (old[:, :6] - young[:, :6]).abs().amax(-1).min() > 1e-6
