"""The Taxi world in words: rides told step by step, with the action behind each; a bridge between control and language.

    map 5 E empty 2 C where <ans> right Mary 2 D got took station 2 D carried left empty 2 C carried ..

Rows are digits, columns letters; the map is told by its last cell.
Idea: spec language.md 5.9, "text rendering for language agents"; words and rules are ours. Every ride has all sub-tasks. A driver who
remembers what was told (`driver`) drives through it, but for the sub-task that is asked: from its `from_visit`-th time in the ride on the
words of action are the answer, everything else is given. So what is learned is that one sub-task, and where it leads is known from earlier.
In `stray` of these steps the taxi moves anywhere instead, which is given too: who has strayed can be seen to find back (noise injection,
Laskey et al. 2017, arXiv:1703.09327).
A reader is scored by driving: its likeliest word of action is done, and what it meets then is what it is told next. The score of a ride is
how much nearer to its ends it came in those times, in steps of the shortest way, over the steps that it took: success weighted by path
length (Anderson et al. 2018, arXiv:1807.06757) with ways that are not finished counted as far as they go. Departure from `task`: successes
over steps are made by the ends that lie near. The scale begins at a driver who forgets everything whenever the sub-task begins, and ends
at the one who forgets nothing.
Shape letters: R rides, K stands, G cells of the padded grid, W words that tell a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from clbench.errors import ContractError, UserError, unknown_name
from clbench.interfaces import Episodes, Predictor

from ..language.generation import Bool, Draft, Draws, Float, Integer, Paired, drawn, key
from ..language.task import HIGHEST_FLOOR, TextTask
from ..language.vocabulary import ANS, BOS, DIGITS, LETTERS, vocabulary
from ..language.wording import compiled, filled
from ..levels import Kept
from .driver import Driver, told
from .world import CONVEY, FIND, LARGEST, PASSENGER_TASKS, REACH, SMALLEST, TASKS, Status, TaxiWorld, check_sides, distances

ASKED = (TASKS[FIND], TASKS[CONVEY], TASKS[REACH])
"""Sub-tasks that can be asked; at a pickup there is nothing to remember, and the way back to any other stand is short."""

RENDERINGS: Mapping[str, tuple[str, str, str]] = {
    "symbolic": ("map {0} {1}", "{7} {1} {2} {0}", "{3} {4} {5} {6} {7} {1} {2} {0}"),
    "text": (
        "the map is to {0} {1} .",
        "here is {7} , at {1} {2} . {0} Mary ?",
        "{3} is above , {4} is below , {5} is left , {6} is right , here is {7} , at {1} {2} . {0} Mary ?",
    ),
}
"""The map by its last row and column; a step in the own cell's view; one with those around.

Slots of a step: sub-task, row, column, the cells up, down, left, right and here.
"""
VIEWS = ("own", "around")
_NAMES: Mapping[str, str] = {"find_p": "where", "pickup": "got", "convey_p": "carried", "reach_d": "to", "reach_o": "from"}
_SUB_TASKS = np.array([vocabulary().id(_NAMES[task]) for task in TASKS])
_CELLS = np.array([vocabulary().id(word) for word in ("empty", "full", "outside", "station", "Mary", "home", "empty")])
"""By `driver.Cell`; what is untold is not said."""
_ROWS, _COLUMNS = np.array(DIGITS)[:LARGEST], np.array(LETTERS)[:LARGEST]
_ACTIONS = np.array([vocabulary().id(word) for word in ("up", "down", "left", "right", "took", "dropped")])  # by world.ACTIONS
_FEWEST = 0.2  # of rides are asked something; the others are drawn again
_MEASURED = (2**31, 256)  # seed and number of the rides by which a scale is measured


class Ride:
    """R rides under way: what is told, what the driver would do, and where the sub-task asked is to be answered."""

    def __init__(self, world: TaxiWorld, task: int, from_visit: int, around: bool) -> None:
        self.world, self._task, self._from_visit, self._around = world, task, from_visit, around
        self._driver = Driver(world.size)
        self.begins = np.ones(world.environments, dtype=np.bool_)  # (R,), whether a sub-task has just begun
        self._visits = np.zeros(world.environments, dtype=np.int64)
        self._ways = np.stack([distances(world.blocked, stand) for stand in world.stand_cells.T], axis=1)  # (R, K, G)
        self.spent, self.solved, self.nearer = (np.zeros_like(self._visits) for _ in range(3))
        """Of what is asked, (R,): steps, successes, and how much nearer they led."""

    def look(self) -> tuple[Integer, Integer, Bool]:
        """What is told (R, TOLD), the driver's actions (R,), and whether they are asked (R,); once before each step."""
        own = self.world.task == self._task
        self._visits += self.begins & own
        now = told(self.world, self._around)
        self._asked = own & (self._visits >= self._from_visit)
        return now, self._driver.act(now), self._asked

    def step(self, action: Integer) -> None:
        """Act (R,)."""
        world, rows = self.world, np.arange(self.world.environments)
        goal = np.where(world.task == FIND, world.passenger, world.destination)
        ways = self._ways[rows, (world.stand_cells == goal[:, None]).argmax(axis=1)]  # (R, G)
        before, last = ways[rows, world.position], world.task == CONVEY  # whether something is to be done when it is reached
        status = world.step(action).status
        self.begins, success = status != Status.RUNNING, status == Status.SUCCESS
        self.spent += self._asked
        self.solved += self._asked & success
        self.nearer += self._asked * np.where(success, before + last, before - ways[rows, world.position])

    @property
    def score(self) -> Float:
        """The share (R,) of the steps in what is asked that was needed; 0 where it did not come to that."""
        return np.maximum(self.nearer, 0) / np.maximum(self.spent, 1)


@dataclass(frozen=True)
class Rides(Paired):
    """Draws rides of `steps` steps in which the sub-task `name` is asked, one of ASKED; `language.task.Generator`.

    Beside it occur those of the passenger, and all where reach_d is asked. `stands`, `walls`, `sides`: of the world. `stray`: see above.
    """

    name: str
    stands: int
    walls: float
    steps: int
    from_visit: int
    stray: float
    view: str
    rendering: str
    sides: tuple[int, int] = (SMALLEST, LARGEST)

    @property
    def legal(self) -> Integer:
        """The words of action."""
        return _ACTIONS

    @property
    def prompt_size(self) -> int:
        return sum(template.shape[1] for template in self._templates)

    @property
    def answer_size(self) -> int:
        width = self._templates[1].shape[1]
        return self.steps * (1 + width) - width

    @property
    def _templates(self) -> tuple[Integer, Integer]:
        """Of the map (1, M) and of a step (1, W)."""
        opening, *steps = RENDERINGS[self.rendering]
        return compiled((opening,)), compiled((steps[VIEWS.index(self.view)],))

    def ride(self, draws: Draws) -> Ride:
        """The rides that `draws` name, at their beginning."""
        world = TaxiWorld(
            len(draws),
            stands=self.stands,
            walls=self.walls,
            episode_steps=self.steps + 1,  # so that none ends before it was told
            group=PASSENGER_TASKS if self.name in PASSENGER_TASKS else TASKS,
            named=len(TASKS),
            sides=self.sides,
            first_draws=draws,
        )
        return Ride(world, TASKS.index(self.name), self.from_visit, self.view == "around")

    def opening(self, ride: Ride) -> Integer:
        """What is told of the maps at the beginning, in tokens (R, M): their last row and column."""
        size = ride.world.size
        return filled(np.repeat(self._templates[0], len(size), axis=0), [_ROWS[size[:, 0] - 1], _COLUMNS[size[:, 1] - 1]])

    def words(self, now: Integer) -> Integer:
        """What is told (R, TOLD) in tokens (R, W)."""
        about = [_SUB_TASKS[now[:, 0]], _ROWS[now[:, 1]], _COLUMNS[now[:, 2]], *_CELLS[now[:, 3:]].T]
        return filled(np.repeat(self._templates[1], len(now), axis=0), about)

    def draw(self, draws: Draws) -> Draft:
        """Rides of the driver; those in which nothing is asked are none."""
        ride, width = self.ride(draws), self._templates[1].shape[1]
        text = np.zeros((len(draws), self.steps, width + 1), dtype=np.int64)
        asked = np.zeros(text.shape, dtype=np.bool_)
        strays = draws.uniform("stray", self.steps) < self.stray
        moves = draws.integers("moves", 4, self.steps)
        for step in range(self.steps):
            now, action, own = ride.look()
            asked[:, step, -1] = own & ~strays[:, step]
            action = np.where(own & strays[:, step], moves[:, step], action)
            text[:, step, :-1], text[:, step, -1] = self.words(now), _ACTIONS[action]
            ride.step(action)
        tokens, scored = text.reshape(len(draws), -1), asked.reshape(len(draws), -1)
        prompt = np.concatenate([self.opening(ride), tokens[:, :width]], axis=1)
        draft = Draft.whole(prompt, tokens[:, width:], scored[:, width:])
        return replace(draft, valid=scored.any(axis=1))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`on`: what was done last is done again."""
        last, period = np.zeros_like(draft.answer), self._templates[1].shape[1] + 1
        last[:, period:] = draft.answer[:, :-period]
        return {"on": (last == draft.answer).astype(float)}


class RideTask(TextTask):
    """A sub-task asked in rides, scored by driving; `scale` runs from a driver who forgets to one who does not."""

    def __init__(self, rides: Rides, *, test_examples: int, scored_on: str) -> None:
        super().__init__(rides, cue=None, test_examples=test_examples, floor=0.0, scored_on=scored_on)
        self._rides = rides
        floor, ceiling = measured(rides)
        if floor > HIGHEST_FLOOR * ceiling:
            raise ContractError(
                f"{self.name}: a driver who forgets scores {floor / ceiling:.3f} of one who does not, expected at most {HIGHEST_FLOOR}: "
                "choose sizes with more to remember"
            )
        self.scale = (floor, ceiling)
        self._test_rides: tuple[int, Draws] | None = None

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """Steps that were needed over steps taken where the sub-task is asked, in test rides that `policy` drives there.

        Facts: these `steps`, and `successes`; `as_driver`, the share of these steps in which it does what the driver would.
        """
        if self._test_rides is None or self._test_rides[0] != seed:  # a run asks often, and for a test ride ten are drawn
            self._test_rides = seed, drawn(self._rides, self._scored_on, seed, np.arange(self._test_examples))[1]
        draws = self._test_rides[1]
        ride, state = self._rides.ride(draws), policy.initial_state(len(draws))
        head = np.concatenate([np.full((len(draws), 1), BOS), self._rides.opening(ride)], axis=1)
        tail = np.full((len(draws), 1), ANS)
        alike = np.zeros(len(draws))
        for step in range(self._rides.steps):
            now, action, asked = ride.look()
            words = self._rides.words(now)
            logits, state = policy.logits(np.concatenate([head, words, tail] if step == 0 else [head, words], axis=1), state)
            chosen = np.asarray(logits)[:, -1, _ACTIONS].argmax(axis=1)
            alike += asked & (chosen == action)
            action = np.where(asked, chosen, action)
            head = _ACTIONS[action][:, None]
            ride.step(action)
        facts = {"steps": ride.spent.astype(float), "successes": ride.solved.astype(float), "as_driver": alike / np.maximum(ride.spent, 1)}
        return Episodes(ride.score, facts)


@Kept
def measured(rides: Rides) -> tuple[float, float]:
    """The score of a driver who forgets everything whenever the sub-task begins, and of one who does not, on rides of their own."""
    seed, count = _MEASURED
    _, draws = drawn(rides, "train", seed, np.arange(count))
    scores = []
    for forgets in (True, False):
        ride = rides.ride(draws)
        other = Driver(ride.world.size)
        for _ in range(rides.steps):
            now, action, asked = ride.look()
            if forgets:
                other.forget(ride.begins)
                action = np.where(asked, other.act(now), action)
            ride.step(action)
        scores.append(float(ride.score.mean()))
    return scores[0], scores[1]


@cache
def _asked(rides: Rides) -> float:
    """The share of 128 rides in which something is asked."""
    return float(rides.draw(Draws(key("taxi-text"), np.arange(128), np.zeros(128))).valid.mean())


def rides(
    name: str,
    *,
    stands: int,
    walls: float,
    steps: int,
    from_visit: int,
    stray: float,
    view: str,
    rendering: str,
    sides: Sequence[int] = (SMALLEST, LARGEST),
) -> Rides:
    """What draws the rides in which sub-task `name` is asked; sizes that they cannot have are refused."""
    if name not in ASKED:
        raise unknown_name("sub-task", name, ASKED, "task_streams/taxi/rides.py")
    if rendering not in RENDERINGS:
        raise unknown_name("rendering", rendering, RENDERINGS, "stream.rendering")
    if view not in VIEWS:
        raise unknown_name("view", view, VIEWS, "stream.view")
    if not 2 <= stands <= 6 or not 0 <= walls <= 0.4:
        raise UserError(f"taxi-text: stands must be 2 to 6 and walls 0 to 0.4, got {stands} and {walls}")
    if view == "own" and walls:
        raise UserError(
            f"taxi-text: with walls (got {walls}) a driver must see the cells around: give stream.view=around, or stream.walls=0"
        )
    if steps < 2 or from_visit < 1 or not 0 <= stray <= 0.5:
        raise UserError(
            f"taxi-text: steps must be at least 2, from_visit at least 1 and stray 0 to 0.5, got {steps}, {from_visit} and {stray}"
        )
    check_sides("taxi-text", sides, stands)
    made = Rides(name, stands, walls, steps, from_visit, stray, view, rendering, (sides[0], sides[1]))
    share = _asked(made)
    if share < _FEWEST:
        raise UserError(
            f"taxi-text: expected {name} to come {from_visit} times in at least {_FEWEST:.0%} of all rides, got {share:.0%}: "
            f"give a ride more than {steps} steps (stream.steps), or ask from an earlier time on (stream.from_visit)"
        )
    return made
