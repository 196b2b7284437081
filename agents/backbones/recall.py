"""What each memory holds of a token by that token's age, one probe for every backbone.

    clbench benchmark memory-recall

X8 of memory.md, section 12, after the short-term memory capacity of Jaeger 2002 (GMD report 152): a stream of random symbols is read, and
one linear head for each age says after every token which symbol stood that many tokens ago. Network and heads are trained together (Jaeger:
the heads alone), the same number of updates for all, and asked on fresh streams. With V symbols

    recall(a) = (accuracy(a) - 1/V) / (1 - 1/V)                 1: always known, 0: guessed
    area      = integral of recall over a, trapezoids between the probed ages, in tokens

Nothing is repeated and nothing stands out, so that a memory cannot choose: a window is an edge, a recurrent state a slope. Few updates show
what a memory learns readily and not what it could hold. The curve of one fact among noise is that of the streams `memorize` and `detect`.
Shape letters: B batch, T time, V symbols, A ages, D width.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from clbench.guards import torch_threads

from . import state as states
from .associative_memory import AssociativeMemoryTransformer
from .backbone import Backbone
from .fitting import fit
from .gated_deltanet import GatedDeltaNet
from .infinity_former import InfinityFormer
from .lstm import LSTM
from .memorizing_transformer import MemorizingTransformer
from .memory_transformer import MemoryTransformer
from .recurrent_memory import RecurrentMemoryTransformer
from .shared_episodic_memory import SharedEpisodicMemory
from .transformer import Transformer
from .transformer_xl import TransformerXL

AGES = (0, 1, 2, 4, 8, 16, 32, 64)
SYMBOLS, BATCH, LENGTH = 8, 32, 128
STEPS = 600
_WIDTH, _LEARNING_RATE, _WARMUP, _CLIP = 64, 2e-3, 50, 1.0
_EVALUATED = 8  # batches
SEGMENT = 16

_LAYERS: Mapping[str, Any] = {"width": _WIDTH, "layers": 2, "heads": 4}
_SEGMENTS: Mapping[str, Any] = {**_LAYERS, "segment_length": SEGMENT}

BACKBONES: Mapping[str, Callable[[], Backbone]] = {
    "transformer": lambda: Transformer(_WIDTH, **_LAYERS, context=16),
    "transformer-xl": lambda: TransformerXL(_WIDTH, **_SEGMENTS, memory_length=16),
    "memory-transformer": lambda: MemoryTransformer(_WIDTH, **_SEGMENTS, memory_tokens=8),
    "rmt": lambda: RecurrentMemoryTransformer(_WIDTH, **_SEGMENTS, memory_tokens=8),
    "armt": lambda: AssociativeMemoryTransformer(_WIDTH, **_SEGMENTS, memory_tokens=8),
    "memorizing-transformer": lambda: MemorizingTransformer(_WIDTH, **_SEGMENTS, memory_size=128),
    "focused-transformer": lambda: MemorizingTransformer(
        _WIDTH, **_SEGMENTS, memory_size=128, integration="concat", differentiable=True, distances="rotary", positions="none"
    ),
    "infinity-former": lambda: InfinityFormer(_WIDTH, **_SEGMENTS, memory_length=16),
    "gated-deltanet": lambda: GatedDeltaNet(_WIDTH, **_LAYERS),
    "lstm": lambda: LSTM(_WIDTH, width=_WIDTH),
    "sem": lambda: SharedEpisodicMemory(_WIDTH, width=_WIDTH // 2),
}
"""Two layers of width 64 where a backbone has layers, segments of 16 tokens where it has segments."""


@dataclass(frozen=True)
class Curve:
    """What one backbone recalls, averaged over seeds."""

    backbone: str
    memory_bytes: int  # of one stream
    ages: tuple[int, ...]
    recall: tuple[float, ...]

    @property
    def area(self) -> float:
        """Tokens."""
        points = list(zip(self.ages, self.recall, strict=True))
        return sum((later - age) * (left + right) / 2 for (age, left), (later, right) in pairwise(points))


@dataclass(frozen=True)
class Recall:
    """All backbones."""

    rows: tuple[Curve, ...]
    steps: int
    seeds: int

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"recall by age in tokens, {self.steps} updates, seeds: {self.seeds}")
        for heading in ("memory", "bytes", *(str(age) for age in self.rows[0].ages), "area"):
            table.add_column(heading, justify="left" if heading == "memory" else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(row.backbone, f"{row.memory_bytes:,}", *(f"{value:.2f}" for value in row.recall), f"{row.area:.1f}")
        return table


def memory_recall(
    backbones: Sequence[str] = tuple(BACKBONES),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    ages: Sequence[int] = AGES,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda _: None,
) -> Recall:
    """How well each of `backbones` knows a random symbol `ages` tokens later; one thread, twenty minutes a seed; `say` hears each."""
    rows: list[Curve] = []
    with torch_threads(1):
        for name in backbones:
            rows.append(_averaged(name, seeds, ages, steps))
            say(f"{len(rows)} of {len(backbones)}  {name}: {', '.join(f'{value:.2f}' for value in rows[-1].recall)}")
    return Recall(tuple(rows), steps, len(seeds))


def curve(
    build: Callable[[], Backbone], *, ages: Sequence[int] = AGES, steps: int = STEPS, length: int = LENGTH, seed: int = 0
) -> list[float]:
    """Recall at each of `ages` of what `build` gives, trained on streams of `length` > max(ages) tokens and asked where all ages exist."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Prober(build(), len(ages))
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        tokens = torch.randint(SYMBOLS, (BATCH, length), generator=generator)
        logits = model(tokens)  # (B, T, A, V)
        losses = [functional.cross_entropy(logits[:, age:, n].flatten(0, 1), _old(tokens, age).flatten()) for n, age in enumerate(ages)]
        return torch.stack(losses).mean() + model.auxiliary_loss

    fit(model, loss, steps, learning_rate=_LEARNING_RATE, warmup=_WARMUP, clip=_CLIP)
    right = torch.zeros(len(ages), dtype=torch.double)
    with torch.no_grad():
        for _ in range(_EVALUATED):
            tokens = torch.randint(SYMBOLS, (BATCH, length), generator=generator)
            said = model(tokens).argmax(-1)[:, max(ages) :]  # (B, T', A)
            right += torch.stack([(said[..., n] == _old(tokens, age)[:, max(ages) - age :]).double().mean() for n, age in enumerate(ages)])
    accuracy = right / _EVALUATED
    return ((accuracy - 1 / SYMBOLS) / (1 - 1 / SYMBOLS)).tolist()


class _Prober(nn.Module):
    """Embedding, backbone, and a head for each age: logits (B, T, A, V) for tokens (B, T) from a fresh memory."""

    auxiliary_loss: Tensor  # () of the last call

    def __init__(self, backbone: Backbone, ages: int) -> None:
        super().__init__()
        self.embedding, self.backbone = nn.Embedding(SYMBOLS, backbone.input_size), backbone
        self.heads = nn.Linear(backbone.output_size, ages * SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.backbone(self.embedding(tokens), self.backbone.initial_state(len(tokens)))
        self.auxiliary_loss = output.auxiliary_loss
        return self.heads(output.hidden).unflatten(-1, (-1, SYMBOLS))


def _old(tokens: Tensor, age: int) -> Tensor:
    """The symbol `age` tokens before each token that has one: (B, T - age)."""
    return tokens[:, : tokens.shape[1] - age]


def _averaged(name: str, seeds: Sequence[int], ages: Sequence[int], steps: int) -> Curve:
    curves = [curve(BACKBONES[name], ages=ages, steps=steps, seed=seed) for seed in seeds]
    size = states.bytes(BACKBONES[name]().initial_state(1))
    return Curve(name, size, tuple(ages), tuple(statistics.mean(values) for values in zip(*curves, strict=True)))
