"""Soft actor-critic: off-policy control with continuous actions, learned from transitions that are kept and drawn again.

Haarnoja et al. 2018, arXiv:1801.01290 and arXiv:1812.05905, in the form of Continual World (Wolczyk et al. 2021, arXiv:2105.10919, and
`continualworld/sac/sac.py`): one optimiser for actor, both critics and the temperature, all gradients taken at the old parameters; an
action is tanh(mu + std * eps), log std within [-20, 2]; the entropy to be reached follows from `target_output_std`; one temperature for
each task; where the stream shows the task, its one-hot picks the heads of actor and critics and is hidden from their trunks. Episodes
that the clock cuts are bootstrapped. Transitions of earlier tasks are forgotten (`reset_buffer`). A method holds the actor's trunk.

Departures: AdamW without decay in place of Adam, whose moments begin anew with a task, step count included; many environments side by
side, and `updates` of the networks for every `update_every` environment steps: a quarter of an update for a step, where theirs makes one.
What makes few updates go far: returns over `n_step` steps (as in Hessel et al. 2018, arXiv:1710.02298, not corrected for older actors'
actions), and rewards times `reward_scale`, which brings values near what a fresh critic says. Theirs is n_step=1, reward_scale=1,
initial_alpha=2.718, update_every=50, updates=50, update_after=1000, and a trunk of four layers of 256 (`experiment=cw10-paper`).
Not here: memory (see `recurrent_soft_actor_critic`). A backbone with one is refused.
Shape letters: B rows, O observation, A action, N tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from clbench import seeding
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from . import gaussian
from .batch import Batch
from .exploration import BestReturn
from .item_learner import ItemLearner
from .learner import BuildBackbone, Hooks, OptimizerSettings, copied
from .recording import CudaGraph, Recording
from .sac_networks import ActorNetwork, Losses, SacNetworks, check, heads, held_still, target_entropy
from .transitions import Steps, TransitionBuffer, Transitions
from .written_gradients import Gradients, known

Float = NDArray[np.floating[Any]]
TURNS = 512  # of a policy that draws, before its noise begins again


class SoftActorCritic(ItemLearner):
    """Acts in all environments, keeps up to `capacity` steps, and updates from `batch_size` transitions.

    The first `start_steps` environment steps of a task are not the actor's; `exploration`: they are "random", or from the second task on
    the older heads' ("best-return"). Updates begin with `update_after` steps. `polyak`: what a target critic keeps of itself in an update.
    `initial_alpha`: the temperature before learning. `popart` > 0: critics say normalised values, whose moments move by this share in an
    update (Continual World's 3e-4, for all tasks at once). `gradient_clip` holds for actor, critics and temperatures apart.
    `acts`: "mean" or "drawn", what a policy plays.
    `graph`: on a CUDA device updates are recorded and played as one graph (`recording`), where methods, learning rate and batches let
    them be: not with replay, a-gem and cloning, nor while the rate moves. Elsewhere it changes nothing.
    """

    networks: SacNetworks

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        batch_size: int = 128,
        capacity: int = 1_000_000,
        learning_rate: float = 1e-3,
        gradient_clip: float = 0.0,
        warmup: int = 0,
        anneal: int = 0,
        anneal_from: int = 0,
        reset_optimizer: bool = True,
        reset_buffer: bool = True,
        discount: float = 0.99,
        n_step: int = 3,
        reward_scale: float = 0.1,
        polyak: float = 0.995,
        target_output_std: float = 0.089,
        initial_alpha: float = 0.1,
        popart: float = 0.0,
        start_steps: int = 10_000,
        update_after: int = 10_000,
        exploration: str = "random",
        update_every: int = 64,
        updates: int = 16,
        acts: str = "mean",
        graph: bool = False,
    ) -> None:
        settings = OptimizerSettings(
            learning_rate, warmup=warmup, gradient_clip=gradient_clip, reset=reset_optimizer, anneal=anneal, anneal_from=anneal_from
        )
        super().__init__(seed, device, settings)
        if min(batch_size, capacity, update_every, n_step) < 1 or min(start_steps, update_after, updates) < 0:
            raise UserError(
                "soft-actor-critic: batch_size, capacity, update_every and n_step must be at least 1, start_steps, update_after and "
                f"updates at least 0, got {batch_size}, {capacity}, {update_every}, {n_step}, {start_steps}, {update_after} and {updates}"
            )
        if not 0 <= popart <= 1:
            raise UserError(f"soft-actor-critic: popart must lie in [0, 1], got {popart}")
        check("soft-actor-critic", task, shares=(discount, polyak), positive=(target_output_std, initial_alpha, reward_scale))
        if acts not in ("mean", "drawn"):
            raise UserError(f"soft-actor-critic: acts must be mean or drawn, got '{acts}'")
        if exploration not in ("random", "best-return"):
            raise UserError(f"soft-actor-critic: exploration must be random or best-return, got '{exploration}'")
        self.actions, self.batch_size, self.reset_buffer = task.output_size, batch_size, reset_buffer
        self.polyak, self.reward_scale, self.popart, self.acts = polyak, reward_scale, popart, acts
        self.start_steps, self.update_after, self.exploration = start_steps, update_after, exploration
        self.update_every, self.updates = update_every, updates
        self.target_entropy = target_entropy(task.output_size, target_output_std)
        tasks = heads(task)
        with self.randomness.lent():
            networks = SacNetworks(build_backbone, task.input_size, task.output_size, tasks, math.log(initial_alpha), popart=popart > 0)
        if networks.actor.trunk.initial_state(1):
            raise UserError(
                f"soft-actor-critic: {networks.actor.trunk.spec.kind} has a memory, which this learner does not carry; "
                "take mlp, or the learner recurrent-soft-actor-critic"
            )
        noise = seeding.generator(seed, "acting").standard_normal((TURNS, task.output_size), dtype=np.float32)
        self._noise = torch.from_numpy(noise).to(device)
        self.buffer = TransitionBuffer(capacity, n_step, discount, device)
        self._steps = 0  # environment steps of this task
        self._updated = 0  # of them, those that updates were made for
        self._learned = torch.zeros(max(tasks, 1), dtype=torch.bool, device=device)  # (N,), heads that were ever updated
        self._past: list[int] = []  # of them, those that were when the task began
        self._trial: BestReturn | None = None
        self._expected: Tensor | None = None  # (E, O), what is seen next if episodes go on
        self._written: Gradients | None = None  # made when it is first needed
        self._tape = CudaGraph if graph and device.type == "cuda" else None
        self._recorded: tuple[Any, Recording] | None = None  # an update, and the columns of the buffer that it draws from
        self.install(networks)

    # ---- the loop

    def begin_task(self, weights: Mapping[str, Tensor] | None) -> None:
        """As all learners do; transitions of the task before are forgotten where the options say so."""
        super().begin_task(weights)
        self._recorded = None  # methods go another way from here
        self._steps = self._updated = 0
        self._trial, self._past = None, self._learned.nonzero()[:, 0].tolist() if self.networks.tasks > 1 else []
        if self.reset_buffer:
            self.buffer.clear()

    def reset_optimizer(self) -> None:
        """As all learners do."""
        super().reset_optimizer()
        self._recorded = None

    def learn(self, experience: Interaction, hooks: Hooks) -> None:
        """Act, keep and update until nothing remains."""
        self.networks.train()
        if self._expected is not None and not torch.equal(self._seen(experience.observation), self._expected):
            self.buffer.cut()  # another task, whose beginning nobody told
        with self.randomness.lent():
            while experience.remaining > 0:
                self._act(experience)
                while self._steps - self._updated >= self.update_every:
                    self._updated += self.update_every
                    if self._steps >= self.update_after and not self.frozen:
                        for _ in range(self.updates):
                            self._improve(hooks)

    def _improve(self, hooks: Hooks) -> None:
        index = self.buffer.places(self.batch_size)
        if hooks.changes_batches:
            self.update(hooks.wrap_buffer(self.buffer.at(index).to_batch(kept=True)), hooks)
        elif self._tape is not None and hooks.steady and self.settings.steady(self._optimizer_steps):
            self._play(index, hooks)
        else:
            self.improve(self.buffer.at(index), hooks)

    def _play(self, index: Tensor, hooks: Hooks) -> None:
        """One update from the places `index` (B,), recorded at the first times and played from then on."""
        if self._recorded is None or self._recorded[0] is not self.buffer.columns:

            def whole(index: Tensor, newest: Tensor) -> dict[str, Tensor]:
                self.improve(self.buffer.at(index, newest), hooks)
                return self._scalars

            self._recorded = self.buffer.columns, Recording(whole, self._tape)
        counts = self._optimizer_steps + 1, self.gradient_steps + 1
        self._scalars = self._recorded[1](index, torch.full((), self.buffer.newest, device=self.device))
        self._optimizer_steps, self.gradient_steps = counts  # what is played counts nothing

    def _act(self, experience: Interaction) -> None:
        observation = self._seen(experience.observation)
        starting = self._steps < self.start_steps
        if starting and self.exploration == "best-return" and self._past:
            self._trial = self._trial or BestReturn(self._past, len(observation))
            action = self._drawn_action(self._asked_of(self._trial, observation))
        elif starting:
            action = torch.rand(len(observation), self.actions, device=self.device) * 2 - 1
        else:
            action = self._drawn_action(observation)
        transition = experience.step(action.cpu().numpy())
        over = np.logical_or(transition.terminated, transition.truncated)
        if starting and self._trial is not None:
            self._trial.hear(np.asarray(transition.reward), over)
        followed = (transition.reward, transition.terminated, over, transition.final_observation)
        self.buffer.keep(Steps(observation, action, *(self._seen(array) for array in followed)))
        self._expected = self._seen(transition.next_observation)
        self._steps += len(observation)

    def _drawn_action(self, observation: Tensor) -> Tensor:
        with torch.no_grad():
            return self.networks.actor(observation).action

    def _asked_of(self, trial: BestReturn, observation: Tensor) -> Tensor:
        """`observation` (B, O) with the one-hot of the head that is tried in each environment."""
        heads = torch.from_numpy(trial.playing()).to(self.device)
        one_hot = functional.one_hot(heads, self.networks.tasks).to(observation.dtype)
        return torch.cat([observation[:, : self.networks.seen], one_hot], dim=1)

    # ---- one update

    def update(self, batch: Batch, hooks: Hooks) -> None:
        self.improve(self._transitions(batch), hooks)

    def improve(self, batch: Transitions, hooks: Hooks) -> None:
        """One step of the optimiser for actor, critics and temperature; then the targets follow."""
        networks = self.networks
        if known(networks):
            if self._written is None or self._written.networks is not networks:
                self._written = Gradients(networks)
            losses = self._written.leave(batch, self.reward_scale, self.target_entropy, self.popart)
            self._step(losses.total, hooks, differentiated=True)
        else:
            losses = self._losses(batch)
            self._step(losses.total, hooks)
        networks.draw_targets(1 - self.polyak)
        self._learned |= (batch.observation[:, networks.seen :] > 0).any(0) if networks.tasks else True
        self._scalars |= {
            "critic_loss": losses.critic.detach(),
            "actor_loss": losses.actor.detach(),
            "value": losses.value,
            "alpha": losses.alpha,
            "entropy": losses.entropy,
        }

    def _losses(self, batch: Transitions) -> Losses:
        networks = self.networks
        log_alpha = networks.log_alphas(batch.observation)  # (B,)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            then = networks.actor(batch.following)
            value = networks.values(networks.targets, batch.following, then.action).amin(0) - alpha * then.log_probability
            wanted = self.reward_scale * batch.reward + batch.discount * value  # (B,)
        spread: Tensor | float = 1.0
        if networks.popart:
            networks.follow(wanted, batch.observation, self.popart)
            _, spread = networks.normal(batch.observation)
        critic = 0.5 * ((networks.values(networks.critics, batch.observation, batch.action) - wanted) / spread).square().mean(1).sum()
        now = networks.actor(batch.observation)
        with held_still(networks.critics):
            promised = networks.values(networks.critics, batch.observation, now.action).amin(0)
        actor = (alpha * now.log_probability - promised).mean()
        temperature = -(log_alpha * (now.log_probability.detach() + self.target_entropy)).mean()
        return Losses(critic, actor, temperature, -now.log_probability.detach().mean(), wanted.mean(), alpha.mean())

    def _clip(self, most: float) -> Tensor:
        """Actor, critics and temperatures apart; the length of all of it before."""
        parts = (self.networks.actor.parameters(), self.networks.critics.parameters(), [self.networks.log_alpha])
        return torch.stack([nn.utils.clip_grad_norm_(part, most) for part in parts]).square().sum().sqrt()

    # ---- for methods

    def _transitions(self, batch: Batch) -> Transitions:
        return Transitions.of(batch, self.actions, self.device)

    def _gaussian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log std (B, A), not squashed."""
        return self.networks.actor.gaussian(self.tensor(batch.inputs[:, 0]))

    def own_items(self) -> Iterator[Batch]:
        return (portion.to_batch(kept=True) for portion in self.buffer.everything())

    def own_batch(self, size: int) -> Batch | None:
        return self.buffer.draw(size).to_batch(kept=True) if self.buffer.filled else None

    @property
    def held(self) -> list[nn.Parameter]:
        """The actor's trunk; and its head, where there is one for all tasks."""
        actor = self.networks.actor
        return list((actor if actor.tasks <= 1 else actor.trunk).parameters())

    @property
    def constrained(self) -> list[nn.Parameter]:
        """Actor and critics, as in Continual World: not the temperatures."""
        return [*self.networks.actor.parameters(), *self.networks.critics.parameters()]

    def loss(self, batch: Batch) -> Tensor:
        return self._losses(self._transitions(batch)).total

    def information(self, item: Batch, generator: np.random.Generator) -> Tensor:
        """Exact, K = 2A; the mean squashed and the std not, as in Continual World."""
        mean, log_std = self._gaussian(item)
        return gaussian.information(mean.tanh(), log_std)[0]

    def output_norm(self, item: Batch) -> Tensor:
        """Sum of mu^2 + log_std^2, mu squashed (Continual World)."""
        mean, log_std = self._gaussian(item)
        return (mean.tanh().square() + log_std.square()).sum(1).mean()

    def answers(self, batch: Batch) -> Tensor:
        """Mean and log std before the tanh, (B, 1, 2A): it takes nothing from a divergence."""
        return torch.cat(self._gaussian(batch), dim=1)[:, None]

    def divergence(self, answers: Tensor, batch: Batch) -> Tensor:
        return gaussian.divergence(answers, self.answers(batch)).mean()

    def snapshot(self, networks: nn.Module) -> Actor:
        assert isinstance(networks, SacNetworks)
        return Actor(networks.actor, self.device, self._noise if self.acts == "drawn" else None)

    # ---- what is saved

    def state_dict(self) -> dict[str, Any]:
        exploring = {
            "learned": self._learned.clone(),
            "past": list(self._past),
            "trial": None if self._trial is None else self._trial.state_dict(),
        }
        counts = {"steps": self._steps, "updated": self._updated}
        kept = {"buffer": self.buffer.state_dict(), "expected": copied(self._expected)}
        return {**super().state_dict(), **kept, "counts": counts, "exploring": exploring}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])
        self._recorded = None
        self._expected = None if state["expected"] is None else state["expected"].to(self.device).clone()
        self._steps, self._updated = (int(state["counts"][name]) for name in ("steps", "updated"))
        exploring = state["exploring"]
        self._learned = exploring["learned"].to(self.device).clone()
        self._past = [int(head) for head in exploring["past"]]
        self._trial = None if exploring["trial"] is None else BestReturn.of(exploring["trial"])


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
