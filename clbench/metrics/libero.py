"""`libero.*` of Liu et al. 2023, arXiv:2306.03310, as their notebook computes them (`notebooks/quick_guide_algo.ipynb`, section 5.2).

Known defects, kept: NBT is divided by K though it has K - 1 terms; "FWT" has no reference and ranks learning speed. Theirs alone: the
diagonal is a fresh evaluation of the checkpoint chosen on the same initial states, so `scores` takes curves and boundary apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..matrix import EvaluationMatrix
from .windows import Vector, before_own_phase, learning_curve, square_boundary_matrix, training_order


class LiberoScores(NamedTuple):
    """Forward "transfer", negative backward transfer and area, each over all K tasks."""

    fwt: float
    nbt: float
    auc: float


def scores(curves: list[Vector], boundary: Vector) -> LiberoScores:
    """The three numbers from the curve c[k, e] of every task in its own training and the boundary matrix S (K, K).

    c is held at its maximum after the first argmax. fwt = mean_k mean_e c[k, e];
    nbt = 1/K sum_{k<K} 1/(K-k) sum_{t>k} (S[k,k] - S[t,k]); auc = 1/K sum_k 1/(K-k+1) (fwt_k + sum_{t>k} S[t,k]).
    """
    tasks = len(curves)
    speed = [float(_hold(curve).mean()) for curve in curves]
    later = [boundary[k + 1 :, k] for k in range(tasks)]
    lost = [float((boundary[k, k] - later[k]).mean()) for k in range(tasks - 1)]
    area = [(speed[k] + float(later[k].sum())) / (tasks - k) for k in range(tasks)]
    return LiberoScores(sum(speed) / tasks, sum(lost) / tasks, sum(area) / tasks)


def fwt(matrix: EvaluationMatrix) -> float:
    """Learning speed: mean of the held curves, in [0, 1]."""
    return _scores(matrix).fwt


def nbt(matrix: EvaluationMatrix) -> float:
    """Negative backward transfer, divided by K, in [-1, 1]; lower is better."""
    return _scores(matrix).nbt


def auc(matrix: EvaluationMatrix) -> float:
    """Area: learning speed and later scores of every task, in [0, 1]."""
    return _scores(matrix).auc


def _scores(matrix: EvaluationMatrix) -> LiberoScores:
    """From one run: epoch 0 is the row before the own phase, the others its rows; NaN for streams that are not plain."""
    order = training_order(matrix)
    if order is None:
        return LiberoScores(float("nan"), float("nan"), float("nan"))
    return scores([_curve(matrix, n) for n in order], square_boundary_matrix(matrix))


def _curve(matrix: EvaluationMatrix, column: int) -> Vector:
    before, during = before_own_phase(matrix, column).rows, learning_curve(matrix, column).rows
    if not before.size or not during.size:
        return np.array([np.nan])
    return matrix.score[np.concatenate([before, during]), column]


def _hold(curve: Vector) -> Vector:
    """The curve, constant from its first maximum on; NaN stays NaN."""
    if np.isnan(curve).any():
        return np.full_like(curve, np.nan)
    best = int(curve.argmax())
    return np.where(np.arange(len(curve)) < best, curve, curve[best])
