"""Rebuild results/reproductions.md from the committed packs; with --pack take finished runs in first, with --check only compare.

clbench run experiment=reproduce/rmt-distance && clbench reproductions --pack results/runs
clbench reproductions --check
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from ..errors import UserError
from ..output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench reproductions`."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 3 where the page is not what would be written")
    parser.add_argument("--pack", metavar="DIR", help="first pack the finished runs of claims that lie below DIR")
    parser.add_argument("--results", default="results", metavar="DIR", help="where reproductions/ lies (default: results)")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="the date of new packs (default: today)")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Pack, then write or compare."""
    results = Path(arguments.results)
    if not results.is_dir():
        raise UserError(f"no folder '{results}'; type it with --results DIR, or go to the folder that has results/")
    if arguments.pack and arguments.check:
        raise UserError("--pack and --check exclude each other; give one of them")
    from .. import reproductions

    if arguments.pack:
        runs = Path(arguments.pack)
        if not runs.is_dir():
            raise UserError(f"no folder '{runs}'; --pack takes the results_dir of the runs, as in results/runs")
        date = arguments.date or datetime.now(UTC).strftime("%Y-%m-%d")
        for folder in (folder for claim in reproductions.claims() for folder in reproductions.pack(claim, runs, results, date)):
            out.result(str(folder))
    if reproductions.generate(results, check=arguments.check):
        out.result(str(results / "reproductions.md"))
    else:
        out.say(f"{results / 'reproductions.md'} is up to date")
    return 0
