"""E1 to E7 and E9 of memory.md, section 6.3; E8, which must be trained, is in `test_protocols`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clbench.agents.backbones import state as states
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.recurrent_memory import RecurrentMemoryTransformer
from clbench.agents.backbones.transformer import Transformer

M, L = 2, 4
SMALL = {"width": 16, "layers": 2, "heads": 2}
RMT = {**SMALL, "segment_length": L, "memory_tokens": M}


def stream(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def by_the_book(backbone: Backbone, rows: Tensor, mask: Tensor) -> Tensor:
    """All layers on rows (B, R, D) at positions 0 ... R - 1, with softmax attention written out."""
    angle = torch.arange(rows.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)  # (R, 4): two heads of 8
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128)
    for block in backbone.trunk.blocks:
        q, k, v = block.project(rows)
        q, k = (torch.complex(part[..., 0::2], part[..., 1::2]) * turn for part in (q, k))
        scores = (q @ k.conj().transpose(2, 3)).real / 8**0.5
        rows = block.finish(rows, scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)
    return backbone.trunk.norm(rows)


def rows_of_first_block(backbone: Backbone, seen: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    project = backbone.trunk.blocks[0].attention_norm
    return project.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))


def test_e1_write_rows_are_invisible_to_the_segment(build: Callable[..., Backbone]) -> None:
    """[memory; x], the memory seeing itself and the segment causal, says the same as [memory; x; memory]."""
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x, state = stream(L), backbone.initial_state(2)
    mask = torch.ones(M + L, M + L, dtype=torch.bool).tril()
    mask[:M, :M] = True
    prefix = by_the_book(backbone, torch.cat([state["memory"], backbone.trunk.embed(x)], 1), mask)
    torch.testing.assert_close(backbone(x, state).hidden, prefix[:, M:], atol=1e-6, rtol=0)


def test_e1_the_new_memory_is_the_last_layer_at_the_write_rows(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x, state = stream(L), backbone.initial_state(2)
    mask = torch.ones(M + L + M, M + L + M, dtype=torch.bool).tril()
    mask[:M, :M] = mask[-M:] = True
    rows = by_the_book(backbone, torch.cat([state["memory"], backbone.trunk.embed(x), state["memory"]], 1), mask)
    output = backbone(x, state)
    torch.testing.assert_close(output.hidden, rows[:, M : M + L], atol=1e-6, rtol=0)
    torch.testing.assert_close(output.state["memory"], rows[:, M + L :], atol=1e-6, rtol=0)


def test_e2_without_memory_each_segment_is_a_transformer_of_its_own(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **{**RMT, "memory_tokens": 0})
    plain = Transformer(5, **SMALL, context=L).double()
    plain.load_state_dict({name: leaf for name, leaf in backbone.state_dict().items() if name != "memory"})
    x = stream(3 * L)
    reset = (torch.arange(3 * L) % L == 0).expand(2, -1)
    expected = plain(x, plain.initial_state(2), reset=reset).hidden
    torch.testing.assert_close(backbone(x, backbone.initial_state(2)).hidden, expected, atol=1e-6, rtol=0)


def test_e2_both_copies_a_segment_reads_are_the_memory_its_predecessor_wrote(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    state, seen = backbone.initial_state(2), []
    rows_of_first_block(backbone, seen)
    for _ in range(3):
        memory = state["memory"]
        state = backbone(stream(L), state).state
        assert torch.equal(seen[-1][:, :M], memory)
        assert torch.equal(seen[-1][:, -M:], memory)
        assert (state["memory"] - memory).abs().amin() > 0


def segments_with_gradient(backbone: Backbone, x: Tensor, detached_before: tuple[int, ...]) -> list[int]:
    state = backbone.initial_state(len(x))
    for number, segment in enumerate(x.split(L, dim=1)):
        state = states.detach(state) if number in detached_before else state
        output = backbone(segment, state)
        state = output.state
    (gradient,) = torch.autograd.grad(output.hidden.square().sum(), x)
    return [int(part.any()) for part in gradient.split(L, dim=1)]


def test_e3_a_learner_that_detaches_bounds_the_reach_of_gradients(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x = stream(5 * L).requires_grad_()
    assert segments_with_gradient(backbone, x, ()) == [1, 1, 1, 1, 1]
    assert segments_with_gradient(backbone, x, (3,)) == [0, 0, 0, 1, 1]
    assert segments_with_gradient(backbone, x, (1, 2, 3, 4)) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("k", "pattern"), [(0, [1, 1, 1, 1, 1]), (1, [0, 0, 0, 0, 1]), (2, [0, 0, 0, 1, 1]), (5, [1, 1, 1, 1, 1])])
@pytest.mark.parametrize("masked", [False, True])
def test_e3_bptt_segments_within_a_call(build: Callable[..., Backbone], k: int, pattern: list[int], masked: bool) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT, bptt_segments=k)
    x = stream(5 * L).requires_grad_()
    pad = torch.zeros(2, 5 * L, dtype=torch.bool)
    pad[1, 0] = masked  # sends the call through the path for streams at different places
    hidden = backbone(x, backbone.initial_state(2), pad=pad).hidden
    (gradient,) = torch.autograd.grad(hidden[0, -L:].square().sum(), x)
    assert [int(part.any()) for part in gradient[0].split(L, dim=0)] == pattern


def test_e4_tokens_change_what_follows_and_the_memory_but_no_read_row(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    outcomes = []
    x, rows = stream(L), []
    backbone.trunk.norm.register_forward_pre_hook(lambda _, arguments: rows.append(arguments[0].detach()))
    for t in (None, 2):
        changed = x.clone()
        if t is not None:
            changed[:, t] += 1
        outcomes.append(backbone(changed, backbone.initial_state(2)))
    before, after = outcomes
    assert torch.equal(before.hidden[:, :2], after.hidden[:, :2])
    assert (before.hidden[:, 2:] != after.hidden[:, 2:]).any(-1).all()
    assert (before.state["memory"] != after.state["memory"]).any(-1).all()
    assert torch.equal(rows[0][:, :M], rows[1][:, :M])
    assert not torch.equal(rows[0][:, -M:], rows[1][:, -M:])


def test_e4_each_memory_row_reaches_every_output_and_every_row_of_the_next_memory(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x, state = stream(L), backbone.initial_state(2)
    reference = backbone(x, state)
    for row in range(M):
        memory = state["memory"].clone()
        memory[:, row] += 1
        output = backbone(x, {**state, "memory": memory})
        assert (output.hidden != reference.hidden).any(-1).all()
        assert (output.state["memory"] != reference.state["memory"]).any(-1).all()


@pytest.mark.parametrize("at", [0, 3, L])
def test_e5_the_initial_memory_is_learned_also_after_a_reset(build: Callable[..., Backbone], at: int) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    state = states.detach(backbone(stream(L + 1), backbone.initial_state(2)).state)
    reset = torch.zeros(2, 2 * L, dtype=torch.bool)
    reset[0, at] = True
    hidden = backbone(stream(2 * L), state, reset=reset).hidden
    gradient = torch.autograd.grad(hidden[:, at:].square().sum(), backbone.memory)[0]
    assert gradient.any(-1).all()
    rows = RecurrentMemoryTransformer(5, **RMT).memory
    assert not torch.equal(rows[0], rows[1])  # drawn apart
    assert 0.5 < rows.std() < 1.5


def test_e6_single_steps_write_the_same_memory_as_segments(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x = stream(2 * L)
    segments = backbone(x, backbone.initial_state(2))
    state = backbone.initial_state(2)
    for t in range(2 * L):
        assert state["seg_pos"].tolist() == [t % L] * 2
        before = state["memory"]
        hidden, state, *_ = backbone.step(x[:, t], state)
        torch.testing.assert_close(hidden, segments.hidden[:, t], atol=1e-9, rtol=0)
        assert torch.equal(state["memory"], before) is ((t + 1) % L != 0)  # written at the boundary and nowhere else
    torch.testing.assert_close(state["memory"], segments.state["memory"], atol=1e-9, rtol=0)
    assert not any(leaf.any() for name, leaf in state.items() if name != "memory")  # the closed segment is gone


def test_e7_padding_on_the_right_moves_no_write_row(build: Callable[..., Backbone]) -> None:
    """Three tokens of one stream and two of the other, pads, then the rest: segments are written as if the pads had not been there."""
    backbone = build(RecurrentMemoryTransformer, **RMT)
    x, lengths = stream(L), torch.tensor([[3], [2]])
    expected = backbone(x, backbone.initial_state(2))
    pad = torch.arange(8) >= lengths
    padded = torch.where(pad[..., None], stream(8), torch.cat([x, stream(8 - L)], dim=1))
    first = backbone(padded, backbone.initial_state(2), pad=pad)
    rest = torch.stack([torch.cat([x[0, 3:], stream(1)[0]]), x[1, 2:]])
    last = backbone(rest, first.state, pad=torch.tensor([[False, True], [False, False]]))
    for b, length in enumerate(lengths[:, 0].tolist()):
        hidden = torch.cat([first.hidden[b, :length], last.hidden[b, : L - length]])
        torch.testing.assert_close(hidden, expected.hidden[b], atol=1e-9, rtol=0)
    torch.testing.assert_close(last.state["memory"], expected.state["memory"], atol=1e-9, rtol=0)


def test_e9_a_thousand_segments_neither_grow_nor_explode() -> None:
    backbone = RecurrentMemoryTransformer(5, width=16, layers=1, heads=2, segment_length=4, memory_tokens=2)
    state = backbone.initial_state(2)
    size, norms = states.bytes(state), []
    with torch.no_grad():
        for _ in range(10):
            state = backbone(torch.randn(2, 400, 5), state).state
            norms.append(state["memory"].norm().item())
    assert states.bytes(state) == size
    assert max(norms) < 2 * min(norms)


def test_x9_half_precision_does_not_drift_away() -> None:
    """The memory passes the final norm at each write, so errors of bfloat16 (2^-8) do not pile up over 250 segments."""
    double = RecurrentMemoryTransformer(5, width=16, layers=1, heads=2, segment_length=4, memory_tokens=2)
    half = RecurrentMemoryTransformer(5, width=16, layers=1, heads=2, segment_length=4, memory_tokens=2).to(torch.bfloat16)
    half.load_state_dict(double.state_dict())
    x = torch.randn(2, 1000, 5).to(torch.bfloat16)
    with torch.no_grad():
        exact = double(x.float(), double.initial_state(2)).hidden
        rough = half(x, half.initial_state(2)).hidden.float()
    error = (exact - rough).square().mean((0, 2)).sqrt()  # (T,)
    assert error[-100:].mean() < 1.5 * error[100:200].mean()
    assert error.max() < 0.1


def test_rows_begin_as_small_as_they_are_told_and_apart() -> None:
    def first(**options: float) -> Tensor:
        torch.manual_seed(0)
        return RecurrentMemoryTransformer(5, segment_length=L, memory_tokens=64, **options).initial_state(1)["memory"][0]  # type: ignore[arg-type]

    small, unit = first(initial_std=0.02), first()
    torch.testing.assert_close(small, 0.02 * unit)
    assert small.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.pdist(small).min() > 0.1


# -- a cache beside the memory ---------------------------------------------------------------------------------------------

CACHED: dict[str, int] = {**SMALL, "segment_length": L, "cache_length": 6}


def test_a_cache_that_holds_everything_makes_one_causal_pass_of_all_segments(build: Callable[..., Backbone]) -> None:
    """Without memory rows; as F1 asks of Transformer-XL."""
    backbone = build(RecurrentMemoryTransformer, **{**CACHED, "cache_length": 3 * L}, memory_tokens=0)
    plain = build(Transformer, **SMALL, context=4 * L)
    plain.trunk.load_state_dict(backbone.trunk.state_dict())
    x = stream(4 * L)
    expected = plain(x, plain.initial_state(2)).hidden
    torch.testing.assert_close(backbone(x, backbone.initial_state(2)).hidden, expected, atol=1e-6, rtol=0)


def test_tokens_and_write_rows_see_the_cache_in_front_of_the_memory_and_read_rows_do_not(build: Callable[..., Backbone]) -> None:
    """The third segment, written out: its memory and the last six of eight tokens, with keys and values as they were."""
    C = CACHED["cache_length"]
    backbone = build(RecurrentMemoryTransformer, **CACHED, memory_tokens=M)
    x = stream(3 * L)
    state = backbone.initial_state(2)
    old: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for segment in x.split(L, dim=1):
        memory, past = state["memory"], [kept[-C:] for kept in old]
        rows = torch.cat([memory, backbone.trunk.embed(segment), memory], 1)
        own = torch.ones(2 * M + L, 2 * M + L, dtype=torch.bool).tril()
        own[:M, :M] = own[-M:] = True
        for n, block in enumerate(backbone.trunk.blocks):
            q, k, v = block.project(rows)
            kept = past[n]
            seen = torch.zeros(2 * M + L, len(kept), dtype=torch.bool)
            seen[M:] = True
            keys = torch.cat([torch.stack([row[0] for row in kept], 2), k], 2) if kept else k
            values = torch.cat([torch.stack([row[1] for row in kept], 2), v], 2) if kept else v
            places = torch.cat([torch.arange(-len(kept), 0), torch.arange(2 * M + L)])
            scores = (turned(q, places[len(kept) :]) @ turned(keys, places).conj().transpose(2, 3)).real / 8**0.5
            rows = block.finish(rows, scores.masked_fill(~torch.cat([seen, own], 1), -torch.inf).softmax(-1) @ values)
            old[n] += [(k[:, :, M + t], v[:, :, M + t]) for t in range(L)]
        output, rows = backbone(segment, state), backbone.trunk.norm(rows)
        torch.testing.assert_close(output.hidden, rows[:, M : M + L], atol=1e-6, rtol=0)
        torch.testing.assert_close(output.state["memory"], rows[:, M + L :], atol=1e-6, rtol=0)
        state = output.state


def turned(rows: Tensor, places: Tensor) -> Tensor:
    """Complex rows (B, H, R, 4) at their places (R,); two heads of 8."""
    angle = places[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    return torch.complex(rows[..., 0::2], rows[..., 1::2]) * torch.polar(torch.ones_like(angle), angle).to(torch.complex128)


def test_what_left_the_cache_is_gone_and_no_gradient_enters_it(build: Callable[..., Backbone]) -> None:
    backbone = build(RecurrentMemoryTransformer, **{**CACHED, "layers": 1}, memory_tokens=0)
    x = stream(3 * L).requires_grad_()
    hidden = backbone(x, backbone.initial_state(2)).hidden
    for index in range(2 * L):
        changed = x.detach().clone()
        changed[:, index] += 1
        other = backbone(changed, backbone.initial_state(2)).hidden
        assert torch.equal(other[:, 2 * L :], hidden[:, 2 * L :]) == (index < 2 * L - CACHED["cache_length"])
    (gradient,) = torch.autograd.grad(hidden[:, 2 * L :].square().sum(), x)
    assert not gradient[:, : 2 * L].any() and gradient[:, 2 * L :].any()
