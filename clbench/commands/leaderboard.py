"""Rebuild leaderboard.md and results/leaderboard.csv from the committed submissions; with --check only compare.

clbench leaderboard
clbench leaderboard --check
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench leaderboard`."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 3 where a file is not what would be written")
    parser.add_argument("--results", default="results", metavar="DIR", help="where submissions/ and references/ lie (default: results)")
    parser.add_argument("--file", metavar="FILE", help="the page (default: leaderboard.md beside the results)")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write or compare."""
    results = Path(arguments.results)
    if not results.is_dir():
        raise UserError(f"no folder '{results}'; type it with --results DIR, or go to the folder that has results/")
    page = Path(arguments.file) if arguments.file else results.parent / "leaderboard.md"
    from ..report.leaderboard import generate

    changed = generate(results, page, check=arguments.check)
    for path in changed:
        out.result(str(path))
    if not changed:
        out.say(f"{page} and {results / 'leaderboard.csv'} are up to date")
    return 0
