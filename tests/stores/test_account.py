"""What a memory costs, how many entries fit a cap in bytes, which store is chosen, and the benchmark that says why."""

from __future__ import annotations

import pytest
import torch

from clbench.agents.backbones import state as states
from clbench.agents.stores.account import account, added, capacity_within
from clbench.agents.stores.benchmark import TOLERANCE, MemoryStores, Row, memory_stores
from clbench.agents.stores.choice import choose
from clbench.agents.stores.least_recently_read import LeastRecentlyReadStore
from clbench.agents.stores.paged import PagedStore
from clbench.agents.stores.ring import RingStore
from clbench.agents.stores.shared import SharedStore
from clbench.agents.stores.store import MemoryStore
from clbench.errors import UserError


def test_an_account_counts_entries_written_entries_read_and_bytes_kept() -> None:
    """2 streams, 3 heads; stream 0 holds 2 entries and stream 1 the 4 that its memory can hold."""
    store = RingStore()
    written = torch.tensor([[True, False, True, False, False], [True] * 5])
    rows = torch.randn(2, 3, 5, 8)
    state = store.append(store.empty(2, 3, 4, 8, 8), rows, rows, written)
    q, asks = torch.randn(2, 3, 2, 8), torch.tensor([[True, True], [True, False]])
    bill = account(state, written, store.attend(state, q, 3), asks)
    assert {name: int(value) for name, value in bill.items()} == {
        "memory_bytes": 2 * (4 * 3 * (8 + 8) * 4 + 8),
        "memory_writes": 2 + 5,
        "memory_reads": 3 * (2 + 2) + 3 * 3,  # heads x entries: both tokens of stream 0 read 2, the first of stream 1 reads 3 of 4
    }
    assert int(account(state, written, store.attend(state, q))["memory_reads"]) == 3 * (2 + 2) + 3 * (4 + 4)
    assert all(value.shape == () and value.dtype == torch.int64 for value in bill.values())


def test_a_total_adds_up_what_was_written_and_read_and_tells_the_bytes_of_now() -> None:
    bills = [
        {name: torch.tensor(n) for name, n in zip(("memory_bytes", "memory_writes", "memory_reads"), row, strict=True)}
        for row in ((100, 3, 7), (60, 5, 11))
    ]
    total: dict[str, torch.Tensor] = {}
    for bill in bills:
        total = added(total, bill)
    assert {name: int(value) for name, value in total.items()} == {"memory_bytes": 60, "memory_writes": 8, "memory_reads": 18}
    assert bills[0]["memory_writes"] == 3


@pytest.mark.parametrize("store", [RingStore(), LeastRecentlyReadStore(), SharedStore()], ids=lambda store: type(store).__name__)
def test_a_cap_in_bytes_is_used_and_kept(store: MemoryStore) -> None:
    shape = {"heads": 2, "key_width": 4, "value_width": 6}
    for limit in (200, 1000, 4096, 4097):
        capacity = capacity_within(store, limit, **shape)
        sizes = [states.bytes(store.empty(1, 2, entries, 4, 6)) for entries in (capacity, capacity + 1)]
        assert sizes[0] <= limit < sizes[1]
    assert capacity_within(store, 4096, **shape, dtype=torch.bfloat16) > 1.5 * capacity_within(store, 4096, **shape)


def test_a_cap_that_holds_no_entry_is_refused_with_what_one_needs() -> None:
    with pytest.raises(UserError, match="a cap of 87 bytes holds no entry; one needs 88 bytes for 2 heads"):
        capacity_within(RingStore(), 87, 2, 4, 6)
    assert capacity_within(RingStore(), 88, 2, 4, 6) == 1  # 2 heads x (4 + 6) x 4 bytes, and 8 for ptr and fill


def test_a_memory_without_slots_is_refused() -> None:
    with pytest.raises(UserError, match="capacity must be at least 1 entry, got 0"):
        RingStore().empty(1, 1, 0, 4, 4)


def test_a_memory_that_its_device_cannot_hold_is_paged() -> None:
    needed = 2 * 100 * 3 * (4 + 4) * 4
    assert type(choose(2, 3, 100, 4, 4, device="cuda", device_bytes=needed)) is RingStore
    assert type(choose(2, 3, 100, 4, 4, device="cuda", device_bytes=needed - 1)) is PagedStore
    assert type(choose(2, 3, 1 << 30, 4, 4, device="cpu")) is RingStore  # host memory is all there is


def test_the_benchmark_measures_both_and_skips_what_does_not_fit() -> None:
    pytest.importorskip("faiss")
    result = memory_stores((64, 128, 1 << 40), repetitions=1)
    small, larger, skipped = result.rows
    assert small.same == larger.same == 1  # the same entries are found
    assert small.ratio is not None and small.ratio > 0 and larger.chosen == "RingStore"
    assert skipped.streaming_seconds is None and skipped.of_best is None
    shown = result.table()
    assert shown.row_count == 4
    assert list(shown.columns[1].cells)[2] == "skipped:"


def test_the_crossover_is_where_faiss_begins_to_be_faster_for_good() -> None:
    def rows(*pairs: tuple[float, float]) -> MemoryStores:
        return MemoryStores(tuple(Row(10**n, ours, theirs, 1.0, "RingStore") for n, (ours, theirs) in enumerate(pairs)), 1)

    assert rows((1, 2), (1, 2)).crossover is None
    assert rows((1, 2), (2, 1), (2, 1)).crossover == 10
    assert rows((2, 1), (1, 2), (2, 1)).crossover == 100
    assert rows((2, 1), (1, 2)).crossover is None
    assert rows((1, 2), (TOLERANCE, 1)).fulfilled
    assert not rows((1, 2), (TOLERANCE + 0.01, 1)).fulfilled
