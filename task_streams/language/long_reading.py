"""How far one memory reaches: a recurrent memory transformer reads up to two million tokens in constant memory, and is asked at the end.

    clbench benchmark long-reading

After Bulatov et al. 2023, arXiv:2304.11062, figure 1: trained on a curriculum of segments, asked at any length. The agents are those of the
claim `rmt-far`, whose runs are made where they are not there yet. What is read is made window by window and thrown away, so that neither
the text nor its scores are ever held whole. The fact stands first (`memorize`).
Accuracy is that of the four answer tokens, teacher forced, among the ten symbols; guessing is .10. Peak memory is that of the process while
it reads; speed is that of the median window, in tokens of all lanes. So that other work on the machine does not count, every eighth window
is read in turn with the text's second one, from the state before that: `pace` is the median of their times' ratios.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import clbench
from clbench.errors import UserError
from clbench.guards import torch_threads
from clbench.interfaces import Predictor
from clbench.stream import TaskStream

from .curricula import distance_stream
from .distance import Recollection
from .generation import Draws, Float, Integer, key
from .vocabulary import ANS, BOS, SYMBOLS, vocabulary

LENGTHS = (20_000, 200_000, 1_000_000, 2_000_000)
"""Tokens read before the question; the first is what the others are compared with."""

SEGMENT = 32
_LANES, _WINDOW = 16, 1024
OPTIONS: Mapping[str, Any] = {
    "text.backbone.segment_length": SEGMENT,
    "text.backbone.heads": 4,
    "text.learner.batch_size": 32,
    "text.learner.learning_rate": 2e-3,
    "text.learner.warmup": 50,
    "text.learner.gradient_clip": 1.0,
    "text.learner.reset_optimizer": False,
    "text.learner.anneal_from": 6000,
    "text.learner.anneal": 6500,
}
"""What agent=rmt reads and learns with, as in the arm long-first-gap of the claim."""

_PAIRED = 8  # windows from one to the next that is read in turn with the second
_MEMORY, _PACE = 1.05, 0.10  # what memory may differ by from that at the shortest length, and a window's time from that of the second


@dataclass(frozen=True)
class Reading:
    """What came out at one length."""

    tokens: int
    accuracy: tuple[float, ...]  # of each seed
    peak_megabytes: float  # the highest of any seed
    tokens_per_second: float  # the median over seeds
    pace: float  # a window's time over that of the second one, the median over seeds


@dataclass(frozen=True)
class Readings:
    """All lengths, shortest first."""

    rows: tuple[Reading, ...]
    trained_segments: int

    @property
    def fulfilled(self) -> bool:
        """Whether memory stays what it was at the shortest length, and the time of a window what it was at the beginning."""
        most = _MEMORY * self.rows[0].peak_megabytes
        return all(row.peak_megabytes <= most and abs(row.pace - 1) <= _PACE for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        seeds = len(self.rows[0].accuracy)
        title = f"rmt, trained on up to {self.trained_segments} segments of {SEGMENT} tokens; {seeds} seeds, {_LANES} texts each"
        table = Table(title=title)
        for heading in ("tokens", "segments", "accuracy", "by seed", "peak MB", "tokens/s", "pace"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            by_seed = " ".join(f"{value:.3f}" for value in row.accuracy)
            length = (f"{row.tokens:,}", f"{row.tokens // SEGMENT:,}")
            speed = (f"{row.peak_megabytes:.0f}", f"{row.tokens_per_second:,.0f}", f"{row.pace:.2f}")
            table.add_row(*length, f"{np.mean(row.accuracy):.3f}", by_seed, *speed)
        return table


def text(tokens: int, lanes: int, seed: int) -> tuple[Integer, Iterator[Integer]]:
    """Answers (B, 4), and what is handed over before the question in windows (B, at most 1024): <bos>, the fact, noise.

    As in training a predictor's own first token stands before them, so that these are `tokens` - 1, and the question begins a segment.
    """
    if tokens < SEGMENT or tokens % SEGMENT:
        raise UserError(f"long-reading: expected a length of whole segments of {SEGMENT} tokens, got {tokens}")
    draws = Draws(key("long-reading", seed), np.arange(lanes), np.zeros(lanes, dtype=np.int64))
    shape = Recollection("memorize", tokens // SEGMENT - 1, SEGMENT, anywhere=False)
    answer = SYMBOLS.start + draws.integers("fact", shape.symbols, shape.length)  # (B, 4)
    head = np.concatenate([np.tile([BOS, vocabulary().id("<fact>")], (lanes, 1)), answer], axis=1)  # (B, 6)
    length = 1 + shape.prompt_size  # <bos> and the prompt

    def windows() -> Iterator[Integer]:
        first = 0
        while first < length:
            last = min(length, (first + 1) // _WINDOW * _WINDOW + _WINDOW - 1)  # with the predictor's token a window is whole segments
            noise = SYMBOLS.start + draws.integers(f"noise {first}", shape.symbols, last - first)
            if first == 0:
                noise[:, : head.shape[1]] = head
            yield noise
            first = last

    return answer, windows()


def read(policy: Predictor, tokens: int, *, lanes: int = _LANES, seed: int = 0) -> tuple[float, float, float]:
    """How `policy` answers behind `tokens` tokens, its own first one included, and how fast it reads them.

    The share of the answer tokens that it gives, each from the right ones before it; the tokens of all lanes a second; the pace (1 where
    the text has no second window).
    """
    answer, windows = text(tokens, lanes, seed)
    state = policy.initial_state(lanes)
    times, paces, second = [], [1.0], None
    for number, window in enumerate(windows):
        before = state
        taken, state = _timed(policy, window, before)
        times.append(taken / window.size)
        if number == 1:
            second, paces = (window, before), []
        if second is not None and number % _PAIRED == 1:
            paces.append(times[-1] * second[0].size / _timed(policy, *second)[0])
    question = np.concatenate([np.full((lanes, 1), ANS), answer[:, :-1]], axis=1)
    logits: Float = np.asarray(policy.logits(question, state)[0])  # (B, 4, V)
    symbols = slice(SYMBOLS.start, SYMBOLS.start + 10)
    right = logits[:, :, symbols].argmax(axis=2) + SYMBOLS.start == answer
    return float(right.mean()), 1 / float(np.median(times)), float(np.median(paces))


def _timed(policy: Predictor, window: Integer, state: Any) -> tuple[float, Any]:
    """Seconds that one window took, and the state behind it."""
    began = time.perf_counter()
    _, after = policy.logits(window, state)
    return time.perf_counter() - began, after


def learned() -> TaskStream:
    """What the agents have learned: `memorize` with 0 to 31 segments in between, as in the claim, so that its runs are these."""
    return distance_stream(
        name="memorize",
        version=1,
        budget="smoke",
        question="memorize",
        trained=(0, 1, 3, 7, 15, 31),
        probed=(64, 512),
        units=(128_000, *[16_000] * 5),
        segment=SEGMENT,
        points=1,
        test_examples=128,
        mixed=True,
    )


def long_reading(
    lengths: Sequence[int] = LENGTHS,
    *,
    stream: TaskStream | None = None,
    seeds: Sequence[int] = (3, 4, 5),
    results_dir: str | Path = "results/runs",
    say: Callable[[str], None] = lambda _: None,
) -> Readings:
    """Read and ask at each of `lengths` with an agent of each of `seeds` that lived through `stream`, by default `learned()`.

    Runs that are not below `results_dir` yet are made, and those that were begun go on. `say` hears of each seed and length.
    """
    stream = learned() if stream is None else stream
    found: dict[int, list[tuple[float, float, float, float]]] = {tokens: [] for tokens in lengths}
    with torch_threads(1):  # a network this small is slower on two
        for seed in seeds:
            agent: Any = clbench.run("rmt", stream, seed=seed, results_dir=results_dir, options=OPTIONS).agent
            policy: Predictor = agent.policy(stream.info(0))
            read(policy, _WINDOW * 2)  # memory that the first call takes once is no length's own
            for tokens in lengths:
                _forget_peak()
                right, speed, pace = read(policy, tokens, seed=seed)
                found[tokens].append((right, _peak_megabytes(), speed, pace))
                say(f"seed {seed}, {tokens:,} tokens: {right:.3f} right, {found[tokens][-1][1]:.0f} MB")
    rows = []
    for tokens in lengths:
        right, peak, speed, pace = zip(*found[tokens], strict=True)
        rows.append(Reading(tokens, tuple(right), max(peak), float(np.median(speed)), float(np.median(pace))))
    return Readings(tuple(rows), _trained_segments(stream))


def _trained_segments(stream: TaskStream) -> int:
    """The longest texts that a stream of one question trains on; its tasks are called by the segments in between, as in memorize-31."""
    trained = {column for phase in stream.phases for column in phase.columns}
    return 1 + max(int(stream.tasks[column].name.rpartition("-")[2]) for column in trained)


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
