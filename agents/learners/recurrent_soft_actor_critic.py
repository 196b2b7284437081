"""Soft actor-critic with a memory: actor and critics read an episode from its beginning, observation by observation and action by action.

Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) over histories, as in Ni et al. 2022, arXiv:2110.05038: actor and critics have a
sequence model each, which reads the observation and the action before it; two value heads hear what the critics' model says and the action.
Windows of episodes are drawn from what is kept; the memory comes to a window's beginning by reading what stood before it, without gradients
(burn-in: Kapturowski et al. 2019, R2D2). Everything else is as in `soft_actor_critic`: the task picks the heads, one temperature for each
task, all gradients at the old parameters, the clock's cuts are bootstrapped, `n_step` returns (within a window), scaled rewards.

Departures: both value heads share one sequence model; the memory lasts an episode.
Shape letters: B rows, T time, W steps of a window, O observation, A action, N tasks, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from ..backbones import state as states
from ..backbones.backbone import Backbone, Output
from ..backbones.state import State
from .episodes_kept import EpisodeBuffer, Lived, Windows
from .learner import BuildBackbone, Hooks, Learner, OptimizerSettings, copied
from .sac_networks import Acted, check, heads, held_still, squashed, target_entropy

Float = NDArray[np.floating[Any]]


class RecurrentSoftActorCritic(Learner):
    """Acts in all environments, keeps up to `capacity` steps, and updates from `lanes` windows of `window` steps.

    `input_scale`: what observations are multiplied with.
    `burn_in`: steps of the episode before a window that its memory reads first; -1: all of them. The first `start_steps` environment steps
    of a task are random; updates begin with `update_after`, and there are `updates` for every `update_every` environment steps.
    """

    networks: SequenceNetworks

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        lanes: int = 8,
        window: int = 60,
        burn_in: int = -1,
        capacity: int = 200_000,
        learning_rate: float = 1e-3,
        gradient_clip: float = 0.0,
        warmup: int = 0,
        anneal: int = 0,
        anneal_from: int = 0,
        reset_optimizer: bool = True,
        reset_buffer: bool = True,
        input_scale: float = 1.0,
        discount: float = 0.99,
        n_step: int = 3,
        reward_scale: float = 0.1,
        polyak: float = 0.995,
        target_output_std: float = 0.089,
        initial_alpha: float = 0.1,
        start_steps: int = 10_000,
        update_after: int = 10_000,
        update_every: int = 64,
        updates: int = 8,
    ) -> None:
        settings = OptimizerSettings(
            learning_rate, warmup=warmup, gradient_clip=gradient_clip, reset=reset_optimizer, anneal=anneal, anneal_from=anneal_from
        )
        super().__init__(seed, device, settings)
        if min(lanes, window, capacity, update_every, n_step) < 1 or min(start_steps, update_after, updates) < 0 or burn_in < -1:
            raise UserError(
                "recurrent-soft-actor-critic: lanes, window, capacity, update_every and n_step must be at least 1, start_steps, "
                "update_after and updates at least 0, burn_in at least -1, got "
                f"{lanes}, {window}, {capacity}, {update_every}, {n_step}, {start_steps}, {update_after}, {updates} and {burn_in}"
            )
        check("recurrent-soft-actor-critic", task, shares=(discount, polyak), positive=(target_output_std, initial_alpha, reward_scale))
        self.actions, self.lanes, self.window, self.burn_in = task.output_size, lanes, window, burn_in
        self.reset_buffer, self.discount, self.n_step = reset_buffer, discount, n_step
        self.polyak, self.reward_scale = polyak, reward_scale
        self.start_steps, self.update_after, self.update_every, self.updates = start_steps, update_after, update_every, updates
        self.target_entropy = target_entropy(task.output_size, target_output_std)
        tasks = heads(task)
        with self.randomness.lent():
            networks = SequenceNetworks(
                build_backbone, task.input_size, task.output_size, tasks, math.log(initial_alpha), input_scale=input_scale
            )
        self.buffer = EpisodeBuffer(capacity, device)
        self._steps = self._updated = 0  # environment steps of this task, and those that updates were made for
        self._previous: Tensor | None = None  # (E, A), actions before what is seen now; None: all episodes begin
        self._clock = torch.zeros(0, dtype=torch.int64, device=device)  # (E,)
        self._expected: Tensor | None = None  # (E, O), what is seen next if episodes go on
        self.install(networks)

    # ---- the loop

    def begin_task(self, weights: Mapping[str, Tensor] | None) -> None:
        """As all learners do; what was lived in the task before is forgotten where the options say so, and episodes begin."""
        super().begin_task(weights)
        self._steps = self._updated = 0
        self._memory = self._previous = None
        if self.reset_buffer:
            self.buffer.clear()

    def learn(self, experience: Interaction, hooks: Hooks) -> None:
        """Act, keep and update until nothing remains."""
        self.networks.train()
        if self._expected is not None and not torch.equal(self._seen(experience.observation), self._expected):
            self._memory = self._previous = None  # another task, whose beginning nobody told
        with self.randomness.lent():
            while experience.remaining > 0:
                self._act(experience)
                while self._steps - self._updated >= self.update_every:
                    self._updated += self.update_every
                    if self._steps >= self.update_after and not self.frozen:
                        for _ in range(self.updates):
                            self.improve(self.buffer.draw(self.lanes, self.window, self.burn_in), hooks)

    @torch.no_grad()
    def _act(self, experience: Interaction) -> None:
        observation = self._seen(experience.observation)
        count = len(observation)
        if self._memory is None or self._previous is None or len(self._previous) != count:
            self._memory, self._previous = self.networks.initial_state(count), observation.new_zeros(count, self.actions)
            self._clock = torch.zeros(count, dtype=torch.int64, device=self.device)
        actor = self.networks.actor
        read = actor.read(observation[:, None], self._previous[:, None], self._memory)
        if self._steps < self.start_steps:
            action = torch.rand(count, self.actions, device=self.device) * 2 - 1
        else:
            action = actor.act(read.hidden[:, 0], observation).action
        transition = experience.step(action.cpu().numpy())
        over = self.tensor(np.logical_or(transition.terminated, transition.truncated))
        followed = (transition.reward, transition.terminated, transition.final_observation)
        reward, terminated, following = (self._seen(array) for array in followed)
        self.buffer.keep(Lived(observation, self._previous, action, reward, terminated, over.float(), following, self._clock))
        self._memory = read.state
        if over.any():
            self._memory = states.reset(read.state, self.networks.initial_state(count), over)
        self._previous = torch.where(over[:, None], 0.0, action)
        self._clock = torch.where(over, 0, self._clock + 1)
        self._expected = self._seen(transition.next_observation)
        self._steps += count

    # ---- one update

    def improve(self, windows: Windows, hooks: Hooks) -> None:
        """One step of the optimiser for actor, critics and temperature; then the targets follow."""
        networks = self.networks
        losses = self._losses(windows)
        self._step(losses.critic + losses.actor + losses.temperature + losses.auxiliary, hooks)
        with torch.no_grad():
            torch._foreach_lerp_(list(networks.target.parameters()), list(networks.critic.parameters()), 1 - self.polyak)
        self._scalars |= {name: value.detach() for name, value in losses._asdict().items() if name != "auxiliary"}

    def _losses(self, windows: Windows) -> Losses:
        networks = self.networks
        seen, there = windows.observation, ~windows.missing
        # positions 0..W: what the window begins with, and what followed each of its steps
        observations = torch.cat([seen[:, :1], windows.following], dim=1)
        previous = torch.cat([windows.previous[:, :1], windows.action], dim=1)
        pad = torch.cat([windows.missing[:, :1], windows.missing], dim=1)
        begun = [self._begun(part, windows) for part in (networks.actor, networks.critic, networks.target)]
        acting = networks.actor.read(observations, previous, begun[0], pad)
        judging = networks.critic.read(seen, windows.previous, begun[1], windows.missing)
        log_alpha = networks.log_alphas(seen)  # (B, W)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            last, total, discount = self._returns(windows)
            waiting = networks.target.read(observations, previous, begun[2], pad)
            then = networks.actor.act(_at(acting.hidden, last + 1), _at(observations, last + 1))
            least = networks.target.values(_at(waiting.hidden, last + 1), then.action, _at(observations, last + 1)).amin(0)
            wanted = self.reward_scale * total + discount * (least - alpha * then.log_probability)
        values = networks.critic.values(judging.hidden, windows.action, seen)  # (2, B, W)
        critic = 0.5 * (values - wanted).square()[:, there].mean(1).sum()
        now = networks.actor.act(acting.hidden[:, :-1], seen)
        with held_still(networks.critic):
            promised = networks.critic.values(judging.hidden.detach(), now.action, seen).amin(0)
        actor = (alpha * now.log_probability - promised)[there].mean()
        temperature = -(log_alpha * (now.log_probability.detach() + self.target_entropy))[there].mean()
        return Losses(
            critic,
            actor,
            temperature,
            acting.auxiliary_loss + judging.auxiliary_loss,
            -now.log_probability[there].mean(),
            wanted[there].mean(),
            alpha[there].mean(),
        )

    def _begun(self, part: SequencePart, windows: Windows) -> State:
        """The memory at the windows' beginnings."""
        state = part.backbone.initial_state(len(windows.reward))
        if not windows.prefix.shape[1]:
            return state
        observation, previous = windows.prefix.split([windows.observation.shape[-1], self.actions], dim=-1)
        with torch.no_grad():
            return states.detach(part.read(observation, previous, state, windows.prefix_missing).state)

    def _returns(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """For each step the last one whose reward counts (B, W), the discounted sum of rewards, and what the value behind it counts."""
        reward, there, over = windows.reward, ~windows.missing, windows.over > 0
        length = reward.shape[1]
        last = torch.arange(length, device=self.device).expand_as(reward)
        total, discount = reward, torch.full_like(reward, self.discount)
        going = torch.ones_like(there)
        for _ in range(1, self.n_step):
            further = (last + 1).clamp(max=length - 1)
            going = going & (last + 1 < length) & ~over.gather(1, last) & there.gather(1, further)
            last = torch.where(going, further, last)
            total = torch.where(going, total + discount * reward.gather(1, last), total)
            discount = torch.where(going, discount * self.discount, discount)
        return last, total, discount * (1 - windows.terminated.gather(1, last))

    def snapshot(self, networks: nn.Module) -> SequencePlayer:
        assert isinstance(networks, SequenceNetworks)
        return SequencePlayer(networks.actor, self.device)

    # ---- what is saved

    def state_dict(self) -> dict[str, Any]:
        counts = {"steps": self._steps, "updated": self._updated}
        lived = {"previous": copied(self._previous), "clock": self._clock.clone(), "expected": copied(self._expected)}
        return {**super().state_dict(), "buffer": self.buffer.state_dict(), "counts": counts, "lived": lived}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])
        self._steps, self._updated = (int(state["counts"][name]) for name in ("steps", "updated"))
        previous = state["lived"]["previous"]
        self._previous = None if previous is None else previous.to(self.device).clone()
        self._clock = state["lived"]["clock"].to(self.device).clone()
        expected = state["lived"]["expected"]
        self._expected = None if expected is None else expected.to(self.device).clone()


class Losses(NamedTuple):
    """Of one batch of windows, each ()."""

    critic: Tensor
    actor: Tensor
    temperature: Tensor
    auxiliary: Tensor
    entropy: Tensor
    value: Tensor
    alpha: Tensor


class SequencePart(nn.Module):
    """A sequence model of observations, whose task it does not see, and of the actions before them."""

    input_scale = 1.0

    def __init__(self, build: BuildBackbone, observation: int, actions: int, tasks: int) -> None:
        super().__init__()
        self.seen, self.tasks = observation - tasks, tasks
        self.backbone: Backbone = build(self.seen + actions)

    def read(self, observation: Tensor, previous: Tensor, state: State, pad: Tensor | None = None) -> Output:
        """Observation (B, T, O), previous (B, T, A); pad (B, T) marks what is not there."""
        return self.backbone(torch.cat([observation[..., : self.seen] * self.input_scale, previous], dim=-1), state, pad=pad)

    def picked(self, said: Tensor, observation: Tensor) -> Tensor:
        """What the head of each row's task says (..., K) of all that heads say (..., N K)."""
        if self.tasks <= 1:
            return said
        return (said.unflatten(-1, (self.tasks, -1)) * observation[..., self.seen :, None]).sum(-2)


class SequenceActor(SequencePart):
    """Mean and log std of an action before it is squashed, with a head for each task."""

    def __init__(self, build: BuildBackbone, observation: int, actions: int, tasks: int) -> None:
        super().__init__(build, observation, actions, tasks)
        self.head = nn.Linear(self.backbone.output_size, max(tasks, 1) * 2 * actions)

    def act(self, hidden: Tensor, observation: Tensor, *, drawn: bool = True) -> Acted:
        """What is done (..., A) where `hidden` (..., D) was read; the mean where it is not `drawn`."""
        mean, log_std = self.picked(self.head(hidden), observation).chunk(2, dim=-1)
        return squashed(mean, log_std, None if drawn else torch.zeros_like(mean))


class SequenceCritic(SequencePart):
    """Two values of an action, each with an output for each task."""

    def __init__(self, build: BuildBackbone, observation: int, actions: int, tasks: int) -> None:
        super().__init__(build, observation, actions, tasks)
        width = self.backbone.output_size
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width + actions, width), nn.LayerNorm(width), nn.LeakyReLU(0.2), nn.Linear(width, max(tasks, 1)))
            for _ in range(2)
        )

    def values(self, hidden: Tensor, action: Tensor, observation: Tensor) -> Tensor:
        """(2, ...) where `hidden` (..., D) was read."""
        x = torch.cat([hidden, action], dim=-1)
        return torch.stack([self.picked(head(x), observation)[..., 0] for head in self.heads])


class SequenceNetworks(nn.Module):
    """Actor, critic, its target, and the logarithm of a temperature for each task."""

    def __init__(
        self, build: BuildBackbone, observation: int, actions: int, tasks: int, log_alpha: float, *, input_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.tasks, self.seen = tasks, observation - tasks
        self.actor = SequenceActor(build, observation, actions, tasks)
        self.critic = SequenceCritic(build, observation, actions, tasks)
        self.actor.input_scale = self.critic.input_scale = input_scale
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((max(tasks, 1),), log_alpha))

    def initial_state(self, batch: int) -> State:
        """The actor's memory before `batch` episodes."""
        return self.actor.backbone.initial_state(batch)

    def log_alphas(self, observation: Tensor) -> Tensor:
        """Of each task, (...) for observation (..., O)."""
        if not self.tasks:
            return self.log_alpha.expand(observation.shape[:-1])
        return observation[..., self.seen :] @ self.log_alpha


def _at(sequence: Tensor, index: Tensor) -> Tensor:
    """Entries `index` (B, W) of sequence (B, T, ...), (B, W, ...)."""
    return sequence[torch.arange(len(sequence), device=sequence.device)[:, None], index]


class SequencePlayer:
    """Plays the mean of a `SequenceActor` that nobody else holds. Its state: the memory, and the action before."""

    def __init__(self, actor: SequenceActor, device: torch.device) -> None:
        self._actor, self._device = actor.eval().requires_grad_(False), device

    def initial_state(self, batch: int) -> tuple[State, Tensor]:
        """Before `batch` episodes."""
        with torch.inference_mode():
            actions = self._actor.head.out_features // (2 * max(self._actor.tasks, 1))
            return self._actor.backbone.initial_state(batch), torch.zeros(batch, actions, device=self._device)

    def act(self, observation: Float, state: tuple[State, Tensor]) -> tuple[Float, tuple[State, Tensor]]:
        """Actions (B, A) for observations (B, O)."""
        memory, previous = state
        with torch.inference_mode():
            x = torch.from_numpy(np.asarray(observation, dtype=np.float32)).to(self._device)
            read = self._actor.read(x[:, None], previous[:, None], memory)
            action = self._actor.act(read.hidden[:, 0], x, drawn=False).action
            return action.cpu().numpy(), (read.state, action)
