"""Write tables, figures and a site about runs; it opens from disk and needs no network.

clbench report results/runs -o site
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..output import Output
from .run_states import run_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench report`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or folders with runs below them")
    parser.add_argument("-o", "--out", required=True, metavar="SITE", help="the folder for the site")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write the site."""
    folders = run_folders(arguments.runs)
    from ..report.site import build

    files = build(folders, Path(arguments.out))
    index = next((file for file in files if file.name == "index.html"), Path(arguments.out))
    out.say(f"{len(files)} files about {len(folders)} runs")
    out.result(str(index))
    return 0
