"""The lines that figures draw: means over runs with bands, on the grid on which the runs were evaluated. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import metrics, statistics
from ..loading import LoadedRun
from .tables import BOOTSTRAP_SEED, Row, Table

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """A mean over runs at `x` (T,), with the band `low`..`high`: an interval from 5 runs on, else the range of the runs."""

    x: Array
    value: Array
    low: Array
    high: Array
    method: str


def boundaries(table: Table) -> list[int]:
    """Units consumed at the beginning and at the end of each phase."""
    units = [phase["units"] for phase in table.spec["phases"]]
    return [sum(units[:n]) for n in range(len(units) + 1)]


def unit_scale(table: Table) -> tuple[float, str]:
    """What to divide units by, and the label of the axis."""
    most = boundaries(table)[-1]
    for factor, word in ((1e6, "million "), (1e3, "thousand ")):
        if most >= 10 * factor or (factor == 1e6 and most >= factor):
            return factor, f"{word}{table.unit}"
    return 1.0, table.unit


def along_stream(row: Row, column: int | None) -> Curve | None:
    """The score on one task along the stream; without `column` the mean over all tasks where all were evaluated."""
    steps, scores = [], []
    for run in row.runs:
        score = run.matrix.score.mean(axis=1) if column is None else run.matrix.score[:, column]  # (E,)
        known = ~np.isnan(score)
        steps.append(run.matrix.step[known])
        scores.append(score[known])
    return _over_runs(steps, scores)


def few_shot(row: Row, *, untrained: bool = False) -> Curve | None:
    """The few-shot curve after the last phase at which it was measured, over x = log2(1 + K); or that of the untrained agent."""
    found = []
    for run in row.runs:
        phases = [phase for phase in run.few_shot if (phase == -1) == untrained]
        if phases:
            found.append(run.few_shot[max(phases)])
    x = [np.log2(1.0 + np.array(curve.shots)) for curve in found]
    scores = [curve.score for curve in found]
    return None if any(np.isnan(score).any() for score in scores) else _over_runs(x, scores)


def boundary_scores(row: Row) -> Array:
    """(P + 1, N): mean over runs of the scores after each phase, the untrained agent first; NaN where a cell was not evaluated."""
    return np.mean([run_boundary_scores(run) for run in row.runs], axis=0)


def run_boundary_scores(run: LoadedRun) -> Array:
    """(P + 1, N): the scores of one run after each phase, the untrained agent first."""
    before = run.matrix.score[run.matrix.phase == -1]
    first = before[-1:] if len(before) else np.full((1, run.matrix.num_tasks), np.nan)
    return np.vstack([first, metrics.boundary_matrix(run.matrix)])


def _over_runs(x: Sequence[NDArray[Any]], scores: Sequence[Array]) -> Curve | None:
    """The mean over runs at the places that all have in common."""
    if not x:
        return None
    common = x[0]
    for other in x[1:]:
        common = np.intersect1d(common, other)
    if not len(common):
        return None
    values = np.array([score[np.searchsorted(places, common)] for places, score in zip(x, scores, strict=True)])  # (n, T)
    band = statistics.curve_band(values, np.random.default_rng(BOOTSTRAP_SEED))
    if np.isnan(band.low).all():
        return Curve(common.astype(float), band.value, values.min(axis=0), values.max(axis=0), "range of runs")
    return Curve(common.astype(float), band.value, band.low, band.high, band.method)
