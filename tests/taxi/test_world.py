"""The Taxi world: what its maps, sub-tasks, observations and seeds promise."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.taxi.expert import expert
from clbench.task_streams.taxi.world import (
    CHANNELS,
    CONVEY,
    DROPOFF,
    FIND,
    LIMITS,
    OTHER,
    PICK,
    PICKUP,
    REACH,
    SIDE,
    TASKS,
    Status,
    TaxiWorld,
    distances,
)

UP = 0


def random_actions(steps: int, environments: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6, (steps, environments))


@pytest.mark.parametrize("stands", [2, 4])
def test_an_expert_solves_every_sub_task_in_the_length_of_the_shortest_way(stands: int) -> None:
    world = TaxiWorld(16, seed=1000, stands=stands, episode_steps=120)
    solved, ended = np.zeros(3, dtype=int), False
    best = np.zeros(16, dtype=int)
    for _ in range(119):
        goal = np.where(world.task == CONVEY, world.destination, world.passenger)
        way = distances(world.blocked, goal)[np.arange(16), world.position] + (world.task != FIND)
        best = np.where(world.task_steps == 0, way, best)
        task, spent = world.task.copy(), world.task_steps + 1
        _, reward, status, ended, _ = world.step(expert(world))
        success = status == Status.SUCCESS
        assert (spent[success] == best[success]).all()
        np.testing.assert_allclose(reward, np.where(success, 1.0, -0.1), rtol=1e-6)  # 1.1 for the success, 0.1 for the turn
        assert not (status == Status.FAILED).any()
        np.add.at(solved, task[success], 1)
    assert not ended
    assert world.step(expert(world)).ended
    assert (solved > 16 * 5).all()  # a round takes at most 20 steps


def test_many_environments_are_what_each_is_alone() -> None:
    together = TaxiWorld(5, seed=1001, stands=3, episode_steps=40)
    alone = [TaxiWorld(1, seed=1001, stands=3, episode_steps=40, first_environment=b) for b in range(5)]
    for action in random_actions(100, 5):
        step = together.step(action)
        for b, world in enumerate(alone):
            single = world.step(action[b : b + 1])
            assert (single.observation[0] == step.observation[b]).all()
            assert (single.reward[0], single.status[0], single.ended) == (step.reward[b], step.status[b], step.ended)


def test_seeds_environments_and_episodes_have_maps_of_their_own() -> None:
    first, again, other = (TaxiWorld(8, seed=seed, episode_steps=5) for seed in (1002, 1002, 1003))
    assert (first.blocked == again.blocked).all() and (first.stand_cells == again.stand_cells).all()
    assert (first.blocked != other.blocked).any(1).all()
    assert len(np.unique(first.blocked, axis=0)) == 8
    before = first.blocked
    for action in random_actions(5, 8):
        ended = first.step(action).ended
    assert ended and (first.blocked != before).any(1).all()


def test_maps_are_connected_and_of_every_size() -> None:
    world = TaxiWorld(400, seed=1004, walls=0.3)
    assert {tuple(size) for size in world.size} == {(h, w) for h in (5, 6, 7) for w in (5, 6, 7)}
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    outside = (row < 1) | (row > world.size[:, :1]) | (column < 1) | (column > world.size[:, 1:])
    assert world.blocked[outside].all() and (~world.blocked).sum(1).min() >= 13  # half of 5 x 5
    steps = distances(world.blocked, world.position)
    assert ((steps < SIDE * SIDE) == ~world.blocked).all()
    assert (world.blocked & ~outside).any()
    for cells in (world.position, *world.stand_cells.T):
        assert not world.blocked[np.arange(400), cells].any()
    assert (world.position[:, None] != world.stand_cells).all()


@pytest.mark.parametrize("sides", [(3, 3), (4, 6), (7, 7)])
def test_maps_have_the_sides_that_are_asked_for(sides: tuple[int, int]) -> None:
    world = TaxiWorld(400, seed=5, sides=sides)
    asked = set(range(sides[0], sides[1] + 1))
    assert {*world.size[:, 0].tolist()} == asked and {*world.size[:, 1].tolist()} == asked
    outside = world.cells.reshape(400, SIDE, SIDE, len(CHANNELS))[:, :, :, CHANNELS.index("out of bounds")] > 0
    assert ((~outside).any(2).sum(1) == world.size[:, 0]).all() and ((~outside).any(1).sum(1) == world.size[:, 1]).all()
    stands = np.concatenate([world.stand_cells, world.position[:, None]], axis=1)
    assert not world.blocked[np.arange(400)[:, None], stands].any()


def test_walls_stop_the_taxi_and_moves_are_those_of_their_names() -> None:
    world = TaxiWorld(50, seed=1005)
    for action in random_actions(30, 50):
        row, column = np.divmod(world.position, SIDE)
        row, column = row + np.array([-1, 1, 0, 0, 0, 0])[action], column + np.array([0, 0, -1, 1, 0, 0])[action]
        free = ~world.blocked[np.arange(50), row * SIDE + column]
        expected = np.where(free, row * SIDE + column, world.position)
        world.step(action)
        assert (world.position == expected).all()


def test_a_window_shows_what_lies_around_and_nothing_else() -> None:
    world = TaxiWorld(20, seed=1006)
    seen = world.observation()[:, : 9 * len(CHANNELS)].reshape(20, 3, 3, len(CHANNELS))
    for b in range(20):
        row, column = divmod(world.position[b], SIDE)
        for i in range(3):
            for j in range(3):
                cell = (row + i - 1) * SIDE + column + j - 1
                inside = 1 <= row + i - 1 <= world.size[b, 0] and 1 <= column + j - 1 <= world.size[b, 1]
                expected = [
                    not inside,
                    bool(inside and world.blocked[b, cell]),
                    cell in world.stand_cells[b],
                    cell == world.passenger[b],
                    cell == world.destination[b],
                ]
                assert seen[b, i, j].tolist() == expected


def test_pickup_and_dropoff_do_nothing_while_a_passenger_is_sought_or_elsewhere() -> None:
    world = TaxiWorld(30, seed=1007)
    for action in (PICKUP, DROPOFF):
        before = world.observation()
        after = world.step(np.full(30, action)).observation
        assert (before == after).all() and not world.aboard.any()


def test_a_passenger_gets_in_only_where_they_wait_and_out_only_at_the_destination() -> None:
    world = TaxiWorld(30, seed=1010)
    while (world.task != PICK).any():  # all stand beside their passengers at last: who arrived waits
        world.step(np.where(world.task == PICK, DROPOFF, expert(world)))
    waits = world.position.copy()
    free = ~world.blocked[np.arange(30), waits - SIDE]
    world.step(np.full(30, UP))
    world.step(np.full(30, PICKUP))
    assert free.any() and (world.aboard == ~free).all()
    for _ in range(3):
        world.step(np.where(world.task == PICK, expert_way(world), PICKUP))
    assert world.aboard.all()
    away = world.position != world.destination
    world.step(np.full(30, DROPOFF))
    assert away.any() and world.aboard[away].all()


def expert_way(world: TaxiWorld) -> np.ndarray:
    """Back to the passenger, then pick up."""
    return expert(world) if (world.position == world.passenger).all() else np.where(world.position == world.passenger, PICKUP, 1)


def test_who_fails_within_the_limit_starts_the_possible_sub_task_afresh() -> None:
    world = TaxiWorld(4, seed=1008)
    status = [world.step(np.full(4, DROPOFF)).status for _ in range(LIMITS[FIND])]
    assert not np.stack(status[:-1]).any() and (status[-1] == Status.FAILED).all()
    assert (world.task == FIND).all() and not world.task_steps.any()


def test_the_passenger_is_seen_until_aboard_and_the_next_one_waits_elsewhere() -> None:
    world = TaxiWorld(12, seed=1009, stands=3)
    for _ in range(60):
        task, destination = world.task.copy(), world.destination.copy()
        success = world.step(expert(world)).status == Status.SUCCESS
        shown = world.cells[:, :, CHANNELS.index("passenger")]
        assert (shown.sum(1) == ~world.aboard).all()
        assert (world.cells[:, :, CHANNELS.index("destination")].argmax(1) == world.destination).all()
        assert (world.cells[:, :, CHANNELS.index("destination")].sum(1) == 1).all()
        assert (world.task[success] == (task[success] + 1) % 3).all()  # find_p, pickup, convey_p, find_p
        delivered = success & (task == CONVEY)
        assert (world.passenger[delivered] != destination[delivered]).all()
        assert (world.passenger != world.destination).all()
        assert (world.aboard == (world.task == CONVEY)).all()
        assert ((world.task != PICK) | (world.position == world.passenger)).all()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"stands 2 to 6, walls 0 to 0\.4, got 4, 300, 1, 0\.15"):
        TaxiWorld(4, stands=1)


@pytest.mark.parametrize("steps", [0, 7, 40, 95])  # in the first episode, and beyond its end
def test_a_world_that_was_saved_goes_on_as_it_would_have(steps: int) -> None:
    world, again, late = (TaxiWorld(6, seed=1005, stands=3, episode_steps=40) for _ in range(3))
    chance = random_actions(200, 6, seed=steps)

    def act(clock: int) -> np.ndarray:
        return np.where(np.arange(6) % 2, chance[clock], expert(world))  # passengers get off in half of them

    for clock in range(steps):
        world.step(act(clock))
    state = world.state_dict()
    again.load_state_dict(state)
    assert (again.observation() == world.observation()).all()
    first = act(steps)
    expected = None
    for clock in range(steps, 200):
        action = act(clock)
        left, right = world.step(action), again.step(action)
        assert all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))
        expected = left.observation if expected is None else expected
    late.load_state_dict(state)  # which neither of the two has changed
    assert (late.step(first).observation == expected).all()


def test_what_was_seen_last_comes_beside_the_first_sight_of_the_next_episode() -> None:
    world = TaxiWorld(4, seed=1006, episode_steps=3)
    steps = [world.step(action) for action in random_actions(3, 4)]
    assert all(np.array_equal(step.final, step.observation) for step in steps[:2])
    assert steps[2].ended and not np.array_equal(steps[2].final, steps[2].observation)


def test_without_convey_p_whoever_was_picked_up_is_gone_and_another_waits() -> None:
    world = TaxiWorld(8, seed=1007, stands=3, episode_steps=200, group=("find_p", "pickup"))
    picked, moved = np.zeros(8, dtype=int), np.zeros(8, dtype=int)
    for _ in range(150):
        before, task = world.passenger.copy(), world.task.copy()
        status = world.step(expert(world)).status
        gone = (task == TASKS.index("pickup")) & (status == Status.SUCCESS)
        picked += gone
        assert not world.aboard.any() and not (world.task == CONVEY).any()
        assert (world.passenger[~gone] == before[~gone]).all()
        moved += gone & (world.passenger != before)
    assert (picked > 5).all() and (moved > picked / 3).all()  # the stand at which the last one would have got off is drawn as well


@pytest.mark.parametrize("named", [4, 5])
def test_with_a_passenger_aboard_what_is_not_done_already_is_drawn_with_equal_chances(named: int) -> None:
    world = TaxiWorld(32, seed=1008, stands=3, episode_steps=200, group=TASKS[:named], named=named)
    assert world.observation().shape == (32, world.observation_size)
    drawn: dict[tuple[bool, bool], Counter[int]] = defaultdict(Counter)  # by whether at the destination, at another stand
    for _ in range(199):
        before = world.task.copy()
        status = world.step(expert(world)).status
        at, other = world.position == world.destination, world.at_another_stand()
        reached = status == Status.SUCCESS
        assert not (status == Status.FAILED).any()
        assert (at & world.aboard)[reached & (before == REACH)].all() and (other & world.aboard)[reached & (before == OTHER)].all()
        running = status == Status.RUNNING
        assert not (running & (((before == REACH) & at) | ((before == OTHER) & other))).any()  # to be there is enough
        assert (world.observation()[:, -named:].argmax(1) == world.task).all()
        for b in (~running & world.aboard).nonzero()[0]:
            drawn[bool(at[b]), bool(other[b])][int(world.task[b])] += 1
    possible = {(False, True): {CONVEY, REACH}, (True, False): {CONVEY, OTHER} if named == 5 else {CONVEY}}
    assert {place: set(counts) for place, counts in drawn.items()} == possible  # no expert's sub-task ends elsewhere
    for counts in drawn.values():
        assert counts.total() > 150
        assert all(abs(count / counts.total() - 1 / len(counts)) < 0.1 for count in counts.values())


def test_another_stand_is_one_that_is_not_the_destination_and_the_nearest_for_an_expert() -> None:
    world = TaxiWorld(16, seed=1012, stands=4, episode_steps=300, group=TASKS, named=5)
    solved = 0
    best, rows = np.zeros(16, dtype=int), np.arange(16)
    for _ in range(299):
        ways = np.stack([distances(world.blocked, world.stand_cells[:, k])[rows, world.position] for k in range(4)], axis=1)
        ways[world.stand_cells == world.destination[:, None]] = 99
        best = np.where(world.task_steps == 0, ways.min(1), best)
        task, spent = world.task.copy(), world.task_steps + 1
        done = (world.step(expert(world)).status == Status.SUCCESS) & (task == OTHER)
        assert (spent[done] == best[done]).all()
        solved += int(done.sum())
    assert solved > 100


def test_other_sub_tasks_change_nothing_for_who_does_not_name_them() -> None:
    three, four = TaxiWorld(8, seed=1009, episode_steps=60), TaxiWorld(8, seed=1009, episode_steps=60, named=5)
    for action in random_actions(100, 8):
        left, right = three.step(action), four.step(action)
        assert np.array_equal(left.observation, right.observation[:, :-2]) and not right.observation[:, -2:].any()
        assert np.array_equal(left.status, right.status)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": ("find_p", "pickup", "reach_d"), "named": 4}, "reach_d and reach_o need the sub-task convey_p beside them"),
        ({"group": TASKS}, "an observation that tells 3 sub-tasks apart cannot tell reach_d, reach_o"),
    ],
)
def test_a_group_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaxiWorld(2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("group", [("pickup",), ("find_p", "convey_p"), ("find_p", "pickup", "fly")])
def test_a_world_that_cannot_be_is_refused(group: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"taxi: a world needs|sub-task"):
        TaxiWorld(2, group=group)
