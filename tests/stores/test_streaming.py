"""Exactness of reading in chunks: A2, A8, the ties of A9 and gradients (A5's second half) of memory.md, section 7.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clbench.agents.stores import streaming
from clbench.agents.stores.paged import PagedStore
from clbench.agents.stores.ring import RingStore
from clbench.agents.stores.store import State

STORE = RingStore()
B, H, T, M, D = 2, 2, 3, 23, 4
TINY = 5  # slots of a chunk


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, memories are read in chunks of TINY slots."""

    def begin() -> None:
        monkeypatch.setattr(streaming, "SCORES", 1)
        monkeypatch.setattr(streaming, "SMALLEST_CHUNK", TINY)

    return begin


def memory(capacity: int = M, written: int = M + 9, dtype: torch.dtype = torch.double) -> State:
    state = STORE.empty(B, H, capacity, D, D, dtype=dtype)
    valid = torch.rand(B, written) < torch.tensor([[0.4], [0.95]])
    return STORE.append(state, torch.randn(B, H, written, D).to(dtype), torch.randn(B, H, written, D).to(dtype), valid)


@pytest.mark.parametrize("length", [1, 7, 33, 100, 1031, 5000])
@pytest.mark.parametrize("count", [1, 4, 33])
def test_best_finds_what_topk_finds(length: int, count: int) -> None:
    rows = torch.randn(3, 2, length)
    rows[1] = rows[1].round()  # many are equal
    values, columns = streaming.best(rows, count)
    assert torch.equal(values, rows.topk(min(count, length)).values)
    assert torch.equal(rows.gather(-1, columns), values)
    assert all(len(set(row)) == len(row) for row in columns.flatten(0, 1).tolist())


@pytest.mark.parametrize("topk", [None, 1, 4, 22])
def test_a2_chunks_change_nothing(topk: int | None, in_chunks: Callable[[], None]) -> None:
    state, q = memory(), torch.randn(B, H, T, D, dtype=torch.double)
    whole = STORE.attend(state, q, topk, 0.5)
    in_chunks()
    parts = STORE.attend(state, q, topk, 0.5)
    torch.testing.assert_close(parts.output, whole.output, atol=1e-12, rtol=0)
    torch.testing.assert_close(parts.lse, whole.lse, atol=1e-12, rtol=0)
    if topk is not None:
        there = whole.diagnostics["weights"] > 0
        assert torch.equal(parts.diagnostics["selected"][there], whole.diagnostics["selected"][there])


@pytest.mark.parametrize("topk", [None, 4])
@pytest.mark.parametrize("chunks", [False, True])
def test_a5_gradients_of_queries_and_of_entries_are_exact(topk: int | None, chunks: bool, in_chunks: Callable[[], None]) -> None:
    if chunks:
        in_chunks()
    state, q = memory(), torch.randn(B, H, T, D, dtype=torch.double, requires_grad=True)
    keys, values = (state[name].requires_grad_() for name in ("keys", "values"))

    def read(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return STORE.attend({**state, "keys": keys, "values": values}, q, topk, 0.5)[:2]

    assert torch.autograd.gradcheck(read, (q, keys, values), fast_mode=True)


def test_gradients_reach_what_was_appended_and_the_survivors_alone() -> None:
    """Of the 4 valid of 5 tokens written into 3 slots the first is gone; an entry of before that was overwritten has no gradient either."""
    old, new = (torch.randn(1, 1, n, D, dtype=torch.double, requires_grad=True) for n in (2, 5))
    state = STORE.append(STORE.empty(1, 1, 3, D, D, dtype=torch.double), old, old)
    state = STORE.append(state, new, new, torch.tensor([[True, True, True, False, True]]))
    weight = torch.randn(D, dtype=torch.double)
    output = STORE.attend(state, torch.ones(1, 1, 1, D, dtype=torch.double)).output
    gradients = torch.autograd.grad((output * weight).sum(), [old, new])
    survivors = new[:, :, [1, 2, 4]]
    expected = (survivors.sum(-1, keepdim=True).softmax(2) * survivors).sum(2)
    assert not gradients[0].any()
    torch.testing.assert_close(gradients[1], torch.autograd.grad((expected * weight).sum(), new)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("topk", [1, 3, 5])
@pytest.mark.parametrize("chunks", [False, True])
def test_a9_among_equal_scores_the_youngest_win_wherever_the_ring_began(topk: int, chunks: bool, in_chunks: Callable[[], None]) -> None:
    """The value of an entry is its number in time, its key +1 or -1; read with q = 1 the last `topk` with +1 are wanted."""
    if chunks:
        in_chunks()
    written = 60
    sign = torch.where(torch.rand(written, dtype=torch.double) < 0.5, 1.0, -1.0)
    number = torch.arange(written, dtype=torch.double)
    expected = number[sign > 0][-topk:]
    assert expected[0] > written - M
    for start in (0, 1, 10, 22):  # writes of another task before
        state = STORE.empty(1, 1, M, 1, 1, dtype=torch.double)
        state = STORE.append(state, torch.zeros(1, 1, start, 1), torch.zeros(1, 1, start, 1)) if start else state
        state = STORE.append(state, sign[None, None, :, None], number[None, None, :, None])
        attended = STORE.attend(state, torch.ones(1, 1, 2, 1, dtype=torch.double), topk)
        values = state["values"][0, 0, :, 0][attended.diagnostics["selected"][0, 0]]  # (2, topk)
        assert values.sort().values.tolist() == [expected.tolist()] * 2


def test_ties_do_not_displace_what_scores_more(in_chunks: Callable[[], None]) -> None:
    in_chunks()
    state = STORE.empty(1, 1, 8, 1, 1, dtype=torch.double)
    keys = torch.tensor([5.0, 1, 1, 7, 1, 1, 0, 0], dtype=torch.double)[None, None, :, None]
    state = STORE.append(state, keys, torch.zeros(1, 1, 8, 1))
    slots = STORE.attend(state, torch.ones(1, 1, 1, 1, dtype=torch.double), 3).diagnostics["selected"]
    assert sorted(slots.flatten().tolist()) == [0, 3, 5]


def test_a8_each_head_and_token_has_neighbours_of_its_own() -> None:
    """Head 0 holds e_0 ... e_3 in slots 0 ... 3, head 1 the reverse; token t asks for e_t."""
    eye = torch.eye(4, dtype=torch.double)
    state = STORE.append(STORE.empty(1, 2, 4, 4, 4, dtype=torch.double), torch.stack([eye, eye.flip(0)])[None], torch.zeros(1, 2, 4, 4))
    selected = STORE.attend(state, eye.expand(1, 2, 4, 4), 1).diagnostics["selected"]
    assert selected[0, :, :, 0].tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_weights_are_those_of_the_softmax() -> None:
    state, q = memory(), torch.randn(B, H, T, D, dtype=torch.double, requires_grad=True)
    output, _, diagnostics = STORE.attend(state, q, 4)
    values = state["values"][:, :, None].expand(-1, -1, T, -1, -1).gather(3, diagnostics["selected"][..., None].expand(-1, -1, -1, -1, D))
    torch.testing.assert_close((diagnostics["weights"][..., None] * values).sum(3), output, atol=1e-12, rtol=0)
    assert not any(leaf.requires_grad for leaf in diagnostics.values())


@pytest.mark.cuda
@pytest.mark.parametrize("topk", [None, 32])
def test_a_paged_memory_says_on_a_device_what_the_ring_says(topk: int | None) -> None:
    pages, device = PagedStore(), torch.device("cuda")
    k, v, q = (torch.randn(2, 2, n, 64) for n in (3000, 3000, 16))
    paged = pages.append(pages.empty(2, 2, 2048, 64, 64, device=device), k.to(device), v.to(device))
    ring = STORE.append(STORE.empty(2, 2, 2048, 64, 64, device=device), k.to(device), v.to(device))
    assert {leaf.device.type for leaf in paged.values()} == {"cpu"}
    there, here = (store.attend(state, q.to(device), topk, 0.125) for store, state in ((pages, paged), (STORE, ring)))
    torch.testing.assert_close(there.output, here.output, atol=1e-5, rtol=0)
    torch.testing.assert_close(there.lse, here.lse, atol=1e-5, rtol=0)
