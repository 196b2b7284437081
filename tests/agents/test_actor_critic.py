"""Advantage actor-critic: its arithmetic, its data flow, and that it learns."""

from typing import Any

import numpy as np
import pytest
import torch

from clbench.agents.composed import Composed
from clbench.agents.learners.actor_critic import ActorCritic, advantages
from clbench.errors import ContractError, UserError
from clbench.experience import Interaction, Transition
from clbench.interfaces import TaskInfo

B, HOLD = 4, 3
TASK = TaskInfo(None, 1, "interaction", 3, 2, asked=2, choices=True)  # the last two entries tell the steps apart, for who is told of two


class Recall:
    """A cue is shown at the first of HOLD + 1 steps; the last step pays 1 for the choice that the cue named, the others for choice 0."""

    def __init__(self, environments: int = B, seed: int = 0, uneven: bool = False) -> None:
        self.draws = np.random.default_rng(seed)
        self.clock = np.arange(environments) % (HOLD + 1) if uneven else np.zeros(environments, dtype=int)
        self.cue = self.draws.integers(0, 2, environments)

    @property
    def observation(self) -> np.ndarray:
        shown = np.eye(2)[self.cue] * (self.clock == 0)[:, None]
        return np.concatenate([shown, (self.clock == HOLD)[:, None]], axis=1).astype(np.float32)

    def step(self, action: np.ndarray) -> Transition:
        choice = np.asarray(action).argmax(1)
        last = self.clock == HOLD
        reward = np.where(last, choice == self.cue, (choice == 0) * 0.1).astype(np.float32)
        self.clock = self.clock + 1
        final = self.observation
        self.clock = np.where(last, 0, self.clock)
        self.cue = np.where(last, self.draws.integers(0, 2, len(last)), self.cue)
        return Transition(reward, last, np.zeros_like(last), self.observation, final)

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self.clock.copy(), "cue": self.cue.copy(), "draws": self.draws.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clock, self.cue = np.array(state["clock"]), np.array(state["cue"])
        self.draws.bit_generator.state = state["draws"]


def agent(backbone: dict[str, Any] | None = None, methods: dict[str, Any] | None = None, seed: int = 0, **learner: Any) -> Composed:
    section = {"learner": {"kind": "actor-critic", **learner}, "backbone": backbone or {"kind": "lstm", "width": 16}}
    return Composed(TASK, seed, interaction=section, methods=methods, device="cpu")


def lived(built: Composed, units: int, world: Recall | None = None) -> Interaction:
    experience = Interaction(world or Recall())
    experience.meter.grant(units)
    built.learn(experience)
    assert experience.remaining == 0
    return experience


def weights(built: Composed) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in built.state_dict()["learner"]["networks"].values()])


def test_advantages_are_those_of_the_definition() -> None:
    """The sum over l of (gamma lambda)^l delta_{t+l}, up to the end of the episode; by loops."""
    torch.manual_seed(0)
    T, discount, trace = 7, 0.9, 0.8
    reward, value, following = torch.randn(T, 2), torch.randn(T, 2), torch.randn(2)
    over = torch.zeros(T, 2, dtype=torch.bool)
    over[3, 0], over[6, 1] = True, True
    found = advantages(reward, value, over, following, discount=discount, trace=trace)
    for b in range(2):
        for t in range(T):
            total, weight = 0.0, 1.0
            for later in range(t, T):
                after = 0.0 if over[later, b] else float(following[b] if later == T - 1 else value[later + 1, b])
                total += weight * float(reward[later, b] + discount * after - value[later, b])
                weight *= discount * trace
                if over[later, b]:
                    break
            assert float(found[t, b]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("units", [4, 8, 40, 84, 200])
def test_every_grant_of_whole_steps_is_spent_exactly(units: int) -> None:
    lived(agent(window=5), units)


def test_what_is_less_than_a_step_is_named() -> None:
    with pytest.raises(ContractError, match="step of 4 environments"):
        lived(agent(window=5), 42)


def test_it_remembers_a_cue_over_steps_that_do_not_show_it() -> None:
    """A third of the steps pays by memory alone; without one no policy gets more than half of them."""
    built = agent(window=12, learning_rate=1e-2, seed=1000)
    lived(built, 12 * 32 * 150, Recall(32))
    rates = {}
    for name in ("lstm", "none"):
        policy, world, right = built.policy(TASK), Recall(64, seed=5), []
        state = policy.initial_state(64)
        for _ in range(10 * (HOLD + 1)):
            if (world.clock == 0).all():
                state = policy.initial_state(64)
            if name == "none":
                state = policy.initial_state(64)
            last, cue = world.clock == HOLD, world.cue.copy()
            action, state = policy.act(world.observation, state)
            right += (action.argmax(1) == cue)[last].tolist()
            world.step(action)
        rates[name] = np.mean(right)
    assert rates["lstm"] > 0.9 > 0.7 > rates["none"]


def test_memory_ends_with_each_episode_of_its_own_stream() -> None:
    """Environments that end at different steps: the state of each is that of a reader of its own, reset where its episode began."""
    built = agent(window=6, methods={"freeze": {"kind": "freeze", "after": 0}})
    built.begin_task(TASK)
    world = Recall(B, uneven=True)
    seen: list[np.ndarray] = []
    step = world.step

    def recording(action: np.ndarray) -> Transition:
        seen.append(np.concatenate([world.observation, (world.clock == 0)[:, None]], axis=1))
        return step(action)

    world.step = recording  # type: ignore[method-assign]
    lived(built, 6 * B, world)
    networks, kept = built._learner.networks, built.state_dict()["learner"]["memory"]
    for b in range(B):
        state = networks.initial_state(1)
        for x in seen:
            if x[b, 3]:
                state = networks.initial_state(1)
            with torch.no_grad():
                state = networks(torch.from_numpy(x[b, :3][None, None].astype(np.float32)), state)[2]
        if world.clock[b] == 0:
            state = networks.initial_state(1)
        for name, leaf in state.items():
            torch.testing.assert_close(kept[name][b : b + 1], leaf, atol=1e-6, rtol=0)


def test_stopped_between_two_grants_it_goes_on_bit_for_bit(through_a_file: Any) -> None:
    built = agent(window=5, anneal=50)
    built.begin_task(TASK)
    experience = lived(built, 40)
    kept, place = through_a_file(built.state_dict()), through_a_file(experience.state_dict())
    again, world = agent(window=5, anneal=50, seed=9), Interaction(Recall(seed=77))
    again.load_state_dict(kept)
    world.load_state_dict(place)
    for one, where in ((built, experience), (again, world)):
        where.meter.grant(60)
        one.learn(where)
    assert torch.equal(weights(built), weights(again)) and built.gradient_steps == again.gradient_steps == 5


def test_frozen_weights_stay_while_it_acts() -> None:
    built = agent(methods={"freeze": {"kind": "freeze", "after": 0}}, window=5)
    built.begin_task(TASK)
    before = weights(built)
    lived(built, 40)
    assert torch.equal(before, weights(built)) and built.gradient_steps == 0


def test_a_policy_acts_in_proportion_to_its_probabilities_and_alike_for_equal_calls() -> None:
    built = agent()
    policy = built.policy(TASK)
    networks = built._learner.networks
    with torch.no_grad():
        networks.policy.bias.copy_(torch.tensor([1.0, 0.0]))
    policy = built.policy(TASK)
    x = np.zeros((1, 3), dtype=np.float32)
    chosen, probabilities, state = [], [], policy.initial_state(1)
    reader = networks.initial_state(1)
    for _ in range(2000):
        action, state = policy.act(x, state)
        chosen.append(action[0, 0])
        with torch.no_grad():
            logits, _, reader, *_ = networks(torch.zeros(1, 1, 3), reader)
        probabilities.append(float(logits.softmax(-1)[0, 0, 0]))
    assert np.mean(chosen) == pytest.approx(np.mean(probabilities), abs=0.03)  # a standard deviation is 0.01
    again, _ = policy.act(x, policy.initial_state(1))
    assert np.array_equal(again, policy.act(x, policy.initial_state(1))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"discount": 1.5}, r"discount and trace must lie in \[0, 1\]"),
        ({"evaluated_clear": True}, "evaluated_clear=true wipes the memory of the world of sem"),
        ({"scope": "ever"}, "scope"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        agent(**options)


@pytest.mark.parametrize("method", ["replay", "ewc", "l2", "a-gem"])
def test_methods_that_keep_batches_are_refused_by_name(method: str) -> None:
    with pytest.raises(UserError, match=r"methods\.mine keeps batches of what was learned from, and actor-critic learns from none"):
        agent(methods={"mine": {"kind": method}})


def test_the_ablation_clears_the_policys_memory_of_the_world_alone() -> None:
    backbone = {"kind": "sem", "width": 8, "rank": 8, "tasks": 2}
    built, plain = agent(backbone, evaluated_clear=True), agent(backbone)
    assert isinstance(built._learner, ActorCritic)
    assert built.policy(TASK)._networks.backbone.clear and not built._learner.networks.backbone.clear
    for one in (built, plain):
        lived(one, 80)
    assert torch.equal(weights(built), weights(plain))
    x = np.tile(np.array([[0.3, 1, 0]], dtype=np.float32), (2, 1))
    answers = []
    for one in (built, plain):
        policy = one.policy(TASK)
        state = policy.initial_state(2)
        _, state = policy.act(x, state)
        _, state = policy.act(x[:, [0, 2, 1]], state)  # another sub-task
        answers.append(state[0])
    assert not torch.allclose(answers[0]["env.h"], answers[1]["env.h"])


def test_what_a_memory_wrote_and_read_while_acting_is_accounted_for() -> None:
    built = agent(
        {"kind": "memorizing-transformer", "width": 16, "layers": 1, "heads": 2, "segment_length": 2, "memory_size": 8, "topk": 2}
    )
    world = Recall()
    lived(built, 10 * B, world)  # two episodes of 4 steps and half of a third: a segment of 2 tokens is written every second step
    found = built.diagnostics()
    assert found["memory_writes"] == B * 10
    assert found["memory_reads"] > 0 and found["memory_bytes_per_stream"] > 0


@pytest.mark.parametrize("backbone", [{"kind": "sem", "width": 8}, {"kind": "lstm", "width": 8, "rank": 4}], ids=["sem", "lstm"])
def test_a_backbone_that_misreads_what_is_asked_is_refused(backbone: dict[str, Any]) -> None:
    """It would take another sub-task's entry, or what is seen, for the one-hot of what is asked."""
    world = TaskInfo(None, 1, "interaction", 8, 2, asked=4, choices=True)

    def built(tasks: int) -> Composed:
        section = {"learner": {"kind": "actor-critic"}, "backbone": {**backbone, "tasks": tasks}}
        return Composed(world, 0, interaction=section, device="cpu")

    with pytest.raises(UserError, match=r"expected tasks=4, .*got 3; add agent\.interaction\.backbone\.tasks=4"):
        built(3)
    for tasks in (0, 4):  # one that is not told, and one that is told right
        built(tasks)
