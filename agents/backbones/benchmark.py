"""What the memory of an encoder is good for: the forms of the memory transformer against none, on sequences and on a statistic of them.

    clbench benchmark memory-encoder

After Burtsev et al. 2020, arXiv:2006.11527: memory beside the sequence does not hurt translation (24.65 BLEU without, 25.07 with 10 rows,
25.58 with 20), while a bottleneck, through which all must pass, collapses (11.20); second-hand, memory.md, 5.2. Here, not translation
but three small tasks: `copy` and `reverse` show 16 symbols and ask for all of them at 16 further places, more than four rows take in early;
`majority` asks each of 16 places for the most frequent symbol, which a row can hold.
(With the answers at the places of the symbols, copying would need no attention at all.)
The encoder is as in the paper, norms behind the sublayers; 2 layers of width 64, as many steps for every form. Bars are those of memory.md,
13.2; "worse" is read as by a margin, so that noise cannot meet it. A bar is about the worst seed. Chance is .10, and .25 in majority.
The numbers show a mechanism, never results to publish.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from clbench.guards import torch_threads

from .fitting import fit
from .memory_transformer import FormName, MemoryEncoder

SEEDS = (0, 1, 2)
STEPS = 400
SYMBOLS, LENGTH, BATCH = 10, 16, 32
_CANDIDATES = 4  # symbols among which a majority is sought
_EVALUATED = 32  # batches
_WIDTH, _HEADS = 64, 4
_LEARNING_RATE, _WARMUP, _CLIP = (
    1e-3,
    100,
    1.0,
)  # chosen with the number of steps and the norms' place in a handful of short runs, seed 1000

ARMS: dict[str, tuple[FormName, int]] = {
    "baseline": ("memory", 0),
    "memory": ("memory", 4),
    "controller": ("controller", 4),
    "shared-controller": ("shared-controller", 4),
    "bottleneck": ("bottleneck", 4),
}
"""Form and memory tokens of each encoder."""


class Question(NamedTuple):
    """A batch of a task."""

    tokens: Tensor  # (B, T)
    answers: Tensor  # (B, LENGTH), asked for at the last places


def copy(generator: torch.Generator) -> Question:
    """Symbols, then as many places that ask for them in order."""
    symbols = torch.randint(SYMBOLS, (BATCH, LENGTH), generator=generator)
    return Question(torch.cat([symbols, torch.full_like(symbols, SYMBOLS)], dim=1), symbols)


def reverse(generator: torch.Generator) -> Question:
    """The same, the last symbol first."""
    tokens, symbols = copy(generator)
    return Question(tokens, symbols.flip(1))


def majority(generator: torch.Generator) -> Question:
    """Few kinds of symbols, one of them more frequent than any other: it is the answer at every place."""
    symbols = torch.randint(_CANDIDATES, (4 * BATCH, LENGTH), generator=generator)  # in three quarters of the rows one leads
    counts = functional.one_hot(symbols, _CANDIDATES).sum(1)
    second, first = counts.sort(dim=1).values[:, -2:].unbind(1)
    leads = (first > second).nonzero()[:BATCH, 0]
    return Question(symbols[leads], counts[leads].argmax(1, keepdim=True).expand(-1, LENGTH))


TASKS: dict[str, Callable[[torch.Generator], Question]] = {"copy": copy, "reverse": reverse, "majority": majority}


@dataclass(frozen=True)
class Bar:
    """What every seed is to reach: an accuracy, or so much more than the baseline of its seed."""

    limit: float
    at_least: bool = True
    over_baseline: bool = True

    @property
    def text(self) -> str:
        """For a table."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} baseline {self.limit:+.3f}" if self.over_baseline else f"{sign} {self.limit:.3f}"


BARS = {
    ("copy", "memory"): Bar(-0.005),
    ("reverse", "memory"): Bar(-0.005),
    ("copy", "bottleneck"): Bar(-0.05, at_least=False),
    ("reverse", "bottleneck"): Bar(-0.05, at_least=False),
    ("majority", "bottleneck"): Bar(0.95, over_baseline=False),
}
"""By task and arm."""


@dataclass(frozen=True)
class Row:
    """Accuracies of one arm in one task and those of the baseline, seed by seed."""

    task: str
    arm: str
    accuracies: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def worst(self) -> float | None:
        """The seed that is furthest from its bar, in the bar's terms; None where there is no bar."""
        bar = BARS.get((self.task, self.arm))
        if bar is None:
            return None
        reached = [a - b * bar.over_baseline for a, b in zip(self.accuracies, self.baseline, strict=True)]
        return min(reached) if bar.at_least else max(reached)

    @property
    def met(self) -> bool | None:
        """Whether all seeds meet the bar; None where there is none."""
        if self.worst is None:
            return None
        bar = BARS[self.task, self.arm]
        return self.worst >= bar.limit if bar.at_least else self.worst <= bar.limit


@dataclass(frozen=True)
class MemoryEncoders:
    """All tasks and arms."""

    rows: tuple[Row, ...]
    steps: int

    @property
    def fulfilled(self) -> bool:
        """Whether every bar is met."""
        return all(row.met is not False for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        seeds = len(self.rows[0].accuracies)
        table = Table(title=f"memory-encoder: {LENGTH} symbols, 4 memory tokens, {self.steps} steps, seeds: {seeds}")
        for heading in ("task", "form", "accuracy", "worst", "bar", "met"):
            table.add_column(heading, no_wrap=True)
        for row in self.rows:
            judged = ("", "", "")
            if row.worst is not None:
                bar = BARS[row.task, row.arm]
                judged = (f"{row.worst:{'+' if bar.over_baseline else ''}.4f}", bar.text, "met" if row.met else "failed")
            table.add_row(row.task, row.arm, f"{statistics.mean(row.accuracies):.4f}", *judged)
        return table


def memory_encoder(seeds: Sequence[int] = SEEDS, *, steps: int = STEPS) -> MemoryEncoders:
    """Accuracies of all forms in all tasks, with one thread; two minutes a seed."""
    with torch_threads(1):
        found = {(task, arm): tuple(_accuracy(task, arm, seed, steps) for seed in seeds) for task in TASKS for arm in ARMS}
    return MemoryEncoders(tuple(Row(task, arm, each, found[task, "baseline"]) for (task, arm), each in found.items()), steps)


class Answerer(nn.Module):
    """Embedding, encoder, head: logits (B, T, SYMBOLS) for tokens (B, T)."""

    def __init__(self, encoder: MemoryEncoder) -> None:
        super().__init__()
        self.embedding, self.encoder, self.head = nn.Embedding(SYMBOLS + 1, _WIDTH), encoder, nn.Linear(_WIDTH, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)))


def _accuracy(task: str, arm: str, seed: int, steps: int) -> float:
    """On fresh questions after `steps` steps, the same questions for all arms of a seed."""
    form, memory_tokens = ARMS[arm]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Answerer(MemoryEncoder(_WIDTH, heads=_HEADS, memory_tokens=memory_tokens, form=form))
    ask, generator = TASKS[task], torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        tokens, answers = ask(generator)
        return functional.cross_entropy(model(tokens)[:, -LENGTH:].flatten(0, 1), answers.flatten())

    fit(model, loss, steps, learning_rate=_LEARNING_RATE, warmup=_WARMUP, clip=_CLIP)
    with torch.no_grad():
        questions = (ask(generator) for _ in range(_EVALUATED))
        right = [(model(tokens)[:, -LENGTH:].argmax(-1) == answers).double().mean().item() for tokens, answers in questions]
    return statistics.mean(right)
