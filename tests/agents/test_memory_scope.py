"""How long a learner's memory lasts, what a policy of it begins with, and learning that happens in memory alone."""

import numpy as np
import pytest
import torch

from clbench.agents.backbones import state as states
from clbench.agents.composed import Composed
from clbench.errors import UserError

LASTING = ["task", "never"]
WINDOWED = ["cloning windows", "windows of text"]


@pytest.fixture(params=WINDOWED)
def windowed(request, world_of):
    return world_of(request.param)


def _memory(agent):
    return agent.state_dict()["learner"]["memory"]


def _same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(leaf, other[name]) for name, leaf in one.items())


def _networks(agent):
    return agent._learner.networks


@pytest.mark.parametrize("scope", [*LASTING, "episode"])
def test_a_lasting_memory_is_that_of_reading_all_episodes_as_one(windowed, scope):
    """With weights that never learn the memory is a function of what was read, which a second reader repeats without any reset."""
    agent = windowed.agent({"freeze": {"kind": "freeze", "after": 0}}, scope=scope)
    reader = _networks(agent)
    agent.begin_task(windowed.task(0))
    agent.learn(windowed.experience(0, 24 * windowed.slice))  # several episodes a lane
    experience = windowed.experience(0, 24 * windowed.slice)
    lanes = agent._learner.lanes if windowed.kind != "text" else agent._learner.batch_size
    state, seen = reader.initial_state(lanes), 0
    with torch.no_grad():
        while experience.remaining > 0:
            batch = agent._learner.draw(experience)
            seen += int(batch.starts.sum())
            state = reader(torch.from_numpy(batch.inputs), state).state
    assert seen > lanes  # otherwise there was nothing to forget
    assert _same_state(_memory(agent), state) == (scope != "episode")


@pytest.mark.parametrize("scope", LASTING)
def test_the_next_task_ends_scope_task_and_not_scope_never(windowed, scope):
    agent = windowed.agent(scope=scope)
    windowed.live(agent, [4 * windowed.slice])
    before = _memory(agent)
    agent.begin_task(windowed.task(1))
    after = _memory(agent)
    assert after is None if scope == "task" else _same_state(before, after)


def _first_answers(world, policy, rows):
    state = policy.initial_state(rows)
    if world.kind == "text":
        return policy.logits(np.tile(world.experience(1, 1).windows(1, 3)[0], (rows, 1)), state)[0]
    return policy.act(np.tile(world.experience(0, 1).steps(1)[0], (rows, 1)), state)[0]


def test_a_policy_begins_with_what_the_first_lane_remembers_and_writes_into_its_own_copy(windowed):
    agent = windowed.live(windowed.agent(scope="never"), [6 * windowed.slice])
    before, policy = _memory(agent), agent.policy(windowed.task(0))
    answers = _first_answers(windowed, policy, 3)  # the same question in all rows
    assert np.allclose(answers[:1], answers[1:], atol=1e-5)
    assert np.array_equal(_first_answers(windowed, policy, 3), answers)  # nor does the policy remember being asked
    assert _same_state(before, _memory(agent))
    reader, fresh = agent.policy(windowed.task(0)), agent.policy(windowed.task(0))
    reader._lasting = states.select(before, slice(1))
    fresh._lasting = None
    assert np.array_equal(_first_answers(windowed, reader, 3), answers)
    assert not np.allclose(_first_answers(windowed, fresh, 3), answers, atol=1e-4)


SHARED = {"kind": "memorizing-transformer", "width": 8, "heads": 2, "layers": 1, "segment_length": 2, "memory_size": 64, "topk": 4}


def test_a_policy_begins_with_what_all_lanes_remember_where_they_share_a_memory(windowed, through_a_file):
    agent, apart = (windowed.agent(backbone={**SHARED, "shared": shared}, scope="never") for shared in (True, False))
    for each in (agent, apart):
        windowed.live(each, [4 * windowed.slice])
    lanes = agent._learner.lanes if windowed.kind != "text" else agent._learner.batch_size
    fills = [each.policy(windowed.task(0))._lasting["memory.0.fill"].tolist() for each in (agent, apart)]
    assert fills == [[min(64, lanes * fills[1][0])], fills[1]] and 0 < fills[1][0] < 64
    again = windowed.agent(backbone={**SHARED, "shared": True}, seed=7, scope="never")
    again.load_state_dict(through_a_file(agent.state_dict()))
    asked = [_first_answers(windowed, each.policy(windowed.task(0)), 3) for each in (agent, again)]
    assert np.array_equal(*asked)
    for each in (agent, again):
        windowed.live(each, [4 * windowed.slice], first=1)
    assert windowed.same(agent, again) and _same_state(_memory(agent), _memory(again))


def test_replayed_rows_begin_anew(windowed):
    agent = windowed.live(windowed.agent({"replay": {"kind": "replay", "capacity": 20}}, scope="never"), [8 * windowed.slice])
    lanes = agent._learner.lanes if windowed.kind != "text" else agent._learner.batch_size
    assert len(next(iter(_memory(agent).values()))) == 2 * lanes
    batch = agent._learner.draw(windowed.experience(0, 8 * windowed.slice))
    joined = agent._method.wrap_buffer(batch)
    _, reset = agent._learner._memory_for(joined._replace(starts=np.ones(2 * lanes, dtype=bool)))
    assert reset.tolist() == [False] * lanes + [True] * lanes


@pytest.mark.parametrize("scope", LASTING)
def test_an_agent_that_was_saved_remembers(windowed, through_a_file, scope):
    agent = windowed.live(windowed.agent(scope=scope), [4 * windowed.slice])
    again = windowed.agent(seed=7, scope=scope)
    again.load_state_dict(through_a_file(agent.state_dict()))
    asked = [_first_answers(windowed, each.policy(windowed.task(0)), 3) for each in (agent, again)]
    assert np.array_equal(*asked)
    for each in (agent, again):
        windowed.live(each, [4 * windowed.slice], first=1)
    assert windowed.same(agent, again) and _same_state(_memory(agent), _memory(again))


def test_where_nothing_is_carried_a_lasting_scope_is_refused(world_of):
    with pytest.raises(UserError, match=r"scope=never carries memory from one example to the next; give a window > 0"):
        world_of("whole examples").agent(scope="never")
    with pytest.raises(UserError, match="scope=task needs a backbone with a memory"):
        world_of("cloning steps").agent(scope="task")
    with pytest.raises(UserError, match="scope"):
        world_of("cloning windows").agent(scope="forever")


def test_scope_segment_learns_without_what_earlier_segments_left(windowed):
    """One update from the same weights: what crosses a segment's end makes the difference."""
    lived = {scope: windowed.live(windowed.agent(scope=scope), [3 * windowed.slice]) for scope in ("segment", "episode")}
    one, other = (np.concatenate([leaf.numpy().ravel() for leaf in windowed.weights(agent).values()]) for agent in lived.values())
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_a_policy_asked_without_memory_reads_each_segment_as_the_first_and_learning_does_not_change(world_of):
    world = world_of("windows of text")
    plain, ablated = (world.live(world.agent(evaluated_reset=ablated), [6 * world.slice]) for ablated in (False, True))
    assert world.same(plain, ablated)
    reader, tokens = _networks(plain), world.experience(0, 8).windows(8, 9)[0]
    read = torch.from_numpy(np.concatenate([np.full((8, 1), world.task(0).input_size), tokens], axis=1))
    with torch.no_grad():
        segments = [reader(read[:, at : at + 4], reader.initial_state(8)).logits for at in range(0, 10, 4)]
    asked = ablated.policy(world.task(0)).logits(tokens, None)[0]
    np.testing.assert_allclose(asked, torch.cat(segments, dim=1)[:, 1:].numpy(), atol=1e-6)
    assert not np.allclose(asked, plain.policy(world.task(0)).logits(tokens, None)[0], atol=1e-3)


def test_a_method_that_looks_on_is_asked_without_memory_too(world_of):
    world, methods = world_of("whole examples"), {"knn": {"kind": "knn", "neighbours": 4}}
    cached = {"kind": "transformer-xl", "segment_length": 4, "memory_length": 4, "width": 16, "layers": 1, "heads": 2}
    agents = (world.agent(methods, backbone=cached, evaluated_reset=ablated) for ablated in (False, True))
    plain, ablated = (world.live(agent, [6 * world.slice]) for agent in agents)
    tokens = world.experience(0, 8).windows(8, 9)[0]
    one, other = (agent.policy(world.task(0)).logits(tokens, None)[0] for agent in (plain, ablated))
    assert np.isfinite(other).all() and not np.allclose(one, other, atol=1e-3)


def test_a_memory_without_segments_cannot_be_left_out(world_of):
    with pytest.raises(UserError, match="evaluated_reset=true needs a backbone that reads in segments, and transformer reads without"):
        world_of("whole examples").agent(evaluated_reset=True)


# -- weights that no longer learn ----------------------------------------------------------------------------------------


def test_frozen_weights_stay_and_memory_goes_on(windowed):
    agent = windowed.agent({"freeze": {"kind": "freeze", "after": 1}}, scope="never")
    windowed.live(agent, [4 * windowed.slice])
    weights, memory, steps = {n: w.clone() for n, w in windowed.weights(agent).items()}, _memory(agent), agent.gradient_steps
    assert steps > 0
    windowed.live(agent, [4 * windowed.slice], first=1)
    assert all(torch.equal(weights[name], weight) for name, weight in windowed.weights(agent).items())
    assert agent.gradient_steps == steps and np.isfinite(agent.diagnostics()["loss"])
    assert not _same_state(memory, _memory(agent))


def test_a_frozen_agent_that_was_saved_stays_frozen(windowed, through_a_file):
    methods = {"freeze": {"kind": "freeze", "after": 1}}
    agent = windowed.live(windowed.agent(methods), [2 * windowed.slice])
    agent.begin_task(windowed.task(1))
    again = windowed.agent(methods, seed=5)
    again.load_state_dict(through_a_file(agent.state_dict()))
    again.learn(windowed.experience(1, 2 * windowed.slice))
    assert windowed.same(agent, again)


def test_only_what_is_named_goes_on_learning(world):
    learns = {"text": "embedding.*", "control": "actor.head.*", "demonstrations": "head.*"}[world.kind]
    methods = {"freeze": {"kind": "freeze", "after": 1, "learns": [learns]}}
    agent = world.live(world.agent(methods), [4 * world.slice])
    before = {name: weight.clone() for name, weight in world.weights(agent).items()}
    steps = agent.gradient_steps
    world.live(agent, [4 * world.slice], first=1)
    moved = {name for name, weight in world.weights(agent).items() if not torch.equal(before[name], weight)}
    moved -= {name for name in moved if name.startswith("targets.")}  # which follow critics that stand still
    assert moved == {name for name in before if name.startswith(learns[:-1])}
    assert agent.gradient_steps > steps


def test_what_cannot_be_frozen_is_refused(world_of):
    world = world_of("cloning steps")
    with pytest.raises(UserError, match=r"freeze: no parameter matches 'embeding\.\*' in learns; the parameters are "):
        world.agent({"freeze": {"kind": "freeze", "learns": ["embeding.*"]}})
    with pytest.raises(UserError, match="freeze: after must be at least 0"):
        world.agent({"freeze": {"kind": "freeze", "after": -1}})
    with pytest.raises(UserError, match=r"freeze\.learns: expected"):
        world.agent({"freeze": {"kind": "freeze", "learns": "head"}})


def test_composed_reports_the_bytes_of_one_streams_memory(windowed):
    agent = windowed.live(windowed.agent(), [2 * windowed.slice])
    assert isinstance(agent, Composed)
    assert agent.diagnostics()["memory_bytes_per_stream"] == states.bytes(_networks(agent).initial_state(1))
