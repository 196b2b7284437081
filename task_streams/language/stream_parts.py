"""What the builders of text streams have in common: tasks that no op-code announces, few shots, units of phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clbench.errors import UserError
from clbench.interfaces import Task
from clbench.stream import FewShot, TaskStream, variant

from .task import Generator, TextTask
from .vocabulary import vocabulary


def without_cues(
    made: Sequence[Generator], floor: Callable[[Any], float], *, test_examples: int, validation: bool, **fields: Any
) -> TaskStream:
    """A stream whose tasks no op-code announces, one for each of the generators `made`, scored above `floor`."""
    tasks = text_tasks(made, floor, test_examples, validation)
    return uncued_stream(tasks, test_examples=test_examples, validation=validation, **fields)


def uncued_stream(
    tasks: tuple[Task, ...],
    *,
    name: str,
    options: Mapping[str, Any],
    test_examples: int,
    joint: bool,
    only: int | None,
    validation: bool,
    repeats: int = 1,
    blur: float = 0.0,
    **fields: Any,
) -> TaskStream:
    """A stream over `tasks` of the common vocabulary, `test_examples` of each; `fields` are TaskStream's."""
    if test_examples < 1:
        raise UserError(f"stream '{name}': test_examples must be > 0, got {test_examples}")
    fixed = {**options, "vocabulary": vocabulary().hash, "test_examples": test_examples}
    stream = TaskStream(name=name, tasks=tasks, options=fixed, **fields)
    return variant(stream, joint=joint, only=only, validation=validation, repeats=repeats, blur=blur)


def few_shot_of(  # noqa: PLR0917
    adapted: tuple[Task, ...], shots: Sequence[int], draws: int, units: int, phases: int, reading: str
) -> FewShot | None:
    """Adaptation of the untrained agent and after the last of `phases`; None where there is nothing to adapt to.

    `reading` "context": the examples stand in front of each question, and nothing is learned; "memory": they are learned from with the
    weights held.
    """
    return FewShot(adapted, tuple(shots), draws, units, (-1, phases - 1), "examples", reading=reading) if adapted else None


def text_tasks(made: Sequence[Generator], floor: Callable[[Any], float], test_examples: int, validation: bool) -> tuple[TextTask, ...]:
    """Tasks that no op-code announces."""
    scored_on = "validation" if validation else "test"
    return tuple(TextTask(g, cue=None, test_examples=test_examples, floor=floor(g), scored_on=scored_on) for g in made)


def granted_units(name: str, units: Sequence[int], phases: int) -> list[int]:
    """The units of each of `phases`; one number stands for all."""
    granted = list(units) * (phases if len(units) == 1 else 1)
    if len(granted) != phases:
        raise UserError(f"stream '{name}': expected units for {phases} phases, got {len(granted)}")
    return granted
