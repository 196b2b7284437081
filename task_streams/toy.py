"""The toy stream: a benchmark small enough for `clbench check`, with all three kinds of experience.

Tasks are linear: the right action for observation x is clip(W_n x), the right next token is a fixed permutation of the last one, and the
world of the interaction tasks rewards nearness to clip(W_n x). Each task has its own W_n or permutation, so that learning one after
another forgets. Nothing here takes more than milliseconds; no claim is made about learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clbench import seeding
from clbench.errors import UserError
from clbench.experience import Demonstrations, Experience, Interaction, Text, Transition
from clbench.interfaces import Episodes, TaskInfo
from clbench.stream import FewShot, Phase, TaskStream, variant

FEATURES, ACTIONS, SYMBOLS, LENGTH = 4, 2, 8, 9
EPISODE_STEPS, EPISODES, EVALUATION_EPISODES = 6, 12, 8


def toy_stream(
    *,
    name: str,
    version: int,
    budget: str,
    experience: str = "demonstrations",
    tasks: int = 3,
    held_out: int = 1,
    units: int = 256,
    points: int = 2,
    shots: Sequence[int] = (0, 1, 4),
    draws: int = 2,
    identity: str = "cued",
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
) -> TaskStream:
    """A stream of `tasks` linear tasks and `held_out` more for few-shot adaptation; `experience` names the kind."""
    kinds: dict[str, type[_LinearControl] | type[_SymbolText]] = {
        "demonstrations": _LinearControl,
        "interaction": _LinearControl,
        "text": _SymbolText,
    }
    if experience not in kinds:
        raise UserError(f"stream '{name}': experience must be one of {', '.join(kinds)}, got '{experience}'")
    if identity not in ("cued", "hidden"):
        raise UserError(f"stream '{name}': identity must be cued or hidden, got '{identity}'")
    total = tasks + held_out
    made = tuple(kinds[experience](number, total, experience, cue=identity == "cued") for number in range(total))
    base = name if identity == "cued" else f"{name}-hidden"
    adapts = held_out and experience != "interaction"
    stream = TaskStream(
        name=base,
        version=version,
        budget=budget,
        tasks=made[:tasks],
        phases=tuple(Phase((column,), units, points) for column in range(tasks)),
        few_shot=FewShot(made[tasks:], tuple(shots), draws, units // 4, (-1, tasks - 1)) if adapts else None,
        boundaries=boundaries,
        kind="toy",
        options={"experience": experience, "identity": identity},
        description="linear toy tasks; for checks, not for claims",
    )
    return variant(stream, joint=joint, only=only)


class _ToyTask:
    """What the toy tasks share: a number, a name, a scale and what the agent is told."""

    scale = (0.0, 1.0)

    def __init__(self, number: int, total: int, experience: str, *, cue: bool) -> None:
        self.name = f"toy-{number}"
        self._number, self._total, self._cue = number, total, cue
        self.info = TaskInfo(
            index=number if cue else None,
            num_tasks=total if cue else 1,
            experience=experience,  # type: ignore[arg-type]
            input_size=SYMBOLS + 1 if experience == "text" else FEATURES + (total if cue else 0),
            output_size=SYMBOLS + 1 if experience == "text" else ACTIONS,
        )


class _LinearControl(_ToyTask):
    """The right action is clip(W_n x, -1, 1)."""

    def __init__(self, number: int, total: int, experience: str, *, cue: bool) -> None:
        super().__init__(number, total, experience, cue=cue)
        self.weights = seeding.generator(0, "toy", "weights", number).normal(size=(FEATURES, ACTIONS))  # (O, A)

    def observe(self, features: Any) -> Any:
        """Features (..., 4), followed by the one-hot of the task where identity is shown."""
        if not self._cue:
            return features.astype(np.float32)
        cue = np.zeros((*features.shape[:-1], self._total))
        cue[..., self._number] = 1.0
        return np.concatenate([features, cue], axis=-1).astype(np.float32)

    def expert(self, features: Any) -> Any:
        """The right actions (..., A)."""
        return np.clip(features @ self.weights, -1, 1)

    def experience(self, seed: int, *, shots: int | None = None) -> Experience:
        """Twelve demonstrations (the first `shots` of them), or an endless world."""
        if self.info.experience == "interaction":
            return Interaction(_LinearWorld(self, seed))
        features = seeding.generator(seed, "toy", "features").uniform(-1, 1, (EPISODES, EPISODE_STEPS, FEATURES))
        return Demonstrations([(self.observe(x), self.expert(x)) for x in features[:shots]], seed)

    def evaluate(self, policy: Any, seed: int) -> Episodes:
        """Score = share of steps within 0.5 of the right action in every component, per episode (8,)."""
        features = seeding.generator(seed, "toy", "evaluation").uniform(-1, 1, (EPISODE_STEPS, EVALUATION_EPISODES, FEATURES))
        state = policy.initial_state(EVALUATION_EPISODES)
        near = np.zeros((EPISODE_STEPS, EVALUATION_EPISODES))
        for step, x in enumerate(features):
            action, state = policy.act(self.observe(x), state)
            near[step] = np.all(np.abs(np.asarray(action) - self.expert(x)) < 0.5, axis=-1)
        return Episodes(near.mean(axis=0), {"length": np.full(EVALUATION_EPISODES, float(EPISODE_STEPS))})


@dataclass
class _Moment:
    step: int
    features: Any


class _LinearWorld:
    """Four environments in lock-step; reward = 1 - |action - right action|, episodes of six steps."""

    def __init__(self, task: _LinearControl, seed: int) -> None:
        self._task = task
        self._draws = seeding.generator(seed, "toy", "world")
        self._now = _Moment(0, self._draws.uniform(-1, 1, (4, FEATURES)))

    @property
    def observation(self) -> Any:
        """(B, O)."""
        return self._task.observe(self._now.features)

    def step(self, action: Any) -> Transition:
        """One step of all four."""
        reward = 1.0 - np.abs(action - self._task.expert(self._now.features)).mean(axis=-1)
        features = self._draws.uniform(-1, 1, (4, FEATURES))
        ended = self._now.step + 1 == EPISODE_STEPS
        final = self._task.observe(features)
        if ended:
            features = self._draws.uniform(-1, 1, (4, FEATURES))
        self._now = _Moment(0 if ended else self._now.step + 1, features)
        return Transition(reward, np.zeros(4, dtype=bool), np.full(4, ended), self.observation, final)

    def state_dict(self) -> dict[str, Any]:
        """Generator, clock and features."""
        return {"draws": self._draws.bit_generator.state, "step": self._now.step, "features": self._now.features.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._draws.bit_generator.state = state["draws"]
        self._now = _Moment(int(state["step"]), np.array(state["features"]))


class _SymbolText(_ToyTask):
    """Token SYMBOLS begins an example; each later token is the task's permutation of the one before."""

    longest, pad = LENGTH, SYMBOLS

    def __init__(self, number: int, total: int, experience: str, *, cue: bool) -> None:
        super().__init__(number, total, experience, cue=cue)
        self._next = seeding.generator(0, "toy", "permutation", number).permutation(SYMBOLS)
        self._seed = 0

    def examples(self, index: Any) -> tuple[Any, Any, Any]:
        """Start token, a first symbol, and seven that follow from it; the first symbol is given."""
        first = np.array([seeding.integer(self._seed, "toy", "first", int(i)) % SYMBOLS for i in index], dtype=np.int64)
        tokens = np.full((len(first), LENGTH), self.pad)
        tokens[:, 1] = first
        for position in range(2, LENGTH):
            tokens[:, position] = self._next[tokens[:, position - 1]]
        mask = np.broadcast_to(np.arange(LENGTH) >= 2, tokens.shape)
        return tokens, mask, np.full(len(first), LENGTH)

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """Examples whose first symbols `seed` draws."""
        source = _SymbolText(self._number, self._total, "text", cue=self._cue)
        source._seed = seed
        return Text(source, seed, count=shots)

    def evaluate(self, policy: Any, seed: int) -> Episodes:
        """Score = share of the masked tokens predicted right, per example (8,)."""
        tokens, mask, _ = self.examples(np.arange(SYMBOLS))
        logits, _ = policy.logits(tokens[:, :-1], policy.initial_state(len(tokens)))
        right = (np.asarray(logits).argmax(axis=-1) == tokens[:, 1:]) & mask[:, 1:]
        return Episodes(right.sum(axis=1) / mask[:, 1:].sum(axis=1))
