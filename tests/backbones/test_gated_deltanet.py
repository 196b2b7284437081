"""Gated DeltaNet: a layer against its formulas, and what the three rules remember."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, rms_norm, silu, softplus

from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.gated_deltanet import GatedDeltaNet

SMALL = {"width": 16, "layers": 2, "heads": 2}


def stream(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def by_the_book(backbone: GatedDeltaNet, x: Tensor, rule: str) -> Tensor:
    """All layers on one stream x (T, 5), token by token and head by head."""
    h = backbone.trunk.embed(x)
    for block, mixer in zip(backbone.trunk.blocks, backbone.mixers, strict=True):
        normed = block.attention_norm(h)
        rows = torch.cat([torch.zeros(3, 48, dtype=torch.double), block.project_in(normed)])
        heads = torch.zeros(len(x), 2, 8, dtype=torch.double)
        S = torch.zeros(2, 8, 8, dtype=torch.double)
        for t, token in enumerate(normed):
            mixed = silu(sum(rows[t + w] * mixer.filters[:, 0, w] for w in range(4)))
            q, k, v = mixed.view(3, 2, 8)
            beta = (mixer.strength.weight @ token).sigmoid()
            for n in range(2):
                alpha = 1.0
                if rule == "gated":
                    alpha = torch.exp(-mixer.speed[n].exp() * softplus(mixer.fading.weight[n] @ token + mixer.fading.bias[n]))
                key = normalize(k[n], dim=0)
                forgotten = 0 if rule == "linear" else beta[n] * torch.outer(key, key)
                S[n] = alpha * (torch.eye(8, dtype=torch.double) - forgotten) @ S[n].clone() + beta[n] * torch.outer(key, v[n])
                read = S[n].clone().T @ normalize(q[n], dim=0)
                gate = silu(mixer.gate.weight[8 * n : 8 * n + 8] @ token)
                heads[t, n] = rms_norm(read, (8,), mixer.norm.weight, 1e-5) * gate
        h = block.finish(h[None], heads.transpose(0, 1)[None])[0]
    return backbone.trunk.norm(h)


@pytest.mark.parametrize("rule", ["gated", "delta", "linear"])
def test_the_layers_are_their_formulas(build: Callable[..., Backbone], rule: str) -> None:
    backbone = build(GatedDeltaNet, **SMALL, rule=rule)
    x = stream(9)
    hidden = backbone(x, backbone.initial_state(2)).hidden
    with torch.no_grad():
        expected = torch.stack([by_the_book(backbone, one, rule) for one in x])
    torch.testing.assert_close(hidden, expected, atol=1e-9, rtol=0)


def test_fading_begins_slow_and_every_head_at_its_own_pace() -> None:
    """With a = 0 and W x = 0 a token leaves exp(-rate) of the matrix."""
    mixer = GatedDeltaNet(5, width=16, heads=4).mixers[0]
    torch.testing.assert_close(softplus(mixer.fading.bias), torch.tensor([1e-3, 0.003969, 0.015749, 0.0625]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rule", "faded"), [("gated", True), ("delta", False), ("linear", False)])
def test_only_the_gated_rule_fades(build: Callable[..., Backbone], rule: str, faded: bool) -> None:
    """A token that writes with strength 0 leaves the matrix as it was unless the rule fades."""
    backbone = build(GatedDeltaNet, **SMALL, rule=rule)
    state = backbone(stream(5), backbone.initial_state(2)).state
    with torch.no_grad():
        for block, mixer in zip(backbone.trunk.blocks, backbone.mixers, strict=True):
            block.attention_norm.weight.zero_()
            block.attention_norm.bias.fill_(1.0)
            mixer.strength.weight.fill_(-1e3)
    after = backbone(stream(1), state).state
    for n in range(2):
        assert torch.equal(after[f"matrix.{n}"], state[f"matrix.{n}"]) is not faded


def test_the_tail_holds_what_the_convolution_will_read(build: Callable[..., Backbone]) -> None:
    backbone = build(GatedDeltaNet, **SMALL)
    x = stream(6)
    state = backbone(x, backbone.initial_state(2)).state
    block = backbone.trunk.blocks[0]
    expected = block.project_in(block.attention_norm(backbone.trunk.embed(x)))[:, -3:]
    torch.testing.assert_close(state["tail.0"], expected, atol=1e-9, rtol=0)


def test_the_matrices_of_a_model_in_half_precision_are_in_single() -> None:
    backbone = GatedDeltaNet(5, **SMALL).to(torch.bfloat16)
    state = backbone.initial_state(2)
    for kept in (state, backbone(stream(3).to(torch.bfloat16), state).state):
        assert (kept["matrix.1"].dtype, kept["tail.1"].dtype) == (torch.float32, torch.bfloat16)


def test_x9_half_precision_does_not_drift_away() -> None:
    double = GatedDeltaNet(5, width=16, layers=1, heads=2)
    half = GatedDeltaNet(5, width=16, layers=1, heads=2).to(torch.bfloat16)
    half.load_state_dict(double.state_dict())
    x = torch.randn(2, 1000, 5).to(torch.bfloat16)
    with torch.no_grad():
        exact = double(x.float(), double.initial_state(2)).hidden
        rough = half(x, half.initial_state(2)).hidden.float()
    error = (exact - rough).square().mean((0, 2)).sqrt()  # (T,)
    assert error[-100:].mean() < 1.5 * error[100:200].mean()
    assert error.max() < 0.1
