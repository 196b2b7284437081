"""What a held-out task costs in examples: the curve of scores over shots and its area.

Source: the suite's own definition, after the ML10 protocol of Meta-World. How shots are granted is the stream's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import ValidationError


@dataclass(frozen=True, eq=False)
class FewShotCurve:
    """Mean score on the held-out tasks after each number of shots: `shots` (K,) rising, `score` (K,) in [0, 1] or NaN, read-only."""

    shots: tuple[int, ...]
    score: NDArray[np.float64]

    def __post_init__(self) -> None:
        shots = tuple(int(k) for k in self.shots)
        score = np.array(self.score, dtype=np.float64)
        if score.shape != (len(shots),):
            raise ValidationError(f"expected one score per number of shots, {len(shots)}; got shape {score.shape}")
        if any(k < 0 for k in shots) or any(a >= b for a, b in pairwise(shots)):
            raise ValidationError(f"shots must rise from >= 0, got {shots}")
        if np.any((score < 0) | (score > 1)):
            raise ValidationError(f"score must be in [0, 1] or NaN, got {score}")
        score.flags.writeable = False
        object.__setattr__(self, "shots", shots)
        object.__setattr__(self, "score", score)


def few_shot(curve: FewShotCurve, shots: int) -> float:
    """Mean score on the held-out tasks after `shots` shots, in [0, 1]; 0 shots is zero-shot; NaN where it was not measured."""
    return float(curve.score[curve.shots.index(shots)]) if shots in curve.shots else float("nan")


def few_shot_area(curve: FewShotCurve) -> float:
    """Area under the curve over x = log2(1 + K), divided by x(K_max), in [0, 1]; NaN without K = 0 and one more."""
    if len(curve.shots) < 2 or curve.shots[0] != 0:
        return float("nan")
    x = np.log2(1.0 + np.array(curve.shots))
    return float(np.trapezoid(curve.score, x) / x[-1])


def few_shot_gain(curve: FewShotCurve, fresh_curve: FewShotCurve) -> float:
    """`few_shot_area` above that of a fresh agent given the same shots, in [-1, 1]."""
    if curve.shots != fresh_curve.shots:
        raise ValidationError(f"the fresh agent must be given the same shots: {curve.shots} against {fresh_curve.shots}")
    return few_shot_area(curve) - few_shot_area(fresh_curve)
