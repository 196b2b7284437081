"""What must hold on a CUDA device; run with `-m cuda` on a machine that has one. Skipped, and said so, elsewhere."""

import numpy as np
import pytest

from clbench import configuration, conformance, guards, seeding
from clbench.task_streams.toy import toy_stream

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
]
KINDS = ["demonstrations", "text"]


def answers(agent, stream, device, options=None):
    """What a policy answers after eight updates."""
    info = stream.info(0)
    built = configuration.agent_spec(agent, options, device).build(info, 7)
    built.begin_task(info)
    experience = stream.tasks[0].experience(seeding.integer(1, "cuda"))
    experience.meter.grant(512)
    built.learn(experience)
    built.end_task(info)
    policy = guards.CheckedPolicy(built.policy(info), info, "probe")
    probe = seeding.generator(5, "probe")
    if info.experience == "text":
        return policy.logits(probe.integers(0, info.input_size, size=(8, 6)), policy.initial_state(8))[0]
    return policy.act(probe.uniform(-1, 1, size=(8, info.input_size)).astype(np.float32), policy.initial_state(8))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("agent", AGENTS)
def test_the_device_gives_the_numbers_of_the_cpu(agent, kind):
    stream = toy_stream(name="toy", version=1, budget="smoke", experience=kind)
    on_cpu, on_cuda = answers(agent, stream, "cpu"), answers(agent, stream, "cuda")
    # float32 on both, TF32 off by default: only the order of sums differs
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
    built.begin_task(info)
    experience = stream.tasks[0].experience(3)
    experience.meter.grant(512)
    built.learn(experience)
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


@pytest.mark.parametrize("agent", AGENTS)
def test_the_contract_holds_on_the_device(agent):
    """Last, because it takes longest: half a minute an agent."""
    streams = [toy_stream(name="toy", version=1, budget="smoke", experience=kind) for kind in KINDS]
    broken = [f for f in conformance.check(configuration.agent_spec(agent, None, "cuda"), streams) if not f.ok]
    assert broken == []
