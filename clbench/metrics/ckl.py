"""`ckl.fuar` of Jang et al. 2022, arXiv:2110.03215, section 4.3: what was forgotten for each unit of what was updated and acquired.

Their invariant facts are here the tasks of earlier phases, their updated and new ones together the task of the last: as in a stream whose
columns hold what a phase published last (`know`). 0: nothing was forgotten; 1: as much as was gained.
"""

from __future__ import annotations

import numpy as np

from ..matrix import EvaluationMatrix
from .windows import square_boundary_matrix


def fuar(matrix: EvaluationMatrix) -> float:
    """sum_{i<n} max(0, R[i,i] - R[n,i]) / sum_{i<n} max(0, R[n,n] - R[i,n]); NaN where nothing was gained."""
    boundary = square_boundary_matrix(matrix)  # (N, N)
    lost = np.maximum(0.0, np.diagonal(boundary) - boundary[-1])[:-1].sum()
    gained = np.maximum(0.0, boundary[-1, -1] - boundary[:-1, -1]).sum()
    return float(lost / gained) if not gained <= 1e-12 else float("nan")
