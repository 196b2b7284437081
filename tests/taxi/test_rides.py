"""Taxi in words: what is told is the world, the driver knows no more than that, and who reads well drives well."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from clbench import configuration
from clbench.errors import UserError
from clbench.experience import Text
from clbench.task_streams.language.generation import Draws, Examples, drawn, key
from clbench.task_streams.language.task import shown
from clbench.task_streams.language.vocabulary import vocabulary
from clbench.task_streams.taxi.driver import Cell, Driver, told
from clbench.task_streams.taxi.rides import ASKED, RENDERINGS, Rides, RideTask, measured, rides
from clbench.task_streams.taxi.stream import taxi_text_stream
from clbench.task_streams.taxi.world import ACTIONS, CONVEY, FIND, PICK, SIDE, TASKS, Status, TaxiWorld, distances

SIZES: dict[str, Any] = {"stands": 3, "walls": 0.15, "steps": 48, "from_visit": 2, "stray": 0.0, "view": "around", "rendering": "symbolic"}
SMOKE: dict[str, Any] = {"stands": 2, "walls": 0.0, "steps": 64, "view": "own"}
WORDS = {"where": "find_p", "got": "pickup", "carried": "convey_p", "to": "reach_d", "from": "reach_o"}
CELLS = {"empty": 0, "full": 1, "outside": 2, "station": 3, "Mary": 4, "home": 5}
DO = {"up": 0, "down": 1, "left": 2, "right": 3, "took": 4, "dropped": 5}


LETTERS = "ABCDEFG"


def size_of(row: str, column: str) -> list[int]:
    return [int(row) + 1, LETTERS.index(column) + 1]


def made(name: str = "find_p", **options: Any) -> Rides:
    return rides(name, **{**SIZES, **options})


def draws(count: int, seed: int = 1234) -> Draws:
    return Draws(key("test", seed), np.arange(count), np.zeros(count))


class Reader:
    """Reads the words of symbolic rides and does what a driver of its own would; `forgets`: whenever a sub-task begins."""

    def __init__(self, forgets: bool = False, wild: bool = False) -> None:
        self.forgets, self.wild = forgets, wild

    def initial_state(self, batch: int) -> None:
        return None

    def logits(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        words = [[vocabulary().name(token) for token in text] for text in tokens.tolist()]
        if state is None:
            assert all(text[:2] == ["<bos>", "map"] and text[-1] == "<ans>" for text in words)
            driver, last, spoken = Driver(np.array([size_of(*text[2:4]) for text in words])), None, 0
            words = [text[4:-1] for text in words]
        else:
            driver, last, spoken = deepcopy(state)
            words = [text[1:] for text in words]
        now = np.array([self._told(*text) for text in words])
        if self.forgets and last is not None:
            driver.forget(now[:, 0] != last)
        action = driver.act(now) if not self.wild else np.random.default_rng(spoken).integers(0, 6, len(words))
        out = np.zeros((*tokens.shape, vocabulary().size), dtype=np.float32)
        out[np.arange(len(words)), -1, [vocabulary().id(list(DO)[each]) for each in action]] = 1
        return out, (driver, now[:, 0], spoken + 1)

    @staticmethod
    def _told(*words: str) -> list[int]:
        *cells, row, column, task = words
        seen = [CELLS[cell] for cell in cells]
        return [TASKS.index(WORDS[task]), int(row), LETTERS.index(column), *([6, 6, 6, 6, *seen] if len(seen) == 1 else seen)]


@pytest.mark.parametrize("sizes", [SMOKE, {"walls": 0.0, "steps": 64}, {**SMOKE, "sides": [4, 5]}], ids=["own", "around", "small"])
@pytest.mark.parametrize("name", ASKED)
def test_who_reads_the_words_drives_as_the_driver_does_and_who_forgets_at_the_floor(name: str, sizes: dict[str, Any]) -> None:
    generator = made(name, **sizes)
    task = RideTask(generator, test_examples=48, scored_on="test")
    remembers, forgets, wild = (task.evaluate(reader, 7) for reader in (Reader(), Reader(forgets=True), Reader(wild=True)))
    assert (remembers.facts["as_driver"] == 1).all()
    floor, ceiling = task.scale
    assert remembers.score.mean() == pytest.approx(ceiling, abs=0.1)
    assert wild.score.mean() < 0.7 * floor
    assert forgets.score.mean() == pytest.approx(floor, abs=0.12)
    assert floor < 0.6 * ceiling
    _, at = drawn(generator, "test", 7, np.arange(48))
    ride = generator.ride(at)
    for _ in range(generator.steps):
        _, action, _ = ride.look()
        ride.step(action)
    assert np.array_equal(ride.score, remembers.score)
    assert np.array_equal(ride.solved, remembers.facts["successes"]) and np.array_equal(ride.spent, remembers.facts["steps"])


@pytest.mark.parametrize("name", ASKED)
def test_the_words_are_what_happens_and_what_is_asked_is_the_later_visits(name: str) -> None:
    generator = made(name)
    draft = generator.draw(draws(24))
    for number in range(24):
        world = TaxiWorld(
            1,
            stands=3,
            walls=0.15,
            group=TASKS[:3] if name != "reach_d" else TASKS,
            named=5,
            first_draws=Draws(key("test", 1234), np.array([number]), np.zeros(1)),
        )
        size = [vocabulary().name(token) for token in draft.prompt[number, :3]]
        assert size[0] == "map" and size_of(*size[1:]) == world.size[0].tolist()
        words = [vocabulary().name(token) for token in [*draft.prompt[number, 3:], *draft.answer[number]]]
        scored = [False] * 8 + draft.scored[number].tolist()
        visits, begun = 0, True
        for step in range(generator.steps):
            *cells, row, column, task, action = words[9 * step : 9 * step + 9]
            at = world.position[0]
            assert WORDS[task] == TASKS[world.task[0]] and [int(row) + 1, LETTERS.index(column) + 1] == [at // SIDE, at % SIDE]
            for cell, place in zip(cells, (at - SIDE, at + SIDE, at - 1, at + 1, at), strict=True):
                outside, wall, stand, passenger, destination = world.cells[0, place] > 0
                assert (cell == "outside", cell == "full") == (outside, wall)
                assert (cell == "Mary", cell == "home") == (passenger, destination)
                assert (cell == "station") == (stand and not passenger and not destination)
            own = TASKS[world.task[0]] == name
            visits += begun and own
            assert scored[9 * step + 8] == (own and visits >= 2) and not any(scored[9 * step : 9 * step + 8])
            begun = world.step(np.array([DO[action]])).status[0] != Status.RUNNING


def test_a_driver_who_has_seen_the_stand_takes_a_shortest_way() -> None:
    """With two stands the passenger waits at the one where nobody got off: from the second visit on every find is as short as can be."""
    ride = made(**{**SMOKE, "steps": 80}).ride(draws(64))
    visits, steps, best = np.zeros(64, dtype=int), np.zeros(64, dtype=int), np.zeros(64, dtype=int)
    checked = 0
    for _ in range(80):
        _, action, _ = ride.look()
        world = ride.world
        finding = world.task == FIND
        new = finding & ride.begins
        visits += new
        best[new] = distances(world.blocked, world.passenger)[new, world.position[new]]
        steps = np.where(new, 0, steps) + finding
        ride.step(action)
        done = finding & ride.begins & (visits >= 2)
        assert (steps[done] == best[done]).all()
        checked += done.sum()
    assert checked > 100


def test_what_is_asked_after_straying_is_what_the_driver_would_do_and_the_straying_is_given() -> None:
    generator = made(**SMOKE, stray=0.3)
    draft = generator.draw(draws(200))
    words = np.concatenate([draft.prompt[:, 3:], draft.answer], axis=1).reshape(200, 64, 5)
    asked = np.concatenate([np.zeros((200, 4), dtype=bool), draft.scored], axis=1).reshape(200, 64, 5)[:, :, -1]
    names = np.vectorize(vocabulary().name)(words)
    driver = Driver(np.array([size_of(*map(vocabulary().name, last)) for last in draft.prompt[:, 1:3].tolist()]))
    alike, own, visits, before = [], [], np.zeros(200, dtype=int), np.full(200, "")
    for step in range(64):
        now = np.array([Reader._told(*ride[:-1]) for ride in names[:, step]])
        right = driver.act(now) == [DO[ride[-1]] for ride in names[:, step]]
        visits += (names[:, step, 3] == "where") & (before != "where")
        later, before = (names[:, step, 3] == "where") & (visits >= 2), names[:, step, 3]
        assert not (asked[:, step] & ~later).any()
        alike.append(right[asked[:, step]])
        own.append(asked[:, step][later])
        assert right[~later].all()
    assert np.concatenate(alike).all() and np.mean(np.concatenate(own)) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("walls", [0.0, 0.3])
def test_a_driver_never_stands_still_on_the_way_and_gets_everywhere(walls: float) -> None:
    ride = made(walls=walls, stands=5, steps=100).ride(draws(64, 9))
    successes = np.zeros(64)
    for _ in range(100):
        _, action, _ = ride.look()
        before = ride.world.position.copy()
        moves = action < 4
        ride.step(action)
        assert (ride.world.position != before)[moves].all()  # what it was told blocks is not driven into
        successes += ride.begins
    assert successes.min() >= 3


def test_a_driver_knows_what_it_was_told_and_forgets_it_when_it_is_to() -> None:
    def now(task: int, row: int, column: int, *cells: Cell) -> np.ndarray:
        return np.array([[task, row, column, *cells]])

    empty, outside, passenger, home = Cell.EMPTY, Cell.OUTSIDE, Cell.PASSENGER, Cell.DESTINATION
    for forgets in (False, True):
        driver = Driver(np.array([[5, 5]]))
        assert driver.act(now(FIND, 3, 1, empty, empty, passenger, empty, empty)) == [ACTIONS.index("left")]
        assert driver.act(now(PICK, 3, 0, empty, empty, outside, empty, passenger)) == [ACTIONS.index("pickup")]
        assert driver.act(now(CONVEY, 1, 0, home, empty, outside, empty, empty)) == [ACTIONS.index("up")]
        assert driver.act(now(CONVEY, 0, 0, outside, empty, outside, empty, home)) == [ACTIONS.index("dropoff")]
        driver.forget(np.array([forgets]))
        # the next one waits elsewhere: at the other stand, as who remembers knows; who does not looks for unseen cells, upwards first
        assert driver.act(now(FIND, 3, 3, empty, empty, empty, empty, empty)) == [ACTIONS.index("up" if forgets else "left")]


def test_told_numbers_are_the_words_order() -> None:
    world = TaxiWorld(32, seed=5)
    now = told(world)
    assert now.shape == (32, 8) and (now[:, 0] == world.task).all()
    assert (now[:, 7] != Cell.OUTSIDE).all() and (now[:, 7] != Cell.WALL).all()
    own = told(world, around=False)
    assert (own[:, 3:7] == Cell.UNTOLD).all() and np.array_equal(own[:, [0, 1, 2, 7]], now[:, [0, 1, 2, 7]])


def test_renderings_tell_the_same_rides() -> None:
    symbolic, text = (made(rendering=rendering).draw(draws(8)) for rendering in RENDERINGS)
    assert np.array_equal(symbolic.answer[symbolic.scored], text.answer[text.scored]) and np.array_equal(symbolic.valid, text.valid)
    sentence = shown(Examples(made(rendering="text"), "validation", 0, None), 1)[0].split(" where Mary ? ")[0]
    assert sentence.startswith("the map is to ") and sentence.count(" is ") == 6


def test_splits_share_no_ride_and_a_number_is_always_the_same_ride() -> None:
    generator = made()
    train, test = (Examples(generator, split, 3, None) for split in ("train", "test"))
    seen = [{tuple(text) for text in examples.examples(np.arange(200))[0].tolist()} for examples in (train, test)]
    assert len(seen[0]) > 190 and not seen[0] & seen[1]
    tokens, mask, lengths = train.examples(np.arange(40))
    alone = [train.examples(np.array([number])) for number in (0, 7, 39)]
    for number, (one, scored, length) in zip((0, 7, 39), alone, strict=True):
        assert np.array_equal(one[0], tokens[number]) and np.array_equal(scored[0], mask[number]) and length == lengths[number]
    task = RideTask(made(walls=0.0, steps=64), test_examples=8, scored_on="test")
    assert isinstance(task.experience(0), Text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "reach_o"}, "reach_o"),
        ({"rendering": "verse"}, "rendering"),
        ({"steps": 1}, "steps"),
        ({"from_visit": 0}, "from_visit"),
        ({"stray": 0.9}, "stray"),
        ({"stands": 1}, "stands"),
        ({"walls": 0.9}, "walls"),
        ({"steps": 12}, "stream.steps"),
        ({"view": "far"}, "view"),
        ({"view": "own"}, "stream.view=around"),
        ({"sides": [5]}, r"sides must be the fewest and the most rows of a map, from 3 to 7, got \[5\]"),
        ({"sides": [6, 5]}, r"sides .* got \[6, 5\]"),
        ({"sides": [2, 5]}, r"sides .* got \[2, 5\]"),
        ({"sides": [5, 8]}, r"sides .* got \[5, 8\]"),
        ({"sides": [3, 5], "stands": 4}, "4 stands and the taxi need maps of more than 3 rows"),
    ],
)
def test_what_rides_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made(**options)


def test_streams_that_cannot_be_are_refused() -> None:
    for options, said in (({"units": [1, 2]}, "units"), ({"test_examples": 0}, "test_examples"), ({"tasks": ["drive"]}, "drive")):
        with pytest.raises(UserError, match=said):
            taxi_text_stream(name="taxi-text", version=1, budget="smoke", **options)


def test_the_standard_streams_are_within_reach() -> None:
    """Scales of smoke are measured anew and are those of the stream; each leaves something to remember."""
    for task in configuration.stream_named("taxi-text", "smoke").tasks:
        floor, ceiling = task.scale
        assert 0 < floor < 0.6 * ceiling
        assert (floor, ceiling) == measured.__wrapped__(task._rides)
