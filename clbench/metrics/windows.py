"""The numbers every metric is made of: means of one column over a window of rows, and the boundary matrix.

    A_n   all rows of the first phase that trains n           learning_curve
    D_n   the last W rows of the last phase that trains n     end_of_own_phase
    L_n   the last W rows of the run                          end_of_run
    U_n   the row of the untrained agent, phase -1            untrained
    Z_n   the last row before the first phase that trains n   before_own_phase
    R     score on n in the last row of phase t, (P, N)       boundary_matrix

A window knows its rows, or why there are none, so that a NaN can be explained (`missing_cell`). A missing cell makes the mean NaN.
Source: the suite's own notation. What the metrics make of these numbers is in `headline` and in the families.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ValidationError
from ..matrix import EvaluationMatrix

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Window:
    """The rows whose mean on `column` is the number `symbol`; without rows, `absent` says why."""

    symbol: str
    column: int
    rows: NDArray[np.intp]
    absent: str = ""


def learning_curve(matrix: EvaluationMatrix, column: int) -> Window:
    """A_n: all rows of the first phase that trains the column, without the row before it starts."""
    return _own_phase("A", matrix, column, first=True)


def end_of_own_phase(matrix: EvaluationMatrix, column: int, window: int) -> Window:
    """D_n: the last `window` rows of the last phase that trains the column."""
    return _last_rows(_own_phase("D", matrix, column, first=False), matrix, window)


def end_of_first_phase(matrix: EvaluationMatrix, column: int, window: int) -> Window:
    """D'_n: the last `window` rows of the first phase that trains the column."""
    return _last_rows(_own_phase("D'", matrix, column, first=True), matrix, window)


def end_of_run(matrix: EvaluationMatrix, column: int, window: int) -> Window:
    """L_n: the last `window` rows of the run, all of them in its last phase."""
    last = num_phases(matrix) - 1
    rows = phase_rows(matrix, last) if last >= 0 else np.empty(0, np.intp)
    return _last_rows(Window("L", column, rows, f"the run has no row of its last phase, {last}"), matrix, window)


def untrained(matrix: EvaluationMatrix, column: int) -> Window:
    """U_n: the row of the untrained agent."""
    return Window("U", column, phase_rows(matrix, -1)[-1:], "the run has no row of the untrained agent (phase -1)")


def before_own_phase(matrix: EvaluationMatrix, column: int) -> Window:
    """Z_n: the last row before the first phase that trains the column; none where that phase is joint."""
    own = _own_phase("Z", matrix, column, first=True)
    if not own.rows.size:
        return own
    before = matrix.phases_of(column)[0] - 1
    return Window("Z", column, phase_rows(matrix, before)[-1:], f"the run has no row of phase {before}, which precedes its own")


def window_mean(matrix: EvaluationMatrix, window: Window) -> float:
    """The number a window stands for; NaN without rows or with a missing cell."""
    return float(matrix.score[window.rows, window.column].mean()) if window.rows.size else float("nan")


def window_means(matrix: EvaluationMatrix, windows: Iterable[Window]) -> Vector:
    """The numbers of several windows, in their order."""
    return np.array([window_mean(matrix, window) for window in windows], dtype=np.float64)


def curve_means(matrix: EvaluationMatrix) -> Vector:
    """A_n (N,): plain mean over the rows of the first phase that trains n."""
    return window_means(matrix, (learning_curve(matrix, n) for n in range(matrix.num_tasks)))


def missing_cell(matrix: EvaluationMatrix, window: Window) -> str | None:
    """The first cell that makes the window NaN, in words; None where all are there."""
    where = f"{window.symbol} of column {window.column} ({_tasks(matrix)[window.column]})"
    if not window.rows.size:
        return f"{where}: {window.absent}"
    for row in window.rows:
        if np.isnan(matrix.score[row, window.column]):
            return f"{where}: row {row} (step {matrix.step[row]}, phase {matrix.phase[row]}) was not evaluated"
    return None


def boundary_matrix(matrix: EvaluationMatrix) -> Vector:
    """R (P, N): the score on column n in the last row of phase t; NaN where the phase has no row."""
    result = np.full((num_phases(matrix), matrix.num_tasks), np.nan)
    for phase in range(num_phases(matrix)):
        rows = phase_rows(matrix, phase)
        if rows.size:
            result[phase] = matrix.score[rows[-1]]
    return result


def training_order(matrix: EvaluationMatrix) -> tuple[int, ...] | None:
    """The columns in the order of their phases; None unless every phase trains one column and every column has one phase."""
    trained = phase_columns(matrix)
    order = tuple(columns[0] for columns in trained if len(columns) == 1)
    plain = len(order) == len(trained) == matrix.num_tasks and len(set(order)) == len(order)
    return order if plain else None


def square_boundary_matrix(matrix: EvaluationMatrix) -> Vector:
    """R (N, N) with columns in training order, for families that know only plain streams; all NaN for other streams."""
    order = training_order(matrix)
    if order is None:
        return np.full((matrix.num_tasks, matrix.num_tasks), np.nan)
    return boundary_matrix(matrix)[:, list(order)]  # (N, N)


def first_phase(matrix: EvaluationMatrix, column: int) -> int | None:
    """The first phase that trains the column, or None."""
    return next(iter(matrix.phases_of(column)), None)


def trained_columns(matrix: EvaluationMatrix) -> list[int]:
    """The columns that some phase trains: all in a plain stream, and not those that are only asked about (probes)."""
    return [n for n in range(matrix.num_tasks) if matrix.phases_of(n)]


def later_columns(matrix: EvaluationMatrix) -> list[int]:
    """The trained columns that the first phase does not train: those the past can have helped."""
    return [n for n in trained_columns(matrix) if first_phase(matrix, n) != 0]


def forgettable_columns(matrix: EvaluationMatrix) -> list[int]:
    """The trained columns that the last phase does not train: N - 1 of them in a plain stream."""
    last = num_phases(matrix) - 1
    return [n for n in trained_columns(matrix) if last not in matrix.phases_of(n)]


def phase_columns(matrix: EvaluationMatrix) -> tuple[tuple[int, ...], ...]:
    """The columns that each phase trains."""
    assert matrix.trained is not None
    return matrix.trained


def num_phases(matrix: EvaluationMatrix) -> int:
    """P, the number of phases of the stream."""
    return len(phase_columns(matrix))


def phase_rows(matrix: EvaluationMatrix, phase: int) -> NDArray[np.intp]:
    """The indices of the rows of a phase."""
    return np.flatnonzero(matrix.phase == phase)


def _own_phase(symbol: str, matrix: EvaluationMatrix, column: int, *, first: bool) -> Window:
    none = np.empty(0, np.intp)
    phases = matrix.phases_of(column)
    if not phases:
        return Window(symbol, column, none, "no phase trains it")
    phase = phases[0] if first else phases[-1]
    if matrix.is_joint(phase):
        return Window(symbol, column, none, f"phase {phase} trains several columns at once (joint): no forgetting, no transfer")
    return Window(symbol, column, phase_rows(matrix, phase), f"the run has no row of its phase {phase}")


def _last_rows(window: Window, matrix: EvaluationMatrix, size: int) -> Window:
    """The last `size` rows; a window that would reach into another phase is an error, not a mixture."""
    if size < 1:
        raise ValidationError(f"window must be >= 1, got {size}")
    if 0 < window.rows.size < size:
        phase = matrix.phase[window.rows[-1]]
        raise ValidationError(f"a window of {size} rows is longer than phase {phase}, which has {window.rows.size}; use a smaller window")
    return Window(window.symbol, window.column, window.rows[-size:], window.absent)


def _tasks(matrix: EvaluationMatrix) -> tuple[str, ...]:
    assert matrix.tasks is not None
    return matrix.tasks
