"""A network that looks its next token up: the formula by hand, what was seen is known at once, and learning is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clbench.agents.composed import Composed
from clbench.agents.learners.batch import whole_items
from clbench.agents.learners.language_modelling import TokenModel
from clbench.agents.methods.nearest_neighbours import NearestNeighbours
from clbench.errors import UserError
from clbench.interfaces import TaskInfo
from clbench.task_streams.language.stream import knowledge_stream

TEXT = {"learner": {"kind": "language-modelling"}, "backbone": {"kind": "transformer", "width": 16, "layers": 1, "heads": 2}}


def stream():
    return knowledge_stream(name="k", version=1, budget="b", entities=16, attributes=1, values=4, phases=2, exposures=4, points=1)


def agent(methods, **text):
    task = stream().tasks[0]
    made = Composed(task.info, 3, text={**TEXT, **text}, methods=methods, device="cpu")
    return task, made


def lived(made, task, units=64):
    experience = task.experience(1)
    experience.meter.grant(units)
    made.begin_task(task.info)
    made.learn(experience)
    made.end_task(task.info)
    return made


def remembering(**options):
    """A method that has seen six texts of four tokens, and the network."""
    torch.manual_seed(0)
    from clbench.agents.backbones.transformer import Transformer

    networks = TokenModel(Transformer(16, width=16, layers=1, heads=2), 32)
    method = NearestNeighbours(0, **options)
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 32, (6, 4)).astype(np.int32)
    inputs = np.concatenate([np.full((6, 1), 32), targets[:, :-1]], axis=1).astype(np.int32)
    scored = np.ones((6, 4), dtype=bool)
    scored[:, 0] = False
    method.wrap_buffer(whole_items(inputs, targets, scored))
    return method, networks, torch.from_numpy(inputs.astype(np.int64)), targets, scored


def test_the_distribution_is_the_published_mixture():
    method, networks, inputs, targets, scored = remembering(neighbours=3, temperature=2.0, share=0.3)
    networks.eval()
    view = method.view(networks, stream().tasks[0].info)
    asked = torch.from_numpy(np.random.default_rng(2).integers(0, 32, (2, 5)))
    with torch.no_grad():
        found = view(asked, view.initial_state(2)).logits.exp()
        keys = networks.read(inputs, networks.initial_state(6)).hidden[torch.from_numpy(scored)]
        values = targets[scored]
        hidden = networks.read(asked, networks.initial_state(2)).hidden
        own = networks(asked, networks.initial_state(2)).logits.softmax(-1)
    for row in range(2):
        for at in range(5):
            distance = ((keys - hidden[row, at]) ** 2).sum(1)
            near = distance.argsort()[:3]
            weight = (-distance[near] / 2.0).exp()
            expected = 0.7 * own[row, at]
            for each, share in zip(near.tolist(), (weight / weight.sum()).tolist(), strict=True):
                expected[values[each]] += 0.3 * share
            assert torch.allclose(found[row, at], expected, atol=1e-5)
    assert torch.allclose(found.sum(-1), torch.ones(2, 5), atol=1e-5)


def test_what_was_seen_once_is_known_without_learning():
    method, networks, inputs, targets, scored = remembering(neighbours=1, share=0.9)
    networks.eval()
    view = method.view(networks, stream().tasks[0].info)
    with torch.no_grad():
        said = view(inputs, view.initial_state(6)).logits.argmax(-1).numpy()
        alone = networks(inputs, networks.initial_state(6)).logits.argmax(-1).numpy()
    assert (said == targets)[scored].all()
    assert not (alone == targets)[scored].all()


def test_learning_is_that_of_fine_tuning_and_without_a_share_so_is_the_policy():
    task, plain = agent({})
    _, recalling = agent({"knn": {"kind": "knn", "capacity": 20}})
    _, silent = agent({"knn": {"kind": "knn", "share": 0.0}})
    for each in (plain, recalling, silent):
        lived(each, task)
    weights = [each._learner.networks.state_dict() for each in (plain, recalling, silent)]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])
    tokens = np.random.default_rng(0).integers(0, 512, (3, 9))
    said = [each.policy(task.info) for each in (plain, recalling, silent)]
    logits = [policy.logits(tokens, policy.initial_state(3))[0] for policy in said]
    assert (logits[0] == logits[2]).all() and not np.allclose(logits[0], logits[1])
    assert np.isfinite(logits[1]).all()


def test_cuts_of_a_text_change_nothing():
    task, made = agent({"knn": {"kind": "knn"}})
    policy = lived(made, task).policy(task.info)
    tokens = np.random.default_rng(0).integers(0, 512, (2, 8))
    whole, _ = policy.logits(tokens, policy.initial_state(2))
    state, parts = policy.initial_state(2), []
    for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:]):
        logits, state = policy.logits(part, state)
        parts.append(logits)
    assert np.allclose(whole, np.concatenate(parts, axis=1), atol=1e-4)


def test_its_memory_is_saved():
    task, made = agent({"knn": {"kind": "knn", "capacity": 30}})
    lived(made, task)
    _, other = agent({"knn": {"kind": "knn", "capacity": 30}})
    other.load_state_dict(made.state_dict())
    tokens = np.random.default_rng(0).integers(0, 512, (2, 8))
    answers = [each.policy(task.info).logits(tokens, None)[0] for each in (made, other)]
    assert (answers[0] == answers[1]).all()


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"temperature": 0.0}, {"share": 1.0}, {"share": -0.1}])
def test_options_that_mean_nothing_are_one_line(options):
    with pytest.raises(UserError, match="knn: neighbours must be at least 1"):
        NearestNeighbours(0, **options)


def test_windows_and_other_streams_are_refused():
    task, made = agent({"knn": {"kind": "knn"}}, learner={"kind": "language-modelling", "window": 8})
    with pytest.raises(UserError, match=r"leave agent\.text\.learner\.window at 0"):
        lived(made, task)
    info = TaskInfo(None, 1, "demonstrations", 39, 4)
    with pytest.raises(UserError, match="text alone"):
        Composed(
            info,
            0,
            demonstrations={"learner": {"kind": "behaviour-cloning"}, "backbone": {"kind": "mlp"}},
            methods={"knn": {"kind": "knn"}},
            device="cpu",
        )


def test_columns_of_one_evaluation_share_their_keys_and_further_learning_makes_new_ones(monkeypatch):
    task, made = agent({"knn": {"kind": "knn", "capacity": 30}})
    read, count = NearestNeighbours._read, []

    def counted(self, networks):
        count.append(None)
        return read(self, networks)

    monkeypatch.setattr(NearestNeighbours, "_read", counted)
    lived(made, task)
    tokens = np.random.default_rng(0).integers(0, 512, (2, 8))
    first, second = (made.policy(task.info).logits(tokens, None)[0] for _ in range(2))
    assert (first == second).all() and len(count) == 1
    lived(made, task)
    later = made.policy(task.info).logits(tokens, None)[0]
    assert len(count) == 2
    _, fresh = agent({"knn": {"kind": "knn", "capacity": 30}})
    fresh.load_state_dict(made.state_dict())
    assert (fresh.policy(task.info).logits(tokens, None)[0] == later).all() and len(count) == 3
