"""The algorithmic stream as phases: one algorithm after another, cued by an op-code, scored above its best shortcut. Source: spec 3.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clbench.errors import UserError
from clbench.stream import FewShot, Phase, TaskStream, variant

from .algorithmic import EXAMPLES, HELD_OUT, STREAM, TEST_EXAMPLES
from .algorithmic import tasks as make_tasks
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
