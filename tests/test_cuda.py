"""What must hold on a CUDA device; run with `-m cuda` on a machine that has one. Skipped, and said so, elsewhere."""

from itertools import product

import numpy as np
import pytest

from clbench import configuration, conformance, guards, seeding
from clbench.task_streams.toy import toy_stream

from .tiny_models import tiny_model

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

AGENTS = [
    "fine-tuning",
    "l2",
    "ewc",
    "mas",
    "replay",
    "a-gem",
    "reset",
    "transformer",
    "transformer-xl",
    "rmt",
    "memory-transformer",
    "memorizing-transformer",
    "focused-transformer",
    "gated-deltanet",
    "armt",
    "infinity-former",
    "lstm",
    "sem",
    "frozen",
    "packnet",
    "cloning",
    "perfect-memory",
]
DRAWING = ["vcl"]  # weights are drawn, and a device has generators of its own
KINDS = ["demonstrations", "text"]
TEXT_ALONE = ["knn-lm", "mbpa"]


def learned(built, info, experience, units):
    """A task that was begun, and so many units of its experience."""
    built.begin_task(info)
    experience.meter.grant(units)
    built.learn(experience)
    return experience


def answers(agent, stream, device, options=None):
    """What a policy answers after eight updates."""
    info = stream.info(0)
    built = configuration.agent_spec(agent, options, device).build(info, 7)
    learned(built, info, stream.tasks[0].experience(seeding.integer(1, "cuda")), 512)
    built.end_task(info)
    policy = guards.CheckedPolicy(built.policy(info), info, "probe")
    probe = seeding.generator(5, "probe")
    if info.experience == "text":
        return policy.logits(probe.integers(0, info.input_size, size=(8, 6)), policy.initial_state(8))[0]
    return policy.act(probe.uniform(-1, 1, size=(8, info.input_size)).astype(np.float32), policy.initial_state(8))[0]


@pytest.mark.parametrize(("agent", "kind"), [*product(AGENTS, KINDS), *product(TEXT_ALONE, ["text"])])
def test_the_device_gives_the_numbers_of_the_cpu(agent, kind):
    stream = toy_stream(name="toy", version=1, budget="smoke", experience=kind)
    on_cpu, on_cuda = answers(agent, stream, "cpu"), answers(agent, stream, "cuda")
    # float32 on both, TF32 off by default: only the order of sums differs
    assert np.allclose(on_cpu, on_cuda, atol=5e-3), np.abs(on_cpu - on_cuda).max()


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_that_was_trained_before_gives_the_numbers_of_the_cpu(family, rank):
    pytest.importorskip("peft")
    stream = toy_stream(name="toy", version=1, budget="smoke", experience="text")
    options = {"folder": tiny_model(family), "segment_length": 4, "memory_tokens": 2, "lora_rank": rank}
    options = {f"text.backbone.{name}": value for name, value in options.items()}
    on_cpu, on_cuda = (answers("pretrained", stream, device, options) for device in ("cpu", "cuda"))
    assert np.allclose(on_cpu, on_cuda, atol=5e-3), np.abs(on_cpu - on_cuda).max()


@pytest.mark.parametrize("store", ["paged", "least-recently-read", "faiss"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_beside_the_device_gives_the_numbers_of_one_on_the_cpu(kind, store):
    stream = toy_stream(name="toy", version=1, budget="smoke", experience=kind)
    options = {f"{kind}.backbone.store": store, f"{kind}.backbone.segment_length": 4, f"{kind}.backbone.topk": 3}
    on_cpu, on_cuda = (answers("memorizing-transformer", stream, device, options) for device in ("cpu", "cuda"))
    assert np.allclose(on_cpu, on_cuda, atol=5e-3), np.abs(on_cpu - on_cuda).max()


@pytest.mark.parametrize("store", ["ring", "paged"])
def test_a_lasting_memory_goes_on_where_it_was_saved(store):
    """Lanes remember across episodes; what was written lies where its store keeps it, before saving and after."""
    stream = toy_stream(name="toy", version=1, budget="smoke", experience="demonstrations")
    options = {"demonstrations.backbone.store": store, "demonstrations.backbone.topk": 3}
    spec = configuration.agent_spec("frozen", options, "cuda")
    info = stream.info(0)
    built = spec.build(info, 7)
    learned(built, info, stream.tasks[0].experience(3), 512)
    again = spec.build(info, 8)
    again.load_state_dict(built.state_dict())
    for agent in (built, again):
        memory = agent.state_dict()["learner"]["memory"]
        assert {leaf.device.type for name, leaf in memory.items() if name.startswith("memory.")} == {"cpu" if store == "paged" else "cuda"}
    for agent in (built, again):
        experience = stream.tasks[0].experience(5)
        experience.meter.grant(512)
        agent.learn(experience)
    left, right = (agent.policy(info) for agent in (built, again))
    x = np.ones((4, info.input_size), dtype=np.float32)
    assert np.array_equal(left.act(x, left.initial_state(4))[0], right.act(x, right.initial_state(4))[0])


ACTING = {
    "control.learner.start_steps": 16,
    "control.learner.update_after": 16,
    "control.learner.update_every": 8,
    "control.learner.updates": 2,
    "control.learner.batch_size": 8,
}


@pytest.mark.parametrize(
    "agent", ["fine-tuning", "l2", "ewc", "mas", "replay", "a-gem", "reset", "packnet", "clonex", "perfect-memory", "vcl"]
)
@pytest.mark.parametrize("graph", [False, True])
def test_soft_actor_critic_goes_on_where_it_was_saved(agent, graph):
    stream = toy_stream(name="toy", version=1, budget="smoke", experience="interaction")
    spec = configuration.agent_spec(agent, ACTING | {"control.learner.graph": graph}, "cuda")
    built, again = (spec.build(stream.info(0), seed) for seed in (7, 8))
    for phase in range(2):
        experience = learned(built, stream.info(phase), stream.tasks[phase].experience(phase), 128)
        if phase == 0:
            built.end_task(stream.info(phase))
    again.load_state_dict(built.state_dict())
    place = stream.tasks[1].experience(9)
    place.load_state_dict(experience.state_dict())
    for one, where in ((built, experience), (again, place)):
        where.meter.grant(128)
        one.learn(where)
        one.end_task(stream.info(1))
    assert built.gradient_steps == again.gradient_steps > 20
    weights = [one.state_dict()["learner"]["networks"] for one in (built, again)]
    assert all(torch.equal(left, weights[1][name]) and left.is_cuda for name, left in weights[0].items())


@pytest.mark.parametrize(
    ("agent", "options"),
    [("fine-tuning", {}), ("fine-tuning", {"control.learner.popart": 0.1}), ("ewc", {}), ("packnet", {}), ("vcl", {}), ("a-gem", {})],
)
def test_updates_played_as_one_graph_are_those_made_one_by_one(agent, options):
    """Bit for bit, from the same random numbers; A-GEM is not recorded and goes on all the same."""
    stream = toy_stream(name="toy", version=1, budget="smoke", experience="interaction")
    found = []
    for graph in (False, True):
        built = configuration.agent_spec(agent, ACTING | options | {"control.learner.graph": graph}, "cuda").build(stream.info(0), 7)
        for phase in range(2):
            learned(built, stream.info(phase), stream.tasks[phase].experience(phase), 128)
            assert (built._learner._recorded is not None) == (graph and agent != "a-gem")
            built.end_task(stream.info(phase))
        found.append((built.gradient_steps, built.state_dict()["learner"]))
    (one_count, one), (other_count, other) = found
    assert one_count == other_count > 20
    assert all(torch.equal(left, other["networks"][name]) for name, left in one["networks"].items())
    for (_, left), (_, right) in zip(one["optimizer"]["state"].items(), other["optimizer"]["state"].items(), strict=True):
        assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_the_benchmark_of_updates_measures_all_that_it_compares():
    from clbench.agents.learners.benchmark import Size
    from clbench.agents.learners.device_benchmark import sac_device

    (row,) = sac_device([Size("tiny", 16, 2, True, 8, 1.0)], updates=5, repetitions=2, runs=2).rows
    assert min(row.eager, row.graph, row.side_by_side, row.processes) > 0


@pytest.mark.parametrize("popart", [0.0, 0.1])
def test_the_gradients_written_out_are_the_cpus(popart, monkeypatch):
    from clbench.agents.learners.transitions import Transitions
    from clbench.agents.learners.written_gradients import Gradients

    noise = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.to(x.device))
    info = toy_stream(name="toy", version=1, budget="smoke", experience="interaction").info(0)
    found = []
    drawn = torch.Generator().manual_seed(1)
    cue = torch.eye(info.num_tasks)[torch.arange(32) % info.num_tasks]
    parts = [torch.randn(32, info.input_size - info.num_tasks, generator=drawn) for _ in range(2)]
    seen, following = (torch.cat([part, cue], 1) for part in parts)
    rest = (torch.rand(32, info.output_size, generator=drawn), torch.randn(32, generator=drawn), torch.full((32,), 0.9))
    noise = torch.randn(32, info.output_size, generator=drawn)
    for device in ("cpu", "cuda"):
        learner = configuration.agent_spec("fine-tuning", {"control.learner.popart": popart}, device).build(info, 7)._learner
        batch = Transitions(*(tensor.to(device) for tensor in (seen, *rest, following)))
        Gradients(learner.networks).leave(batch, 0.1, -4.0, popart)
        found.append([weight.grad.cpu() for weight in learner.networks.parameters() if weight.requires_grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("agent", AGENTS + DRAWING + TEXT_ALONE)
def test_the_contract_holds_on_the_device(agent):
    """Last, because it takes longest: half a minute an agent."""
    kinds = ["text"] if agent in TEXT_ALONE else KINDS
    streams = [toy_stream(name="toy", version=1, budget="smoke", experience=kind) for kind in kinds]
    broken = [f for f in conformance.check(configuration.agent_spec(agent, None, "cuda"), streams) if not f.ok]
    assert broken == []
