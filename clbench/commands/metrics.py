"""Measure runs: rebuilds evals.csv and summary.json from the events and writes the numbers. Without runs: what the metrics are.

Packed runs are measured too, and left as they are.

clbench metrics
clbench metrics results/runs/toy@1
clbench metrics results/runs --family cw                  each method over its runs, with the intervals of Continual World
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClbenchError, unknown_name
from ..output import Output
from .run_states import run_folders

if TYPE_CHECKING:
    from ..derived import Reference
    from ..loading import LoadedRun

BROKEN = 3
SIDE_BY_SIDE = 5
"""More runs than this are rows, with the headline metrics only."""
COUNTED = ("bytes", "numbers", "units", "updates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench metrics`."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folders of runs, or folders with runs below them")
    parser.add_argument("--family", metavar="NAME", help="the metrics of another paper: cw, gem, avalanche, ...")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write the metrics of the runs, or their definitions."""
    _check_family(arguments.family)
    if not arguments.runs:
        return _definitions(arguments.family, arguments.json, out)
    folders = run_folders(arguments.runs)
    if arguments.family:
        return _family(folders, arguments.family, arguments.json, out)
    measured, broken = [], 0
    for folder in folders:
        try:
            measured.append(_measured(folder))
        except ClbenchError as error:  # one damaged run among many: its neighbours are still measured
            out.error(str(error))
            broken += 1
    if arguments.json:
        out.json(measured)
    elif measured:
        _write(measured, out)
    return BROKEN if broken else 0


def _check_family(name: str | None) -> None:
    from ..metrics import FAMILIES

    families = {key.partition(".")[0] for key in FAMILIES}
    if name is not None and name not in families:
        raise unknown_name("family", name, families, "clbench metrics")


def _definitions(family: str | None, as_json: bool, out: Output) -> int:
    from ..metrics import FAMILIES, METRICS

    table = {**METRICS, **FAMILIES}
    chosen = [m for m in table.values() if family is None or m.name.startswith(f"{family}.")]
    rows = [(m.name, m.unit, m.better, _definition(m.function)) for m in chosen]
    columns = ("metric", "unit", "better", "definition")
    if as_json:
        out.json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        out.table(columns, rows)
    return 0


def _definition(function: Any) -> str:
    while hasattr(function, "func"):  # a partial
        function = function.func
    return (inspect.getdoc(function) or "").split("\n")[0] if inspect.isfunction(function) else "as recorded by the run"


def _measured(folder: Path) -> dict[str, Any]:
    """The metrics of one run, which are written into its folder where it is not packed."""
    from .. import derived, runs
    from ..loading import load_run
    from ..store import is_packed

    run = load_run(folder)
    reference = derived.find_reference(run.manifest, _results_of(folder))
    if is_packed(folder):
        summary = derived.summary(run.manifest, run.events, reference)
    else:
        summary = runs.rebuild(folder, run.manifest, run.events, reference)
    return {**summary, "folder": str(folder)}


def _results_of(folder: Path) -> Path:
    """The folder above a run, or a packed one, in which its reference sets are looked for."""
    above = folder.absolute().parents
    return next((place for place in above if (place / "references").is_dir()), above[min(3, len(above) - 1)])


def _write(measured: Sequence[Mapping[str, Any]], out: Output) -> None:
    from ..report.tables import HEADLINE
    from ..store import is_packed

    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for summary in measured:
        groups[f"{summary['stream']}, budget {summary['budget']}"].append(summary)
    for title, group in sorted(groups.items()):
        names = sorted({name for summary in group for name, value in summary["metrics"].items() if value is not None}, key=_order)
        titles = [_title(summary) for summary in group]
        if len(group) <= SIDE_BY_SIDE:
            rows = [(name, *(_number(name, s["metrics"].get(name)) for s in group)) for name in names]
            out.table(("metric", *titles), rows, title=title)
        else:
            names = [name for name in names if name in HEADLINE]
            rows = [(run, *(_number(name, s["metrics"].get(name)) for name in names)) for run, s in zip(titles, group, strict=True)]
            out.table(("run", *names), rows, title=title)
        if any(s["status"] != "finished" for s in group):
            out.say("* unfinished: what is there was measured")
        out.result()
    if rebuilt := sum(not is_packed(Path(summary["folder"])) for summary in measured):
        out.say(f"evals.csv and summary.json of {rebuilt} {'run' if rebuilt == 1 else 'runs'} were rebuilt")


def _title(summary: Mapping[str, Any]) -> str:
    repeat = re.search(r"-r\d+$", summary["folder"])
    return f"{summary['agent']} s{summary['seed']}{repeat[0] if repeat else ''}{'' if summary['status'] == 'finished' else '*'}"


def _order(name: str) -> int:
    from ..metrics import METRICS

    return list(METRICS).index(name) if name in METRICS else len(METRICS)


def _number(name: str, value: float | None) -> Any:
    from ..metrics import METRICS

    if value is None or math.isnan(value):
        return None
    return f"{value:,.0f}" if name in METRICS and METRICS[name].unit in COUNTED else float(value)


def _family(folders: Sequence[Path], family: str, as_json: bool, out: Output) -> int:
    """The metrics of one paper, for each stream and agent over its runs."""
    from .. import derived
    from ..loading import load_run

    if family == "cw":
        return _continual_world(folders, as_json, out)
    loaded: dict[tuple[str, str, str], list[LoadedRun]] = defaultdict(list)
    for folder in folders:
        run = load_run(folder)
        loaded[run.stream, run.budget, run.agent].append(run)
    rows = []
    for (stream, budget, agent), group in sorted(loaded.items()):
        reference = derived.find_reference(group[0].manifest, _results_of(folders[0]))
        rows.append({"stream": stream, "budget": budget, "agent": agent, "runs": len(group), **_family_values(family, group, reference)})
    if as_json:
        out.json(rows)
    else:
        out.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    return 0


def _family_values(family: str, group: Sequence[LoadedRun], reference: Reference | None) -> dict[str, float | None]:
    from .. import metrics

    values: dict[str, float | None] = {}
    for metric in metrics.FAMILIES.values():
        if metric.name.startswith(f"{family}."):
            values[metric.name] = _family_value(metric, group, reference)
    return values


def _family_value(metric: Any, group: Sequence[LoadedRun], reference: Reference | None) -> float | None:
    """One value: of all runs where the metric takes them together, else the mean over runs; None where an input is missing."""
    from .. import metrics

    if reference is None and {"reference", "references"} & set(metric.inputs):
        return None
    shared: dict[str, Any] = {"runs": [run.matrix for run in group]}
    if reference is not None:
        shared["references"] = list(reference.runs)
        shared["reference"] = metrics.reference_curve_means(reference.runs, group[0].matrix.tasks)
    if "matrix" not in metric.inputs:
        return _finite(metric.function(*(shared[name] for name in metric.inputs)))
    values = [metric.function(*({**shared, "matrix": run.matrix}[name] for name in metric.inputs)) for run in group]
    return _finite(math.fsum(values) / len(values))


def _continual_world(folders: Sequence[Path], as_json: bool, out: Output) -> int:
    """`cw.*` with intervals, for each method of each stream; for another program without the stream's name where there is one stream."""
    from ..loading import load_run
    from ..report.continual_world import methods

    streams: dict[str, list[LoadedRun]] = defaultdict(list)
    for folder in folders:
        run = load_run(folder)
        streams[f"{run.family}/{run.budget}"].append(run)
    measured = {stream: methods(group, _results_of(folders[0])) for stream, group in sorted(streams.items())}
    if as_json:
        only = len(measured) == 1
        out.json({name if only else f"{stream}/{name}": values for stream, found in measured.items() for name, values in found.items()})
        return 0
    for stream, found in measured.items():
        rows = [(name, *(cell for value in values.values() for cell in _interval(value))) for name, values in found.items()]
        out.table(("method", "performance", "90 %", "forgetting", "90 %", "forward transfer", "90 %"), rows, title=stream)
    return 0


def _interval(value: Mapping[str, float] | None) -> tuple[float | None, str | None]:
    return (None, None) if value is None else (value["value"], f"{value['lo']:.3f} .. {value['hi']:.3f}")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
