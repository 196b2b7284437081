import time

import numpy as np
import pytest

from clbench.errors import ContractError
from clbench.experience import Demonstrations, Interaction, JointSource, Text, Transition


def episodes():
    """Three episodes of 5, 9 and 3 steps; the first feature says which (100 e) and where (t)."""
    return [(np.arange(n)[:, None] + 100.0 * e + np.zeros((1, 2)), np.full((n, 1), float(e))) for e, n in enumerate([5, 9, 3])]


def granted(experience, units):
    experience.meter.grant(units)
    return experience


class Numbered:
    """Example i: 3 + i % 5 tokens, i + 1 then counting up; all but the first are to be predicted."""

    longest, pad = 7, 0

    def examples(self, index):
        lengths = 3 + index % 5
        inside = np.arange(7) < lengths[:, None]
        return np.where(inside, (index[:, None] + 1) * 10 + np.arange(7), 0), inside & (np.arange(7) > 0), lengths


def test_steps_are_counted_and_overspending_is_refused_before_anything_is_handed_out():
    d = granted(Demonstrations(episodes(), 0), 10)
    d.steps(6)
    assert d.remaining == 4
    with pytest.raises(ContractError, match=r"overspent: steps\(5\) asks for 5 demonstration steps, 4 of 10 remain"):
        d.steps(5)
    assert d.remaining == 4
    with pytest.raises(ContractError, match="expected at least 1"):
        d.steps(0)


def test_pairs_stay_together():
    observations, actions = granted(Demonstrations(episodes(), 0), 500).steps(500)
    assert np.array_equal(observations[:, 0] // 100, actions[:, 0])
    assert {float(x) for x in observations[:, 0]} == {100.0 * e + t for e, n in enumerate([5, 9, 3]) for t in range(n)}


def test_lanes_go_on_where_they_stopped_and_episodes_are_padded_by_their_last_pair():
    d = granted(Demonstrations(episodes(), 0), 10_000)
    position = [None, None]
    for _ in range(100):
        observations, actions, starts = d.windows(2, 4)
        for lane in range(2):
            episode = int(actions[lane, 0, 0])
            begin = 0 if starts[lane] else position[lane]
            last = [5, 9, 3][episode] - 1
            expected = [100.0 * episode + min(begin + t, last) for t in range(4)]
            assert observations[lane, :, 0].tolist() == expected
            position[lane] = begin + 4
            if begin + 3 >= last:
                position[lane] = None
            assert starts[lane] == (begin == 0)
    assert d.meter.consumed == 100 * 2 * 4


def test_joint_demonstrations_give_every_task_the_same_share_of_steps():
    # one task has 17 steps, the other 2: in proportion to steps the second would get 11 %
    other = Demonstrations([(np.full((2, 2), -1.0), np.zeros((2, 1)))], 0)
    joint = granted(Demonstrations.joint([Demonstrations(episodes(), 0), other], 3), 4000)
    observations, _ = joint.steps(4000)
    assert 0.46 < np.mean(observations[:, 0] == -1.0) < 0.54  # sd .008


def test_examples_are_handed_out_whole_padded_and_counted_when_complete():
    text = granted(Text(Numbered(), 0), 5)
    seen = {}
    while text.remaining:
        tokens, mask, starts = text.windows(2, 4)
        for lane in range(2):
            if starts[lane]:
                seen.setdefault(lane, []).append([])
            seen[lane][-1] += tokens[lane].tolist()
            assert not mask[lane][tokens[lane] == 0].any()
    examples = sorted([t for t in example if t] for lane in seen.values() for example in lane if any(example))
    expected = sorted([(i + 1) * 10 + t for t in range(3 + i % 5)] for i in range(5))
    assert examples == expected
    assert text.meter.consumed == 5
    with pytest.raises(ContractError, match=r"overspent: windows\(2, 4\) when 0 of 5 examples remain"):
        text.windows(2, 4)


def test_how_text_is_granted_does_not_change_the_windows():
    whole = granted(Text(Numbered(), 0), 12)
    sliced = Text(Numbered(), 0)
    sliced.meter.planned = 12
    collected = []
    for total in (3, 7, 12):
        sliced.meter.grant(total - sliced.meter.granted)
        while sliced.remaining:
            collected.append(sliced.windows(3, 4))
    expected = []
    while whole.remaining:
        expected.append(whole.windows(3, 4))
    assert len(expected) == len(collected)
    for left, right in zip(expected, collected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_finite_set_is_repeated_in_a_new_order_and_its_prefix_is_the_same_set():
    text = granted(Text(Numbered(), 0, count=4), 40)
    first = [text.windows(4, 7)[0][:, 0].tolist() for _ in range(10)]
    assert all(sorted(turn) == [10, 20, 30, 40] for turn in first)
    assert len({tuple(turn) for turn in first}) > 1


def test_examples_are_made_ahead_and_none_that_will_not_be_asked_for():
    made = []

    class Counted(Numbered):
        def examples(self, index):
            made.append(len(index))
            assert index.max() < 1300
            return super().examples(index)

    text = Text(Counted(), 0)
    text.meter.planned = 1300
    for grant in (7, 600, 693):  # a stretch may end in the middle of what was made
        text.meter.grant(grant)
        while text.remaining:
            text.windows(5, 3)
    assert text.meter.consumed == 1300 and len(made) == 3 and sum(made) < 1300 + 2 * 5
    begun = granted(Text(Counted(), 0), 40)
    first = [begun.windows(5, 7)[0] for _ in range(8)]
    alone = np.concatenate([Numbered().examples(np.array([i]))[0] for i in range(40)])
    assert np.array_equal(np.concatenate(first), alone)


def test_of_long_examples_fewer_are_made_ahead():
    made = []

    class Long(Numbered):
        longest = 1 << 18

        def examples(self, index):
            made.append(len(index))
            tokens, mask, lengths = super().examples(index)
            return *(np.pad(part, ((0, 0), (0, self.longest - 7))) for part in (tokens, mask)), lengths

    text = granted(Text(Long(), 0), 100)
    for _ in range(2):
        text.windows(3, 7)
    assert made == [4, 4]


def test_changing_lanes_in_the_middle_of_an_example_is_refused():
    text = granted(Text(Numbered(), 0), 12)
    text.windows(5, 4)
    with pytest.raises(ContractError, match="5 lanes are in the middle of an example"):
        text.windows(2, 4)


def test_joint_text_takes_its_sources_in_turn():
    joint = JointSource([Numbered(), Numbered()])
    tokens, _, lengths = joint.examples(np.array([0, 1, 2, 5]))
    assert tokens[:, 0].tolist() == [10, 10, 20, 30]
    assert lengths.tolist() == [3, 3, 4, 5]


@pytest.mark.parametrize(
    "make", [lambda: Demonstrations(episodes(), 4), lambda: Text(Numbered(), 4, count=6)], ids=["demonstrations", "text"]
)
def test_a_saved_experience_goes_on_as_if_it_had_never_stopped(make):
    def take(experience):
        windows = experience.windows(2, 3)
        return [*windows, *(experience.steps(5) if isinstance(experience, Demonstrations) else ())]

    one = granted(make(), 1000)
    for _ in range(3):
        take(one)
    other = make()
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        assert all(np.array_equal(a, b) for a, b in zip(take(one), take(other), strict=True))
    assert one.remaining == other.remaining


class Still:
    """A world of `count` environments in which nothing happens, which takes a hundredth of a second."""

    def __init__(self, count, first):
        self.observation = np.arange(first, first + count, dtype=np.float32)[:, None]
        self.actions = []

    def step(self, action):
        time.sleep(0.01)
        self.actions.append(action)
        never = np.zeros(len(action), dtype=bool)
        return Transition(self.observation[:, 0], never, never, self.observation, self.observation)

    def state_dict(self):
        return {"made": len(self.actions)}

    def load_state_dict(self, state):
        self.actions = [None] * state["made"]


def test_joint_worlds_stand_side_by_side():
    worlds = [Still(2, 0), Still(3, 10)]
    joint = Interaction.joint([Interaction(world) for world in worlds], 0)
    joint.meter.grant(12)
    assert joint.observation[:, 0].tolist() == [0, 1, 10, 11, 12]
    transition = joint.step(np.arange(5.0)[:, None])
    assert transition.reward.tolist() == [0, 1, 10, 11, 12] and joint.remaining == 7
    assert [world.actions[0][:, 0].tolist() for world in worlds] == [[0, 1], [2, 3, 4]]
    with pytest.raises(ContractError, match=r"expected actions \(5, A\), got \(2, 1\)"):
        joint.step(np.zeros((2, 1)))
    other = Interaction.joint([Interaction(Still(2, 0)), Interaction(Still(3, 10))], 0)
    other.load_state_dict(joint.state_dict())
    assert other.remaining == 7 and [len(world.actions) for world in other._world._worlds] == [1, 1]


def test_the_time_that_a_world_takes_is_measured():
    experience = Interaction(Still(2, 0))
    experience.meter.grant(6)
    for _ in range(3):
        experience.step(np.zeros((2, 1)))
    assert 0.03 <= experience.seconds < 1.0
