"""Soft actor-critic on a CUDA device: updates a second one by one, as one graph, of several runs side by side, and of several processes.

    clbench benchmark sac-device

Of the same networks and batches as in `sac-updates`. Side by side means one process that holds RUNS runs: their weights stacked, products
of matrices batched over runs (`torch.func.vmap` of the gradients written out), and all of an update in one graph; processes are RUNS of
them, each with a graph of its own. Rates of these two are of all their runs together. What a run does beside updating is not in it.
Repetitions alternate; rates are medians, and ratios of this machine.
Shape letters: R runs, B rows.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from clbench.errors import UserError
from clbench.guards import torch_threads

from ..methods.method import Chain
from .adamw import AdamW
from .benchmark import SIZES, Size, learner_and_batch, median_rates
from .recording import WARM_UP, CudaGraph, Recording
from .sac_networks import SacNetworks
from .soft_actor_critic import SoftActorCritic
from .transitions import Transitions
from .written_gradients import Gradients

RUNS = 8


@dataclass(frozen=True)
class Row:
    """Updates a second of one size."""

    size: Size
    eager: float
    graph: float
    side_by_side: float
    processes: float


@dataclass(frozen=True)
class DeviceUpdates:
    """All sizes."""

    rows: tuple[Row, ...]
    device: str
    runs: int

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"soft actor-critic on {self.device}: updates a second, {self.runs} runs in the last two")
        headings = (
            "network",
            "layers",
            "batch",
            "one by one/s",
            "graph/s",
            "side by side/s",
            "processes/s",
            "graph",
            "side by side",
            "processes",
        )
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
        for row in self.rows:
            rates = (row.eager, row.graph, row.side_by_side, row.processes)
            ratios = (f"{rate / row.eager:.1f} x" for rate in rates[1:])
            table.add_row(
                row.size.name, f"{row.size.depth} x {row.size.width}", str(row.size.batch), *(f"{r:,.0f}" for r in rates), *ratios
            )
        return table


class SideBySide:
    """The networks of several learners, updated at once; each as if it were alone, up to its random numbers."""

    def __init__(self, learners: Sequence[SoftActorCritic]) -> None:
        first = self._first = learners[0]
        self._called = _Called(first)
        stacked, _ = stack_module_state([_Called(learner) for learner in learners])
        self.weights: dict[str, Tensor] = {name: weight.detach() for name, weight in stacked.items()}  # (R, ...)
        self.learned = {name: nn.Parameter(self.weights[name]) for name, w in self._called.named_parameters() if w.requires_grad}
        settings = first.settings
        self._optimizer = AdamW(self.learned.values(), settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)
        pairs = [(name, name.replace("networks.targets.", "networks.critics.")) for name in self.weights if ".targets." in name]
        self._targets, self._critics = ([self.weights[pair[side]] for pair in pairs] for side in (0, 1))
        self._compute = vmap(self._gradients, randomness="different")

    def _gradients(self, weights: dict[str, Tensor], batch: Transitions) -> tuple[dict[str, Tensor], Tensor]:
        return functional_call(self._called, weights, (batch,))

    @torch.no_grad()
    def update(self, *batch: Tensor) -> Tensor:
        """One of every run, from transitions (R, B, ...); the critics' losses (R,)."""
        gradients, losses = self._compute(self.weights, Transitions(*batch))
        for name, weight in self.learned.items():
            weight.grad = gradients[name]
        self._optimizer.step()
        torch._foreach_lerp_(self._targets, self._critics, 1 - self._first.polyak)
        return losses


class _Called(nn.Module):
    """The gradients of a learner's losses as a function of its weights."""

    def __init__(self, learner: SoftActorCritic) -> None:
        super().__init__()
        self.networks: SacNetworks = learner.networks
        self._written, self._scale, self._entropy = Gradients(self.networks), learner.reward_scale, learner.target_entropy

    def forward(self, batch: Transitions) -> tuple[dict[str, Tensor], Tensor]:
        """By name of the parameter, and the critics' loss ()."""
        losses, found, of_log_alpha = self._written.of(batch, self._scale, self._entropy)
        gradients = {"networks.log_alpha": of_log_alpha}
        for name, layer in self.networks.named_modules():
            if layer in found:
                gradients[f"networks.{name}.weight"], gradients[f"networks.{name}.bias"] = found[layer]
        return gradients, losses.critic


def sac_device(sizes: Sequence[Size] = SIZES, *, updates: int = 300, repetitions: int = 7, runs: int = RUNS) -> DeviceUpdates:
    """Rates of `updates` updates, `repetitions` times each in turn; refused where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise UserError("benchmark sac-device: torch finds no CUDA device here; `clbench benchmark sac-updates` measures on the CPU")
    device = torch.device("cuda")
    with torch_threads(1):
        rows = tuple(_row(size, device, updates, repetitions, runs) for size in sizes)
    return DeviceUpdates(rows, torch.cuda.get_device_name(device), runs)


def _row(size: Size, device: torch.device, updates: int, repetitions: int, runs: int) -> Row:
    contestants = {
        "eager": (one_by_one(size, device), updates),
        "graph": (graph(size, device), updates),
        "side by side": (side_by_side(size, device, runs), updates),
    }
    found = median_rates(contestants, repetitions, partial(torch.cuda.synchronize, device))
    return Row(size, found["eager"], found["graph"], runs * found["side by side"], processes(size, device, runs, updates * repetitions))


def one_by_one(size: Size, device: torch.device) -> Callable[[], Any]:
    """An update as it is without a graph."""
    learner, batch = learner_and_batch(size, device)
    return partial(learner.improve, batch, Chain({}))


def graph(size: Size, device: torch.device) -> Callable[[], Any]:
    """The same as one graph."""
    learner, batch = learner_and_batch(size, device)
    hooks = Chain({})
    return _recorded(lambda *parts: learner.improve(Transitions(*parts), hooks), batch, device)


def side_by_side(size: Size, device: torch.device, runs: int) -> Callable[[], Any]:
    """Those of `runs` runs as one graph."""
    pairs = [learner_and_batch(size, device, seed) for seed in range(runs)]
    batches = (torch.stack(parts) for parts in zip(*(batch for _, batch in pairs), strict=True))
    return _recorded(SideBySide([learner for learner, _ in pairs]).update, tuple(batches), device)


def _recorded(update: Callable[..., Any], inputs: Sequence[Tensor], device: torch.device) -> Callable[[], Any]:
    record = Recording(update, CudaGraph) if device.type == "cuda" else update
    return lambda: record(*inputs)


def processes(size: Size, device: torch.device, runs: int, updates: int) -> float:
    """Updates a second of `runs` processes together, each making `updates`."""
    spawn = multiprocessing.get_context("spawn")
    ready, times = spawn.Barrier(runs), spawn.Queue()
    started = [spawn.Process(target=_process, args=(size, str(device), updates, ready, times), daemon=True) for _ in range(runs)]
    for process in started:
        process.start()
    spans = [times.get() for _ in started]
    for process in started:
        process.join()
    return runs * updates / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _process(size: Size, device: str, updates: int, ready: Any, times: Any) -> None:
    torch.set_num_threads(1)
    where = torch.device(device)
    update = graph(size, where)

    def call(number: int) -> None:
        for _ in range(number):
            update()
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    call(WARM_UP + 10)
    ready.wait()
    begin = time.time()  # one clock for all processes
    call(updates)
    times.put((begin, time.time()))
