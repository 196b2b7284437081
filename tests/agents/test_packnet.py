"""PackNet: who owns what, what stands still, and what a task is played with."""

import numpy as np
import pytest
import torch

from clbench.agents.methods.packnet import PackNet
from clbench.errors import UserError

OPTIONS = {"kind": "packnet", "retrain": 0.5, "samples": 50, "batch_size": 8, "tasks": 3}


def packed(world, **changes):
    agent = world.agent({"packnet": {**OPTIONS, **changes}})
    return agent, agent._method._methods["packnet"], agent._learner


def matrices(learner):
    held = {id(weight) for weight in learner.held}
    return {name: weight for name, weight in learner.networks.named_parameters() if id(weight) in held and weight.ndim > 1}


def vectors(learner):
    held = {id(weight) for weight in learner.held}
    return {name: weight for name, weight in learner.networks.named_parameters() if id(weight) in held and weight.ndim == 1}


def copies(weights):
    return {name: weight.detach().clone() for name, weight in weights.items()}


def test_each_of_three_tasks_owns_a_third_of_every_matrix(world):
    agent, method, learner = packed(world)
    for phase in range(3):
        world.live(agent, [4 * world.slice], first=phase)
    for name, weight in matrices(learner).items():
        owned = np.bincount(method.owner[name].flatten().numpy(), minlength=4)
        assert owned[0] == 0 and np.abs(owned[1:] - weight.numel() / 3).max() <= 1


def test_what_is_kept_is_the_largest_and_the_rest_is_nothing(world):
    agent, method, learner = packed(world, retrain=0.0)
    agent.begin_task(world.task(0))
    agent.learn(world.experience(0, 4 * world.slice))
    before = copies(matrices(learner))
    agent.end_task(world.task(0))
    for name, weight in matrices(learner).items():
        kept = method.owner[name] == 1
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()
        assert torch.equal(weight[kept], before[name][kept]) and not weight[~kept].any()


def test_retraining_changes_what_is_kept_and_leaves_the_rest_at_nothing(world):
    agent, method, learner = packed(world)
    agent.begin_task(world.task(0))
    agent.learn(world.experience(0, 8 * world.slice))
    made, before, still = learner.gradient_steps, copies(matrices(learner)), copies(vectors(learner))
    agent.end_task(world.task(0))
    assert learner.gradient_steps == made + round(0.5 * made)
    for name, weight in matrices(learner).items():
        kept = method.owner[name] == 1
        assert not torch.equal(weight[kept], before[name][kept]) and not weight[~kept].any()
    assert all(torch.equal(weight, still[name]) for name, weight in vectors(learner).items())


def test_later_tasks_do_not_touch_weights_of_earlier_ones_nor_vectors(world):
    agent, method, learner = packed(world)
    world.live(agent, [4 * world.slice])
    before, still = copies(matrices(learner)), copies(vectors(learner))
    owned = {name: owner == 1 for name, owner in copies(method.owner).items()}
    world.live(agent, [4 * world.slice, 4 * world.slice], first=1)
    learned = matrices(learner)
    assert all(torch.equal(weight[owned[name]], before[name][owned[name]]) for name, weight in learned.items())
    assert sum(torch.equal(weight[~owned[name]], before[name][~owned[name]]) for name, weight in learned.items()) <= 1  # one is not read
    assert all(torch.equal(weight, still[name]) for name, weight in vectors(learner).items())


def test_a_finished_task_is_played_as_it_was_when_it_was_over(world_of):
    for name in ("cloning steps", "soft actor-critic"):
        world = world_of(name)
        agent, _, _ = packed(world)
        world.live(agent, [6 * world.slice])
        seen = world.observations(8)

        def asked(agent=agent, world=world, seen=seen):
            policy = agent.policy(world.task(0))
            return policy.act(seen, policy.initial_state(8))[0]

        before = asked()
        world.live(agent, [6 * world.slice], first=1)
        assert np.array_equal(before, asked())
        world.live(agent, [6 * world.slice], first=1)
        assert np.array_equal(before, asked())


def test_the_last_task_keeps_everything_and_is_not_retrained(world_of):
    world = world_of("cloning steps")
    agent, method, learner = packed(world, tasks=0)  # two by the stream's own word
    world.live(agent, [4 * world.slice])
    assert any((owner == 0).any() for owner in method.owner.values())
    steps = learner.gradient_steps
    agent.begin_task(world.task(1))
    agent.learn(world.experience(1, 4 * world.slice))
    made = learner.gradient_steps - steps
    agent.end_task(world.task(1))
    assert learner.gradient_steps == steps + made and all((owner > 0).all() for owner in method.owner.values())


@pytest.mark.parametrize("options", [{"retrain": -0.1}, {"samples": 0}, {"batch_size": 0}, {"tasks": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="packnet: retrain and tasks must be at least 0, samples and batch_size at least 1"):
        PackNet(0, **options)
