"""`chaudhry.forgetting` of Chaudhry et al. 2018, arXiv:1801.10112, section 4: loss against the best row before the last one."""

from __future__ import annotations

from ..matrix import EvaluationMatrix
from .windows import square_boundary_matrix


def forgetting(matrix: EvaluationMatrix) -> float:
    """Mean over n < N of max over n <= t < N of R[t, n], minus R[N, n]; in [-1, 1], can be negative.

    At least as large as the suite's forgetting with W = 1. The maximum starts at the own phase, as in the suite's spec; NaN for
    streams that are not plain.
    """
    boundary = square_boundary_matrix(matrix)
    losses = [boundary[n:-1, n].max() - boundary[-1, n] for n in range(len(boundary) - 1)]
    return float(sum(losses) / len(losses)) if losses else float("nan")
