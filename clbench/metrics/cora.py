"""`cora.*` of Powers et al. 2022 (CORA, arXiv:2110.10067): forgetting and zero-shot transfer per pair of tasks, not cumulative.

Source: `AGI-Labs/continual_rl`, `continual_rl/utils/metrics.py`. Departures: their scaling by 1/max|return| of each method's own runs
is left out, for it puts tables on different scales (known defect; scores here are in [0, 1] already); they drop an evaluation exactly
at a boundary, here it is the last of the phase that ended. Curves are smoothed with a trailing mean, over all rows of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ValidationError
from ..matrix import EvaluationMatrix
from .windows import Vector, phase_rows, training_order

SMOOTHING = 20
PRINTED_SCALE = 10.0


def forgetting(matrix: EvaluationMatrix, *, smoothing: int = SMOOTHING) -> Vector:
    """F[i, j] (N, N), j > i: value on task i just before task j minus just after it; NaN elsewhere and in other than plain streams."""
    after = _smoothed_boundaries(matrix, smoothing)  # (1 + N, N): row t is the value before phase t, row t + 1 after it
    loss = (after[:-1] - after[1:]).T  # (N, N): task i, phase j
    return np.where(np.tri(len(loss), k=-1, dtype=bool).T, loss, np.nan)


def zero_shot(matrix: EvaluationMatrix, *, smoothing: int = SMOOTHING) -> Vector:
    """Z[i, j] (N, N), j < i: value on task i just after task j minus just before it, for j = 0 minus the first evaluation."""
    after = _smoothed_boundaries(matrix, smoothing)
    gain = (after[1:] - after[:-1]).T
    return np.where(np.tri(len(gain), k=-1, dtype=bool), gain, np.nan)


def mean_and_error(pairs: Sequence[Vector]) -> tuple[Vector, Vector]:
    """Mean and standard error (N, N) over the runs' pair matrices; the authors print both times `PRINTED_SCALE`."""
    stacked = np.stack(list(pairs))  # (runs, N, N)
    if len(stacked) < 2:
        return stacked[0], np.full_like(stacked[0], np.nan)
    return stacked.mean(axis=0), stacked.std(axis=0, ddof=1) / np.sqrt(len(stacked))


def trailing_mean(values: Vector, size: int) -> Vector:
    """Mean of each row (E, N) and the up to `size - 1` rows before it."""
    if size < 1:
        raise ValidationError(f"smoothing must be >= 1, got {size}")
    return np.array([values[max(0, e + 1 - size) : e + 1].mean(axis=0) for e in range(len(values))]).reshape(values.shape)


def _smoothed_boundaries(matrix: EvaluationMatrix, smoothing: int) -> Vector:
    """(1 + N, N): the first evaluation, then the last row of each phase; columns in training order."""
    order = training_order(matrix)
    result = np.full((1 + matrix.num_tasks, matrix.num_tasks), np.nan)
    if order is None or not len(matrix.score):
        return result
    smooth = trailing_mean(matrix.score[:, list(order)], smoothing)
    result[0] = smooth[0]
    for phase in range(matrix.num_tasks):
        rows = phase_rows(matrix, phase)
        if rows.size:
            result[1 + phase] = smooth[rows[-1]]
    return result
