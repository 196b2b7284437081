"""Updates a second of soft actor-critic: ours against the update of a single-file implementation, with the same network and batch.

    clbench benchmark sac-updates

The other side is what a user would write after CleanRL's `sac_continuous_action`: three Adam optimisers; both critics called one after the
other; every second update two of the actor, which leave unused gradients in the critics, each followed by one of the temperature, for which
an action is drawn anew; targets that follow tensor by tensor. Its networks are our modules without heads for tasks, so that layers are the
same. Observations have Meta-World's 39 numbers and ten tasks' one-hot, which ours hides from its trunks and the other does not see.
The limit is arithmetic alone: 16 passes of 2 B P operations (fast_metaworld.md, section 4: forward through one network, B rows, P weights),
at the speed of a large matrix product on the same thread. Repetitions alternate; rates are medians, and ratios of this machine.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from clbench.guards import torch_threads
from clbench.interfaces import TaskInfo

from ..backbones.mlp import MLP
from ..methods.method import Chain
from .sac_networks import ActorNetwork, Trunk
from .soft_actor_critic import SoftActorCritic
from .transitions import Transitions

SEEN, ACTIONS, TASKS = 39, 4, 10
PASSES = 16


@dataclass(frozen=True)
class Size:
    """A network and a batch."""

    name: str
    width: int
    depth: int
    norm_all: bool
    batch: int
    wanted: float  # how much faster ours must be

    def build(self, inputs: int) -> MLP:
        """The hidden layers."""
        return MLP(inputs, width=self.width, depth=self.depth, norm_all=self.norm_all)

    @property
    def operations(self) -> float:
        """Of one update, at least."""
        weights = SEEN * self.width + (self.depth - 1) * self.width**2
        return PASSES * 2.0 * self.batch * weights


SIZES = (Size("Continual World", 256, 4, False, 128, 1.2), Size("fast", 128, 2, True, 128, 1.5))


@dataclass(frozen=True)
class Row:
    """Updates a second of one size."""

    size: Size
    ours: float
    other: float
    limit: float

    @property
    def faster(self) -> float:
        """Ours over the other."""
        return self.ours / self.other


@dataclass(frozen=True)
class Updates:
    """All sizes."""

    rows: tuple[Row, ...]
    threads: int

    @property
    def fulfilled(self) -> bool:
        """Whether ours is as much faster as it must be."""
        return all(row.faster >= row.size.wanted for row in self.rows)

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"soft actor-critic: updates a second on {self.threads} thread{'s' if self.threads > 1 else ''}")
        for heading in ("network", "layers", "batch", "ours/s", "single file/s", "limit/s", "faster", "at least", "of the limit"):
            table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
        for row in self.rows:
            size = row.size
            rates = (f"{value:,.0f}" for value in (row.ours, row.other, row.limit))
            shares = (f"{value:.2f}" for value in (row.faster, size.wanted, row.ours / row.limit))
            table.add_row(size.name, f"{size.depth} x {size.width}", str(size.batch), *rates, *shares)
        return table


class SingleFile:
    """The update as it is usually written."""

    def __init__(self, size: Size) -> None:
        self.actor = ActorNetwork(size.build(SEEN), SEEN, 0, ACTIONS)
        self.critics = [Trunk(size.build(SEEN + ACTIONS), SEEN + ACTIONS, 0, 1) for _ in range(2)]
        self.targets = [copy.deepcopy(critic) for critic in self.critics]
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_optimizer = torch.optim.Adam([weight for critic in self.critics for weight in critic.parameters()], lr=1e-3)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-3)
        self.alpha = 1.0
        self.updates = 0

    @staticmethod
    def value(critic: nn.Module, seen: Tensor, action: Tensor) -> Tensor:
        """What `critic` expects (B,)."""
        return critic(torch.cat([seen, action], 1), seen)[:, 0]

    def update(self, batch: Transitions) -> None:
        """One of the critics; every second time, two of the actor and the temperature."""
        seen, following = batch.observation[:, :SEEN], batch.following[:, :SEEN]
        with torch.no_grad():
            then = self.actor(torch.cat([following], 1))
            least = torch.min(*(self.value(target, following, then.action) for target in self.targets))
            wanted = batch.reward + batch.discount * (least - self.alpha * then.log_probability)
        loss = sum(functional.mse_loss(self.value(critic, seen, batch.action), wanted) for critic in self.critics)
        self.critic_optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        self.critic_optimizer.step()
        self.updates += 1
        for _ in range(2 if self.updates % 2 == 0 else 0):
            now = self.actor(seen)
            promised = torch.min(*(self.value(critic, seen, now.action) for critic in self.critics))
            actor_loss = (self.alpha * now.log_probability - promised).mean()
            self.actor_optimizer.zero_grad()
            actor_loss.backward()
            self.actor_optimizer.step()
            with torch.no_grad():
                log_probability = self.actor(seen).log_probability
            alpha_loss = (-self.log_alpha.exp() * (log_probability - ACTIONS)).mean()
            self.alpha_optimizer.zero_grad()
            alpha_loss.backward()
            self.alpha_optimizer.step()
            self.alpha = self.log_alpha.exp().item()
        for critic, target in zip(self.critics, self.targets, strict=True):
            for weight, slow in zip(critic.parameters(), target.parameters(), strict=True):
                slow.data.copy_(0.005 * weight.data + 0.995 * slow.data)


def sac_updates(sizes: Sequence[Size] = SIZES, *, updates: int = 60, repetitions: int = 9, threads: int = 1) -> Updates:
    """Rates of `updates` updates, `repetitions` times each in turn."""
    with torch_threads(threads):
        return Updates(tuple(_row(size, updates, repetitions) for size in sizes), threads)


def _row(size: Size, updates: int, repetitions: int) -> Row:
    learner, batch = learner_and_batch(size, torch.device("cpu"))
    other, hooks = SingleFile(size), Chain({})
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    contestants: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (partial(learner.improve, batch, hooks), updates),
        "other": (partial(other.update, batch), updates),
        "product": (partial(torch.mm, left, right), 10),
    }
    found = median_rates(contestants, repetitions)
    return Row(size, found["ours"], found["other"], found["product"] * 2.0 * math.pow(1024, 3) / size.operations)


def learner_and_batch(size: Size, device: torch.device, seed: int = 0) -> tuple[SoftActorCritic, Transitions]:
    """A learner of this size and transitions for it to learn from."""
    torch.manual_seed(seed)
    task = TaskInfo(0, TASKS, "interaction", SEEN + TASKS, ACTIONS)
    learner = SoftActorCritic(task, size.build, seed, device, batch_size=size.batch, n_step=1)
    cue = functional.one_hot(torch.zeros(size.batch, dtype=torch.long), TASKS).float()
    seen, following = (torch.cat([torch.randn(size.batch, SEEN), cue], 1) for _ in range(2))
    rest = torch.rand(size.batch, ACTIONS) * 2 - 1, torch.randn(size.batch), torch.full((size.batch,), 0.99)
    return learner, Transitions(*(part.to(device) for part in (seen, *rest, following)))


def median_rates(
    contestants: Mapping[str, tuple[Callable[[], object], int]], repetitions: int, wait: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """How often a second each can be called, from so many calls, in turn; `wait` ends when all that was called is done."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for repetition in range(repetitions + 1):
        for name, (run, times) in contestants.items():
            began = time.perf_counter()
            for _ in range(times):
                run()
            wait()
            if repetition:  # the first is for warming up
                rates[name].append(times / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in rates.items()}
