"""Names, one line each, with the distribution that provides them.

clbench list                 everything
clbench list agents
clbench list runs [DIR]      what was run, and how far it got
"""

from __future__ import annotations

import argparse
from typing import Any

from .. import catalogue, registry
from ..errors import unknown_name
from ..output import Output

FILES = {"agents": "agent", "streams": "stream", "experiments": "experiment"}
PARTS = ("methods", "backbones", "learners")
KINDS = ("agents", "streams", "configs", "experiments", *PARTS, "metrics", "benchmarks", "runs")

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench list`."""
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("folder", nargs="?", default="results/runs", metavar="DIR", help="where runs lie (default: results/runs)")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write the names."""
    if arguments.kind is not None and arguments.kind not in KINDS:
        raise unknown_name("kind of name", arguments.kind, KINDS, "clbench list --help")
    kinds = [arguments.kind] if arguments.kind else [kind for kind in KINDS if kind not in ("runs", "configs", "benchmarks")]
    found = {kind: rows(kind, arguments.folder, families=bool(arguments.kind)) for kind in kinds}
    if arguments.json:
        out.json(found[arguments.kind] if arguments.kind else found)
        return 0
    for number, (kind, entries) in enumerate(found.items()):
        if number:
            out.result()
        _write(kind, entries, arguments.folder, out, titled=len(found) > 1)
    return 0


def _write(kind: str, entries: list[Row], folder: str, out: Output, *, titled: bool) -> None:
    if not entries:
        out.result(f"no runs in '{folder}'; for example: clbench run stream=toy agent=ewc" if kind == "runs" else f"no {kind}")
        return
    columns = [column for column in entries[0] if titled is False or column != "provider"]
    out.table([kind if column == "name" else column for column in columns], [[entry[column] for column in columns] for entry in entries])


def rows(kind: str, folder: str = "results/runs", *, families: bool = True) -> list[Row]:
    """The names of one kind; `families`: with the metrics of other papers."""
    if kind == "runs":
        from .run_states import run_rows

        return run_rows(folder)
    if kind == "metrics":
        return _metric_rows(families=families)
    if kind == "configs":
        every = [file for group in catalogue.GROUPS for file in catalogue.files(group).values()]
        return [{"name": f"{file.group}/{file.name}", "provider": file.provider, "description": file.describe()} for file in every]
    if kind in FILES:
        files = catalogue.files(FILES[kind]).values()
        return [{"name": file.name, "provider": file.provider, "description": file.describe()} for file in files]
    points = registry.providers(kind)
    return [
        {"name": name, "provider": registry.provider(kind, name), "description": catalogue.summary_line(kind, point)}
        for name, point in sorted(points.items())
    ]


def _metric_rows(*, families: bool) -> list[Row]:
    from ..metrics import FAMILIES, METRICS

    return [
        {"name": m.name, "provider": m.source, "better": m.better, "unit": m.unit, "description": m.label}
        for m in [*METRICS.values(), *(FAMILIES.values() if families else ())]
    ]
