"""Advantage actor-critic: the policy's gradient by generalised advantages, learned while acting in many environments side by side.

Mnih et al. 2016, arXiv:1602.01783, in its synchronous form (PAAC; Clemente et al. 2017, arXiv:1705.04862), with the advantages of Schulman
et al. 2016, arXiv:1506.02438, equation 16. The graph of acting is that of learning: nothing is read twice, and the memory is carried from
window to window, where gradients end. For worlds of A choices: an action is handed over as a one-hot row (A,), of which such worlds take
the largest entry.
Departures from PAAC: Adam with decoupled decay and a warm-up in place of RMSprop; advantages of a window have mean 0 and variance 1.
Shape letters: B environments, T steps of a window, O observation, A actions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from clbench import seeding
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from ..backbones import state as states
from ..backbones.backbone import Backbone
from ..backbones.scope import LASTING, scoped
from ..backbones.state import State
from .learner import BuildBackbone, Hooks, Learner, OptimizerSettings

Float = NDArray[np.floating[Any]]
TURNS = 4096  # of a policy, before its random numbers begin again


class ActorCritic(Learner):
    """Acts for `window` steps in all environments, then updates once. Acts by chance, in proportion to the policy's probabilities.

    `discount` and `trace` are gamma and lambda of the advantages. `scope`: how long the memory lasts, see `backbones.scope`.
    `evaluated_clear`: the ablation of SEM; the memory of the world is wiped where a sub-task begins, a policy's and not the learner's.
    """

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        window: int = 10,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        warmup: int = 0,
        gradient_clip: float = 0.7,
        reset_optimizer: bool = True,
        discount: float = 0.95,
        trace: float = 0.95,
        entropy: float = 0.01,
        value: float = 0.5,
        anneal: int = 0,
        anneal_from: int = 0,
        scope: str = "episode",
        evaluated_clear: bool = False,
    ) -> None:
        settings = OptimizerSettings(learning_rate, (0.9, 0.999), weight_decay, warmup, gradient_clip, reset_optimizer, anneal, anneal_from)
        super().__init__(seed, device, settings, scope)
        if window < 1 or min(entropy, value) < 0:
            raise UserError(f"actor-critic: window must be at least 1, entropy and value at least 0, got {window}, {entropy}, {value}")
        if not 0 <= discount <= 1 or not 0 <= trace <= 1:
            raise UserError(f"actor-critic: discount and trace must lie in [0, 1], got {discount} and {trace}")
        if not task.choices or task.output_size < 2:
            kind = f"{task.output_size} of them" if task.choices else "one of continuous actions"
            raise UserError(f"actor-critic: expected a world of at least 2 choices, got {kind}")
        self.window, self.discount, self.trace, self.entropy, self.value = window, discount, trace, entropy, value
        with self.randomness.lent():
            backbone = build_backbone(task.input_size)
            if backbone.tasks not in (0, task.asked):
                raise UserError(
                    f"{backbone.spec.kind}: expected tasks={task.asked}, as many sub-tasks as this world's observations name, "
                    f"got {backbone.tasks}; add agent.interaction.backbone.tasks={task.asked}"
                )
            networks = ChoicePolicy(scoped(backbone, scope, carried=True), task.output_size)
        self.evaluated_clear = evaluated_clear
        if evaluated_clear and not hasattr(networks.backbone, "clear"):
            raise UserError("actor-critic: evaluated_clear=true wipes the memory of the world of sem; another backbone has none")
        self._acting_seed = seeding.integer(seed, "acting")
        self.install(networks)

    # ---- the loop

    def learn(self, experience: Interaction, hooks: Hooks) -> None:
        """Act and update until nothing remains."""
        self.networks.train()
        with self.randomness.lent():
            environments = len(experience.observation)
            while experience.remaining > 0:
                # fewer units than environments are left to the meter, which says what is wrong
                self._live(experience, max(1, min(self.window, experience.remaining // environments)), hooks)

    def _live(self, experience: Interaction, length: int, hooks: Hooks) -> None:
        x = self._seen(experience.observation)
        state, self._memory = self._carried(len(x)), None
        steps: list[_Step] = []
        for _ in range(length):
            logits, value, state, auxiliary, diagnostics = self.networks(x[:, None], state)
            self._note(diagnostics or {})
            action = _drawn(logits[:, 0].detach(), torch.rand(len(x), 1, device=self.device))  # (B,)
            transition = experience.step(functional.one_hot(action, logits.shape[-1]).cpu().numpy().astype(np.float32))
            over = transition.terminated | transition.truncated
            cut = self._after_the_cut(transition, state)
            steps.append(_Step(logits[:, 0], value[:, 0], action, self._seen(transition.reward), self.tensor(over), cut, auxiliary))
            x, state = self._seen(transition.next_observation), self._begun(state, over)
        with torch.no_grad():  # the value of what follows the window, where the episode goes on
            following = self.networks(x[:, None], state)[1][:, 0]
        loss = self._loss(steps, following)
        if self.frozen:
            self._scalars = {"loss": loss.detach()}
        else:
            self._step(loss, hooks)
        self._memory = states.detach(state)

    def _carried(self, environments: int) -> State:
        memory = self._memory
        if memory and len(next(iter(memory.values()))) == environments:
            return memory
        return self.networks.initial_state(environments)  # type: ignore[operator]

    def _begun(self, state: State, over: NDArray[np.bool_]) -> State:
        if not state or not over.any() or self.scope in LASTING:
            return state
        fresh = self.networks.initial_state(len(over))  # type: ignore[operator]
        return fresh if over.all() else states.reset(state, fresh, self.tensor(over))

    @torch.no_grad()
    def _after_the_cut(self, transition: Any, state: State) -> Tensor:
        """What would have followed (B,), where the clock has ended an episode: a guess of the critic; 0 elsewhere."""
        cut = transition.truncated & ~transition.terminated
        if not cut.any():
            return torch.zeros(len(cut), device=self.device)
        value = self.networks(self._seen(transition.final_observation)[:, None], state)[1][:, 0]
        return torch.where(self.tensor(cut), value, 0.0)

    def _loss(self, steps: list[_Step], following: Tensor) -> Tensor:
        logits, value, action, reward, over, cut, auxiliary = (torch.stack(row) for row in zip(*steps, strict=True))
        kept = value.detach()
        advantage = advantages(reward + self.discount * cut, kept, over, following, discount=self.discount, trace=self.trace)
        target = kept + advantage
        advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-5)
        log = logits.log_softmax(-1)  # (T, B, A)
        chosen = log.gather(-1, action[..., None])[..., 0]
        spread = -(log.exp() * log).sum(-1).mean()
        return -(chosen * advantage).mean() + self.value * functional.mse_loss(value, target) - self.entropy * spread + auxiliary.mean()

    def snapshot(self, networks: nn.Module) -> Chooser:
        if self.evaluated_clear:
            networks.backbone.clear = True  # type: ignore[union-attr, assignment]
        return Chooser(networks, self.device, self._acting_seed, self.lasting_memory)


class _Step(NamedTuple):
    """One step of all environments."""

    logits: Tensor  # (B, A)
    value: Tensor  # (B,)
    action: Tensor  # (B,)
    reward: Tensor  # (B,)
    over: Tensor  # (B,) an episode ended with it
    cut: Tensor  # (B,) the value of what the clock cut off
    auxiliary_loss: Tensor  # ()


def advantages(reward: Tensor, value: Tensor, over: Tensor, following: Tensor, *, discount: float, trace: float) -> Tensor:
    """Generalised advantages (T, B) of rewards, values and episodes' ends (T, B), and the value (B,) of what follows the last step."""
    goes_on = (~over).to(value.dtype)
    after = torch.cat([value[1:], following[None]]) * goes_on
    errors = reward + discount * after - value
    advantage, found = torch.zeros_like(following), []
    for error, on in zip(errors.flip(0), goes_on.flip(0), strict=True):
        advantage = error + discount * trace * on * advantage
        found.append(advantage)
    return torch.stack(found[::-1])


def _drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """Choices (B,) by the cumulative sum of their probabilities, for numbers (B, 1) in [0, 1)."""
    return (logits.softmax(-1).cumsum(-1) <= uniform).sum(-1).clamp(max=logits.shape[-1] - 1)


class Choices(NamedTuple):
    """What a policy says at each position."""

    logits: Tensor  # (B, T, A)
    value: Tensor  # (B, T)
    state: State
    auxiliary_loss: Tensor  # ()
    diagnostics: dict[str, Tensor] | None


class ChoicePolicy(nn.Module):
    """Backbone, a head for the logits of A choices, nearly uniform at the beginning, and one for the value."""

    def __init__(self, backbone: Backbone, choices: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.policy, self.critic = nn.Linear(backbone.output_size, choices), nn.Linear(backbone.output_size, 1)
        with torch.no_grad():
            self.policy.weight.mul_(0.1)

    def initial_state(self, batch: int) -> State:
        """The backbone's memory before `batch` episodes."""
        return self.backbone.initial_state(batch)

    def forward(self, observation: Tensor, state: State) -> Choices:
        """Observation (B, T, O)."""
        output = self.backbone(observation, state)
        return Choices(self.policy(output.hidden), self.critic(output.hidden)[..., 0], *output[1:])


class Chooser:
    """Plays a `ChoicePolicy` that nobody else holds, by chance as in learning.

    In every episode the t-th step of all of them takes the same random number, so that an answer depends on nothing but its own row.
    """

    def __init__(self, networks: nn.Module, device: torch.device, seed: int, lasting: State | None = None) -> None:
        self._networks, self._device, self._lasting = networks.eval().requires_grad_(False), device, lasting
        self._uniform = torch.from_numpy(seeding.generator(seed, "turns").random(TURNS, dtype=np.float32)).to(device)

    def initial_state(self, batch: int) -> tuple[State, int]:
        """The memory before `batch` episodes, and how many steps they have taken."""
        with torch.inference_mode():
            return states.begun(self._networks.initial_state, batch, self._lasting), 0  # type: ignore[arg-type]

    def act(self, observation: Float, state: tuple[State, int]) -> tuple[Float, tuple[State, int]]:
        """One-hot actions (B, A) for observations (B, O)."""
        memory, turn = state
        with torch.inference_mode():
            x = torch.from_numpy(np.asarray(observation, dtype=np.float32)[:, None]).to(self._device)
            choices = self._networks(x, memory)
            action = _drawn(choices.logits[:, 0], self._uniform[turn % TURNS].expand(len(x), 1))
            return functional.one_hot(action, choices.logits.shape[-1]).float().cpu().numpy(), (choices.state, turn + 1)
