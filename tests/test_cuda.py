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
]
KINDS = ["demonstrations", "text"]


def answers(agent, stream, device):
    """What a policy answers after eight updates."""
    info = stream.info(0)
    built = configuration.agent_spec(agent, None, device).build(info, 7)
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


@pytest.mark.parametrize("agent", AGENTS)
def test_the_contract_holds_on_the_device(agent):
    streams = [toy_stream(name="toy", version=1, budget="smoke", experience=kind) for kind in KINDS]
    broken = [f for f in conformance.check(configuration.agent_spec(agent, None, "cuda"), streams) if not f.ok]
    assert broken == []
