"""Cloning of its own past, and the divergences that it is made of."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from clbench.agents.learners import gaussian
from clbench.agents.learners.batch import whole_items
from clbench.agents.methods.cloning import Cloning
from clbench.errors import UserError


def test_the_divergence_of_gaussians_is_torchs():
    torch.manual_seed(0)
    first, second = torch.randn(7, 2, 6), torch.randn(7, 2, 6)

    def law(x):
        mean, log_std = x.chunk(2, dim=-1)
        return Independent(Normal(mean, log_std.exp()), 1)

    torch.testing.assert_close(gaussian.divergence(first, second), kl_divergence(law(first), law(second)))
    assert not gaussian.divergence(first, first).any()


def items(world, agent):
    if world.kind == "control":
        return next(agent._learner.own_items())
    batch = agent._learner.draw(world.experience(0, 64))._replace(whole=True)
    return batch if batch.scored.any() else batch._replace(scored=~batch.scored)


def test_networks_do_not_diverge_from_themselves_and_do_once_they_learn(world):
    agent = world.live(world.agent(learning_rate=3e-3, warmup=0), [4 * world.slice])
    learner = agent._learner
    batch = items(world, agent)
    learner.networks.eval()
    with torch.no_grad():
        answers = learner.answers(batch)
        assert learner.divergence(answers, batch).abs() < 1e-6
        assert answers.shape[:2] == batch.inputs.shape[:2]
    world.live(agent, [8 * world.slice], first=1)
    learner.networks.eval()
    assert learner.divergence(answers, batch).item() > 1e-4


def test_the_divergence_of_a_predictor_is_torchs_over_what_is_scored(world_of):
    world = world_of("whole examples")
    one, other = (world.live(world.agent(seed=seed), [64])._learner for seed in (0, 1))
    batch = one.draw(world.experience(0, 8))
    before, now = (Categorical(logits=learner.answers(batch)) for learner in (one, other))
    expected = kl_divergence(before, now)[torch.from_numpy(batch.scored)].mean()
    torch.testing.assert_close(other.divergence(one.answers(batch), batch), expected, atol=1e-6, rtol=1e-4)


def test_a_finished_task_leaves_its_items_and_what_was_said_of_them(world):
    agent = world.agent({"cloning": {"kind": "cloning", "capacity": 12, "strength": 2.0, "batch_size": 5}})
    method, learner = agent._method._methods["cloning"], agent._learner
    world.live(agent, [6 * world.slice])
    inputs, targets, scored, answers = method.past
    kept = len(inputs)
    assert kept == (8 if world.name == "cloning windows" else 12) and method.penalty(learner) is not None
    past = whole_items(inputs, targets, scored, fresh=0)
    learner.networks.eval()
    with torch.no_grad():
        torch.testing.assert_close(learner.answers(past).numpy(), answers, atol=1e-5, rtol=1e-5)
        assert method.penalty(learner).abs() < 1e-5
    world.live(agent, [6 * world.slice], first=1)
    assert len(method.past[0]) == 2 * kept and np.array_equal(method.past[3][:kept, : answers.shape[1]], answers)


def test_the_past_is_held_where_fine_tuning_loses_it(world):
    """How far the networks went from what they said of the first task, in the second."""
    apart = {}
    options = {"learning_rate": 3e-3, "warmup": 0}
    for name, methods in {"plain": {}, "cloning": {"m": {"kind": "cloning", "strength": 10.0, "capacity": 100}}}.items():
        agent = world.live(world.agent(methods, **options), [40 * world.slice])
        batch = items(world, agent)
        agent._learner.networks.eval()
        with torch.no_grad():
            answers = agent._learner.answers(batch)
        world.live(agent, [40 * world.slice], first=1)
        agent._learner.networks.eval()
        apart[name] = agent._learner.divergence(answers, batch).item()
    assert apart["cloning"] < 0.5 * apart["plain"]


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"batch_size": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="cloning: strength must be at least 0 and batch_size at least 1"):
        Cloning(0, **options)
