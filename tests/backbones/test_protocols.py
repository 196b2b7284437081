"""Memories learn what they are for, and fail without it: E8, P-RMT-1 and X10 of memory.md, sections 6.3, 13.3 and 12."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clbench.agents.backbones.backbone import Backbone, Output
from clbench.agents.backbones.recurrent_memory import RecurrentMemoryTransformer
from clbench.agents.backbones.transformer import Transformer
from clbench.agents.backbones.transformer_xl import TransformerXL

SYMBOLS, SEGMENT, BATCH = 10, 8, 32
Batch = tuple[Tensor, Tensor, Tensor]  # tokens (B, T), what follows or is asked for (B, T), where it counts (T,)


class Answerer(nn.Module):
    """Embedding, backbone, head: logits (B, T, SYMBOLS) for tokens (B, T) from a fresh state."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.embedding, self.backbone = nn.Embedding(SYMBOLS + 1, backbone.input_size), backbone
        self.head = nn.Linear(backbone.output_size, SYMBOLS)

    def forward(self, tokens: Tensor, reset: Tensor | None = None) -> Tensor:
        output: Output = self.backbone(self.embedding(tokens), self.backbone.initial_state(len(tokens)), reset=reset)
        return self.head(output.hidden)


def copy(generator: torch.Generator, segments: int = 3, length: int = SEGMENT) -> Batch:
    """`length` symbols fill the first segment; each further one asks for what they were, in order."""
    symbols = torch.randint(SYMBOLS, (BATCH, length), generator=generator)
    asked = torch.full((BATCH, (segments - 1) * length), SYMBOLS)
    return torch.cat([symbols, asked], 1), symbols.repeat(1, segments), torch.arange(segments * length) >= length


def periodic(generator: torch.Generator, period: int = 6, length: int = 20) -> Batch:
    """Six random symbols over and over: the next one stands five places back, further than a segment of four reaches."""
    stream = torch.randint(SYMBOLS, (BATCH, period), generator=generator).repeat(1, 4)
    return stream[:, :length], stream[:, 1 : length + 1], torch.arange(length) >= period


def accuracy(model: Answerer, batch: Batch, reset: Tensor | None = None) -> float:
    tokens, targets, counts = batch
    with torch.no_grad():
        return (model(tokens, reset).argmax(-1) == targets)[:, counts].float().mean().item()


def train(backbone: Backbone, task: Callable[[torch.Generator], Batch], steps: int, seed: int) -> tuple[Answerer, float]:
    """The model and its accuracy on 32 fresh batches, trained until it answers all but 0.2% or for `steps` steps."""
    model, generator = Answerer(backbone), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    smooth = 0.0
    for _ in range(steps):
        tokens, targets, counts = task(generator)
        logits = model(tokens)[:, counts]
        loss = cross_entropy(logits.flatten(0, 1), targets[:, counts].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = 0.95 * smooth + 0.05 * (logits.argmax(-1) == targets[:, counts]).float().mean().item()
        if smooth > 0.998:
            break
    return model, sum(accuracy(model, task(generator)) for _ in range(32)) / 32


def test_e8_one_memory_row_holds_fewer_of_a_sequence_the_longer_it_is() -> None:
    """One row of width 16, as many updates for all lengths: a symbol is kept, and of 2, 4 and 8 a smaller and smaller share."""
    found = []
    for length in (1, 2, 4, 8):
        torch.manual_seed(0)
        backbone = RecurrentMemoryTransformer(16, width=16, layers=1, heads=2, segment_length=length, memory_tokens=1)
        found.append(train(backbone, partial(copy, segments=2, length=length), steps=400, seed=0)[1])
    assert found[0] >= 0.99
    assert all(longer <= shorter - 0.04 for shorter, longer in pairwise(found)), found
    assert found[-1] >= 0.2  # chance is 0.10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p_rmt_1_rmt_copies_across_three_segments_and_not_without_its_memory(seed: int) -> None:
    torch.manual_seed(seed)
    backbone = RecurrentMemoryTransformer(64, segment_length=SEGMENT, memory_tokens=8)
    model, learned = train(backbone, copy, steps=1500, seed=seed)
    assert learned >= 0.99
    every_segment = (torch.arange(3 * SEGMENT) % SEGMENT == 0).expand(BATCH, -1)
    generator = torch.Generator().manual_seed(seed + 100)
    forgetful = sum(accuracy(model, copy(generator), every_segment) for _ in range(32)) / 32
    assert forgetful <= 0.16  # chance is 0.10


def test_x10_rmt_answers_from_its_memory_and_guesses_where_it_begins_anew() -> None:
    torch.manual_seed(0)
    ask = partial(copy, segments=3, length=2)
    model, learned = train(RecurrentMemoryTransformer(64, segment_length=2, memory_tokens=2, initial_std=0.02), ask, steps=400, seed=0)
    every_segment = (torch.arange(6) % 2 == 0).expand(BATCH, -1)
    generator = torch.Generator().manual_seed(100)
    assert learned >= 0.95
    assert sum(accuracy(model, ask(generator), every_segment) for _ in range(32)) / 32 <= 0.15  # chance is 0.10


@pytest.mark.parametrize(
    ("kind", "enough", "short"),
    [
        (TransformerXL, {"segment_length": 4, "memory_length": 8}, {"segment_length": 4, "memory_length": 0}),
        (Transformer, {"context": 6}, {"context": 2}),
    ],
    ids=["transformer-xl", "transformer"],
)
def test_x10_a_cache_sees_the_last_period_and_a_shorter_one_does_not(
    kind: type[Backbone], enough: dict[str, int], short: dict[str, int]
) -> None:
    torch.manual_seed(0)
    _, seen = train(kind(64, **enough), periodic, steps=450, seed=0)
    _, unseen = train(kind(64, **short), periodic, steps=200, seed=0)
    assert seen >= 0.95
    assert unseen <= 0.2  # chance is 0.10
