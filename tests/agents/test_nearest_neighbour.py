"""The agent that is only memory: the same answers from both searches, bounded room, and text from suffixes."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clbench.agents.nearest_neighbour import NearestNeighbour, Pairs, embedded, suffixes, token_codes
from clbench.checkpoint import size_in_bytes
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

CONTROL = TaskInfo(0, 2, "demonstrations", 7, 3)
TEXT = TaskInfo(None, 1, "text", 7, 7)


def _taught(task, experience, **options):
    agent = NearestNeighbour(task, 0, **options)
    agent.learn(experience)
    return agent


@pytest.mark.parametrize("neighbours", [1, 5, 1000])
def test_faiss_and_torch_answer_alike(shown, pairs, neighbours):
    seen = pairs(0, 60, 77)[0]
    answers = []
    for index in ("faiss", "torch"):
        policy = _taught(CONTROL, shown(0, 3000), index=index, neighbours=neighbours).policy(CONTROL)
        answers.append(policy.act(seen, policy.initial_state(60))[0])
    assert answers[0].shape == (60, 3) and answers[0].dtype == np.float32
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


def test_faiss_and_torch_read_text_alike(told):
    tokens = told(1, 50).windows(50, 9)[0]
    answers = []
    for index in ("faiss", "torch"):  # one neighbour: of several, some are equally far
        policy = _taught(TEXT, told(1, 300), index=index, neighbours=1).policy(TEXT)
        answers.append(policy.logits(tokens, policy.initial_state(50))[0])
    assert answers[0].shape == (50, 9, 7)
    assert (answers[0].argmax(-1) == answers[1].argmax(-1)).mean() > 0.99


def test_what_was_seen_is_repeated_and_nearer_neighbours_count_more(pairs):
    """Keys 0 and 3 with actions 1 and -0.5. At 1: squared distances 1 and 4, weights 4/5 and 1/5: 0.8 - 0.1 = 0.7."""
    agent = NearestNeighbour(TaskInfo(0, 1, "demonstrations", 1, 1), 0, neighbours=2)
    agent._pairs.offer(np.array([[0.0], [3.0]], dtype=np.float32), np.array([[1.0], [-0.5]], dtype=np.float32))
    actions, _ = agent.policy(CONTROL).act(np.array([[1.0], [0.0], [3.0]]), None)
    np.testing.assert_allclose(actions.ravel(), [0.7, 1.0, -0.5], atol=1e-5)


def test_memory_does_not_forget(shown, pairs):
    agent, errors = NearestNeighbour(CONTROL, 0), []
    for task in (0, 1):
        agent.learn(shown(task, 5000))
        seen, done = pairs(0, 300, 77)
        errors.append(((agent.policy(CONTROL).act(seen, None)[0] - done) ** 2).mean())
    assert errors[0] < 0.15  # 420 pairs in five dimensions; the variance of the actions is 0.45
    assert errors[1] < 1.2 * errors[0]


def test_demonstrations_drawn_twice_are_kept_once_and_room_is_bounded(shown):
    """20 episodes of 21 steps: 420 pairs, of which 5000 draws leave out one in e^12."""
    everything = _taught(CONTROL, shown(0, 5000))
    assert everything.diagnostics() == {"stored": 420.0}
    bounded = _taught(CONTROL, shown(0, 5000), capacity=100)
    assert bounded.diagnostics() == {"stored": 100.0}
    assert len(np.unique(bounded._pairs.keys, axis=0)) == 100
    assert size_in_bytes(everything.state_dict()) == 420 * (7 + 3) * 4
    assert size_in_bytes(NearestNeighbour(CONTROL, 0).state_dict()) == 0


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 8))
def test_pairs_are_different_ones_of_those_offered(values, capacity):
    pairs = Pairs(capacity, np.random.default_rng(0))
    twin = Pairs(capacity, np.random.default_rng(5))
    for part in np.array_split(np.array(values, dtype=np.float32)[:, None], 3):
        twin.load_state_dict(pairs.state_dict())
        for memory in (pairs, twin):
            memory.offer(part, part * 2)
    kept = pairs.keys.ravel().tolist()
    assert len(set(kept)) == len(kept) == min(capacity, len(set(values))) and set(kept) <= set(values)
    assert pairs.values.ravel().tolist() == [2 * value for value in kept]
    assert twin.keys.ravel().tolist() == kept


def test_a_bounded_memory_is_a_uniform_sample():
    """4 of 16 in 400 memories: 100 each, variance 400 / 4 * 3 / 4 = 75; chi-square with 15 degrees of freedom up to 16/15."""
    kept = np.zeros(16)
    for seed in range(400):
        memory = Pairs(4, np.random.default_rng(seed))
        memory.offer(np.arange(16.0)[:, None], np.zeros((16, 1)))
        kept[memory.keys.ravel().astype(int)] += 1
    assert np.sum((kept - 100) ** 2) / 75 < 16 + 4 * 5.5


def test_a_snapshot_stays_and_copies_go_on(shown, pairs):
    agent = _taught(CONTROL, shown(0, 200))
    seen = pairs(0, 40, 77)[0]
    policy = agent.policy(CONTROL)
    answers = policy.act(seen, None)[0]
    assert agent.policy(CONTROL) is policy
    twin, kept = copy.deepcopy(agent), agent.state_dict()
    agent.learn(shown(1, 200))
    assert np.array_equal(policy.act(seen, None)[0], answers)
    assert np.array_equal(pickle.loads(pickle.dumps(policy)).act(seen, None)[0], answers)
    assert not np.array_equal(agent.policy(CONTROL).act(seen, None)[0], answers)
    assert np.array_equal(twin.policy(CONTROL).act(seen, None)[0], answers)
    resumed = NearestNeighbour(CONTROL, 3)
    resumed.load_state_dict(kept)
    for other in (twin, resumed):
        other.learn(shown(1, 200))
        assert np.array_equal(other.policy(CONTROL).act(seen, None)[0], agent.policy(CONTROL).act(seen, None)[0])


def test_before_anything_was_seen_it_answers_all_the_same(told):
    assert NearestNeighbour(CONTROL, 0).policy(CONTROL).act(np.ones((2, 7)), None)[0].tolist() == [[0.0] * 3] * 2
    policy = NearestNeighbour(TEXT, 0).policy(TEXT)
    logits, state = policy.logits(np.zeros((2, 4), dtype=np.int64), policy.initial_state(2))
    assert logits.shape == (2, 4, 7) and np.ptp(logits) == 0.0 and state.shape == (2, 8)


def test_suffixes_end_at_each_token_and_recent_tokens_weigh_more():
    assert suffixes(np.array([[1, 2, 3, 4]]), 3).tolist() == [[[1, 2, 3], [2, 3, 4]]]
    codes = token_codes(10, 0)
    one, old, new = embedded(np.array([[1, 2, 3], [9, 2, 3], [1, 2, 9]]), codes)
    assert np.linalg.norm(one - old) < np.linalg.norm(one - new)
    assert np.linalg.norm(one) ** 2 == pytest.approx(1 + 0.8**2 + 0.8**4, rel=1e-5)


def test_text_that_was_read_is_completed(told):
    """The same 200 examples again: a word of four symbols of five is a suffix that names what follows."""
    tokens, mask, _ = told(1, 200).windows(200, 9)
    policy = _taught(TEXT, told(1, 200)).policy(TEXT)
    state, logits = policy.initial_state(200), []
    for part in (tokens[:, :3], tokens[:, 3:6], tokens[:, 6:]):  # its state carries the last tokens
        scores, state = policy.logits(part, state)
        logits.append(scores)
    answers = np.concatenate(logits, axis=1)[:, :-1].argmax(-1)
    assert (answers == tokens[:, 1:])[mask[:, 1:]].mean() > 0.99


@pytest.mark.parametrize("units", [1, 63, 65, 4097])
def test_every_odd_budget_is_spent_exactly(shown, told, units):
    for task, experience in ((CONTROL, shown(0, units)), (TEXT, told(0, min(units, 65)))):
        _taught(task, experience)
        assert experience.remaining == 0 and experience.meter.consumed == experience.meter.granted


def test_impossible_options_are_refused():
    with pytest.raises(UserError, match="expected auto, faiss or torch, got 'annoy'"):
        NearestNeighbour(CONTROL, 0, index="annoy")
    with pytest.raises(UserError, match="must be at least 1 and smoothing > 0, got 0, 20000"):
        NearestNeighbour(CONTROL, 0, neighbours=0)


def test_where_it_would_have_to_act_it_says_so():
    with pytest.raises(UserError, match="nearest-neighbour copies what it was shown"):
        NearestNeighbour(TaskInfo(None, 1, "interaction", 4, 2), 0)
