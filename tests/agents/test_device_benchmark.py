"""The benchmark of updates on a device, as far as a machine without one can tell: what it measures is the same update every time."""

import pytest
import torch
from rich.console import Console

from clbench.agents.learners.benchmark import Size, learner_and_batch
from clbench.agents.learners.device_benchmark import DeviceUpdates, Row, SideBySide, graph, one_by_one, processes, sac_device, side_by_side
from clbench.agents.learners.recording import WARM_UP, Recording
from clbench.agents.methods.method import Chain
from clbench.errors import UserError

from .test_recording import Kernels

TINY, CPU = Size("tiny", 16, 2, True, 8, 1.0), torch.device("cpu")


def several() -> tuple[list, tuple[torch.Tensor, ...]]:
    pairs = [learner_and_batch(TINY, CPU, seed) for seed in range(3)]
    return pairs, tuple(torch.stack(parts) for parts in zip(*(batch for _, batch in pairs), strict=True))


def test_runs_side_by_side_learn_what_each_learns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(TINY.batch, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    pairs, batches = several()
    together, hooks = SideBySide([learner for learner, _ in pairs]), Chain({})
    for _ in range(5):
        losses = together.update(*batches)
        for learner, batch in pairs:
            learner.improve(batch, hooks)
    for run, (learner, _) in enumerate(pairs):
        torch.testing.assert_close(losses[run], learner._scalars["critic_loss"], atol=1e-5, rtol=1e-4)
        for name, weight in learner.networks.named_parameters():
            torch.testing.assert_close(together.weights[f"networks.{name}"][run], weight.detach(), atol=1e-6, rtol=1e-4)
    assert len({float(loss) for loss in losses}) == 3


def test_runs_side_by_side_can_be_recorded() -> None:
    found = []
    for tape in (None, Kernels):
        pairs, batches = several()
        together = SideBySide([learner for learner, _ in pairs])
        update = together.update if tape is None else Recording(together.update, tape)
        torch.manual_seed(0)
        for _ in range(WARM_UP + 4):
            update(*batches)
        found.append(together.weights)
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_every_contestant_updates() -> None:
    for built in (one_by_one(TINY, CPU), graph(TINY, CPU), side_by_side(TINY, CPU, 2)):
        built()
    assert processes(TINY, CPU, 2, 3) > 0


def test_the_table_names_the_device_and_ratios() -> None:
    console = Console(width=180, record=True)
    console.print(DeviceUpdates((Row(TINY, 100.0, 400.0, 1600.0, 800.0),), "a device", 8).table())
    said = console.export_text()
    assert all(word in said for word in ("a device", "8 runs", "4.0 x", "16.0 x", "8.0 x", "1,600"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so() -> None:
    with pytest.raises(UserError, match="no CUDA device here"):
        sac_device()
