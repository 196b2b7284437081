"""How far one memory reaches: a recurrent memory transformer reads up to two million tokens in constant memory, and is asked at the end.

    clbench benchmark long-reading

After Bulatov et al. 2023, arXiv:2304.11062, figure 1: trained on a curriculum of a few segments, asked at any length. What is read is made
window by window and thrown away, so that neither the text nor its scores are ever held whole. The fact stands first (`memorize`).
Accuracy is that of the four answer tokens, teacher forced, among the ten symbols; guessing is .10. Peak memory is that of the process while
it reads; speed counts the tokens of all lanes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import clbench
from clbench.guards import torch_threads
from clbench.interfaces import Predictor

from .distance import Recollection
from .generation import Draws, Float, Integer, key
from .stream import distance_stream
from .vocabulary import ANS, BOS, SYMBOLS, vocabulary

LENGTHS = (20_000, 200_000, 1_000_000, 2_000_000)
"""Tokens read before the question; the first is what the others are compared with."""

SEGMENT = 32
_LANES, _WINDOW = 8, 1024
_MEMORY, _SPEED = 1.05, 0.10  # what memory and speed may differ by from those at the shortest length
_OPTIONS: Mapping[str, Any] = {
    "text.backbone.segment_length": SEGMENT,
    "text.backbone.heads": 4,
    "text.learner.batch_size": 32,
    "text.learner.learning_rate": 2e-3,
    "text.learner.warmup": 50,
    "text.learner.gradient_clip": 1.0,
}


@dataclass(frozen=True)
class Reading:
    """What came out at one length."""

    tokens: int
    accuracy: float
    peak_megabytes: float
    tokens_per_second: float


@dataclass(frozen=True)
class Readings:
    """All lengths, shortest first."""

    rows: tuple[Reading, ...]
    trained_segments: int

    @property
    def fulfilled(self) -> bool:
        """Whether memory and speed stay what they were at the shortest length."""
        first = self.rows[0]
        return all(
            row.peak_megabytes <= _MEMORY * first.peak_megabytes and abs(row.tokens_per_second / first.tokens_per_second - 1) <= _SPEED
            for row in self.rows
        )

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"rmt, trained on up to {self.trained_segments} segments of {SEGMENT} tokens, {_LANES} texts at once")
        for heading in ("tokens", "segments", "accuracy", "peak MB", "tokens/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            numbers = (f"{row.accuracy:.3f}", f"{row.peak_megabytes:.0f}", f"{row.tokens_per_second:,.0f}")
            table.add_row(f"{row.tokens:,}", f"{row.tokens // SEGMENT:,}", *numbers)
        return table


def text(tokens: int, lanes: int, seed: int) -> tuple[Integer, Iterator[Integer]]:
    """Answers (B, 4), and what is read before the question in windows (B, at most 1024): <bos>, the fact, noise, `tokens` in all."""
    draws = Draws(key("long-reading", seed), np.arange(lanes), np.zeros(lanes, dtype=np.int64))
    shape = Recollection("memorize", 0, SEGMENT, anywhere=False)
    answer = SYMBOLS.start + draws.integers("fact", shape.symbols, shape.length)  # (B, 4)
    head = np.concatenate([np.tile([BOS, vocabulary().id("<fact>")], (lanes, 1)), answer], axis=1)  # (B, 6)

    def windows() -> Iterator[Integer]:
        for first in range(0, tokens, _WINDOW):
            noise = SYMBOLS.start + draws.integers(f"noise {first}", shape.symbols, min(_WINDOW, tokens - first))
            if first == 0:
                noise[:, : head.shape[1]] = head
            yield noise

    return answer, windows()


def accuracy(policy: Predictor, tokens: int, *, lanes: int = _LANES, seed: int = 0) -> float:
    """Share of the answer tokens that `policy` gives after `tokens` tokens, each from the right ones before it."""
    answer, windows = text(tokens, lanes, seed)
    state = policy.initial_state(lanes)
    for window in windows:
        _, state = policy.logits(window, state)
    question = np.concatenate([np.full((lanes, 1), ANS), answer[:, :-1]], axis=1)
    logits: Float = np.asarray(policy.logits(question, state)[0])  # (B, 4, V)
    symbols = slice(SYMBOLS.start, SYMBOLS.start + 10)
    return float((logits[:, :, symbols].argmax(axis=2) + SYMBOLS.start == answer).mean())


def long_reading(
    lengths: Sequence[int] = LENGTHS,
    *,
    trained: Sequence[int] = (0, 1, 3, 6),
    units: Sequence[int] = (32_000, 16_000, 16_000, 16_000),
    seed: int = 0,
) -> Readings:
    """Train on `memorize` at the gaps `trained`, mixed, then read and ask at each of `lengths`."""
    stream = distance_stream(
        name="memorize",
        version=1,
        budget="smoke",
        question="memorize",
        trained=trained,
        units=units,
        segment=SEGMENT,
        points=1,
        mixed=True,
    )
    agent = clbench.run("rmt", stream, seed=seed, options=_OPTIONS).agent
    assert agent is not None
    policy: Any = agent.policy(stream.info(0))
    with torch_threads(1):  # a network this small is slower on two
        accuracy(policy, _WINDOW * 2)  # memory that the first call takes once is no length's own
        return Readings(tuple(_measured(policy, tokens, seed) for tokens in lengths), max(trained) + 1)


def _measured(policy: Predictor, tokens: int, seed: int) -> Reading:
    _forget_peak()
    began = time.perf_counter()
    right = accuracy(policy, tokens, seed=seed)
    seconds = time.perf_counter() - began
    return Reading(tokens, right, _peak_megabytes(), tokens * _LANES / seconds)


def _forget_peak() -> None:
    """Let the kernel's record of the highest memory use begin anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_megabytes() -> float:
    """The highest memory use since `_forget_peak`; since the process began where the kernel keeps no such record."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
