"""Look at a folder of your own text: what is in it, what cannot be read, which tasks a stream makes of it.

clbench data check ~/data/clinc150

Exit code 1 where nothing can be read.
"""

from __future__ import annotations

import argparse

from .. import registry
from ..output import Output

NOTHING = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench data`."""
    parser.add_argument("what", choices=["check"], help="check: read everything and say what was found; nothing is written")
    parser.add_argument("folder", help="where the text lies")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Read the folder and write what it holds."""
    findings = registry.load("data", "text")(arguments.folder)
    if arguments.json:
        out.json(findings.plain())
    else:
        if findings.datasets:
            out.table(findings.columns, findings.table)
        for line in findings.lines:
            out.result(line)
    return 0 if findings.fulfilled else NOTHING
