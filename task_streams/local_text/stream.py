"""Streams over real text in a folder of the user's: one data set, group of labels or domain after another."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clbench.errors import UserError, unknown_name
from clbench.interfaces import TaskInfo
from clbench.stream import Phase, TaskStream, variant

from ..language.stream_parts import few_shot_of
from ..language.task import IDENTITIES
from .corpus import Dataset
from .encoding import Encoding
from .folder import Survey, slug, survey
from .formats import FORMATS
from .records import Named
from .tasks import AnswerTask, ChoiceTask, DocumentTask, LocalTask

Part = tuple[str, Dataset, tuple[str, ...] | None]


def parts_of(found: Survey, classes_per_task: int | None) -> list[Part]:
    """The tasks that a folder gives, by name: groups of labels where they are published or asked for, else whole data sets."""
    parts: list[Part] = []
    several = len(found.datasets) > 1
    for name, dataset in found.datasets.items():
        before = f"{name}-" if several else ""
        if dataset.kind == "choices" and classes_per_task is not None:
            labels = dataset.labels
            cuts = [labels[first : first + classes_per_task] for first in range(0, len(labels), classes_per_task)]
            if len(cuts) > 1 and len(cuts[-1]) == 1:
                cuts[-2:] = [(*cuts[-2], *cuts[-1])]  # one answer alone is no choice
            parts += [(f"{before}classes-{number}", dataset, cut) for number, cut in enumerate(cuts, 1)]
        elif dataset.groups:
            for group, labels in dataset.groups.items():
                own = tuple(label for label in labels if label in set(dataset.labels))
                if len(own) > 1:
                    parts.append((before + slug(group), dataset, own))
        else:
            parts.append((name, dataset, None))
    return parts


def local_stream(
    *,
    name: str,
    version: int,
    budget: str,
    folder: str | None = None,
    text: str | int | Sequence[str | int] | None = None,
    answer: str | int | None = None,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    classes_per_task: int | None = None,
    tokens: str = "words",
    verbal: bool = False,
    measure: str = "tokens",
    longest: int = 128,
    train_examples: int | None = None,
    test_examples: int = 256,
    epochs: int = 1,
    identity: str = "blind",
    boundaries: bool = True,
    blur: float = 0.0,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    points: int = 5,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 5, 20),
    draws: int = 3,
    adaptation_units: int = 1600,
    reading: str = "gradient",
) -> TaskStream:
    """Phases over what `folder` holds; `clbench data check FOLDER` says what that is and how its tasks are called.

    `text` and `answer`: names of the columns or fields that hold them, several texts joined by blanks, or numbers from 1 of columns; null:
    found by their names and by what they hold. `tasks`: their names in order; null: all but those held out, in natural order of their
    names. `classes_per_task`: so many answers of a data set make a task. `tokens`: "bytes", "words" by their hash, or a folder with the
    `tokenizer.json` of a model. `verbal`: answers are their own words and not codes of two symbols. `measure`: how long answers are
    scored, "tokens" or one of `measures.MEASURES`. `longest`: tokens of a text that are kept. `train_examples`: of each task; null: all;
    each is seen `epochs` times. identity "blind": nothing tells tasks apart; "cued": the task's name opens each text; "oracle-id": that,
    and `TaskInfo.index`. `held_out` tasks are adapted to from `shots` examples (of choices for each answer), `draws` times, with
    `adaptation_units` examples drawn from them; with `reading` "context" they stand in front of each question instead, and nothing is
    learned, with "memory" weights are held.
    """
    counts = {"longest": longest, "test_examples": test_examples, "epochs": epochs, "train_examples": train_examples}
    _check(name, folder, identity, counts, classes_per_task)
    assert folder is not None
    found = survey(folder, named(text, answer))
    parts = {part[0]: part for part in parts_of(found, classes_per_task)}
    chosen = _chosen(name, found, parts, tasks, held_out)
    encoding = Encoding(tokens)
    told = identity == "oracle-id"
    everything = [*chosen, *held_out]

    def made(number: int, task: str) -> LocalTask:
        _, dataset, labels = parts[task]
        options: dict[str, Any] = {"choices": {"verbal": verbal}, "answers": {"measure": measure}, "text": {}}[dataset.kind]
        kind = {"choices": ChoiceTask, "answers": AnswerTask, "text": DocumentTask}[dataset.kind]
        return kind(
            task,
            TaskInfo(
                number if told else None, len(everything) if told else 1, "text", encoding.size, encoding.size, tokens=encoding.written
            ),
            dataset,
            encoding,
            longest=longest,
            train_examples=train_examples,
            test_examples=test_examples,
            scored_on="validation" if validation else "test",
            labels=labels,
            cue=identity != "blind",
            **options,
        )

    built = [made(number, task) for number, task in enumerate(everything)]
    _say_what_is_cut(built, longest)
    columns, others = tuple(built[: len(chosen)]), tuple(built[len(chosen) :])
    few = few_shot_of(others, shots, draws, adaptation_units, len(columns), reading)
    label = f"{name}-{Path(folder).expanduser().resolve().name.lower()}" if name == "local-text" else name
    stream = TaskStream(
        name=label if identity == "blind" else f"{label}-{identity}",
        version=version,
        budget=budget,
        tasks=columns,
        phases=tuple(
            Phase((column,), epochs * len(task.train), min(points, epochs * len(task.train))) for column, task in enumerate(columns)
        ),
        few_shot=few,
        boundaries=boundaries,
        window=window,
        kind="local-text",
        options={
            "content": {task.name: task.content for task in built},
            "tokens": encoding.identity,
            "verbal": verbal,
            "longest": longest,
            "epochs": epochs,
            "identity": identity,
            **({"measure": measure} if measure != "tokens" else {}),
        },
        description=f"{len(columns)} tasks of real text in a folder",
    )
    return variant(stream, joint=joint, only=only, validation=validation, blur=blur)


def named(text: str | int | Sequence[str | int] | None, answer: str | int | None) -> Named:
    """What the user says of columns and fields."""
    texts = [] if text is None else [text] if isinstance(text, str | int) else text
    for option, names in (("text", texts), ("answer", [] if answer is None else [answer])):
        if not isinstance(names, Sequence) or not all(isinstance(name, str | int) and str(name).strip() for name in names):
            raise UserError(
                f"stream.{option}: expected the name or number of a column or field, got {text if option == 'text' else answer!r}"
            )
    if answer in texts:
        raise UserError(f"stream.text and stream.answer are both '{answer}'; expected two columns or fields")
    return Named(tuple(str(name).lower() for name in texts), "" if answer is None else str(answer).lower())


def _say_what_is_cut(tasks: Sequence[LocalTask], longest: int) -> None:
    cut = {task.name: task.cut for task in tasks}
    if touched := {name: found for name, found in cut.items() if found[0]}:
        said = ", ".join(f"{name} {count:,}" for name, (count, _) in touched.items())
        most = max(length for _, length in touched.values())
        warnings.warn(f"texts longer than {longest} tokens lose the rest: {said}; stream.longest={most} keeps all", stacklevel=2)


def _check(name: str, folder: str | None, identity: str, counts: Mapping[str, int | None], classes_per_task: int | None) -> None:
    if folder is None:
        raise UserError(f"stream '{name}' reads a folder of yours; expected {FORMATS}; give stream.folder=PATH")
    if identity not in IDENTITIES:
        raise unknown_name("identity", identity, IDENTITIES, f"stream.identity of '{name}'")
    for option, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"stream '{name}': {option} must be > 0, got {value}")
    if classes_per_task is not None and classes_per_task < 2:
        raise UserError(f"stream '{name}': classes_per_task must be > 1, got {classes_per_task}")


def _chosen(name: str, found: Survey, parts: Mapping[str, Part], tasks: Sequence[str] | None, held_out: Sequence[str]) -> list[str]:
    """The names of the tasks that are trained, in order."""
    check = f"clbench data check {found.folder}"
    if not parts:
        raise UserError(f"stream '{name}': nothing in '{found.folder}' can be read{_first_reason(found)}; type: {check}")
    for given in (*(tasks or ()), *held_out):
        if given not in parts:
            raise unknown_name("task", given, parts, check)
    chosen = list(tasks) if tasks is not None else [part for part in parts if part not in held_out]
    if not chosen:
        raise UserError(f"stream '{name}': no task is left; give stream.tasks or fewer in stream.held_out")
    if repeated := [task for task in chosen if chosen.count(task) > 1 or task in held_out]:
        raise UserError(f"stream '{name}': task '{repeated[0]}' is given twice in tasks and held_out")
    return chosen


def _first_reason(found: Survey) -> str:
    return next((f": '{file}' {reason}" for file, reason in found.unread.items()), "")
