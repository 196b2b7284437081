"""Language streams as phases: one algorithm after another, one question at rising distance; scored above the best shortcut.

Sources: spec language.md 3.2 (algorithms), 5.3 (drift) and 5.4 (distance), memory.md 13.4 and 13.5 (dictionaries), 13.8 (overwriting).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clbench.errors import UserError, unknown_name
from clbench.stream import FewShot, Phase, TaskStream, variant

from . import composition, dictionary, distance, drift, overwrite
from .algorithmic import EXAMPLES, HELD_OUT, STREAM, TEST_EXAMPLES
from .algorithmic import tasks as make_tasks
from .task import Generator, TextTask
from .vocabulary import vocabulary


def algorithmic_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] | None = None,
    identity: str = "cued",
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    units: Mapping[str, int] | None = None,
    points: int = 5,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 960,
) -> TaskStream:
    """Phases over `tasks` at the sizes of `budget`, every training example seen once.

    `units`: training examples by task; without it the table of the stream. identity "cued": an op-code in the text; "blind": nothing tells
    tasks apart; "oracle-id": the op-code and `TaskInfo.index`. `held_out` tasks are adapted to from `shots` examples, `draws` times, with
    `adaptation_units` examples drawn from them, by the untrained agent and after the last phase. `validation`: all scores are on examples
    of their own, for tuning.
    """
    if budget not in STREAM:
        raise UserError(f"stream '{name}': budget must be one of {', '.join(STREAM)}, got '{budget}'")
    names = list(STREAM[budget] if tasks is None else tasks)
    others = list(HELD_OUT[budget] if held_out is None else held_out)
    made = make_tasks(budget, [*names, *others], identity=identity, scored_on="validation" if validation else "test")
    columns, adapted = tuple(made[: len(names)]), tuple(made[len(names) :])
    for task in units or {}:
        if task not in names:
            raise unknown_name("task in units", task, names, f"stream.tasks of '{name}'")
    table = {**EXAMPLES[budget], **(units or {})}
    if missing := [task for task in names if task not in table]:
        raise UserError(f"stream '{name}': no number of training examples for '{missing[0]}'; add it to units")
    after = (-1, len(names) - 1)
    stream = TaskStream(
        name=name if identity == "cued" else f"{name}-{identity}",
        version=version,
        budget=budget,
        tasks=columns,
        phases=tuple(Phase((column,), table[task], points) for column, task in enumerate(names)),
        few_shot=FewShot(adapted, tuple(shots), draws, adaptation_units, after, shot_unit="examples") if adapted else None,
        boundaries=boundaries,
        window=window,
        kind="algorithmic",
        options={"identity": identity, "vocabulary": vocabulary().hash, "test_examples": TEST_EXAMPLES[budget]},
        description=f"{len(names)} algorithmic language tasks",
    )
    return variant(stream, joint=joint, only=only, validation=validation)


def distance_stream(
    *,
    name: str,
    version: int,
    budget: str,
    question: str,
    trained: Sequence[int] = (0, 1, 3),
    probed: Sequence[int] = (),
    segment: int = 8,
    length: int = 0,
    units: Sequence[int] = (32_000,),
    points: int = 2,
    test_examples: int = 256,
    mixed: bool = False,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """A curriculum over distance: `question`, one of `distance.QUESTIONS`, is trained at the gaps `trained`, one phase each, in order.

    A gap counts whole segments of `segment` tokens between the first one and the question. The columns are the gaps `trained` and
    `probed`; those only probed are never trained, and say how far the memory reaches beyond what it saw. `length`: symbols of a fact; 0: 4,
    and 8 for copy and reverse. `units`: training examples of each phase; one number stands for all. `mixed`: a phase trains its gap and
    all before it in equal parts, so that none is forgotten.
    """
    if question not in distance.QUESTIONS:
        raise unknown_name("question", question, distance.QUESTIONS, "task_streams/language/distance.py")
    if min((*trained, *probed), default=-1) < 0 or not trained:
        raise UserError(
            f"stream '{name}': trained and probed must be gaps >= 0, at least one trained, got {list(trained)} and {list(probed)}"
        )
    granted = _granted(name, units, len(trained))
    gaps = [*trained, *(gap for gap in probed if gap not in trained)]
    made = [distance.generator(question, gap, segment, length) for gap in gaps]
    return _without_cues(
        made,
        distance.floor,
        name=f"{name}-mixed" if mixed else name,
        version=version,
        budget=budget,
        phases=tuple(Phase(tuple(range(column + 1)) if mixed else (column,), count, points) for column, count in enumerate(granted)),
        boundaries=boundaries,
        window=window,
        kind="distance",
        options={"question": question, "segment": segment, **({"length": length} if length else {})},
        description=f"{question}: a fact, noise, and a question {min(gaps)} to {max(gaps)} segments later",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
    )


def dictionary_stream(
    *,
    name: str,
    version: int,
    budget: str,
    trained: Sequence[int] = (1,),
    probed: Sequence[int] = (),
    local: float = 0.0,
    definitions: int = 8,
    questions: int = 8,
    units: Sequence[int] = (32_000,),
    points: int = 2,
    test_examples: int = 256,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """Questions about definitions that stand `trained` segments back at most, one phase for each number, in order.

    `local`: the share of questions that the own segment answers; 0: definitions stand in segments of their own (lookup). The columns are
    the numbers `trained` and `probed`; those only probed are never trained, and with `local` ask about earlier segments alone (-far).
    `units`: training examples of each phase; one number stands for all.
    """
    if not trained:
        raise UserError(f"stream '{name}': expected at least one number of segments in trained, got none")
    granted = _granted(name, units, len(trained))
    asked = [(count, False) for count in trained]
    asked += [(count, local > 0) for count in probed if local > 0 or count not in trained]
    made = [dictionary.generator(count, local=local, far=far, definitions=definitions, questions=questions) for count, far in asked]
    return _without_cues(
        made,
        dictionary.floor,
        name=name,
        version=version,
        budget=budget,
        phases=tuple(Phase((column,), count, points) for column, count in enumerate(granted)),
        boundaries=boundaries,
        window=window,
        kind="dictionary",
        options={"local": local, "definitions": definitions, "questions": questions},
        description=f"definitions and questions about them up to {max(count for count, _ in asked)} segments later",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
    )


def overwrite_stream(
    *,
    name: str,
    version: int,
    budget: str,
    keys: int = 12,
    again: int = 6,
    values: int = 12,
    units: int = 38_400,
    points: int = 2,
    test_examples: int = 256,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """One phase: `keys` keys are bound to values, `again` of them anew, and all are asked, for `units` training examples.

    Two further columns, never trained, ask only for the keys bound twice and only for those bound once.
    """
    made = [overwrite.generator(task, keys, again, values) for task in overwrite.ASKED]
    return _without_cues(
        made,
        overwrite.floor,
        name=name,
        version=version,
        budget=budget,
        phases=(Phase((0,), units, points),),
        boundaries=boundaries,
        window=window,
        kind="overwrite",
        options={"keys": keys, "again": again, "values": values},
        description=f"{keys} keys are bound, {again} of them anew, and all are asked",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
    )


def drift_stream(
    *,
    name: str,
    version: int,
    budget: str,
    symbols: int = 8,
    trained: Sequence[int] = (512,),
    probed: Sequence[int] = (),
    units: Sequence[int] = (76_800,),
    points: int = 2,
    test_examples: int = 256,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """Sorting under drift: texts of the lengths `trained`, one phase each, in order; those `probed` are columns that are never trained.

    `units`: training examples of each phase; one number stands for all.
    """
    if not trained:
        raise UserError(f"stream '{name}': expected at least one length in trained, got none")
    granted = _granted(name, units, len(trained))
    lengths = [*trained, *(length for length in probed if length not in trained)]
    made = [drift.generator(length, symbols) for length in lengths]
    return _without_cues(
        made,
        drift.floor,
        name=name,
        version=version,
        budget=budget,
        phases=tuple(Phase((column,), count, points) for column, count in enumerate(granted)),
        boundaries=boundaries,
        window=window,
        kind="drift",
        options={"symbols": symbols},
        description=f"{symbols} symbols by decreasing frequency in {min(lengths)} to {max(lengths)} tokens that drift",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
    )


def composition_stream(
    *,
    name: str,
    version: int,
    budget: str,
    control: str = "none",
    tasks: Sequence[str] | None = None,
    held_out: Sequence[str] | None = None,
    repeats: int = 1,
    low: int = 3,
    high: int = 6,
    symbols: int = 12,
    units: int = 25_600,
    points: int = 8,
    test_examples: int = 256,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 960,
) -> TaskStream:
    """Four functions of strings, then four compositions of them, for `units` training examples each, all of them seen once.

    `control` "unrelated": the first four are other functions; "relabel": each composition has an op-code of its own. Strings have `low` to
    `high` of `symbols` symbols. `repeats`: how often the list is lived through; scores of both visits stand in one column. `held_out`
    tasks are adapted to from `shots` examples, `draws` times, with `adaptation_units` examples drawn from them.
    """
    if units < 1 or repeats < 1 or test_examples < 1:
        raise UserError(f"stream '{name}': units, repeats and test_examples must be > 0, got {units}, {repeats} and {test_examples}")
    names = list(composition.order(control) if tasks is None else tasks)
    others = [each for each in (composition.HELD_OUT if held_out is None else held_out) if each not in names]
    made = composition.generators([*names, *others], low=low, high=high, symbols=symbols, control=control)
    phases = tuple(Phase((column,), units, points) for column in [*range(len(names))] * repeats)
    adapted = _text_tasks(made[len(names) :], composition.floor, test_examples, validation)
    after = (-1, len(phases) - 1)
    return _without_cues(
        made[: len(names)],
        composition.floor,
        name=name if repeats == 1 else f"{name}-{repeats}-times",
        version=version,
        budget=budget,
        phases=phases,
        few_shot=FewShot(adapted, tuple(shots), draws, adaptation_units, after, shot_unit="examples") if adapted else None,
        boundaries=boundaries,
        window=window,
        kind="composition",
        options={"control": control, "low": low, "high": high, "symbols": symbols},
        description=f"{len(names)} functions of strings, the later ones made of the earlier" if control != "unrelated" else "its control",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
    )


def _without_cues(
    made: Sequence[Generator],
    floor: Callable[[Any], float],
    *,
    name: str,
    options: Mapping[str, Any],
    test_examples: int,
    joint: bool,
    only: int | None,
    validation: bool,
    **fields: Any,
) -> TaskStream:
    """A stream whose tasks no op-code announces, one for each of the generators `made`, scored above `floor`; `fields` are TaskStream's."""
    if test_examples < 1:
        raise UserError(f"stream '{name}': test_examples must be > 0, got {test_examples}")
    tasks = _text_tasks(made, floor, test_examples, validation)
    fixed = {**options, "vocabulary": vocabulary().hash, "test_examples": test_examples}
    return variant(TaskStream(name=name, tasks=tasks, options=fixed, **fields), joint=joint, only=only, validation=validation)


def _text_tasks(made: Sequence[Generator], floor: Callable[[Any], float], test_examples: int, validation: bool) -> tuple[TextTask, ...]:
    """Tasks that no op-code announces."""
    scored_on = "validation" if validation else "test"
    return tuple(TextTask(g, cue=None, test_examples=test_examples, floor=floor(g), scored_on=scored_on) for g in made)


def _granted(name: str, units: Sequence[int], phases: int) -> list[int]:
    granted = list(units) * (phases if len(units) == 1 else 1)
    if len(granted) != phases:
        raise UserError(f"stream '{name}': expected units for {phases} phases, got {len(granted)}")
    return granted
