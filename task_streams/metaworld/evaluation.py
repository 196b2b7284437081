"""Scores of a policy on one Meta-World task: every episode of the evaluation set in one batch, on all cores.

An episode counts as solved when the task's success holds at any step of the horizon (Meta-World's and Continual World's convention) and
stops there, so that no episode is replaced by another: the score is free of the bias towards short episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError
from clbench.interfaces import Episodes, Policy

from .block import ACTION_SIZE, CAPACITY, OBSERVATION_SIZE
from .simulation import simulation

Float = NDArray[np.floating[Any]]

MAX_HORIZON = 500
GOAL = slice(36, 39)
"""Where an observation says where the goal is."""


def evaluate(
    task_name: str,
    goals: Float,
    policy: Policy,
    horizon: int = 200,
    observation_suffix: Float | None = None,
    *,
    goal_steps: int | None = None,
) -> Episodes:
    """Success (0 or 1) of each of the episodes that begin at `goals` (n, .), in their order.

    `observation_suffix` (N,) is appended to every observation (39,), the cue of streams that show the task. From step `goal_steps` on the
    goal in the observation is zero, as where Meta-World hides it; None: it never is. The policy sees float32 and
    every episode at every step; the rows of those that have ended stand still. Actions are clipped to [-1, 1].
    `facts`: `length`, steps taken until success or horizon; `return`, the sum of rewards over them.
    """
    if not 1 <= horizon <= MAX_HORIZON:
        raise UserError(f"{task_name}: horizon must be in 1..{MAX_HORIZON}, got {horizon}")
    suffix = np.zeros(0) if observation_suffix is None else np.asarray(observation_suffix)
    shown = horizon if goal_steps is None else goal_steps
    batches = [goals[first : first + CAPACITY] for first in range(0, len(goals), CAPACITY)]
    parts = [_one_batch(task_name, batch, policy, horizon, suffix, shown=shown) for batch in batches]
    if not parts:
        raise UserError(f"{task_name}: expected at least one goal, got none")
    score, length, total = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Episodes(score=score, facts={"length": length, "return": total})


def hide_goal(observations: Float) -> None:
    """Zero the goal in observations (..., 39 or more), in place."""
    observations[..., GOAL] = 0.0


def _one_batch(task_name: str, goals: Float, policy: Policy, horizon: int, suffix: Float, *, shown: int) -> tuple[Float, Float, Float]:
    episodes = len(goals)
    score, length, total = np.zeros(episodes), np.zeros(episodes), np.zeros(episodes)
    active = np.ones(episodes, dtype=bool)
    state = policy.initial_state(episodes)
    with simulation(task_name, goals) as batch:
        for step in range(horizon):
            observation = np.empty((episodes, OBSERVATION_SIZE + len(suffix)), dtype=np.float32)  # anew: the policy may keep it
            observation[:, :OBSERVATION_SIZE] = batch.observation
            observation[:, OBSERVATION_SIZE:] = suffix
            if step >= shown:
                hide_goal(observation)
            action, state = policy.act(observation, state)
            action = np.asarray(action, dtype=np.float64).reshape(episodes, ACTION_SIZE)
            batch.step(np.clip(action, -1.0, 1.0), active)
            length += active
            total[active] += batch.reward[active]
            solved = active & batch.success
            score[solved] = 1.0
            active &= ~solved
            if not active.any():
                break
    return score, length, total
