"""Soft actor-critic: off-policy control with continuous actions, learned from transitions that are kept and drawn again.

Haarnoja et al. 2018, arXiv:1801.01290 and arXiv:1812.05905, in the form of Continual World (Wolczyk et al. 2021, arXiv:2105.10919, and
`continualworld/sac/sac.py`): one optimiser for actor, both critics and the temperature, all gradients taken at the old parameters; an
action is tanh(mu + std * eps), log std within [-20, 2]; the entropy to be reached follows from `target_output_std`; one temperature for
each task; where the stream shows the task, its one-hot picks the heads of actor and critics and is hidden from their trunks. Episodes
that the clock cuts are bootstrapped. Transitions of earlier tasks are forgotten (`reset_buffer`).

Departures: AdamW without decay in place of Adam, whose moments begin anew with a task, step count included; many environments side by
side, and `updates` of the networks for every `update_every` environment steps, so that there may be far fewer updates than steps.
Not here: memory. A backbone with one is refused.
Shape letters: B rows, O observation, A action, N tasks, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from clbench import seeding
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from ..backbones.backbone import Backbone
from ..backbones.lstm import task_at
from ..backbones.state import State
from .learner import BuildBackbone, Hooks, Learner, OptimizerSettings, copied

Float = NDArray[np.floating[Any]]
LOWEST, HIGHEST = -20.0, 2.0  # of log std
TURNS = 512  # of a policy that draws, before its noise begins again


class Transitions(NamedTuple):
    """Steps of environments."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    reward: Tensor  # (B,)
    terminated: Tensor  # (B,) float: nothing follows
    following: Tensor  # (B, O)


class SoftActorCritic(Learner):
    """Acts in all environments, keeps up to `capacity` transitions, and updates from `batch_size` of them.

    The first `start_steps` environment steps of a task are random actions; updates begin with them full. `polyak`: what a target critic
    keeps of itself in an update. `initial_alpha`: the temperature before learning. `acts`: "mean" or "drawn", what a policy plays.
    """

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        batch_size: int = 256,
        capacity: int = 1_000_000,
        learning_rate: float = 1e-3,
        gradient_clip: float = 0.0,
        warmup: int = 0,
        anneal: int = 0,
        reset_optimizer: bool = True,
        reset_buffer: bool = True,
        discount: float = 0.99,
        polyak: float = 0.995,
        target_output_std: float = 0.089,
        initial_alpha: float = 1.0,
        start_steps: int = 10_000,
        update_every: int = 64,
        updates: int = 8,
        acts: str = "mean",
    ) -> None:
        settings = OptimizerSettings(learning_rate, warmup=warmup, gradient_clip=gradient_clip, reset=reset_optimizer, anneal=anneal)
        super().__init__(seed, device, settings)
        if min(batch_size, capacity, update_every) < 1 or min(start_steps, updates) < 0:
            raise UserError(
                "soft-actor-critic: batch_size, capacity and update_every must be at least 1, start_steps and updates at least 0, "
                f"got {batch_size}, {capacity}, {update_every}, {start_steps}, {updates}"
            )
        if not (0 <= discount <= 1 and 0 <= polyak <= 1 and target_output_std > 0 and initial_alpha > 0):
            raise UserError(
                "soft-actor-critic: discount and polyak must lie in [0, 1], target_output_std and initial_alpha must be > 0, "
                f"got {discount}, {polyak}, {target_output_std}, {initial_alpha}"
            )
        if acts not in ("mean", "drawn"):
            raise UserError(f"soft-actor-critic: acts must be mean or drawn, got '{acts}'")
        if task.choices:
            raise UserError(f"soft-actor-critic: expected a world of continuous actions, got one of {task.output_size} choices")
        self.batch_size, self.capacity, self.reset_buffer = batch_size, capacity, reset_buffer
        self.discount, self.polyak, self.start_steps, self.acts = discount, polyak, start_steps, acts
        self.update_every, self.updates = update_every, updates
        self.target_entropy = task.output_size * math.log(target_output_std * math.sqrt(2 * math.pi * math.e))
        tasks = task.num_tasks if task.index is not None else 0
        with self.randomness.lent():
            networks = SacNetworks(build_backbone, task.input_size, task.output_size, tasks, math.log(initial_alpha))
        if networks.actor.trunk.initial_state(1):
            raise UserError(
                f"soft-actor-critic: {networks.actor.trunk.spec.kind} has a memory, which this learner does not carry; take mlp"
            )
        noise = seeding.generator(seed, "acting").standard_normal((TURNS, task.output_size), dtype=np.float32)
        self._noise = torch.from_numpy(noise).to(device)
        self._kept: Transitions | None = None  # (capacity, ...) of which the first `_filled` hold something
        self._filled = self._next = 0
        self._steps = 0  # environment steps of this task
        self._updated = 0  # of them, those that updates were made for
        self.install(networks)

    # ---- the loop

    def begin_task(self, weights: Mapping[str, Tensor] | None) -> None:
        """As all learners do; transitions of the task before are forgotten where the options say so."""
        super().begin_task(weights)
        self._steps = self._updated = 0
        if self.reset_buffer:
            self._filled = self._next = 0

    def learn(self, experience: Interaction, hooks: Hooks) -> None:
        """Act, keep and update until nothing remains."""
        self.networks.train()
        with self.randomness.lent():
            while experience.remaining > 0:
                self._act(experience)
                while self._steps - self._updated >= self.update_every:
                    self._updated += self.update_every
                    if self._steps >= self.start_steps and not self.frozen:
                        for _ in range(self.updates):
                            self.update(self.drawn(), hooks)

    def _act(self, experience: Interaction) -> None:
        observation = self._seen(experience.observation)
        if self._steps < self.start_steps:
            action = torch.rand(len(observation), self._noise.shape[1], device=self.device) * 2 - 1
        else:
            with torch.no_grad():
                action = self.networks.actor(observation).action  # type: ignore[operator, union-attr]
        transition = experience.step(action.cpu().numpy())
        self.keep(
            Transitions(
                observation,
                action,
                self._seen(transition.reward),
                self._seen(transition.terminated),
                self._seen(transition.final_observation),
            )
        )
        self._steps += len(observation)

    # ---- what is kept

    def keep(self, new: Transitions) -> None:
        """Put transitions in the place of the oldest."""
        if self._kept is None:
            self._kept = Transitions(*(torch.zeros(self.capacity, *rows.shape[1:], device=self.device) for rows in new))
        rows = len(new.reward)
        slots = (self._next + torch.arange(rows, device=self.device)) % self.capacity
        for kept, fresh in zip(self._kept, new, strict=True):
            kept[slots] = fresh
        self._next = (self._next + rows) % self.capacity
        self._filled = min(self.capacity, self._filled + rows)

    def drawn(self) -> Transitions:
        """A batch with replacement."""
        assert self._kept is not None
        index = torch.randint(self._filled, (self.batch_size,), device=self.device)
        return Transitions(*(rows[index] for rows in self._kept))

    # ---- one update

    def update(self, batch: Transitions, hooks: Hooks) -> None:
        """One step of the optimiser for actor, critics and temperature; then the targets follow."""
        networks: SacNetworks = self.networks  # type: ignore[assignment]
        log_alpha = networks.log_alpha[task_at(batch.observation, networks.tasks)]  # (B,)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            then = networks.actor(batch.following)
            value = networks.values(networks.targets, batch.following, then.action).amin(0) - alpha * then.log_probability
            wanted = batch.reward + self.discount * (1 - batch.terminated) * value  # (B,)
        critic = 0.5 * (networks.values(networks.critics, batch.observation, batch.action) - wanted).square().mean(1).sum()
        now = networks.actor(batch.observation)
        held = {name: weight.detach() for name, weight in networks.critics.named_parameters()}
        promised = networks.values(lambda *x: functional_call(networks.critics, held, x), batch.observation, now.action).amin(0)
        actor = (alpha * now.log_probability - promised).mean()
        temperature = -(log_alpha * (now.log_probability.detach() + self.target_entropy)).mean()
        self._step(critic + actor + temperature, hooks)
        with torch.no_grad():
            torch._foreach_lerp_(list(networks.targets.parameters()), list(networks.critics.parameters()), 1 - self.polyak)
        self._scalars |= {
            "critic_loss": critic.detach(),
            "actor_loss": actor.detach(),
            "value": wanted.mean(),
            "alpha": alpha.mean(),
            "entropy": -now.log_probability.detach().mean(),
        }

    def snapshot(self, networks: nn.Module) -> Actor:
        return Actor(networks.actor, self.device, self._noise if self.acts == "drawn" else None)  # type: ignore[arg-type]

    # ---- what is saved

    def state_dict(self) -> dict[str, Any]:
        kept = None if self._kept is None else [copied(rows[: self._filled]) for rows in self._kept]
        counts = {"filled": self._filled, "next": self._next, "steps": self._steps, "updated": self._updated}
        return {**super().state_dict(), "kept": kept, "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        counts = state["counts"]
        self._filled, self._next, self._steps, self._updated = (int(counts[name]) for name in ("filled", "next", "steps", "updated"))
        self._kept = None
        if state["kept"] is not None:
            rows = [torch.zeros(self.capacity, *part.shape[1:], device=self.device) for part in state["kept"]]
            for whole, part in zip(rows, state["kept"], strict=True):
                whole[: len(part)] = part.to(self.device)
            self._kept = Transitions(*rows)


class Acted(NamedTuple):
    """What an actor does."""

    action: Tensor  # (B, A)
    log_probability: Tensor  # (B,)


class Trunk(nn.Module):
    """A backbone that does not see the task, and a head for each task; `tasks` 0: there is one, and nothing to hide."""

    def __init__(self, backbone: Backbone, seen: int, tasks: int, outputs: int) -> None:
        super().__init__()
        self.trunk, self.seen, self.tasks, self.outputs = backbone, seen, tasks, outputs
        self.head = nn.Linear(backbone.output_size, max(tasks, 1) * outputs)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Outputs (B, outputs) of x (B, seen) and the task (B,)."""
        hidden = self.trunk(x[:, None], {}).hidden[:, 0]
        out = self.head(hidden)
        if self.tasks <= 1:
            return out
        rows = torch.arange(len(x), device=x.device)
        return out.view(len(x), self.tasks, self.outputs)[rows, task]


class ActorNetwork(Trunk):
    """Mean and log std of an action before it is squashed."""

    def __init__(self, backbone: Backbone, seen: int, tasks: int, actions: int) -> None:
        super().__init__(backbone, seen, tasks, 2 * actions)
        self.actions = actions

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Acted:  # type: ignore[override]
        """What is done at observation (B, O), with noise (B, A); None: drawn here."""
        mean, log_std = super().forward(observation[:, : self.seen], task_at(observation, self.tasks)).chunk(2, dim=1)
        log_std = log_std.clamp(LOWEST, HIGHEST)
        noise = torch.randn_like(mean) if noise is None else noise
        raw = mean + log_std.exp() * noise
        log = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
        log = log - (2 * (math.log(2) - raw - functional.softplus(-2 * raw))).sum(1)
        return Acted(raw.tanh(), log)


class Critics(nn.ModuleList):
    """What each of them expects (2, B) of x (B, seen) in a task (B,)."""

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return torch.stack([critic(x, task)[:, 0] for critic in self])


class SacNetworks(nn.Module):
    """Actor, two critics, their targets, and the logarithm of a temperature for each task."""

    def __init__(self, build: BuildBackbone, observation: int, actions: int, tasks: int, log_alpha: float) -> None:
        super().__init__()
        self.tasks, self.seen = tasks, observation - tasks
        self.actor = ActorNetwork(build(self.seen), self.seen, tasks, actions)
        self.critics = Critics(Trunk(build(self.seen + actions), self.seen + actions, tasks, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((max(tasks, 1),), log_alpha))

    def initial_state(self, batch: int) -> State:
        """No memory."""
        return {}

    def values(self, critics: Callable[..., Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """What `critics` expect (2, B); they are called with what is seen and done, and the task."""
        return critics(torch.cat([observation[:, : self.seen], action], dim=1), task_at(observation, self.tasks))


class Actor:
    """Plays an `ActorNetwork` that nobody else holds: its mean, or with noise (TURNS, A), which all episodes share at a step."""

    def __init__(self, network: ActorNetwork, device: torch.device, noise: Tensor | None) -> None:
        self._network, self._device, self._noise = network.eval().requires_grad_(False), device, noise

    def initial_state(self, batch: int) -> int:
        """How many steps have been taken."""
        return 0

    def act(self, observation: Float, state: int) -> tuple[Float, int]:
        """Actions (B, A) for observations (B, O)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.asarray(observation, dtype=np.float32)).to(self._device)
            noise = torch.zeros(1, self._network.actions, device=self._device) if self._noise is None else self._noise[state % TURNS, None]
            return self._network(x, noise).action.cpu().numpy(), state + 1
