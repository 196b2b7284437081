"""`coom.*` of Tomilin et al. 2023 (COOM, NeurIPS datasets and benchmarks): over several runs of one agent at once.

Source: `TTomilin/COOM` 7929801, `results/common.py`. Known defects, kept: performance contains the learning curve and drops genuine zeros,
so a total forgetter that reaches 0.8 scores 0.80; the interval of performance and forgetting applies the metric to the array of pointwise
half-widths, so that of forgetting is a difference of half-widths and can be negative; the critical value for 90 % is Student's t with
9 degrees of freedom whatever the number of runs. Departure: a missing cell makes the number NaN, the original skips it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ValidationError
from ..matrix import EvaluationMatrix
from .windows import Vector, curve_means, num_phases, phase_rows, training_order

FINAL_ROWS = 10
CRITICAL_VALUES = {0.9: 1.833, 0.95: 1.96, 0.99: 2.576}


def success(metric: Vector, lower: float, upper: float) -> Vector:
    """clip((metric - lower) / (upper - lower), 0, 1): raw units to [0, 1] by hand-set bounds; exact zeros are common."""
    return np.clip((np.asarray(metric, dtype=np.float64) - lower) / (upper - lower), 0.0, 1.0)


def performance(runs: Sequence[EvaluationMatrix]) -> float:
    """Mean over {task j, period p >= j} of the period means of the mean run, zeros left out; **not** final performance."""
    return _performance(*_mean_run(runs))


def performance_half_width(runs: Sequence[EvaluationMatrix], *, confidence: float = 0.95) -> float:
    """Half of the published interval of `performance`."""
    return _performance(*_half_width_run(runs, confidence))


def forgetting(runs: Sequence[EvaluationMatrix]) -> float:
    """Mean over the first N - 1 tasks of own minus last period, each the mean of its last 10 rows, of the mean run."""
    return _forgetting(*_mean_run(runs))


def forgetting_half_width(runs: Sequence[EvaluationMatrix], *, confidence: float = 0.95) -> float:
    """What is published as half of the interval of `forgetting`: a difference of half-widths, can be negative."""
    return _forgetting(*_half_width_run(runs, confidence))


def forward_transfer(matrix: EvaluationMatrix, reference: Vector) -> float:
    """(mean_n A_n - mean_n r_n) / (1 - mean_n r_n) of one run: a ratio *after* averaging over tasks; NaN without headroom."""
    alone = float(np.mean(reference))
    room = 1.0 - alone
    return (float(curve_means(matrix).mean()) - alone) / room if room > 1e-12 else float("nan")


def forward_transfer_half_width(runs: Sequence[EvaluationMatrix], reference: Vector, *, confidence: float = 0.95) -> float:
    """Half of the published interval of the mean `forward_transfer` over runs: c std / sqrt(n), std with denominator n."""
    values = np.array([forward_transfer(run, reference) for run in runs])
    return float(_critical_value(confidence) * values.std() / np.sqrt(len(values)))


def _performance(score: Vector, periods: list[slice]) -> float:
    means = np.array([score[period].mean(axis=0) for period in periods])  # (N periods, N tasks)
    cells = means[np.tri(len(means), dtype=bool)]  # period p >= task j
    kept = cells[cells != 0]
    return float(kept.mean()) if kept.size else float("nan")


def _forgetting(score: Vector, periods: list[slice]) -> float:
    ends = np.array([score[period][-FINAL_ROWS:].mean(axis=0) for period in periods])  # (N periods, N tasks)
    loss = (np.diagonal(ends) - ends[-1])[:-1]
    return float(loss.mean()) if loss.size else float("nan")


def _mean_run(runs: Sequence[EvaluationMatrix]) -> tuple[Vector, list[slice]]:
    scores, periods = _stack(runs)
    return scores.mean(axis=0), periods


def _half_width_run(runs: Sequence[EvaluationMatrix], confidence: float) -> tuple[Vector, list[slice]]:
    scores, periods = _stack(runs)
    return _critical_value(confidence) * scores.std(axis=0) / np.sqrt(len(scores)), periods


def _critical_value(confidence: float) -> float:
    if confidence not in CRITICAL_VALUES:
        raise ValidationError(f"confidence must be one of {sorted(CRITICAL_VALUES)}, got {confidence}")
    return CRITICAL_VALUES[confidence]


def _stack(runs: Sequence[EvaluationMatrix]) -> tuple[Vector, list[slice]]:
    """Scores (runs, E, N) in training order, and the rows of every period; NaN scores for streams that are not plain."""
    if not runs:
        raise ValidationError("expected at least one run, got none")
    first = runs[0]
    if any(not np.array_equal(run.phase, first.phase) or run.trained != first.trained for run in runs):
        raise ValidationError("coom.* averages row by row: all runs must have the same phases and the same number of rows in each")
    order = training_order(first)
    rows = [phase_rows(first, phase) for phase in range(num_phases(first))]
    scores = np.stack([run.score for run in runs])
    if order is None or any(not r.size for r in rows):
        return np.full((len(runs), first.num_tasks, first.num_tasks), np.nan), [slice(p, p + 1) for p in range(first.num_tasks)]
    return scores[:, :, list(order)], [slice(int(r[0]), int(r[-1]) + 1) for r in rows]
