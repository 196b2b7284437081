"""Taxi: in one episode a taxi finds, picks up and conveys passengers on a map of its own, of which it sees the 3x3 cells around it.

Sorokin & Burtsev 2019 and their code (griver/pytorch-paac, `multi_task`, MazeBase); spec: language.md 5.9, memory.md 10.2 and 13.7.
Sub-tasks follow one another without a break: the passenger group {find_p, pickup, convey_p}, or a part of it, in the order in which each
becomes possible. Where convey_p is left out, a passenger who was picked up is gone and the next one waits.
find_p: reach the passenger's cell, pickup and dropoff do nothing. pickup: pick up there. convey_p: drop off at the destination. Who fails
within the limit gets the next possible sub-task, with the map as it stands. After a delivery a new passenger waits elsewhere.
Two more are there for who names them, with a passenger aboard and pickup and dropoff doing nothing. reach_d: reach the destination.
reach_o (ours): reach another stand, so that what is remembered must serve the opposite of what it served before. Those of convey_p, reach_d
and reach_o that are not done already where the taxi stands are drawn with equal chances.

Departures: maps of 5x5 to 7x7 and a window of 3x3 (spec 13.7), walls but no water; passengers wait at, and go to, a few stands that are
fixed for the episode, as in the classic Taxi (in MazeBase anywhere), so that there is something to remember; every sub-task is drawn
when it is possible, which with these three leaves one choice; no `pass` action.
All environments begin their episodes together. What is drawn hangs on (seed, environment, episode) alone, never on the batch.
Shape letters: B environments, O observation, C channels, G cells of the padded grid, K stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError, unknown_name

from ..language.generation import Draws, key

Bool, Float, Integer = NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]

TASKS = ("find_p", "pickup", "convey_p", "reach_d", "reach_o")
FIND, PICK, CONVEY, REACH, OTHER = range(len(TASKS))
PASSENGER_TASKS = TASKS[:REACH]
"""Those that an observation tells apart, unless more are named."""

LIMITS = np.array([200, 60, 200, 200, 60])
"""Steps after which a sub-task has failed."""

ACTIONS = ("up", "down", "left", "right", "pickup", "dropoff")
PICKUP, DROPOFF = 4, 5
SMALLEST, LARGEST = 5, 7
FEWEST = 3  # of the rows of a map that is asked for
SIDE = LARGEST + 2  # of the padded grid: one cell out of bounds on every side
MOVES = np.array([-SIDE, SIDE, -1, 1, 0, 0])
CHANNELS = ("out of bounds", "wall", "stand", "passenger", "destination")
WINDOW = np.array([row * SIDE + column for row in (-1, 0, 1) for column in (-1, 0, 1)])
_OUTSIDE, _WALL, _STAND, _PASSENGER, _DESTINATION = range(len(CHANNELS))


class Status(IntEnum):
    """What a step made of the sub-task during which it was taken."""

    RUNNING = 0
    SUCCESS = 1
    FAILED = 2


class Step(NamedTuple):
    """What follows an action; the observation is that of the next sub-task or episode where one has ended."""

    observation: Float  # (B, O)
    reward: Float  # (B,)
    status: Integer  # (B,) of `Status`
    ended: bool  # the episode of all environments is over; a new one has begun
    final: Float  # (B, O), what was seen before it did


class TaxiWorld:
    """B environments. An observation is the window (9 cells x C), the place in [-1, 1]^2, whether a passenger is aboard, the sub-task.

    The sub-task's one-hot, among the first `named` of `TASKS`, stands last, so that a network can tell what belongs to the world and what
    to the task at hand. `group`: the sub-tasks that occur. `sides`: the fewest and the most rows, and columns, of a map. `first_draws`
    (B rows): the numbers of the first episode, in place of those that `seed` and an environment's number name.
    """

    actions = ACTIONS

    def __init__(
        self,
        environments: int,
        *,
        seed: int = 0,
        stands: int = 2,
        walls: float = 0.15,
        episode_steps: int = 300,
        turn_penalty: float = 0.1,
        success_reward: float = 1.1,
        first_environment: int = 0,
        group: Sequence[str] = PASSENGER_TASKS,
        named: int = len(PASSENGER_TASKS),
        sides: tuple[int, int] = (SMALLEST, LARGEST),
        first_draws: Draws | None = None,
    ) -> None:
        if environments < 1 or not 2 <= stands <= 6 or not 0 <= walls <= 0.4 or episode_steps < 1:
            raise UserError(
                "taxi: environments and episode_steps must be at least 1, stands 2 to 6, walls 0 to 0.4, "
                f"got {environments}, {episode_steps}, {stands}, {walls}"
            )
        check_sides("taxi", sides, stands)
        for task in group:
            if task not in TASKS:
                raise unknown_name("sub-task", task, TASKS, "task_streams/taxi/world.py")
        if not {"find_p", "pickup"} <= set(group):
            raise UserError(f"taxi: a world needs the sub-tasks find_p and pickup, got {', '.join(group) or 'none'}")
        if not {"reach_d", "reach_o"}.isdisjoint(group) and "convey_p" not in group:
            raise UserError(f"taxi: reach_d and reach_o need the sub-task convey_p beside them, got {', '.join(group)}")
        if unnamed := [task for task in group if task not in TASKS[:named]]:
            raise UserError(f"taxi: an observation that tells {named} sub-tasks apart cannot tell {', '.join(unnamed)}")
        self.conveys, self.reaches = "convey_p" in group, np.array(["reach_d" in group, "reach_o" in group])
        self.tasks, self.observation_size = TASKS[:named], observation_size(named)
        self.environments, self.seed, self.stands, self.walls, self.episode_steps = environments, seed, stands, walls, episode_steps
        self.turn_penalty, self.success_reward = np.float32(turn_penalty), np.float32(success_reward)
        self.sides = sides
        self._names = first_environment + np.arange(environments)
        self._rows, self._key, self._first_draws = np.arange(environments), key("taxi", seed), first_draws
        self._episode = -1
        self.begin()

    def begin(self) -> Float:
        """Start the next episode; the first observations (B, O)."""
        self._episode += 1
        B, K, rows = self.environments, self.stands, self._rows
        given = self._first_draws if self._episode == 0 else None
        draws = given or Draws(self._key, self._names, np.full(B, self._episode))
        self.size, inside, self.blocked = _maps(draws, self.walls, self.sides)  # (B, 2), (B, G), (B, G)
        order = np.where(self.blocked, 2.0, draws.uniform("cells", SIDE * SIDE)).argsort(1, kind="stable")  # free cells come first
        self.stand_cells, self.position = order[:, :K], order[:, K]  # (B, K), (B,)
        self._turns = draws.integers("stands", K - 1, self.episode_steps).reshape(B, -1, 1) + 1  # further than the last stand
        self._targets = draws.integers("destinations", K - 1, self.episode_steps).reshape(B, -1, 1) + 1
        self._coins = draws.uniform("next", self.episode_steps) if self.reaches.any() else None
        self._deliveries, self._clock = np.zeros(B, dtype=np.int64), 0
        self.cells = np.zeros((B, SIDE * SIDE, len(CHANNELS)), dtype=np.float32)  # (B, G, C) what can be seen
        self.cells[:, :, _OUTSIDE], self.cells[:, :, _WALL] = ~inside, self.blocked & inside
        self.cells[rows[:, None], self.stand_cells, _STAND] = 1
        self.aboard = np.zeros(B, dtype=np.bool_)
        self._stand = draws.integers("first", K, 1)[:, 0]  # (B,) where the last passenger got off
        self.passenger, self.destination = self.position.copy(), self.position.copy()
        self._call(rows)
        self.task, self.task_steps = np.full(B, FIND), np.zeros(B, dtype=np.int64)
        return self.observation()

    def _call(self, rows: Integer) -> None:
        """A new passenger in the environments `rows`, at another stand than where the last one got off."""
        self.cells[rows, self.destination[rows], _DESTINATION] = 0
        waits = (self._stand[rows] + self._turns[rows, self._deliveries[rows], 0]) % self.stands
        self._stand[rows] = (waits + self._targets[rows, self._deliveries[rows], 0]) % self.stands
        self.passenger[rows], self.destination[rows] = self.stand_cells[rows, waits], self.stand_cells[rows, self._stand[rows]]
        self.cells[rows, self.passenger[rows], _PASSENGER] = 1
        self.cells[rows, self.destination[rows], _DESTINATION] = 1

    def observation(self) -> Float:
        """What is seen now (B, O)."""
        B = self.environments
        seen = self.cells[self._rows[:, None], self.position[:, None] + WINDOW].reshape(B, -1)  # (B, 9 C)
        place = np.stack(np.divmod(self.position, SIDE), axis=1) - 1  # (B, 2)
        rest = np.zeros((B, 3 + len(self.tasks)), dtype=np.float32)
        rest[:, :2] = 2 * place / (LARGEST - 1) - 1
        rest[:, 2] = self.aboard
        rest[self._rows, 3 + self.task] = 1
        return np.concatenate([seen, rest], axis=1)

    def step(self, action: Integer) -> Step:
        """Act (B,) in all environments."""
        rows, task = self._rows, self.task
        target = self.position + MOVES[action]
        self.position = np.where(self.blocked[rows, target], self.position, target)
        self.task_steps += 1
        self._clock += 1
        here = self.position == self.passenger
        picked = (task == PICK) & here & (action == PICKUP)
        delivered = (task == CONVEY) & (self.position == self.destination) & (action == DROPOFF)
        success = ((task == FIND) & here) | picked | delivered
        if self._coins is not None:
            success |= (task == REACH) & (self.position == self.destination) | (task == OTHER) & self.at_another_stand()
        failed = ~success & (self.task_steps >= LIMITS[task])
        over = success | failed
        if over.any():
            self._follow(picked, delivered, over)
        reward = np.where(success, self.success_reward, np.float32(0)) - self.turn_penalty
        status = success * int(Status.SUCCESS) + failed * int(Status.FAILED)
        ended, final = self._clock == self.episode_steps, self.observation()
        return Step(self.begin() if ended else final, reward, status, ended, final)

    def _follow(self, picked: Bool, delivered: Bool, over: Bool) -> None:
        """Let passengers get in and out, and set the next sub-task where one is over."""
        (gone,) = picked.nonzero()
        self.cells[gone, self.passenger[gone], _PASSENGER] = 0
        if not self.conveys:
            picked, delivered = np.zeros_like(picked), picked
        self.aboard = (self.aboard | picked) & ~delivered
        (there,) = delivered.nonzero()
        self._deliveries[there] += 1
        self._call(there)
        possible = np.where(self.aboard, CONVEY, np.where(self.position == self.passenger, PICK, FIND))
        if self._coins is not None:
            possible = np.where(self.aboard, self._drawn(self._coins[:, self._clock - 1]), possible)
        self.task = np.where(over, possible, self.task)
        self.task_steps[over] = 0

    def at_another_stand(self) -> Bool:
        """Whether the taxi (B,) is at a stand that is not the destination."""
        return (self.position[:, None] == self.stand_cells).any(1) & (self.position != self.destination)

    def _drawn(self, uniform: Float) -> Integer:
        """A sub-task (B,) with a passenger aboard, convey_p or one that is not done where the taxi stands, by numbers (B,) in [0, 1)."""
        available = np.stack([np.ones_like(self.aboard), self.position != self.destination, ~self.at_another_stand()], axis=1)  # (B, 3)
        available[:, 1:] &= self.reaches
        chosen = (uniform * available.sum(1)).astype(np.int64)  # counted among those that are available
        return CONVEY + (available.cumsum(1) <= chosen[:, None]).sum(1)

    def state_dict(self) -> dict[str, Any]:
        """Which episode it is, and what has become of it; a copy."""
        arrays = {name: getattr(self, name).copy() for name in _CHANGING}
        return {"episode": self._episode, "clock": self._clock, **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self._episode = int(state["episode"]) - 1
        self.begin()
        self._clock = int(state["clock"])
        for name in _CHANGING:
            setattr(self, name, np.array(state[name]))


def observation_size(named: int = len(PASSENGER_TASKS)) -> int:
    """Entries O of an observation that tells `named` sub-tasks apart."""
    return len(WINDOW) * len(CHANNELS) + 3 + named


_CHANGING = ("position", "cells", "aboard", "passenger", "destination", "task", "task_steps", "_stand", "_deliveries")


def distances(blocked: Bool, target: Integer) -> Integer:
    """Steps (B, G) from every cell to target (B,) around the blocked cells; G where there is no way."""
    B, G = blocked.shape
    reached = np.zeros((B, G), dtype=np.bool_)
    reached[np.arange(B), target] = True
    steps = np.where(reached, 0, G)
    for number in range(1, G):
        wider = _wider(reached, blocked)
        new = wider & ~reached
        if not new.any():
            break
        steps[new], reached = number, wider
    return steps


def _wider(reached: Bool, blocked: Bool) -> Bool:
    wider = reached.copy()
    for move in MOVES[:4]:
        wider |= np.roll(reached, move, axis=1)  # the border is blocked, so that nothing comes round
    return wider & ~blocked


def check_sides(where: str, sides: Sequence[int], stands: int) -> None:
    """A line for the user where maps cannot have these sides, or not so many stands."""
    if len(sides) != 2 or not FEWEST <= sides[0] <= sides[1] <= LARGEST:
        raise UserError(f"{where}: sides must be the fewest and the most rows of a map, from {FEWEST} to {LARGEST}, got {list(sides)}")
    if sides[0] ** 2 < 2 * (stands + 1):  # half of the cells are free, with walls
        raise UserError(f"{where}: {stands} stands and the taxi need maps of more than {sides[0]} rows: give larger sides, or fewer stands")


def _maps(draws: Draws, walls: float, sides: tuple[int, int]) -> tuple[Integer, Bool, Bool]:
    """Sizes (B, 2), cells inside (B, G) and blocked cells (B, G); every free cell is reached from every other, and half of all are free."""
    B, G = len(draws), SIDE * SIDE
    size = sides[0] + draws.integers("size", sides[1] - sides[0] + 1, 2)
    row, column = np.divmod(np.arange(G), SIDE)
    inside = (row >= 1) & (row <= size[:, :1]) & (column >= 1) & (column <= size[:, 1:])
    blocked, missing, attempt = np.ones((B, G), dtype=np.bool_), np.ones(B, dtype=np.bool_), 0
    while missing.any():
        wall = ~inside | (draws.uniform(f"walls {attempt}", G) < walls)
        seed = np.where(wall, 2.0, draws.uniform(f"seed {attempt}", G)).argmin(1)
        free = distances(wall, seed) < G
        good = missing & (2 * free.sum(1) >= inside.sum(1)) & ~wall[np.arange(B), seed]
        blocked[good] = ~free[good]
        missing, attempt = missing & ~good, attempt + 1
    return size, inside, blocked
