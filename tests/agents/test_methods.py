"""What each method promises, against values derived by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clbench.agents.backbones.backbone import Backbone, MemorySpec, Output
from clbench.agents.learners.batch import Batch, whole_items
from clbench.agents.learners.behaviour_cloning import BehaviourCloning
from clbench.agents.learners.learner import trainable
from clbench.agents.methods import a_gem
from clbench.agents.methods.a_gem import project
from clbench.agents.methods.method import Chain, Method
from clbench.agents.methods.quadratic_penalty import EWC, L2, MAS, flat
from clbench.agents.methods.replay import Lanes, Replay
from clbench.agents.methods.reservoir import Reservoir
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

WITHOUT_EFFECT = {
    "l2": {"kind": "l2", "strength": 0.0},
    "ewc": {"kind": "ewc", "strength": 0.0, "samples": 5},
    "mas": {"kind": "mas", "strength": 0.0, "samples": 5},
    "replay without rows": {"kind": "replay", "ratio": 0.0},
    "replay without room": {"kind": "replay", "capacity": 0},
    "a-gem without room": {"kind": "a-gem", "capacity": 0},
    "cloning": {"kind": "cloning", "strength": 0.0},
    "cloning without room": {"kind": "cloning", "capacity": 0},
}
WITH_EFFECT = {
    "l2": {"kind": "l2"},
    "ewc": {"kind": "ewc", "samples": 5},
    "mas": {"kind": "mas", "samples": 5},
    "replay": {"kind": "replay", "capacity": 50},
    "a-gem": {"kind": "a-gem", "capacity": 50, "batch_size": 8},
    "reset": {"kind": "reset"},
    "packnet": {"kind": "packnet", "samples": 50, "batch_size": 8, "tasks": 3},
    "cloning": {"kind": "cloning", "capacity": 50, "batch_size": 8},
}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_method_of_strength_zero_is_fine_tuning_bit_for_bit(world, name):
    lives = [5 * world.slice, 3 * world.slice, 2 * world.slice]
    plain = world.live(world.agent(), lives)
    assert world.same(plain, world.live(world.agent({"mine": WITHOUT_EFFECT[name]}), lives))


@pytest.mark.parametrize("name", sorted(set(WITH_EFFECT) - {"a-gem"}))  # which acts only where two gradients disagree
def test_every_method_changes_the_second_task_and_few_the_first(world, name):
    """Replay the first as well, where the learner does not keep what it learned from; packnet at its end, when it prunes."""
    agent, plain = world.live(world.agent({"mine": WITH_EFFECT[name]}), [6 * world.slice]), world.live(world.agent(), [6 * world.slice])
    assert world.same(plain, agent) == (name != "packnet" and (name != "replay" or world.kind == "control"))
    world.live(agent, [6 * world.slice], first=1)
    world.live(plain, [6 * world.slice], first=1)
    assert not world.same(plain, agent)


@pytest.mark.parametrize("name", WITH_EFFECT)
def test_without_boundaries_every_method_learns_and_only_replay_differs_from_fine_tuning(world, name):
    """Replay does not where the learner keeps everything itself."""
    agent, plain = world.agent({"mine": WITH_EFFECT[name]}), world.agent()
    for index in (0, 1, 0):
        for learner in (agent, plain):
            learner.learn(world.experience(index, 4 * world.slice))
    assert world.same(plain, agent) == (name != "replay" or world.kind == "control")


# ---- reservoir


def _rows(values: list[int] | np.ndarray, **changes: object) -> Batch:
    array = np.asarray(values, dtype=np.float32)[:, None, None]
    return whole_items(array, array, np.ones(array.shape[:2], dtype=bool))._replace(**changes)


def test_a_reservoir_is_a_uniform_sample_whatever_the_batches_were():
    """400 reservoirs of 5 places out of 25 items: each item is kept 80 times on average, with variance 400 * 0.2 * 0.8 = 64.

    The sum of squared deviations over the variance is chi-square with 24 degrees of freedom up to 25/24: mean 25, standard deviation 7.2.
    """
    kept = np.zeros(25)
    for seed in range(400):
        reservoir = Reservoir(5, np.random.default_rng(seed))
        for values in np.split(np.arange(25), [1, 4, 13, 14]):
            reservoir.offer(_rows(values))
        kept[reservoir.items(np.arange(5)).inputs[:, 0, 0].astype(int)] += 1
    assert kept.sum() == 400 * 5
    assert np.sum((kept - 80) ** 2) / 64 < 25 + 4 * 7.2


def test_the_second_item_takes_the_only_place_in_half_of_all_cases():
    """600 reservoirs: 300, standard deviation 12.2; a chance of one in three would give 200."""
    taken = 0
    for seed in range(600):
        reservoir = Reservoir(1, np.random.default_rng(seed))
        reservoir.offer(_rows([0, 1]))
        taken += int(reservoir.items(np.array([0])).inputs.item())
    assert abs(taken - 300) < 4 * 12.2


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 12), st.integers(0, 5))
def test_a_reservoir_holds_different_items_of_those_offered_and_never_more_than_its_room(sizes, capacity, seed):
    reservoir, offered = Reservoir(capacity, np.random.default_rng(seed)), 0
    twin = Reservoir(capacity, np.random.default_rng(99))
    for size in sizes:
        batch = _rows(np.arange(offered, offered + size))
        reservoir.offer(batch)
        offered += size
        twin.load_state_dict(reservoir.state_dict())
    assert len(reservoir) == min(capacity, offered) and reservoir.offered == offered
    values = [item.inputs[0, 0, 0] for item in reservoir]
    assert len(set(values)) == len(values) and set(values) <= set(range(offered))
    assert [item.inputs[0, 0, 0] for item in twin] == values


def test_only_fresh_rows_are_stored():
    reservoir = Reservoir(10, np.random.default_rng(0))
    reservoir.offer(_rows([1, 2, 3, 4], fresh=2))
    assert [item.inputs.item() for item in reservoir] == [1.0, 2.0]


def test_windows_are_put_together_to_items_of_their_own_length():
    """Row 0: 1 2 | 3 4 | new 5 6; row 1: 7 8 | new 9 10 | 11 12. Closed in this order: 7 8, then 1 2 3 4; the open ones at the end."""
    reservoir = Reservoir(10, np.random.default_rng(0))
    windows = [([[1, 2], [7, 8]], [True, True]), ([[3, 4], [9, 10]], [False, True]), ([[5, 6], [11, 12]], [True, False])]
    for values, starts in windows:
        array = np.asarray(values, dtype=np.float32)
        reservoir.offer(Batch(array, array, np.ones((2, 2), dtype=bool), np.array(starts), False, 2))
    assert [item.inputs[0].tolist() for item in reservoir] == [[7, 8], [1, 2, 3, 4]]
    reservoir.finish()
    assert [item.inputs[0].tolist() for item in reservoir] == [[7, 8], [1, 2, 3, 4], [5, 6], [9, 10, 11, 12]]
    both = reservoir.items(np.array([0, 1]))
    assert both.inputs.tolist() == [[7, 8, 0, 0], [1, 2, 3, 4]]
    assert both.scored.tolist() == [[True, True, False, False], [True] * 4]


# ---- replay


def test_replay_adds_rows_of_the_past_behind_the_fresh_ones_and_stores_afterwards():
    replay = Replay(0, capacity=100, ratio=0.5)
    assert replay.wrap_buffer(_rows([1, 2, 3, 4])).inputs.ravel().tolist() == [1, 2, 3, 4]  # nothing to replay yet
    mixed = replay.wrap_buffer(_rows([5, 6, 7, 8]))
    assert mixed.fresh == 4 and mixed.inputs[:4].ravel().tolist() == [5, 6, 7, 8]
    assert len(mixed.inputs) == 6 and set(mixed.inputs[4:].ravel()) <= {1, 2, 3, 4}
    again = replay.wrap_buffer(mixed)
    assert len(again.inputs) == 8 and len(replay.memory) == 12  # the replayed rows of `mixed` are not stored again


def test_replay_draws_every_item_alike():
    """4 items, 4000 draws: 1000 each, standard deviation 27."""
    replay = Replay(0, capacity=4, ratio=1.0)
    replay.wrap_buffer(_rows([0, 1, 2, 3]))
    drawn = np.concatenate([replay._replayed(400, _rows([0])).inputs.ravel() for _ in range(10)])
    assert np.abs(np.bincount(drawn.astype(int)) - 1000).max() < 5 * 27


def test_lanes_read_each_item_from_its_beginning_to_its_end():
    """Items 1 2 3 4 5 and 6 7 in windows of 2: 1 2 | 3 4 | 5 - and 6 7, each followed by the beginning of another."""
    memory = Reservoir(2, np.random.default_rng(0))
    for values in ([1, 2, 3, 4, 5], [6, 7]):
        array = np.asarray(values, dtype=np.float32)[None]
        memory.offer(whole_items(array, array, np.ones_like(array, dtype=bool)))
    lanes, draws, read = Lanes(), np.random.default_rng(1), [[], [], []]
    for _ in range(30):
        batch = lanes.window(3, 2, memory, draws)
        assert batch.fresh == 0 and not batch.whole
        for lane in range(3):
            if batch.starts[lane]:
                read[lane].append([])
            read[lane][-1].extend(batch.inputs[lane][batch.scored[lane]].tolist())
    items = [item for lane in read for item in lane[:-1]]
    assert {tuple(item) for item in items} == {(1, 2, 3, 4, 5), (6, 7)}


# ---- a linear policy, on which everything can be computed by hand


class Identity(Backbone):
    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.spec = MemorySpec("none", input_size, 0, 0, 0)

    def initial_state(self, batch, *, device=None, dtype=None):
        return {}

    def advance(self, x, state, reset, pad, write):
        return Output(x, state, x.new_zeros(()))


X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]], dtype=np.float32)
ACTIONS = 2


def _linear(**options: object) -> BehaviourCloning:
    """Mean = W x + b with W = [[1, 0], [0, 2]], b = [0, 1]; standard deviations 0.5 and 2."""
    task = TaskInfo(0, 1, "demonstrations", 2, ACTIONS)
    learner = BehaviourCloning(task, Identity, 0, torch.device("cpu"), batch_size=3, **options)
    learner.networks.head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    learner.networks.head.bias.data = torch.tensor([0.0, 1.0])
    if learner.networks.log_std.vector is not None:
        learner.networks.log_std.vector.data = torch.tensor([0.5, 2.0]).log()
    return learner


def _named(learner: BehaviourCloning, vector: torch.Tensor) -> dict[str, np.ndarray]:
    names = [name for name, _ in learner.networks.named_parameters()]
    parts = vector.split([p.numel() for p in trainable(learner.networks)])
    shapes = [p.shape for p in trainable(learner.networks)]
    return {name: part.view(shape).numpy() for name, part, shape in zip(names, parts, shapes, strict=True)}


def _steps(x: np.ndarray = X) -> Batch:
    return whole_items(x[:, None], np.zeros((len(x), 1, ACTIONS), dtype=np.float32), np.ones((len(x), 1), dtype=bool))


TASK = TaskInfo(0, 1, "demonstrations", 2, ACTIONS)


def test_the_fisher_information_of_a_linear_gaussian_policy_is_the_closed_form():
    """W_aj: mean of x_j^2 over the examples / (s_a^2 + 1e-6); b_a: 1 / (s_a^2 + 1e-6); log s_a: 2 s_a^2 / (s_a^2 + 1e-6).

    Mean x^2 = ((1 + 9 + 0.25) / 3, (4 + 1 + 0) / 3) = (3.41667, 1.66667); s^2 = (0.25, 4).
    """
    learner, ewc = _linear(), EWC(0, floor=0.0)
    ewc.wrap_buffer(_steps())
    ewc.after_task(learner, TASK)
    fisher = _named(learner, ewc.importance)
    np.testing.assert_allclose(fisher["head.weight"], [[13.66661, 6.66664], [0.854166, 0.416667]], rtol=1e-5)
    np.testing.assert_allclose(fisher["head.bias"], [3.999984, 0.25], rtol=1e-5)
    np.testing.assert_allclose(fisher["log_std.vector"], [1.999992, 2.0], rtol=1e-5)


def test_the_fisher_information_is_clipped_for_each_example():
    """The third example has x_2 = 0: its share of W_12 is the floor. With floor 1: (4 / .25 + 1 / .25 + 1) / 3 = 7 (up to 1e-6)."""
    learner, ewc = _linear(), EWC(0, floor=1.0)
    ewc.wrap_buffer(_steps())
    ewc.after_task(learner, TASK)
    assert _named(learner, ewc.importance)["head.weight"][0, 1] == pytest.approx(7.0, rel=1e-4)


def test_the_fisher_information_of_a_stretch_is_the_mean_over_its_steps():
    """The closed form again, now in expectation over random signs; 2000 draws leave about 1.4 / sqrt(2000) = 3 %."""
    learner = _linear()
    stretch = whole_items(X[None], np.zeros((1, 3, ACTIONS), dtype=np.float32), np.ones((1, 3), dtype=bool))
    ewc = EWC(0, floor=0.0)
    total = sum(ewc.item_importance(learner, stretch, trainable(learner.networks)) for _ in range(2000))
    fisher = _named(learner, total / 2000)
    np.testing.assert_allclose(fisher["head.weight"], [[13.66661, 6.66664], [0.854166, 0.416667]], rtol=0.15)
    np.testing.assert_allclose(fisher["log_std.vector"], [2.0, 2.0], rtol=0.15)


def test_the_fisher_information_of_a_predictor_is_that_of_its_own_tokens(world_of):
    """One example with its last token scored: sum over v of p_v (d log p_v)^2, against tokens drawn from p."""
    world = world_of("whole examples")
    learner = world.live(world.agent(), [64])._learner
    item = learner.draw(world.experience(0, 1))
    scored = np.zeros_like(item.scored)
    scored[0, -1] = True
    item = item._replace(scored=scored)
    learner.networks.eval()
    parameters = trainable(learner.networks)
    log_p = learner._logits(item)[0].log_softmax(-1)
    exact = torch.zeros_like(flat(parameters))
    for value in log_p:
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        exact += value.exp().detach() * flat(found).square()
    ewc = EWC(0, floor=0.0)
    drawn = sum(ewc.item_importance(learner, item, parameters) for _ in range(1500)) / 1500
    assert drawn.sum().item() == pytest.approx(exact.sum().item(), rel=0.15)
    assert torch.corrcoef(torch.stack([drawn, exact]))[0, 1] > 0.98


def test_mas_is_the_mean_absolute_gradient_of_the_squared_output():
    """Outputs mu = (x_1, 2 x_2 + 1): (1, 5), (3, -1), (.5, 1). d mu_a^2 / d W_aj = 2 mu_a x_j.

    W_11: (2 + 18 + .5) / 3 = 6.8333; W_12: (4 + |-6| + 0) / 3 = 3.3333; W_21: (10 + |-6| + 1) / 3 = 5.6667; W_22: (20 + 2) / 3 = 7.3333.
    b: (2 + 6 + 1) / 3 = 3, (10 + 2 + 2) / 3 = 4.6667. log s: 2 |log s| = 1.386294 both.
    """
    learner, mas = _linear(), MAS(0)
    mas.wrap_buffer(_steps())
    mas.after_task(learner, TASK)
    importance = _named(learner, mas.importance)
    np.testing.assert_allclose(importance["head.weight"], [[6.83333, 3.33333], [5.66667, 7.33333]], rtol=1e-5)
    np.testing.assert_allclose(importance["head.bias"], [3.0, 4.66667], rtol=1e-5)
    np.testing.assert_allclose(importance["log_std.vector"], [1.386294, 1.386294], rtol=1e-5)


def test_importances_add_up_over_tasks_and_the_anchor_is_the_last_one():
    """L2 of strength 3 after two tasks: importance 2; weights moved by d since: penalty 3 * 2 * 8 d^2, gradient 3 * 2 * 2 d."""
    learner, l2 = _linear(), L2(0, strength=3.0)
    assert l2.penalty(learner) is None
    for offset in (0.0, 5.0):
        l2.wrap_buffer(_steps())
        learner.networks.head.bias.data += offset
        l2.after_task(learner, TASK)
    assert l2.penalty(learner).item() == 0.0
    with torch.no_grad():
        for parameter in trainable(learner.networks):
            parameter += 0.1
    penalty = l2.penalty(learner)
    assert penalty.item() == pytest.approx(3 * 2 * 8 * 0.01, rel=1e-4)
    penalty.backward()
    for parameter in trainable(learner.networks):
        np.testing.assert_allclose(parameter.grad, np.full(parameter.shape, 3 * 2 * 2 * 0.1), rtol=1e-4)


def test_importance_comes_from_the_finished_task_alone():
    learner, mas = _linear(), MAS(0)
    mas.wrap_buffer(_steps())
    mas.after_task(learner, TASK)
    first = mas.importance.clone()
    mas.wrap_buffer(_steps(X[:1]))
    mas.after_task(learner, TASK)
    second = _named(learner, mas.importance - first)
    np.testing.assert_allclose(second["head.weight"], [[2.0, 4.0], [10.0, 20.0]], rtol=1e-5)
    mas.after_task(learner, TASK)  # a task that brought nothing adds nothing
    np.testing.assert_allclose(_named(learner, mas.importance - first)["head.bias"], [2.0, 10.0], rtol=1e-5)


def test_with_the_squared_error_only_the_mean_carries_information():
    learner, ewc = _linear(mean_squared_error=True), EWC(0, floor=0.0)
    ewc.wrap_buffer(_steps())
    ewc.after_task(learner, TASK)
    fisher = _named(learner, ewc.importance)
    assert set(fisher) == {"head.weight", "head.bias"}
    np.testing.assert_allclose(fisher["head.weight"], [[3.41667, 1.66667]] * 2, rtol=1e-5)


# ---- A-GEM


def test_a_gem_takes_out_the_part_that_points_against_the_reference():
    """g = (1, -3 | 1), r = (0, 2 | 0): g.r = -6, r.r = 4, so g~ = g + 1.5 r = (1, 0 | 1)."""
    gradients = [torch.tensor([1.0, -3.0]), torch.tensor([1.0])]
    project(gradients, [torch.tensor([0.0, 2.0]), torch.tensor([0.0])])
    assert [g.tolist() for g in gradients] == [[1.0, 0.0], [1.0]]


def test_a_gem_leaves_a_gradient_that_agrees_and_one_without_reference_as_they_are():
    gradients = [torch.tensor([0.1, 0.7]), torch.tensor([-0.3])]
    for reference in ([torch.tensor([0.2, 0.3]), torch.tensor([0.1])], [torch.zeros(2), torch.zeros(1)]):
        kept = [g.clone() for g in gradients]
        project(gradients, reference)
        assert all(torch.equal(g, k) for g, k in zip(gradients, kept, strict=True))


def test_after_a_gem_no_gradient_points_against_the_past(world, monkeypatch):
    # Text: fast enough to learn the first task in sixty updates. Cloning: a shared deviation would make gradients agree.
    text = {"learning_rate": 2e-3, "warmup": 50}
    options = {"text": text, "control": {"learning_rate": 3e-3}}.get(world.kind, {"mean_squared_error": True, "learning_rate": 0.01})
    agent = world.live(world.agent({"a-gem": {"kind": "a-gem", "capacity": 1, "batch_size": 2}}, **options), [60 * world.slice])
    agent.begin_task(world.task(1))
    learner, method = agent._learner, agent._method._methods["a-gem"]
    experience, products = world.experience(1, 20 * world.slice), []
    assert len(method.past) == 1 and len(method.past[0]) == 1

    def watched(gradients, reference):
        plain = torch.dot(flat(gradients), flat(reference)).item()
        project(gradients, reference)
        products.append((plain, torch.dot(flat(gradients), flat(reference)).item(), flat(reference).norm().item()))

    monkeypatch.setattr(a_gem, "project", watched)
    learner.learn(experience, agent._method)
    assert len(products) >= 8 and min(plain for plain, *_ in products) < -1e-3
    assert all(adjusted > -1e-4 * max(1.0, length) for _, adjusted, length in products)


def test_a_gem_leaves_temperatures_alone(world_of):
    """Continual World projects the gradients of actor and critics together, and not that of alpha."""
    world = world_of("soft actor-critic")
    agent = world.live(world.agent({"a-gem": {"kind": "a-gem", "capacity": 20, "batch_size": 8}}, learning_rate=3e-3), [20 * world.slice])
    agent.begin_task(world.task(1))
    learner, method, turned = agent._learner, agent._method._methods["a-gem"], []
    before = method.adjust_gradients

    def watched(learner):
        weights = [learner.networks.log_alpha, learner.networks.actor.head.weight]
        plain = [weight.grad.clone() for weight in weights]
        before(learner)
        turned.append([not torch.equal(weight.grad, old) for weight, old in zip(weights, plain, strict=True)])

    method.adjust_gradients = watched
    learner.learn(world.experience(1, 10 * world.slice), agent._method)
    assert any(actor for _, actor in turned) and not any(alpha for alpha, _ in turned)


# ---- reset, chain


def test_reset_begins_every_task_like_a_new_agent(world):
    agent = world.live(world.agent({"reset": {"kind": "reset"}}), [3 * world.slice])
    assert not world.same(agent, world.agent())
    agent.begin_task(world.task(1))
    assert world.same(agent, world.agent())
    if world.kind == "control":
        return  # its actions are drawn on from where the first task's stopped
    agent.learn(world.experience(1, 3 * world.slice))
    fresh = world.live(world.agent(), [3 * world.slice], first=1)
    assert world.same(agent, fresh)


class Adding(Method):
    def __init__(self, value: float) -> None:
        super().__init__(seed=0)
        self.value = value

    def wrap_buffer(self, batch: Batch) -> Batch:
        return batch._replace(inputs=batch.inputs * 10 + self.value)

    def penalty(self, learner) -> torch.Tensor:
        return torch.tensor(self.value)

    def before_task(self, learner, task):
        return {"weight": torch.tensor(self.value)}


def test_methods_compose_in_declared_order():
    chain = Chain({"one": Adding(1.0), "none": Method(0), "two": Adding(2.0)})
    assert chain.wrap_buffer(_rows([0])).inputs.item() == 12.0  # (0 * 10 + 1) * 10 + 2
    assert chain.penalty(_linear()).item() == 3.0
    assert chain.before_task(None, TASK)["weight"].item() == 2.0
    assert Chain({}).penalty(_linear()) is None and Chain({}).before_task(None, TASK) is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Replay(0, ratio=-1.0), "ratio must be at least 0, got -1.0"),
        (lambda: Replay(0, capacity=-1), "capacity must be at least 0 items, got -1"),
        (lambda: EWC(0, samples=0), "EWC: samples must be at least 1, got 0"),
        (lambda: MAS(0, strength=-0.5), "MAS: strength must be at least 0, got -0.5"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


# ---- what it is for


def _errors(agent, world, pairs, told) -> list[float]:
    """Of each of two tasks: mean squared error, or share of wrong tokens."""
    policy = agent.policy(world.task(0))
    if world.kind == "text":
        found = []
        for shift in (1, 3):
            tokens, mask, _ = told(shift, 200).windows(200, 9)
            answers = policy.logits(tokens, policy.initial_state(200))[0][:, :-1].argmax(-1)
            found.append(float((answers != tokens[:, 1:])[mask[:, 1:]].mean()))
        return found
    found = []
    for task in (0, 1):
        seen, done = pairs(task, 500, 77)
        found.append(float(((policy.act(seen, policy.initial_state(500))[0] - done) ** 2).mean()))
    return found


def test_cloning_is_learned_then_forgotten_and_less_so_with_a_method(world_of, pairs, told):
    """Variance of the actions is about 0.45, so that an error of 0.03 is skill."""
    world, errors = world_of("cloning steps"), {}
    methods = {
        "fine-tuning": {},
        "replay": {"m": {"kind": "replay"}},
        "ewc": {"m": {"kind": "ewc", "samples": 100}},
        "a-gem": {"m": {"kind": "a-gem"}},
    }
    for name, chosen in methods.items():
        agent = world.agent(chosen, backbone={"width": 64, "depth": 2}, learning_rate=3e-3)
        world.live(agent, [9600])
        learned = _errors(agent, world, pairs, told)[0]
        assert learned < 0.03
        errors[name] = _errors(world.live(agent, [9600], first=1), world, pairs, told)
    assert errors["fine-tuning"][1] < 0.03 and errors["fine-tuning"][0] > 0.3
    assert errors["replay"][0] < 0.05 and errors["replay"][1] < 0.05
    assert errors["ewc"][0] < 0.7 * errors["fine-tuning"][0]
    assert errors["a-gem"][0] < 0.9 * errors["fine-tuning"][0]


def test_text_is_learned_then_forgotten_and_less_so_with_replay(world_of, pairs, told):
    """Chance is 0.8 wrong of five symbols. The tasks contradict each other and carry no cue, so that replay can keep about half."""
    world, errors = world_of("whole examples"), {}
    for name, chosen in {"fine-tuning": {}, "replay": {"m": {"kind": "replay", "ratio": 2.0}}}.items():
        agent = world.agent(chosen, backbone={"width": 32, "layers": 2, "heads": 2}, batch_size=16, learning_rate=5e-3)
        for shift in (1, 3):
            agent.begin_task(world.task(0))
            agent.learn(told(shift, 2400))
            agent.end_task(world.task(0))
            if shift == 1 and name == "fine-tuning":
                assert _errors(agent, world, pairs, told)[0] < 0.1
        errors[name] = _errors(agent, world, pairs, told)
    assert errors["fine-tuning"][1] < 0.1 and errors["fine-tuning"][0] > 0.85
    assert errors["replay"][0] < 0.7
