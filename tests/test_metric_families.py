import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clbench import metrics
from clbench.errors import ValidationError
from clbench.matrix import EvaluationMatrix
from clbench.metrics import FAMILIES, avalanche, chaudhry, ckl, coom, cora, cw, gem, libero

# The example that separates the families: rows are phases, columns tasks; `B` is the untrained agent.
R = [[0.6, 0.1, 0.0], [0.8, 0.7, 0.2], [0.9, 0.5, 0.9]]
B = [0.05, 0.10, 0.15]


def example():
    return EvaluationMatrix([0, 1, 2, 3], [-1, 0, 1, 2], [B, *R])


def repeated(rows=5):
    """The example with `rows` equal rows per phase, so that windows of 5 fit."""
    return EvaluationMatrix(np.arange(3 * rows), np.repeat([0, 1, 2], rows), np.repeat(R, rows, axis=0))


def test_one_example_separates_the_families():
    m = example()
    # D - L = (.6 - .9, .7 - .5, .9 - .9) = (-.3, .2, 0)
    assert cw.forgetting(repeated()) == pytest.approx(-0.1 / 3)
    assert metrics.forgetting(m) == pytest.approx(-0.05)
    assert coom.forgetting([m]) == pytest.approx(-0.05)
    assert gem.bwt(m) == pytest.approx(0.05)
    assert gem.code_bwt(m) == pytest.approx(0.1 / 3)
    assert avalanche.forgetting(m) == pytest.approx(-0.05)
    assert avalanche.bwt(m) == pytest.approx(0.05)
    # best before the last row: max(.6, .8) - .9 = -.1 and .7 - .5 = .2
    assert chaudhry.forgetting(m) == pytest.approx(0.05)
    # task 1: ((.6-.8) + (.6-.9))/2 = -.25; task 2: .2; sum -.05, / 3
    assert libero.nbt(m) == pytest.approx(-0.05 / 3)
    # R[0,1] - .10 = 0 and R[1,2] - .15 = .05
    assert gem.fwt(m) == pytest.approx(0.025)
    assert gem.code_fwt(m) == pytest.approx(0.05 / 3)
    assert avalanche.fwt(m) == pytest.approx(0.025)
    assert gem.acc(m) == pytest.approx(2.3 / 3)
    # lost: max(0, .6 - .9) + (.7 - .5); gained on the last: (.9 - 0) + (.9 - .2)
    assert ckl.fuar(m) == pytest.approx(0.2 / 1.6)
    assert metrics.zero_shot_transfer(m) == pytest.approx(0.025)


def test_mean_of_ratios_and_ratio_of_means_differ_in_sign():
    m = EvaluationMatrix([1, 2, 3], [0, 1, 2], np.diag([0.7, 0.9, 0.4]), tasks=("a", "b", "c"))
    r = np.array([0.5, 0.95, 0.2])
    references = {f"{t}-0": EvaluationMatrix([1], [0], [[v]], tasks=(t,)) for t, v in zip("abc", r, strict=True)}
    # .2/.5 = .4, -.05/.05 = -1, .2/.8 = .25: -.35/3
    assert cw.forward_transfer({"0": m}, references) == pytest.approx(-0.35 / 3)
    assert metrics.forward_transfer(m, r) == pytest.approx(-0.35 / 3)
    # (2/3 - .55) / .45
    assert coom.forward_transfer(m, r) == pytest.approx((2 / 3 - 0.55) / 0.45)
    assert round(coom.forward_transfer(m, r), 4) == 0.2593


def test_families_follow_the_phases_and_not_the_column_numbers():
    # the example with columns (2, 0, 1): phase 0 trains column 1, phase 1 column 2, phase 2 column 0
    moved = EvaluationMatrix([0, 1, 2, 3], [-1, 0, 1, 2], np.array([B, *R])[:, [2, 0, 1]], trained=((1,), (2,), (0,)))
    for name, metric in FAMILIES.items():
        if metric.inputs == ("matrix",) and not name.startswith("cw."):
            assert metric.function(moved) == pytest.approx(metric.function(example()), abs=1e-15), name
    assert coom.performance([moved]) == pytest.approx(coom.performance([example()]))
    assert cora.forgetting(moved, smoothing=1)[0, 1] == pytest.approx(-0.2)


@pytest.mark.parametrize("cell", [(1, 0), (3, 0), (3, 1)])
def test_families_make_a_missing_cell_nan(cell):
    hole = np.array([B, *R])
    hole[cell] = np.nan
    m = EvaluationMatrix([0, 1, 2, 3], [-1, 0, 1, 2], hole)
    read = (gem.bwt, gem.code_bwt, avalanche.forgetting, chaudhry.forgetting, libero.nbt, libero.auc)
    values = [*(f(m) for f in read), coom.performance([m]), coom.forgetting([m])]
    assert np.isnan(values[:-1]).all()
    assert np.isnan(values[-1]) or cell == (2, 0)


def test_families_of_plain_streams_are_nan_on_joint_ones():
    joint = EvaluationMatrix(np.arange(6), np.zeros(6), np.full((6, 3), 0.5), trained=((0, 1, 2),))
    for name, metric in FAMILIES.items():
        if metric.inputs == ("matrix",):
            assert np.isnan(metric.function(joint)) == (name not in {"cw.performance", "gem.acc"}), name
    assert np.isnan(coom.performance([joint]))
    assert np.isnan(cora.forgetting(joint)).all()


def test_fuar_is_nothing_without_gain_and_one_where_all_that_is_gained_is_lost():
    flat = EvaluationMatrix([1, 2], [0, 1], [[0.5, 0.4], [0.1, 0.4]])
    assert np.isnan(ckl.fuar(flat))
    assert ckl.fuar(EvaluationMatrix([1, 2], [0, 1], [[0.8, 0.1], [0.2, 0.7]])) == pytest.approx(1.0)
    assert ckl.fuar(EvaluationMatrix([1, 2], [0, 1], [[0.8, 0.1], [0.9, 0.7]])) == 0.0
    assert np.isnan(ckl.fuar(EvaluationMatrix([1, 2], [0, 1], [[0.8, np.nan], [0.9, 0.7]])))


# --- Continual World -----------------------------------------------------------------------------------------------------------------

NAMES = ("hammer-v1", "push-v1", "hammer-v1", "push-v1")


def cw_runs():
    """Seven runs and three reference runs per task, in tenths as ten episodes give; run ids sort as strings: 1, 10, 11, 2, ..."""
    rng = np.random.default_rng(3)
    scores = {f"run-{k}": np.round(rng.uniform(size=(24, 4)) * 10) / 10 for k in (1, 2, 3, 9, 10, 11, 20)}
    alone = {f"{name}-{k}": (name, np.round(rng.uniform(0, 0.8, size=(6, 1)) * 10) / 10) for name in NAMES[:2] for k in range(3)}
    runs = {i: EvaluationMatrix(np.arange(1, 25) * 20_000, np.repeat(range(4), 6), s, tasks=NAMES) for i, s in scores.items()}
    references = {i: EvaluationMatrix(np.arange(1, 7) * 20_000, np.zeros(6), s, tasks=(name,)) for i, (name, s) in alone.items()}
    return runs, references


def test_cw_equals_the_authors_own_code_on_the_same_logs():
    """Stored output of `tables.calculate_metrics` at 73f63bb on these logs (numpy 2 and pandas 3 spellings only)."""
    runs, references = cw_runs()
    assert cw.performance_interval(runs) == pytest.approx((0.49500000000000005, 0.4571428571428572, 0.5328571428571428), abs=1e-12)
    assert cw.forgetting_interval(runs) == pytest.approx((0.005714285714285709, -0.045714285714285714, 0.055), abs=1e-12)
    expected = (0.12933425797503473, -0.003116487804765455, 0.2337876396686206)
    assert cw.forward_transfer_interval(runs, references) == pytest.approx(expected, abs=1e-12)


def restated_bootstrap(x, y, statistic):
    """The published rule once more: one seeded generator, runs first, then reference runs, midpoint quantiles."""
    state = np.random.RandomState(0)
    i = state.choice(len(x), (4000, len(x)))
    j = state.choice(len(y), (4000, len(y)))
    samples = np.sort([statistic(x[a], y[b]) for a, b in zip(i, j, strict=True)])
    # 3999 * .05 = 199.95 and 3999 * .95 = 3799.05 lie between two samples; midpoint is their mean
    return (samples[199] + samples[200]) / 2, (samples[3799] + samples[3800]) / 2


def mean_of_ratios(x, y):
    ratios = [(x[:, n].mean() - y[:, n].mean()) / (1 - y[:, n].mean()) for n in range(x.shape[1])]
    return sum(ratios) / len(ratios)


def test_cw_intervals_are_the_published_bootstrap_bit_for_bit():
    runs, references = cw_runs()
    order = sorted(runs)
    assert order[1] == "run-10"
    ends = np.array([cw.performance(runs[i]) for i in order])
    assert cw.performance_interval(runs)[1:] == restated_bootstrap(ends, np.zeros(1), lambda x, _: x.mean())
    x = np.array([[runs[i].score[6 * n : 6 * n + 6, n].mean() for n in range(4)] for i in order])
    y = np.array([[references[f"{name}-{k}"].score.mean() for name in NAMES] for k in range(3)])
    assert cw.forward_transfer_interval(runs, references)[1:] == restated_bootstrap(x, y, mean_of_ratios)


def test_cw_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    cw.performance_interval(cw_runs()[0])
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


def test_the_order_of_a_mapping_changes_nothing():
    runs, references = cw_runs()
    turned = dict(reversed(runs.items()))
    assert cw.performance_interval(turned) == cw.performance_interval(runs)
    assert cw.forward_transfer_interval(turned, dict(reversed(references.items()))) == cw.forward_transfer_interval(runs, references)


def test_the_suites_mean_forward_transfer_equals_continual_worlds_ratio_of_means():
    runs, references = cw_runs()
    r = metrics.reference_curve_means(list(references.values()), NAMES)
    per_run = [metrics.forward_transfer(m, r) for m in runs.values()]
    assert np.mean(per_run) == pytest.approx(cw.forward_transfer(runs, references), abs=1e-12)


def test_cw_forgetting_is_the_suites_times_n_minus_one_over_n():
    for m in cw_runs()[0].values():
        assert cw.forgetting(m) == pytest.approx(metrics.forgetting(m, window=5) * 3 / 4)
        assert cw.performance(m) == pytest.approx(metrics.performance(m, window=5))


def test_cw_mixes_phases_in_a_short_window_as_the_original_does_with_a_warning():
    # three rows per phase, two columns: the end window takes rows 1..5, the own window of column 0 rows 0..2
    score = np.array([[0.1, 0.0], [0.2, 0.0], [0.6, 0.1], [0.5, 0.4], [0.4, 0.8], [0.3, 0.9]])
    m = EvaluationMatrix(np.arange(6), [0, 0, 0, 1, 1, 1], score)
    with pytest.warns(UserWarning, match="mixes phases"):
        assert cw.performance(m) == pytest.approx((0.4 + 0.44) / 2)
    with (
        pytest.warns(UserWarning, match="mixes phases"),
        pytest.warns(UserWarning, match="phase 0 has 3 rows"),
        pytest.warns(UserWarning, match="phase 1 has 3 rows"),
    ):
        # own ends (.3, .7), run ends (.4, .44): (-.1 + .26)/2
        assert cw.forgetting(m) == pytest.approx(0.08)


def test_cw_ignores_the_row_of_the_untrained_agent():
    m = repeated()
    score = np.vstack([[1, 1, 1], m.score])
    with_start = EvaluationMatrix(np.arange(16), [-1, *m.phase], score)
    assert cw.performance(with_start) == cw.performance(m)
    assert cw.forgetting(with_start) == cw.forgetting(m)
    with pytest.warns(UserWarning, match="fewer than 5 rows"):  # the window of 5 would reach the untrained row
        assert cw.performance(EvaluationMatrix([0, 1], [-1, 0], [[1.0], [0.2]])) == 0.2


def test_cw_backward_transfer_counts_only_gains():
    assert cw.backward_transfer(repeated()) == pytest.approx(0.1)  # (.3 + 0 + 0)/3


def test_cw_reads_only_the_cells_it_lists():
    m = repeated(6)
    sparse = np.where(np.arange(18)[:, None] // 6 == np.arange(3), m.score, np.nan)
    sparse[-5:] = m.score[-5:]
    assert cw.performance(EvaluationMatrix(m.step, m.phase, sparse)) == cw.performance(m)
    assert cw.forgetting(EvaluationMatrix(m.step, m.phase, sparse)) == cw.forgetting(m)
    sparse[-1, 0] = np.nan
    assert np.isnan(cw.performance(EvaluationMatrix(m.step, m.phase, sparse)))


def test_cw_cuts_reference_runs_to_the_fewest_and_says_so():
    runs, references = cw_runs()
    fewer = {i: m for i, m in references.items() if i != "push-v1-2"}
    with pytest.warns(UserWarning, match="hammer-v1 cut from 3 to 2"):
        cut = cw.forward_transfer(runs, fewer)
    both = {i: m for i, m in references.items() if not i.endswith("-2")}
    assert cut == cw.forward_transfer(runs, both) != cw.forward_transfer(runs, references)
    with pytest.raises(ValidationError, match="no reference run trains 'push-v1'"):
        cw.forward_transfer(runs, {i: m for i, m in references.items() if i.startswith("hammer")})


def test_cw_adds_rows_at_ten_million_steps():
    score = np.full((12, 2), 0.5)
    score[6:] = 0.9
    long = EvaluationMatrix(np.arange(1, 13) * 1_500_000, np.zeros(12), score, trained=((0, 1),))
    short = EvaluationMatrix(np.arange(1, 13) * 500_000, np.zeros(12), score, trained=((0, 1),))
    rows = cw.multi_task_rows({"mtl": {"a": long}, "mtl_popart": {"a": short}})
    assert list(rows) == ["mtl", "mtl_popart", "mtl@10M", "mtl_popart@10M"]
    assert rows["mtl"].value == 0.9
    assert rows["mtl@10M"].value == 0.5  # rows 2..6, up to 9M
    assert rows["mtl_popart@10M"] == rows["mtl_popart"]
    assert list(cw.multi_task_rows({"mtl": {"a": short}})) == ["mtl"]


def test_cw_refuses_runs_of_different_orders():
    runs, references = cw_runs()
    other = EvaluationMatrix(np.arange(4), range(4), np.full((4, 4), 0.5), tasks=NAMES[::-1])
    with pytest.raises(ValidationError, match="one task order"):
        cw.forward_transfer({**runs, "x": other}, references)


# --- the others ----------------------------------------------------------------------------------------------------------------------


def test_avalanche_forgetting_matrix_is_zero_until_the_task_is_learned():
    # rows t, columns n: R[n, n] - R[t, n] below the diagonal
    assert avalanche.forgetting_matrix(example()) == pytest.approx(np.array([[0, 0, 0], [-0.2, 0, 0], [-0.3, 0.2, 0]]))


@given(hnp.arrays(np.float64, (4, 4), elements=st.integers(0, 20).map(lambda k: k / 20)))
@settings(max_examples=60)
def test_chaudhry_is_at_least_the_suites_forgetting(score):
    m = EvaluationMatrix(range(4), range(4), score)
    assert chaudhry.forgetting(m) >= metrics.forgetting(m) - 1e-12
    assert gem.code_bwt(m) == pytest.approx(gem.bwt(m) * 3 / 4, abs=1e-12)


def test_libero_equals_the_stored_output_of_its_notebook():
    """Curves, boundary matrix and results as printed in `notebooks/quick_guide_algo.ipynb`."""
    curves = [
        [0, 0, 0.6, 0.8, 0.8, 0],
        [0, 0.2, 0.6, 1, 0.6, 0.6],
        [0, 0.8, 0.6, 0.4, 0.2, 0.4],
        [0, 0.2, 0.2, 0.4, 0.6, 0.6],
        [0, 0.2, 0.8, 0.8, 0.6, 0.8],
        [0, 0.6, 1, 0.8, 0.8, 0.8],
        [0, 0.2, 0, 0.6, 0.6, 0.4],
        [0, 0.8, 0.6, 0.2, 0.4, 0.4],
        [0, 0.6, 0.8, 1, 1, 0.8],
        [0, 1, 0.6, 1, 1, 0.8],
    ]
    boundary = np.diag([0.6, 0.8, 0.8, 0.6, 0.8, 0.8, 0.4, 0.6, 0.8, 1.0])
    for (t, k), value in {
        (3, 2): 0.2,
        (5, 3): 1,
        (6, 4): 0.2,
        (7, 0): 0.4,
        (7, 4): 0.8,
        (7, 6): 0.2,
        (8, 6): 0.4,
        (9, 2): 0.8,
        (9, 3): 0.2,
    }.items():
        boundary[t, k] = value
    result = libero.scores([np.array(c) for c in curves], boundary)
    assert result == pytest.approx((0.60333333, 0.54126984, 0.26577513), abs=1e-8)


def test_libero_holds_the_curve_at_its_first_maximum():
    # task 1: (.05, .6, .8, .7) -> (.05, .6, .8, .8): .5625; task 2: (.2, .9) -> .55
    m = EvaluationMatrix(range(5), [-1, 0, 0, 0, 1], [[0.05, 0.1], [0.6, 0], [0.8, 0], [0.7, 0.2], [0.4, 0.9]])
    assert libero.fwt(m) == pytest.approx((0.5625 + 0.55) / 2)
    assert libero.nbt(m) == pytest.approx((0.7 - 0.4) / 2)
    # 1/2 (.5625 + .4) and .55: mean of the two
    assert libero.auc(m) == pytest.approx((0.48125 + 0.55) / 2)
    assert np.isnan(libero.fwt(EvaluationMatrix([1, 2], [0, 1], [[0.5, 0.5], [0.5, 0.5]])))  # no epoch 0 of the first task


def test_cora_pairs_are_differences_across_one_phase():
    m = example()
    forgetting, transfer = cora.forgetting(m, smoothing=1), cora.zero_shot(m, smoothing=1)
    # task 0 over phases 1, 2: .6 -> .8 -> .9; task 1 over phase 2: .7 -> .5
    assert forgetting[0, 1:] == pytest.approx([-0.2, -0.1])
    assert forgetting[1, 2] == pytest.approx(0.2)
    assert np.isnan(forgetting[np.tril_indices(3)]).all()
    # task 2 over phases 0, 1: .15 -> 0 -> .2; task 1 over phase 0: .10 -> .1
    assert transfer[2, :2] == pytest.approx([-0.15, 0.2])
    assert transfer[1, 0] == pytest.approx(0.0)
    assert np.isnan(transfer[np.triu_indices(3)]).all()


def test_cora_smooths_with_a_trailing_mean():
    assert cora.trailing_mean(np.array([[0.0], [0.4], [0.8]]), 2)[:, 0] == pytest.approx([0.0, 0.2, 0.6])
    # with 2: task 0 at boundaries .325, .7, .85
    assert cora.forgetting(example(), smoothing=2)[0, 1] == pytest.approx(0.325 - 0.7)
    with pytest.raises(ValidationError, match="smoothing"):
        cora.forgetting(example(), smoothing=0)


def test_cora_error_is_the_standard_error_over_runs():
    mean, error = cora.mean_and_error([np.array([[0.1]]), np.array([[0.3]])])
    assert (mean[0, 0], error[0, 0]) == pytest.approx((0.2, 0.1))  # std .1414 / sqrt(2)
    assert np.isnan(cora.mean_and_error([np.array([[0.1]])])[1]).all()


def forgetter(own, later, columns=3):
    score = [[own if n == t else later if n < t else 0.0 for n in range(columns)] for t in range(columns)]
    return EvaluationMatrix(range(columns), range(columns), score)


def test_coom_performance_has_its_defect():
    # zeros are dropped: only the diagonal is left
    assert coom.performance([forgetter(0.8, 0.0)]) == pytest.approx(0.8)
    assert coom.performance([forgetter(0.7, 0.7)]) == pytest.approx(0.7)


def test_coom_performance_averages_runs_first_then_the_triangle():
    # triangle of the example: .6, .8, .7, .9, .5, .9
    assert coom.performance([example()]) == pytest.approx(4.4 / 6)
    # a zero in one run only is not dropped: cells of the mean run are (.4, .4; .4) and (.3, .35, .35)
    assert coom.performance([forgetter(0.8, 0.0, 2), forgetter(0.7, 0.7, 2)]) == pytest.approx((0.75 + 0.35 + 0.75) / 3)


def test_coom_half_widths_are_published_as_they_are():
    a, b = forgetter(0.8, 0.0, 2), forgetter(0.6, 0.4, 2)
    # pointwise std: diagonal .1, below it .2; half-widths 1.96 * std / sqrt(2)
    c = 1.96 / np.sqrt(2)
    assert coom.performance_half_width([a, b]) == pytest.approx(c * (0.1 + 0.2 + 0.1) / 3)
    assert coom.forgetting_half_width([a, b]) == pytest.approx(c * (0.1 - 0.2))  # negative
    assert coom.performance_half_width([a, b], confidence=0.9) == pytest.approx(1.833 / np.sqrt(2) * 0.4 / 3)
    # transfer: A = (.8, .8) and (.6, .6), r = .5: .6 and .2, std .2
    assert coom.forward_transfer_half_width([a, b], np.array([0.5, 0.5])) == pytest.approx(c * 0.2)
    with pytest.raises(ValidationError, match="confidence must be one of"):
        coom.performance_half_width([a], confidence=0.8)
    with pytest.raises(ValidationError, match="same number of rows"):
        coom.performance([a, forgetter(0.8, 0.0, 3)])
    with pytest.raises(ValidationError, match="at least one run"):
        coom.performance([])


def test_coom_forgetting_takes_the_last_ten_rows_of_a_period():
    score = np.zeros((24, 2))
    score[:2, 0], score[2:12, 0], score[12:14, 0], score[14:, 0] = 0.0, 0.8, 0.6, 0.2
    m = EvaluationMatrix(range(24), np.repeat([0, 1], 12), score)
    assert coom.forgetting([m]) == pytest.approx(0.6)


def test_coom_success_is_clipped_between_its_bounds():
    assert coom.success(np.array([-5.0, 10.0, 20.0, 50.0]), 0.0, 40.0).tolist() == [0.0, 0.25, 0.5, 1.0]
    assert np.isnan(coom.forward_transfer(example(), np.ones(3)))
