"""A1 to A9 and B1 to B7 of memory.md, sections 7.3 and 8.3; ties and recall of approximate indexes (A9, A10) belong to the stores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.agents.backbones import state as states
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.memorizing_transformer import MemorizingTransformer, bucket
from clbench.agents.backbones.segment_transformer import rotary, rotate
from clbench.agents.stores.ring import RingStore
from clbench.errors import UserError

L, D, H = 4, 16, 2
Make = Callable[..., MemorizingTransformer]


@pytest.fixture
def make(build: Callable[..., Backbone]) -> Make:
    def made(**options: Any) -> MemorizingTransformer:
        backbone = build(MemorizingTransformer, **{"width": D, "layers": 2, "heads": H, "segment_length": L, "memory_size": 32, **options})
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if name.startswith(("gates", "temperatures")):
                    parameter += torch.randn_like(parameter)
        return backbone  # type: ignore[return-value]

    return made


def tokens(length: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, length, 5, dtype=torch.double)


def read(backbone: Backbone, x: Tensor, **options: Any) -> Tensor:
    return backbone(x, backbone.initial_state(len(x)), **options).hidden


def by_the_book(backbone: MemorizingTransformer, x: Tensor, integration: str, topk: int, capacity: int) -> Tensor:
    """Hidden (T, D) of one stream x (T, 5): token by token and head by head, memories as lists, as sections 7.1 and 8.1 say."""
    memory: dict[int, list[list[tuple[Tensor, Tensor]]]] = {n: [[] for _ in range(H)] for n in backbone.memory_layers}
    rotates = bool(backbone.turning)
    turn = rotary(torch.arange(L, dtype=torch.double), D // H)
    hidden = []
    for segment in x.split(L):
        h = backbone.trunk.embed(segment[None])
        for n, block in enumerate(backbone.trunk.blocks):
            q, k, v = (rows[0] for rows in block.project(h))  # (H, T, D/H)
            stored = n in memory
            if stored:
                q, k = (rows / rows.norm(dim=-1, keepdim=True) for rows in (q, k))
            scale = backbone.temperatures[str(n)].flatten().tolist() if stored else [1 / math.sqrt(D // H)] * H
            placed = not stored or backbone.positions != "none"
            turned_q, turned_k, bias = q, k, torch.zeros(H, L, dtype=torch.double)  # bias: (H, distance)
            if placed and rotates:
                turned_q, turned_k = (rotate(rows[None], turn[: len(segment)])[0] for rows in (q, k))
            elif placed:
                bias = backbone.biases[str(n)][:, :L]  # a bucket for each distance below 16
            towards_memory = turned_q if backbone.positions == "first" else q
            out = torch.zeros(H, len(segment), D // H, dtype=torch.double)
            for head in range(H):
                for t in range(len(segment)):
                    near = [(scale[head] * turned_q[head, t] @ turned_k[head, j] + bias[head, t - j], v[head, j]) for j in range(t + 1)]
                    far = [(scale[head] * towards_memory[head, t] @ key, value) for key, value in memory[n][head]] if stored else []
                    far = sorted(far, key=lambda pair: -pair[0].item())[:topk]
                    if not far:
                        out[head, t] = softmax(near)
                    elif integration == "concat":
                        out[head, t] = softmax(near + far)
                    else:
                        g = 1 / (1 + math.exp(-backbone.gates[str(n)].flatten()[head].item()))
                        out[head, t] = g * softmax(far) + (1 - g) * softmax(near)
            if stored and len(segment) == L:
                for head in range(H):
                    memory[n][head] = (memory[n][head] + list(zip(k[head], v[head], strict=True)))[-capacity:]
            h = block.finish(h, out[None])
        hidden.append(backbone.trunk.norm(h)[0])
    return torch.cat(hidden)


def softmax(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    weights = torch.stack([score for score, _ in pairs]).softmax(0)
    return (weights[:, None] * torch.stack([value for _, value in pairs])).sum(0)


@pytest.mark.parametrize(
    ("distances", "positions"), [("bias", "local"), ("bias", "none"), ("rotary", "local"), ("rotary", "none"), ("rotary", "first")]
)
@pytest.mark.parametrize("integration", ["gate", "concat"])
@pytest.mark.parametrize(("topk", "capacity"), [(3, 9), (0, 9), (3, 64)])
def test_a1_a2_a4_b1_b5_every_output_is_that_of_the_equations(
    make: Make, distances: str, positions: str, integration: str, topk: int, capacity: int
) -> None:
    """Empty memory in the first segment, then top-k or all, then a memory that has forgotten; read before written."""
    backbone = make(distances=distances, positions=positions, integration=integration, topk=topk, memory_size=capacity)
    x = tokens(5 * L + 2)
    expected = by_the_book(backbone, x[0], integration, topk or capacity, capacity)
    torch.testing.assert_close(read(backbone, x)[0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("integration", ["gate", "concat"])
def test_a1_an_empty_memory_changes_no_bit(make: Make, integration: str) -> None:
    """The second segment without what the first would have written is the first segment of a new stream."""
    backbone, x = make(integration=integration), tokens(L, 3)
    unwritten = backbone(tokens(L, 3), backbone.initial_state(3), write=False).state
    assert torch.equal(backbone(x, unwritten).hidden, read(backbone, x))
    seen: list[Tensor] = []
    for store in backbone.stores.values():
        store.attend = lambda *arguments: seen.append(arguments[0])  # type: ignore[method-assign, assignment, func-returns-value]
    read(backbone, x)
    assert not seen  # nothing is asked of an empty memory


def test_a2_as_many_nearest_as_there_are_entries_is_all_of_them(make: Make) -> None:
    few, every = make(topk=12, integration="concat"), make(topk=0, integration="concat")
    every.load_state_dict(few.state_dict())
    x = tokens(3 * L + L, 2)  # three segments are stored when the last one reads
    torch.testing.assert_close(read(few, x), read(every, x), atol=1e-12, rtol=0)


def test_a3_a_gate_far_to_one_side_reads_one_side_only(make: Make) -> None:
    backbone, x = make(layers=1), tokens(2 * L)
    other = torch.cat([tokens(L), x[:, L:]], dim=1)
    with torch.no_grad():
        backbone.gates["0"].fill_(-100.0)
        torch.testing.assert_close(read(backbone, x)[:, L:], read(backbone, x[:, L:]), atol=1e-12, rtol=0)
        torch.testing.assert_close(read(backbone, x)[:, L:], read(backbone, other)[:, L:], atol=1e-12, rtol=0)
        backbone.gates["0"].fill_(100.0)
        changed = x.clone()
        changed[:, L] += 1  # read by the tokens behind it, but not through the memory
        torch.testing.assert_close(read(backbone, changed)[:, L + 1 :], read(backbone, x)[:, L + 1 :], atol=1e-12, rtol=0)


def test_a4_a_segment_reads_the_memory_before_it_is_written(make: Make) -> None:
    backbone, x = make(), tokens(2 * L)
    state = backbone(x[:, :L], backbone.initial_state(1)).state
    second = backbone(x[:, L:], state)
    altered = {name: leaf + 1 if name.startswith("memory.1.keys") else leaf for name, leaf in second.state.items()}
    third = tokens(L)
    assert not torch.equal(backbone(third, altered).hidden, backbone(third, second.state).hidden)
    assert torch.equal(backbone(x[:, L:], state).hidden, second.hidden)
    assert second.state["memory.1.fill"].item() == 2 * L
    assert backbone(x[:, L : 2 * L - 1], state).state["memory.1.fill"].item() == L  # an open segment is not there yet


def test_a5_no_gradient_reaches_what_was_written_yet_queries_learn_through_the_memory(make: Make) -> None:
    backbone, x = make(), tokens(2 * L).requires_grad_()
    with torch.no_grad():
        backbone.gates["1"].fill_(100.0)  # the last layer reads its memory alone
    hidden = read(backbone, x)[:, L:]
    gradient, of_queries = torch.autograd.grad(hidden.square().sum(), [x, backbone.trunk.blocks[1].project_in.weight])
    assert not gradient[:, :L].any()
    assert gradient[:, L:].any()
    assert of_queries[:D].abs().max() > 1e-6
    assert not of_queries[D:].any()  # keys and values learn by local attention only


def test_a6_a_memory_belongs_to_its_stream(make: Make) -> None:
    backbone, x = make(), tokens(3 * L, 3)
    reference = read(backbone, x)
    others = x.clone()
    others[[0, 2]] += 1
    assert torch.equal(read(backbone, others)[1], reference[1])
    cleared = torch.zeros(3, 3 * L, dtype=torch.bool)
    cleared[0, 2 * L] = True
    hidden = read(backbone, x, reset=cleared)
    torch.testing.assert_close(hidden[1:], reference[1:], atol=1e-12, rtol=0)
    torch.testing.assert_close(hidden[0, 2 * L :], read(backbone, x[:1, 2 * L :])[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("segments", [3, 5])
def test_a7_a_full_memory_has_forgotten_all_but_the_last_entries(make: Make, segments: int) -> None:
    """Nine slots, written over for the first time or for the second; each token is retrievable or not as its age says."""
    M, written = 9, segments * L
    backbone, x = make(layers=1, memory_size=M, topk=0), tokens(written + L)
    reference = read(backbone, x)[:, written:]
    for index in range(written):
        changed = x.clone()
        changed[:, index] += 1
        assert torch.equal(read(backbone, changed)[:, written:], reference) == (index < written - M)


def test_a8_every_head_and_token_has_nearest_entries_of_its_own(make: Make) -> None:
    backbone = make(topk=1)
    with torch.no_grad():  # no direction that all tokens share
        for block in backbone.trunk.blocks:
            block.attention_norm.bias.zero_()
    selected: list[Tensor] = []

    class Recording(RingStore):
        def attend(self, *arguments: Any, **options: Any) -> Any:
            attended = super().attend(*arguments, **options)
            selected.append(attended.diagnostics["selected"])
            return attended

    backbone._apart = dict.fromkeys(backbone.stores, Recording())
    read(backbone, tokens(8 * L))
    nearest = torch.cat([slots[0, :, :, 0] for slots in selected[4:]], dim=1)  # (H, T) of the last segments
    assert (nearest[0] != nearest[1]).any()
    assert any(len(head.unique()) > 1 for head in nearest)


FOCUSED: dict[str, Any] = {"distances": "rotary", "integration": "concat", "differentiable": True, "positions": "none", "topk": 0}


def test_b2_training_with_the_own_context_is_inference_with_a_gradient(make: Make) -> None:
    focused, plain = make(**FOCUSED), make(**{**FOCUSED, "differentiable": False})
    plain.load_state_dict(focused.state_dict())
    x = tokens(2 * L, 3).requires_grad_()
    trained = read(focused, x, context=torch.arange(3)[:, None])
    torch.testing.assert_close(trained, read(plain, x), atol=1e-12, rtol=0)
    torch.testing.assert_close(trained, read(focused, x), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(trained[:, L:].square().sum(), x)
    assert gradient[:, :L].any(-1).all()


def test_b3_a_row_reads_the_memories_of_its_contexts_and_no_others(make: Make) -> None:
    B, d = 5, 2
    backbone, x = make(layers=1, **FOCUSED), tokens(2 * L, B).requires_grad_()
    context = (torch.arange(B)[:, None] + torch.arange(d)) % B
    hidden = read(backbone, x, context=context)
    for i in range(B):
        (gradient,) = torch.autograd.grad(hidden[i, L:].square().sum(), x, retain_graph=True)
        assert [bool(gradient[j, :L].any()) for j in range(B)] == [j in context[i].tolist() for j in range(B)]
        assert [bool(gradient[j, L:].any()) for j in range(B)] == [j == i for j in range(B)]


def test_b3_memories_of_several_rows_are_read_as_one(make: Make) -> None:
    """Two rows' memories joined by log-sum-exp are the memory of one row in which both were written."""
    backbone, x = make(layers=1, **FOCUSED), tokens(2 * L, 2)
    hidden = read(backbone, x, context=torch.tensor([[0, 1], [1, 0]]))
    together = torch.cat([x[:1, :L], x[1:, :L], x[:1, L:]], dim=1)
    torch.testing.assert_close(hidden[0, L:], read(backbone, together)[0, 2 * L :], atol=1e-12, rtol=0)


@pytest.mark.parametrize("positions", ["none", "first", "local"])
def test_b4_b5_the_order_of_a_memory_does_not_matter(make: Make, positions: str) -> None:
    backbone = make(**{**FOCUSED, "positions": positions})
    state = backbone(tokens(3 * L), backbone.initial_state(1)).state
    order = torch.cat([torch.randperm(3 * L), torch.arange(3 * L, 32)])
    shuffled = {name: leaf[:, :, order] if name.startswith("memory") and leaf.ndim == 4 else leaf for name, leaf in state.items()}
    x = tokens(L)
    torch.testing.assert_close(backbone(x, shuffled).hidden, backbone(x, state).hidden, atol=1e-12, rtol=0)


def test_b6_the_positive_share_of_equal_memories_is_one_over_their_number(make: Make) -> None:
    backbone, x = make(**FOCUSED), tokens(2 * L).expand(4, -1, -1)
    context = (torch.arange(4)[:, None] + torch.arange(3)) % 4
    diagnostics = backbone(x, backbone.initial_state(4), context=context).diagnostics
    assert diagnostics is not None
    assert diagnostics["positive_share"].item() == pytest.approx(1 / 3, abs=1e-6)


def test_b7_packed_chunks_do_not_see_later_ones(make: Make) -> None:
    """Rows are chunks of one document in order; each reads those before it."""
    backbone, x = make(layers=1, **FOCUSED), tokens(2 * L, 4).requires_grad_()
    before = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 2]])
    hidden = read(backbone, x, context=before)
    for i in range(4):
        (gradient,) = torch.autograd.grad(hidden[i, L:].square().sum(), x, retain_graph=True)
        assert not gradient[i + 1 :].any()


def test_the_account_counts_what_was_written_and_read(make: Make) -> None:
    backbone = make(topk=3, memory_layers=[0, 1])
    output = backbone(tokens(3 * L + 1, 2), backbone.initial_state(2))
    diagnostics = {name: value.item() for name, value in (output.diagnostics or {}).items()}
    assert diagnostics["memory_writes"] == 2 * 2 * 3 * L  # layers, streams, tokens
    assert diagnostics["memory_reads"] == 2 * 2 * H * 3 * (2 * L + 1)  # and heads, nearest
    assert diagnostics["memory_bytes"] == 2 * 2 * (2 * 32 * D * 8 + 8)
    assert 0 < diagnostics["gate"] < 1


def test_buckets_are_those_of_t5() -> None:
    """Sixteen exact ones, then as many whose widths grow by powers of 8^(1/16) up to 128; worked out by hand for these distances."""
    distance = torch.tensor([-3, 0, 1, 15, 16, 18, 19, 64, 127, 128, 5000])
    assert bucket(distance).tolist() == [-1, 0, 1, 15, 16, 16, 17, 26, 31, 31, 31]


def test_the_account_does_not_count_tokens_that_are_not_there(make: Make) -> None:
    backbone, x = make(topk=3), tokens(3 * L, 2)
    pad = torch.zeros(2, 3 * L, dtype=torch.bool)
    pad[1, 2 * L :] = True
    together = backbone(x, backbone.initial_state(2), pad=pad).diagnostics
    alone = [backbone(x[b : b + 1, :end], backbone.initial_state(1)).diagnostics for b, end in ((0, 3 * L), (1, 2 * L))]
    assert together is not None
    for name in ("memory_reads", "memory_writes"):
        assert together[name].item() == sum(each[name].item() for each in alone if each is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_length": 0}, "segment_length must be at least 1, .* got 0, 512, 0, 32"),
        ({"topk": -1}, "topk at least 0, got 32, 512, 0, -1"),
        ({"integration": "gates"}, "Unknown integration 'gates'. Did you mean gate?"),
        ({"distances": "rotation"}, "Unknown distances 'rotation'. Did you mean rotary?"),
        ({"positions": "first"}, "positions=first turns keys and needs distances=rotary, got distances=bias"),
        ({"positions": "rotary"}, "Unknown positions 'rotary'"),
        ({"memory_layers": [2]}, r"memory_layers must lie in \[-2, 2\), got \[2\]"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MemorizingTransformer(5, **options)


# -- where a memory lies, how large it may be, and how heads begin ---------------------------------------------------------


@pytest.mark.parametrize("store", ["ring", "paged", "faiss"])
def test_exact_stores_give_the_same_numbers(make: Make, store: str) -> None:
    auto, other = make(topk=3, memory_size=9, memory_layers=[0, 1]), make(topk=3, memory_size=9, memory_layers=[0, 1], store=store)
    other.load_state_dict(auto.state_dict())
    x = tokens(6 * L + 1, 2)
    torch.testing.assert_close(read(other, x), read(auto, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("store", ["faiss-ivf", "faiss-hnsw"])
def test_an_approximate_store_reads_mostly_what_an_exact_one_does(store: str) -> None:
    """Three thousand entries, so that there are clusters and links to go along; nearest entries of any kind weigh nearly alike."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "segment_length": 512, "memory_size": 4096, "topk": 8}
    exact, other = MemorizingTransformer(5, **options), MemorizingTransformer(5, **options, store=store)
    other.load_state_dict(exact.state_dict())
    x = torch.randn(1, 7 * 512, 5)
    with torch.no_grad():
        left, right = (backbone(x, backbone.initial_state(1)).hidden[:, -512:] for backbone in (exact, other))
    same = ((left - right).abs().amax(-1) < 1e-5).float().mean()
    assert same > 0.5
    assert (left - right).norm() < 0.1 * left.norm()


def test_what_was_read_outlives_what_was_not(make: Make) -> None:
    """A memory of two segments: the third goes where the one that nobody read lay."""
    backbone = make(topk=1, memory_size=2 * L, store="least-recently-read")
    ring = make(topk=1, memory_size=2 * L)
    ring.load_state_dict(backbone.state_dict())
    x = tokens(4 * L)
    states_after = [b(x, b.initial_state(1)).state for b in (backbone, ring)]
    (layer,) = backbone.memory_layers
    kept, first_in = (state[f"memory.{layer}.keys"][0, 0] for state in states_after)
    alike = (kept[:, None] - first_in[None]).abs().amax(-1) < 1e-12  # (M, M)
    assert 0 < int(alike.any(1).sum()) < 2 * L  # the newest segment is in both, and some entries of the other survived


@pytest.mark.parametrize("layers", [[-1], [0, 1]])
def test_a_cap_in_bytes_holds_for_all_memory_layers_together(make: Make, layers: list[int]) -> None:
    backbone = make(memory_size=512, memory_layers=layers, memory_bytes=4096).float()
    assert backbone.memory_size < 512 == make(memory_size=512, memory_bytes=10**6).memory_size
    memory = {name: leaf for name, leaf in backbone.initial_state(1).items() if name.startswith("memory.")}
    assert len(layers) * 1900 < states.bytes(memory) <= 4096
    with pytest.raises(UserError, match="a cap of 20 bytes holds no entry"):
        make(memory_bytes=20)


def test_plain_heads_begin_as_pytorch_draws_them() -> None:
    def built(**options: Any) -> MemorizingTransformer:
        torch.manual_seed(0)
        return MemorizingTransformer(5, width=16, layers=1, heads=4, **options)

    prepared, plain = built(), built(prepared=False)
    assert all((bias == 0).all() for bias in plain.biases.values()) and any((bias != 0).any() for bias in prepared.biases.values())
    q, k, _ = plain.trunk.blocks[0].project_in.weight.chunk(3)
    assert not torch.equal(q[:4], k[:4])
    q, k, _ = prepared.trunk.blocks[0].project_in.weight.chunk(3)
    assert torch.equal(q[:4], k[:4])


def test_what_a_head_learns_is_its_factor_or_the_logarithm_of_it(make: Make) -> None:
    factor, logarithm = make(), make(temperature="logarithm")
    weights = factor.state_dict()
    logarithm.load_state_dict({name: leaf.abs().log() if name.startswith("temperatures") else leaf for name, leaf in weights.items()})
    factor.load_state_dict({name: leaf.abs() if name.startswith("temperatures") else leaf for name, leaf in weights.items()})
    x = tokens(3 * L, 2)
    torch.testing.assert_close(read(logarithm, x), read(factor, x), atol=1e-12, rtol=0)
    begins = [MemorizingTransformer(5, width=16, heads=2, temperature=kind).temperatures["1"] for kind in ("factor", "logarithm")]
    torch.testing.assert_close(begins[1].exp(), begins[0])


# -- one memory for all streams


@pytest.mark.parametrize("store", ["ring", "least-recently-read", "faiss"])
def test_streams_that_share_a_memory_read_what_the_others_wrote_in_order_of_time(make: Make, store: str) -> None:
    """After a segment of three streams the memory holds token 0 of all, then token 1 of all, and so on; each reads it as its own."""
    backbone = make(shared=True, store=store, topk=3, memory_size=10)
    x = tokens(2 * L, batch=3)
    start = backbone.initial_state(3)
    shared = backbone.train()(x[:, :L], start)
    apart = backbone.eval()(x[:, :L], start)
    torch.testing.assert_close(shared.hidden, apart.hidden, atol=0, rtol=0)  # nothing is in it yet
    n = backbone.memory_layers[0]
    for kind in ("keys", "values"):
        written = apart.state[f"memory.{n}.{kind}"][:, :, :L]  # (3, H, L, D/H)
        together = written.transpose(0, 2).transpose(1, 2).flatten(0, 1)  # (L * 3, H, D/H)
        held = shared.state[f"memory.{n}.{kind}"]
        assert all(torch.equal(held[0], row) for row in held[1:])
        found = {tuple(entry.flatten().tolist()) for entry in held[0].transpose(0, 1)}
        assert found == {tuple(entry.flatten().tolist()) for entry in together[-10:]}  # the two oldest of twelve are gone
    assert shared.state[f"memory.{n}.fill"].tolist() == [10] * 3
    alone = states.clone(shared.state)  # the same entries, each stream's own
    torch.testing.assert_close(backbone.train()(x[:, L:], shared.state).hidden, backbone.eval()(x[:, L:], alone).hidden, atol=1e-12, rtol=0)
    assert (backbone(x[:, L:], apart.state).hidden - backbone(x[:, L:], alone).hidden).abs().max() > 1e-3


def test_episodes_of_a_policy_share_nothing(make: Make) -> None:
    backbone = make(shared=True).eval()
    x = tokens(3 * L, batch=3)
    together = read(backbone, x)
    torch.testing.assert_close(together, torch.cat([read(backbone, row[None]) for row in x]), atol=1e-12, rtol=0)
    backbone.train()
    assert (read(backbone, x) - together)[:, L:].abs().max() > 1e-3


def test_a_shared_memory_is_counted_once(make: Make) -> None:
    backbone = make(shared=True, memory_size=10).train()
    found = backbone(tokens(2 * L, batch=3), backbone.initial_state(3)).diagnostics
    assert found is not None
    n, fill = backbone.memory_layers[0], 2 * 4  # ptr and fill
    assert found["memory_bytes"].item() == 10 * RingStore().entry_bytes(H, D // H, D // H, torch.double) + fill and n == 1
    assert found["memory_writes"].item() == 3 * 2 * L
