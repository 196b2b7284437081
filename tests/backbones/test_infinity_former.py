"""C2 and C6 to C9 of memory.md, section 9.3: the signal behind the cache. Its mathematics: `test_continuous_attention.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from clbench.agents.backbones import continuous_attention as continuous
from clbench.agents.backbones import state as states
from clbench.agents.backbones.backbone import Backbone, State
from clbench.agents.backbones.infinity_former import InfinityFormer
from clbench.agents.backbones.transformer_xl import TransformerXL

L, C, N, S = 4, 8, 10, 6
SMALL = {"width": 16, "layers": 2, "heads": 2, "segment_length": L, "memory_length": C}
SIGNAL = {**SMALL, "basis_functions": N, "samples": S, "ridge": 0.3, "contraction": 0.7}
BASIS = continuous.gaussians(N, (1 / N, 3 / N))


def stream(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def after(backbone: Backbone, segments: int, batch: int = 2) -> State:
    """A state with gradients cut, in which `segments` whole segments have been read."""
    return states.detach(backbone(stream(segments * L, batch), backbone.initial_state(batch)).state)


def ridge_regression(places: Tensor, targets: Tensor) -> Tensor:
    design = torch.cat([BASIS(places), 0.3**0.5 * torch.eye(N, dtype=torch.double)])
    return torch.linalg.lstsq(design, torch.cat([targets, targets.new_zeros(N, targets.shape[1])])).solution


@pytest.mark.parametrize("segments", [2, 3, 9])
def test_c2_a_signal_is_the_regression_of_its_own_samples_and_the_segment_that_left_the_cache(
    build: Callable[..., Backbone], segments: int
) -> None:
    backbone = build(InfinityFormer, **SIGNAL)
    before = after(backbone, segments)
    then = backbone(stream(L), before).state
    assert then["fits"].tolist() == [segments - 1] * 2  # the cache holds two segments
    u = torch.tensor([(s + 0.5) / S for s in range(S)], dtype=torch.double)
    v = torch.tensor([(i + 0.5) / L for i in range(L)], dtype=torch.double)
    for n in range(2):
        for b in range(2):
            old, left = BASIS(u) @ before[f"coefficients.{n}"][b], before[f"memory.{n}"][b, :L]
            if segments == 2:
                expected = ridge_regression(v, left)  # the first to come fills all of [0, 1]
            else:
                expected = ridge_regression(torch.cat([0.7 * u, 0.7 + 0.3 * v]), torch.cat([old, left]))
            torch.testing.assert_close(then[f"coefficients.{n}"][b], expected, atol=1e-5, rtol=0)


def test_c3_heads_read_the_expectation_that_scores_on_every_coefficient_give(build: Callable[..., Backbone]) -> None:
    """Equations written out with N keys a head, for one layer whose attention to tokens is taken away."""
    backbone = build(InfinityFormer, **SIGNAL)
    branch, B = backbone.long_term[1], torch.randn(2, N, 16, dtype=torch.double)
    q = torch.randn(2, 2, 3, 8, dtype=torch.double)  # (B, H, T, D/H)
    rows, mean, variance = branch(q, B, BASIS)
    W_K, W_V = branch.project_in.weight[:16], branch.project_in.weight[16:]
    keys, values = ((B @ W.T).view(2, N, 2, 8).transpose(1, 2) for W in (W_K, W_V))  # (B, H, N, D/H)
    s = q @ keys.transpose(2, 3) / 8**0.5  # (B, H, T, N)
    w_m, w_v = branch.density
    torch.testing.assert_close(mean, torch.sigmoid(s @ w_m), atol=1e-12, rtol=0)
    torch.testing.assert_close(variance, torch.log1p(torch.exp(s @ w_v)).clamp(min=1e-6), atol=1e-12, rtol=0)
    spread = variance[..., None] + BASIS.widths**2
    r = torch.exp(-((mean[..., None] - BASIS.centres) ** 2) / (2 * spread)) / (2 * torch.pi * spread) ** 0.5
    z = (r @ values).transpose(1, 2).reshape(2, 3, 16)
    torch.testing.assert_close(rows, z @ branch.project_out.weight.T, atol=1e-12, rtol=0)


class Operations(TorchDispatchMode):
    """Counts every call with the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        shapes = [tuple(leaf.shape) for leaf in args if isinstance(leaf, Tensor)]
        self.count[f"{function} {shapes}"] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sticky", [False, True])
def test_c6_the_thousandth_segment_costs_what_the_fifth_does(sticky: bool) -> None:
    """The same operations on the same shapes, as many multiplications, and a state of the same shapes and types."""
    backbone = InfinityFormer(
        5, width=16, layers=1, heads=2, segment_length=2, memory_length=2, basis_functions=8, samples=6, sticky=sticky
    )
    state, costs, segment = backbone.initial_state(2), {}, 0
    with torch.no_grad():
        while segment < 1000:
            if segment in (4, 100, 999):
                x = torch.randn(2, 2, 5)
                with FlopCounterMode(display=False) as multiplications, Operations() as operations:
                    state = backbone(x, state).state
                shapes = {name: (leaf.shape, leaf.dtype) for name, leaf in state.items()}
                costs[segment] = (multiplications.get_total_flops(), operations.count, shapes)
                segment += 1
            else:
                many = 899 if segment == 101 else 95 if segment == 5 else 4
                many = min(many, 999 - segment if segment > 100 else 100 - segment if segment > 4 else 4 - segment)
                state = backbone(torch.randn(2, 2 * many, 5), state).state
                segment += many
    assert state["fits"].tolist() == [999, 999]
    assert all(leaf.isfinite().all() for leaf in state.values())
    assert costs[4] == costs[100] == costs[999]
    assert costs[4][0] > 0
    assert len(costs[4][1]) > 20


def test_c7_after_sharp_attention_all_that_is_kept_of_the_past_is_what_was_attended(build: Callable[..., Backbone]) -> None:
    """Attention to one bin: [0, tau] holds the old signal's value there, wherever it is decoded."""
    backbone = build(InfinityFormer, **{**SIGNAL, "sticky": True, "basis_functions": 40, "samples": 200, "ridge": 1e-3})
    basis = continuous.gaussians(40, (1 / 40, 3 / 40))
    before = after(backbone, 6)
    for n in range(2):
        assert before[f"attended.{n}"].sum() == 0  # a segment has just ended
        before[f"attended.{n}"][:, 77] = 1e9  # 77 / 128 to 78 / 128
    then = backbone(stream(L), before).state
    inside = torch.linspace(0.02, 0.6, 30, dtype=torch.double)
    for n in range(2):
        there = basis(torch.tensor([77.5 / 128], dtype=torch.double)) @ before[f"coefficients.{n}"]  # (B, 1, D)
        kept = basis(inside) @ then[f"coefficients.{n}"]  # (B, 30, D)
        assert (kept - there).square().mean() < 0.01 * there.square().mean()
        assert then[f"attended.{n}"].sum() == 0


def test_c7_a_sticky_memory_counts_what_heads_and_tokens_attended(build: Callable[..., Backbone]) -> None:
    backbone = build(InfinityFormer, **{**SIGNAL, "sticky": True})
    before, x, seen = after(backbone, 5), stream(3), []
    backbone.long_term[1].register_forward_hook(lambda _, arguments, output: seen.append(output[1:]))
    state = backbone(x, before).state
    mean, variance = seen[0]  # (B, H, T)
    edges = torch.linspace(0, 1, 129, dtype=torch.double)
    below = torch.special.ndtr((edges - mean[..., None]) / variance[..., None].sqrt())
    torch.testing.assert_close(state["attended.1"], below.diff(dim=-1).sum((1, 2)), atol=1e-12, rtol=0)


def test_c7_even_attention_contracts_as_a_memory_that_is_not_sticky(build: Callable[..., Backbone]) -> None:
    sticky, plain = build(InfinityFormer, **SIGNAL, sticky=True), build(InfinityFormer, **SIGNAL)
    plain.load_state_dict(sticky.state_dict())
    before, x = after(sticky, 6), stream(L)
    for n in range(2):
        before[f"attended.{n}"] += 1e12
    even, other = sticky(x, before).state, plain(x, {name: leaf for name, leaf in before.items() if "attended" not in name}).state
    for name, leaf in other.items():
        torch.testing.assert_close(even[name], leaf, atol=1e-6, rtol=0)


def test_c8_without_what_it_reads_from_the_signal_it_is_transformer_xl(build: Callable[..., Backbone]) -> None:
    backbone, plain = build(InfinityFormer, **SIGNAL), build(TransformerXL, **SMALL)
    plain.load_state_dict(backbone.short_term.state_dict())
    x = stream(7 * L + 1)
    expected = plain(x, plain.initial_state(2))
    assert not torch.allclose(backbone(x, backbone.initial_state(2)).hidden, expected.hidden)
    with torch.no_grad():
        for branch in backbone.long_term:
            branch.project_out.weight.zero_()
    found = backbone(x, backbone.initial_state(2))
    assert torch.equal(found.hidden, expected.hidden)
    assert all(torch.equal(found.state[name], leaf) for name, leaf in expected.state.items())


def test_c8_the_auxiliary_loss_is_the_weighted_mean_divergence_of_what_was_read(build: Callable[..., Backbone]) -> None:
    """Segments that are read before anything has left the cache count for nothing, pads neither."""
    backbone = build(InfinityFormer, **{**SIGNAL, "layers": 1}, divergence_weight=0.5, prior_deviation=0.2)
    x, seen, pad = stream(4 * L), [], torch.zeros(2, 4 * L, dtype=torch.bool)
    backbone.long_term[0].register_forward_hook(lambda _, arguments, output: seen.append(output[2]))
    assert backbone(x[:, : 3 * L], backbone.initial_state(2)).auxiliary_loss == 0  # the first leaves as the third ends
    seen.clear()
    output = backbone(x, backbone.initial_state(2))
    ratio = seen[3] / 0.2**2
    expected = 0.5 * (0.5 * (ratio - ratio.log() - 1)).mean()
    torch.testing.assert_close(output.auxiliary_loss, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(output.diagnostics["divergence"], 2 * expected.detach(), atol=1e-12, rtol=0)
    pad[:, -1] = True
    ratio = ratio[:, :, :-1]
    padded = backbone(x, backbone.initial_state(2), pad=pad).auxiliary_loss
    torch.testing.assert_close(padded, 0.5 * (0.5 * (ratio - ratio.log() - 1)).mean(), atol=1e-12, rtol=0)


def test_c9_a_signal_holds_neither_the_open_segment_nor_the_cache(build: Callable[..., Backbone]) -> None:
    """After 5 segments and 3 tokens: segments 0, 1 and 2 have left, 3 and 4 are in the cache, the sixth is open."""
    backbone = build(InfinityFormer, **SIGNAL)
    x = stream(5 * L + 3).requires_grad_()
    with torch.no_grad():
        reference = backbone(x, backbone.initial_state(2)).state["coefficients.0"]
        for t in range(5 * L + 3):
            changed = x.detach().clone()
            changed[:, t] += 1
            found = backbone(changed, backbone.initial_state(2)).state["coefficients.0"]
            assert torch.equal(found, reference) is (t >= 3 * L), t


def test_no_gradient_flows_into_the_past_and_the_mask_learns_from_the_newest_segment(build: Callable[..., Backbone]) -> None:
    backbone = build(InfinityFormer, **SIGNAL, input_mask=True)
    x = stream(6 * L).requires_grad_()
    hidden = backbone(x, backbone.initial_state(2)).hidden[:, -L:]
    branch = backbone.long_term[0]
    wanted = [x, branch.input_mask.weight, branch.density, branch.project_in.weight, branch.project_out.weight]
    into, *learned = torch.autograd.grad(hidden.square().sum(), wanted)
    assert not into[:, : 5 * L].any()
    assert all(gradient.any() for gradient in learned)


def test_no_gradient_flows_through_a_contraction(build: Callable[..., Backbone]) -> None:
    """What a segment reads reaches the coefficients it read, and none that were contracted since."""
    backbone = build(InfinityFormer, **SIGNAL)
    state = after(backbone, 5)
    state["coefficients.1"].requires_grad_()
    hidden = backbone(stream(2 * L), state).hidden
    assert torch.autograd.grad(hidden[:, :L].sum(), state["coefficients.1"], retain_graph=True)[0].any()
    (later,) = torch.autograd.grad(hidden[:, L:].sum(), state["coefficients.1"], allow_unused=True)
    assert later is None or not later.any()


def test_the_matrices_stay_in_single_precision_and_out_of_checkpoints() -> None:
    backbone = InfinityFormer(5, **SIGNAL)
    exact = continuous.regression(BASIS, continuous.middles(L), ridge=0.3, zero_padding=False).T
    for dtype in (torch.bfloat16, torch.float64):
        backbone.to(dtype)
        torch.testing.assert_close(backbone._matrix("first", torch.float64), exact, atol=1e-6, rtol=1e-6)
    assert not {"first", "new", "old", "kept", "bumps"} & set(backbone.state_dict())


def test_x9_half_precision_does_not_drift_away() -> None:
    """Contraction makes every rounding of bfloat16 (2^-8) smaller, so that errors do not pile up over 250 segments."""
    exact, rough = (InfinityFormer(5, **{**SMALL, "layers": 1}, basis_functions=8, samples=8) for _ in range(2))
    rough.load_state_dict(exact.state_dict())
    rough.to(torch.bfloat16)
    x = torch.randn(2, 1000, 5).to(torch.bfloat16)
    with torch.no_grad():
        error = exact(x.float(), exact.initial_state(2)).hidden - rough(x, rough.initial_state(2)).hidden.float()
    error = error.square().mean((0, 2)).sqrt()  # (T,)
    assert error[-100:].mean() < 1.5 * error[100:200].mean()
    assert error.max() < 0.1
