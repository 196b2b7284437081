"""Language streams of one task after another: algorithms, compositions, families of questions, domains, facts; above the best shortcut.

Sources: spec language.md 3.2 (algorithms), 3.7 (composition), 3.3 (a small world), 5.7 and 5.8 (needles), 3.4 (domains), 3.6 (knowledge).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from clbench.errors import UserError, unknown_name
from clbench.stream import Phase, TaskStream, variant

from . import composition, domains, knowledge, needles, world
from .algorithmic import EXAMPLES, HELD_OUT, STREAM, TEST_EXAMPLES
from .algorithmic import tasks as make_tasks
from .probes import TWO_HOP, UNKNOWN, check_probes, probe_tasks
from .stream_parts import few_shot_of, text_tasks, without_cues
from .task import TextTask, announced
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
    blur: float = 0.0,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    repeats: int = 1,
    units: Mapping[str, int] | None = None,
    points: int = 5,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 960,
    reading: str = "gradient",
) -> TaskStream:
    """Phases over `tasks` at the sizes of `budget`, every training example seen once.

    `units`: training examples by task; without it the table of the stream. identity "cued": an op-code in the text; "blind": nothing tells
    tasks apart; "oracle-id": the op-code and `TaskInfo.index`. `held_out` tasks are adapted to from `shots` examples, `draws` times, with
    `adaptation_units` examples drawn from them, by the untrained agent and after the last phase. `validation`: all scores are on examples
    of their own, for tuning. `repeats`: how often the list of tasks is lived through.
    """
    if budget not in STREAM:
        raise UserError(f"stream '{name}': budget must be one of {', '.join(STREAM)}, got '{budget}'")
    names = list(STREAM[budget] if tasks is None else tasks)
    others = list(HELD_OUT[budget] if held_out is None else held_out)
    made = make_tasks(budget, [*names, *others], identity=identity, scored_on="validation" if validation else "test")
    columns, adapted = tuple(made[: len(names)]), tuple(made[len(names) :])
    _check_named(name, units or {}, names)
    table = {**EXAMPLES[budget], **(units or {})}
    if missing := [task for task in names if task not in table]:
        raise UserError(f"stream '{name}': no number of training examples for '{missing[0]}'; add it to units")
    stream = TaskStream(
        name=name if identity == "cued" else f"{name}-{identity}",
        version=version,
        budget=budget,
        tasks=columns,
        phases=tuple(Phase((column,), table[task], points) for column, task in enumerate(names)),
        few_shot=few_shot_of(adapted, shots, draws, adaptation_units, len(names), reading),
        boundaries=boundaries,
        window=window,
        kind="algorithmic",
        options={"identity": identity, "vocabulary": vocabulary().hash, "test_examples": TEST_EXAMPLES[budget]},
        description=f"{len(names)} algorithmic language tasks",
    )
    return variant(stream, joint=joint, only=only, validation=validation, repeats=repeats, blur=blur)


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
    alphabets: int = 1,
    floor: str = "shortcuts",
    units: int = 25_600,
    points: int = 8,
    test_examples: int = 256,
    boundaries: bool = True,
    blur: float = 0.0,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    draws: int = 3,
    adaptation_units: int = 960,
    reading: str = "gradient",
) -> TaskStream:
    """Four functions of strings, then four compositions of them, for `units` training examples each, all of them seen once.

    `control` "unrelated": the first four are other functions; "relabel": each composition has an op-code of its own. Strings have `low` to
    `high` of `symbols` symbols. `alphabets` 2: one function, part of every composition, writes them in a second one. `floor`: score 0 is
    the best of the functions' own shortcuts; "all": or of the commonest answers, which in a second alphabet are better.
    `repeats`: how often the list is lived through; scores of both visits stand in one column. `held_out`
    tasks are adapted to from `shots` examples, `draws` times, with `adaptation_units` examples drawn from them.
    """
    if units < 1 or test_examples < 1:
        raise UserError(f"stream '{name}': units and test_examples must be > 0, got {units} and {test_examples}")
    if floor not in composition.FLOORS:
        raise unknown_name("floor", floor, composition.FLOORS, "stream.floor")
    level = composition.FLOORS[floor]
    names = list(composition.order(control, alphabets) if tasks is None else tasks)
    others = [each for each in (composition.held_out(alphabets) if held_out is None else held_out) if each not in names]
    made = composition.generators([*names, *others], low=low, high=high, symbols=symbols, control=control, alphabets=alphabets)
    phases = tuple(Phase((column,), units, points) for column in range(len(names)))
    adapted = text_tasks(made[len(names) :], level, test_examples, validation)
    return without_cues(
        made[: len(names)],
        level,
        name=name,
        version=version,
        budget=budget,
        phases=phases,
        few_shot=few_shot_of(adapted, shots, draws, adaptation_units, len(phases), reading),
        boundaries=boundaries,
        window=window,
        kind="composition",
        options={"control": control, "low": low, "high": high, "symbols": symbols, **({"alphabets": 2} if alphabets == 2 else {})},
        description=f"{len(names)} functions of strings, the later ones made of the earlier" if control != "unrelated" else "its control",
        test_examples=test_examples,
        joint=joint,
        only=only,
        validation=validation,
        repeats=repeats,
        blur=blur,
    )


def world_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str] = ("where-person", "who-holds", "yes-no", "direction"),
    held_out: Sequence[str] = ("list-held", "path"),
    people: int = 4,
    places: int = 4,
    objects: int = 3,
    events: int = 8,
    rendering: str = "symbolic",
    fillers: Sequence[int] = (0,),
    probed: Sequence[int] = (),
    units: int | Mapping[str, int] = 64_000,
    identity: str = "cued",
    points: int = 5,
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
    """Families of questions about a small world (`world.FAMILIES`), one phase each, in order.

    A phase trains stories among each number of filler tokens in `fillers`, in equal parts; those of `probed` are columns that are never
    trained, named as in where-person+256. `units`: training examples of a phase, for all or by family. identity "cued": an op-code opens
    the text; "blind": the question alone tells families apart; "oracle-id": the op-code and `TaskInfo.index`. `held_out` families are
    adapted to from `shots` examples, `draws` times, with `adaptation_units` examples drawn from them. `repeats`: how often
    the list of families is lived through.
    """
    names, amounts = list(tasks), [*fillers, *(filler for filler in probed if filler not in fillers)]
    if not names or not fillers or len(set(names)) < len(names):
        raise UserError(f"stream '{name}': expected tasks, each once, and at least one number in fillers, got {names} and {list(fillers)}")
    if test_examples < 1:
        raise UserError(f"stream '{name}': test_examples must be > 0, got {test_examples}")
    others = [each for each in held_out if each not in names]
    table = dict(units) if isinstance(units, Mapping) else dict.fromkeys(names, units)
    for task in names:
        if table.get(task, 0) < 1:
            raise UserError(f"stream '{name}': units must give each task a number > 0 of training examples, got {units!r} for '{task}'")
    _check_named(name, table, names)

    def made(family: str, filler: int) -> TextTask:
        generator = world.generator(
            family, people=people, places=places, objects=objects, events=events, rendering=rendering, filler=filler
        )
        return announced(
            generator,
            world.FAMILIES[family][1],
            world.floor(generator),
            identity=identity,
            place=[*names, *others].index(family),
            tasks=len(names) + len(others),
            test_examples=test_examples,
            scored_on="validation" if validation else "test",
        )

    columns, adapted = _among_fillers(made, names, others, amounts)
    phases = _mixing_fillers(fillers, amounts, [table[family] for family in names], points)
    stream = TaskStream(
        name=name if identity == "cued" else f"{name}-{identity}",
        version=version,
        budget=budget,
        tasks=columns,
        phases=phases,
        few_shot=few_shot_of(adapted, shots, draws, adaptation_units, len(phases), reading),
        boundaries=boundaries,
        window=window,
        kind="world",
        options={
            "people": people,
            "places": places,
            "objects": objects,
            "events": events,
            "rendering": rendering,
            "identity": identity,
            "vocabulary": vocabulary().hash,
            "test_examples": test_examples,
        },
        description=f"{len(names)} families of questions about people, places and objects",
    )
    return variant(stream, joint=joint, only=only, validation=validation, repeats=repeats, blur=blur)


def needles_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str] = ("passkey", "needle"),
    held_out: Sequence[str] = (),
    fillers: Sequence[int] = (64,),
    probed: Sequence[int] = (),
    units: int = 38_400,
    identity: str = "cued",
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
    """Families of things hidden in long texts (`needles.FAMILIES`), one phase each, in order.

    A phase trains texts with each number of filler tokens in `fillers`, in equal parts; those of `probed` are columns that are never
    trained, named as in passkey+4096. `units`: training examples of a phase. Identity, `held_out` and `repeats` as in `world_stream`.
    """
    names, amounts = list(tasks), [*fillers, *(filler for filler in probed if filler not in fillers)]
    others = [each for each in held_out if each not in names]
    if not names or not fillers or len(set(names)) < len(names) or min(units, test_examples) < 1:
        raise UserError(
            f"stream '{name}': expected tasks, each once, at least one number in fillers, and units and test_examples > 0, "
            f"got {names}, {list(fillers)}, {units} and {test_examples}"
        )

    def made(family: str, filler: int) -> TextTask:
        generator = needles.generator(family, filler)
        return announced(
            generator,
            needles.FAMILIES[family],
            needles.floor(generator),
            identity=identity,
            place=[*names, *others].index(family),
            tasks=len(names) + len(others),
            test_examples=test_examples,
            scored_on="validation" if validation else "test",
        )

    columns, adapted = _among_fillers(made, names, others, amounts)
    stream = TaskStream(
        name=name if identity == "cued" else f"{name}-{identity}",
        version=version,
        budget=budget,
        tasks=columns,
        phases=_mixing_fillers(fillers, amounts, [units] * len(names), points),
        few_shot=few_shot_of(adapted, shots, draws, adaptation_units, len(names), reading),
        boundaries=boundaries,
        window=window,
        kind="needles",
        options={"identity": identity, "vocabulary": vocabulary().hash, "test_examples": test_examples},
        description=f"{len(names)} families of things hidden in texts of {min(amounts)} to {max(amounts)} other tokens",
    )
    return variant(stream, joint=joint, only=only, validation=validation, repeats=repeats, blur=blur)


def domains_stream(
    *,
    name: str,
    version: int,
    budget: str,
    tasks: Sequence[str] = domains.NAMES,
    held_out: Sequence[str] = (),
    length: int = 128,
    units: int = 6_400,
    points: int = 5,
    test_examples: int = 256,
    repeats: int = 1,
    boundaries: bool = True,
    blur: float = 0.0,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
    shots: Sequence[int] = (0, 1, 5, 20, 100),
    draws: int = 3,
    adaptation_units: int = 960,
    reading: str = "gradient",
) -> TaskStream:
    """Domains of text to be predicted token by token (`domains.NAMES`), one phase each, in order: `units` documents of `length` tokens.

    `held_out` domains are adapted to from `shots` documents, `draws` times, with `adaptation_units` drawn from them. `repeats`: how often
    the list of domains is lived through. `validation`: domains of other grammars.
    """
    names, others = list(tasks), [each for each in held_out if each not in tasks]
    if not names or len(set(names)) < len(names):
        raise UserError(f"stream '{name}': expected tasks, each once, got {names}")
    if units < 1 or test_examples < 1:
        raise UserError(f"stream '{name}': units and test_examples must be > 0, got {units} and {test_examples}")
    made = domains.tasks([*names, *others], length=length, test_examples=test_examples, validation=validation)
    stream = TaskStream(
        name=name,
        version=version,
        budget=budget,
        tasks=made[: len(names)],
        phases=tuple(Phase((column,), units, points) for column in range(len(names))),
        few_shot=few_shot_of(made[len(names) :], shots, draws, adaptation_units, len(names), reading),
        boundaries=boundaries,
        window=window,
        kind="domains",
        options={"length": length, "vocabulary": vocabulary().hash, "test_examples": test_examples},
        description=f"{len(names)} domains of generated text, predicted token by token",
    )
    return variant(stream, joint=joint, only=only, validation=validation, repeats=repeats, blur=blur)


def knowledge_stream(
    *,
    name: str,
    version: int,
    budget: str,
    entities: int = 64,
    attributes: int = 2,
    values: int = 8,
    phases: int = 3,
    added: float = 0.1,
    updated: float = 0.25,
    statements: int = 6,
    exposures: int = 400,
    probes: Sequence[str] = (),
    points: int = 4,
    boundaries: bool = True,
    joint: bool = False,
    only: int | None = None,
    validation: bool = False,
    window: int = 1,
) -> TaskStream:
    """Facts about `entities` with `attributes` of `values` values each: published in phase 0, then `phases` - 1 diffs, one phase each.

    A later phase describes a share `added` of the entities for the first time and changes a share `updated` of the facts. Each fact stands
    in `exposures` documents of `statements` statements, with a question for each document. `probes`: what is asked beside the news, two-hop
    (everybody has a boss then, and is asked about through it) or unknown (an eighth of the entities is never described). `validation`:
    another history.
    """
    check_probes(probes)
    lived = knowledge.history(
        entities=entities,
        attributes=attributes,
        values=values,
        phases=phases,
        added=added,
        updated=updated,
        validation=validation,
        bosses=TWO_HOP in probes,
        silent=UNKNOWN in probes,
    )
    stream = TaskStream(
        name=name,
        version=version,
        budget=budget,
        tasks=(*knowledge.tasks(lived, statements), *probe_tasks(lived, probes, statements)),
        phases=tuple(Phase((phase,), knowledge.phase_units(lived, phase, statements, exposures), points) for phase in range(phases)),
        boundaries=boundaries,
        window=window,
        kind="knowledge",
        options={
            "entities": entities,
            "attributes": attributes,
            "values": values,
            "added": added,
            "updated": updated,
            "statements": statements,
            "exposures": exposures,
            "vocabulary": vocabulary().hash,
            **({"probes": list(probes)} if probes else {}),
        },
        description=f"{int(lived.published.any(axis=0).sum())} facts, published and brought up to date in {phases} phases",
    )
    return variant(stream, joint=joint, only=only, validation=validation)


def _among_fillers(
    made: Callable[[str, int], TextTask], names: Sequence[str], others: Sequence[str], amounts: Sequence[int]
) -> tuple[tuple[TextTask, ...], tuple[TextTask, ...]]:
    """Each of `names` among each amount of filler, in order, and each of `others` among the first."""
    return tuple(made(family, filler) for family in names for filler in amounts), tuple(made(family, amounts[0]) for family in others)


def _mixing_fillers(fillers: Sequence[int], amounts: Sequence[int], units: Sequence[int], points: int) -> tuple[Phase, ...]:
    """A phase for each family, which trains the first of its columns, those of `fillers`, in equal parts."""
    firsts = [number * len(amounts) for number in range(len(units))]
    return tuple(Phase(tuple(range(first, first + len(fillers))), count, points) for first, count in zip(firsts, units, strict=True))


def _check_named(name: str, units: Mapping[str, int], tasks: Sequence[str]) -> None:
    """Refuse training examples for a task that the stream does not have."""
    for task in units:
        if task not in tasks:
            raise unknown_name("task in units", task, tasks, f"stream.tasks of '{name}'")
