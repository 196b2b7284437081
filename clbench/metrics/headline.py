"""The suite's own metrics of one run; each is one number, with a `_per_task` twin of shape (N,).

Scores are in [0, 1] and missing is NaN: a metric that needs a missing cell is NaN, and `explain_missing` names the cell. Every
function takes `window` (W rows), so that all can be called alike; where a whole curve is averaged it has no effect.
Source: the suite's own definitions, after Wolczyk et al. 2021 (arXiv:2105.10919); departures are stated where they occur.
Published families under their own names are in the modules next to this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ValidationError
from ..matrix import EvaluationMatrix
from .windows import (
    Vector,
    Window,
    before_own_phase,
    curve_means,
    end_of_first_phase,
    end_of_own_phase,
    end_of_run,
    first_phase,
    forgettable_columns,
    later_columns,
    learning_curve,
    trained_columns,
    untrained,
    window_mean,
    window_means,
)

LOW_HEADROOM = 0.05


def performance(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Final score: mean over n of L_n, in [0, 1]. Joint streams have it too."""
    return float(performance_per_task(matrix, window=window).mean())


def performance_per_task(matrix: EvaluationMatrix, *, window: int = 1) -> Vector:
    """L_n (N,): mean of the last W rows of the run."""
    return window_means(matrix, (end_of_run(matrix, n, window) for n in range(matrix.num_tasks)))


def worst_task(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Final score of the worst task: min over n of L_n, in [0, 1]."""
    return float(performance_per_task(matrix, window=window).min())


def forgetting(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Score lost since the end of each task's own phase: mean of D_n - L_n, in [-1, 1]; negative means it improved later.

    The mean is over the columns that some phase trains and the last does not, N - 1 in a plain stream; NaN where there is none, and for
    joint phases. Wolczyk et al. 2021 divide by N (`cw.forgetting`).
    """
    return _mean(forgetting_per_task(matrix, window=window)[forgettable_columns(matrix)])


def forgetting_per_task(matrix: EvaluationMatrix, *, window: int = 1) -> Vector:
    """D_n - L_n (N,): exactly 0 for a column that the last phase trains, NaN for tasks trained jointly."""
    columns = range(matrix.num_tasks)
    own = window_means(matrix, (end_of_own_phase(matrix, n, window) for n in columns))
    return own - performance_per_task(matrix, window=window)


def backward_transfer(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Score gained since the end of each task's own phase: exactly `-forgetting`; readers look for both names."""
    return _mean(backward_transfer_per_task(matrix, window=window)[forgettable_columns(matrix)])


def backward_transfer_per_task(matrix: EvaluationMatrix, *, window: int = 1) -> Vector:
    """L_n - D_n (N,)."""
    return 0.0 - forgetting_per_task(matrix, window=window)


def learning_auc(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Score while learning: mean over the trained n of A_n, in [0, 1]; NaN for joint phases."""
    return _mean(learning_auc_per_task(matrix, window=window)[trained_columns(matrix)])


def learning_auc_per_task(matrix: EvaluationMatrix, *, window: int = 1) -> Vector:
    """A_n (N,): plain mean over the rows of the first phase that trains n; `window` has no effect."""
    return curve_means(matrix)


def forward_transfer(matrix: EvaluationMatrix, reference: Vector, *, include_first: bool = True, window: int = 1) -> float:
    """Learning curve against training alone, per headroom: mean over n of (A_n - r_n) / (1 - r_n), in (-inf, 1].

    `reference` (N,) is r_n, from `reference_curve_means` over the stream's reference set. A task without headroom makes it NaN. With
    r_n constant, its mean over runs is the ratio of means of Wolczyk et al. 2021, equation of section 4 (`cw.forward_transfer`).
    """
    columns = trained_columns(matrix) if include_first else later_columns(matrix)
    return _mean(forward_transfer_per_task(matrix, reference, window=window)[columns])


def forward_transfer_per_task(matrix: EvaluationMatrix, reference: Vector, *, window: int = 1) -> Vector:
    """(A_n - r_n) / (1 - r_n) (N,); NaN where the headroom 1 - r_n is 0."""
    room = headroom(reference)
    return forward_transfer_raw_per_task(matrix, reference, window=window) / np.where(room > 1e-12, room, np.nan)


def forward_transfer_raw(matrix: EvaluationMatrix, reference: Vector, *, include_first: bool = True, window: int = 1) -> float:
    """Learning curve against training alone: mean over n of A_n - r_n, in [-1, 1]; always printed next to `forward_transfer`."""
    columns = trained_columns(matrix) if include_first else later_columns(matrix)
    return _mean(forward_transfer_raw_per_task(matrix, reference, window=window)[columns])


def forward_transfer_raw_per_task(matrix: EvaluationMatrix, reference: Vector, *, window: int = 1) -> Vector:
    """A_n - r_n (N,)."""
    if np.shape(reference) != (matrix.num_tasks,):
        raise ValidationError(f"reference must have shape ({matrix.num_tasks},), one r_n per column; got {np.shape(reference)}")
    return learning_auc_per_task(matrix, window=window) - np.asarray(reference, dtype=np.float64)


def headroom(reference: Vector) -> Vector:
    """1 - r_n (N,): what is left to gain; below `LOW_HEADROOM` a task is to be marked, at 0 its forward transfer is NaN."""
    return 1.0 - np.asarray(reference, dtype=np.float64)


def reference_curve_means(references: Sequence[EvaluationMatrix], tasks: Sequence[str] | None = None) -> Vector:
    """r_n (N,): mean over the reference runs of their plain mean curve on task n; NaN where no run trains it.

    Only the columns that a run trains count. Columns are matched by task name, so that one reference run serves both visits of a task;
    `tasks` are the names of the stream's columns, by default those of the reference runs, which must then all be the same.
    """
    return _means_by_task(references, tasks, learning_curve)


def zero_shot_transfer(matrix: EvaluationMatrix, *, window: int = 1) -> float:
    """Score on a task before its own training, above the untrained agent: mean of Z_n - U_n over first(n) > 0, in [-1, 1].

    For agents with one head per task it measures an untrained head and is noise around 0.
    """
    return _mean(zero_shot_transfer_per_task(matrix, window=window)[later_columns(matrix)])


def zero_shot_transfer_per_task(matrix: EvaluationMatrix, *, window: int = 1) -> Vector:
    """Z_n - U_n (N,); 0 for the first task where it is trained alone; `window` has no effect."""
    columns = range(matrix.num_tasks)
    before = window_means(matrix, (before_own_phase(matrix, n) for n in columns))
    return before - window_means(matrix, (untrained(matrix, n) for n in columns))


def plasticity(matrix: EvaluationMatrix, own_single_runs: Sequence[EvaluationMatrix], *, window: int = 1) -> float:
    """What the past cost this agent: mean of D'_n - D'_n(fresh) over first(n) > 0, in [-1, 1]; negative means it learns less.

    `own_single_runs`: the *same* agent started on each task alone, averaged per task; NaN without them, never the stream's reference.
    """
    return _mean(plasticity_per_task(matrix, own_single_runs, window=window)[later_columns(matrix)])


def plasticity_per_task(matrix: EvaluationMatrix, own_single_runs: Sequence[EvaluationMatrix], *, window: int = 1) -> Vector:
    """D'_n - D'_n(fresh) (N,), D' = mean of the last W rows of the first phase that trains n."""
    own = window_means(matrix, (end_of_first_phase(matrix, n, window) for n in range(matrix.num_tasks)))
    return own - _means_by_task(own_single_runs, matrix.tasks, lambda run, n: end_of_first_phase(run, n, window))


def plasticity_trend(matrix: EvaluationMatrix, own_single_runs: Sequence[EvaluationMatrix], *, window: int = 1) -> float:
    """Least-squares slope of D'_n - D'_n(fresh) against position n, per position, over first(n) > 0; NaN below two such tasks.

    Position is the place of the task in the stream: the number of its first phase.
    """
    columns = later_columns(matrix)
    gap = plasticity_per_task(matrix, own_single_runs, window=window)[columns]
    phases = [first_phase(matrix, n) for n in columns]
    position = np.array([np.nan if phase is None else phase for phase in phases], dtype=np.float64)
    if len(columns) < 2:
        return float("nan")
    centred = position - position.mean()
    spread = float(centred @ centred)
    return float(centred @ gap / spread) if spread != 0 else float("nan")


def final_windows(matrix: EvaluationMatrix, window: int) -> list[Window]:
    """The windows `performance` and `worst_task` read."""
    return [end_of_run(matrix, n, window) for n in range(matrix.num_tasks)]


def forgetting_windows(matrix: EvaluationMatrix, window: int) -> list[Window]:
    """The windows `forgetting` and `backward_transfer` read."""
    return [f(matrix, n, window) for n in forgettable_columns(matrix) for f in (end_of_own_phase, end_of_run)]


def curve_windows(matrix: EvaluationMatrix, _: int) -> list[Window]:
    """The windows `learning_auc` and forward transfer read."""
    return [learning_curve(matrix, n) for n in trained_columns(matrix)]


def zero_shot_windows(matrix: EvaluationMatrix, _: int) -> list[Window]:
    """The windows `zero_shot_transfer` reads."""
    return [f(matrix, n) for n in later_columns(matrix) for f in (before_own_phase, untrained)]


def plasticity_windows(matrix: EvaluationMatrix, window: int) -> list[Window]:
    """The windows of the run itself that plasticity reads."""
    return [end_of_first_phase(matrix, n, window) for n in later_columns(matrix)]


def _mean(values: Vector) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if values.size else float("nan")


def _means_by_task(
    runs: Sequence[EvaluationMatrix], tasks: Sequence[str] | None, window_of: Callable[[EvaluationMatrix, int], Window]
) -> Vector:
    """The mean of a window over all runs and columns that train a task, (N,) in the order of `tasks`."""
    if tasks is None:
        if not runs:
            raise ValidationError("expected at least one reference run, got none")
        if len({run.tasks for run in runs}) != 1:
            raise ValidationError("reference runs name different columns; pass `tasks`, the names of the stream's columns")
        tasks = runs[0].tasks
    assert tasks is not None
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for run in runs:
        assert run.tasks is not None
        for n, name in enumerate(run.tasks):
            if name in values and run.phases_of(n):
                values[name].append(window_mean(run, window_of(run, n)))
    return np.array([_mean(np.array(values[name])) for name in tasks], dtype=np.float64)
