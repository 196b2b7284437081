"""Steps that are kept: transitions over several of them, against sums by hand; and who explores a new task."""

import numpy as np
import torch

from clbench.agents.learners.exploration import BestReturn
from clbench.agents.learners.transitions import Steps, TransitionBuffer, Transitions

CPU = torch.device("cpu")


def filled(capacity, n_step, times, *, lanes=2, length=4, ends=False):
    """Step t of lane e: observation and action 10 t + e, reward 1 + t, an episode of `length` steps, which terminates if it `ends`."""
    buffer = TransitionBuffer(capacity, n_step, 0.5, CPU)
    for t in range(times):
        names = 10.0 * t + torch.arange(lanes)
        over = torch.full((lanes,), float(t % length == length - 1))
        buffer.keep(Steps(names[:, None], names[:, None], torch.full((lanes,), 1.0 + t), over * ends, over, names[:, None] + 10))
    return buffer


def of_lane(buffer, lane):
    """{t: (reward, discount, following)} of every transition of one lane, in the order in which they came."""
    parts = list(buffer.everything())
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return {
        int(seen) // 10: (reward.item(), discount.item(), int(following))
        for seen, _, reward, discount, following in zip(*columns, strict=True)
        if int(seen) % 10 == lane
    }


def test_one_step_is_what_happened():
    found = of_lane(filled(20, 1, 6), 1)
    assert found == {t: (1.0 + t, 0.5, 10 * (t + 1) + 1) for t in range(6)}


def test_three_steps_are_summed_within_an_episode_and_what_is_kept():
    """Episodes are t = 0..3 and 4..7; of the second only 4 and 5 have come. Rewards are 1 + t, the discount is 1/2.

    t=0: 1 + 2/2 + 3/4; t=1: 2 + 3/2 + 4/4; t=2: 3 + 4/2 (two steps, then the clock); t=3: 4; t=4: 5 + 6/2; t=5: 6.
    """
    assert of_lane(filled(20, 3, 6), 0) == {
        0: (2.75, 0.125, 30),
        1: (4.5, 0.125, 40),
        2: (5.0, 0.25, 40),
        3: (4.0, 0.5, 40),
        4: (8.0, 0.25, 60),
        5: (6.0, 0.5, 60),
    }


def test_what_is_cut_goes_on_no_more():
    """After t = 5, in the middle of an episode, another world follows: t = 4 is summed with 5 and neither with 6."""
    buffer = filled(20, 3, 6)
    buffer.cut()
    names = torch.tensor([[60.0], [61.0]])
    buffer.keep(Steps(names, names, torch.full((2,), 7.0), torch.zeros(2), torch.zeros(2), names + 10))
    found = of_lane(buffer, 0)
    assert found[4] == (5 + 6 / 2, 0.25, 60) and found[5] == (6.0, 0.5, 60) and found[3] == (4.0, 0.5, 40)


def test_nothing_is_expected_of_what_follows_the_end():
    found = of_lane(filled(20, 3, 6, ends=True), 0)
    assert {t: discount for t, (_, discount, _) in found.items()} == {0: 0.125, 1: 0.0, 2: 0.0, 3: 0.0, 4: 0.25, 5: 0.5}


def test_round_a_full_buffer_the_oldest_are_gone_and_sums_do_not_reach_into_the_new():
    """Room for 7 places of 2 lanes: after 6 steps the last 7 of 12 are there, those of lane 1 from t = 2 on."""
    buffer = filled(7, 3, 6, length=100)
    assert list(of_lane(buffer, 1)) == [2, 3, 4, 5] and list(of_lane(buffer, 0)) == [3, 4, 5]
    assert of_lane(buffer, 1)[2] == (3 + 4 / 2 + 5 / 4, 0.125, 51)
    assert of_lane(buffer, 1)[4] == (5 + 6 / 2, 0.25, 61)
    assert of_lane(buffer, 1)[5] == (6.0, 0.5, 61)


def test_transitions_become_items_and_come_back():
    torch.manual_seed(0)
    there = Transitions(torch.randn(5, 3), torch.randn(5, 2), torch.randn(5), torch.rand(5), torch.randn(5, 3))
    batch = there.to_batch(kept=True)
    assert batch.inputs.shape == (5, 1, 3) and batch.targets.shape == (5, 1, 2 + 2 + 3) and batch.kept and batch.fresh == 5
    for one, other in zip(there, Transitions.of(batch, 2, CPU), strict=True):
        assert torch.equal(one, other)


def test_a_buffer_goes_on_from_what_was_saved():
    buffer, other = filled(7, 3, 5), TransitionBuffer(7, 3, 0.5, CPU)
    other.load_state_dict(buffer.state_dict())
    for one in (buffer, other):
        one.keep(Steps(*(torch.ones(2, 1) * 99 for _ in range(2)), torch.ones(2), torch.zeros(2), torch.zeros(2), torch.ones(2, 1)))
    for one, another in zip(buffer.everything(), other.everything(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, another, strict=True))


# ---- exploration


def played(trial, rewards, steps, *, length=3):
    """Let heads play: head h earns rewards[h] a step; episodes of `length` steps. The heads at each step."""
    seen = []
    for t in range(steps):
        heads = trial.playing()
        seen.append(heads.tolist())
        over = np.full(len(heads), t % length == length - 1)
        trial.hear(np.array([rewards[head] for head in heads]), over)
    return seen


def test_with_more_environments_than_heads_each_is_tried_at_once_and_the_best_goes_on():
    trial = BestReturn([0, 2, 5], environments=4)
    seen = played(trial, {0: 1.0, 2: 3.0, 5: 2.0}, 5)
    assert seen == [[0, 2, 5, 0]] * 3 + [[2, 2, 2, 2]] * 2 and trial.best == 2


def test_with_fewer_environments_heads_are_tried_one_after_another():
    """One episode each: environment 0 tries 0, 2, 5 and environment 1 tries 1, 4, and then 4 again, which does not count."""
    trial = BestReturn([0, 1, 2, 4, 5], environments=2)
    seen = played(trial, {0: 1.0, 1: 1.0, 2: 1.0, 4: 9.0, 5: 2.0}, 10)
    assert seen == [[0, 1]] * 3 + [[2, 4]] * 3 + [[5, 4]] * 3 + [[4, 4]]
    assert trial._counts.tolist() == [1, 1, 1, 1, 1]


def test_the_mean_return_decides_and_not_the_number_of_trials():
    trial = BestReturn([0, 1], environments=3)  # 0 is tried twice
    played(trial, {0: 2.0, 1: 3.0}, 3)
    assert trial.best == 1


def test_a_trial_goes_on_from_what_was_saved():
    trial = BestReturn([0, 1, 2, 4, 5], environments=2)
    rewards = {0: 1.0, 1: 1.0, 2: 1.0, 4: 9.0, 5: 2.0}
    played(trial, rewards, 4)  # in the middle of the second episode
    again = BestReturn.of(trial.state_dict())
    assert played(trial, rewards, 8, length=5) == played(again, rewards, 8, length=5)
