"""Policies that need no training: Meta-World's scripted experts for many episodes at once, and random actions.

The experts are Meta-World's own classes, called through twins of their functions that do not check what they were given at every step and
do not warn of every response above 1 (`fast_env.rebound_methods`); their actions are equal to the last bit.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import numpy as np
from metaworld.policies import ENV_POLICY_MAP
from metaworld.policies.policy import Policy as ScriptedPolicy
from numpy.typing import NDArray

from clbench import seeding

from .fast_env import ACTION_SIZE, OBSERVATION_SIZE, norm, rebound_methods, reference_name

Float = NDArray[np.floating[Any]]


def _move(from_xyz: Float, to_xyz: Float, p: float) -> Float:
    """The response p (to - from); the original warns of entries above 1, which are normal and are clipped."""
    return p * (to_xyz - from_xyz)


@cache
def _expert_class(task_name: str) -> type[ScriptedPolicy]:
    scripted = ENV_POLICY_MAP[reference_name(task_name)]
    numpy = types.SimpleNamespace(**{**vars(np), "linalg": types.SimpleNamespace(**{**vars(np.linalg), "norm": norm})})
    return type("Fast" + scripted.__name__, (scripted,), rebound_methods(scripted, {"np": numpy, "move": _move}))


class ExpertPolicy:
    """The scripted expert of one task as a `clbench.interfaces.Policy`; reads the first 39 entries and keeps no state."""

    def __init__(self, task_name: str) -> None:
        self._scripted = _expert_class(task_name)()

    def initial_state(self, batch: int) -> None:
        """None: experts look at the present observation only."""

    def response(self, observation: Float) -> Float:
        """Actions (B, 4) before clipping, float64, for observations (B, O)."""
        seen = np.array(observation[:, :OBSERVATION_SIZE], dtype=np.float64)  # a copy: the door experts write into what they are given
        return np.array([self._scripted.get_action(row) for row in seen], dtype=np.float64).reshape(len(seen), ACTION_SIZE)

    def act(self, observation: Float, state: None) -> tuple[Float, None]:
        """Actions (B, 4) in [-1, 1]."""
        return np.clip(self.response(observation), -1.0, 1.0), None


class RandomPolicy:
    """Uniform actions; the state is the number of the step, so that equal states give equal actions."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def initial_state(self, batch: int) -> int:
        """Step 0."""
        return 0

    def act(self, observation: Float, state: int) -> tuple[Float, int]:
        """Actions (B, 4) in [-1, 1] and the number of the next step."""
        draws = seeding.generator(self._seed, "metaworld", "random policy", state)
        return draws.uniform(-1.0, 1.0, size=(len(observation), ACTION_SIZE)), state + 1


def expert_policy(task_name: str) -> ExpertPolicy:
    """The scripted expert of a task."""
    return ExpertPolicy(task_name)
