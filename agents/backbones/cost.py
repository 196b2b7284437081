"""What a segment costs when a thousand have been read before it: time and size of every memory, early and late in a stream.

    clbench benchmark segment-cost

C6 of memory.md, section 9.4, asks it of the infinity-former; here all memories of `recall` are asked, with their sizes there. Times are
medians of single segments, eight streams side by side, without gradients, on one thread; early is behind ten segments, when the memories
that fill up are full, and early and late segments are read in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from clbench.guards import torch_threads

from . import state as states
from .backbone import Backbone, State
from .recall import BACKBONES, SEGMENT

SEGMENTS, BATCH = 1000, 8
_EARLY, _TIMED = 10, 100
_LATER = 1.10  # what time may rise to


@dataclass(frozen=True)
class Cost:
    """One backbone."""

    backbone: str
    early_ms: float
    late_ms: float
    early_bytes: int  # of one stream
    late_bytes: int

    @property
    def ratio(self) -> float:
        """Late over early."""
        return self.late_ms / self.early_ms

    @property
    def constant(self) -> bool:
        """Whether neither time nor size has grown."""
        return self.ratio <= _LATER and self.late_bytes == self.early_bytes


@dataclass(frozen=True)
class Costs:
    """All backbones."""

    rows: tuple[Cost, ...]
    segments: int

    @property
    def fulfilled(self) -> bool:
        """Whether every cost is constant."""
        return all(row.constant for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"a segment of {SEGMENT} tokens, {BATCH} streams, behind {_EARLY} and behind {self.segments:,} segments")
        for heading in ("memory", "early ms", "late ms", "late / early", "early bytes", "late bytes"):
            table.add_column(heading, justify="left" if heading == "memory" else "right", no_wrap=True)
        for row in self.rows:
            times = (f"{row.early_ms:.2f}", f"{row.late_ms:.2f}", f"{row.ratio:.2f}")
            table.add_row(row.backbone, *times, f"{row.early_bytes:,}", f"{row.late_bytes:,}")
        return table


def segment_cost(backbones: Sequence[str] = tuple(BACKBONES), *, segments: int = SEGMENTS, timed: int = _TIMED) -> Costs:
    """Time and size of `backbones` behind 10 and behind `segments` segments, `timed` of them in turn; half a minute."""
    with torch_threads(1), torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Costs(tuple(_cost(name, segments, timed) for name in backbones), segments)


def _cost(name: str, segments: int, timed: int) -> Cost:
    backbone = BACKBONES[name]().eval()
    state = backbone.initial_state(BATCH)
    early: State = state
    for number in range(segments):
        state = _read(backbone, state)
        early = state if number < _EARLY else early
    spent: dict[str, list[float]] = {"early": [], "late": []}
    reached = {"early": early, "late": state}
    for _ in range(timed):
        for age in spent:  # in turn, so that whatever else the machine does meets both
            began = time.perf_counter()
            reached[age] = _read(backbone, reached[age])
            spent[age].append(1e3 * (time.perf_counter() - began))
    sizes = {age: states.bytes(reached[age]) // BATCH for age in spent}
    return Cost(name, statistics.median(spent["early"]), statistics.median(spent["late"]), sizes["early"], sizes["late"])


def _read(backbone: Backbone, state: State) -> State:
    return backbone(torch.randn(BATCH, SEGMENT, backbone.input_size), state).state
