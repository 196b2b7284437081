"""The contract between referee, courses and contestants: what a task offers and what an agent owes.

Arrays cross this boundary as numpy, so that an agent may be written in torch, JAX, scikit-learn or plain Python.
Shape letters: B batch, T time, O observation, A action, V vocabulary.
A stranger implements `Agent` and nothing else; `clbench check ./mine.py:Mine` tests every clause of this page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .experience import Experience

ExperienceKind = Literal["interaction", "demonstrations", "text"]
Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class TaskInfo:
    """All that an agent may know of a task.

    `index` is this task's number in [0, num_tasks), or None where the stream hides identity and in joint phases.
    `num_tasks` counts the numbers in use, held-out tasks included; 1 where identity is hidden.
    Control: `input_size` O, `output_size` A; where identity is shown, the last `num_tasks` entries of an observation are
    the one-hot of the task, so that one network can hold many tasks and joint phases need no other signal.
    Text: `input_size` = `output_size` = V, the size of the vocabulary; `tokens` (V,) how each is written, for agents that know words from
    elsewhere, or none where nobody can say. What stands in angle brackets is a mark and no text.
    Worlds: actions are continuous in [-1, 1], or, where `choices` holds, the largest of `output_size` entries is what is chosen; the last
    `asked` entries of an observation are the one-hot of what is asked for now.
    """

    index: int | None
    num_tasks: int
    experience: ExperienceKind
    input_size: int
    output_size: int
    asked: int = 0
    choices: bool = False
    tokens: tuple[str, ...] = field(default=(), repr=False)

    @property
    def section(self) -> str:
        """Which section of an agent's options is meant: that of the experience, or `control` for worlds of continuous actions."""
        return "control" if self.experience == "interaction" and not self.choices else self.experience


class Policy(Protocol):
    """Acts. A snapshot: nothing that happens to it can reach the agent it came from."""

    def initial_state(self, batch: int) -> Any:
        """The state in which `batch` episodes begin."""
        ...

    def act(self, observation: Float, state: Any) -> tuple[Float, Any]:
        """Actions (B, A) in [-1, 1] for observations (B, O), and the new state; `state` itself stays as it was."""
        ...


class Predictor(Protocol):
    """Predicts text. A snapshot: nothing that happens to it can reach the agent it came from."""

    def initial_state(self, batch: int) -> Any:
        """The state in which `batch` documents begin."""
        ...

    def logits(self, tokens: Integer, state: Any) -> tuple[Float, Any]:
        """Scores (B, T, V) of the token that follows each of tokens (B, T), and the new state after all T."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Learns. Built as `Name(task, seed, *, options...)`; the keyword parameters are its configuration schema.

    `learn` returns when `experience.remaining == 0`: less is underspending, asking for more is overspending; both end the run.
    It is called several times a phase, once for every stretch between two evaluations.
    `begin_task` and `end_task` are not called where a stream hides its boundaries.
    """

    def begin_task(self, task: TaskInfo) -> None: ...
    def learn(self, experience: Any) -> None: ...
    def end_task(self, task: TaskInfo) -> None: ...
    def policy(self, task: TaskInfo) -> Policy | Predictor: ...
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors, numpy arrays, numbers, strings, None, lists, tuples and dicts only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class HoldsWeights(Protocol):
    """What an agent may offer beside `Agent`: to be taught without a change of weights (few shots with `stream.reading=memory`)."""

    def hold_weights(self) -> None:
        """In the task at hand, which has begun, `learn` moves memories on and no weight."""
        ...


@dataclass(frozen=True)
class Episodes:
    """What an evaluation saw, one entry per episode in the order of the evaluation set.

    `score` (n,): in the task's own unit, higher is better (success 0/1, accuracy). `facts`: further arrays (n,) by name.
    """

    score: Float
    facts: Mapping[str, Float] = field(default_factory=dict)


class Task(Protocol):
    """Hands out experience and scores a policy.

    `name` tells it apart in tables; `scale` (floor, ceiling) maps the mean raw score to [0, 1].
    """

    name: str
    info: TaskInfo
    scale: tuple[float, float]

    def experience(self, seed: int, *, shots: int | None = None) -> Experience:
        """Fresh experience with nothing granted yet; with `shots`, over the first `shots` examples that `seed` draws."""
        ...

    def evaluate(self, policy: Any, seed: int) -> Episodes:
        """One score per episode of the evaluation set that `seed` names; draws only from its own generators."""
        ...
