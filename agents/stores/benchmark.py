"""How much faster the k nearest keys are found here than by faiss's exact search, and whether the automatic choice picks the faster one.

    python -m clbench.agents.stores.benchmark          # or: clbench benchmark memory-stores

Both stores attend to the same full memory with the same queries, one stream and one head, on the CPU. One thread each: with more, on a
machine that is busy, what is measured is how often threads wait for each other. Repetitions of the two alternate, so that a busy machine
slows both; medians, of more repetitions where they are short. The crossover is the smallest size from which on faiss is faster.
The numbers are ratios of this machine, never results to publish.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from clbench.guards import torch_threads

from .choice import choose
from .faiss_store import FaissStore
from .ring import RingStore
from .store import MemoryStore, State

SIZES = (1 << 11, 1 << 13, 1 << 16, 1 << 18, 1 << 20)
QUERIES, WIDTH, TOPK = 512, 64, 32
SHORT = 1 << 16  # keys: up to here a reading takes a fraction of a second

TOLERANCE = 1.1
"""What was chosen automatically may take this much longer than the fastest."""


@dataclass(frozen=True)
class Row:
    """One size: median seconds of each store; None where the memory would not fit.

    `same`: share of equal places in the two sorted lists of entries found. `chosen`: the store that is picked automatically.
    """

    keys: int
    streaming_seconds: float | None = None
    faiss_seconds: float | None = None
    same: float | None = None
    chosen: str = ""

    @property
    def ratio(self) -> float | None:
        """Times that streaming is faster than faiss."""
        return None if self.streaming_seconds is None or self.faiss_seconds is None else self.faiss_seconds / self.streaming_seconds

    @property
    def of_best(self) -> float | None:
        """Time of what was chosen over that of the fastest."""
        seconds = {"RingStore": self.streaming_seconds, "FaissStore": self.faiss_seconds}
        known = {name: value for name, value in seconds.items() if value is not None}
        return known[self.chosen] / min(known.values()) if known else None


@dataclass(frozen=True)
class MemoryStores:
    """All sizes and the threads used on both sides."""

    rows: tuple[Row, ...]
    threads: int

    @property
    def crossover(self) -> int | None:
        """The smallest size from which on faiss is faster; None where it is not even at the largest one."""
        sizes = [row.keys for row in self.rows if row.ratio is not None and row.ratio < 1]
        slower = [row.keys for row in self.rows if row.ratio is not None and row.ratio >= 1]
        return min((size for size in sizes if size > max(slower, default=0)), default=None)

    @property
    def fulfilled(self) -> bool:
        """Whether the choice is within the tolerance at every size that was measured."""
        return all(row.of_best is None or row.of_best <= TOLERANCE for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"memory-stores: {TOPK} nearest of M keys for {QUERIES} queries, width {WIDTH}, CPU, threads: {self.threads}")
        for heading in ("keys", "streaming ms", "faiss flat ms", "faster", "same", "chosen", "of best"):
            table.add_column(heading, no_wrap=True)
        for row in self.rows:
            if row.streaming_seconds is None or row.faiss_seconds is None:
                table.add_row(str(row.keys), "skipped:", "too large", "for the", "memory", "here", "")
                continue
            seconds = (f"{1000 * value:.1f}" for value in (row.streaming_seconds, row.faiss_seconds))
            table.add_row(str(row.keys), *seconds, f"{row.ratio:.2f}", f"{row.same:.4f}", row.chosen, f"{row.of_best:.2f}")
        crossover = "none" if self.crossover is None else str(self.crossover)
        table.add_row("crossover", crossover, "", "", "", "", f"<= {TOLERANCE}")
        return table


def memory_stores(sizes: Sequence[int] = SIZES, *, repetitions: int = 3, threads: int = 1, memory_bytes: int | None = None) -> MemoryStores:
    """Times of attention to the nearest keys, streaming and by faiss; sizes that need more than `memory_bytes` are skipped.

    None: half of the physical memory.
    """
    import faiss

    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if memory_bytes is None else memory_bytes
    before = faiss.omp_get_max_threads()
    with torch_threads(threads):
        try:
            faiss.omp_set_num_threads(threads)
            return MemoryStores(tuple(_row(size, repetitions, room) for size in sizes), threads)
        finally:
            faiss.omp_set_num_threads(before)


def _row(size: int, repetitions: int, room: int) -> Row:
    ring, other = RingStore(), FaissStore()
    if 2 * size * ring.entry_bytes(1, WIDTH, WIDTH) > room:
        return Row(size)
    draws = torch.Generator().manual_seed(size)
    state = ring.empty(1, 1, size, WIDTH, WIDTH)
    state["keys"].normal_(generator=draws)
    state["fill"].fill_(size)
    q = torch.randn(1, 1, QUERIES, WIDTH, generator=draws)
    found = [_attend(store, state, q)[1] for store in (ring, other)]
    same = (found[0].sort().values == found[1].sort().values).double().mean().item()
    seconds = [[_attend(store, state, q)[0] for store in (ring, other)] for _ in range(repetitions if size > SHORT else 5 * repetitions)]
    streaming, flat = (statistics.median(times) for times in zip(*seconds, strict=True))
    return Row(size, streaming, flat, same, type(choose(1, 1, size, WIDTH, WIDTH)).__name__)


@torch.no_grad()
def _attend(store: MemoryStore, state: State, q: Tensor) -> tuple[float, Tensor]:
    """Seconds of one reading, and the slots that were read."""
    began = time.perf_counter()
    attended = store.attend(state, q, TOPK)
    return time.perf_counter() - began, attended.diagnostics["selected"]


def main() -> None:
    """Measure and show."""
    result = memory_stores()
    Console().print(result.table())
    raise SystemExit(0 if result.fulfilled else 1)


if __name__ == "__main__":
    main()
