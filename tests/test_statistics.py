import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from clbench import metrics
from clbench import statistics as s
from clbench.errors import ValidationError
from clbench.matrix import EvaluationMatrix

# six runs x four tasks; mean, median, IQM, worst and last all differ
SCORES = np.array(
    [
        [0.10, 0.20, 0.90, 0.40],
        [0.00, 0.30, 0.80, 0.50],
        [0.20, 0.25, 0.95, 0.10],
        [0.05, 0.60, 1.00, 0.70],
        [0.15, 0.35, 0.85, 0.00],
        [0.30, 0.45, 0.65, 0.55],
    ]
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_inputs_tell_the_statistics_apart():
    values = {SCORES.mean(), np.median(SCORES), s.iqm(SCORES), SCORES.min(), SCORES[-1, -1]}
    assert len({round(float(v), 6) for v in values}) == 5


def test_mean_interval_is_students():
    # mean 3, std sqrt(2.5), n = 5, t(.975, 4) = 2.7764451: half width 2.7764451 * sqrt(.5)
    i = s.mean_interval([1, 2, 3, 4, 5])
    assert (i.value, i.low, i.high) == pytest.approx((3, 3 - 1.9632432, 3 + 1.9632432))
    assert (i.method, i.runs, i.level) == ("Student t", 5, 0.95)
    low, high = stats.t.interval(0.9, 5, SCORES.mean(1).mean(), stats.sem(SCORES.mean(1)))
    narrow = s.mean_interval(SCORES.mean(1), level=0.9)
    assert (narrow.low, narrow.high) == pytest.approx((low, high))


def test_fewer_than_five_runs_are_points_only():
    four = SCORES[:4]
    intervals = [s.mean_interval(four[:, 0]), s.iqm_interval(four, rng()), s.transfer_interval(four, SCORES, rng())]
    intervals += [s.transfer_interval(SCORES, four, rng()), s.paired_comparison(four[:, 0], four[:, 1], rng()).difference]
    for i in intervals:
        assert np.isfinite(i.value)
        assert np.isnan([i.low, i.high]).all()
        assert i.method == "points only"
    assert np.isnan(s.curve_band(four, rng()).low).all()
    assert [s.standing(n) for n in (4, 5, 9, 10, 19, 20)] == ["points only", "listed", "listed", "official", "official", "difference"]


def test_equal_runs_have_a_zero_wide_interval_and_not_nan():
    equal = np.tile([0.1, 0.7, 0.3], (12, 1))
    for i in (s.mean_interval(equal[:, 0]), s.iqm_interval(equal, rng())):
        assert i.low == i.value == i.high
    # runs that differ only in cells the IQM trims: BCa degenerates, the interval has no width either
    trimmed = np.tile([0.0, 0.5, 0.5, 0.5, 0.5, 1.0], (12, 1))
    trimmed[:, 0] = np.linspace(0, 0.3, 12)
    i = s.iqm_interval(trimmed, rng())
    assert (i.low, i.value, i.high) == (0.5, 0.5, 0.5)


def test_a_missing_number_is_nan_and_never_dropped():
    holed = SCORES.copy()
    holed[2, 1] = np.nan
    assert np.isnan(s.mean_interval(holed[:, 1]).value)
    assert np.isnan(s.iqm_interval(holed, rng()).value)
    assert np.isnan(s.transfer_interval(holed, SCORES * 0.5, rng()).value)
    assert np.isnan(s.performance_profile(holed, [0.5])).all()
    assert np.isnan(s.optimality_gap(holed))
    c = s.paired_comparison(holed[:, 1], holed[:, 0], rng())
    assert np.isnan([c.difference.value, c.sign_flip_p, c.t_p, c.probability_better]).all()


def test_t_interval_covers_and_a_cell_bootstrap_would_not():
    # run standard deviation = cell standard deviation, 10 tasks, 5 runs, 1000 repeats: t about 95 %, spec 54 % for cells
    g = rng(1)
    scores = 0.5 + 0.1 * (g.normal(size=(1000, 5, 1)) + g.normal(size=(1000, 5, 10)))
    intervals = [s.mean_interval(x.mean(axis=1)) for x in scores]
    covered = np.mean([i.low <= 0.5 <= i.high for i in intervals])
    assert 0.93 <= covered <= 0.97
    # the normal interval over the 50 cells, which is what resampling cells amounts to
    cells = scores.reshape(1000, 50)
    assert np.mean(np.abs(cells.mean(1) - 0.5) <= 1.96 * cells.std(1) / np.sqrt(50)) < 0.65


def test_iqm_is_the_mean_of_the_middle_half():
    # of 0..7 the middle half is 2, 3, 4, 5; with 10 in place of 7 nothing changes
    assert s.iqm(np.array([[0, 1, 2, 3], [4, 5, 6, 10]])) == 3.5
    # eight cells, cut two on each side: (.1 + .2 + .4 + .9)/4
    assert s.iqm(np.array([[0.0, 0.1, 0.2, 1.0], [0.4, 0.9, 1.0, 0.0]])) == pytest.approx(0.4)


def test_iqm_bootstrap_draws_whole_runs():
    # within a run all tasks agree: five runs, six outcomes at most; drawing cells would give a far narrower interval
    scores = np.repeat(np.array([[0.1], [0.2], [0.5], [0.8], [0.9]]), 20, axis=1)
    i = s.iqm_interval(scores, rng(), resamples=2000)
    assert i.high - i.low > 0.4
    assert i.method == "percentile bootstrap, whole runs"
    restated = [stats.trim_mean(scores[row].ravel(), 0.25) for row in rng(5).integers(5, size=(2000, 5))]
    assert (i.low, i.high) == pytest.approx(np.quantile(restated, [0.025, 0.975]), abs=0.06)


def test_bca_from_ten_runs_on():
    ten = np.vstack([SCORES, SCORES[:4] + 0.01 - 0.02 * (SCORES[:4] > 0.5)])
    i = s.iqm_interval(ten, rng(), resamples=500)
    assert i.method == "BCa bootstrap, whole runs"
    assert i.low < i.value < i.high
    assert s.iqm_interval(ten[:9], rng(), resamples=500).method == "percentile bootstrap, whole runs"


def test_a_bootstrap_is_fixed_by_its_generator():
    assert s.iqm_interval(SCORES, rng(3), resamples=500) == s.iqm_interval(SCORES, rng(3), resamples=500)
    assert s.iqm_interval(SCORES, rng(3), resamples=500) != s.iqm_interval(SCORES, rng(4), resamples=500)


def test_permuting_runs_changes_no_point():
    order = rng(2).permutation(6)
    assert s.iqm(SCORES[order]) == pytest.approx(s.iqm(SCORES))
    assert s.mean_interval(SCORES[order, 0]).value == pytest.approx(s.mean_interval(SCORES[:, 0]).value)
    assert s.optimality_gap(SCORES[order]) == pytest.approx(s.optimality_gap(SCORES))


def test_transfer_interval_has_the_same_point_as_the_metric_and_counts_reference_noise():
    reference = SCORES[::-1] * 0.6
    per_run = []
    for x in SCORES:
        run = EvaluationMatrix(range(4), range(4), np.where(np.eye(4, dtype=bool), x, np.nan))
        per_run.append(metrics.forward_transfer(run, reference.mean(axis=0)))
    i = s.transfer_interval(SCORES, reference, rng(), resamples=2000)
    assert i.value == pytest.approx(np.mean(per_run))
    fixed = s.transfer_interval(SCORES, np.tile(reference.mean(axis=0), (6, 1)), rng(), resamples=2000)
    assert fixed.value == pytest.approx(i.value)
    assert i.high - i.low > (fixed.high - fixed.low) * 1.1 > 0.05
    nothing_left = s.transfer_interval(SCORES, np.ones((6, 4)), rng())
    assert np.isnan([nothing_left.value, nothing_left.low]).all()


def test_a_curve_band_shares_its_resample_between_time_points():
    # the second time point is one minus the first: shared resamples make the band its mirror image
    x = np.array([0.1, 0.4, 0.35, 0.8, 0.6])
    band = s.curve_band(np.stack([x, 1 - x, np.full(5, 0.3)], axis=1), rng())
    assert band.value == pytest.approx([0.45, 0.55, 0.3])
    assert (band.low[0], band.high[0]) == pytest.approx((1 - band.high[1], 1 - band.low[1]))
    assert (band.low[2], band.high[2]) == pytest.approx((0.3, 0.3))
    assert band.low[0] < 0.45 < band.high[0]
    assert "pointwise" in band.method


# --- comparisons ---------------------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_difference_comes_from_differences():
    # two agents that rise and fall together: wide intervals each, a narrow one of the difference
    base = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    a, b = base + [0.06, 0.04, 0.05, 0.05, 0.06], base
    c = s.paired_comparison(a, b, rng())
    assert c.difference == s.mean_interval(a - b)
    assert c.difference.low > 0
    assert s.mean_interval(a).low < s.mean_interval(b).high
    assert c.probability_better == 1.0


@given(hnp.arrays(np.float64, st.integers(5, 9), elements=st.integers(-50, 50).map(lambda k: k / 50)))
@settings(max_examples=25)
def test_paired_p_values_equal_scipys(d):
    c = s.paired_comparison(d, np.zeros_like(d), rng())
    whole = np.rint(50 * d)  # in whole numbers: scipy's sums of fractions hide ties by rounding (.3 + .64 - .94)
    exact = stats.permutation_test((whole,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert c.sign_flip_p == pytest.approx(exact.pvalue)
    if len(set(d)) > 1:
        assert c.t_p == pytest.approx(stats.ttest_rel(d, np.zeros_like(d)).pvalue)


def test_sign_flip_p_counts_the_flips():
    # differences 1, 2, 4 of one sign: 2 of 8 sums reach |7|
    assert s.paired_comparison([1, 2, 4], [0, 0, 0], rng()).sign_flip_p == pytest.approx(2 / 8)
    # 1, 2, -4: |sum| = 1; sums +-7, +-5, +-3, +-1: all of them
    assert s.paired_comparison([1, 2, -4], [0, 0, 0], rng()).sign_flip_p == 1.0
    assert s.paired_comparison([0, 0, 0, 0, 0, 0.3, 0.64, -0.94], np.zeros(8), rng()).sign_flip_p == 1.0
    # three tenths and their sum: rounding must not hide the ties
    assert s.paired_comparison([0.1, 0.2, -0.3], [0, 0, 0], rng()).sign_flip_p == 1.0


def test_sign_flip_beyond_twenty_runs_is_drawn_and_close_to_exact():
    d = np.linspace(-0.1, 0.2, 24)
    drawn = s.paired_comparison(d, 0 * d, rng(), resamples=20_000)
    assert drawn.sign_flip_p == pytest.approx(s.paired_comparison(d, 0 * d, rng(1), resamples=20_000).sign_flip_p, abs=0.005)
    assert drawn.sign_flip_p == pytest.approx(drawn.t_p, abs=0.01)
    assert 0 < s.paired_comparison(d + 10, 0 * d, rng(), resamples=2000).sign_flip_p <= 1 / 2000


def test_equal_differences_have_clear_p_values():
    same = s.paired_comparison([0.5] * 6, [0.5] * 6, rng())
    assert (same.sign_flip_p, same.t_p, same.probability_better) == (1.0, 1.0, 0.5)
    assert (same.difference.low, same.difference.high) == (0.0, 0.0)
    shifted = s.paired_comparison([1.0] * 6, [0.5] * 6, rng())
    assert (shifted.sign_flip_p, shifted.t_p, shifted.probability_better) == (2 / 64, 0.0, 1.0)


def identity(number, **changes):
    values = {"run": f"s{number}", "stream_hash": "abc", "order": "0", "budget": "standard", "seed": number, **changes}
    return s.RunIdentity(**values)


@pytest.mark.parametrize(("field", "value"), [("stream_hash", "xyz"), ("order", "1"), ("budget", "smoke"), ("seed", 7)])
def test_runs_that_differ_in_what_they_measured_are_not_paired(field, value):
    a = [identity(1), identity(2)]
    s.require_pairable(a, [identity(1, run="other"), identity(2, run="another")])
    with pytest.raises(ValidationError, match=f"cannot pair s2 with z: {field} differs"):
        s.require_pairable(a, [identity(1), identity(2, **{"run": "z", field: value})])
    with pytest.raises(ValidationError, match="cannot pair 2 runs with 1"):
        s.require_pairable(a, a[:1])


def test_holm_multiplies_steps_down_and_keeps_the_order_given():
    # sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04 -> running maximum .04, .06, .06, .06
    assert s.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert s.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert s.holm([]).shape == (0,)
    with pytest.raises(ValidationError, match="p-values"):
        s.holm([0.5, np.nan])


@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.floats(0, 1)))
def test_holm_is_between_the_raw_p_value_and_bonferroni(p):
    adjusted = s.holm(p)
    assert np.all(adjusted >= p)
    assert np.all(adjusted <= np.minimum(1, p * len(p)) + 1e-12)


def test_rank_intervals_share_ties():
    # agent 0 beats 2; nobody else is told apart: 0 in [1, 2], 1 in [1, 3], 2 in [2, 3]
    better = np.zeros((3, 3), dtype=bool)
    better[0, 2] = True
    assert s.rank_intervals(better) == [(1, 2), (1, 3), (2, 3)]
    assert s.rank_intervals(np.zeros((2, 2))) == [(1, 2), (1, 2)]
    with pytest.raises(ValidationError, match="square"):
        s.rank_intervals(np.ones((2, 2)))


def test_adding_an_agent_changes_no_interval_of_another():
    better = np.zeros((3, 3), dtype=bool)
    better[0, 1] = True
    # the third agent is worse than both: ranks 1 and 2 stay
    more = better.copy()
    more[0, 2] = more[1, 2] = True
    assert s.rank_intervals(more)[:2] == s.rank_intervals(better[:2, :2])


def test_wilson_has_width_at_zero_and_one():
    # z = 1.959964, z^2 = 3.841459: at 0 of 10 the upper end is z^2 / (n + z^2) = .27753
    zero, one = s.wilson_interval(0, 10), s.wilson_interval(10, 10)
    assert (zero.value, zero.low, zero.high) == pytest.approx((0, 0, 0.277533), abs=1e-6)
    assert (one.low, one.high) == pytest.approx((1 - 0.277533, 1), abs=1e-6)
    with pytest.raises(ValidationError, match="successes"):
        s.wilson_interval(11, 10)


def test_probability_of_improvement_is_mann_whitney_per_task():
    a, b = np.array([[0.1, 0.9], [0.5, 0.9], [0.7, 0.2]]), np.array([[0.5, 0.3], [0.2, 0.9]])
    # task 0: .1 beats none, .5 ties .5 and beats .2, .7 beats both: 3.5/6; task 1: .9: 1 + .5 twice, .2: 0: 3/6
    assert s.probability_of_improvement(a, b) == pytest.approx((3.5 / 6 + 3 / 6) / 2)
    u = np.mean([stats.mannwhitneyu(a[:, n], b[:, n]).statistic / 6 for n in range(2)])
    assert s.probability_of_improvement(a, b) == pytest.approx(u)
    assert s.probability_of_improvement(b, a) == pytest.approx(1 - u)


def test_gap_and_profile_on_asymmetric_scores():
    scores = np.array([[0.2, 0.9], [0.6, 1.0]])
    assert s.optimality_gap(scores) == pytest.approx(1 - 2.7 / 4)
    assert s.optimality_gap(scores, target=0.8) == pytest.approx(0.8 - (0.2 + 0.8 + 0.6 + 0.8) / 4)
    assert s.performance_profile(scores, [0.0, 0.2, 0.6, 0.95, 1.0]).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_input_of_the_wrong_shape_is_refused():
    with pytest.raises(ValidationError, match=r"one number per run \(n,\), got shape \(6, 4\)"):
        s.mean_interval(SCORES)
    with pytest.raises(ValidationError, match=r"runs x columns"):
        s.iqm(SCORES[0])
    with pytest.raises(ValidationError, match="equally many"):
        s.paired_comparison([0.1], [0.1, 0.2], rng())
