"""F1 to F6 of memory.md, section 4.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clbench.agents.backbones import state as states
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.transformer_xl import TransformerXL, relative_shift

L = 4
SMALL = {"width": 16, "layers": 2, "heads": 2, "segment_length": L}


def stream(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


@pytest.mark.parametrize("post_norm", [False, True])
def test_f1_segments_over_a_long_memory_are_one_causal_pass(build: Callable[..., Backbone], post_norm: bool) -> None:
    segments = build(TransformerXL, **SMALL, memory_length=2 * L, post_norm=post_norm)
    whole = TransformerXL(5, **{**SMALL, "segment_length": 3 * L}, memory_length=0, post_norm=post_norm).double()
    whole.load_state_dict(segments.state_dict())
    x, state, hidden = stream(3 * L), segments.initial_state(2), []
    for segment in x.split(L, dim=1):
        output = segments(segment, state)
        state, hidden = output.state, [*hidden, output.hidden]
    torch.testing.assert_close(torch.cat(hidden, 1), whole(x, whole.initial_state(2)).hidden, atol=1e-9, rtol=0)


def test_f1_one_causal_pass_is_attention_by_the_formula(build: Callable[..., Backbone]) -> None:
    """A_ij = ((q_i + u) k_j + (q_i + v) r_{i-j}) / sqrt(D/H), written out with loops for one layer."""
    backbone = build(TransformerXL, width=16, layers=1, heads=2, segment_length=6, memory_length=3)
    x = stream(6, 1)
    block, h = backbone.trunk.blocks[0], backbone.trunk.embed(x)
    q, k, v = (part[0] for part in block.project(h))  # (H, L, D/H)
    attended = torch.zeros_like(q)
    for head in range(2):
        for i in range(6):
            scores = []
            for j in range(i + 1):
                angle = (i - j) * 10000.0 ** (-torch.arange(0, 16, 2).double() / 16)
                r = (backbone.position_maps[0].weight @ torch.cat([angle.sin(), angle.cos()]))[8 * head : 8 * head + 8]
                content = (q[head, i] + backbone.content_bias[head, 0]) @ k[head, j]
                scores.append((content + (q[head, i] + backbone.position_bias[head, 0]) @ r) / 8**0.5)
            attended[head, i] = torch.stack(scores).softmax(0) @ v[head, : i + 1]
    expected = backbone.trunk.norm(block.finish(h, attended[None]))
    torch.testing.assert_close(backbone(x, backbone.initial_state(1)).hidden, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("memory_length", [L, 2 * L])
def test_f2_the_receptive_field_is_one_segment_and_a_memory_per_layer(build: Callable[..., Backbone], memory_length: int) -> None:
    """Exact where the memory is a multiple of the segment; otherwise a layer reaches up to L - 1 tokens further."""
    backbone = build(TransformerXL, **SMALL, memory_length=memory_length)
    x = stream(8 * L)
    reference = backbone(x, backbone.initial_state(2)).hidden
    oldest = 7 * L - 2 * memory_length  # what the last segment reaches: 2 layers of memory before its own start
    for t, seen in ((t, t >= oldest) for t in range(7 * L)):
        changed = x.clone()
        changed[:, t] += 1
        hidden = backbone(changed, backbone.initial_state(2)).hidden
        assert torch.equal(hidden[:, 7 * L :], reference[:, 7 * L :]) is not seen


def test_f3_a_later_token_changes_nothing_before_it(build: Callable[..., Backbone]) -> None:
    backbone = build(TransformerXL, **SMALL, memory_length=6)
    x = stream(3 * L)
    reference = backbone(x, backbone.initial_state(2)).hidden
    for t in range(3 * L):
        changed = x.clone()
        changed[:, t] += 1
        hidden = backbone(changed, backbone.initial_state(2)).hidden
        assert torch.equal(hidden[:, :t], reference[:, :t])
        assert (hidden[:, t] != reference[:, t]).any()


@pytest.mark.parametrize(("length", "memory"), [(1, 0), (1, 5), (4, 0), (4, 3), (5, 9)])
def test_f4_the_shift_puts_each_distance_under_its_key(length: int, memory: int) -> None:
    by_distance = torch.randn(2, 3, length, length + memory)  # column d holds the score of distance d
    shifted = relative_shift(by_distance.flip(-1))
    for i in range(length):
        for j in range(memory + i + 1):
            assert torch.equal(shifted[..., i, j], by_distance[..., i, memory + i - j])


def test_f5_no_gradient_flows_into_an_earlier_segment(build: Callable[..., Backbone]) -> None:
    backbone = build(TransformerXL, **SMALL, memory_length=6)
    x = stream(2 * L + 2).requires_grad_()
    output = backbone(x, backbone.initial_state(2))
    (second,) = torch.autograd.grad(output.hidden[:, L : 2 * L].square().sum(), x, retain_graph=True)
    assert not second[:, :L].any()
    assert second[:, L : 2 * L].any(-1).all()
    memories = [leaf for name, leaf in output.state.items() if name.startswith("memory")]
    assert len(memories) == 2
    assert not any(leaf.requires_grad for leaf in memories)


def test_f5_gradient_flows_within_a_segment_that_is_read_in_two_calls(build: Callable[..., Backbone]) -> None:
    backbone = build(TransformerXL, **SMALL, memory_length=6)
    x = stream(L).requires_grad_()
    whole = backbone(x, backbone.initial_state(2)).hidden[:, -1].square().sum()
    state = backbone(x[:, :2], backbone.initial_state(2)).state
    parts = backbone(x[:, 2:], state).hidden[:, -1].square().sum()
    (left,), (right,) = torch.autograd.grad(whole, x), torch.autograd.grad(parts, x)
    torch.testing.assert_close(left, right, atol=1e-9, rtol=1e-9)
    assert left[:, 0].any()


def test_f6_an_empty_memory_is_no_memory_and_zeros_are_not(build: Callable[..., Backbone]) -> None:
    with_memory = build(TransformerXL, **SMALL, memory_length=6)
    without = TransformerXL(5, **SMALL, memory_length=0).double()
    without.load_state_dict(with_memory.state_dict())
    x, empty = stream(L), with_memory.initial_state(2)
    hidden = with_memory(x, empty).hidden
    torch.testing.assert_close(hidden, without(x, without.initial_state(2)).hidden, atol=1e-12, rtol=0)
    zeros = {**empty, "fill": torch.full_like(empty["fill"], 6)}
    assert (with_memory(x, zeros).hidden - hidden).abs().max() > 1e-3


def test_f6_what_a_reset_leaves_behind_is_never_read(build: Callable[..., Backbone]) -> None:
    backbone = build(TransformerXL, **SMALL, memory_length=6)
    x = stream(L + 3)
    full = states.detach(backbone(stream(3 * L), backbone.initial_state(2)).state)
    unwritten = {**full, "fill": torch.zeros_like(full["fill"])}  # the rows are there, and marked as not written
    fresh = backbone(x, backbone.initial_state(2)).hidden
    torch.testing.assert_close(backbone(x, unwritten).hidden, fresh, atol=1e-12, rtol=0)
    torch.testing.assert_close(backbone(x, full, reset=torch.ones(2, dtype=torch.bool)).hidden, fresh, atol=1e-12, rtol=0)
