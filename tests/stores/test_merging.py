"""A2's second half and the merging parts of A1 and A3 of memory.md, section 7.3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clbench.agents.stores.store import concat, gate

B, H, T, S, M, D = 2, 3, 4, 5, 6, 7


def sides(dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and values of a local context of S and a memory of M entries."""
    shapes = [(B, H, T, S), (B, H, S, D), (B, H, T, M), (B, H, M, D)]
    return tuple(3 * torch.randn(shape, dtype=torch.double).to(dtype) for shape in shapes)  # type: ignore[return-value]


def read(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return scores.softmax(-1) @ values, scores.logsumexp(-1)


def test_a2_concat_is_one_softmax_over_both_sides() -> None:
    local, local_values, memory, memory_values = sides()
    output, lse = concat(*read(local, local_values), *read(memory, memory_values))
    expected, expected_lse = read(torch.cat([local, memory], -1), torch.cat([local_values, memory_values], 2))
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, expected_lse, atol=1e-12, rtol=0)


def test_a2_concat_is_a_gate_whose_share_follows_from_the_log_sums() -> None:
    local, local_values, memory, memory_values = sides()
    (o_c, lse_c), (o_m, lse_m) = read(local, local_values), read(memory, memory_values)
    share = torch.sigmoid(lse_m - lse_c)[..., None]
    torch.testing.assert_close(concat(o_c, lse_c, o_m, lse_m)[0], gate(share, o_c, o_m, lse_m), atol=1e-12, rtol=0)


def test_concat_survives_scores_whose_exponential_does_not() -> None:
    local, memory = torch.full((1, 1, 1), 1000.0), torch.full((1, 1, 1), 999.0)
    output, lse = concat(torch.ones(1, 1, 1, 1), local, torch.zeros(1, 1, 1, 1), memory)
    assert output.item() == pytest.approx(0.731059, abs=1e-6)  # e / (e + 1)
    assert lse.item() == pytest.approx(1000.313262, abs=1e-3)  # 1000 + log(1 + 1/e)


@pytest.mark.parametrize("dtype", [torch.double, torch.float32, torch.bfloat16])
def test_a1_an_empty_memory_leaves_the_local_output_bit_by_bit(dtype: torch.dtype) -> None:
    local, local_values, _, _ = sides(dtype)
    o_c, lse_c = read(local, local_values)
    nothing, never = torch.zeros_like(o_c), torch.full_like(lse_c, -torch.inf)
    output, lse = concat(o_c, lse_c, nothing, never)
    assert torch.equal(output, o_c)
    torch.testing.assert_close(lse, lse_c)
    assert torch.equal(gate(torch.full((H, 1, 1), 0.7, dtype=dtype), o_c, nothing, never), o_c)
    assert torch.equal(concat(nothing, never, o_c, lse_c)[0], o_c)  # and the other way round


def test_a1_a_stream_with_memory_does_not_lend_its_gate_to_one_without() -> None:
    local, local_values, memory, memory_values = sides()
    (o_c, _), (o_m, lse_m) = read(local, local_values), read(memory, memory_values)
    lse_m[0] = -torch.inf
    joined = gate(torch.full((H, 1, 1), 0.5, dtype=torch.double), o_c, o_m, lse_m)
    assert torch.equal(joined[0], o_c[0])
    torch.testing.assert_close(joined[1], (o_c[1] + o_m[1]) / 2)


def test_a3_the_limits_of_the_gate_are_local_only_and_memory_only() -> None:
    local, local_values, memory, memory_values = sides()
    (o_c, _), (o_m, lse_m) = read(local, local_values), read(memory, memory_values)
    torch.testing.assert_close(gate(torch.sigmoid(torch.tensor(-30.0)), o_c, o_m, lse_m), o_c, atol=1e-9, rtol=0)
    torch.testing.assert_close(gate(torch.sigmoid(torch.tensor(30.0)), o_c, o_m, lse_m), o_m, atol=1e-9, rtol=0)


def test_x9_no_gradient_is_nan_where_one_side_or_both_are_empty() -> None:
    lse_c = torch.tensor([0.3, -torch.inf, 0.3, -torch.inf], dtype=torch.double)[:, None, None].requires_grad_()
    lse_m = torch.tensor([0.1, 0.1, -torch.inf, -torch.inf], dtype=torch.double)[:, None, None].requires_grad_()
    o_c, o_m = (torch.randn(4, 1, 1, 2, dtype=torch.double, requires_grad=True) for _ in range(2))
    share = torch.tensor(0.4, dtype=torch.double, requires_grad=True)
    output, lse = concat(o_c, lse_c, o_m, lse_m)
    gated = gate(share, o_c, o_m, lse_m)
    assert output.isfinite().all() and gated.isfinite().all()
    assert lse[:3].isfinite().all() and lse[3].item() == -torch.inf
    total = output.square().sum() + lse[:3].sum() + gated.square().sum()
    gradients = torch.autograd.grad(total, [o_c, lse_c, o_m, lse_m, share])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(gradients[1][1:, 0, 0].bool(), torch.tensor([False, True, False]))  # an empty side has none


def test_concat_has_the_gradient_of_one_softmax() -> None:
    local, local_values, memory, memory_values = (part.requires_grad_() for part in sides())
    ours, ours_lse = concat(*read(local, local_values), *read(memory, memory_values))
    theirs, theirs_lse = read(torch.cat([local, memory], -1), torch.cat([local_values, memory_values], 2))
    weight = torch.randn_like(ours)
    parts = (local, local_values, memory, memory_values)
    left = torch.autograd.grad((ours * weight).sum() + ours_lse.sum(), parts)
    right = torch.autograd.grad((theirs * weight).sum() + theirs_lse.sum(), parts)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
