"""Variational continual learning: what is drawn, what it costs to leave the prior, and what stands still."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from clbench.agents.learners.written_gradients import known
from clbench.agents.methods.variational import FIRST, Drawn, Variational
from clbench.errors import UserError

OPTIONS = {"kind": "variational", "samples": 100}


def made(world, **changes):
    agent = world.agent({"vcl": {**OPTIONS, **changes}}, learning_rate=3e-3, warmup=0)
    return agent, agent._method._methods["vcl"], agent._learner


def test_a_weight_is_drawn_while_learning_and_its_mean_otherwise():
    """Log variance -6: a standard deviation of e^-3 = 0.0498; 4000 draws tell it to 1.1 %."""
    drawn, mean = Drawn(torch.zeros(4000)), torch.full((4000,), 2.0)
    sample = drawn(mean)
    assert sample.std().item() == pytest.approx(0.0498, rel=0.06) and sample.mean().item() == pytest.approx(2.0, abs=0.004)
    assert torch.equal(drawn.eval()(mean), mean)


def test_the_penalty_is_the_divergence_from_the_prior(world):
    agent, method, learner = made(world, strength=3.0)
    for phase in range(2):  # N(0, 1), then what the first task left
        shared = method._shared(learner)
        assert shared and all((log_variance == FIRST).all() for _, _, log_variance in shared) == (phase == 0)
        expected = 0.0
        for name, mean, log_variance in shared:
            before, width = method.prior.get(name, (torch.zeros_like(mean), torch.zeros_like(mean)))
            expected += kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(before, (0.5 * width).exp())).sum().item()
        assert method.penalty(learner).item() == pytest.approx(3.0 * expected / 100, rel=1e-4, abs=1e-5)
        world.live(agent, [6 * world.slice], first=phase)
        assert method.penalty(learner).item() == pytest.approx(0.0, abs=1e-5)  # the prior is what it just left
        with torch.no_grad():
            shared[0][1].add_(0.1)


def test_what_is_shared_and_not_drawn_stands_still_from_the_second_task_on(world):
    agent, method, learner = made(world)
    world.live(agent, [6 * world.slice])
    drawn = {id(part) for _, mean, log_variance in method._shared(learner) for part in (mean, log_variance)}
    still = [(weight, weight.detach().clone()) for weight in learner.held if id(weight) not in drawn]
    moving = [(weight, weight.detach().clone()) for weight in learner.held if id(weight) in drawn]
    world.live(agent, [6 * world.slice], first=1)
    assert all(torch.equal(weight, before) for weight, before in still)
    assert not all(torch.equal(weight, before) for weight, before in moving)


def test_in_soft_actor_critic_only_the_actor_is_drawn_and_its_trunk_is_held(world_of):
    _, method, learner = made(world_of("soft actor-critic"))
    names = [name for name, _ in learner.networks.named_parameters() if name.endswith("log_variance")]
    assert names and all(name.startswith("actor.") for name in names) and any(name.startswith("actor.head") for name in names)
    assert all(name.startswith("actor.trunk") for name, _, _ in method._shared(learner))
    assert not known(learner.networks)  # so that torch differentiates


def test_a_policy_plays_the_means(world_of):
    for name in ("cloning steps", "soft actor-critic"):
        world = world_of(name)
        agent, _, _ = made(world)
        world.live(agent, [4 * world.slice])
        policy, seen = agent.policy(world.task(0)), world.observations(8)
        first, _ = policy.act(seen, policy.initial_state(8))
        again, _ = policy.act(seen, policy.initial_state(8))
        assert np.array_equal(first, again)
        assert np.allclose(first[:1], policy.act(seen[:1], policy.initial_state(1))[0], atol=1e-6)
        copy.deepcopy(policy)


def test_the_past_is_held_where_fine_tuning_loses_it(world_of):
    """How far the means' answers to the first task went in the second."""
    world, apart = world_of("cloning steps"), {}
    for name, methods in {"plain": {}, "held": {"vcl": {**OPTIONS, "strength": 10.0}}}.items():
        agent = world.live(world.agent(methods, learning_rate=3e-3, warmup=0), [60 * world.slice])
        seen = world.observations(64)

        def asked(agent=agent, world=world, seen=seen):
            policy = agent.policy(world.task(0))
            return policy.act(seen, policy.initial_state(64))[0]

        before = asked()
        world.live(agent, [60 * world.slice], first=1)
        apart[name] = np.abs(asked() - before).mean()
    assert apart["held"] < 0.7 * apart["plain"]


def test_stopped_in_the_second_task_it_goes_on_bit_for_bit(world, through_a_file):
    agent, _, _ = made(world)
    world.live(agent, [4 * world.slice])
    agent.begin_task(world.task(1))
    experience = world.experience(1, 3 * world.slice)
    experience.meter.planned = 6 * world.slice
    agent.learn(experience)
    again = world.agent({"vcl": OPTIONS}, seed=9, learning_rate=3e-3, warmup=0)
    again.load_state_dict(through_a_file(agent.state_dict()))
    place = world.experience(1)
    place.load_state_dict(through_a_file(experience.state_dict()))
    for one, where in ((agent, experience), (again, place)):
        where.meter.grant(3 * world.slice)
        one.learn(where)
        one.end_task(world.task(1))
    assert world.same(agent, again)


def test_layers_without_a_bias_are_drawn_too():
    network = nn.Sequential(nn.Linear(3, 2, bias=False))
    Variational(0).wrap_networks(network)
    assert [name for name, _ in network.named_parameters()] == [
        "0.parametrizations.weight.original",
        "0.parametrizations.weight.0.log_variance",
    ]


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"samples": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="variational: strength must be at least 0 and samples at least 1"):
        Variational(0, **options)
