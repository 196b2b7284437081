"""What every store owes: what it reads, A7 and A9 of memory.md, section 7.3, the loss of section 7.4, and the rules of 3.2 for states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clbench.agents.backbones import state as states
from clbench.agents.stores.faiss_index import Graph, InvertedFile
from clbench.agents.stores.faiss_store import FaissStore
from clbench.agents.stores.least_recently_read import LeastRecentlyReadStore
from clbench.agents.stores.paged import PagedStore
from clbench.agents.stores.ring import RingStore
from clbench.agents.stores.store import MemoryStore, State

B, H, M, DK, DV, SCALE = 3, 2, 7, 4, 5, 0.5
CASES: dict[str, Callable[[], MemoryStore]] = {
    "ring": RingStore,
    "paged": PagedStore,
    "least recently read": LeastRecentlyReadStore,
    "faiss": FaissStore,
    "faiss lists": lambda: FaissStore(InvertedFile(lists=4, probes=4)),
    "faiss graph": lambda: FaissStore(Graph()),
}
FIRST_IN_FIRST_OUT = [name for name in CASES if name != "least recently read"]


@pytest.fixture(params=CASES)
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return build(request.param)


def build(name: str) -> MemoryStore:
    if "faiss" in name:
        pytest.importorskip("faiss")
    return CASES[name]()


def rows(length: int, batch: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, H, length, DK, dtype=torch.double), torch.randn(batch, H, length, DV, dtype=torch.double)


def empty(store: MemoryStore, batch: int = B, capacity: int = M) -> State:
    return store.empty(batch, H, capacity, DK, DV, dtype=torch.double)


def uneven(store: MemoryStore, capacity: int = M) -> tuple[State, list[tuple[Tensor, Tensor]]]:
    """Stream 0 has written nothing, 1 a little and 2 more than is held; and of each the keys and values (H, n, d) that are held."""
    k, v = rows(3 * capacity)
    valid = torch.zeros(B, 3 * capacity, dtype=torch.bool)
    valid[1, [1, 4, 5]] = True
    valid[2] = torch.rand(3 * capacity) < 0.8
    held = [(k[b][:, valid[b]][:, -capacity:], v[b][:, valid[b]][:, -capacity:]) for b in range(B)]
    assert valid[2].sum() > capacity
    return store.append(empty(store, capacity=capacity), k, v, valid), held


def by_the_book(q: Tensor, held: list[tuple[Tensor, Tensor]], topk: int | None) -> tuple[Tensor, Tensor]:
    outputs, lses = [], []
    for b, (k, v) in enumerate(held):
        scores = SCALE * q[b] @ k.transpose(1, 2)  # (H, T, n)
        if topk is not None and topk < scores.shape[-1]:
            scores = scores.masked_fill(scores < scores.sort(-1).values[..., -topk, None], -torch.inf)
        outputs.append(scores.softmax(-1) @ v)
        lses.append(scores.logsumexp(-1))
    return torch.stack(outputs), torch.stack(lses)


@pytest.mark.parametrize("topk", [None, 1, 3, 6, 7, 50])
def test_a2_reading_is_a_softmax_over_the_nearest_entries_held(store: MemoryStore, topk: int | None) -> None:
    state, held = uneven(store)
    q = torch.randn(B, H, 4, DK, dtype=torch.double)
    output, lse, diagnostics = store.attend(state, q, topk, SCALE)
    expected, expected_lse = by_the_book(q, held, topk)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(lse, expected_lse, atol=1e-12, rtol=0)
    assert not output[0].any() and lse[0].isneginf().all()
    assert diagnostics["reads"].tolist() == [[H * min(len(k[0]), topk or M)] * 4 for k, _ in held]


@pytest.mark.parametrize("topk", [None, 3])
def test_gradients_of_queries_are_those_of_the_book_and_never_nan(store: MemoryStore, topk: int | None) -> None:
    state, held = uneven(store)
    q = torch.randn(B, H, 4, DK, dtype=torch.double, requires_grad=True)
    gradients = []
    for output, lse in (store.attend(state, q, topk, SCALE)[:2], by_the_book(q, held, topk)):
        (gradient,) = torch.autograd.grad(output[1:].square().sum() + lse[1:].sum(), q)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-11, rtol=0)
    assert gradients[0][1:].abs().amin() > 0
    output = store.attend(state, q, topk, SCALE).output
    (gradient,) = torch.autograd.grad(output.sum() + output.square().sum(), q)
    assert not gradient[0].any()  # of the stream that holds nothing


@pytest.mark.parametrize("name", FIRST_IN_FIRST_OUT)
@pytest.mark.parametrize("written", [M + 1, M + 3, 2 * M, 5 * M + 2])
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a7_after_more_writes_than_slots_the_last_ones_are_held(name: str, written: int, at_once: int) -> None:
    """Entry t has the key e_0 and the value t, so that what is read of all slots tells which are there: the mean of the last M."""
    store = build(name)
    state = empty(store, 1)
    k = torch.zeros(1, H, written, DK, dtype=torch.double)
    k[..., 0] = 1
    v = torch.arange(written, dtype=torch.double)[:, None].expand(1, H, written, DV)
    q = torch.eye(DK, dtype=torch.double)[:1].expand(1, H, 1, DK)
    for part in torch.arange(written).split(at_once):
        state = store.append(state, k[:, :, part], v[:, :, part])
        store.attend(state, q, 2)  # an index is built, and must follow
    held = store.attend(state, q, M - 1).diagnostics["selected"]
    assert len(set(held.flatten().tolist())) >= M - 1
    mean = store.attend(state, q).output
    assert torch.allclose(mean, torch.tensor(written - (M + 1) / 2, dtype=torch.double))  # of written - M ... written - 1


@pytest.mark.parametrize("name", FIRST_IN_FIRST_OUT)
def test_a7_a_needle_is_found_until_it_is_the_oldest_but_m(name: str) -> None:
    """Needle t is the key 10 e_t; of M + r written ones, those before r are gone and those from r on are found by their own queries."""
    store, count, r = build(name), 12, 5
    keys = 10 * torch.eye(count, dtype=torch.double)
    state = store.empty(1, 1, count - r, count, 1, dtype=torch.double)
    for t in range(count):
        state = store.append(state, keys[None, None, t : t + 1], torch.full((1, 1, 1, 1), t, dtype=torch.double))
    output, lse, _ = store.attend(state, keys[None, None], 1)
    found = output.flatten() == torch.arange(count)
    assert found.tolist() == [t >= r for t in range(count)]
    assert (lse.flatten() > 50).tolist() == [t >= r for t in range(count)]


def test_append_and_attend_change_no_argument(store: MemoryStore) -> None:
    state, _ = uneven(store)
    before, (k, v) = states.clone(state), rows(3)
    kept = k.clone(), v.clone()
    attended = store.attend(store.append(state, k, v), k, 2)
    store.noted(state, attended)
    store.append(state, k, v, torch.zeros(B, 3, dtype=torch.bool))
    assert all(torch.equal(leaf, before[name]) for name, leaf in state.items())
    assert torch.equal(k, kept[0]) and torch.equal(v, kept[1])


@pytest.mark.parametrize("topk", [None, 3])
def test_a9_any_cut_into_writes_gives_the_same_memory(store: MemoryStore, topk: int | None) -> None:
    k, v = rows(20)
    valid = torch.rand(B, 20) < 0.7
    whole = store.append(empty(store), k, v, valid)
    for size in (1, 3, 13):
        state = empty(store)
        for part in torch.arange(20).split(size):
            state = store.append(state, k[:, :, part], v[:, :, part], valid[:, part])
            store.attend(state, k[:, :, :1], topk)
        assert states.bytes(state) == states.bytes(whole)
        assert all(torch.equal(leaf, whole[name]) for name, leaf in state.items())


def test_a9_a_memory_that_was_saved_cloned_or_moved_between_streams_says_the_same(store: MemoryStore, tmp_path: Path) -> None:
    state, _ = uneven(store)
    q = torch.randn(B, H, 4, DK, dtype=torch.double)
    expected = store.attend(state, q, 3, SCALE)
    states.save(state, tmp_path / "memory.pt", "digest")
    order = torch.tensor([2, 0, 1])
    shuffled = states.select(state, order)
    joined = states.cat([states.select(state, [b]) for b in range(B)])
    for copy in (states.clone(state), states.load(tmp_path / "memory.pt", "digest"), joined, states.detach(state)):
        assert torch.equal(store.attend(copy, q, 3, SCALE).output, expected.output)
    torch.testing.assert_close(store.attend(shuffled, q[order], 3, SCALE).output, expected.output[order], atol=1e-12, rtol=0)


def test_a6_streams_do_not_see_each_other_and_one_can_be_cleared(store: MemoryStore) -> None:
    state, _ = uneven(store)
    q, (k, v) = torch.randn(B, H, 4, DK, dtype=torch.double), rows(4)
    before = store.attend(state, q, 3, SCALE)
    written = store.append(state, k, v, torch.tensor([[False] * 4, [True] * 4, [False] * 4]))
    after = store.attend(written, q, 3, SCALE)
    assert torch.equal(after.output[[0, 2]], before.output[[0, 2]])
    assert (after.output[1] != before.output[1]).any(-1).any()
    cleared = store.attend(states.reset(written, empty(store), torch.tensor([False, False, True])), q, 3, SCALE)
    assert torch.equal(cleared.output[:2], after.output[:2])
    assert not cleared.output[2].any() and cleared.lse[2].isneginf().all()


def test_two_memories_that_grew_out_of_one_are_kept_apart(store: MemoryStore) -> None:
    """An index that followed one of them must not answer for the other, nor for their common past."""
    past, held = uneven(store)
    q = torch.randn(B, H, 4, DK, dtype=torch.double)
    store.attend(past, q, 3, SCALE)
    pairs = [rows(2) for _ in range(2)]
    futures = [store.append(past, k, v) for k, v in pairs]
    for future, (k, v) in [*zip(futures, pairs, strict=True)] * 2:
        expected = [(torch.cat([a, x], 1)[:, -M:], torch.cat([b, y], 1)[:, -M:]) for (a, b), x, y in zip(held, k, v, strict=True)]
        torch.testing.assert_close(store.attend(future, q, 3, SCALE).output, by_the_book(q, expected, 3)[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(store.attend(past, q, 3, SCALE).output[1:], by_the_book(q, held, 3)[0][1:], atol=1e-12, rtol=0)


def test_writing_in_place_writes_what_append_writes(store: MemoryStore) -> None:
    state = empty(store)
    for _ in range(6):
        k, v = rows(5)
        valid = torch.rand(B, 5) < 0.7
        after = store.append(state, k, v, valid)
        owned = states.clone(state)
        store.attend(owned, k, 3)
        with torch.no_grad():
            store.append_in_place(owned, k, v, valid)  # type: ignore[attr-defined]
        assert all(torch.equal(leaf, after[name]) for name, leaf in owned.items())
        assert torch.equal(store.attend(owned, k, 3).output, store.attend(after, k, 3).output)
        state = after


def test_writing_in_place_is_refused_where_gradients_are_recorded(store: MemoryStore) -> None:
    with pytest.raises(AssertionError, match="backward"):
        store.append_in_place(empty(store), *rows(2))  # type: ignore[attr-defined]


def test_the_leaves_of_a_state_have_the_streams_first_and_a_size_that_stays(store: MemoryStore) -> None:
    state = empty(store)
    assert {len(leaf) for leaf in state.values()} == {B}
    assert {leaf.dtype for leaf in state.values()} == {torch.double, torch.int32}
    size = states.bytes(state)
    clocks = 12 if "reads" in state else 8  # int32: ptr and fill, or fill, writes and reads
    assert size == B * (M * store.entry_bytes(H, DK, DV, torch.double) + clocks)
    assert states.bytes(uneven(store)[0]) == size


def test_x9_half_precision_reads_what_was_rounded(store: MemoryStore) -> None:
    k, v = (x.to(torch.bfloat16) for x in rows(5))
    state = store.append(store.empty(B, H, M, DK, DV, dtype=torch.bfloat16), k, v)
    q = torch.randn(B, H, 4, DK).to(torch.bfloat16)
    output, lse, _ = store.attend(state, q, None, SCALE)
    expected, expected_lse = by_the_book(q.double(), [(a.double(), b.double()) for a, b in zip(k, v, strict=True)], None)
    assert output.dtype == torch.bfloat16 and lse.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(lse.double(), expected_lse, atol=0.03, rtol=0)
