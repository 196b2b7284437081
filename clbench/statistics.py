"""From one number per run to intervals, comparisons and ranks.

The unit is the run: one agent, one seed, one whole stream. Tasks of a run are correlated, so cells are never resampled: a bootstrap
draws whole runs. Tasks are fixed, not sampled. Fewer than `RUNS_FOR_INTERVAL` runs give a point and no interval (NaN ends); a missing
number makes the result NaN. Where something is drawn, a `numpy.random.Generator` is passed in.

Source of the formulas: Agarwal et al. 2021 (arXiv:2108.13264) for IQM, probability of improvement, optimality gap and profiles; departure:
they resample cells, here whole runs. Medians, bootstrap-t and task bootstraps are not here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ValidationError

Array = NDArray[np.float64]

RUNS_FOR_INTERVAL = 5  # to be listed
RUNS_FOR_BCA = 10
RUNS_OFFICIAL = 10
RUNS_FOR_CLAIM = 20
RESAMPLES = 4000
EXACT_SIGN_FLIPS = 20
POINTS_ONLY = "points only"


@dataclass(frozen=True)
class Interval:
    """A value over runs and where it lies; `low` and `high` are NaN where there are too few runs for an interval."""

    value: float
    low: float
    high: float
    method: str
    runs: int
    level: float = 0.95


@dataclass(frozen=True, eq=False)
class Band:
    """A curve over runs with a pointwise band; all arrays (T,)."""

    value: Array
    low: Array
    high: Array
    method: str
    runs: int
    level: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """Run-by-run comparison of A with B: A - B, its p-values (two-sided), and the share of runs in which A is ahead."""

    difference: Interval
    sign_flip_p: float
    t_p: float
    probability_better: float


@dataclass(frozen=True)
class RunIdentity:
    """What two runs must share to be paired; `run` is only a name for messages."""

    run: str
    stream_hash: str
    order: str
    budget: str
    seed: int


def mean_interval(scores: ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean and Student-t interval over per-run scalars (n,); zero width if all runs are equal.

    For forward transfer it holds the reference fixed; `transfer_interval` does not.
    """
    values = _scores(scores, 1)
    few = _point_or_equal(values, float(values.mean()), level)
    if few:
        return few
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, "Student t", len(values), level)


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean over runs x tasks (n, N): mean of the middle half of all cells."""
    from scipy import stats

    return float(stats.trim_mean(_scores(scores, 2).ravel(), 0.25))


def iqm_interval(scores: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES) -> Interval:
    """IQM over runs x tasks (n, N), whole runs resampled: BCa from 10 runs on, else percentile; zero width if all runs are equal."""
    from scipy import stats

    values = _scores(scores, 2)

    def rows(index: ArrayLike, axis: int = -1) -> Array:
        flat = values[np.asarray(index)]  # (..., n, N)
        return stats.trim_mean(flat.reshape(*flat.shape[:-2], -1), 0.25, axis=-1)

    few = _point_or_equal(values, iqm(values), level)
    return few or _bootstrap((len(values),), rows, rng, level, resamples)


def transfer_interval(
    curves: ArrayLike, reference: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Forward transfer, mean_n (E[A_n] - r_n) / (1 - r_n), with the noise of the reference: runs and reference runs resampled apart.

    `curves` (n, N): A_n per run; `reference` (m, N): the same of every reference run. Needs 5 of each.
    """
    x, y = _scores(curves, 2), _scores(reference, 2)

    def transfer(i: ArrayLike, j: ArrayLike, axis: int = -1) -> Array:
        alone = y[np.asarray(j)].mean(axis=-2)  # (..., N)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (x[np.asarray(i)].mean(axis=-2) - alone) / np.where(alone < 1, 1 - alone, np.nan)
        return ratio.mean(axis=-1)

    value = float(transfer(np.arange(len(x)), np.arange(len(y))))
    if min(len(x), len(y)) < RUNS_FOR_INTERVAL or np.isnan(value):
        return Interval(value, np.nan, np.nan, POINTS_ONLY, len(x), level)
    return _bootstrap((len(x), len(y)), transfer, rng, level, resamples)


def curve_band(curves: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = RESAMPLES) -> Band:
    """Mean curve over runs (n, T) with a percentile band: one whole-run resample for all time points; pointwise, not simultaneous."""
    values = _scores(curves, 2)
    n = len(values)
    mean = values.mean(axis=0)
    if n < RUNS_FOR_INTERVAL:
        return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan), POINTS_ONLY, n, level)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n  # (resamples, n)
    low, high = np.quantile(weights @ values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Band(mean, low, high, "percentile bootstrap, whole runs, pointwise", n, level)


def paired_comparison(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, resamples: int = 100_000) -> Comparison:
    """A against B on the same seeds, orders and evaluation states, (n,) each: everything comes from the differences.

    The sign-flip permutation test is exact up to 20 runs, drawn above. Ties count one half in `probability_better`. Whether two sets of
    runs may be paired is for `require_pairable` to say.
    """
    first, second = _scores(a, 1), _scores(b, 1)
    if first.shape != second.shape:
        raise ValidationError(f"paired runs must be equally many, got {len(first)} and {len(second)}")
    difference = first - second
    ahead = float((np.sign(difference) + 1).mean() / 2)
    return Comparison(mean_interval(difference, level=level), _sign_flip_p(difference, rng, resamples), _t_p(difference), ahead)


def require_pairable(a: Sequence[RunIdentity], b: Sequence[RunIdentity]) -> None:
    """Refuse to pair runs whose stream hash, order, budget or seed differ, naming both."""
    if len(a) != len(b):
        raise ValidationError(f"cannot pair {len(a)} runs with {len(b)}: give the same seeds of both agents")
    for one, other in zip(a, b, strict=True):
        for field in fields(RunIdentity)[1:]:
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            if mine != theirs:
                raise ValidationError(f"cannot pair {one.run} with {other.run}: {field.name} differs, {mine!r} against {theirs!r}")


def holm(p_values: ArrayLike) -> Array:
    """Holm-adjusted p-values (m,), in the order given; reject where they are at most the level."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValidationError(f"p-values must be a vector in [0, 1], got {p}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def rank_intervals(better: ArrayLike) -> list[tuple[int, int]]:
    """Best and worst rank of each of M agents: [1 + number significantly better, M - number significantly worse]; ties share it.

    `better` (M, M): whether agent i is significantly better than agent j.
    """
    wins = np.asarray(better, dtype=bool)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or np.any(wins & wins.T):
        raise ValidationError("expected a square matrix in which no two agents are each better than the other")
    return [(1 + int(wins[:, i].sum()), len(wins) - int(wins[i].sum())) for i in range(len(wins))]


def wilson_interval(successes: int, episodes: int, *, level: float = 0.95) -> Interval:
    """One cell of k successes out of n episodes; unlike Wald's it has width at 0 and at 1. `runs` is 1."""
    from scipy import stats

    if not 0 <= successes <= episodes or episodes < 1:
        raise ValidationError(f"expected 0 <= successes <= episodes and episodes >= 1, got {successes} of {episodes}")
    ends = stats.binomtest(successes, episodes).proportion_ci(level, method="wilson")
    return Interval(successes / episodes, float(ends.low), float(ends.high), "Wilson", 1, level)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """P(A > B) for unpaired runs, (n, N) and (m, N): Mann-Whitney per task, ties one half, averaged over tasks."""
    first, second = _scores(a, 2), _scores(b, 2)
    ahead = (np.sign(first[:, np.newaxis] - second[np.newaxis]) + 1) / 2  # (n, m, N)
    return float(ahead.mean())


def optimality_gap(scores: ArrayLike, *, target: float = 1.0) -> float:
    """What is missing to the target: target - mean over runs x tasks (n, N) of min(score, target)."""
    return float(target - np.minimum(_scores(scores, 2), target).mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs x tasks (n, N) with a score above each threshold (T,); NaN with a missing cell."""
    values, levels = _scores(scores, 2).ravel(), np.asarray(thresholds, dtype=np.float64)
    share = (values[:, np.newaxis] > levels).mean(axis=0)  # (T,)
    return np.where(np.isnan(values).any(), np.nan, share)


def standing(runs: int) -> str:
    """What so many runs may be used for."""
    steps = [(RUNS_FOR_CLAIM, "difference"), (RUNS_OFFICIAL, "official"), (RUNS_FOR_INTERVAL, "listed")]
    return next((name for least, name in steps if runs >= least), POINTS_ONLY)


def _scores(scores: ArrayLike, dimensions: int) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != dimensions or values.size == 0:
        raise ValidationError(f"expected {['one number per run (n,)', 'runs x columns (n, N)'][dimensions - 1]}, got shape {values.shape}")
    return values


def _point_or_equal(values: Array, value: float, level: float) -> Interval | None:
    """The answer where no interval can be computed: too few runs or a missing number, or all runs equal."""
    if len(values) < RUNS_FOR_INTERVAL or np.isnan(value):
        return Interval(value, np.nan, np.nan, POINTS_ONLY, len(values), level)
    if np.all(values == values[0]):
        exact = float(values[0]) if values.ndim == 1 else value
        return Interval(exact, exact, exact, "all runs equal", len(values), level)
    return None


def _bootstrap(sizes: Sequence[int], statistic: Callable[..., Any], rng: np.random.Generator, level: float, resamples: int) -> Interval:
    """Whole-run bootstrap of a statistic of run indices: BCa from 10 runs on, else, or where BCa degenerates, percentile."""
    from scipy import stats

    method = "BCa" if min(sizes) >= RUNS_FOR_BCA else "percentile"
    indices = tuple(np.arange(size) for size in sizes)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            indices, statistic, n_resamples=resamples, batch=500, vectorized=True, confidence_level=level, method=method, rng=rng
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if np.isnan(low) or np.isnan(high):
        low, high = (float(end) for end in np.quantile(result.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2]))
        method = "percentile"
    return Interval(float(statistic(*indices)), low, high, f"{method} bootstrap, whole runs", sizes[0], level)


def _sign_flip_p(difference: Array, rng: np.random.Generator, resamples: int) -> float:
    """Two-sided p of mean(difference) when every sign could as well be the other: exact over 2^n up to 20 runs."""
    if np.isnan(difference).any():
        return float("nan")
    observed = abs(difference.sum()) - 1e-12 * np.abs(difference).sum()  # sums that differ by rounding alone count as equal
    if len(difference) > EXACT_SIGN_FLIPS:
        extreme = sum(_extreme_flips(difference, observed, rng, 1000) for _ in range(resamples // 1000))
        return (extreme + 1) / (resamples // 1000 * 1000 + 1)
    sums = np.zeros(1)
    for value in difference:
        sums = np.concatenate([sums + value, sums - value])  # (2^n,) in the end
    return float((np.abs(sums) >= observed).mean())


def _extreme_flips(difference: Array, observed: float, rng: np.random.Generator, flips: int) -> int:
    signs = rng.integers(0, 2, size=(flips, len(difference))) * 2 - 1
    return int((np.abs(signs @ difference) >= observed).sum())


def _t_p(difference: Array) -> float:
    """Two-sided p of the paired t test; 1 or 0 where all differences are equal, NaN for one run."""
    if len(difference) < 2 or np.isnan(difference).any():
        return float("nan")
    if np.all(difference == difference[0]):
        return float(difference[0] == 0)
    from scipy import stats

    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference)))
    return float(2 * stats.t.sf(abs(t), len(difference) - 1))
