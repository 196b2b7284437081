"""Soft actor-critic: its arithmetic, its data flow, and that it learns."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from clbench.agents.composed import Composed
from clbench.agents.learners.transitions import Transitions
from clbench.agents.learners.written_gradients import Gradients, known
from clbench.agents.methods.method import Chain
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from .conftest import HORIZON, SIDE, Aim

B, OBS, A = SIDE, 3, 2
SMALL = {
    "batch_size": 16,
    "capacity": 200,
    "start_steps": 20,
    "update_after": 20,
    "update_every": 8,
    "updates": 2,
    "n_step": 1,
    "reward_scale": 1.0,
    "initial_alpha": 1.0,
}


def task(index: int | None = None, tasks: int = 1) -> TaskInfo:
    return TaskInfo(index, tasks, "interaction", OBS + (tasks if index is not None else 0), A)


def agent(info: TaskInfo | None = None, seed: int = 0, **learner: Any) -> Composed:
    section = {"learner": {"kind": "soft-actor-critic", **SMALL, **learner}, "backbone": {"kind": "mlp", "width": 16, "depth": 2}}
    return Composed(info or task(), seed, control=section, device="cpu")


def lived(built: Composed, units: int, world: Any = None) -> Interaction:
    experience = Interaction(world or Aim())
    experience.meter.grant(units)
    built.learn(experience)
    return experience


def batch(rows: int = 16, extra: int = 0) -> Transitions:
    torch.manual_seed(1)
    observation, following = torch.randn(rows, OBS + extra), torch.randn(rows, OBS + extra)
    return Transitions(observation, torch.rand(rows, A) * 2 - 1, torch.randn(rows), 0.8 * (torch.rand(rows) < 0.5).float(), following)


def networks(built: Composed) -> Any:
    return built._learner.networks


def test_the_probability_of_an_action_is_that_of_a_squashed_normal() -> None:
    actor, seen = networks(agent()).actor, torch.randn(50, OBS)
    noise = 1.5 * torch.randn(50, A)
    acted = actor(seen, noise)
    mean, log_std = actor.head(actor.trunk(seen[:, None], {}).hidden[:, 0]).chunk(2, dim=1)
    squashed = TransformedDistribution(Normal(mean, log_std.clamp(-20, 2).exp()), [TanhTransform(cache_size=1)])
    expected = Independent(squashed, 1).log_prob(acted.action)
    close = acted.action.abs().amax(1) < 0.999  # beyond, the inverse of tanh has few digits
    assert close.sum() > 20
    torch.testing.assert_close(acted.log_probability[close], expected[close], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(acted.action, (mean + log_std.clamp(-20, 2).exp() * noise).tanh())


def test_an_update_is_the_one_of_the_definition() -> None:
    """The gradients of the three losses, each written out alone, at the old parameters; then the targets move by 1 - polyak."""
    built, data = agent(polyak=0.9), batch()
    nets, learner = networks(built), built._learner
    for target in nets.targets.parameters():
        target.data.normal_(std=0.3)
    before = {name: weight.clone() for name, weight in nets.named_parameters()}

    def by_hand() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        alpha = nets.log_alpha.exp()
        then = nets.actor(data.following)
        rows = torch.cat([data.following, then.action], 1)
        least = torch.stack([c.head(c.trunk(rows[:, None], {}).hidden[:, 0])[:, 0] for c in nets.targets]).amin(0)
        wanted = (data.reward + data.discount * (least - alpha * then.log_probability)).detach()
        rows = torch.cat([data.observation, data.action], 1)
        values = [c.head(c.trunk(rows[:, None], {}).hidden[:, 0])[:, 0] for c in nets.critics]
        critic = sum(0.5 * (value - wanted).square().mean() for value in values)
        now = nets.actor(data.observation)
        rows = torch.cat([data.observation, now.action], 1)
        promised = torch.stack([c.head(c.trunk(rows[:, None], {}).hidden[:, 0])[:, 0] for c in nets.critics]).amin(0)
        actor = (alpha.detach() * now.log_probability - promised).mean()
        temperature = -(nets.log_alpha[0] * (now.log_probability.detach() + learner.target_entropy)).mean()
        found = {}
        for loss, part in ((critic, "critics"), (actor, "actor"), (temperature, "log_alpha")):
            named = {name: weight for name, weight in nets.named_parameters() if name.startswith(part) and weight.requires_grad}
            grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            found |= dict(zip(named, grads, strict=True))
        return found

    expected = by_hand()
    torch.manual_seed(3)
    learner.improve(data, Chain({}))
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(nets.named_parameters())[name].grad, gradient, atol=1e-6, rtol=1e-4)
    for (name, critic), target in zip(nets.critics.named_parameters(), nets.targets.parameters(), strict=True):
        assert not torch.equal(critic, before[f"critics.{name}"])
        torch.testing.assert_close(target, 0.9 * before[f"targets.{name}"] + 0.1 * critic)


@pytest.mark.parametrize("tasks", [0, 1, 3])
@pytest.mark.parametrize(("norm_all", "popart"), [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_the_gradients_written_out_are_those_of_the_losses(tasks: int, norm_all: bool, popart: float) -> None:
    """Of all tasks in one batch, with temperatures of their own, and a head far enough out that its log std is clipped."""
    info = task(0, tasks) if tasks else task()
    section = {
        "learner": {"kind": "soft-actor-critic", **SMALL, "popart": popart},
        "backbone": {"kind": "mlp", "width": 16, "depth": 3, "norm_all": norm_all},
    }
    learner = Composed(info, 0, control=section, device="cpu")._learner
    nets, rows = learner.networks, 24
    data = batch(rows)
    cue = torch.eye(tasks)[torch.arange(rows) % tasks] if tasks else torch.zeros(rows, 0)
    data = data._replace(observation=torch.cat([data.observation, cue], 1), following=torch.cat([data.following, cue], 1))
    with torch.no_grad():
        nets.log_alpha.uniform_(-1, 1)
        nets.actor.head.bias[-1] = 2.05  # about half of the rows are clipped
        if popart:
            nets.moments[0], nets.moments[1] = torch.linspace(-3, 3, max(tasks, 1)), 12.0
    begin = {name: part.clone() for name, part in nets.state_dict().items()}
    assert known(nets)
    torch.manual_seed(4)
    expected = learner._losses(data)
    weights = {name: weight for name, weight in nets.named_parameters() if weight.requires_grad}
    wanted = dict(zip(weights, torch.autograd.grad(expected.total, list(weights.values())), strict=True))
    moved = {name: part.clone() for name, part in nets.state_dict().items()}
    nets.load_state_dict(begin)
    torch.manual_seed(4)
    found = Gradients(nets).leave(data, learner.reward_scale, learner.target_entropy, popart)
    assert all(torch.allclose(part, moved[name], atol=1e-6) for name, part in nets.state_dict().items())
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, wanted[name], atol=1e-6, rtol=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tasks", [0, 3])
def test_moments_follow_the_values_of_their_task_and_what_critics_say_stays(tasks: int) -> None:
    """Task 0 wants 5 and 7, task 2 wants -1; from mean 0 and mean square 1, a tenth of the way: 0.6 and 0.9 + 3.7, -0.1 and 1."""
    built = agent(task(0, tasks) if tasks else None, popart=0.1)
    nets, rows = networks(built), torch.randn(6, OBS)
    cue = torch.eye(3)[torch.tensor([0, 0, 2, 0, 1, 2])] if tasks else torch.zeros(6, 0)
    seen, action = torch.cat([rows, cue], 1), torch.rand(6, A)
    said = [nets.values(critics, seen, action) for critics in (nets.critics, nets.targets)]
    head = nets.critics[0].head.weight.detach().clone()
    wanted = torch.tensor([5.0, 7.0, -1.0])
    nets.follow(wanted, seen[:3], 0.1)
    expected = [[0.6, 0.0, -0.1], [4.6, 1.0, 1.0]] if tasks else [[11 / 30], [0.9 + 7.5 / 3]]
    torch.testing.assert_close(nets.moments, torch.tensor(expected))
    for before, critics in zip(said, (nets.critics, nets.targets), strict=True):
        torch.testing.assert_close(nets.values(critics, seen, action), before, atol=1e-5, rtol=1e-4)
    assert not torch.equal(nets.critics[0].head.weight, head)
    if tasks:
        assert torch.equal(nets.critics[0].head.weight[1], head[1])  # of the task that was not there


def test_values_of_different_size_are_learned_alike_under_popart(through_a_file: Any) -> None:
    """A bandit whose rewards are around 1000: with normalised values a fresh critic is there in 300 updates, without it is not."""
    errors = {}
    for popart in (0.0, 0.05):
        built = agent(popart=popart, learning_rate=3e-3, initial_alpha=0.01)
        torch.manual_seed(0)
        for _ in range(300):
            seen, action = torch.randn(64, OBS), torch.rand(64, A) * 2 - 1
            reward = 1000 + 10 * action[:, 0]
            built._learner.improve(Transitions(seen, action, reward, torch.zeros(64), seen), Chain({}))
        seen, action = torch.randn(64, OBS), torch.rand(64, A) * 2 - 1
        with torch.no_grad():
            errors[popart] = (networks(built).values(networks(built).critics, seen, action) - 1000 - 10 * action[:, 0]).abs().mean().item()
        again = agent(popart=popart)
        again.load_state_dict(through_a_file(built.state_dict()))
        assert popart == 0.0 or torch.equal(networks(again).moments, networks(built).moments)
    assert errors[0.05] < 5 < 100 < errors[0.0]


def test_trunks_that_are_not_written_out_learn_all_the_same() -> None:
    built, data = agent(), batch()
    built._learner.networks.actor.trunk.__class__ = type("Other", (type(built._learner.networks.actor.trunk),), {})
    assert not known(networks(built))
    twin = agent()
    for one in (built, twin):
        torch.manual_seed(3)
        one._learner.improve(data, Chain({}))
    for one, other in zip(networks(built).parameters(), networks(twin).parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


def test_a_clip_holds_for_actor_critics_and_temperatures_apart() -> None:
    built = agent(gradient_clip=1e-3)
    built._learner.improve(batch(), Chain({}))
    nets = networks(built)
    for part in (nets.actor.parameters(), nets.critics.parameters(), [nets.log_alpha]):
        length = torch.cat([weight.grad.flatten() for weight in part]).norm()
        assert length.item() == pytest.approx(1e-3, rel=1e-3)


def test_rewards_are_scaled_in_the_loss_and_kept_as_they_are() -> None:
    built, plain, data = agent(reward_scale=0.5), agent(), batch()
    for one, rewards in ((built, data.reward), (plain, 0.5 * data.reward)):
        torch.manual_seed(3)
        one._learner.improve(data._replace(reward=rewards), Chain({}))
    pairs = zip(networks(built).parameters(), networks(plain).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def headed(exploration: str) -> Composed:
    """Heads 0 and 1 of three are learned: 0 says about (-1, -1), 1 says about (1, 1)."""
    built = agent(task(0, 3), exploration=exploration, start_steps=40, update_after=40)
    learner = built._learner
    with torch.no_grad():
        head = learner.networks.actor.head
        head.weight.zero_()
        head.bias.view(3, 2, A)[:, 1] = -5.0
        head.bias.view(3, 2, A)[:, 0] = torch.tensor([[-3.0] * A, [3.0] * A, [0.0] * A])
    learner._learned[:2] = True
    built.begin_task(task(2, 3))
    return built


class Three(Aim):
    """Episodes of task 2 of three, in which going up pays."""

    def __init__(self) -> None:
        super().__init__()
        self.cue = np.tile(np.eye(3)[2], (B, 1))

    def step(self, action: np.ndarray) -> Any:
        return super().step(action)._replace(reward=action.sum(1))


def test_the_best_of_the_older_heads_explores_a_new_task() -> None:
    world = Three()
    lived(headed("best-return"), 40, world)
    signs = np.sign(np.stack(world.actions)).astype(int)  # (10, B, A)
    assert (signs[:HORIZON] == np.array([-1, 1, -1, 1])[:, None]).all()  # each head in two environments, for an episode
    assert (signs[HORIZON:] == 1).all()
    plain = Three()
    lived(headed("random"), 40, plain)
    assert len({tuple(row) for row in np.sign(np.concatenate(plain.actions)).astype(int).tolist()}) == 4


def test_a_trial_that_is_stopped_goes_on(through_a_file: Any) -> None:
    built, world = headed("best-return"), Three()
    experience = lived(built, 12, world)
    again = headed("best-return")
    again.load_state_dict(through_a_file(built.state_dict()))
    place = Interaction(Three())
    place.load_state_dict(through_a_file(experience.state_dict()))
    for one, where in ((built, experience), (again, place)):
        where.meter.grant(28)
        one.learn(where)
    assert np.array_equal(np.stack(world.actions)[3:], np.stack(place._world.actions))


def test_heads_are_learned_once_they_were_updated() -> None:
    built = agent(task(0, 3), exploration="best-return")
    built.begin_task(task(0, 3))
    assert built._learner._past == []
    data = batch(extra=3)
    cue = torch.eye(3)[torch.tensor([0, 2] * 8)]
    data = data._replace(observation=torch.cat([data.observation[:, :OBS], cue], 1), following=torch.cat([data.following[:, :OBS], cue], 1))
    built._learner.improve(data, Chain({}))
    built.begin_task(task(1, 3))
    assert built._learner._past == [0, 2]


def test_in_a_joint_phase_every_environment_updates_its_own_head() -> None:
    info = TaskInfo(None, 3, "interaction", OBS + 3, A)  # as a stream tells of a joint phase
    built = agent(info, start_steps=0, update_after=0, batch_size=64)
    worlds = []
    for number in range(3):
        world = Aim(seed=number)
        world.cue = np.tile(np.eye(3)[number], (B, 1))
        worlds.append(Interaction(world))
    joint = Interaction.joint(worlds, 0)
    assert joint.observation.shape == (3 * B, OBS + 3)
    joint.meter.grant(3 * B * 6)
    before = networks(built).actor.head.weight.detach().clone()
    built.learn(joint)
    moved = (networks(built).actor.head.weight.detach() != before).view(3, -1).any(1)
    assert moved.tolist() == [True] * 3 and built._learner._learned.tolist() == [True] * 3
    assert len({len(world._world.actions) for world in worlds}) == 1


def test_the_entropy_to_be_reached_is_continual_worlds() -> None:
    info = TaskInfo(None, 1, "interaction", OBS, 4)
    assert agent(info)._learner.target_entropy == pytest.approx(-4.0007, abs=1e-4)


def test_the_first_steps_are_random_and_updates_follow_the_steps() -> None:
    built, world = agent(start_steps=40, update_after=40), Aim()
    lived(built, 36, world)
    assert built.gradient_steps == 0
    drawn = np.concatenate(world.actions)
    assert np.abs(drawn).max() > 0.8 and np.abs(drawn.mean()) < 0.25
    lived(built, 60, world)  # 96 steps: updates at 40, 48, ..., 96, two each
    assert built.gradient_steps == 2 * 8
    built.begin_task(task())
    lived(built, 36, world)
    assert built.gradient_steps == 16  # random again
    early = agent(start_steps=40, update_after=16)
    lived(early, 36)
    assert early.gradient_steps == 2 * 3  # at 16, 24 and 32


def test_what_is_kept_is_the_last_of_what_was_lived() -> None:
    built = agent(capacity=10, start_steps=10**6)
    world = Aim()
    lived(built, 24, world)
    learner = built._learner
    kept = {tuple(row) for part in learner.own_items() for row in part.targets[:, 0, :A].tolist()}
    assert learner.buffer.filled == 10
    assert kept == {tuple(row) for row in np.concatenate(world.actions).astype(np.float32)[-10:].tolist()}
    built.begin_task(task())
    assert learner.buffer.filled == 0
    other = agent(capacity=10, reset_buffer=False)
    lived(other, 24)
    other.begin_task(task())
    assert other._learner.buffer.filled == 10


def test_where_nobody_tells_that_a_task_is_over_its_open_episodes_are_cut() -> None:
    """Seven steps of one world, two into its second episode, then another; the same world goes on without a cut."""
    for another in (True, False):
        built = agent(start_steps=10**6, update_after=10**6, n_step=3)
        experience = lived(built, 7 * B)
        if another:
            lived(built, 2 * B, Aim(seed=5))
        else:
            experience.meter.grant(2 * B)
            built.learn(experience)
        discount = built._learner.buffer.at(torch.arange(5 * B, 6 * B)).discount
        assert torch.allclose(discount, torch.full((B,), 0.99**2 if another else 0.99**3))


def test_what_the_clock_cuts_is_bootstrapped_from_the_last_observation() -> None:
    built = agent(start_steps=10**6)
    lived(built, B * HORIZON)
    kept = built._learner.buffer.at(torch.arange(B * HORIZON))
    assert torch.equal(kept.discount, torch.full((B * HORIZON,), 0.99))
    last = kept.following[B * (HORIZON - 1) :]
    assert (last[:, 2] == 1.0).all()  # the clock of the episode that ended, and not of the next
    assert torch.equal(last[:, :2], kept.observation[B * (HORIZON - 1) :, :2])


def test_the_one_hot_picks_the_heads_and_is_hidden_from_the_trunks() -> None:
    built = agent(task(0, 3))
    nets = networks(built)
    assert nets.actor.trunk.input_size == OBS and nets.critics[0].trunk.input_size == OBS + A
    seen, noise = torch.randn(6, OBS), torch.randn(6, A)
    shown = [torch.cat([seen, torch.eye(3)[[n] * 6]], 1) for n in range(3)]
    answers = [nets.actor(x, noise).action for x in shown]
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[1], answers[2])
    mixed = torch.cat([x[n : n + 1] for n, x in enumerate(shown)])
    torch.testing.assert_close(nets.actor(mixed, noise[:3]).action, torch.stack([answers[n][n] for n in range(3)]))
    data = batch(extra=3)._replace(observation=shown[1].repeat(3, 1)[:16], following=shown[1].repeat(3, 1)[:16])
    before = nets.log_alpha.detach().clone(), nets.actor.head.weight.detach().clone().view(3, 2 * A, -1)
    built._learner.improve(data, Chain({}))
    assert (nets.log_alpha.detach() != before[0]).tolist() == [False, True, False]
    moved = (nets.actor.head.weight.detach().view(3, 2 * A, -1) != before[1]).flatten(1).any(1)
    assert moved.tolist() == [False, True, False]


def test_stopped_between_two_grants_it_goes_on_bit_for_bit(through_a_file: Any) -> None:
    built = agent()
    built.begin_task(task())
    experience = lived(built, 60)
    kept, place = through_a_file(built.state_dict()), through_a_file(experience.state_dict())
    again, world = agent(seed=9), Interaction(Aim(seed=77))
    again.load_state_dict(kept)
    world.load_state_dict(place)
    for one, where in ((built, experience), (again, world)):
        where.meter.grant(60)
        one.learn(where)
    weights = [list(networks(one).state_dict().values()) for one in (built, again)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True)) and built.gradient_steps == again.gradient_steps > 10


@pytest.mark.parametrize("acts", ["mean", "drawn"])
def test_an_answer_depends_on_its_row_and_step_alone(acts: str) -> None:
    built = agent(acts=acts)
    policy, seen = built.policy(task()), np.random.default_rng(0).normal(size=(5, OBS))
    whole, state = policy.act(seen, policy.initial_state(5))
    again, _ = policy.act(seen, state)
    parts = np.concatenate([policy.act(seen[n : n + 1], policy.initial_state(1))[0] for n in range(5)])
    assert np.allclose(whole, parts, atol=1e-6) and np.array_equal(whole, again) == (acts == "mean")
    assert np.abs(whole).max() <= 1


def test_it_learns_to_aim() -> None:
    built = agent(learning_rate=3e-3, start_steps=200, update_after=200, updates=4, capacity=5000, batch_size=64, discount=0.5)
    built.begin_task(task())
    lived(built, 3000)
    points = np.random.default_rng(5).uniform(-0.7, 0.7, (64, A))
    seen = np.concatenate([points, np.zeros((64, 1))], axis=1)
    policy = built.policy(task())
    error = np.abs(policy.act(seen, policy.initial_state(64))[0] - points).mean()
    assert error < 0.15  # 0.35 by standing still
    assert {"critic_loss", "actor_loss", "alpha", "entropy", "value"} <= built.diagnostics().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size, capacity, update_every and n_step must be at least 1"),
        ({"updates": -1}, "start_steps, update_after and updates at least 0"),
        ({"polyak": 1.5}, r"discount and polyak must lie in \[0, 1\]"),
        ({"initial_alpha": 0.0}, "must be > 0"),
        ({"acts": "best"}, "acts must be mean or drawn, got 'best'"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"reward_scale": 0.0}, "reward_scale must be > 0"),
        ({"popart": 1.5}, r"popart must lie in \[0, 1\], got 1.5"),
        ({"exploration": "best"}, "exploration must be random or best-return, got 'best'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        agent(**options)


def test_worlds_and_backbones_that_do_not_fit_are_refused() -> None:
    choices = TaskInfo(None, 1, "interaction", OBS, A, choices=True)
    with pytest.raises(UserError, match="no section 'interaction'"):
        agent(choices)
    section = {"learner": {"kind": "soft-actor-critic"}, "backbone": {"kind": "mlp"}}
    with pytest.raises(UserError, match="expected a world of continuous actions, got one of 2 choices"):
        Composed(choices, 0, interaction=section, device="cpu")
    with pytest.raises(UserError, match="actor-critic: expected a world of at least 2 choices, got one of continuous actions"):
        Composed(task(), 0, control={"learner": {"kind": "actor-critic"}, "backbone": {"kind": "mlp"}}, device="cpu")
    with pytest.raises(UserError, match="lstm has a memory, which this learner does not carry"):
        Composed(task(), 0, control={"learner": {"kind": "soft-actor-critic"}, "backbone": {"kind": "lstm"}}, device="cpu")
