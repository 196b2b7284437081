"""Behaviour cloning: a Gaussian policy is fitted to the expert's actions by maximum likelihood.

Pomerleau 1991; in the form of Florence et al. 2022, arXiv:2109.00137, section 2 ("explicit" policies). Inputs are scaled by a constant
only: running statistics would move under old tasks, and that looks like forgetting. Task identity is part of the observation (its
one-hot), so that one head serves all tasks; Continual World's head per task is not here.
Shape letters: B rows, T time, O observation, A action.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbench.errors import UserError
from clbench.experience import Demonstrations
from clbench.interfaces import TaskInfo

from ..backbones import state as states
from ..backbones.backbone import Backbone
from ..backbones.scope import scoped
from ..backbones.state import State
from . import gaussian
from .batch import Batch, whole_items
from .batch_learner import BatchLearner, Judged
from .learner import BuildBackbone, OptimizerSettings

Float = NDArray[np.floating[Any]]
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class BehaviourCloning(BatchLearner):
    """Loss: negative log-likelihood, summed over the action, averaged over the positions; acts with the mean, clipped to [-1, 1].

    A backbone without memory draws independent steps, `batch_size` at a time. One with memory reads `lanes` episodes at once in windows of
    `window` steps and carries its memory from window to window; gradients end at a window's beginning. What is left of a grant and fills
    no window is spent as steps that nothing is learned from (fewer than `lanes`).
    `state_dependent_std`: the standard deviation is a second output of the head instead of one vector.
    `mean_squared_error`: the loss is the squared error, as if every standard deviation were fixed; none is learned.
    `scope`: how long the memory lasts, see `backbones.scope`.
    """

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        batch_size: int = 256,
        lanes: int = 16,
        window: int = 32,
        learning_rate: float = 3e-4,
        gradient_clip: float = 0.0,
        warmup: int = 100,
        anneal: int = 0,
        anneal_from: int = 0,
        reset_optimizer: bool = True,
        input_scale: float = 1.0,
        state_dependent_std: bool = False,
        mean_squared_error: bool = False,
        min_log_std: float = -5.0,
        max_log_std: float = 2.0,
        scope: str = "episode",
    ) -> None:
        settings = OptimizerSettings(
            learning_rate, warmup=warmup, gradient_clip=gradient_clip, reset=reset_optimizer, anneal=anneal, anneal_from=anneal_from
        )
        super().__init__(seed, device, settings, scope)
        if min(batch_size, lanes, window) < 1:
            raise UserError(f"behaviour-cloning: batch_size, lanes and window must be at least 1, got {batch_size}, {lanes}, {window}")
        if min_log_std > max_log_std:
            raise UserError(f"behaviour-cloning: min_log_std {min_log_std} exceeds max_log_std {max_log_std}")
        self.batch_size, self.lanes, self.window = batch_size, lanes, window
        with self.randomness.lent():
            head = StandardDeviation(task.output_size, state_dependent_std, not mean_squared_error, min_log_std, max_log_std)
            backbone = scoped(build_backbone(task.input_size), scope, carried=True)
            networks = GaussianPolicy(backbone, head, input_scale)
        self.install(networks)
        self._draw = self._windows if self.networks.initial_state(1) else self._steps  # type: ignore[operator]

    def draw(self, experience: Demonstrations) -> Batch | None:
        return self._draw(experience)

    def _steps(self, experience: Demonstrations) -> Batch:
        observations, actions = experience.steps(min(self.batch_size, experience.remaining))
        return whole_items(observations[:, None], actions[:, None], np.ones((len(actions), 1), dtype=bool))

    def _windows(self, experience: Demonstrations) -> Batch | None:
        length = min(self.window, experience.remaining // self.lanes)
        if length == 0:  # another number of lanes would make all of them begin anew
            experience.steps(experience.remaining)
            return None
        observations, actions, starts = experience.windows(self.lanes, length)
        return Batch(observations, actions, np.ones((self.lanes, length), dtype=bool), starts, False, self.lanes)

    def judge(self, batch: Batch, state: State, reset: Tensor | None) -> Judged:
        mean, log_std, state, auxiliary_loss, diagnostics = self.networks(self.tensor(batch.inputs), state, reset)
        error = self.tensor(batch.targets) - mean  # (B, T, A)
        if log_std is None:
            loss = error.square().sum(-1)
        else:
            loss = (0.5 * (error * (-log_std).exp()).square() + log_std).sum(-1) + HALF_LOG_TWO_PI * mean.shape[-1]
        if not batch.scored.all():
            loss = loss[self.tensor(batch.scored)]
        return Judged(loss.mean() + auxiliary_loss, state, diagnostics)

    def information(self, item: Batch, generator: np.random.Generator) -> Tensor:
        """Wolczyk et al. 2021, section 4: sum over the action of (dmu^2 + 2 dstd^2) / (std^2 + 1e-6); here mu is not squashed.

        Exact for a single step (K = 2 A). For a stretch of n steps one scalar: the same terms with random signs over sqrt(n), whose squared
        gradient has the mean over the steps as its expectation. With `mean_squared_error`: sum of dmu^2.
        """
        mean, log_std, *_ = self.networks(self.tensor(item.inputs), self._fresh_memory(item), None)
        roots = mean
        if log_std is not None:
            roots = gaussian.information(mean, log_std)  # (1, T, 2A)
        roots = roots[self.tensor(item.scored)]  # (n, K)
        if len(roots) == 1:
            return roots[0]
        signs = generator.integers(0, 2, size=roots.shape).astype(np.float32) * 2 - 1
        return (roots * self.tensor(signs)).sum()[None] / math.sqrt(len(roots))

    def output_norm(self, item: Batch) -> Tensor:
        """Sum of mu^2 + log_std^2 (Wolczyk et al. 2021), mu not squashed."""
        mean, log_std, *_ = self.networks(self.tensor(item.inputs), self._fresh_memory(item), None)
        norm = mean.square() if log_std is None else mean.square() + log_std.square()
        return norm.sum(-1)[self.tensor(item.scored)].mean()

    def answers(self, batch: Batch) -> Tensor:
        """Mean and log std of whole items, (B, T, 2A); the mean alone (B, T, A) with `mean_squared_error`."""
        mean, log_std, *_ = self.networks(self.tensor(batch.inputs), self._fresh_memory(batch), None)
        return mean if log_std is None else torch.cat([mean, log_std.expand_as(mean)], dim=-1)

    def divergence(self, answers: Tensor, batch: Batch) -> Tensor:
        now = self.answers(batch)
        plain = now.shape[-1] == batch.targets.shape[-1]  # no std: as if every variance were 1/2, as in the loss
        apart = (now - answers).square().sum(-1) if plain else gaussian.divergence(answers, now)
        return apart[self.tensor(batch.scored)].mean()

    def snapshot(self, networks: nn.Module) -> GaussianActor:
        return GaussianActor(networks, self.device, self.lasting_memory)


class Actions(NamedTuple):
    """A Gaussian for each position; `log_std` is None where it is not learned."""

    mean: Tensor  # (B, T, A)
    log_std: Tensor | None  # (A,) or (B, T, A)
    state: State
    auxiliary_loss: Tensor  # ()
    diagnostics: dict[str, Tensor] | None


class StandardDeviation(nn.Module):
    """The logarithm of the standard deviation, clipped: a vector of its own, a second output, or none."""

    def __init__(self, actions: int, state_dependent: bool, learned: bool, least: float, most: float) -> None:
        super().__init__()
        self.actions, self.least, self.most = actions, least, most
        self.outputs = 2 * actions if learned and state_dependent else actions  # of the head that mean and this share
        self.learned = learned
        self.vector = nn.Parameter(torch.zeros(actions)) if learned and not state_dependent else None

    def forward(self, head: Tensor) -> Tensor | None:
        if not self.learned:
            return None
        log_std = head[..., self.actions :] if self.vector is None else self.vector
        return log_std.clamp(self.least, self.most)


class GaussianPolicy(nn.Module):
    """Backbone, linear head, standard deviation."""

    def __init__(self, backbone: Backbone, log_std: StandardDeviation, input_scale: float) -> None:
        super().__init__()
        self.backbone, self.log_std, self.input_scale = backbone, log_std, input_scale
        self.head = nn.Linear(backbone.output_size, log_std.outputs)

    def initial_state(self, batch: int) -> State:
        """The backbone's memory before `batch` episodes."""
        return self.backbone.initial_state(batch)

    def forward(self, observation: Tensor, state: State, reset: Tensor | None = None) -> Actions:
        """Observation (B, T, O)."""
        x = observation if self.input_scale == 1.0 else observation * self.input_scale
        hidden, state, auxiliary_loss, diagnostics = self.backbone(x, state, reset=reset)
        head = self.head(hidden)
        return Actions(head[..., : self.log_std.actions], self.log_std(head), state, auxiliary_loss, diagnostics)


class GaussianActor:
    """Plays the mean of a `GaussianPolicy` that nobody else holds."""

    def __init__(self, networks: nn.Module, device: torch.device, lasting: State | None = None) -> None:
        self._networks, self._device, self._lasting = networks.eval().requires_grad_(False), device, lasting

    def initial_state(self, batch: int) -> State:
        """The backbone's memory before `batch` episodes."""
        with torch.inference_mode():
            return states.begun(self._networks.initial_state, batch, self._lasting)  # type: ignore[arg-type]

    def act(self, observation: Float, state: State) -> tuple[Float, State]:
        """Actions (B, A) in [-1, 1] for observations (B, O)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.asarray(observation, dtype=np.float32)[:, None]).to(self._device)
            actions = self._networks(x, state)
            return actions.mean[:, 0].clamp(-1.0, 1.0).cpu().numpy(), actions.state
