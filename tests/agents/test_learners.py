"""Data flow, losses and snapshots of the learners."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch

from clbench.agents.composed import Composed
from clbench.agents.learners.batch import whole_items
from clbench.agents.methods.method import Chain
from clbench.errors import UserError


@pytest.mark.parametrize("units", [1, 15, 33, 70])
def test_every_odd_budget_is_spent_exactly(world, units):
    agent, experience, units = world.agent(), world.experience(0), units * world.least
    for _ in range(3):  # a phase of 3 * units, with two evaluation points; text may run over a point but not over the phase
        experience.meter.planned = 3 * units
        experience.meter.grant(min(units, 3 * units - experience.meter.granted))
        agent.learn(experience)
        assert experience.remaining == 0
    assert experience.meter.consumed == 3 * units


def test_demonstrations_too_few_for_a_window_are_spent_without_disturbing_the_lanes(world_of):
    world = world_of("cloning windows")  # 4 lanes, windows of 8
    agent, experience = world.agent(), world.experience(0, 32 + 3)
    agent.learn(experience)
    before = experience.state_dict()["lane_offset"].copy()
    assert agent.gradient_steps == 1 and list(before) == [8, 8, 8, 8]
    experience.meter.grant(9)  # windows of 2, then 1 unit over
    agent.learn(experience)
    assert agent.gradient_steps == 2 and list(experience.state_dict()["lane_offset"]) == [10, 10, 10, 10]


@pytest.mark.parametrize("methods", [{}, {"replay": {"kind": "replay", "capacity": 50}}])
def test_how_often_learn_is_called_changes_nothing(world, methods):
    once, often = world.agent(methods), world.agent(methods)
    once.learn(world.experience(0, 6 * world.slice))
    experience = world.experience(0)
    experience.meter.planned = 6 * world.slice
    for batches in (1, 3, 2):
        experience.meter.grant(batches * world.slice)
        often.learn(experience)
    assert once.gradient_steps == often.gradient_steps > 0
    assert world.same(once, often)


ALL_METHODS = {
    "replay": {"kind": "replay", "capacity": 20},
    "ewc": {"kind": "ewc", "samples": 5},
    "mas": {"kind": "mas", "samples": 5},
    "l2": {"kind": "l2", "strength": 0.1},
    "a-gem": {"kind": "a-gem", "capacity": 10, "batch_size": 4},
    "packnet": {"kind": "packnet", "samples": 20, "batch_size": 4, "tasks": 3},
    "cloning": {"kind": "cloning", "capacity": 10, "batch_size": 4},
}


def test_a_resumed_agent_goes_on_bit_for_bit(world, through_a_file):
    """Stopped in the middle of the second phase, with every method and with dropout."""
    agent = world.live(world.agent(ALL_METHODS, backbone=_dropout(world)), [4 * world.slice])
    agent.begin_task(world.task(1))
    experience = world.experience(1, 3 * world.slice)
    experience.meter.planned = 9 * world.slice
    agent.learn(experience)
    kept, place = through_a_file(agent.state_dict()), through_a_file(experience.state_dict())
    _finish(world, agent, experience)

    resumed, experience = world.agent(ALL_METHODS, seed=99, backbone=_dropout(world)), world.experience(1)
    resumed.load_state_dict(kept)
    experience.load_state_dict(place)
    _finish(world, resumed, experience)
    assert world.same(agent, resumed)
    assert agent.gradient_steps == resumed.gradient_steps and agent.diagnostics() == resumed.diagnostics()
    _assert_equal(agent.state_dict(), resumed.state_dict())


def _dropout(world):
    return {} if world.backbone["kind"] == "mlp" else {"dropout": 0.1}


def _finish(world, agent, experience):
    experience.meter.grant(6 * world.slice)
    agent.learn(experience)
    agent.end_task(world.task(1))
    world.live(agent, [2 * world.slice], first=0)


def _assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _assert_equal(left, right)
    else:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_state_that_was_handed_out_or_taken_in_is_not_changed_by_learning(world):
    agent = world.live(world.agent(ALL_METHODS), [3 * world.slice])
    kept = agent.state_dict()
    frozen = copy.deepcopy(kept)
    other = world.agent(ALL_METHODS)
    other.load_state_dict(kept)
    world.live(agent, [2 * world.slice])
    world.live(other, [2 * world.slice])
    _assert_equal(kept, frozen)


def test_neither_building_nor_learning_nor_acting_moves_a_global_generator(world):
    before = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())  # noqa: NPY002
    agent = world.live(world.agent(ALL_METHODS, backbone=_dropout(world)), [3 * world.slice])
    _ask(world, agent.policy(world.task(0)))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    torch.manual_seed(5)  # and it does not depend on one
    assert world.same(agent, world.live(world.agent(ALL_METHODS, backbone=_dropout(world)), [3 * world.slice]))
    assert not world.same(world.agent(), world.agent(seed=1))


def _ask(world, policy, rows=slice(0, 8)):
    """What a snapshot answers to three steps, or to a text in two parts."""
    state = policy.initial_state(len(range(8)[rows]))
    if world.kind == "text":
        tokens = world.experience(1, 8).windows(8, 9)[0][rows]
        first, state = policy.logits(tokens[:, :4], state)
        second, _ = policy.logits(tokens[:, 4:], state)
        return np.concatenate([first, second], axis=1)
    observations = world.observations(24).reshape(8, 3, -1)[rows]
    answers = []
    for t in range(3):
        action, state = policy.act(observations[:, t], state)
        answers.append(action)
    return np.stack(answers, axis=1)


def test_a_snapshot_does_not_change_while_the_agent_learns_and_the_agent_not_while_it_plays(world):
    agent = world.live(world.agent(), [2 * world.slice])
    policy = agent.policy(world.task(0))
    answers, state = _ask(world, policy), copy.deepcopy(agent.state_dict())
    assert np.array_equal(_ask(world, policy), answers)  # its memory is in the state alone
    _assert_equal(agent.state_dict(), state)
    world.live(agent, [2 * world.slice])
    assert np.array_equal(_ask(world, policy), answers)
    assert not np.array_equal(_ask(world, agent.policy(world.task(0))), answers)


def test_a_step_leaves_the_state_it_was_given_as_it_was(world):
    policy = world.live(world.agent(), [2 * world.slice]).policy(world.task(0))
    state = policy.initial_state(2)
    ask = policy.logits if world.kind == "text" else policy.act
    inputs = np.zeros((2, 3), dtype=np.int64) if world.kind == "text" else np.zeros_like(world.observations(2))
    _, state = ask(inputs, state)
    kept = copy.deepcopy(state)
    first = ask(inputs, state)[0]
    assert np.array_equal(ask(inputs, state)[0], first)
    _assert_equal(state, kept)


def test_one_row_is_answered_as_in_a_batch_of_eight(world):
    policy = world.live(world.agent(), [4 * world.slice]).policy(world.task(0))
    together = _ask(world, policy)
    alone = np.concatenate([_ask(world, policy, slice(row, row + 1)) for row in range(8)])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert np.ptp(together) > 1e-3


def test_agents_and_snapshots_can_be_copied_and_pickled(world):
    agent = world.live(world.agent(ALL_METHODS), [2 * world.slice])
    twin = copy.deepcopy(agent)
    policy = agent.policy(world.task(0))
    assert np.array_equal(_ask(world, pickle.loads(pickle.dumps(policy))), _ask(world, policy))
    assert world.same(world.live(agent, [2 * world.slice]), world.live(twin, [2 * world.slice]))


def test_actions_lie_within_the_bounds(world_of, pairs):
    world = world_of("cloning steps")
    policy = world.agent(backbone={"layer_norm": False}).policy(world.task(0))
    actions, _ = policy.act(100.0 * pairs(0, 50, 0)[0].astype(np.float64), policy.initial_state(50))
    assert actions.dtype == np.float32 and actions.shape == (50, 3)
    assert np.abs(actions).max() == 1.0


def test_the_loss_is_the_gaussian_likelihood_of_the_clipped_deviation(world_of):
    """Mean 0 everywhere (head zeroed), action (1, 2, 0).

    log_std 0: (1 + 4) / 2 + 3 log(2 pi) / 2 = 5.25682. log_std -1, -3 (clipped to -2), 0 for the three:
    e^2 / 2 - 1 + 4 e^4 / 2 - 2 + 0 + 2.75682 = 3.69453 - 1 + 109.19630 - 2 + 2.75682 = 112.64764.
    """
    learner = world_of("cloning steps").agent(min_log_std=-2.0)._learner
    torch.nn.init.zeros_(learner.networks.head.weight)
    torch.nn.init.zeros_(learner.networks.head.bias)
    batch = whole_items(np.ones((1, 1, 7), dtype=np.float32), np.array([[[1.0, 2.0, 0.0]]], dtype=np.float32), np.ones((1, 1), dtype=bool))
    assert learner.loss(batch).item() == pytest.approx(5.25682, abs=1e-4)
    learner.networks.log_std.vector.data = torch.tensor([-1.0, -3.0, 0.0])
    assert learner.loss(batch).item() == pytest.approx(112.64764, abs=1e-3)


def test_the_squared_error_and_a_deviation_that_depends_on_the_state_are_options(world_of):
    world = world_of("cloning steps")
    squared = world.agent(mean_squared_error=True)
    assert squared.parameters == world.agent().parameters - 3  # no log_std
    learner = squared._learner
    torch.nn.init.zeros_(learner.networks.head.weight)
    torch.nn.init.zeros_(learner.networks.head.bias)
    batch = whole_items(np.ones((1, 1, 7), dtype=np.float32), np.array([[[1.0, 2.0, 0.0]]], dtype=np.float32), np.ones((1, 1), dtype=bool))
    assert learner.loss(batch).item() == pytest.approx(5.0)
    dependent = world.agent(state_dependent_std=True)
    assert dependent.parameters == world.agent().parameters - 3 + 3 * 17  # 3 more outputs of 16 weights and a bias instead of 3 numbers
    world.live(dependent, [64, 64])
    assert dependent.policy(world.task(0)).act(np.zeros((2, 7)), {})[0].shape == (2, 3)


def test_positions_that_are_not_scored_do_not_enter_the_loss(world):
    if world.kind == "control":
        pytest.skip("its items are single steps, all of them scored")
    learner = world.agent()._learner
    batch = learner.draw(world.experience(0, 64))._replace(whole=True)
    scored = batch.scored.copy()
    scored[1:] = False
    first = batch._replace(inputs=batch.inputs[:1], targets=batch.targets[:1], scored=batch.scored[:1], starts=batch.starts[:1])
    if not first.scored.any():  # the first window of a text asks for nothing
        first = first._replace(scored=~first.scored)
        scored[0] = True
    assert learner.loss(batch._replace(scored=scored)).item() == pytest.approx(learner.loss(first).item(), rel=1e-4)


@pytest.mark.parametrize("window", [0, 5, 3])
def test_a_predictor_reads_text_as_the_learner_did(world_of, told, window):
    """Cross-entropy of the scored tokens by `logits`, whatever the windows are."""
    world = world_of("whole examples")
    agent = world.live(world.agent(window=window), [64])
    learner, experience = agent._learner, told(1, 8)
    learner.networks.eval()
    total, count = 0.0, 0
    while experience.remaining:
        batch = learner.draw(experience)
        state, reset = learner._memory_for(batch)
        with torch.no_grad():
            loss, state, _ = learner.judge(batch, state, reset)
        learner._memory = None if batch.whole else state
        total += loss.item() * batch.scored.sum()
        count += batch.scored.sum()

    tokens, mask, _ = told(1, 8).windows(8, 9)
    policy = agent.policy(world.task(0))
    logits = torch.from_numpy(policy.logits(tokens, policy.initial_state(8))[0][:, :-1]).log_softmax(-1)
    chosen = logits.gather(-1, torch.from_numpy(tokens[:, 1:, None]))[..., 0].numpy()
    assert count == mask.sum() == 32
    assert total / count == pytest.approx(-chosen[mask[:, 1:]].mean(), rel=1e-5)


def test_a_window_in_which_nothing_is_asked_moves_the_memory_and_makes_no_step(world_of):
    world = world_of("windows of text")  # windows of 5: a word and the mark, then 4 tokens to be predicted
    agent = world.agent()
    before = world.weights(agent)
    experience = world.experience(0, 8)
    learner = agent._learner
    learner.update(learner.draw(experience), agent._method)
    assert agent.gradient_steps == 0 and learner._memory is not None
    assert all(torch.equal(a, b) for a, b in zip(before.values(), world.weights(agent).values(), strict=True))
    learner.update(learner.draw(experience), agent._method)
    assert agent.gradient_steps == 1


@pytest.mark.parametrize("name", ["cloning windows", "windows of text"])
def test_memory_is_carried_within_an_item_and_begins_anew_with_the_next(world_of, name):
    """Row 0 goes on, row 1 starts: what each then reads must be what it reads alone with that memory, or with a fresh one."""
    world = world_of(name)
    learner = world.agent()._learner
    learner.networks.eval()
    first, second = (learner.draw(world.experience(0, 64)) for _ in range(2))
    learner.update(first, Chain({}))
    carried = {key: leaf.clone() for key, leaf in learner._memory.items()}
    starts = np.arange(len(second.starts)) == 1
    state, reset = learner._memory_for(second._replace(starts=starts))
    mixed = _hidden(learner, second, state, reset)
    alone = _hidden(learner, second, carried, None)
    fresh = _hidden(learner, second, learner._fresh_memory(second), None)
    torch.testing.assert_close(mixed[0], alone[0])
    torch.testing.assert_close(mixed[1], fresh[1])
    assert not torch.allclose(alone[1], fresh[1], atol=1e-4) and not torch.allclose(alone[0], fresh[0], atol=1e-4)


def _hidden(learner, batch, state, reset):
    with torch.no_grad():
        return learner.networks(learner.tensor(batch.inputs), state, reset)[0]


def test_replayed_rows_join_the_memory_behind_the_fresh_ones(world_of):
    """4 lanes, then 4 more that start: the first rows keep their memory bit for bit."""
    world = world_of("cloning windows")
    agent = world.agent({"replay": {"kind": "replay"}})
    learner, experience = agent._learner, world.experience(0, 32 * 6)
    sizes = []
    while experience.remaining:
        batch = agent._method.wrap_buffer(learner.draw(experience))
        kept = learner._memory
        state, _ = learner._memory_for(batch)
        if kept is not None and not batch.starts.all():
            rows = min(4, len(batch.starts))
            assert all(torch.equal(state[key][:rows], kept[key][:rows]) for key in kept)
        learner.update(batch, Chain({}))
        sizes.append(len(batch.starts))
    assert sizes == [4, 4, 4, 4, 8, 8]  # episodes of 21 steps are three windows; the first four are stored behind the fourth batch


def test_the_rate_warms_up_and_begins_anew_with_a_task(world_of):
    world = world_of("whole examples")

    def rates(agent, steps):
        found = []
        for _ in range(steps):
            agent.learn(world.experience(0, 8))
            found.append(agent._learner.optimizer.param_groups[0]["lr"])
        return found

    agent = world.agent(learning_rate=0.4, warmup=4)
    assert rates(agent, 6) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    agent.begin_task(world.task(0))
    assert rates(agent, 1) == pytest.approx([0.1])
    kept = world.agent(learning_rate=0.4, warmup=4, reset_optimizer=False)
    rates(kept, 5)
    kept.begin_task(world.task(0))
    assert rates(kept, 1) == pytest.approx([0.4])


@pytest.mark.parametrize(("kind", "units"), [("whole examples", 8), ("cloning steps", 32)])
def test_the_rate_falls_to_a_tenth_and_begins_anew_with_a_task(world_of, kind, units):
    world = world_of(kind)
    agent = world.agent(learning_rate=0.4, warmup=2, anneal=4)
    for _ in range(2):
        found = []
        for _ in range(7):
            before = agent._learner.gradient_steps
            agent.learn(world.experience(0, units))
            assert agent._learner.gradient_steps == before + 1
            found.append(agent._learner.optimizer.param_groups[0]["lr"])
        assert found == pytest.approx([0.2, 0.4, 0.4 * 0.55, 0.4 * 0.325, 0.04, 0.04, 0.04])
        agent.begin_task(world.task(0))


def test_the_rate_stands_before_it_falls(world_of):
    world = world_of("cloning steps")
    agent, found = world.agent(learning_rate=0.4, warmup=1, anneal_from=2, anneal=4, reset_optimizer=False), []
    for update in range(6):
        if update == 3:  # an optimiser that goes on counts on, over tasks
            agent.begin_task(world.task(0))
        agent.learn(world.experience(0, 32))
        found.append(agent._learner.optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.4, 0.4, 0.4, 0.22, 0.04, 0.04])


@pytest.mark.parametrize("options", [{"anneal_from": 4, "anneal": 4}, {"anneal_from": 4}, {"anneal_from": -1}])
def test_a_rate_that_never_falls_is_refused(world_of, options):
    with pytest.raises(UserError, match="anneal_from"):
        world_of("cloning steps").agent(**options)


def test_the_gradient_is_clipped(world_of):
    world = world_of("cloning steps")
    agent = world.agent(gradient_clip=1e-3)
    agent.learn(world.experience(0, 32))
    assert agent.diagnostics()["gradient_norm"] > 1e-3
    length = sum(p.grad.square().sum() for p in agent._learner.networks.parameters()).sqrt().item()
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_an_agent_says_what_it_cannot_be_built_from(world_of):
    task, good = world_of("cloning steps").task(0), {"learner": {"kind": "behaviour-cloning"}, "backbone": {"kind": "mlp"}}
    broken = [
        ({"text": good}, "no section 'demonstrations'"),
        ({"demonstrations": {**good, "method": {}}}, "unknown key 'method'"),
        ({"demonstrations": {"learner": {"kind": "behaviour-cloning"}}}, "demonstrations.backbone: expected a mapping with the key 'kind'"),
        ({"demonstrations": {**good, "backbone": {"kind": "mpl"}}}, "Did you mean mlp"),
        ({"demonstrations": {**good, "learner": {"kind": "behaviour-cloning", "batchsize": 3}}}, "did you mean batch_size"),
        ({"demonstrations": {**good, "learner": {"kind": "behaviour-cloning", "batch_size": 0}}}, "batch_size, lanes and window must be"),
        ({"demonstrations": {**good, "learner": {"kind": "behaviour-cloning", "learning_rate": 0.0}}}, "learning_rate must be > 0"),
        ({"demonstrations": good, "methods": {"mine": {"kind": "ewk"}}}, "Did you mean ewc"),
        ({"demonstrations": good, "methods": {"mine": {"kind": "ewc", "strenght": 1}}}, "methods.mine: unknown option 'strenght'"),
        ({"demonstrations": good, "methods": {"mine": {"kind": "ewc", "strength": -1}}}, "strength must be at least 0"),
        ({"demonstrations": good, "device": "gpu"}, "expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ]
    for options, message in broken:
        with pytest.raises(UserError, match=message):
            Composed(task, 0, **options)


def test_memories_of_other_examples_are_read_in_training_alone_and_from_their_update_on(world_of):
    world = world_of("memories of others")
    agent, experience = world.agent(), world.experience(0, 32)
    learner = agent._learner
    assert learner._context(8) is None
    agent.learn(experience)
    assert learner.gradient_steps == 4
    assert learner._context(3).tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert learner._context(2).tolist() == [[0, 1], [1, 0]]  # no row is read twice
    assert 0 < agent.diagnostics()["positive_share"] < 1
    tokens = world.experience(0, 8).windows(8, 9)[0]
    policy = agent.policy(world.task(0))
    together = policy.logits(tokens, policy.initial_state(8))[0]
    alone = policy.logits(tokens[:1], policy.initial_state(1))[0]
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_an_external_memory_is_accounted_for_over_all_updates(world_of):
    world = world_of("memories of others")
    agent = world.agent()
    agent.learn(world.experience(0, 16))
    once = agent.diagnostics()
    assert once["memory_bytes"] > 0
    agent.learn(world.experience(0, 16))
    assert agent.diagnostics()["memory_reads"] > once["memory_reads"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": 0}, "contexts must be at least 1 and contexts_from at least 0, got 0, 0"),
        ({"contexts": 2}, "contexts=2 needs a backbone that reads the memories of other rows: memorizing-transformer"),
    ],
)
def test_impossible_contexts_are_refused(world_of, options, message):
    with pytest.raises(UserError, match=message):
        world_of("whole examples").agent(**options)
