import numpy as np
import pytest

from clbench import seeding
from clbench.errors import UserError


def test_equal_purposes_give_equal_numbers_and_others_differ():
    first = seeding.generator(3, "buffer").random(4)
    assert np.array_equal(first, seeding.generator(3, "buffer").random(4))
    assert not np.array_equal(first, seeding.generator(3, "order").random(4))
    assert not np.array_equal(first, seeding.generator(4, "buffer").random(4))


def test_purpose_parts_do_not_run_together():
    assert seeding.integer(0, "ab", "c") != seeding.integer(0, "a", "bc")


def test_numbers_are_frozen():
    # golden: a change of the derivation would move every score of every stream
    assert seeding.integer(0, "agent") == 2072255248
    assert seeding.integer(1, "experience", "push", 0) == 2479475885


def test_no_global_generator_is_touched():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    seeding.generator(5, "anything").random(100)
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(UserError, match="seed must be an integer >= 0"):
        seeding.generator(seed, "agent")
