"""`gem.*` of Lopez-Paz and Ranzato 2017, arXiv:1706.08840, section 3: the paper's form, and the form of the released code.

Both read the boundary matrix R of a plain stream (one phase per column); NaN for other streams. The code
(`facebookresearch/GradientEpisodicMemory`, `metrics/metrics.py`) divides transfer by N where the paper divides by N - 1: known defect,
kept as `code_bwt` and `code_fwt` (`gem_code.*` in tables).
"""

from __future__ import annotations

import numpy as np

from ..matrix import EvaluationMatrix
from .windows import Vector, boundary_matrix, square_boundary_matrix, training_order, untrained, window_means


def acc(matrix: EvaluationMatrix) -> float:
    """Mean over n of R[N, n], in [0, 1]."""
    return float(boundary_matrix(matrix)[-1].mean()) if matrix.trained else float("nan")


def bwt(matrix: EvaluationMatrix) -> float:
    """1/(N-1) sum over n < N of R[N, n] - R[n, n], in [-1, 1]."""
    gain = _backward(matrix)
    return float(gain.sum() / (len(gain) - 1)) if len(gain) > 1 else float("nan")


def fwt(matrix: EvaluationMatrix) -> float:
    """1/(N-1) sum over n >= 2 of R[n-1, n] - b_n, in [-1, 1]; b = score of the untrained agent."""
    gain = _forward(matrix)
    return float(gain.sum() / (len(gain) - 1)) if len(gain) > 1 else float("nan")


def code_bwt(matrix: EvaluationMatrix) -> float:
    """`bwt` as released: divided by N, so (N-1)/N of the paper's."""
    return float(_backward(matrix).mean())


def code_fwt(matrix: EvaluationMatrix) -> float:
    """`fwt` as released: divided by N, so (N-1)/N of the paper's."""
    return float(_forward(matrix).mean())


def _backward(matrix: EvaluationMatrix) -> Vector:
    """R[N, n] - R[n, n] (N,), in training order; the last entry is 0."""
    boundary = square_boundary_matrix(matrix)
    return boundary[-1] - np.diagonal(boundary)


def _forward(matrix: EvaluationMatrix) -> Vector:
    """R[n-1, n] - b_n (N,), in training order; the first entry is 0."""
    boundary = square_boundary_matrix(matrix)
    order = training_order(matrix) or range(matrix.num_tasks)
    initial = window_means(matrix, (untrained(matrix, n) for n in order))
    return np.concatenate([np.zeros(1), np.diagonal(boundary, offset=1) - initial[1:]])
