"""D1 to D5 of memory.md, section 5.3, each form by its equations, and segments side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clbench.agents.backbones import benchmark
from clbench.agents.backbones import state as states
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.memory_transformer import FORMS, MemoryEncoder, MemoryTransformer
from clbench.agents.backbones.transformer import Transformer

M, L, D = 3, 4, 16
SMALL = {"layers": 2, "heads": 2, "memory_tokens": M}
CAUSAL = {**SMALL, "width": D, "segment_length": L}
CONTROLLED = [form for form in FORMS if form != "memory"]


def stream(length: int, width: int = 5, batch: int = 2) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.double)


def encoder(**options: int | str | bool) -> MemoryEncoder:
    """In double precision, every parameter drawn anew, so that no zero or one hides a term."""
    module = MemoryEncoder(D, **{**SMALL, **options}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module


def give_the_controllers_the_blocks(controllers: nn.ModuleList, blocks: nn.ModuleList) -> None:
    for controller, block in zip(controllers, blocks, strict=False):
        controller.load_state_dict(block.state_dict())


# -- the encoder -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("post_norm", [True, False])
@pytest.mark.parametrize("form", ["memory", "controller", "shared-controller"])
def test_d1_without_memory_the_encoder_is_the_transformer_encoder_of_torch(form: str, post_norm: bool) -> None:
    """The sequence with sinusoids through `nn.TransformerEncoderLayer`, whose additional biases are zero."""
    ours = encoder(memory_tokens=0, form=form, post_norm=post_norm)
    angle = torch.arange(6.0)[:, None] / 10000.0 ** (torch.arange(0, D, 2) / D)
    x = stream(6, D)
    h = x + torch.cat([angle.sin(), angle.cos()], dim=1)
    for block in ours.trunk.blocks:
        layer = nn.TransformerEncoderLayer(D, 2, 4 * D, dropout=0.0, batch_first=True, norm_first=not post_norm).double()
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(block.project_in.weight)
            layer.self_attn.out_proj.weight.copy_(block.project_out.weight)
            layer.self_attn.in_proj_bias.zero_()
            layer.self_attn.out_proj.bias.zero_()
        layer.linear1, layer.linear2 = block.feedforward[0], block.feedforward[2]
        layer.norm1, layer.norm2 = block.attention_norm, block.feedforward_norm
        h = layer(h)
    torch.testing.assert_close(ours(x), ours.trunk.norm(h), atol=1e-6, rtol=0)  # the sinusoids are in single precision


@pytest.mark.parametrize("post_norm", [True, False])
def test_d2_a_controller_with_the_parameters_of_the_sequence_is_the_plain_form(post_norm: bool) -> None:
    plain, controlled = encoder(post_norm=post_norm), encoder(form="controller", post_norm=post_norm)
    controlled.load_state_dict(plain.state_dict(), strict=False)
    x, pad = stream(6, D), torch.arange(6).expand(2, -1) >= torch.tensor([[4], [6]])
    assert (controlled.encode(x) - plain.encode(x)).abs().amax(-1).amin() > 1e-3  # its own parameters count in every row
    give_the_controllers_the_blocks(controlled.controllers, plain.trunk.blocks)
    torch.testing.assert_close(controlled.encode(x), plain.encode(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(controlled.encode(x, pad), plain.encode(x, pad), atol=1e-12, rtol=0)


def test_a_shared_controller_is_one_in_all_layers() -> None:
    shared, own = encoder(form="shared-controller"), encoder(form="controller")
    own.load_state_dict(shared.state_dict(), strict=False)
    own.controllers[1].load_state_dict(own.controllers[0].state_dict())
    x = stream(6, D)
    torch.testing.assert_close(shared.encode(x), own.encode(x), atol=1e-12, rtol=0)
    assert len(shared.controllers) == 1


@pytest.mark.parametrize("post_norm", [True, False])
@pytest.mark.parametrize("form", CONTROLLED)
def test_each_form_is_its_equations(form: str, post_norm: bool) -> None:
    """Attention written out: A = LN(X + MHA(X, Y, Y)), H = LN(A + FF(A)), or X + MHA(LN X, LN Y, LN Y), A + FF(LN A)."""
    module, x = encoder(form=form, post_norm=post_norm), stream(6, D)

    def layer(block: nn.Module, rows: Tensor, seen: Tensor) -> Tensor:
        before, after = (nn.Identity(), block.attention_norm) if post_norm else (block.attention_norm, nn.Identity())
        weights = block.project_in.weight.view(3, 2, 8, D)  # queries, keys, values of two heads
        q, k, v = (torch.einsum("bsd,hed->bhse", before(y), w) for y, w in zip((rows, seen, seen), weights, strict=True))
        read = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1) @ v
        a = after(rows + block.project_out(read.transpose(1, 2).flatten(2)))
        before, after = (nn.Identity(), block.feedforward_norm) if post_norm else (block.feedforward_norm, nn.Identity())
        return after(a + block.feedforward(before(a)))

    angle = torch.arange(6.0)[:, None] / 10000.0 ** (torch.arange(0, D, 2) / D)
    memory, sequence = module.memory.expand(2, -1, -1), x + torch.cat([angle.sin(), angle.cos()], dim=1)
    for n, block in enumerate(module.trunk.blocks):
        both = torch.cat([memory, sequence], dim=1)
        memory = layer(module.controllers[0 if form == "shared-controller" else n], memory, both)
        sequence = layer(block, sequence, memory if form == "bottleneck" else both)
    expected = module.trunk.norm(torch.cat([memory, sequence], dim=1))
    torch.testing.assert_close(module.encode(x), expected, atol=1e-6, rtol=0)


def jacobian(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Whether y_i depends on x_j: bool (T, T)."""
    full = torch.autograd.functional.jacobian(lambda rows: module(rows[None])[0], x)  # (T, D, T, D)
    return (full != 0).any(dim=1).any(dim=-1)


def freeze(controllers: nn.ModuleList) -> None:
    """What the memory becomes is a constant, the same at every call."""
    for controller in controllers:
        constant = torch.randn(1, M, D, dtype=torch.double)
        controller.finish = lambda h, _, constant=constant: constant.expand(len(h), -1, -1).repeat(1, h.shape[1] // M, 1)


@pytest.mark.parametrize("post_norm", [True, False])
def test_d3_through_a_frozen_memory_no_token_sees_another(post_norm: bool) -> None:
    for form in ("bottleneck", "controller"):
        module, x = encoder(form=form, post_norm=post_norm), stream(5, D, 1)[0]
        assert jacobian(module, x).all()
        freeze(module.controllers)
        if form == "bottleneck":
            assert torch.equal(jacobian(module, x), torch.eye(5, dtype=torch.bool))
        else:
            assert jacobian(module, x).all()  # there tokens read tokens


@pytest.mark.parametrize("form", FORMS)
def test_d4_permuted_memory_is_permuted_in_the_output_and_unseen_by_the_sequence(form: str) -> None:
    module, x, order = encoder(form=form), stream(6, D), torch.tensor([2, 0, 1])
    before = module.encode(x)
    with torch.no_grad():
        module.memory.copy_(module.memory[order])
    after = module.encode(x)
    torch.testing.assert_close(after[:, :M], before[:, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(after[:, M:], before[:, M:], atol=1e-12, rtol=0)
    assert (before[:, 0] - before[:, 1]).abs().amax() > 1e-3  # rows that start apart stay apart
    distinct = MemoryEncoder(D, **SMALL).memory
    assert (distinct[0] - distinct[1]).abs().amax() > 0.1


@pytest.mark.parametrize("form", FORMS)
def test_nobody_reads_pads_of_the_encoder_neither_tokens_nor_memory(form: str) -> None:
    module, x = encoder(form=form), stream(7, D)
    pad = (torch.arange(7) >= 5).expand(2, -1)
    padded = module.encode(x, pad)
    torch.testing.assert_close(padded[:, : M + 5], module.encode(x[:, :5]), atol=1e-12, rtol=0)
    assert module.encode(x, torch.ones_like(pad)).isfinite().all()


# -- the causal form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["memory", "controller", "shared-controller"])
def test_d1_without_memory_each_segment_is_a_causal_transformer_of_its_own(build: Callable[..., Backbone], form: str) -> None:
    backbone = build(MemoryTransformer, **{**CAUSAL, "memory_tokens": 0}, form=form)
    plain = Transformer(5, width=D, layers=2, heads=2, context=L).double()
    plain.load_state_dict({name: leaf for name, leaf in backbone.state_dict().items() if name.startswith("trunk")})
    x = stream(3 * L)
    reset = (torch.arange(3 * L) % L == 0).expand(2, -1)
    expected = plain(x, plain.initial_state(2), reset=reset).hidden
    torch.testing.assert_close(backbone(x, backbone.initial_state(2)).hidden, expected, atol=1e-6, rtol=0)


def test_d2_controllers_of_the_prefix_with_the_parameters_of_the_sequence_are_the_plain_form(build: Callable[..., Backbone]) -> None:
    plain, controlled = build(MemoryTransformer, **CAUSAL), build(MemoryTransformer, **CAUSAL, form="controller")
    controlled.load_state_dict(plain.state_dict(), strict=False)
    x = stream(L)
    expected = plain(x, plain.initial_state(2)).hidden
    assert (controlled(x, plain.initial_state(2)).hidden - expected).abs().amax(-1).amin() > 1e-4
    give_the_controllers_the_blocks(controlled.memory.controllers, plain.trunk.blocks)
    torch.testing.assert_close(controlled(x, plain.initial_state(2)).hidden, expected, atol=1e-12, rtol=0)


def test_d3_the_memory_is_the_only_way_from_token_to_token_in_the_causal_bottleneck(build: Callable[..., Backbone]) -> None:
    backbone, x = build(MemoryTransformer, **CAUSAL, form="bottleneck"), stream(L, batch=1)[0]

    def read(rows: Tensor) -> Tensor:
        return backbone(rows, backbone.initial_state(1)).hidden

    assert torch.equal(jacobian(read, x), torch.ones(L, L, dtype=torch.bool).tril())
    freeze(backbone.memory.controllers)
    assert torch.equal(jacobian(read, x), torch.eye(L, dtype=torch.bool))


@pytest.mark.parametrize("form", FORMS)
def test_d4_the_order_of_memory_rows_says_nothing_in_the_causal_form(build: Callable[..., Backbone], form: str) -> None:
    backbone, x = build(MemoryTransformer, **CAUSAL, form=form), stream(2 * L + 3)
    before = backbone(x, backbone.initial_state(2))
    with torch.no_grad():
        backbone.memory.rows.copy_(backbone.memory.rows[[2, 0, 1]])
    after = backbone(x, backbone.initial_state(2))
    torch.testing.assert_close(after.hidden, before.hidden, atol=1e-12, rtol=0)
    for name, leaf in after.state.items():
        torch.testing.assert_close(leaf, before.state[name], atol=1e-12, rtol=0)


def turned(heads: Tensor, positions: Tensor) -> Tensor:
    """Rows (B, H, R, 8) as complex numbers, turned by their positions (R,)."""
    angle = positions[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)  # (R, 4): two heads of 8
    return torch.complex(heads[..., 0::2], heads[..., 1::2]) * torch.polar(torch.ones_like(angle), angle)


def read_by(block: nn.Module, rows: Tensor, seen: Tensor, mask: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Rows (B, R, D) at positions `here` read seen (B, S, D) at positions `there` where mask (R, S), with softmax written out."""
    q, (k, v) = block.project(rows)[0], block.project(seen)[1:]
    scores = (turned(q, here) @ turned(k, there).conj().transpose(2, 3)).real / 8**0.5
    return block.finish(rows, scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("form", ["memory", "controller", "shared-controller"])
def test_d5_the_prefix_sees_itself_and_no_token_and_tokens_see_it_and_their_past(
    build: Callable[..., Backbone], form: str, post_norm: bool
) -> None:
    """[memory ; x] under one mask: M x M full, M x L empty, L x M full, L x L causal; the memory stands at 0, tokens at 0 ... L - 1."""
    backbone = build(MemoryTransformer, **{**CAUSAL, "layers": 3}, form=form, post_norm=post_norm)
    x = stream(L)
    mask = torch.ones(M + L, M + L, dtype=torch.bool).tril()
    mask[:M, :M] = True
    place = torch.cat([torch.zeros(M), torch.arange(L)])
    rows = torch.cat([backbone.memory.rows.expand(2, -1, -1), backbone.trunk.embed(x)], dim=1)
    own = backbone.memory.controllers
    controllers = {"memory": backbone.trunk.blocks, "controller": [*own, *own[-1:]], "shared-controller": [*own, *own, *own]}[form]
    for block, controller in zip(backbone.trunk.blocks, controllers, strict=True):
        memory, tokens = (read_by(each, rows, rows, mask, place, place) for each in (controller, block))
        rows = torch.cat([memory[:, :M], tokens[:, M:]], dim=1)
    hidden = backbone(x, backbone.initial_state(2)).hidden
    torch.testing.assert_close(hidden, backbone.trunk.norm(rows)[:, M:], atol=1e-6, rtol=0)


def test_d5_every_memory_row_reaches_every_token_and_every_other_row(build: Callable[..., Backbone]) -> None:
    backbone, x = build(MemoryTransformer, **CAUSAL), stream(2 * L)
    _, (_, before) = backbone.memory.begin(backbone.trunk.blocks)  # values of the second layer
    assert before.shape == (1, 2, M, D // 2)  # one memory for all streams and times: no token can be in it
    reference = backbone(x, backbone.initial_state(2)).hidden
    for row in range(M):
        with torch.no_grad():
            backbone.memory.rows[row] += 1
        _, (_, after) = backbone.memory.begin(backbone.trunk.blocks)
        assert (after != before).any(-1).all()
        assert (backbone(x, backbone.initial_state(2)).hidden != reference).any(-1).all()
        with torch.no_grad():
            backbone.memory.rows[row] -= 1


@pytest.mark.parametrize("post_norm", [False, True])
def test_d5_in_the_bottleneck_each_token_has_a_memory_of_its_own_that_sees_the_past_up_to_it(
    build: Callable[..., Backbone], post_norm: bool
) -> None:
    """Token after token: M rows at its place read themselves and tokens 0 ... t, then the token reads the M rows."""
    backbone = build(MemoryTransformer, **CAUSAL, form="bottleneck", post_norm=post_norm)
    x = stream(L)
    tokens, memories = backbone.trunk.embed(x), [backbone.memory.rows.expand(2, -1, -1)] * L
    for block, controller in zip(backbone.trunk.blocks, backbone.memory.controllers, strict=True):
        after = []
        for t in range(L):
            here = torch.full((M,), float(t))
            seen = torch.cat([tokens[:, : t + 1], memories[t]], dim=1)
            place = torch.cat([torch.arange(t + 1.0), here])
            memories[t] = read_by(controller, memories[t], seen, torch.ones(M, t + 1 + M, dtype=torch.bool), here, place)
            after.append(read_by(block, tokens[:, t : t + 1], memories[t], torch.ones(1, M, dtype=torch.bool), here[:1], here))
        tokens = torch.cat(after, dim=1)
    hidden = backbone(x, backbone.initial_state(2)).hidden
    torch.testing.assert_close(hidden, backbone.trunk.norm(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_outlives_a_segment_and_segments_side_by_side_are_those_read_in_turn(build: Callable[..., Backbone], form: str) -> None:
    backbone, x = build(MemoryTransformer, **CAUSAL, form=form), stream(3 * L + 2)
    together = backbone(x, backbone.initial_state(2))
    state, hidden = backbone.initial_state(2), []
    for part in x.split([1, L, L - 1, L, 1, 1], dim=1):
        output = backbone(part, state)
        state, hidden = output.state, [*hidden, output.hidden]
    torch.testing.assert_close(together.hidden, torch.cat(hidden, 1), atol=1e-9, rtol=0)
    for name, leaf in together.state.items():
        torch.testing.assert_close(leaf, state[name], atol=1e-9, rtol=0)
    opened = backbone(x[:, :1], backbone.initial_state(2)).state
    assert all(leaf.any() for leaf in opened.values())
    for closed in (backbone(x[:, : 3 * L], backbone.initial_state(2)).state, backbone(x[:, 1:L], opened).state):
        assert not any(leaf.any() for leaf in closed.values())
    alone = backbone(x[:, L : 2 * L], backbone.initial_state(2)).hidden
    torch.testing.assert_close(together.hidden[:, L : 2 * L], alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_learns_also_from_a_carried_state(build: Callable[..., Backbone], form: str) -> None:
    """None is idle: a prefix has no controller for the last layer, whose memory nobody reads."""
    backbone = build(MemoryTransformer, **CAUSAL, form=form)
    state = states.detach(backbone(stream(L + 1), backbone.initial_state(2)).state)
    hidden = backbone(stream(L), state).hidden
    for gradient in torch.autograd.grad(hidden.square().sum(), list(backbone.parameters())):
        assert gradient.any()


# -- P-MEM, section 13.2 ---------------------------------------------------------------------------------------------------


def test_p_mem_asks_what_it_says() -> None:
    tokens, answers = benchmark.reverse(torch.Generator().manual_seed(0))
    assert tokens.shape == (32, 32) and torch.equal(tokens[:, :16], answers.flip(1)) and (tokens[:, 16:] == 10).all()
    tokens, answers = benchmark.copy(torch.Generator().manual_seed(0))
    assert torch.equal(tokens[:, :16], answers)
    tokens, answers = benchmark.majority(torch.Generator().manual_seed(0))
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        first, second = Counter(row).most_common(2)
        assert answer == 16 * [first[0]] and first[1] > second[1]


def test_p_mem_runs_all_forms_in_all_tasks_and_its_table_names_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_EVALUATED", 1)
    result = benchmark.memory_encoder(seeds=(1000,), steps=1)
    assert len(result.rows) == 15 and all(0 <= row.accuracies[0] <= 1 for row in result.rows)
    assert not result.fulfilled  # after one step nothing is learned
    columns = [list(column.cells) for column in result.table().columns]
    assert columns[4] == ["", "≥ baseline -0.005", "", "", "≤ baseline -0.050"] * 2 + ["", "", "", "", "≥ 0.950"]
    assert columns[5][-1] == "failed"


@pytest.mark.parametrize(
    ("task", "arm", "accuracies", "baseline", "worst", "met"),
    [
        ("copy", "memory", (1.0, 0.9), (1.0, 0.9), 0.0, True),
        ("copy", "memory", (1.0, 0.9), (0.9, 0.91), -0.01, False),  # a better seed does not make up for a worse one
        ("reverse", "bottleneck", (0.4, 0.5), (1.0, 1.0), -0.5, True),
        ("reverse", "bottleneck", (0.4, 0.96), (1.0, 1.0), -0.04, False),
        ("majority", "bottleneck", (0.96, 0.99), (1.0, 1.0), 0.96, True),
        ("majority", "bottleneck", (0.94, 1.0), (0.5, 0.5), 0.94, False),
        ("copy", "controller", (0.1,), (1.0,), None, None),
    ],
)
def test_p_mem_bars_are_about_the_worst_seed(
    task: str, arm: str, accuracies: tuple[float, ...], baseline: tuple[float, ...], worst: float | None, met: bool | None
) -> None:
    row = benchmark.Row(task, arm, accuracies, baseline)
    assert row.met is met
    assert row.worst == (None if worst is None else pytest.approx(worst))


@pytest.mark.slow
def test_p_mem_memory_does_not_hurt_and_a_bottleneck_passes_a_statistic_but_no_sequence() -> None:
    result = benchmark.memory_encoder(seeds=(0,))
    assert result.fulfilled, [(row.task, row.arm, row.accuracies) for row in result.rows]
