"""The benchmark of updates: its other side is soft actor-critic as well, and its table says what was measured."""

import pytest
import torch
from rich.console import Console

from clbench.agents.learners.benchmark import SIZES, SingleFile, Size, sac_updates
from clbench.agents.learners.transitions import Transitions

TINY = Size("tiny", 16, 2, True, 8, 1.0)


def test_the_other_side_learns_what_pays():
    """A bandit of one step: the reward is the first number of the action; its actor ends up saying it, its critics what it is worth."""
    torch.manual_seed(0)
    other = SingleFile(Size("small", 32, 2, True, 64, 1.0))
    for _ in range(600):
        seen, action = torch.randn(64, 49), torch.rand(64, 4) * 2 - 1
        other.update(Transitions(seen, action, action[:, 0], torch.zeros(64), seen))
    seen = torch.randn(100, 39)
    assert other.actor(seen).action[:, 0].mean() > 0.3
    best = torch.zeros(100, 4)
    best[:, 0] = 0.9
    assert other.value(other.critics[0], seen, best).mean().item() == pytest.approx(0.9, abs=0.2)


def test_a_table_of_rates_and_ratios():
    found = sac_updates([TINY], updates=2, repetitions=2)
    (row,) = found.rows
    assert row.faster == row.ours / row.other and row.limit > row.ours
    console = Console(width=140, record=True)
    console.print(found.table())
    assert "tiny" in console.export_text()


def test_operations_are_those_of_the_specification():
    """4 x 256, batch 128: 0.85 GFLOP an update (fast_metaworld.md, section 4)."""
    assert SIZES[0].operations == pytest.approx(0.85e9, rel=0.02)
