"""Streams of Meta-World demonstrations: learn each manipulation task from scripted experts, be scored in the real simulator.

Names carry what changes scores: `mw3` / `cw10` are v3 tasks; horizon, demonstrations, goals and the Meta-World version are in the
identity of the stream. The orders are Continual World's (Wolczyk et al. 2021, arXiv:2105.10919, section 4); demonstrations instead of
reinforcement are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version as installed_version

from clbench.errors import UserError
from clbench.interfaces import ExperienceKind, TaskInfo
from clbench.stream import FewShot, Phase, TaskStream, variant

from .goals import goals
from .task import ACTION_SIZE, OBSERVATION_SIZE, MetaWorldTask


def demonstration_stream(
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
    demonstrations: int = 40,
    noise: float = 0.1,
    horizon: int = 200,
    episodes: int = 50,
    goal_steps: int | None = None,
    units: int = 512_000,
    points: int = 5,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 25_600,
) -> TaskStream:
    """Phases over `tasks`, `repeats` times over; `units` demonstration steps each from `demonstrations` episodes a task.

    identity "cued": each visit is a column of its own and its one-hot ends the observation; "hidden": no cue, and visits to one task share
    a column. `held_out` tasks are adapted to from `shots` demonstrations, `draws` times, with `adaptation_units` steps each, by the
    untrained agent and after the last phase. `goal_steps`: steps of an episode that show the goal, 1 so that it must be remembered; null
    shows it always. `validation`: all scores are on goals of their own, for tuning.
    """
    cued = identity == "cued"
    scored_on = "validation" if validation else "evaluation"
    columns = columns_of(name, tasks, repeats=repeats, identity=identity, experience="demonstrations", held_out=held_out)
    all_made = tuple(
        MetaWorldTask(
            task,
            info,
            demonstrations=demonstrations,
            noise=noise,
            horizon=horizon,
            episodes=episodes,
            scored_on=scored_on,
            cue=cued,
            goal_steps=goal_steps,
            label=label,
        )
        for task, label, info in columns
    )
    made, others = all_made[: len(columns) - len(held_out)], all_made[len(columns) - len(held_out) :]
    phases = tuple(Phase((column,), units, points) for column in order_of(tasks, repeats, identity))
    stream = TaskStream(
        name=variant_name(name, cued, goal_steps),
        version=version,
        budget=budget,
        tasks=made,
        phases=phases,
        few_shot=FewShot(others, tuple(shots), draws, adaptation_units, (-1, len(phases) - 1)) if others else None,
        boundaries=boundaries,
        window=window,
        kind="metaworld-demonstrations",
        options={
            "metaworld": installed_version("metaworld"),
            "mujoco": installed_version("mujoco"),
            "goals": goals_hash((*tasks, *held_out), ("train", "few-shot", scored_on)),
            "demonstrations": demonstrations,
            "noise": noise,
            "horizon": horizon,
            "episodes": episodes,
            "terminate_on_success": True,
            "goal_visible": True if goal_steps is None else goal_steps,
        },
        description=f"{len(tasks)} Meta-World tasks from scripted demonstrations",
    )
    return variant(stream, joint=joint, only=only, validation=validation)


def columns_of(
    name: str, tasks: Sequence[str], *, repeats: int, identity: str, experience: ExperienceKind, held_out: Sequence[str] = ()
) -> list[tuple[str, str, TaskInfo]]:
    """Of each column of stream `name` the task, its label and what an agent is told; the `held_out` ones come last.

    identity "cued": each visit is a column, and its one-hot ends an observation; "hidden": no cue, and visits to a task share a column.
    A task is visited `repeats` times as often as it stands in `tasks`.
    """
    if identity not in ("cued", "hidden"):
        raise UserError(f"stream '{name}': identity must be cued or hidden, got '{identity}'")
    if repeats < 1:
        raise UserError(f"stream '{name}': repeats must be > 0, got {repeats}")
    cued = identity == "cued"
    visited = [*tasks] * repeats if cued else [*dict.fromkeys(tasks)]
    numbers = [visited[: place + 1].count(task) for place, task in enumerate(visited)]
    visits = [(task, task if number == 1 else f"{task}-{number}") for task, number in zip(visited, numbers, strict=True)]
    named = [*visits, *((task, task) for task in held_out)]
    cues = len(named) if cued else 0
    return [
        (
            task,
            label,
            TaskInfo(
                index=number if cued else None,
                num_tasks=max(cues, 1),
                experience=experience,
                input_size=OBSERVATION_SIZE + cues,
                output_size=ACTION_SIZE,
            ),
        )
        for number, (task, label) in enumerate(named)
    ]


def order_of(tasks: Sequence[str], repeats: int, identity: str) -> list[int]:
    """The column that each phase trains."""
    if identity == "cued":
        return list(range(len(tasks) * repeats))
    columns = [*dict.fromkeys(tasks)]
    return [columns.index(task) for task in tasks] * repeats


def variant_name(name: str, cued: bool, goal_steps: int | None) -> str:
    """Streams of one name are compared, so that what changes scores is in it."""
    name = name.removesuffix("-masked")
    masked = "" if goal_steps is None else "-masked"
    return name + masked + ("" if cued else "-hidden")


def goals_hash(tasks: Sequence[str], splits: Sequence[str]) -> str:
    """sha256 of every frozen position that the stream can use."""
    content = b"".join(goals(task, split).tobytes() for task in sorted(set(tasks)) for split in sorted(splits))
    return hashlib.sha256(content).hexdigest()
