"""Streams of one question that becomes harder: farther back, in longer texts, over more segments; scored above the best shortcut.

Sources: spec language.md 5.3 (drift) and 5.4 (distance), memory.md 13.4 and 13.5 (dictionaries), 13.8 (overwriting).
"""

from __future__ import annotations

from collections.abc import Sequence

from clbench.errors import UserError, unknown_name
from clbench.stream import Phase, TaskStream

from . import dictionary, distance, drift, overwrite
from .stream_parts import granted_units, without_cues


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
    granted = granted_units(name, units, len(trained))
    gaps = [*trained, *(gap for gap in probed if gap not in trained)]
    made = [distance.generator(question, gap, segment, length) for gap in gaps]
    return without_cues(
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
    granted = granted_units(name, units, len(trained))
    asked = [(count, False) for count in trained]
    asked += [(count, local > 0) for count in probed if local > 0 or count not in trained]
    made = [dictionary.generator(count, local=local, far=far, definitions=definitions, questions=questions) for count, far in asked]
    return without_cues(
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
    return without_cues(
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
    granted = granted_units(name, units, len(trained))
    lengths = [*trained, *(length for length in probed if length not in trained)]
    made = [drift.generator(length, symbols) for length in lengths]
    return without_cues(
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
