import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clbench.errors import ValidationError
from clbench.matrix import EvaluationMatrix


def test_default_training_is_one_column_per_phase():
    m = EvaluationMatrix([0, 1, 2], [-1, 0, 1], np.full((3, 2), 0.5))
    assert m.trained == ((0,), (1,))
    assert m.tasks == ("task-0", "task-1")
    assert (m.phases_of(0), m.phases_of(1)) == ((0,), (1,))
    assert not m.is_joint(0)


def test_a_column_trained_twice_knows_both_phases_and_a_joint_phase_is_told_apart():
    m = EvaluationMatrix([1, 2, 3], [0, 1, 2], np.full((3, 2), 0.5), trained=((0,), (0, 1), (0,)))
    assert m.phases_of(0) == (0, 1, 2)
    assert m.phases_of(1) == (1,)
    assert [m.is_joint(p) for p in (-1, 0, 1, 2, 3)] == [False, False, True, False, False]


def test_arrays_are_read_only_copies():
    score = np.full((1, 2), 0.5)
    m = EvaluationMatrix([1], [0], score)
    score[:] = 0.9
    assert m.score[0, 0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        m.score[0, 0] = 1.0


@pytest.mark.parametrize(
    ("step", "phase", "score", "extra", "message"),
    [
        ([1], [0], [0.5], {}, r"expected step \(E,\), phase \(E,\), score \(E, N\)"),
        ([1, 2], [0], [[0.5]], {}, r"expected step"),
        ([2, 1], [0, 0], [[0.5], [0.5]], {}, "ordered by step and phase"),
        ([1, 2], [1, 0], [[0.5], [0.5]], {}, "ordered by step and phase"),
        ([1], [-2], [[0.5]], {}, "phase must be >= -1, got -2"),
        ([1], [0], [[1.5]], {}, r"got .*1\.5.* at row 0, column 0"),
        ([1], [0], [[0.1, -0.5]], {}, "at row 0, column 1"),
        ([1], [0], [[np.inf]], {}, "at row 0, column 0"),
        ([1], [0], [[0.5]], {"trained": ((1,),)}, r"outside 0\.\.0"),
        ([1], [0], [[0.5]], {"tasks": ("a", "b")}, "expected 1 task names, got 2"),
    ],
)
def test_what_is_not_an_evaluation_matrix_is_refused(step, phase, score, extra, message):
    with pytest.raises(ValidationError, match=message):
        EvaluationMatrix(step, phase, score, **extra)


@given(hnp.arrays(np.float64, (3, 2), elements=st.one_of(st.just(np.nan), st.floats(0, 1))))
def test_nan_is_kept_and_equal_to_itself(score):
    a = EvaluationMatrix([1, 2, 3], [0, 0, 1], score)
    assert np.array_equal(np.isnan(a.score), np.isnan(score))
    assert a == EvaluationMatrix([1, 2, 3], [0, 0, 1], score.copy())
    assert a != EvaluationMatrix([1, 2, 4], [0, 0, 1], score)
