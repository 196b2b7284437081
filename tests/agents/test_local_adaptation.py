"""A head that adapts before each token: the steps are those of gradient descent on a copy, and what was forgotten comes back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from clbench.agents.backbones.transformer import Transformer
from clbench.agents.composed import Composed
from clbench.agents.learners.batch import whole_items
from clbench.agents.learners.language_modelling import TokenModel
from clbench.agents.methods.local_adaptation import LocalAdaptation
from clbench.errors import UserError
from clbench.task_streams.language.stream import knowledge_stream

V = 32


def remembering(tied: bool = True, **options):
    """A method that has seen six texts of four tokens, the network, and what was seen."""
    torch.manual_seed(0)
    networks = TokenModel(Transformer(16, width=16, layers=1, heads=2), V, tied=tied).eval()
    method = LocalAdaptation(0, **options)
    rng = np.random.default_rng(1)
    targets = rng.integers(0, V, (6, 4)).astype(np.int32)
    inputs = np.concatenate([np.full((6, 1), V), targets[:, :-1]], axis=1).astype(np.int32)
    scored = np.ones((6, 4), dtype=bool)
    scored[:, 0] = False
    method.wrap_buffer(whole_items(inputs, targets, scored))
    return method, networks, torch.from_numpy(inputs.astype(np.int64)), targets, scored


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_it_is_gradient_descent_on_the_head(tied, weighted):
    method, networks, inputs, targets, scored = remembering(tied, neighbours=5, steps=4, rate=0.3, decay=0.2, weighted=weighted)
    asked = torch.from_numpy(np.random.default_rng(2).integers(0, V, (2, 3)))
    with torch.no_grad():
        states = networks.read(inputs, networks.initial_state(6)).hidden[torch.from_numpy(scored)]
        hidden = networks.read(asked, networks.initial_state(2)).hidden
        view = method.view(networks, knowledge_task().info)
        found = view(asked, view.initial_state(2)).logits
    tokens = torch.from_numpy(targets[scored].astype(np.int64))
    weight = networks.embedding.weight[:V] if tied else networks.head.weight
    bias = None if tied else networks.head.bias
    for row in range(2):
        for at in range(3):
            distance = ((states - hidden[row, at]) ** 2).sum(1)
            near = distance.argsort()[:5]
            share = 1 / (1e-3 + distance[near]) if weighted else torch.ones(5)
            share = share / share.sum()
            parts = [each.detach().clone() for each in (weight, bias) if each is not None]
            begun = [each.clone() for each in parts]
            for _ in range(4):
                moving = [each.requires_grad_() for each in parts]
                said = functional.linear(states[near], *moving)
                loss = (share * functional.cross_entropy(said, tokens[near], reduction="none")).sum()
                slopes = torch.autograd.grad(loss, moving)
                parts = [
                    (now - 0.3 * slope - 0.3 * 0.2 * (now - first)).detach()
                    for now, slope, first in zip(moving, slopes, begun, strict=True)
                ]
            expected = functional.linear(hidden[row, at], *parts)
            torch.testing.assert_close(found[row, at], expected, atol=2e-4, rtol=1e-4)


def knowledge():
    return knowledge_stream(name="k", version=1, budget="b", entities=16, attributes=1, values=4, phases=2, exposures=4, points=1)


def knowledge_task():
    return knowledge().tasks[0]


def agent(methods):
    backbone = {"kind": "transformer", "width": 16, "layers": 1, "heads": 2}
    text = {"learner": {"kind": "language-modelling", "learning_rate": 3e-3, "warmup": 0}, "backbone": backbone}
    return Composed(knowledge_task().info, 3, text=text, methods=methods, device="cpu")


def lived(made, units=128):
    for task in knowledge().tasks:
        experience = task.experience(1)
        experience.meter.grant(units)
        made.begin_task(task.info)
        made.learn(experience)
        made.end_task(task.info)
    return made


def test_learning_is_that_of_fine_tuning_and_answers_are_not():
    info = knowledge_task().info
    plain, adapting = (lived(agent(methods)) for methods in ({}, {"mbpa": {"kind": "mbpa"}}))
    weights = [each._learner.networks.state_dict() for each in (plain, adapting)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    tokens = np.random.default_rng(0).integers(0, 512, (3, 9))
    said = [each.policy(info).logits(tokens, None)[0] for each in (plain, adapting)]
    assert not np.allclose(said[0], said[1]) and np.isfinite(said[1]).all()
    again = [adapting.policy(info).logits(tokens, None)[0] for _ in range(2)]
    assert (again[0] == said[1]).all() and (again[1] == said[1]).all()  # what adapts is forgotten


def test_cuts_of_a_text_change_nothing_and_its_memory_is_saved():
    info = knowledge_task().info
    made = lived(agent({"mbpa": {"kind": "mbpa", "capacity": 30}}))
    other = agent({"mbpa": {"kind": "mbpa", "capacity": 30}})
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    tokens = np.random.default_rng(0).integers(0, 512, (2, 8))
    policy = made.policy(info)
    whole, _ = policy.logits(tokens, None)
    assert (other.policy(info).logits(tokens, None)[0] == whole).all()
    state, parts = None, []
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, state = policy.logits(part, state)
        parts.append(logits)
    assert np.allclose(whole, np.concatenate(parts, axis=1), atol=1e-3)


def test_what_was_seen_once_is_known_without_learning():
    method, networks, inputs, targets, scored = remembering(neighbours=1, steps=30, rate=0.5, decay=0.0)
    view = method.view(networks, knowledge_task().info)
    with torch.no_grad():
        said = view(inputs, view.initial_state(6)).logits.argmax(-1).numpy()
        alone = networks(inputs, networks.initial_state(6)).logits.argmax(-1).numpy()
    assert (said == targets)[scored].all() and not (alone == targets)[scored].all()


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"steps": 0}, {"rate": 0.0}, {"decay": -1.0}])
def test_options_that_mean_nothing_are_one_line(options):
    with pytest.raises(UserError, match="mbpa: neighbours and steps must be at least 1"):
        LocalAdaptation(0, **options)
