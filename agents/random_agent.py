"""The floor: takes all experience, learns nothing, acts uniformly in [-1, 1], gives every token the same score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench import seeding
from clbench.experience import Demonstrations, Interaction, Text
from clbench.interfaces import TaskInfo

Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]
CHUNK = 4096


class RandomAgent:
    """Acts by chance in the world as well, where experience is interaction. Its only state is where it stands in its random sequence."""

    def __init__(self, task: TaskInfo, seed: int) -> None:
        self._seed = seed
        self._draws = seeding.generator(seed, "interaction")
        self._actions = task.output_size
        self._consume = {"interaction": self._act, "demonstrations": self._watch, "text": self._read}[task.experience]

    def begin_task(self, task: TaskInfo) -> None:
        """Nothing."""

    def hold_weights(self) -> None:
        """There are none."""

    def end_task(self, task: TaskInfo) -> None:
        """Nothing."""

    def learn(self, experience: Any) -> None:
        """Spend everything that remains."""
        while experience.remaining > 0:
            self._consume(experience)

    def _act(self, experience: Interaction) -> None:
        experience.step(self._draws.uniform(-1.0, 1.0, size=(len(experience.observation), self._actions)))

    def _watch(self, experience: Demonstrations) -> None:
        experience.steps(min(CHUNK, experience.remaining))

    def _read(self, experience: Text) -> None:
        experience.windows(32, experience.longest)

    def policy(self, task: TaskInfo) -> RandomPolicy | UniformPredictor:
        """The same at any time."""
        return UniformPredictor(task.output_size) if task.experience == "text" else RandomPolicy(task.output_size, self._seed)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._draws.bit_generator.state = state["draws"]


class RandomPolicy:
    """Uniform actions, made from the seed, the step and the observation itself, so that other rows of a batch change nothing.

    Mixing: the finaliser of SplitMix64 (Steele, Lea, Flood 2014). The state is the number of steps so far.
    """

    def __init__(self, actions: int, seed: int) -> None:
        self._actions, self._seed = actions, seed

    def initial_state(self, batch: int) -> int:
        """No step yet."""
        return 0

    def act(self, observation: Float, state: int) -> tuple[Float, int]:
        """Actions (B, A) in [-1, 1)."""
        words = np.ascontiguousarray(observation, dtype=np.float64).view(np.uint64)  # (B, O)
        factors = seeding.generator(self._seed, "policy", state).integers(0, 2**64, size=words.shape[1] + self._actions, dtype=np.uint64)
        rows = (_mixed(words) * factors[: words.shape[1]]).sum(axis=1, dtype=np.uint64)  # (B,)
        bits = _mixed(rows[:, None] ^ factors[words.shape[1] :])  # (B, A)
        return ((bits >> np.uint64(11)).astype(np.float64) / 2**52 - 1.0).astype(np.float32), state + 1


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class UniformPredictor:
    """Every token is as likely as every other."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def initial_state(self, batch: int) -> None:
        """None."""

    def logits(self, tokens: Integer, state: None) -> tuple[Float, None]:
        """Zeros (B, T, V)."""
        return np.zeros((*tokens.shape, self._vocabulary), dtype=np.float32), None
