"""What SEM and its baselines are: G1 to G5 of memory.md, section 10.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.lstm import LSTM, Cells
from clbench.agents.backbones.shared_episodic_memory import SharedEpisodicMemory

B, T, N, D = 3, 7, 3, 8
Build = Callable[..., Backbone]
OPTIONS = {"width": D, "tasks": N, "rank": 6}


def stream(task: Tensor, seed: int = 1) -> Tensor:
    """x (B, T, 5 + N) whose last entries are the one-hot of task (B, T)."""
    seen = torch.randn(*task.shape, 5, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    return torch.cat([seen, one_hot(task, N).double()], dim=-1)


def zeros() -> Tensor:
    return torch.zeros(B, T, dtype=torch.int64)


def reference(weights: tuple[Tensor, Tensor], bias: Tensor, inputs: int) -> nn.LSTMCell:
    """torch's own cell with these weights; its gates stand in the same order: input, forget, cell, output."""
    cell = nn.LSTMCell(inputs, D).double()
    with torch.no_grad():
        for parameter, value in zip((cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh), (*weights, bias, 0 * bias), strict=True):
            parameter.copy_(value)
    return cell


def test_g1_factorised_cells_are_an_lstm_whose_weights_are_w1_diag_e_w2() -> None:
    cells, x = Cells(5, D, rank=6).double(), torch.randn(B, T, 5, dtype=torch.double)
    e = torch.randn(6, dtype=torch.double)
    weights = tuple(part.up.weight @ torch.diag(e) @ part.down.weight for part in (cells.read_input, cells.read_hidden))
    cell = reference(weights, cells.bias, 5)
    h, c = torch.randn(2, B, D, dtype=torch.double)
    hidden, last_h, last_c = cells.read(x, e.expand(B, T, 6), h, c)
    for t in range(T):
        h, c = cell(x[:, t], (h, c))
        torch.testing.assert_close(hidden[:, t], h, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.stack([last_h, last_c]), torch.stack([h, c]), atol=1e-12, rtol=0)


def test_g1_shared_cells_are_an_lstm() -> None:
    cells, x = Cells(5, D).double(), torch.randn(B, T, 5, dtype=torch.double)
    cell = reference((cells.read_input.weight, cells.read_hidden.weight), cells.bias, 5)
    h = c = torch.zeros(B, D, dtype=torch.double)
    hidden, *_ = cells.read(x, None, h, c)
    for t in range(T):
        h, c = cell(x[:, t], (h, c))
    torch.testing.assert_close(hidden[:, -1], h, atol=1e-12, rtol=0)


def test_g2_a_task_switch_zeroes_the_task_state_of_its_stream_alone_and_leaves_the_world(build: Build) -> None:
    sem, task = build(SharedEpisodicMemory, 5 + N, **OPTIONS), zeros()
    task[1, 4:] = 2
    x = stream(task)
    before = sem(x[:, :4], sem.initial_state(B)).state
    after = sem(x[:, 4:5], before).state
    emptied = {**before, "task.h": before["task.h"].clone(), "task.c": before["task.c"].clone()}
    emptied["task.h"][1], emptied["task.c"][1] = 0, 0
    everything = sem.initial_state(B)
    expected = sem(x[:, 4:5], {**emptied, "task": after["task"]}).state  # as if it had been the task all along, from an empty memory
    for name in after:
        torch.testing.assert_close(after[name], expected[name], atol=1e-12, rtol=0)
    assert not torch.allclose(after["env.h"][1], sem(x[:, 4:5], everything).state["env.h"][1])
    kept = sem(x[:, 4:5], {**before, "task": after["task"]}).state
    assert not torch.allclose(kept["task.h"][1], after["task.h"][1])
    assert torch.equal(kept["task.h"][[0, 2]], after["task.h"][[0, 2]])


def test_g2_clear_wipes_the_world_too_where_a_task_begins(build: Build) -> None:
    sem, task = build(SharedEpisodicMemory, 5 + N, **OPTIONS), zeros()
    task[1, 4:] = 2
    x = stream(task)
    kept = sem(x, sem.initial_state(B))
    sem.clear = True
    cleared = sem(x, sem.initial_state(B))
    assert torch.equal(cleared.hidden[[0, 2]], kept.hidden[[0, 2]]) and torch.equal(cleared.hidden[:, :4], kept.hidden[:, :4])
    alone = sem(x[1:2, 4:], sem.initial_state(1))
    torch.testing.assert_close(cleared.hidden[1:2, 4:], alone.hidden, atol=1e-12, rtol=0)
    assert not torch.allclose(cleared.hidden[1, 4:], kept.hidden[1, 4:])


def test_g3_the_memory_of_the_world_knows_no_task(build: Build) -> None:
    sem = build(SharedEpisodicMemory, 5 + N, **OPTIONS)
    some, others = torch.randint(N, (2, B, T))
    left, right = (sem(stream(task), sem.initial_state(B)) for task in (some, others))
    assert torch.equal(left.state["env.h"], right.state["env.h"]) and torch.equal(left.state["env.c"], right.state["env.c"])
    assert torch.equal(left.hidden[..., D:], right.hidden[..., D:])
    assert not torch.allclose(left.hidden[..., :D], right.hidden[..., :D])


def test_g4_the_reset_of_an_episode_zeroes_everything(build: Build) -> None:
    sem, reset = build(SharedEpisodicMemory, 5 + N, **OPTIONS), torch.zeros(B, T, dtype=torch.bool)
    reset[1, 4] = True  # the task stays the same
    x = stream(zeros())
    output = sem(x, sem.initial_state(B), reset=reset)
    alone = sem(x[1:2, 4:], sem.initial_state(1))
    torch.testing.assert_close(output.hidden[1:2, 4:], alone.hidden, atol=1e-12, rtol=0)
    assert not torch.allclose(output.hidden[1, 4:], sem(x, sem.initial_state(B)).hidden[1, 4:])


@pytest.mark.parametrize("kind", [SharedEpisodicMemory, LSTM])
def test_g5_a_tasks_loss_reaches_its_own_embedding_alone(kind: type[Backbone], build: Build) -> None:
    backbone, task = build(kind, 5 + N, **OPTIONS), zeros()
    task[:, 3:5], task[:, 5:] = 1, 2
    hidden = backbone(stream(task), backbone.initial_state(B)).hidden
    own = hidden[:, 3:5, :D] if kind is SharedEpisodicMemory else hidden[:, :3]  # one LSTM's state goes on: only the first task is alone
    backbone.embedding.vectors.grad = None
    own.sum().backward()
    reached = backbone.embedding.vectors.grad.any(1).tolist()
    assert reached == ([False, True, False] if kind is SharedEpisodicMemory else [True, False, False])


def test_g5_no_weight_is_cached_over_a_step_of_the_optimiser(build: Build) -> None:
    sem, x = build(SharedEpisodicMemory, 5 + N, **OPTIONS), stream(zeros())
    before = sem(x, sem.initial_state(B)).hidden
    with torch.no_grad():
        sem.embedding.vectors[0] += 1
    after = sem(x, sem.initial_state(B)).hidden
    assert (after[:, :, :D] != before[:, :, :D]).any()


def test_a_factorised_lstm_is_told_the_task_by_its_weights_alone(build: Build) -> None:
    lstm = build(LSTM, 5 + N, **OPTIONS)
    some, others = torch.zeros(2, B, T, dtype=torch.int64)
    others[:, 4:] = 1
    left, right = (lstm(stream(task), lstm.initial_state(B)).hidden for task in (some, others))
    assert torch.equal(left[:, :4], right[:, :4]) and not torch.allclose(left[:, 4:], right[:, 4:])
    with torch.no_grad():
        lstm.embedding.vectors[1] = lstm.embedding.vectors[0]
    assert torch.equal(left, lstm(stream(others), lstm.initial_state(B)).hidden)


@pytest.mark.parametrize("begins", [(), (0,), (5,), (0, 6)])
def test_time_is_read_alike_in_stretches_and_step_by_step(begins: tuple[int, ...]) -> None:
    """torch's loop between the steps at which a row begins anew; a pad somewhere takes the other way."""
    cells, x = Cells(5, D).double(), torch.randn(B, 16, 5, dtype=torch.double, requires_grad=True)
    h, c = torch.randn(2, B, D, dtype=torch.double)
    anew = torch.zeros(B, 16, dtype=torch.bool)
    for number, step in enumerate(begins):
        anew[number % B, step] = True
    pad = torch.zeros(B + 1, 16, dtype=torch.bool)
    pad[B, 3] = True  # a row more, so that the whole is read step by step
    more = [torch.cat([each, each[:1]]) for each in (x, h, c, anew)]
    assert cells._starts(x, None, anew, None) is not None and cells._starts(more[0], None, more[3], pad) is None
    fast = cells.read(x, None, h, c, begins=anew)
    slow = cells.read(more[0], None, more[1], more[2], begins=more[3], pad=pad)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other[:B], atol=1e-12, rtol=0)
    weights = (*cells.parameters(), x)
    for one, other in zip(*(torch.autograd.grad(found[0][:B].square().sum(), weights) for found in (fast, slow)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
