"""Measure the suite's own speed, as ratios on this machine; never results to publish.

clbench benchmark                                  what can be measured
clbench benchmark overhead stream=toy agent=ewc    the share of a run that is neither learning nor evaluating
clbench benchmark evaluation                       evaluation against what a user would pick instead
"""

from __future__ import annotations

import argparse
import inspect
import tempfile
from pathlib import Path
from typing import Any

from .. import catalogue, registry
from ..errors import UserError
from ..output import Output

TOO_SLOW = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench benchmark`."""
    parser.add_argument("name", nargs="?", help="overhead, or a name of `clbench list benchmarks`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with overhead: the run (default: stream=toy agent=fine-tuning)")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Measure and write."""
    if arguments.name is None:
        rows = [("overhead", "share of a run that is neither learning nor evaluating nor adapting")]
        rows += [(name, catalogue.summary_line("benchmarks", point)) for name, point in sorted(registry.providers("benchmarks").items())]
        out.json([{"name": n, "description": d} for n, d in rows]) if arguments.json else out.table(("benchmark", "description"), rows)
        return 0
    if arguments.name == "overhead":
        return _overhead(arguments.overrides, arguments.json, out)
    if arguments.overrides:
        raise UserError(f"benchmark {arguments.name} takes no key=value, got '{arguments.overrides[0]}'")
    measure = registry.load("benchmarks", arguments.name)
    if not arguments.json:
        said = catalogue.summary_line("benchmarks", registry.providers("benchmarks")[arguments.name])
        out.say(f"{said} This takes minutes; the table comes when all of it is measured.")
    heard = {"say": out.say} if not arguments.json and "say" in inspect.signature(measure).parameters else {}
    result = measure(**heard)
    if hasattr(result, "table") and not arguments.json:
        out.measured(result.table())
    else:
        out.json(_plain(result))
    return 0 if getattr(result, "fulfilled", True) else TOO_SLOW


def _plain(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _overhead(words: list[str], as_json: bool, out: Output) -> int:
    from .. import runs
    from ..configuration import resolve

    keys = [word.partition("=")[0] for word in words]
    words = [*(word for key, word in (("stream", "stream=toy"), ("agent", "agent=fine-tuning")) if key not in keys), *words]
    with tempfile.TemporaryDirectory(prefix="clbench-") as folder:
        request = resolve(words).request
        request.agent.build(request.stream.info(0), 0)  # torch imports its compiler with the first optimiser, seconds that no run repeats
        run = runs.execute(request, Path(folder))
    spent = [event for event in run.events if event["kind"] == "resources"][-1]
    total = spent["total_s"]
    parts = {purpose: spent[f"{purpose}_s"] for purpose in ("learn", "evaluate", "adapt", "prepare", "save") if f"{purpose}_s" in spent}
    share = 1 - sum(parts[purpose] for purpose in ("learn", "evaluate", "adapt")) / total
    result = {"stream": request.stream.identity, "budget": request.stream.budget, "agent": request.agent.name, "total_s": total}
    result |= {f"{name}_s": seconds for name, seconds in parts.items()} | {"harness_share": round(share, 4)}
    if as_json:
        out.json(result)
    else:
        out.table(tuple(result), [tuple(result.values())])
        out.say(f"{share:.1%} of the time is the harness's own: preparing, saving, writing events")
    return 0
