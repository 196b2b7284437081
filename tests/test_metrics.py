import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clbench import metrics
from clbench.errors import UserError, ValidationError
from clbench.matrix import EvaluationMatrix
from clbench.metrics import FAMILIES, METRICS, Costs, FewShotCurve, Measurements, explain_missing, measure, measure_all

NAN = float("nan")

# Two rows per phase, three columns, an untrained row. All numbers differ, so that mean, worst, last and median differ too.
#            U                 phase 0                            phase 1                            phase 2
SCORE = [
    [0.05, 0.10, 0.15],
    [0.40, 0.12, 0.00],
    [0.60, 0.20, 0.02],
    [0.70, 0.50, 0.04],
    [0.80, 0.90, 0.30],
    [0.50, 0.60, 0.70],
    [0.30, 0.40, 0.96],
]
PHASE = [-1, 0, 0, 1, 1, 2, 2]
REFERENCE = np.array([0.3, 0.8, 0.5])


def grid(score=SCORE, phase=PHASE, **extra):
    return EvaluationMatrix(np.arange(len(phase)) * 10, phase, score, **extra)


def alone(column, score, tasks=3):
    """A single-task run of one phase that trains one column; only that column is evaluated."""
    cells = np.full((len(score), tasks), np.nan)
    cells[:, column] = score
    return EvaluationMatrix(np.arange(len(score)), np.zeros(len(score)), cells, trained=((column,),))


SINGLES = [alone(0, [0.2, 0.5]), alone(1, [0.5, 0.8]), alone(1, [0.7, 0.9]), alone(2, [0.3, 0.86])]

MATRIX_METRICS = {name: m for name, m in METRICS.items() if "matrix" in m.inputs}


def of_matrix(m, name, window=1):
    return measure(name, Measurements(m, window, REFERENCE, SINGLES))


def test_headline_metrics_equal_their_hand_derived_values():
    m = grid()
    # L = (.3, .4, .96): mean 1.66/3, min .3
    assert metrics.performance(m) == pytest.approx(1.66 / 3)
    assert metrics.worst_task(m) == 0.3
    # D = (.6, .9, .96); D - L = (.3, .5, 0); over N-1 = 2 columns: .4
    assert metrics.forgetting(m) == pytest.approx(0.4)
    assert metrics.forgetting_per_task(m) == pytest.approx([0.3, 0.5, 0.0])
    assert metrics.backward_transfer(m) == -metrics.forgetting(m)
    # A = (.5, .7, .83): mean 2.03/3
    assert metrics.learning_auc_per_task(m) == pytest.approx([0.5, 0.7, 0.83])
    assert metrics.learning_auc(m) == pytest.approx(2.03 / 3)
    # A - r = (.2, -.1, .33); / (.7, .2, .5) = (.2857, -.5, .66)
    assert metrics.forward_transfer_raw(m, REFERENCE) == pytest.approx(0.43 / 3)
    assert metrics.forward_transfer(m, REFERENCE) == pytest.approx((0.2 / 0.7 - 0.5 + 0.66) / 3)
    assert metrics.forward_transfer(m, REFERENCE, include_first=False) == pytest.approx(0.16 / 2)
    assert metrics.forward_transfer_raw(m, REFERENCE, include_first=False) == pytest.approx(0.23 / 2)
    # Z = (., .20, .30), U = (., .10, .15): (.10 + .15)/2
    assert metrics.zero_shot_transfer(m) == pytest.approx(0.125)
    assert metrics.zero_shot_transfer_per_task(m)[0] == 0
    # D' = (.6, .9, .96), fresh = (.5, .85, .86): (., .05, .10)
    assert metrics.plasticity(m, SINGLES) == pytest.approx(0.075)
    # slope through (1, .05), (2, .10)
    assert metrics.plasticity_trend(m, SINGLES) == pytest.approx(0.05)


def test_a_window_averages_the_last_rows():
    m = grid()
    # L = (.4, .5, .83); D = (.5, .7, .83): forgetting (.1 + .2)/2
    assert metrics.performance(m, window=2) == pytest.approx(1.73 / 3)
    assert metrics.forgetting(m, window=2) == pytest.approx(0.15)
    # fresh, window 2 = (.35, (.65 + .8)/2, .58): (., -.025, .25)
    assert metrics.plasticity(m, SINGLES, window=2) == pytest.approx(0.1125)


def test_the_reference_is_the_mean_of_plain_curves_of_the_columns_each_run_trains():
    # column 1 has two runs: (.65 + .8)/2
    assert metrics.reference_curve_means(SINGLES) == pytest.approx([0.35, 0.725, 0.58])
    assert np.isnan(metrics.reference_curve_means(SINGLES[:3])[2])


def test_one_reference_run_serves_both_visits_of_a_task():
    runs = [EvaluationMatrix([1, 2], [0, 0], [[0.2], [0.4]], tasks=("a",)), EvaluationMatrix([1], [0], [[0.7]], tasks=("b",))]
    assert metrics.reference_curve_means(runs, ("a", "b", "a")) == pytest.approx([0.3, 0.7, 0.3])
    with pytest.raises(ValidationError, match="pass `tasks`"):
        metrics.reference_curve_means(runs)
    with pytest.raises(ValidationError, match="at least one reference run"):
        metrics.reference_curve_means([])


def test_no_headroom_makes_forward_transfer_nan_and_never_infinite():
    reference = np.array([0.3, 1.0, 0.5])
    assert np.isnan(metrics.forward_transfer(grid(), reference))
    assert np.isnan(metrics.forward_transfer_per_task(grid(), reference)[1])
    assert metrics.forward_transfer_raw(grid(), reference) == pytest.approx((0.2 - 0.3 + 0.33) / 3)
    assert metrics.headroom(reference) == pytest.approx([0.7, 0.0, 0.5])
    with pytest.raises(ValidationError, match=r"shape \(3,\)"):
        metrics.forward_transfer(grid(), np.array([0.5]))


def test_plasticity_without_the_agents_own_single_runs_is_nan():
    assert np.isnan(metrics.plasticity(grid(), []))
    assert np.isnan(metrics.plasticity(grid(), SINGLES[:3]))
    assert np.isnan(measure("plasticity", Measurements(grid(), reference=REFERENCE)))


def test_the_first_task_needs_no_fresh_run_for_plasticity():
    assert metrics.plasticity(grid(), SINGLES[1:]) == pytest.approx(0.075)


# --- what has gone wrong elsewhere ---------------------------------------------------------------------------------------------------


def stream(after_own, later):
    """Every task reaches `after_own` in its own phase and is `later` ever after; 0 before."""
    score = [[after_own if n == t else later if n < t else 0.0 for n in range(3)] for t in range(3)]
    return EvaluationMatrix([1, 2, 3], [0, 1, 2], score)


@pytest.mark.parametrize("name", ["performance", "worst_task", "backward_transfer"])
def test_a_total_forgetter_scores_below_a_perfect_retainer(name):
    forgetter, retainer = stream(0.8, 0.0), stream(0.7, 0.7)
    assert of_matrix(forgetter, name) < of_matrix(retainer, name)
    assert of_matrix(forgetter, "forgetting") > of_matrix(retainer, "forgetting")


@pytest.mark.parametrize("name", MATRIX_METRICS)
def test_a_missing_cell_is_nan_and_neither_zero_nor_dropped(name):
    full = grid()
    (needed, *_) = METRICS[name].windows(full, 1)
    hole = full.score.copy()
    hole[needed.rows[-1], needed.column] = np.nan
    assert np.isnan(of_matrix(grid(hole), name))
    assert np.isfinite(of_matrix(full, name))
    assert of_matrix(grid(np.nan_to_num(hole)), name) != of_matrix(full, name)  # filling with 0 would have shown another number
    assert explain_missing(name, grid(hole)) is not None
    assert explain_missing(name, full) is None


@pytest.mark.parametrize("name", MATRIX_METRICS)
def test_a_genuine_zero_counts(name):
    # phase 2 ends at 0 on all columns; each metric sees it as a number
    score = np.array(SCORE)
    score[5:] = 0.0
    assert np.isfinite(of_matrix(grid(score), name))
    assert metrics.performance(grid(score)) == 0.0


def test_only_the_cells_a_metric_lists_are_needed():
    # the active column on its rows, all columns in the untrained row and at boundaries
    sparse = np.array(SCORE)
    for row, active in ((1, 0), (3, 1), (5, 2)):
        sparse[row, [n for n in range(3) if n != active]] = np.nan
    for name in MATRIX_METRICS:
        assert of_matrix(grid(sparse), name) == of_matrix(grid(), name), name


def test_the_explanation_names_the_cell():
    hole = np.array(SCORE)
    hole[4, 1] = np.nan
    assert (
        explain_missing("forgetting", grid(hole)) == "forgetting needs D of column 1 (task-1): row 4 (step 40, phase 1) was not evaluated"
    )
    no_start = EvaluationMatrix([1, 2], [0, 1], [[0.5, 0.5], [0.5, 0.5]])
    assert "no row of the untrained agent" in (explain_missing("zero_shot_transfer", no_start) or "")
    stopped = EvaluationMatrix([1], [0], [[0.5, 0.5]], trained=((0,), (1,)))
    assert explain_missing("performance", stopped) == "performance needs L of column 0 (task-0): the run has no row of its last phase, 1"
    assert np.isnan(metrics.performance(stopped))
    assert np.isnan(metrics.learning_auc(stopped))
    assert np.isnan(metrics.forgetting(stopped))
    assert explain_missing("forgetting", alone(0, [0.5], tasks=1)) == "forgetting: no column of this stream counts for it"
    assert explain_missing("steps", no_start) is None
    with pytest.raises(UserError, match="Did you mean performance"):
        explain_missing("performence", no_start)


def test_forgetting_of_the_column_trained_last_is_zero_and_not_in_the_denominator():
    m = stream(0.9, 0.3)
    assert metrics.forgetting_per_task(m)[-1] == 0.0
    assert metrics.forgetting(m) == pytest.approx(0.6)  # 1.2 / 2; with N it would be .4


def test_forgetting_of_a_single_task_is_nan():
    assert np.isnan(metrics.forgetting(alone(0, [0.5], tasks=1)))


def test_forward_transfer_tells_agents_apart_and_is_not_shifted_by_a_row():
    other = np.array(SCORE)
    other[3, 1] = 0.1  # first row of phase 1
    assert metrics.forward_transfer(grid(other), REFERENCE) < metrics.forward_transfer(grid(), REFERENCE)
    before = np.array(SCORE)
    before[2, 1] = 0.9  # the row before phase 1, task 1: not on its learning curve
    assert metrics.forward_transfer(grid(before), REFERENCE) == metrics.forward_transfer(grid(), REFERENCE)


def test_forward_transfer_of_the_reference_against_itself_is_zero_on_the_first_task():
    # paired seeds: on the first task the stream run and the single-task run are the same numbers
    curves = [[0.1, 0.7], [0.3, 0.5], [0.33, 0.9]]
    runs = [grid([SCORE[0], [a, 0, 0], [b, 0, 0], *SCORE[3:]]) for a, b in curves]
    singles = [alone(0, curve) for curve in curves]
    for run, single in zip(runs, singles, strict=True):
        reference = np.array([metrics.reference_curve_means([single])[0], 0.5, 0.5])
        assert metrics.forward_transfer_per_task(run, reference)[0] == 0.0
    reference = np.array([metrics.reference_curve_means(singles)[0], 0.5, 0.5])
    assert np.mean([metrics.forward_transfer_per_task(run, reference)[0] for run in runs]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("window", [2, 3])
def test_a_window_longer_than_a_phase_is_an_error_and_no_mixture(window):
    m = EvaluationMatrix([1, 2, 3, 4], [0, 0, 0, 1], np.full((4, 2), 0.5))
    with pytest.raises(ValidationError, match=f"a window of {window} rows is longer than phase 1, which has 1"):
        metrics.performance(m, window=window)
    with pytest.raises(ValidationError, match="longer than phase 1"):
        metrics.forgetting(m, window=window)
    with pytest.raises(ValidationError, match="window must be >= 1, got 0"):
        metrics.performance(m, window=0)


def test_metrics_leave_their_inputs_unchanged_bit_for_bit():
    m, reference = grid(), REFERENCE.copy()
    before = (m.step.tobytes(), m.phase.tobytes(), m.score.tobytes(), reference.tobytes(), [s.score.tobytes() for s in SINGLES])
    measure_all(Measurements(m, 1, reference, SINGLES, curve=FewShotCurve((0, 1), np.array([0.1, 0.2])), costs=Costs(steps=1)))
    for metric in FAMILIES.values():
        if metric.inputs == ("matrix",) and not metric.name.startswith("cw."):
            metric.function(m)
    after = (m.step.tobytes(), m.phase.tobytes(), m.score.tobytes(), reference.tobytes(), [s.score.tobytes() for s in SINGLES])
    assert before == after


def test_joint_phases_have_performance_and_nothing_else():
    m = grid(phase=[-1, 0, 0, 0, 0, 0, 0], trained=((0, 1, 2),))
    assert metrics.performance(m) == pytest.approx(1.66 / 3)
    assert metrics.worst_task(m) == 0.3
    for name in MATRIX_METRICS.keys() - {"performance", "worst_task"}:
        assert np.isnan(of_matrix(m, name)), name
        assert explain_missing(name, m) is not None, name
    mixed = grid(trained=((0,), (0, 1), (2,)))
    assert np.isnan(metrics.forgetting(mixed))
    assert "joint" in (explain_missing("forgetting", mixed) or "")


def test_columns_that_are_only_asked_about_count_for_the_end_and_not_for_learning():
    plain = EvaluationMatrix([0, 1, 2], [-1, 0, 1], [[0.1, 0.2], [0.6, 0.3], [0.2, 0.7]], trained=((0,), (1,)))
    probed = EvaluationMatrix([0, 1, 2], [-1, 0, 1], [[0.1, 0.2, 0.0], [0.6, 0.3, 0.5], [0.2, 0.7, 0.6]], trained=((0,), (1,)))
    assert metrics.performance(probed) == pytest.approx((0.2 + 0.7 + 0.6) / 3)
    for name in ("forgetting", "backward_transfer", "learning_auc", "zero_shot_transfer"):
        found = measure(name, Measurements(probed, 1))
        assert found == pytest.approx(measure(name, Measurements(plain, 1))) and explain_missing(name, probed) is None, name
    assert metrics.forgetting(probed) == pytest.approx(0.4) and metrics.learning_auc(probed) == pytest.approx(0.65)
    assert metrics.forward_transfer_raw(probed, np.array([0.5, 0.5, np.nan])) == pytest.approx(0.15)
    assert metrics.forward_transfer(probed, np.array([0.5, 0.5, np.nan]), include_first=False) == pytest.approx(0.4)
    assert np.isnan(metrics.learning_auc_per_task(probed)[2])  # by task it stays unknown


def test_merged_visits_use_the_first_phase_for_learning_and_the_last_for_forgetting():
    # hidden identity: column 0 is trained in phases 0 and 2, column 1 in phase 1
    score = [[0.1, 0.2], [0.6, 0.3], [0.2, 0.7], [0.9, 0.5]]
    m = EvaluationMatrix([0, 1, 2, 3], [-1, 0, 1, 2], score, trained=((0,), (1,), (0,)))
    assert metrics.learning_auc_per_task(m) == pytest.approx([0.6, 0.7])
    # D = (.9, .7), L = (.9, .5); column 0 is trained in the last phase
    assert metrics.forgetting_per_task(m) == pytest.approx([0.0, 0.2])
    assert metrics.forgetting(m) == pytest.approx(0.2)
    assert metrics.zero_shot_transfer(m) == pytest.approx(0.1)  # column 1: .3 - .2


def test_boundary_matrix_takes_the_last_row_of_each_phase():
    assert metrics.boundary_matrix(grid()).tolist() == [SCORE[2], SCORE[4], SCORE[6]]


# --- properties ----------------------------------------------------------------------------------------------------------------------

scores = hnp.arrays(np.float64, (7, 3), elements=st.integers(0, 50).map(lambda k: k / 50))


@given(scores, st.permutations(range(3)))
@settings(max_examples=60)
def test_permuting_columns_together_with_phases_changes_no_metric(score, order):
    inverse = [list(order).index(n) for n in range(3)]  # column n of the old matrix stands at inverse[n]
    names = tuple(f"task-{n}" for n in order)
    moved = grid(score[:, order], trained=tuple((inverse[n],) for n in range(3)), tasks=names)
    a = measure_all(Measurements(grid(score), 2, REFERENCE, SINGLES))
    b = measure_all(Measurements(moved, 2, REFERENCE[list(order)], SINGLES))
    assert b == pytest.approx(a, nan_ok=True, abs=1e-12)


@given(scores)
@settings(max_examples=60)
def test_metrics_stay_in_their_ranges(score):
    m = grid(score)
    assert 0 <= metrics.worst_task(m) <= metrics.performance(m) <= 1
    assert -1 <= metrics.forgetting(m) <= 1
    assert metrics.backward_transfer(m) == -metrics.forgetting(m)
    assert metrics.forward_transfer(m, REFERENCE) <= 1
    assert np.isnan(metrics.performance_per_task(m)).sum() == 0


@given(scores)
@settings(max_examples=30)
def test_adding_rows_inside_a_phase_moves_no_boundary_metric(score):
    # twice the evaluation frequency: each row of a phase gets a twin before it
    double = np.concatenate([score[:1], np.repeat(score[1:], 2, axis=0)])
    phase = [-1, *np.repeat(PHASE[1:], 2)]
    a, b = grid(score), EvaluationMatrix(np.arange(13), phase, double)
    for f in (metrics.performance, metrics.forgetting, metrics.zero_shot_transfer, metrics.worst_task):
        assert f(a) == f(b)


# --- few shots, costs, the table -----------------------------------------------------------------------------------------------------


def test_few_shot_area_is_the_trapezoid_over_log2():
    # x = (0, 1, 2) for K = (0, 1, 3): (.1+.5)/2 + (.5+.7)/2 = .9, / 2 = .45; over K itself it would differ
    curve, fresh = FewShotCurve((0, 1, 3), np.array([0.1, 0.5, 0.7])), FewShotCurve((0, 1, 3), np.array([0.0, 0.2, 0.6]))
    assert metrics.few_shot_area(curve) == pytest.approx(0.45)
    assert metrics.few_shot_gain(curve, fresh) == pytest.approx(0.45 - 0.25)  # fresh: .1 + .4 = .5, / 2
    assert metrics.few_shot(curve, 1) == 0.5
    assert np.isnan(metrics.few_shot(curve, 2))
    assert metrics.few_shot_area(FewShotCurve((0, 1, 10), np.ones(3))) == pytest.approx(1.0)
    assert np.isnan(metrics.few_shot_area(FewShotCurve((0, 1), np.array([0.5, NAN]))))
    assert np.isnan([metrics.few_shot_area(FewShotCurve(k, np.ones(len(k)))) for k in ((1, 2), (0,), ())]).all()
    run = Measurements(grid(), curve=curve, fresh_curve=fresh, scratch_curve=FewShotCurve((0, 1, 3), np.zeros(3)))
    names = ("few_shot(1)", "few_shot(2)", "few_shot_area", "few_shot_gain", "few_shot_gain_over_scratch")
    assert [measure(name, run) for name in names] == pytest.approx([0.5, NAN, 0.45, 0.2, 0.45], nan_ok=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FewShotCurve((0, 1), np.zeros(3)), "one score per number of shots, 2"),
        (lambda: FewShotCurve((1, 0), np.zeros(2)), "shots must rise"),
        (lambda: FewShotCurve((0, 1), np.array([0.0, 1.1])), r"in \[0, 1\]"),
        (lambda: metrics.few_shot_gain(FewShotCurve((0, 1), np.zeros(2)), FewShotCurve((0, 2), np.zeros(2))), "the same shots"),
    ],
)
def test_few_shot_curves_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_costs_nobody_reported_are_nan():
    run = Measurements(grid(), costs=Costs(retained_bytes=120, first_retained_bytes=100, steps=7))
    assert measure("retained_growth", run) == 20
    assert measure("steps", run) == 7
    assert np.isnan(measure("gradient_steps", run))
    assert np.isnan(measure("steps", Measurements(grid())))
    assert {f.name for f in dataclasses.fields(Costs)} - {"unit", "first_retained_bytes"} <= METRICS.keys()


def test_the_table_holds_the_headline_set_and_its_directions():
    lower = {n for n, m in METRICS.items() if m.better == "lower"}
    memory = {"retained_bytes", "retained_growth", "peak_rss_bytes", "peak_device_bytes", "memory_bytes"}
    assert lower == {"forgetting", "parameters", "train_seconds", "evaluate_seconds", *memory}
    assert {n for n, m in METRICS.items() if m.better == "neither"} == {"steps", "gradient_steps", "memory_writes", "memory_reads"}
    assert {n for n, m in METRICS.items() if m.needs_reference} == {
        "forward_transfer",
        "forward_transfer_raw",
        "few_shot_gain_over_scratch",
    }
    assert (METRICS["forgetting"].sign, METRICS["performance"].sign, METRICS["steps"].sign) == (-1, 1, 0)
    for name, metric in {**METRICS, **FAMILIES}.items():
        assert metric.name == name
        assert metric.label and metric.source
    assert len({m.label for m in METRICS.values()}) == len(METRICS)


def test_every_matrix_metric_takes_a_window():
    run = Measurements(grid(), 2, REFERENCE, SINGLES)
    for metric in MATRIX_METRICS.values():
        assert np.isfinite(metric.function(*(getattr(run, i) for i in metric.inputs), window=2)), metric.name


def test_importing_the_metrics_loads_nothing_heavy():
    heavy = ["torch", "pandas", "scipy", "matplotlib", "mujoco"]
    code = f"import sys, clbench.metrics; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
