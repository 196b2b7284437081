"""`cw.*` of Continual World (Wolczyk et al. 2021, arXiv:2105.10919), defects and bootstrap bits included.

Source: `awarelab/continual_world` 73f63bb, `continualworld/results_processing/tables.py`, lines in the docstrings. Runs come as
`{run id: matrix}`; rows are ordered by run id *as a string*, which decides the bits of an interval. Only the stochastic evaluation counts
and there is no row at step 0, so the row of the untrained agent is not used.

Known defects, kept: with fewer than 5 rows per task the end window reaches into the previous task (warned of); forward transfer explodes
where the reference nearly solves a task. Departures: a missing cell makes the number NaN (pandas skips it); runs that share a name cannot
be merged, for a mapping holds each name once; reference runs are cut in the order of run ids, theirs in directory listing order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ValidationError
from ..matrix import EvaluationMatrix
from .windows import Vector, curve_means, num_phases, phase_rows

WINDOW = 5
RESAMPLES = 4000
CONFIDENCE = 0.9
TEN_MILLION = 10_000_000

Runs = Mapping[str, EvaluationMatrix]


class Estimate(NamedTuple):
    """A value over runs with its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def performance(matrix: EvaluationMatrix) -> float:
    """Mean over all N columns of the mean of the run's last 5 rows, in [0, 1] (`:96-108`, `tail(5)`)."""
    return float(_end(matrix).mean())


def forgetting(matrix: EvaluationMatrix) -> float:
    """Mean over **all N** columns of the end of the own phase minus the end of the run, in [-1, 1] (`:112-142`); NaN for joint phases.

    The last column contributes exactly 0, so with W = 5 this is (N-1)/N of the suite's forgetting.
    """
    return float((_own_end(matrix) - _end(matrix)).mean())


def backward_transfer(matrix: EvaluationMatrix) -> float:
    """Mean over all N columns of max(0, end of the run - end of the own phase), in [0, 1]; the paper's appendix (*unverified*)."""
    return float(np.maximum(0.0, _end(matrix) - _own_end(matrix)).mean())


def forward_transfer(runs: Runs, references: Runs) -> float:
    """Mean over n of (E_runs[A_n] - r_n) / (1 - r_n): a ratio of means over runs per task (`:58-60`, `:86-87`, `:145-265`).

    `references`: single-task runs, matched to columns by task name, so one set serves both visits of CW20. `total_normalized_ft`.
    """
    x, y = _curves(runs), _reference_curves(runs, references)
    return float(_normalized_transfer(x[np.newaxis], y[np.newaxis])[0])


def performance_interval(runs: Runs) -> Estimate:
    """`performance` averaged over runs, with its 90 % interval."""
    return _mean_estimate(runs, performance)


def forgetting_interval(runs: Runs) -> Estimate:
    """`forgetting` averaged over runs, with its 90 % interval."""
    return _mean_estimate(runs, forgetting)


def forward_transfer_interval(runs: Runs, references: Runs) -> Estimate:
    """`forward_transfer` with its 90 % interval; runs and reference runs resampled apart, one row index for all tasks."""
    x, y = _curves(runs), _reference_curves(runs, references)
    return _bootstrap(x, y, _normalized_transfer)


def multi_task_rows(methods: Mapping[str, Runs]) -> dict[str, Estimate]:
    """Performance of multi-task runs; if any run exceeds 10M steps, rows `<method>@10M` of all of them follow (`:336-345`)."""
    rows = {name: performance_interval(runs) for name, runs in methods.items()}
    if any(matrix.step.max(initial=0) > TEN_MILLION for runs in methods.values() for matrix in runs.values()):
        for name, runs in methods.items():
            cut = {run: up_to(matrix, TEN_MILLION) for run, matrix in runs.items()}
            rows[f"{name}@10M"] = performance_interval(cut)
    return rows


def up_to(matrix: EvaluationMatrix, step: int) -> EvaluationMatrix:
    """The run as it was after `step` units: the rows up to and at that step."""
    kept = matrix.step <= step
    return EvaluationMatrix(matrix.step[kept], matrix.phase[kept], matrix.score[kept], matrix.trained, matrix.tasks)


def _end(matrix: EvaluationMatrix) -> Vector:
    """Mean of the run's last 5 rows (N,), whatever their phase."""
    rows = np.flatnonzero(matrix.phase >= 0)[-WINDOW:]
    if not rows.size:
        return np.full(matrix.num_tasks, np.nan)
    if len(rows) < WINDOW or matrix.phase[rows[0]] != matrix.phase[rows[-1]]:
        warnings.warn(f"cw.*: the last phase has fewer than {WINDOW} rows; the end window mixes phases as the original does", stacklevel=3)
    return matrix.score[rows].mean(axis=0)


def _own_end(matrix: EvaluationMatrix) -> Vector:
    """Mean of the last up to 5 rows while the column is trained (N,); NaN where it is never trained alone."""
    result = np.full(matrix.num_tasks, np.nan)
    for n in range(matrix.num_tasks):
        phases = matrix.phases_of(n)
        rows = phase_rows(matrix, phases[-1])[-WINDOW:] if phases and not matrix.is_joint(phases[-1]) else np.empty(0, np.intp)
        if 0 < len(rows) < WINDOW:
            warnings.warn(f"cw.*: phase {phases[-1]} has {len(rows)} rows, fewer than {WINDOW}; its window takes those", stacklevel=3)
        if rows.size:
            result[n] = matrix.score[rows, n].mean()
    return result


def _curves(runs: Runs) -> Vector:
    """A_n (runs, N), rows by run id."""
    matrices = _in_order(runs)
    if any(matrix.tasks != matrices[0].tasks or num_phases(matrix) != num_phases(matrices[0]) for matrix in matrices):
        raise ValidationError("cw.forward_transfer: all runs must share one task order")
    return np.stack([curve_means(matrix) for matrix in matrices])


def _reference_curves(runs: Runs, references: Runs) -> Vector:
    """Reference curves (reference runs, N), cut to the smallest number of runs that any task has, rows by run id (`utils.py:51-67`)."""
    curves: dict[str, list[float]] = {}
    for run in sorted(references):
        matrix = references[run]
        assert matrix.tasks is not None
        for n, mean in enumerate(curve_means(matrix)):
            if matrix.phases_of(n):
                curves.setdefault(matrix.tasks[n], []).append(float(mean))
    tasks = _in_order(runs)[0].tasks
    assert tasks is not None
    missing = [name for name in tasks if name not in curves]
    if missing:
        raise ValidationError(f"cw.forward_transfer: no reference run trains {missing[0]!r}; reference tasks: {sorted(curves)}")
    fewest = min(len(values) for values in curves.values())
    for name, values in curves.items():
        if len(values) > fewest:
            warnings.warn(f"cw.forward_transfer: reference runs of {name} cut from {len(values)} to {fewest}", stacklevel=4)
    return np.array([curves[name][:fewest] for name in tasks]).T


def _normalized_transfer(x: Vector, y: Vector) -> Vector:
    """(samples,) from x (samples, runs, N) and y (samples, reference runs, N); `normalized_ft` of the original, then the mean over n."""
    ratios: list[Vector] = []
    for n in range(x.shape[-1]):  # one task at a time: the order of summation decides the last bits
        mean, alone = x[..., n].mean(axis=1), y[..., n].mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append((mean - alone) / (1 - alone))
    return np.mean(ratios, axis=0)


def _mean_estimate(runs: Runs, metric: Callable[[EvaluationMatrix], float]) -> Estimate:
    """The bootstrap of one number per run; the original passes a Y of one row, which is drawn and not used."""
    x = np.array([[metric(matrix)] for matrix in _in_order(runs)])
    return _bootstrap(x, np.zeros((1, 1)), lambda x, _: x[..., 0].mean(axis=1))


def _bootstrap(x: Vector, y: Vector, statistic: Callable[[Vector, Vector], Vector]) -> Estimate:
    """Percentile bootstrap over the rows of x and y, bit for bit that of the original (`BootstrapCI`)."""
    random = np.random.RandomState(0)  # the stream of their np.random.seed(0), without the global generator
    ii = _resample(random, len(x))
    jj = _resample(random, len(y))
    samples = statistic(x[ii], y[jj])  # (RESAMPLES,)
    significance = (1.0 - CONFIDENCE) / 2.0
    with np.errstate(invalid="ignore"):  # without headroom a sample can be infinite
        low, high = (float(np.quantile(samples, q, method="midpoint")) for q in (significance, 1 - significance))
    return Estimate(float(statistic(x[np.newaxis], y[np.newaxis])[0]), low, high)


def _resample(random: np.random.RandomState, runs: int) -> NDArray[np.intp]:
    return random.choice(runs, (RESAMPLES, runs))


def _in_order(runs: Runs) -> list[EvaluationMatrix]:
    if not runs:
        raise ValidationError("cw.*: expected at least one run, got none")
    return [runs[run] for run in sorted(runs)]
