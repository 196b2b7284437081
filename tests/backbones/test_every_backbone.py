"""What every backbone owes: X1 to X7 and X9 of memory.md, section 12."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor

from clbench.agents.backbones import state as states
from clbench.agents.backbones.associative_memory import AssociativeMemoryTransformer
from clbench.agents.backbones.backbone import Backbone, State
from clbench.agents.backbones.gated_deltanet import GatedDeltaNet
from clbench.agents.backbones.infinity_former import InfinityFormer
from clbench.agents.backbones.lstm import LSTM
from clbench.agents.backbones.memorizing_transformer import MemorizingTransformer
from clbench.agents.backbones.memory_transformer import MemoryTransformer
from clbench.agents.backbones.mlp import MLP
from clbench.agents.backbones.pretrained import Pretrained
from clbench.agents.backbones.recurrent_memory import RecurrentMemoryTransformer
from clbench.agents.backbones.scope import ForgetsSegments
from clbench.agents.backbones.shared_episodic_memory import SharedEpisodicMemory
from clbench.agents.backbones.transformer import Transformer
from clbench.agents.backbones.transformer_xl import TransformerXL
from clbench.errors import UserError, ValidationError

B, T, L, D = 3, 14, 4, 16
CLOSE = 1e-9  # in double precision
SMALL = {"width": D, "layers": 2, "heads": 2}
FOCUSED = {"distances": "rotary", "integration": "concat", "differentiable": True}
SIGNAL = {"segment_length": L, "basis_functions": 8, "samples": 6}


def gpt2(input_size: int, **options: int) -> Backbone:
    return Pretrained(input_size, folder=tiny_model("gpt2"), **options)


def forgets(kind: Callable[..., Backbone]) -> Callable[..., Backbone]:
    return lambda input_size, **options: ForgetsSegments(kind(input_size, **options))


CASES = {
    "mlp": (MLP, {"width": D, "depth": 2}),
    "transformer": (Transformer, {**SMALL, "context": 6}),
    "transformer-long": (Transformer, {**SMALL, "context": 30}),
    "transformer-post": (Transformer, {**SMALL, "context": 6, "post_norm": True}),
    "transformer-xl": (TransformerXL, {**SMALL, "segment_length": L, "memory_length": 6}),
    "transformer-xl-short": (TransformerXL, {**SMALL, "segment_length": L, "memory_length": 3, "post_norm": True}),
    "transformer-xl-no-memory": (TransformerXL, {**SMALL, "segment_length": L, "memory_length": 0}),
    "rmt": (RecurrentMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2}),
    "rmt-post": (RecurrentMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2, "post_norm": True}),
    "rmt-no-memory": (RecurrentMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 0}),
    "rmt-cache": (RecurrentMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2, "cache_length": 6}),
    "rmt-cache-short": (RecurrentMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2, "cache_length": 3}),
    "rmt-every-token": (RecurrentMemoryTransformer, {**SMALL, "segment_length": 1, "memory_tokens": 2}),
    "memorizing": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 7, "topk": 3}),
    "memorizing-all": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 7, "topk": 0, "memory_layers": [0, 1]}),
    "focused": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 12, "topk": 5, **FOCUSED, "positions": "none"}),
    "focused-first": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 12, "topk": 0, **FOCUSED, "positions": "first"}),
    "memorizing-nothing": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 0}),
    "memorizing-every-token": (MemorizingTransformer, {**SMALL, "segment_length": 1, "memory_size": 5}),
    "memorizing-paged": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 7, "topk": 3, "store": "paged"}),
    "memorizing-faiss": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 7, "topk": 3, "store": "faiss"}),
    "memorizing-least-read": (
        MemorizingTransformer,
        {**SMALL, "segment_length": L, "memory_size": 12, "topk": 3, "store": "least-recently-read", "memory_layers": [0, 1]},
    ),
    "memorizing-plain": (MemorizingTransformer, {**SMALL, "segment_length": L, "memory_size": 7, "topk": 3, "prepared": False}),
    "memory-transformer": (MemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2}),
    "memory-transformer-controller": (
        MemoryTransformer,
        {**SMALL, "segment_length": L, "memory_tokens": 2, "form": "controller", "post_norm": True},
    ),
    "memory-transformer-bottleneck": (MemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2, "form": "bottleneck"}),
    "memory-transformer-every-token": (MemoryTransformer, {**SMALL, "segment_length": 1, "memory_tokens": 1, "form": "bottleneck"}),
    "rmt-forgets": (forgets(RecurrentMemoryTransformer), {**SMALL, "segment_length": L, "memory_tokens": 2}),
    "transformer-xl-forgets": (forgets(TransformerXL), {**SMALL, "segment_length": L, "memory_length": 6}),
    "memorizing-forgets": (forgets(MemorizingTransformer), {**SMALL, "segment_length": L, "memory_size": 7, "topk": 3}),
    "armt": (AssociativeMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 2, "key_width": 4}),
    "armt-post": (AssociativeMemoryTransformer, {**SMALL, "segment_length": L, "memory_tokens": 1, "key_width": 4, "post_norm": True}),
    "armt-every-token": (AssociativeMemoryTransformer, {**SMALL, "segment_length": 1, "memory_tokens": 1, "key_width": 3, "rolls": 1}),
    "gated-deltanet": (GatedDeltaNet, SMALL),
    "gated-deltanet-post": (GatedDeltaNet, {**SMALL, "rule": "delta", "post_norm": True}),
    "gated-deltanet-linear": (GatedDeltaNet, {**SMALL, "rule": "linear", "convolution": 1}),
    "infinity-former": (InfinityFormer, {**SMALL, **SIGNAL, "memory_length": L}),
    "infinity-former-long": (InfinityFormer, {**SMALL, **SIGNAL, "memory_length": 2 * L, "zero_padding": False, "post_norm": True}),
    "infinity-former-sticky": (InfinityFormer, {**SMALL, **SIGNAL, "memory_length": L, "sticky": True, "input_mask": True}),
    "lstm": (LSTM, {"width": D}),
    "lstm-factorised": (LSTM, {"width": D, "tasks": 2, "rank": 6}),
    "sem": (SharedEpisodicMemory, {"width": D // 2, "tasks": 2, "rank": 6}),
    "sem-one-task": (SharedEpisodicMemory, {"width": D // 2, "rank": 6}),
    "sem-clear": (SharedEpisodicMemory, {"width": D // 2, "tasks": 2, "rank": 6, "clear": True}),
    "pretrained": (gpt2, {"segment_length": L, "memory_tokens": 2}),
    "pretrained-alone": (gpt2, {"segment_length": L}),
    "pretrained-adapted": (gpt2, {"segment_length": 2 * L, "memory_tokens": 1, "lora_rank": 2}),
}
WITH_AUXILIARY_LOSS = [name for name in CASES if name.startswith("infinity-former")]
WITH_STATE = [name for name in CASES if name not in ("mlp", "memory-transformer-every-token")]  # nothing outlives a token


@pytest.fixture(params=CASES)
def backbone(request: pytest.FixtureRequest, build: Callable[..., Backbone]) -> Backbone:
    kind, options = CASES[request.param]
    return build(kind, **options)


def assert_same(left: State, right: State, atol: float = CLOSE) -> None:
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def stream(length: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def used_state(backbone: Backbone, length: int = 2 * L + 1) -> State:
    with torch.no_grad():
        return backbone(stream(length), backbone.initial_state(B)).state


def streams_at_different_places(backbone: Backbone) -> State:
    """Stream b has read b tokens more than stream 0, so that no two clocks agree."""
    parts = [backbone(stream(L + b, 1), backbone.initial_state(1)).state for b in range(B)]
    return states.detach(states.cat(parts))


@pytest.mark.parametrize("lengths", [[1] * T, [3, 5, 2, 4], [4, 4, 4, 2], [7, 7], [13, 1], [1, 13]], ids=str)
def test_x1_any_cut_into_calls_gives_the_same_outputs_and_state(backbone: Backbone, lengths: list[int]) -> None:
    x = stream()
    for begins in (used_state(backbone), backbone.initial_state(B)):
        whole = backbone(x, begins)
        state, hidden = begins, []
        for part in x.split(lengths, dim=1):
            output = backbone(part, state)
            state = output.state
            hidden.append(output.hidden)
        torch.testing.assert_close(torch.cat(hidden, 1), whole.hidden, atol=CLOSE, rtol=0)
        assert_same(state, whole.state)


def test_x1_holds_where_every_stream_stands_elsewhere_in_its_segment(backbone: Backbone) -> None:
    x, state = stream(), streams_at_different_places(backbone)
    whole = backbone(x, state)
    for b in range(B):
        alone = backbone(x[b : b + 1], states.select(state, [b]))
        torch.testing.assert_close(alone.hidden[0], whole.hidden[b], atol=CLOSE, rtol=0)
        assert_same(alone.state, states.select(whole.state, [b]))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", CASES)
def test_x2_acting_step_by_step_gives_what_training_saw(name: str, dtype: torch.dtype, error: float) -> None:
    """Root mean square of the difference, in units of the output's; single entries of bfloat16 may stray further."""
    kind, options = CASES[name]
    backbone = kind(5, **options).to(dtype)
    x = stream().to(dtype)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 3], reset[1, 6], reset[1, 7] = True, True, True
    trained = backbone(x, backbone.initial_state(B), reset=reset)
    state, acted = backbone.initial_state(B), []
    assert all(
        leaf.dtype in (dtype, torch.float32, torch.int32) for leaf in state.values()
    )  # sums over all tokens stay in single precision
    with torch.no_grad():
        for t in range(T):
            hidden, state, *_ = backbone.step(x[:, t], state, reset=reset[:, t])
            acted.append(hidden)
    pairs = {"hidden": (torch.stack(acted, 1), trained.hidden)} | {key: (leaf, trained.state[key]) for key, leaf in state.items()}
    for key, (left, right) in pairs.items():
        assert left.dtype == right.dtype
        assert (left - right).double().norm() <= error * right.double().norm(), key


def test_x3_streams_do_not_see_each_other(backbone: Backbone) -> None:
    x, state, order = stream(), used_state(backbone), torch.tensor([2, 0, 1])
    there, back = backbone(x, state), backbone(x[order], states.select(state, order))
    torch.testing.assert_close(back.hidden, there.hidden[order], atol=1e-12, rtol=0)
    assert_same(back.state, states.select(there.state, order))
    changed = x.clone()
    changed[1] += 1
    assert torch.equal(backbone(changed, state).hidden[[0, 2]], there.hidden[[0, 2]])


@pytest.mark.parametrize(
    "places", [[(0, 5)], [(0, 4), (1, 9), (2, 13)], [(1, 0), (1, 1), (1, 8), (2, 7)], [(b, 0) for b in range(B)]], ids=str
)
def test_x3_a_reset_in_a_call_starts_a_stream_of_its_own(backbone: Backbone, places: list[tuple[int, int]]) -> None:
    x, state = stream(), streams_at_different_places(backbone)
    reset = torch.zeros(B, T, dtype=torch.bool)
    for b, t in places:
        reset[b, t] = True
    together = backbone(x, state, reset=reset)
    for b in range(B):
        begins = [0, *(t for row, t in places if row == b), T]
        alone, hidden = states.select(state, [b]), []
        for start, end in itertools.pairwise(begins):
            alone = backbone.initial_state(1) if (b, start) in places else alone
            if end > start:
                output = backbone(x[b : b + 1, start:end], alone)
                alone, hidden = output.state, [*hidden, output.hidden]
        torch.testing.assert_close(together.hidden[b], torch.cat(hidden, 1)[0], atol=CLOSE, rtol=0)
        assert_same(states.select(together.state, [b]), alone)


def test_reset_per_stream_is_reset_at_the_first_token(backbone: Backbone) -> None:
    x, state, first = stream(), used_state(backbone), torch.tensor([True, False, True])
    everywhere = torch.zeros(B, T, dtype=torch.bool)
    everywhere[:, 0] = first
    left, right = backbone(x, state, reset=first), backbone(x, state, reset=everywhere)
    assert torch.equal(left.hidden, right.hidden)
    assert_same(left.state, right.state, atol=0)
    fresh = backbone(x[:1], backbone.initial_state(1))
    torch.testing.assert_close(left.hidden[:1], fresh.hidden, atol=CLOSE, rtol=0)


def test_pads_anywhere_are_as_if_they_were_not_there(backbone: Backbone) -> None:
    x, state = stream(), streams_at_different_places(backbone)
    pad = torch.zeros(B, T, dtype=torch.bool)
    pad[0, 9:], pad[1, [0, 3, 4, 13]], pad[2] = True, True, True  # on the right, scattered, nothing but pads
    padded = backbone(x, state, pad=pad)
    louder = backbone(torch.where(pad[..., None], 1e3 * torch.ones_like(x), x), state, pad=pad)
    assert torch.equal(padded.hidden[~pad], louder.hidden[~pad])
    assert_same(padded.state, louder.state, atol=0)
    for b in (0, 1):
        alone = backbone(x[b : b + 1, ~pad[b]], states.select(state, [b]))
        torch.testing.assert_close(padded.hidden[b, ~pad[b]], alone.hidden[0], atol=CLOSE, rtol=0)
        assert_same(states.select(padded.state, [b]), alone.state)
    assert_same(states.select(padded.state, [2]), states.select(state, [2]), atol=0)


def test_a_reset_on_a_pad_takes_effect_before_the_next_token(backbone: Backbone) -> None:
    x, state = stream(), used_state(backbone)
    pad, reset = torch.zeros(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.bool)
    pad[0, 5:7], reset[0, 5] = True, True  # the episode ends within the call: 5 old tokens, 2 pads, 7 new ones
    pad[1, 10:], reset[1, 12] = True, True  # nothing follows: the state that comes out is a fresh one
    output = backbone(x, state, reset=reset, pad=pad)
    alone = backbone(x[:1, 7:], backbone.initial_state(1))
    torch.testing.assert_close(output.hidden[:1, 7:], alone.hidden, atol=CLOSE, rtol=0)
    assert_same(states.select(output.state, [0]), alone.state)
    assert_same(states.select(output.state, [1]), backbone.initial_state(1), atol=0)


def test_x4_no_output_depends_on_a_later_token(backbone: Backbone) -> None:
    x, state = stream(), used_state(backbone)
    reference = backbone(x, state).hidden
    for t in (1, 4, 7, 13):
        changed = x.clone()
        changed[:, t] += 1
        hidden = backbone(changed, state).hidden
        assert torch.equal(hidden[:, :t], reference[:, :t])
        assert (hidden[:, t] != reference[:, t]).any(-1).all()


def test_x4_no_gradient_flows_back_from_a_later_token(backbone: Backbone) -> None:
    x, state = stream().requires_grad_(), used_state(backbone)
    hidden = backbone(x, state).hidden
    for t in (0, 5, 12):
        (gradient,) = torch.autograd.grad(hidden[:, t].square().sum(), x, retain_graph=True)
        assert not gradient[:, t + 1 :].any()
        assert gradient[:, t].any(-1).all()


@pytest.mark.parametrize("name", CASES)
def test_x5_a_saved_state_comes_back_as_it_was(name: str, tmp_path: Path, build: Callable[..., Backbone]) -> None:
    kind, options = CASES[name]
    backbone = build(kind, **options)
    state = backbone(stream(L + 1), backbone.initial_state(B)).state
    states.save(state, tmp_path / "state.pt", backbone.spec.digest)
    loaded = states.load(tmp_path / "state.pt", backbone.spec.digest)
    assert_same(loaded, states.detach(state), atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    with pytest.raises(ValidationError, match="digest 0123456789abcdef expected, got"):
        states.load(tmp_path / "state.pt", "0123456789abcdef")


# Written out: 2 layers, 4 bytes for float32 and int32. The open segment of L = 4 keeps at most L - 1 tokens.
EXPECTED_BYTES = {
    "mlp": 0,
    "transformer": 4 * (2 * 2 * 6 * D + 1),  # keys and values of `context` tokens; fill
    "transformer-xl": 4 * (2 * (6 + 3) * D + 2),  # memory and open segment; fill, seg_pos
    "memorizing": 4 * (2 * 2 * 3 * D + 1 + 2 * 7 * D + 2),  # open segment; seg_pos; keys and values of M entries in one layer; ptr, fill
    "rmt": 4 * (2 * D + 2 * 2 * (2 + 3) * D + 1),  # M * d; keys and values of read rows and open segment; seg_pos
    "rmt-cache": 4 * (2 * D + 2 * 2 * (2 + 3) * D + 1 + 2 * 2 * 6 * D + 1),  # and keys and values of C tokens; fill
    "memory-transformer": 4 * (2 * 2 * 3 * D + 1),  # keys and values of the open segment; seg_pos
    "memory-transformer-bottleneck": 4 * (2 * 2 * 3 * D + 1),  # the same, of the controllers
    "armt": 4 * (2 * 24 * (D + 1) + 2 * 2 * (2 + 3) * D + 1),  # A and z of 6 * 4 features; keys and values as RMT; seg_pos
    "gated-deltanet": 4 * (2 * 2 * 8 * 8 + 2 * 3 * 3 * D),  # a matrix a head of width 8; queries, keys, values of 3 tokens
    "infinity-former": 4 * (2 * (8 + L + 3) * D + 3),  # N coefficients, cache and open segment; fill, seg_pos, fits
    "infinity-former-sticky": 4 * (2 * (8 + L + 3) * D + 2 * 128 + 3),  # and 128 cells a layer
    "lstm": 4 * 2 * D,  # h and c
    "sem": 4 * (2 * 2 * (D // 2) + 1),  # h and c of the world and of the task; the last task
    "pretrained": 4 * (2 * D + 2 * 2 * (2 + 3) * D + 1),  # as rmt
    "pretrained-alone": 4 * (2 * 2 * 3 * D + 1),  # keys and values of the open segment; seg_pos
}


@pytest.mark.parametrize("name", EXPECTED_BYTES)
def test_x5_the_size_of_a_state_is_the_closed_formula_at_any_age(name: str) -> None:
    kind, options = CASES[name]
    backbone = kind(5, **options)
    state = backbone.initial_state(B)
    assert states.bytes(state) == B * EXPECTED_BYTES[name]
    assert states.bytes(backbone(stream(3 * T).float(), state).state) == B * EXPECTED_BYTES[name]


def test_x6_without_writing_the_state_comes_back_bit_by_bit(backbone: Backbone) -> None:
    x, state = stream(), used_state(backbone)
    before = states.clone(state)
    written = backbone(x, state, reset=torch.tensor([True, False, False]))
    unwritten = backbone(x, state, reset=torch.tensor([True, False, False]), write=False)
    assert torch.equal(written.hidden, unwritten.hidden)
    assert_same(unwritten.state, before, atol=0)
    assert_same(state, before, atol=0)  # the argument itself is untouched by either call
    some = backbone(x, state, write=torch.tensor([True, False, True])).state
    every = backbone(x, state).state
    assert_same(states.select(some, [1]), states.select(before, [1]), atol=0)
    assert_same(states.select(some, [0, 2]), states.select(every, [0, 2]), atol=0)


@pytest.mark.parametrize("name", WITH_STATE)
def test_x6_writing_changes_the_state(name: str, build: Callable[..., Backbone]) -> None:
    kind, options = CASES[name]
    backbone = build(kind, **options)
    state = used_state(backbone)
    after = backbone(stream(1), state).state
    assert any(not torch.equal(leaf, after[key]) for key, leaf in state.items())


def test_x7_no_gradient_is_reachable_in_a_detached_state(backbone: Backbone) -> None:
    x = stream().requires_grad_()
    state = backbone(x, backbone.initial_state(B)).state
    assert all(leaf.grad_fn is None and not leaf.requires_grad for leaf in states.detach(state).values())
    hidden = backbone(stream(), states.detach(state)).hidden
    assert torch.autograd.grad(hidden.sum(), x, allow_unused=True) == (None,)


def test_x9_nothing_is_nan_on_an_empty_memory_or_a_call_of_pads(backbone: Backbone) -> None:
    pads = torch.ones(B, T, dtype=torch.bool)
    output = backbone(stream(), backbone.initial_state(B), pad=pads)
    assert output.hidden.shape == (B, T, D)
    assert output.hidden.isfinite().all()
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    hidden = backbone(stream(), output.state).hidden
    gradients = torch.autograd.grad(hidden.sum(), parameters, allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def test_modules_hold_no_memory(backbone: Backbone) -> None:
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    used_state(backbone)
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.named_buffers())
    assert set(backbone.state_dict()) == {name for name, _ in backbone.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_output_size_and_auxiliary_loss(name: str, build: Callable[..., Backbone]) -> None:
    kind, options = CASES[name]
    backbone = build(kind, **options)
    output = backbone(stream(), backbone.initial_state(B))
    assert output.hidden.shape == (B, T, backbone.output_size) == (B, T, D)
    assert output.auxiliary_loss.shape == ()
    assert (output.auxiliary_loss.item() > 0) == (name in WITH_AUXILIARY_LOSS)
    assert output.auxiliary_loss >= 0


def test_a_wrong_shape_is_named(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 5\)\. Got \(3, 14, 4\)"):
        backbone(stream()[..., :4], backbone.initial_state(B))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MLP, {"depth": 0}, "width and depth must be at least 1, got 256 and 0"),
        (Transformer, {"width": 20, "heads": 4}, "width must be a multiple of 2 \\* heads.* got width=20, heads=4"),
        (Transformer, {"context": -1}, "context must be at least 0, got -1"),
        (TransformerXL, {"segment_length": 0}, "segment_length must be at least 1 .* got 0, 32"),
        (InfinityFormer, {"memory_length": 24}, "memory_length must be a positive multiple of segment_length, got 24 and 16"),
        (InfinityFormer, {"basis_functions": 7}, "basis_functions must be even and at least 4, and samples at least 1, got 7 and 64"),
        (InfinityFormer, {"contraction": 1.0}, "contraction must lie between 0 and 1, .* got 1.0, \\[1.0, 3.0\\], 0.1, 0.05, 1e-06"),
        (RecurrentMemoryTransformer, {"memory_tokens": -1}, "memory_tokens and bptt_segments at least 0, got 16, -1, 0"),
        (RecurrentMemoryTransformer, {"initial_std": -1.0}, "initial_std and cache_length must be at least 0, got -1.0 and 0"),
        (MemoryTransformer, {"segment_length": 0}, "memory-transformer: segment_length must be at least 1, got 0"),
        (MemoryTransformer, {"memory_tokens": -1}, "memory_tokens must be at least 0 in the form memory, got -1"),
        (MemoryTransformer, {"memory_tokens": 0, "form": "bottleneck"}, "memory_tokens must be at least 1 in the form bottleneck, got 0"),
        (MemoryTransformer, {"form": "shared"}, "form must be one of memory, controller, shared-controller, bottleneck, got 'shared'"),
        (AssociativeMemoryTransformer, {"rolls": 0}, "armt: key_width and rolls must be at least 1, got 16 and 0"),
        (GatedDeltaNet, {"convolution": 0}, "gated-deltanet: convolution must be at least 1 and rule one of .*, got 0, 'gated'"),
        (GatedDeltaNet, {"rule": "deltas"}, "gated-deltanet: .* one of gated, delta, linear, got 4, 'deltas'"),
        (LSTM, {"tasks": 5}, "tasks at least 0 and below the input's size 5, got 64, 0, 5"),
        (SharedEpisodicMemory, {"rank": 0}, "width and rank must be at least 1.* got 48, 0, 0"),
    ],
)
def test_impossible_options_are_refused(kind: type[Backbone], options: dict[str, int | str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(5, **options)


def test_dropout_acts_in_training_only() -> None:
    backbone = Transformer(5, **SMALL, dropout=0.5)
    x, state = torch.randn(B, T, 5), backbone.initial_state(B)
    assert not torch.equal(backbone(x, state).hidden, backbone(x, state).hidden)
    backbone.eval()
    assert torch.equal(backbone(x, state).hidden, backbone(x, state).hidden)


def test_spec_digests_tell_shapes_apart() -> None:
    def digest(name: str, **changed: int | bool) -> str:
        kind, options = CASES[name]
        return kind(5, **{**options, **changed}).spec.digest

    assert digest("rmt") == digest("rmt-post")  # the same tensors, whatever the norm's place
    assert digest("rmt") != digest("rmt", memory_tokens=3)
    assert digest("rmt") != digest("rmt", segment_length=5)
    assert len({digest("rmt"), digest("rmt-cache"), digest("rmt-cache-short")}) == 3
    assert digest("transformer") != digest("transformer", context=7)
    assert digest("transformer-xl") != digest("transformer-xl", layers=3)
    assert digest("infinity-former") != digest("infinity-former", basis_functions=L, memory_length=2 * L)  # as many vectors in all
    assert digest("infinity-former") != digest("infinity-former", sticky=True)


# -- a memory outlives its process ------------------------------------------------------------------------------------------

ELSEWHERE = """
import importlib.util, sys
from pathlib import Path
import torch
from clbench.agents.backbones import state as states
sys.path.insert(0, str(Path(sys.argv[2]).parents[1]))  # the tiny models
spec = importlib.util.spec_from_file_location("cases", sys.argv[2])
cases = importlib.util.module_from_spec(spec)
sys.modules["cases"] = cases
spec.loader.exec_module(cases)
torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    kind, options = cases.CASES[folder.name]
    backbone = kind(5, **options).double()
    backbone.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    state = states.load(folder / "state.pt", backbone.spec.digest)
    told = torch.load(folder / "told.pt", weights_only=True)
    with torch.no_grad():
        output = backbone(told["x"], state, reset=told["reset"])
    torch.save({"hidden": output.hidden, **{f"state.{name}": leaf for name, leaf in output.state.items()}}, folder / "found.pt")
"""


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """By backbone what reading on gave here, and what it gave in a process that knows files alone; one process for all."""
    root = tmp_path_factory.mktemp("elsewhere")
    here: dict[str, dict[str, Tensor]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, (kind, options) in CASES.items():
            here[name] = _saved(kind(5, **options).double(), root / name)
    torch.set_num_threads(threads)
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(root), __file__], check=True, cwd=root)
    return {name: (found, torch.load(root / name / "found.pt", weights_only=True)) for name, found in here.items()}


def _saved(backbone: Backbone, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    x, later = stream(3 * L + 2), stream(2 * L + 1)
    reset = torch.zeros(later.shape[:2], dtype=torch.bool)
    reset[1, 3] = True
    with torch.no_grad():
        state = backbone(x, backbone.initial_state(B)).state
        torch.save(backbone.state_dict(), folder / "weights.pt")
        torch.save({"x": later, "reset": reset}, folder / "told.pt")
        states.save(state, folder / "state.pt", backbone.spec.digest)
        output = backbone(later, state, reset=reset)
    return {"hidden": output.hidden, **{f"state.{name}": leaf for name, leaf in output.state.items()}}


@pytest.mark.parametrize("name", CASES)
def test_x5_read_on_in_a_new_process_it_gives_the_same_bits(
    name: str, continued: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]
) -> None:
    here, there = continued[name]
    assert here.keys() == there.keys()
    for key, leaf in here.items():
        assert leaf.dtype == there[key].dtype and torch.equal(leaf, there[key]), key
