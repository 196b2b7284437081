"""Who leaves a memory that forgets what has not been read for longest."""

from __future__ import annotations

import torch
from torch import Tensor

from clbench.agents.stores.least_recently_read import LeastRecentlyReadStore
from clbench.agents.stores.ring import RingStore
from clbench.agents.stores.store import State

STORE = LeastRecentlyReadStore()
WIDTH = 16
KEYS = 10 * torch.eye(WIDTH, dtype=torch.double)


def write(state: State, *numbers: int) -> State:
    """Entry n has the key 10 e_n and the value n."""
    values = torch.tensor(numbers, dtype=torch.double)[None, None, :, None]
    return STORE.append(state, KEYS[None, None, list(numbers)], values)


def read(state: State, *numbers: int, valid: Tensor | None = None) -> State:
    return STORE.noted(state, STORE.attend(state, KEYS[None, None, list(numbers)], 1), valid)


def held(state: State) -> set[int]:
    return {int(value) for value in state["values"][0, 0, : int(state["fill"]), 0]}


def start() -> State:
    return write(STORE.empty(1, 1, 4, WIDTH, 1, dtype=torch.double), 0, 1, 2, 3)


def test_what_is_read_stays_and_what_is_not_leaves_oldest_first() -> None:
    state = read(start(), 0, 2)
    state = write(state, 4)  # 1 is the oldest that nobody read
    assert held(state) == {0, 2, 3, 4}
    assert held(write(state, 5)) == {0, 2, 4, 5}
    assert held(write(state, 5, 6)) == {2, 4, 5, 6}  # 0 was read before 2, and both before 4 came


def test_an_entry_that_nobody_reads_leaves_as_in_a_ring() -> None:
    state = start()
    for number in range(4, 12):
        state = write(state, number)
        assert held(state) == set(range(number - 3, number + 1))
    assert held(write(start(), *range(4, 13))) == {9, 10, 11, 12}


def test_where_everything_is_read_the_oldest_leaves() -> None:
    state = start()
    state = STORE.noted(state, STORE.attend(state, KEYS[None, None, :2]))
    assert state["reads"].tolist() == [2]
    assert state["read"].tolist() == [[2, 2, 2, 2]]
    assert held(write(state, 4)) == {1, 2, 3, 4}


def test_tokens_that_are_not_there_read_nothing() -> None:
    state = read(start(), 0, 1, valid=torch.tensor([[False, True]]))
    assert state["reads"].tolist() == [1]
    assert held(write(state, 4, 5, 6)) == {1, 4, 5, 6}


def test_a9_any_cut_into_calls_keeps_the_same_entries_in_the_same_slots() -> None:
    tokens, capacity = 30, 6
    k, v, q = (torch.randn(2, 3, tokens, 4, dtype=torch.double) for _ in range(3))
    there, asks = torch.rand(2, tokens) < 0.6, torch.rand(2, tokens) < 0.8
    ends = []
    for step in (1, 5):  # reads of 5 tokens, then writes of 5
        state = STORE.empty(2, 3, capacity, 4, 4, dtype=torch.double)
        for part in torch.arange(tokens).split(5):
            for piece in part.split(step):
                state = STORE.noted(state, STORE.attend(state, q[:, :, piece], 2), asks[:, piece])
            for piece in part.split(step):
                state = STORE.append(state, k[:, :, piece], v[:, :, piece], there[:, piece])
        ends.append(state)
    assert all(torch.equal(leaf, ends[1][name]) for name, leaf in ends[0].items())
    ring = RingStore().append(RingStore().empty(2, 3, capacity, 4, 4, dtype=torch.double), k, v, there)
    assert set(ends[0]["keys"].flatten().tolist()) != set(ring["keys"].flatten().tolist())  # it is not the ring in disguise


def test_a_read_by_any_head_counts() -> None:
    state = STORE.empty(1, 2, 2, 2, 1, dtype=torch.double)
    keys = torch.eye(2, dtype=torch.double).expand(1, 2, 2, 2)
    state = STORE.append(state, keys, torch.tensor([0.0, 1.0], dtype=torch.double)[None, None, :, None].expand(1, 2, 2, 1))
    q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.double)[None]  # head 0 reads entry 0, head 1 entry 1
    state = STORE.noted(state, STORE.attend(state, q, 1))
    assert state["read"].tolist() == [[1, 1]]
    state = STORE.noted(state, STORE.attend(state, q[:, :1].expand(1, 2, 1, 2), 1))
    assert state["read"].tolist() == [[2, 1]]
