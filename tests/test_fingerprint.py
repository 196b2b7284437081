"""A fingerprint tells states apart, and nothing that cannot be seen in a state changes it."""

import numpy as np
import pytest
import torch

from clbench.checkpoint import encode, fingerprint

STATE = {"a": torch.zeros(3), "b": [1, 2.0, None, "x"], "c": (True,)}


def of(**changes):
    return fingerprint(encode({**STATE, **changes}, "state"))


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.zeros(3, 1)},
        {"a": torch.zeros(3, dtype=torch.double)},
        {"a": torch.tensor([0.0, 0.0, -0.0])},
        {"a": np.zeros(3, dtype=np.float32)},
        {"a": torch.zeros(4)},
        {"b": [1, 2, None, "x"]},
        {"b": [1, 2.0, None, "y"]},
        {"b": [1, 2.0, None]},
        {"c": [True]},
        {"d": None},
    ],
    ids=str,
)
def test_any_difference_shows(change):
    assert of(**change) != of()


def test_equal_states_have_one_fingerprint_however_they_lie_in_memory():
    assert of(a=torch.zeros(3)) == of()
    matrix = torch.arange(6.0).view(2, 3)
    assert of(a=matrix.t()) == of(a=matrix.t().contiguous())
    assert of(a=torch.tensor([5]).expand(1)) == of(a=torch.tensor([5]))
    assert of(a=torch.ones(1).expand(4)) == of(a=torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_every_type_and_no_entry_at_all_have_one(dtype):
    for tensor in (torch.zeros((), dtype=dtype), torch.zeros(0, dtype=dtype), torch.zeros(2, 3, dtype=dtype)):
        assert len(of(a=tensor)) == 16
