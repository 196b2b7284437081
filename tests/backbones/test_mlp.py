from __future__ import annotations

import torch

from clbench.agents.backbones.mlp import MLP


def test_the_mlp_sees_each_step_alone() -> None:
    backbone = MLP(5, width=8, depth=2)
    x = torch.randn(2, 4, 5)
    assert backbone.initial_state(2) == {}
    hidden = backbone(x, {}).hidden
    torch.testing.assert_close(hidden[1, 2], backbone.step(x[1:, 2], {}).hidden[0])


def test_depth_counts_hidden_layers_and_layer_norm_is_optional() -> None:
    with_norm, without = MLP(5, width=8, depth=3), MLP(5, width=8, depth=3, layer_norm=False)
    linear = 5 * 8 + 8 + 2 * (8 * 8 + 8)  # weights and biases of three layers
    assert sum(parameter.numel() for parameter in with_norm.parameters()) == linear + 16
    assert sum(parameter.numel() for parameter in without.parameters()) == linear
