"""One sub-task of the Taxi world as a task: the world to learn in, and how fast the sub-task is done where there is something to remember.

Sorokin & Burtsev 2019; spec: memory.md 13.7. An action is handed over as one number for each of the six choices; the largest is taken.
Scored is, for each episode, how often the sub-task succeeded over the steps spent in it, from its `from_visit`-th time in the episode on:
whoever fails or is slow scores less, and an episode in which it did not come to that counts 0, so that nobody gains by giving up on maps
that are hard. The scale ends at what a driver who knows the whole map reaches.
Departure: the paper has no such figure; the specification compares steps to success.
Shape letters: B environments, O observation, A = 6 actions, n episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clbench import seeding
from clbench.experience import Interaction, Transition
from clbench.interfaces import Episodes, Policy, TaskInfo

from ..levels import Kept
from .expert import expert
from .world import ACTIONS, PASSENGER_TASKS, TASKS, Float, Integer, Status, TaxiWorld, observation_size

Act = Callable[[TaxiWorld, Any], tuple[Integer, Any]]  # of a world and a state


class Lockstep:
    """A Taxi world behind `Interaction`."""

    def __init__(self, world: TaxiWorld) -> None:
        self._taxi = world

    @property
    def observation(self) -> Float:
        """What is seen now (B, O)."""
        return self._taxi.observation()

    def step(self, action: Float) -> Transition:
        """Act with the largest entry of each row of action (B, A)."""
        step = self._taxi.step(np.asarray(action).argmax(axis=1))
        ended = np.full(self._taxi.environments, step.ended)
        return Transition(step.reward, np.zeros_like(ended), ended, step.observation, step.final)

    def state_dict(self) -> dict[str, Any]:
        """The world's."""
        return self._taxi.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._taxi.load_state_dict(state)


class TaxiTask:
    """Learned in a world of the sub-tasks `group`; asked about sub-task `name`. `options` are the world's."""

    def __init__(
        self,
        name: str,
        *,
        group: Sequence[str],
        asked_in: Sequence[str],
        environments: int,
        test_episodes: int,
        from_visit: int,
        scored_on: str,
        options: Mapping[str, Any],
    ) -> None:
        self.name, self._number = name, TASKS.index(name)
        self._named = named_for(asked_in)
        self.info = TaskInfo(None, 1, "interaction", observation_size(self._named), len(ACTIONS), asked=self._named, choices=True)
        self._group, self._asked_in, self._options = tuple(group), tuple(asked_in), dict(options)
        self._environments, self._episodes, self._from_visit, self._scored_on = environments, test_episodes, from_visit, scored_on
        self.scale = (0.0, _ceiling(name, self._asked_in, from_visit, tuple(sorted(self._options.items()))))

    def experience(self, seed: int, *, shots: int | None = None) -> Interaction:
        """An endless world on maps of its own."""
        seed = seeding.integer(seed, "taxi", "train")
        return Interaction(Lockstep(TaxiWorld(self._environments, seed=seed, group=self._group, named=self._named, **self._options)))

    def evaluate(self, policy: Policy, seed: int) -> Episodes:
        """Successes per step from the `from_visit`-th time on, over one episode of each of n maps; facts: these steps and successes."""
        maps = seeding.integer(seed, "taxi", self._scored_on)
        world = TaxiWorld(self._episodes, seed=maps, group=self._asked_in, named=self._named, **self._options)

        def act(world: TaxiWorld, state: Any) -> tuple[Integer, Any]:
            action, state = policy.act(world.observation(), state)
            return np.asarray(action).argmax(axis=1), state

        spent, solved = later_visits(world, act, policy.initial_state(self._episodes), self._number, self._from_visit)
        return Episodes(solved / np.maximum(spent, 1), {"steps": spent.astype(float), "successes": solved.astype(float)})


def named_for(group: Sequence[str]) -> int:
    """How many sub-tasks observations tell apart where those of `group` are asked about."""
    return max(len(PASSENGER_TASKS), *(TASKS.index(task) + 1 for task in group if task in TASKS))


def later_visits(world: TaxiWorld, act: Act, state: Any, task: int, from_visit: int) -> tuple[Integer, Integer]:
    """Steps spent and successes (n,) in the times from the `from_visit`-th on that an episode of `world` comes to `task`."""
    n = world.environments
    visit, new = np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.bool_)
    spent, solved = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for _ in range(world.episode_steps):
        now = world.task.copy()
        visit += new & (now == task)
        action, state = act(world, state)
        status = world.step(action).status
        counts = (now == task) & (visit >= from_visit)
        spent += counts
        solved += counts & (status == Status.SUCCESS)
        new = status != Status.RUNNING
    return spent, solved


@Kept
def _ceiling(name: str, group: tuple[str, ...], from_visit: int, options: tuple[tuple[str, Any], ...]) -> float:
    """What a driver who knows the map scores on 256 maps that nobody else sees."""
    world = TaxiWorld(256, seed=seeding.integer(0, "taxi", "ceiling"), group=group, named=named_for(group), **dict(options))
    spent, solved = later_visits(world, lambda world, state: (expert(world), state), None, TASKS.index(name), from_visit)
    return float((solved / np.maximum(spent, 1)).mean())
