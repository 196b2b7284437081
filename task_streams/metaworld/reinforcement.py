"""Streams of Meta-World tasks to learn by acting: reinforcement learning in many environments at once, scored as the demonstration streams.

The protocol is Continual World's (Wolczyk et al. 2021, arXiv:2105.10919) on Meta-World v3 with the second reward version: episodes of 200
steps that never terminate before, the goal in sight, success at any step. Departures: episodes of training begin at frozen positions (60 a
task) and scores are on others, where theirs draw positions anew for both; the number of environments side by side is the stream's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError
from clbench.experience import Interaction, Transition
from clbench.interfaces import Episodes, Policy, TaskInfo
from clbench.stream import FewShot, Phase, TaskStream, check_whole_steps, variant

from .evaluation import evaluate, hide_goal
from .goals import goals, scored_goals
from .stream import columns_of, goals_hash, order_of, variant_name

Float = NDArray[np.floating[Any]]


class Lockstep:
    """Environments of one task behind `Interaction`: observations (B, 39 + N) end with the task's one-hot, where there is one.

    From step `goal_steps` of an episode on the goal is zero; None: it never is.
    """

    def __init__(self, task: str, environments: int, horizon: int, cue: Float, seed: int, *, split: str, goal_steps: int | None) -> None:
        from .vector_env import VectorMetaWorld

        self._env = VectorMetaWorld(task, environments, positions={task: goals(task, split)}, horizon=horizon, seed=seed)
        self._cue = np.broadcast_to(cue.astype(np.float32), (environments, len(cue)))
        self._goal_steps, self._step = goal_steps, 0  # the step of all open episodes: they begin together
        self._observation = self._shown(self._env.reset()[0], 0)

    @property
    def observation(self) -> Float:
        """What is seen now (B, O)."""
        return self._observation

    def _shown(self, observation: Float, step: int) -> Float:
        """What is seen at that step of the episodes."""
        shown = np.concatenate([observation.astype(np.float32), self._cue], axis=1)
        if self._goal_steps is not None and step >= self._goal_steps:
            hide_goal(shown)
        return shown

    def step(self, action: Float) -> Transition:
        """Act with action (B, 4)."""
        observation, reward, terminated, truncated, info = self._env.step(np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0))
        self._step += 1
        final = self._shown(info["final_obs"], self._step) if truncated.any() else None
        self._step = 0 if truncated.any() else self._step
        self._observation = self._shown(observation, self._step)
        final = self._observation if final is None else final
        return Transition(reward, terminated, truncated, self._observation, final)

    def state_dict(self) -> dict[str, Any]:
        """The simulators' states, and where their generators stand."""
        return {**self._env.state_dict(), "observation": self._observation.copy(), "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, also within an episode."""
        self._env.load_state_dict(state)
        self._observation, self._step = np.array(state["observation"], dtype=np.float32), int(state["step"])


class ReinforcementTask:
    """A `clbench.interfaces.Task`: learned by acting in `environments` environments, scored by success on frozen goals.

    Shots are episodes of one environment, one after another, on positions of their own.
    """

    scale: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self,
        name: str,
        info: TaskInfo,
        *,
        label: str,
        environments: int,
        horizon: int,
        episodes: int,
        scored_on: str,
        goal_steps: int | None,
    ) -> None:
        if goal_steps is not None and goal_steps < 0:
            raise UserError(f"task '{name}': goal_steps must be >= 0 or null, got {goal_steps}")
        self._goal_steps = goal_steps
        self._goals = scored_goals(name, scored_on, episodes)  # an unknown name is refused here
        self.name, self.info, self._task = label, info, name
        self._environments, self._horizon = environments, horizon
        self._cue = np.zeros(0) if info.index is None else np.eye(info.num_tasks)[info.index]  # (N,)

    def experience(self, seed: int, *, shots: int | None = None) -> Interaction:
        """Endless episodes, which `seed` draws; with `shots` in one environment, at positions of the few-shot split."""
        environments, split = (self._environments, "train") if shots is None else (1, "few-shot")
        return Interaction(Lockstep(self._task, environments, self._horizon, self._cue, seed, split=split, goal_steps=self._goal_steps))

    def evaluate(self, policy: Policy, seed: int) -> Episodes:
        """Success (0 or 1) of each evaluation episode."""
        return evaluate(self._task, self._goals, policy, self._horizon, self._cue, goal_steps=self._goal_steps)


def reinforcement_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str],
    held_out: Sequence[str] = (),
    repeats: int = 1,
    identity: str = "cued",
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    environments: int = 64,
    horizon: int = 200,
    goal_steps: int | None = None,
    episodes: int = 50,
    units: int = 1_000_000,
    points: int = 10,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
) -> TaskStream:
    """Phases over `tasks`, `repeats` times over, of `units` environment steps each, in `environments` environments side by side.

    identity "cued": each visit is a column of its own and its one-hot ends the observation; "hidden": no cue, and visits share a column.
    `joint`: the environments of all tasks stand side by side in one phase of all units. `goal_steps`: steps of an episode that show the
    goal, 1 so that it must be remembered; null shows it always. `held_out` tasks are adapted to from `shots` episodes, `draws` times, by
    the untrained agent and after the last phase.
    """
    if environments < 1:
        raise UserError(f"stream '{name}': environments must be > 0, got {environments}")
    scored_on = "validation" if validation else "evaluation"
    columns = columns_of(name, tasks, repeats=repeats, identity=identity, experience="interaction", held_out=held_out)
    all_made = tuple(
        ReinforcementTask(
            task,
            info,
            label=label,
            environments=environments,
            horizon=horizon,
            episodes=episodes,
            scored_on=scored_on,
            goal_steps=goal_steps,
        )
        for task, label, info in columns
    )
    made, others = all_made[: len(columns) - len(held_out)], all_made[len(columns) - len(held_out) :]
    order = order_of(tasks, repeats, identity)
    if joint:
        check_whole_steps(name, [units * len(order)], environments * len(made), max(len(order), window))
    else:
        check_whole_steps(name, [units], environments, points)
    if not 1 <= window <= points:
        raise UserError(f"stream '{name}': window must be in 1..{points}, the points of a phase, got {window}")
    stream = TaskStream(
        name=variant_name(name, identity == "cued", goal_steps),
        version=version,
        budget=budget,
        tasks=made,
        phases=tuple(Phase((column,), units, points) for column in order),
        few_shot=FewShot(others, tuple(shots), draws, horizon, (-1, len(order) - 1), "episodes", each=True) if others else None,
        boundaries=boundaries,
        window=window,
        kind="metaworld-reinforcement",
        options={
            "metaworld": installed_version("metaworld"),
            "mujoco": installed_version("mujoco"),
            "rewards": "v2",
            "goals": goals_hash((*tasks, *held_out), ("train", *(["few-shot"] if others else []), scored_on)),
            "environments": environments,
            "horizon": horizon,
            "episodes": episodes,
            **({} if goal_steps is None else {"goal_visible": goal_steps}),
        },
        description=f"{len(tasks)} Meta-World tasks by reinforcement",
    )
    return variant(stream, joint=joint, only=only, validation=validation)
