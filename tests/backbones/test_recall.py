"""X8 of memory.md, section 12: what a memory holds by age, asked by one probe of every backbone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clbench.agents.backbones import cost, recall
from clbench.agents.backbones.backbone import Backbone
from clbench.agents.backbones.gated_deltanet import GatedDeltaNet
from clbench.agents.backbones.mlp import MLP
from clbench.agents.backbones.recall import Curve
from clbench.agents.backbones.transformer import Transformer
from clbench.agents.backbones.transformer_xl import TransformerXL

ONE_LAYER = {"width": 64, "layers": 1, "heads": 4}


@pytest.mark.parametrize(
    ("build", "knows", "cannot"),
    [
        (lambda: MLP(64, width=64, depth=1), (0,), (1, 2, 5)),
        (lambda: Transformer(64, **ONE_LAYER, context=2), (0, 1, 2), (3, 5)),
        (lambda: TransformerXL(64, **ONE_LAYER, segment_length=2, memory_length=2), (0, 1, 2), (4, 5)),
        (lambda: GatedDeltaNet(64, **ONE_LAYER), (0, 1, 2, 3), ()),
    ],
    ids=["mlp", "transformer", "transformer-xl", "gated-deltanet"],
)
def test_x8_what_is_in_reach_is_learned_and_what_is_not_is_guessed(
    build: Callable[[], Backbone], knows: tuple[int, ...], cannot: tuple[int, ...]
) -> None:
    ages = tuple(sorted({*knows, *cannot}))
    found = dict(zip(ages, recall.curve(build, ages=ages, steps=250, length=16), strict=True))
    assert all(found[age] >= 0.95 for age in knows), found
    assert all(abs(found[age]) <= 0.08 for age in cannot), found  # 2,560 answers or more; chance is 0


def test_the_same_seed_gives_the_same_curve() -> None:
    def build() -> Backbone:
        return Transformer(64, **ONE_LAYER, context=2)

    left, right = (recall.curve(build, ages=(0, 1), steps=3, length=8, seed=7) for _ in range(2))
    assert left == right != recall.curve(build, ages=(0, 1), steps=3, length=8, seed=8)


def test_the_area_is_the_integral_between_the_probed_ages() -> None:
    assert Curve("any", 0, (0, 1, 3, 7), (1.0, 0.5, 0.5, 0.0)).area == pytest.approx(0.75 + 1.0 + 1.0)
    assert Curve("any", 0, (0, 4, 64), (1.0, 1.0, 0.0)).area == pytest.approx(4 + 30)


def test_the_benchmark_asks_every_backbone_and_its_table_shows_all_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "BATCH", 2)
    monkeypatch.setattr(recall, "_EVALUATED", 1)
    heard: list[str] = []
    result = recall.memory_recall(seeds=(1000, 1001), ages=(0, 1), steps=1, say=heard.append)
    assert [line.split("  ")[1].split(":")[0] for line in heard] == list(recall.BACKBONES) and heard[0].startswith("1 of 11")
    assert [row.backbone for row in result.rows] == list(recall.BACKBONES)
    assert all(len(row.recall) == 2 for row in result.rows)
    assert {row.backbone: row.memory_bytes for row in result.rows}["lstm"] == 2 * 64 * 4
    table = result.table()
    assert [str(column.header) for column in table.columns] == ["memory", "bytes", "0", "1", "area"]
    assert table.row_count == len(recall.BACKBONES)


# -- what a segment costs --------------------------------------------------------------------------------------------------


def test_a_segment_is_timed_early_and_late_and_sizes_are_those_of_the_states() -> None:
    result = cost.segment_cost(["rmt", "lstm"], segments=12, timed=3)
    assert [row.backbone for row in result.rows] == ["rmt", "lstm"]
    assert all(row.early_ms > 0 and row.late_ms > 0 for row in result.rows)
    assert [(row.early_bytes, row.late_bytes) for row in result.rows][1] == (512, 512)
    assert result.table().row_count == 2


@pytest.mark.parametrize(("late_ms", "late_bytes", "constant"), [(1.09, 100, True), (0.5, 100, True), (1.2, 100, False), (1.0, 101, False)])
def test_a_cost_is_constant_if_neither_time_nor_size_has_grown(late_ms: float, late_bytes: int, constant: bool) -> None:
    row = cost.Cost("any", 1.0, late_ms, 100, late_bytes)
    assert row.constant == constant == cost.Costs((row,), 1000).fulfilled
