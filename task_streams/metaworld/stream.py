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
from clbench.interfaces import TaskInfo
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
    if identity not in ("cued", "hidden"):
        raise UserError(f"stream '{name}': identity must be cued or hidden, got '{identity}'")
    if repeats < 1:
        raise UserError(f"stream '{name}': repeats must be > 0, got {repeats}")
    cued = identity == "cued"
    scored_on = "validation" if validation else "evaluation"
    visits = [(task, visit) for visit in range(repeats) for task in tasks]
    columns = visits if cued else visits[: len(tasks)]
    total = len(columns) + len(held_out)

    def make(task: str, number: int, label: str) -> MetaWorldTask:
        info = TaskInfo(
            index=number if cued else None,
            num_tasks=total if cued else 1,
            experience="demonstrations",
            input_size=OBSERVATION_SIZE + (total if cued else 0),
            output_size=ACTION_SIZE,
        )
        return MetaWorldTask(
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

    made = tuple(make(task, n, task if visit == 0 else f"{task}-{visit + 1}") for n, (task, visit) in enumerate(columns))
    phases = tuple(Phase((column,), units, points) for column in list(range(len(made))) * (1 if cued else repeats))
    others = tuple(make(task, len(columns) + n, task) for n, task in enumerate(held_out))
    stream = TaskStream(
        name=_variant_name(name, cued, goal_steps),
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
            "goals": _goals_hash((*tasks, *held_out), ("train", "few-shot", scored_on)),
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


def _variant_name(name: str, cued: bool, goal_steps: int | None) -> str:
    """Streams of one name are compared, so that what changes scores is in it."""
    masked = "" if goal_steps is None or name.endswith("-masked") else "-masked"
    return name + masked + ("" if cued else "-hidden")


def _goals_hash(tasks: Sequence[str], splits: Sequence[str]) -> str:
    """sha256 of every frozen position that the stream can use."""
    content = b"".join(goals(task, split).tobytes() for task in sorted(set(tasks)) for split in sorted(splits))
    return hashlib.sha256(content).hexdigest()
