"""AdamW with one count of steps is torch's, bit for bit, also where parameters do not move together."""

import copy

import pytest
import torch
from torch import nn

from clbench.agents.learners.adamw import AdamW

SETTINGS = {"betas": (0.9, 0.99), "weight_decay": 0.01}


def pair(dtypes=(torch.float32,) * 4):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape).to(dtype)) for shape, dtype in zip([(7, 5), (5,), (), (33, 4)], dtypes, strict=True)]
    theirs = copy.deepcopy(ours)
    return (ours, AdamW(ours, 1e-2, **SETTINGS)), (theirs, torch.optim.AdamW(theirs, 1e-2, **SETTINGS, fused=True))


def stepped(two, moving, seed):
    """One step of both with the same gradients, of those of the parameters that are `moving`."""
    for weights, optimizer in two:
        torch.manual_seed(seed)
        for number, weight in enumerate(weights):
            gradient = torch.randn(weight.shape).to(weight.dtype)
            weight.grad = gradient if number in moving else None
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + seed)
        optimizer.step()
    (ours, one), (theirs, other) = two
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for mine, its in zip(ours, theirs, strict=True):
        assert set(one.state[mine]) == set(other.state[its])
        assert all(torch.equal(one.state[mine][name], other.state[its][name]) for name in one.state[mine])


ALL = {0, 1, 2, 3}
PATTERNS = {
    "together": [ALL] * 6,
    "one stays behind": [ALL, ALL, {0, 1, 3}, {0, 1, 3}, ALL, ALL],
    "one comes later": [{0, 1}, {0, 1}, ALL, ALL, ALL, {2}],
    "nothing moves": [ALL, set(), set(), ALL, ALL],
    "by turns": [{0, 1}, {2, 3}] * 4,
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_it_is_torchs(pattern):
    two = pair()
    for seed, moving in enumerate(pattern):
        stepped(two, moving, seed)


def test_parameters_of_two_types_move_as_torch_has_it():
    two = pair((torch.float32, torch.bfloat16, torch.float32, torch.bfloat16))
    for seed in range(4):
        stepped(two, ALL, seed)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_saved_goes_on_in_either(shared):
    """A state that was copied leaf by leaf, or one in which counts are still one tensor."""
    two = pair()
    for seed in range(3):
        stepped(two, ALL, seed)
    states = [optimizer.state_dict() if shared else copy.deepcopy(optimizer.state_dict()) for _, optimizer in two]
    assert [group["lr"] for group in states[0]["param_groups"]] == [group["lr"] for group in states[1]["param_groups"]]
    swapped = [(copy.deepcopy(weights), kind) for (weights, _), kind in zip(two, (torch.optim.AdamW, AdamW), strict=True)]
    fresh = [(weights, kind(weights, 1e-2, **SETTINGS, **({} if kind is AdamW else {"fused": True}))) for weights, kind in swapped]
    for (_, optimizer), state in zip(fresh, reversed(states), strict=True):
        optimizer.load_state_dict(state)
    for seed in range(3, 6):
        stepped(fresh[::-1], {0, 1, 3} if seed == 4 else ALL, seed)


def test_counts_are_one_where_parameters_move_together():
    (weights, optimizer), _ = two = pair()
    stepped(two, ALL, 0)
    assert len({id(optimizer.state[weight]["step"]) for weight in weights}) == 1
    stepped(two, {0, 1}, 1)
    assert [float(optimizer.state[weight]["step"]) for weight in weights] == [2, 2, 1, 1]
