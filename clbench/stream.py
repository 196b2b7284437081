"""A task stream as data: phases over tasks with budgets, a schedule of evaluations, few-shot adaptation, and an identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import seeding
from .errors import UserError, unknown_name
from .interfaces import Task, TaskInfo

READINGS = ("gradient", "context", "memory")
PROTOCOL_VERSION = 1  # what the Python code of the referee means; a change that moves scores raises it


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, ASCII, floats as Python writes them; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(value: Any) -> str:
    """The sha256 of the canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Phase:
    """Training on `columns` (more than one: a joint phase) for `units` in all, evaluated at `points` equally spaced moments."""

    columns: tuple[int, ...]
    units: int
    points: int = 1

    def stretches(self) -> tuple[int, ...]:
        """Units consumed at each evaluation point; the last is `units`."""
        return tuple(self.units * (i + 1) // self.points for i in range(self.points))


@dataclass(frozen=True)
class FewShot:
    """A copy of the agent begins a held-out task, is granted `units` drawn from K examples, is evaluated, is thrown away.

    `shots`: the declared set of K, 0 = zero-shot. `draws`: support sets, each a new draw; the set of a smaller K is a prefix of that of a
    larger one. `after`: phases at whose end it happens, -1 = the untrained agent, which every gain is measured against. `each`: `units` are
    granted for each example, where an example is lived through and not drawn again. `reading` "context": nothing is learned, and the K
    examples stand as text in front of each question (`in_context`). "memory": each of the K is learned from once with the weights held, so
    that only what the agent keeps beside them can tell of it (spec language.md 2.8, FS-mem).
    """

    tasks: tuple[Task, ...]
    shots: tuple[int, ...]
    draws: int
    units: int
    after: tuple[int, ...]
    shot_unit: str = "demonstrations"
    each: bool = False
    reading: str = "gradient"

    def __post_init__(self) -> None:
        if self.reading not in READINGS:
            raise unknown_name("reading", self.reading, READINGS, "stream.reading")
        if self.reading != "gradient" and any(task.info.experience != "text" for task in self.tasks):
            raise UserError(f"few shots that are read need tasks of text, and '{self.tasks[0].name}' is none; leave reading at gradient")


@dataclass(frozen=True)
class TaskStream:
    """What an agent lives through. `family` groups the variants of one stream; `role` says what a variant is for.

    `tasks` are the columns of the evaluation matrix. `boundaries`: whether the agent is told where a phase begins and ends. `window`: rows
    that end-of-phase scores average over. `options`: the resolved arguments of the builder, part of the identity. `blur`: the share of a
    phase of text over which it runs into the next, half of it before and half behind the boundary, of which nobody is told.
    """

    name: str
    version: int
    budget: str
    tasks: tuple[Task, ...]
    phases: tuple[Phase, ...]
    few_shot: FewShot | None = None
    boundaries: bool = True
    window: int = 1
    family: str = ""
    role: str = "stream"  # "stream", "joint" (multi-task upper bound), "single" (reference for one task)
    kind: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    blur: float = 0.0

    def __post_init__(self) -> None:
        where = f"stream '{self.name}'"
        if not 0 <= self.blur <= 1 or (self.blur and (self.boundaries or any(task.info.experience != "text" for task in self.tasks))):
            raise UserError(f"{where}: blur is a share of a phase, 0 to 1, of a stream of text without boundaries, got {self.blur}")
        if not self.tasks:
            raise UserError(f"{where}: expected at least one task, got none; name them in 'tasks'")
        names = [task.name for task in self.tasks]
        held_out = [task.name for task in self.few_shot.tasks] if self.few_shot else []
        if duplicates := sorted({n for n in names + held_out if (names + held_out).count(n) > 1}):
            raise UserError(f"{where}: task names must differ, '{duplicates[0]}' occurs more than once")
        if not self.phases:
            raise UserError(f"{where}: expected at least one phase, got none")
        for number, phase in enumerate(self.phases):
            if phase.units < 1 or not 1 <= phase.points <= phase.units:
                raise UserError(
                    f"{where}: phase {number}: units must be > 0 and points in 1..units, got units {phase.units}, points {phase.points}"
                )
            if not phase.columns or any(not 0 <= column < len(self.tasks) for column in phase.columns):
                raise UserError(f"{where}: phase {number}: columns must name tasks 0..{len(self.tasks) - 1}, got {phase.columns}")
        if self.few_shot and (min(self.few_shot.shots, default=0) < 0 or list(self.few_shot.shots) != sorted(set(self.few_shot.shots))):
            raise UserError(f"{where}: shots must be different integers >= 0 in rising order, got {list(self.few_shot.shots)}")
        object.__setattr__(self, "family", self.family or self.name)

    @property
    def identity(self) -> str:
        """`name@version`, what tables are headed by."""
        return f"{self.name}@{self.version}"

    @property
    def trained(self) -> tuple[tuple[int, ...], ...]:
        """The columns each phase trains."""
        return tuple(phase.columns for phase in self.phases)

    def info(self, phase: int) -> TaskInfo:
        """What the agent is told at the beginning of `phase`; a joint phase has no index."""
        columns = self.phases[phase].columns
        info = self.tasks[columns[0]].info
        return info if len(columns) == 1 else replace(info, index=None)

    def seed(self, purpose: str, task: Task) -> int:
        """The seed of evaluation or adaptation: it belongs to the stream's family and version, so that agents and variants are paired."""
        return seeding.integer(self.version, self.family, purpose, task.name)

    def spec(self) -> dict[str, Any]:
        """The canonical description: everything that can move a score. Its sha256 is the stream's hash."""
        few = self.few_shot
        return {
            "name": self.name,
            "version": self.version,
            "budget": self.budget,
            "family": self.family,
            "role": self.role,
            "kind": self.kind,
            "options": dict(self.options),
            "protocol_version": PROTOCOL_VERSION,
            "boundaries": self.boundaries,
            **({"blur": self.blur} if self.blur else {}),
            "window": self.window,
            "tasks": [_task_spec(task) for task in self.tasks],
            "phases": [{"columns": list(p.columns), "units": p.units, "points": p.points} for p in self.phases],
            "few_shot": None
            if few is None
            else {
                "tasks": [_task_spec(task) for task in few.tasks],
                "shots": list(few.shots),
                "draws": few.draws,
                "units": few.units,
                "after": list(few.after),
                "shot_unit": few.shot_unit,
                **({"each": True} if few.each else {}),
                **({"reading": few.reading} if few.reading != "gradient" else {}),
            },
        }

    def hash(self) -> str:
        """sha256 of the canonical description."""
        return digest(self.spec())


def _task_spec(task: Task) -> dict[str, Any]:
    info = task.info
    return {
        "name": task.name,
        "index": info.index,
        "num_tasks": info.num_tasks,
        "experience": info.experience,
        "input_size": info.input_size,
        "output_size": info.output_size,
        "scale": list(task.scale),
    }


def check_whole_steps(name: str, units: Sequence[int], environments: int, points: int) -> None:
    """Refuse `units` of phases that environments side by side cannot spend to the last at each of their `points`."""
    step = environments * max(points, 1)
    uneven = [count for count in units if points < 1 or count < 1 or count % step]
    if uneven:
        raise UserError(
            f"stream '{name}': units must be whole steps of {environments} environments at each of {points} points, "
            f"a multiple of {step}; got {uneven[0]}"
        )


def plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, so that a value equals itself after a round trip through JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def variant(
    stream: TaskStream, *, joint: bool = False, only: int | None = None, validation: bool = False, repeats: int = 1, blur: float = 0.0
) -> TaskStream:
    """`stream` as it is, with all its tasks in one joint phase, or with the phase of task `only` alone (the single-task reference).

    `repeats`: how often the list of phases is lived through, with the same budgets, experience of its own each time and the same columns.
    A reference adapts to held-out tasks before training only, and of those of one stream the first alone: every reference of one seed
    would measure the same untrained agent. `validation`: the tasks of `stream` are scored for tuning, and it becomes a family of its own.
    `blur`: phases run into each other, and no boundary is told; a joint phase and a reference have none.
    """
    if repeats < 1:
        raise UserError(f"stream '{stream.name}': repeats must be > 0, got {repeats}")
    if repeats > 1:
        last = len(stream.phases) * repeats - 1
        few = replace(stream.few_shot, after=(-1, last)) if stream.few_shot else None
        stream = replace(stream, name=f"{stream.name}-{repeats}-times", phases=stream.phases * repeats, few_shot=few)
    if blur and not joint and only is None:
        stream = replace(stream, name=f"{stream.name}-blurred", boundaries=False, blur=blur)
    if joint and only is not None:
        raise UserError(f"stream '{stream.name}': joint and only exclude each other; give one of them")
    if validation:
        stream = replace(stream, name=f"{stream.name}-validation", family=f"{stream.family}-validation")
    if joint:
        points = max(len(stream.phases), stream.window)
        columns = tuple(sorted({column for phase in stream.phases for column in phase.columns}))  # not those that are only probed
        phases = (Phase(columns, sum(phase.units for phase in stream.phases), points),)
        few = replace(stream.few_shot, after=(-1, 0)) if stream.few_shot else None
        return replace(stream, name=f"{stream.name}-joint", role="joint", phases=phases, few_shot=few)
    if only is None:
        return stream
    if not 0 <= only < len(stream.tasks):
        raise UserError(f"stream '{stream.name}': only must name a task 0..{len(stream.tasks) - 1}, got {only}")
    alone = next((phase for phase in stream.phases if phase.columns[0] == only), None)
    if alone is None:
        begun = sorted({phase.columns[0] for phase in stream.phases})
        raise UserError(f"stream '{stream.name}': only must name a task that a phase begins with, one of {begun}, got {only}")
    few = replace(stream.few_shot, after=(-1,)) if stream.few_shot and alone == stream.phases[0] else None
    return replace(stream, name=f"{stream.name}-only-{only}", role="single", phases=(alone,), few_shot=few)
