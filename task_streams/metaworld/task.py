"""One Meta-World task of a stream: demonstrations of its scripted expert to learn from, success on frozen goals as the score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError
from clbench.experience import Demonstrations
from clbench.interfaces import Episodes, Policy, TaskInfo

from .demonstrations import demonstrations
from .evaluation import evaluate, hide_goal
from .goals import scored_goals

Float = NDArray[np.floating[Any]]

OBSERVATION_SIZE = 39
ACTION_SIZE = 4

_SHOTS_AT_ONCE = 10  # small support sets are made together, so that a stream over K = 1, 2, 5, 10 plays the expert once


class MetaWorldTask:
    """A `clbench.interfaces.Task`.

    Observations (39 + N,) are Meta-World's (hand, gripper, objects, the same one step earlier, goal) and, where `cue` is set, the one-hot
    of the task's number among the stream's N = `info.num_tasks`. Actions (4,): motion of the hand and closing of the gripper.
    From step `goal_steps` of an episode on the goal is zero, in demonstrations and in evaluation (None: it never is), so that only a memory
    knows it. `demonstrations` come from the train split of goals, shots from the few-shot split, scores from the first `episodes` of split
    `scored_on`; `noise` is that of the demonstrations, `horizon` the steps of a demonstration and of an evaluation episode. `label` is the
    name in tables where a task occurs twice.
    """

    scale: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self,
        name: str,
        info: TaskInfo,
        *,
        demonstrations: int = 40,
        noise: float = 0.1,
        horizon: int = 200,
        episodes: int = 50,
        scored_on: str = "evaluation",
        cue: bool,
        goal_steps: int | None = None,
        label: str | None = None,
    ) -> None:
        expected = (OBSERVATION_SIZE + info.num_tasks * cue, ACTION_SIZE)
        if (info.input_size, info.output_size) != expected:
            raise UserError(
                f"task '{name}': expected input and output sizes {expected} with cue={cue} and {info.num_tasks} tasks, "
                f"got {(info.input_size, info.output_size)}"
            )
        self._goals = scored_goals(name, scored_on, episodes)  # an unknown name is refused here
        if demonstrations < 1:
            raise UserError(f"task '{name}': demonstrations must be > 0, got {demonstrations}")
        if goal_steps is not None and goal_steps < 0:
            raise UserError(f"task '{name}': goal_steps must be >= 0 or null, got {goal_steps}")
        if cue and info.index is None:
            raise UserError(f"task '{name}': cue=True needs the number of the task, got info.index=None")
        self.name = label or name
        self.info = info
        self._task = name
        self._demonstrations, self._noise, self._horizon, self._goal_steps = demonstrations, noise, horizon, goal_steps
        self._suffix = np.zeros(0, dtype=np.float32)
        if cue:
            self._suffix = np.eye(info.num_tasks, dtype=np.float32)[info.index]  # (N,)

    def experience(self, seed: int, *, shots: int | None = None) -> Demonstrations:
        """Demonstrations that `seed` draws: all of them, or the first `shots` > 0 of the few-shot split."""
        if shots is not None and shots < 1:
            raise UserError(f"task '{self.name}': shots must be > 0, got {shots}; K = 0 needs no experience")
        count = self._demonstrations if shots is None else max(shots, _SHOTS_AT_ONCE)
        split = "train" if shots is None else "few-shot"
        episodes = demonstrations(self._task, seed, count, split=split, noise=self._noise, horizon=self._horizon)[:shots]
        return Demonstrations([(self._shown(observations), actions) for observations, actions in episodes], seed)

    def _shown(self, observations: Float) -> Float:
        """What the agent sees of the observations (L, 39) of one demonstration."""
        cues = np.broadcast_to(self._suffix, (len(observations), len(self._suffix)))
        shown = np.concatenate([observations, cues], axis=1)  # (L, 39 + N), a copy
        if self._goal_steps is not None:
            hide_goal(shown[self._goal_steps :])
        return shown

    def evaluate(self, policy: Policy, seed: int) -> Episodes:
        """Success (0 or 1) of each evaluation episode; the frozen goals are the same for every `seed`, and the simulation draws nothing."""
        return evaluate(self._task, self._goals, policy, self._horizon, self._suffix, goal_steps=self._goal_steps)

    def expert(self) -> Policy:
        """The scripted expert."""
        from .expert import expert_policy

        return expert_policy(self._task)

    def random(self, seed: int = 0) -> Policy:
        """Uniform actions."""
        from .expert import RandomPolicy

        return RandomPolicy(seed)
