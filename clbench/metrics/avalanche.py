"""`avalanche.*` of the Avalanche library (Lomonaco et al. 2021, arXiv:2104.00405): forgetting, backward and forward transfer.

Source: `ContinualAI/avalanche`, `avalanche/evaluation/functional.py`, `metrics/forgetting_bwt.py`, `metrics/forward_transfer.py`.
They read the boundary matrix of a plain stream; NaN for other streams. Only keys seen twice count, so all divide by N - 1.
"""

from __future__ import annotations

import numpy as np

from ..matrix import EvaluationMatrix
from .windows import Vector, square_boundary_matrix, training_order, untrained, window_means


def forgetting_matrix(matrix: EvaluationMatrix) -> Vector:
    """F[t, n] = R[n, n] - R[t, n] (N, N) for t > n, 0 up to and at the own phase; columns in training order.

    `functional.forgetting(matrix, boundary_indices)`; a missing cell stays NaN only where it is read.
    """
    boundary = square_boundary_matrix(matrix)
    later = np.tri(len(boundary), k=-1, dtype=bool)  # (N, N), t > n
    return np.where(later, np.diagonal(boundary) - boundary, 0.0)


def forgetting(matrix: EvaluationMatrix) -> float:
    """Mean over the first N - 1 tasks of the value right after training minus the last value, in [-1, 1]."""
    last = forgetting_matrix(matrix)[-1, :-1]
    return float(last.mean()) if last.size else float("nan")


def bwt(matrix: EvaluationMatrix) -> float:
    """`-forgetting`."""
    return 0.0 - forgetting(matrix)


def fwt(matrix: EvaluationMatrix) -> float:
    """Mean over n >= 2 of the score after task n - 1 minus that of the untrained agent, in [-1, 1]; equals `gem.fwt`."""
    before = np.diagonal(square_boundary_matrix(matrix), offset=1)  # R[n-1, n], (N-1,)
    later = (training_order(matrix) or range(matrix.num_tasks))[1:]
    gain = before - window_means(matrix, (untrained(matrix, n) for n in later))
    return float(gain.mean()) if gain.size else float("nan")
