"""The networks of soft actor-critic: an actor, two critics and their targets, with a head for each task where tasks are shown.

Form and numbers are Continual World's (Wolczyk et al. 2021, arXiv:2105.10919, appendix A): the task picks the head and is hidden from the
trunk; an action is tanh(mu + std * eps) with log std within [-20, 2].
Shape letters: B rows, O observation, A action, N tasks, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..backbones.backbone import Backbone
from ..backbones.state import State
from .learner import BuildBackbone, trainable

LOWEST, HIGHEST = -20.0, 2.0  # of log std
LEAST_SPREAD = 1e-2  # of values, under PopArt


class Acted(NamedTuple):
    """What an actor does."""

    action: Tensor  # (B, A)
    log_probability: Tensor  # (B,)


class Losses(NamedTuple):
    """Of one batch, each ()."""

    critic: Tensor
    actor: Tensor
    temperature: Tensor
    entropy: Tensor
    value: Tensor
    alpha: Tensor

    @property
    def total(self) -> Tensor:
        """Each part has gradients of its own parameters only."""
        return self.critic + self.actor + self.temperature


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor | None = None) -> Acted:
    """tanh(mean + std * noise) of all (..., A), with log std clipped; None: the noise is drawn here."""
    log_std = log_std.clamp(LOWEST, HIGHEST)
    noise = torch.randn_like(mean) if noise is None else noise
    raw = mean + log_std.exp() * noise
    log = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    log = log - (2 * (math.log(2) - raw - functional.softplus(-2 * raw))).sum(-1)
    return Acted(raw.tanh(), log)


@contextmanager
def held_still(module: nn.Module) -> Generator[None]:
    """Graphs that are built inside carry gradients through `module` and not to its parameters."""
    learning = trainable(module)
    for weight in learning:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


def heads(task: TaskInfo) -> int:
    """How many tasks' one-hot ends an observation; 0 where none does. In a joint phase it stands there too."""
    return task.num_tasks if task.index is not None or task.num_tasks > 1 else 0


def target_entropy(actions: int, std: float) -> float:
    """The entropy of a normal law of deviation `std` in each of `actions` coordinates."""
    return actions * math.log(std * math.sqrt(2 * math.pi * math.e))


def check(kind: str, task: TaskInfo, *, shares: tuple[float, float], positive: tuple[float, float, float]) -> None:
    """Refuse what no soft actor-critic can be: shares (discount, polyak), positive (target_output_std, initial_alpha, reward_scale)."""
    if not (all(0 <= share <= 1 for share in shares) and min(positive) > 0):
        raise UserError(
            f"{kind}: discount and polyak must lie in [0, 1], target_output_std, initial_alpha and reward_scale must be > 0, "
            f"got {', '.join(map(str, (*shares, *positive)))}"
        )
    if task.choices:
        raise UserError(f"{kind}: expected a world of continuous actions, got one of {task.output_size} choices")


class Trunk(nn.Module):
    """A backbone that does not see the task, and a head for each task; `tasks` 0: there is one, and nothing to hide."""

    def __init__(self, backbone: Backbone, seen: int, tasks: int, outputs: int) -> None:
        super().__init__()
        self.trunk, self.seen, self.tasks, self.outputs = backbone, seen, tasks, outputs
        self.head = nn.Linear(backbone.output_size, max(tasks, 1) * outputs)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs (B, outputs) of x (B, seen) and the task, one-hot (B, N)."""
        out = self.head(self.trunk(x[:, None], {}).hidden[:, 0])
        if self.tasks <= 1:
            return out
        return (out.view(len(x), self.tasks, self.outputs) * task[:, :, None]).sum(1)  # the others' gradients are 0, and exactly so


class ActorNetwork(Trunk):
    """Mean and log std of an action before it is squashed."""

    def __init__(self, backbone: Backbone, seen: int, tasks: int, actions: int) -> None:
        super().__init__(backbone, seen, tasks, 2 * actions)
        self.actions = actions

    def gaussian(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std (B, A) before the tanh, at observation (B, O)."""
        mean, log_std = super().forward(observation[:, : self.seen], observation[:, self.seen :]).chunk(2, dim=1)
        return mean, log_std.clamp(LOWEST, HIGHEST)

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Acted:  # type: ignore[override]
        """What is done at observation (B, O), with noise (B, A); None: drawn here."""
        return squashed(*self.gaussian(observation), noise)


class Critics(nn.ModuleList):
    """What each of them expects (2, B) of x (B, seen) and the task, one-hot (B, N)."""

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return torch.stack([critic(x, task)[:, 0] for critic in self])


class SacNetworks(nn.Module):
    """Actor, two critics, their targets, and the logarithm of a temperature for each task."""

    def __init__(self, build: BuildBackbone, observation: int, actions: int, tasks: int, log_alpha: float, *, popart: bool = False) -> None:
        super().__init__()
        self.tasks, self.seen, self.popart = tasks, observation - tasks, popart
        self.actor = ActorNetwork(build(self.seen), self.seen, tasks, actions)
        self.critics = Critics(Trunk(build(self.seen + actions), self.seen + actions, tasks, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((max(tasks, 1),), log_alpha))
        if popart:
            self.register_buffer("moments", torch.stack([torch.zeros(max(tasks, 1)), torch.ones(max(tasks, 1))]))  # mean, mean of squares

    def initial_state(self, batch: int) -> State:
        """No memory."""
        return {}

    @torch.no_grad()
    def draw_targets(self, share: float) -> None:
        """Let the targets move this share of the way to the critics."""
        torch._foreach_lerp_(self._weights_of_targets, self._weights_of_critics, share)

    @cached_property
    def _weights_of_targets(self) -> list[Tensor]:
        return list(self.targets.parameters())

    @cached_property
    def _weights_of_critics(self) -> list[Tensor]:
        return list(self.critics.parameters())

    def values(self, critics: Callable[..., Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """What `critics` expect (2, B); they are called with what is seen and done, and the task."""
        said = critics(torch.cat([observation[:, : self.seen], action], dim=1), observation[:, self.seen :])
        if not self.popart:
            return said
        mean, spread = self.normal(observation)
        return said * spread + mean

    def normal(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of the values of each row's task, (B,) each: critics say values less the mean, over the spread."""
        mean, spread = _normal(self.moments)
        cue = observation[:, self.seen :]
        return (cue @ mean, cue @ spread) if self.tasks else (mean.expand(len(observation)), spread.expand(len(observation)))

    @torch.no_grad()
    def follow(self, wanted: Tensor, observation: Tensor, rate: float) -> None:
        """Move the moments of the tasks that are there towards those of `wanted` (B,), and the critics' heads so that they say the same.

        PopArt (van Hasselt et al. 2016, arXiv:1602.07714, algorithm 1; by task as in Hessel et al. 2019, arXiv:1809.04474).
        """
        cue = observation[:, self.seen :] if self.tasks else torch.ones_like(wanted)[:, None]
        count = cue.sum(0)  # (N,)
        found = torch.stack([wanted @ cue, wanted.square() @ cue]) / count.clamp(min=1)
        moments = self.moments + rate * (count > 0) * (found - self.moments)
        (mean, spread), (mean_now, spread_now) = _normal(self.moments), _normal(moments)
        for critic in (*self.critics, *self.targets):
            critic.head.weight.mul_((spread / spread_now)[:, None])
            critic.head.bias.mul_(spread).add_(mean - mean_now).div_(spread_now)
        self.moments.copy_(moments)

    def log_alphas(self, observation: Tensor) -> Tensor:
        """Of each row's task, (B,)."""
        return observation[:, self.seen :] @ self.log_alpha if self.tasks else self.log_alpha.expand(len(observation))


def _normal(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (N,) of moments (2, N)."""
    mean, square = moments
    return mean, (square - mean.square()).clamp(min=LEAST_SPREAD**2).sqrt()
