"""Turn the logs of another code base into runs, to be measured like ours; what was imported once is left alone.

clbench import continual-world LOGDIR --out DIR
clbench metrics DIR --family cw --json
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..errors import UserError, unknown_name
from ..output import Output

FORMATS = ("continual-world",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench import`."""
    parser.add_argument("format", help=f"whose logs: {', '.join(FORMATS)}")
    parser.add_argument("logs", metavar="LOGDIR", help="a folder with logs at any depth")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the runs go")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Read all logs, then write a run for each."""
    from .. import continual_world

    if arguments.format not in FORMATS:
        raise unknown_name("format", arguments.format, FORMATS, "clbench import --help")
    target = Path(arguments.out)
    if target.exists() and not target.is_dir():
        raise UserError(f"--out {target}: expected a folder, found a file")
    logs = continual_world.find_logs(Path(arguments.logs))
    family = continual_world.family(logs)
    written = 0
    for number, log in enumerate(logs):
        written += continual_world.store(log, family, number, target)
    counted = Counter((log.kind, log.method) for log in logs)
    rows = [(method, kind, count) for (kind, method), count in sorted(counted.items())]
    out.table(("method", "kind", "runs"), rows, title=f"{len(logs)} runs of {family}")
    out.say(f"{written} written below {target}, {len(logs) - written} were there before")
    out.say(f"next: clbench metrics {target} --family cw")
    return 0
