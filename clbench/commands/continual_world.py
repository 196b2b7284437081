"""Rebuild results/continual_world.md from submissions, reference sets and published figures; with --check only compare.

clbench continual-world
clbench continual-world --check
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench continual-world`."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit 3 where the page is not what would be written")
    parser.add_argument("--results", default="results", metavar="DIR", help="where submissions/ and published/ lie (default: results)")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write or compare."""
    results = Path(arguments.results)
    if not results.is_dir():
        raise UserError(f"no folder '{results}'; type it with --results DIR, or go to the folder that has results/")
    from ..report import continual_world

    page = results / continual_world.PAGE
    if continual_world.generate(results, check=arguments.check):
        out.result(str(page))
    else:
        out.say(f"{page} is up to date")
    return 0
