"""ARMT: what its matrices add to a recurrent memory transformer, against the formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from clbench.agents.backbones import state as states
from clbench.agents.backbones.associative_memory import AssociativeMemoryTransformer
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.delta_rule import features
from clbench.agents.backbones.recurrent_memory import RecurrentMemoryTransformer

L, M = 4, 2
SMALL = {"width": 16, "layers": 2, "heads": 2, "segment_length": L, "memory_tokens": M}
ARMT = {**SMALL, "key_width": 4}


def stream(length: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def test_it_begins_as_a_transformer_that_knows_its_segment_alone() -> None:
    backbone = AssociativeMemoryTransformer(5, **ARMT).double()
    plain = RecurrentMemoryTransformer(5, **SMALL).double()
    plain.load_state_dict({name: leaf for name, leaf in backbone.state_dict().items() if not name.startswith("associations")})
    x = stream(3 * L)
    reset = (torch.arange(3 * L) % L == 0).expand(2, -1)
    expected = plain(x, plain.initial_state(2), reset=reset).hidden
    hidden = backbone(x, backbone.initial_state(2)).hidden
    torch.testing.assert_close(hidden, expected, atol=1e-9, rtol=0)
    gradient = torch.autograd.grad(hidden.square().sum(), [maps.values.weight for maps in backbone.associations])
    assert all(part.any() for part in gradient)  # but it can learn to remember


def test_each_layer_reads_before_it_and_writes_what_comes_out_of_its_write_rows(build: Callable[..., Backbone]) -> None:
    backbone = build(AssociativeMemoryTransformer, **ARMT)
    seen: dict[str, list[Tensor]] = {}
    for n, block in enumerate(backbone.trunk.blocks):
        finish = block.finish

        def noted(h: Tensor, attended: Tensor, n: int = n, finish: Callable[..., Tensor] = finish) -> Tensor:
            out = finish(h, attended)
            seen.setdefault(f"in.{n}", []).append(h)
            seen.setdefault(f"out.{n}", []).append(out)
            return out

        block.finish = noted
    state = backbone.initial_state(2)
    for segment in range(3):
        after = backbone(stream(L), state).state
        for n, maps in enumerate(backbone.associations):
            A, z = state[f"matrix.{n}"].clone(), state[f"normaliser.{n}"].clone()
            if n:  # the input of layer 0 is the tokens'
                below = seen["out.0"][segment]
                key = features(maps.queries(layer_norm(below, (16,))))
                read = torch.einsum("brf,bfd->brd", key, A) / (torch.einsum("brf,bf->br", key, z)[..., None] + 1e-5)
                torch.testing.assert_close(seen["in.1"][segment], below + read, atol=1e-9, rtol=0)
            m = layer_norm(seen[f"out.{n}"][segment][:, -M:], (16,))
            change, grown = torch.zeros_like(A), torch.zeros_like(z)
            for b in range(2):
                for row in m[b]:
                    key = features(maps.keys(row))
                    old = key @ A[b] / (z[b] @ key + 1e-5)
                    beta = maps.strength(row).sigmoid()
                    change[b] += beta * torch.outer(key, maps.values(row) - old)
                    grown[b] += (1 - z[b] @ key / (key @ key + 1e-5)).clamp(0, 1) * key
            torch.testing.assert_close(after[f"matrix.{n}"], A + change, atol=1e-8, rtol=1e-9)
            torch.testing.assert_close(after[f"normaliser.{n}"], z + grown, atol=1e-8, rtol=1e-9)
        state = states.detach(after)


def test_the_matrices_are_written_at_the_end_of_a_segment_and_nowhere_else(build: Callable[..., Backbone]) -> None:
    backbone = build(AssociativeMemoryTransformer, **ARMT)
    state = backbone.initial_state(2)
    assert "memory" not in state
    for t in range(2 * L):
        before = state
        state = backbone.step(stream(1)[:, 0], state).state
        for name in ("matrix.0", "matrix.1"):  # a normaliser that has enough of every key stays
            assert torch.equal(state[name], before[name]) is ((t + 1) % L != 0)


def test_the_loss_of_a_segment_reaches_the_first_one_through_the_matrices_alone(build: Callable[..., Backbone]) -> None:
    backbone = build(AssociativeMemoryTransformer, **ARMT)
    for bptt_segments, pattern in ((0, [1, 1, 1]), (1, [0, 0, 1]), (2, [0, 1, 1])):
        backbone.bptt_segments = bptt_segments
        x = stream(3 * L).requires_grad_()
        (gradient,) = torch.autograd.grad(backbone(x, backbone.initial_state(2)).hidden[:, -L:].square().sum(), x)
        assert [int(part.any()) for part in gradient.split(L, dim=1)] == pattern


def test_the_memory_rows_learn_also_behind_a_state_that_was_detached(build: Callable[..., Backbone]) -> None:
    backbone = build(AssociativeMemoryTransformer, **ARMT)
    state = states.detach(backbone(stream(L), backbone.initial_state(2)).state)
    (gradient,) = torch.autograd.grad(backbone(stream(L), state).hidden.square().sum(), backbone.memory)
    assert gradient.any(-1).all()


def test_a_thousand_segments_with_large_values_do_not_explode() -> None:
    backbone = AssociativeMemoryTransformer(5, width=16, layers=2, heads=2, segment_length=4, memory_tokens=2, key_width=8)
    with torch.no_grad():
        for maps in backbone.associations:
            maps.values.weight.normal_()
        state, norms = backbone.initial_state(2), []
        for _ in range(10):
            state = backbone(torch.randn(2, 400, 5), state).state
            norms.append(state["matrix.1"].norm().item())
    assert norms[-1] < 2 * norms[0]
