"""The evaluation matrix: the only measurement. Metrics are pure functions of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ValidationError


@dataclass(frozen=True, eq=False)
class EvaluationMatrix:
    """Scores of one run: row e is one evaluation, column n one entry of the stream.

    `step` (E,): units consumed before the row. `phase` (E,): the phase the row belongs to, -1 for the untrained agent; the row
    exactly at a boundary belongs to the phase that just ended. `score` (E, N) in [0, 1], higher is better; NaN = not evaluated,
    never 0. `trained`: the columns that each phase trains, by default phase p trains column p; more than one = a joint phase.
    `tasks`: the names of the columns. The arrays are read-only copies.
    """

    step: NDArray[np.int64]
    phase: NDArray[np.int64]
    score: NDArray[np.float64]
    trained: tuple[tuple[int, ...], ...] | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        step = np.array(self.step, dtype=np.int64)
        phase = np.array(self.phase, dtype=np.int64)
        score = np.array(self.score, dtype=np.float64)
        if score.ndim != 2 or step.shape != (len(score),) or phase.shape != (len(score),):
            raise ValidationError(f"expected step (E,), phase (E,), score (E, N); got {step.shape}, {phase.shape}, {score.shape}")
        if np.any(np.diff(step) < 0) or np.any(np.diff(phase) < 0):
            raise ValidationError("rows must be ordered by step and phase; sort them before building the matrix")
        if np.any(phase < -1):
            raise ValidationError(f"phase must be >= -1, got {phase.min()}")
        bad = np.isinf(score) | (score < -1e-12) | (score > 1 + 1e-12)
        if np.any(bad):
            row, column = np.argwhere(bad)[0]
            raise ValidationError(f"score must be in [0, 1] or NaN, got {score[row, column]!r} at row {row}, column {column}")
        columns = score.shape[1]
        trained = self.trained
        if trained is None:
            trained = tuple((p,) if p < columns else () for p in range(int(phase.max(initial=-1)) + 1))
        trained = tuple(tuple(int(n) for n in phase_columns) for phase_columns in trained)
        if any(not 0 <= n < columns for phase_columns in trained for n in phase_columns):
            raise ValidationError(f"trained names a column outside 0..{columns - 1}: {trained}")
        tasks = tuple(self.tasks) if self.tasks is not None else tuple(f"task-{n}" for n in range(columns))
        if len(tasks) != columns:
            raise ValidationError(f"expected {columns} task names, got {len(tasks)}")
        for name, value in (("step", step), ("phase", phase), ("score", score)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "trained", trained)
        object.__setattr__(self, "tasks", tasks)

    @property
    def num_tasks(self) -> int:
        """N, the number of columns."""
        return self.score.shape[1]

    @property
    def labels(self) -> tuple[str, ...]:
        """A name of its own for each column: where a task comes again, its visits are numbered from the second on."""
        assert self.tasks is not None
        visits = [self.tasks[: n + 1].count(task) for n, task in enumerate(self.tasks)]
        return tuple(f"{task} ({visit})" if visit > 1 else task for task, visit in zip(self.tasks, visits, strict=True))

    def phases_of(self, column: int) -> tuple[int, ...]:
        """The phases that train `column`, in order; empty where none does."""
        assert self.trained is not None
        return tuple(p for p, columns in enumerate(self.trained) if column in columns)

    def is_joint(self, phase: int) -> bool:
        """Whether `phase` trains more than one column at once."""
        assert self.trained is not None
        return 0 <= phase < len(self.trained) and len(self.trained[phase]) > 1

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, EvaluationMatrix)
            and np.array_equal(self.step, other.step)
            and np.array_equal(self.phase, other.phase)
            and np.array_equal(self.score, other.score, equal_nan=True)
            and self.trained == other.trained
            and self.tasks == other.tasks
        )

    __hash__ = None  # type: ignore[assignment]
