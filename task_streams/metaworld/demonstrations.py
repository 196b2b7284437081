"""Demonstrations of the scripted experts, verified and kept.

The expert acts under Gaussian noise, so that states off its path are seen; what is recorded is its clean answer there (DART: Laskey et al.
2017, arXiv:1703.09327, with fixed noise). An episode ends five steps after its first success, because many experts do not hold it, and is
kept only if it succeeded. Demonstration i depends on (task, seed, split, noise, horizon, i) and on nothing else: the set of a smaller count
is a prefix of that of a larger one, whatever the number of worker processes.
Goals at which the expert fails three times within the horizon give way to others, so they are rarer here than in the evaluation.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError

from . import cache
from .evaluation import MAX_HORIZON
from .goals import goals

Float = NDArray[np.float32]
Demonstration = tuple[Float, Float]

GENERATOR_VERSION = 1
"""Raised when the code below makes other demonstrations from the same arguments."""

STEPS_AFTER_SUCCESS = 5
_TRIES_PER_GOAL = 3
_TRIES = 45
_BATCH = 256


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides which demonstrations are made, but for how many."""

    task: str
    split: str
    seed: int
    noise: float
    horizon: int

    def key(self) -> dict[str, Any]:
        """What the kept file is found by."""
        positions = hashlib.sha256(goals(self.task, self.split).tobytes()).hexdigest()
        versions = {"generator": GENERATOR_VERSION, "metaworld": version("metaworld"), "mujoco": version("mujoco")}
        return {**asdict(self), **versions, "goals": positions}

    def draws(self, purpose: str, *which: int) -> np.random.Generator:
        return seeding.generator(self.seed, "metaworld", purpose, self.task, self.split, *which)


def demonstrations(
    task_name: str, seed: int, count: int, *, split: str = "train", noise: float = 0.1, horizon: int = 200
) -> list[Demonstration]:
    """`count` successful episodes: observations (L, 39) and the expert's actions (L, 4) in [-1, 1], float32.

    `noise`: standard deviation of what is added to the actions that are executed.
    """
    if count < 0 or noise < 0 or not 1 <= horizon <= MAX_HORIZON:
        raise UserError(
            f"{task_name}: demonstrations need count >= 0, noise >= 0 and horizon in 1..{MAX_HORIZON}, got {count}, {noise}, {horizon}"
        )
    recipe = _Recipe(task_name.removesuffix("-v3"), split, int(seed), float(noise), int(horizon))
    kept = _unpack(cache.load("demonstrations", recipe.key()))
    if len(kept) < count:
        kept = kept + _make(recipe, range(len(kept), count))
        cache.save("demonstrations", recipe.key(), _pack(kept))
    return kept[:count]


def _pack(episodes: list[Demonstration]) -> dict[str, np.ndarray]:
    return {
        "length": np.array([len(actions) for _, actions in episodes]),
        "observation": np.concatenate([observations for observations, _ in episodes]),
        "action": np.concatenate([actions for _, actions in episodes]),
    }


def _unpack(arrays: dict[str, np.ndarray] | None) -> list[Demonstration]:
    if arrays is None or set(arrays) != {"length", "observation", "action"}:
        return []
    cuts = np.cumsum(arrays["length"])
    if len(cuts) == 0 or not len(arrays["observation"]) == len(arrays["action"]) == cuts[-1]:
        return []
    return list(zip(np.split(arrays["observation"], cuts[:-1]), np.split(arrays["action"], cuts[:-1]), strict=True))


def _make(recipe: _Recipe, numbers: range) -> list[Demonstration]:
    """The demonstrations with these numbers; failures are tried again with other noise, then at other goals."""
    made: dict[int, Demonstration] = {}
    for attempt in range(_TRIES):
        missing = [number for number in numbers if number not in made]
        for first in range(0, len(missing), _BATCH):
            batch = missing[first : first + _BATCH]
            episodes = _play(recipe, batch, attempt)
            made.update({number: episode for number, episode in zip(batch, episodes, strict=True) if episode is not None})
        if len(made) == len(numbers):
            return [made[number] for number in numbers]
    raise UserError(
        f"{recipe.task}: the scripted expert failed {_TRIES} times to give demonstration {min(set(numbers) - set(made))} "
        f"with noise {recipe.noise} within {recipe.horizon} steps; lower the noise or raise the horizon"
    )


def _goal(recipe: _Recipe, number: int, attempt: int, count: int) -> int:
    """Which of `count` goals an attempt uses: every goal once before any twice, and another after three failures."""
    turn = attempt // _TRIES_PER_GOAL
    if turn == 0:
        return int(recipe.draws("demonstration goals", number // count).permutation(count)[number % count])
    return int(recipe.draws("other demonstration goals", number).permutation(count)[(turn - 1) % count])


def _play(recipe: _Recipe, numbers: list[int], attempt: int) -> list[Demonstration | None]:
    """One episode for each of `numbers` (n,); None where it did not succeed."""
    from .expert import expert_policy
    from .simulation import simulation

    expert = expert_policy(recipe.task)
    positions = goals(recipe.task, recipe.split)
    positions = positions[[_goal(recipe, number, attempt, len(positions)) for number in numbers]]
    episodes, horizon = len(numbers), recipe.horizon
    noise = np.array([recipe.draws("demonstration noise", number, attempt).normal(size=(horizon, 4)) for number in numbers])  # (n, T, 4)
    observations = np.zeros((horizon, episodes, 39), dtype=np.float32)
    actions = np.zeros((horizon, episodes, 4), dtype=np.float32)
    left = np.full(episodes, horizon)  # steps still to be taken
    length = np.zeros(episodes, dtype=np.int64)
    solved = np.zeros(episodes, dtype=bool)
    with simulation(recipe.task, positions) as batch:
        for step in range(horizon):
            active = left > 0
            if not active.any():
                break
            response = np.zeros((episodes, 4))
            response[active] = expert.response(batch.observation[active])
            observations[step], actions[step] = batch.observation, np.clip(response, -1.0, 1.0)
            batch.step(np.clip(response + recipe.noise * noise[:, step], -1.0, 1.0), active)
            length += active
            left -= active
            first = active & batch.success & ~solved
            left[first] = np.minimum(left[first], STEPS_AFTER_SUCCESS)
            solved |= first
    return [(observations[: length[n], n].copy(), actions[: length[n], n].copy()) if solved[n] else None for n in range(episodes)]
