"""The Taxi world as streams: sub-tasks learned together, or one after the others (Sorokin & Burtsev 2019, their continual experiment).

In words (`taxi_text_stream`) they are learned from rides that are told, one after another (spec language.md 5.9).
"""

from __future__ import annotations

from collections.abc import Sequence

from clbench.errors import UserError, unknown_name
from clbench.stream import Phase, TaskStream, check_whole_steps, variant

from ..language.stream_parts import few_shot_of, granted_units, uncued_stream
from .rides import RideTask, rides
from .task import TaxiTask
from .world import TASKS


def taxi_stream(
    *,
    name: str,
    version: int,
    budget: str,
    taught: Sequence[str] = ("find_p+pickup+convey_p",),
    stands: int = 2,
    walls: float = 0.15,
    episode_steps: int = 300,
    turn_penalty: float = 0.0,
    from_visit: int = 3,
    environments: int = 64,
    units: Sequence[int] = (1_920_000,),
    points: int = 4,
    test_episodes: int = 256,
    boundaries: bool = True,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """A phase for each entry of `taught`, which names the sub-tasks of its world, joined by +; every entry brings a sub-task of its own.

    The columns are all sub-tasks, asked about in the world that has all of them, from their `from_visit`-th time in an episode on.
    A phase is said to train the first column that it brings. `units`: environment steps of each phase, over `environments` side by side.
    """
    groups = [tuple(part.strip() for part in entry.split("+")) for entry in taught]
    for task in (task for group in groups for task in group if task not in TASKS):
        raise unknown_name("sub-task", task, TASKS, "task_streams/taxi/world.py")
    new = [[task for task in group if not any(task in earlier for earlier in groups[:n])] for n, group in enumerate(groups)]
    if not groups or not all(new):
        raise UserError(f"stream '{name}': every entry of taught must bring a sub-task that none before it has, got {list(taught)}")
    granted = list(units) * (len(groups) if len(units) == 1 else 1)
    if len(granted) != len(groups):
        raise UserError(f"stream '{name}': expected units for {len(groups)} phases, got {len(granted)}")
    if environments < 1 or test_episodes < 1 or from_visit < 1:
        raise UserError(
            f"stream '{name}': environments, test_episodes and from_visit must be at least 1, "
            f"got {environments}, {test_episodes}, {from_visit}"
        )
    check_whole_steps(name, granted, environments, points)
    last = tuple(task for task in TASKS if any(task in group for group in groups))
    options = {"stands": stands, "walls": walls, "episode_steps": episode_steps, "turn_penalty": turn_penalty}
    tasks = [
        TaxiTask(
            task,
            group=next(group for group in groups if task in group),
            asked_in=last,
            environments=environments,
            test_episodes=test_episodes,
            from_visit=from_visit,
            scored_on="validation" if validation else "test",
            options=options,
        )
        for task in last
    ]
    stream = TaskStream(
        name=name,
        version=version,
        budget=budget,
        tasks=tuple(tasks),
        phases=tuple(Phase((last.index(tasks_new[0]),), count, points) for tasks_new, count in zip(new, granted, strict=True)),
        boundaries=boundaries,
        window=window,
        kind="taxi",
        options={**options, "taught": list(taught), "from_visit": from_visit, "environments": environments, "test_episodes": test_episodes},
        description=f"Taxi: {', '.join(last)} on a map of its own in each episode",
    )
    return variant(stream, validation=validation)


def taxi_text_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str] = ("find_p", "convey_p"),
    held_out: Sequence[str] = (),
    stands: int = 2,
    walls: float = 0.0,
    steps: int = 64,
    from_visit: int = 2,
    stray: float = 0.2,
    view: str = "own",
    rendering: str = "symbolic",
    sides: Sequence[int] = (5, 7),
    units: Sequence[int] = (25_600,),
    points: int = 4,
    test_examples: int = 256,
    boundaries: bool = True,
    blur: float = 0.0,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    repeats: int = 1,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 960,
    reading: str = "gradient",
) -> TaskStream:
    """A phase for each sub-task of `tasks` (`rides.ASKED`), in order, learned from `units` rides of `steps` steps.

    A sub-task is learned and scored from its `from_visit`-th time in a ride on. `units`: one number stands for all phases. `held_out`
    sub-tasks are adapted to from `shots` rides, `draws` times, with `adaptation_units` rides drawn from them. `repeats`: how often the list
    is lived through.
    """
    granted = granted_units(name, units, len(tasks))
    options = {
        "stands": stands,
        "walls": walls,
        "steps": steps,
        "from_visit": from_visit,
        "stray": stray,
        "view": view,
        "rendering": rendering,
        "sides": list(sides),
    }
    scored_on = "validation" if validation else "test"
    made = [RideTask(rides(task, **options), test_examples=test_examples, scored_on=scored_on) for task in [*tasks, *held_out]]
    columns, adapted = tuple(made[: len(tasks)]), tuple(made[len(tasks) :])
    return uncued_stream(
        columns,
        name=name,
        version=version,
        budget=budget,
        phases=tuple(Phase((column,), count, points) for column, count in enumerate(granted)),
        few_shot=few_shot_of(adapted, shots, draws, adaptation_units, len(granted), reading),
        boundaries=boundaries,
        window=window,
        kind="taxi-text",
        options=options,
        description=f"rides of a taxi told step by step: {', '.join(tasks)}",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
        repeats=repeats,
        blur=blur,
    )
