"""Test an agent against the contract, line by line; under a minute on a CPU.

  clbench check ./mine.py:Mine
  clbench check ewc agent.methods.ewc.strength=5
  clbench check random --stream mw3-demo

Without --stream it is tested on the toy stream with each kind of experience that it takes.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import UserError
from ..output import Output

if TYPE_CHECKING:
    from ..conformance import Finding

KINDS = ("demonstrations", "text", "interaction")
FAILED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench check`."""
    parser.add_argument("agent", help="a name of `clbench list agents`, or ./mine.py:Mine")
    parser.add_argument("overrides", nargs="*", metavar="agent.OPTION=value", help="options of the agent")
    parser.add_argument("--stream", action="append", metavar="NAME", help="a stream to test on (default: toy, all kinds of experience)")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write one line for each clause."""
    from .. import conformance
    from ..configuration import agent_from_words, stream_named

    for word in arguments.overrides:
        if not word.startswith(("agent.", "device=")):
            raise UserError(f"expected agent.OPTION=value or device=VALUE, got '{word}'")
    agent = agent_from_words(arguments.agent.removeprefix("agent="), arguments.overrides)
    if arguments.stream:
        streams = [stream_named(name.removeprefix("stream=")) for name in arguments.stream]
    else:
        streams = [stream_named("toy", options={"experience": kind, "units": 128, "tasks": 2}) for kind in KINDS]

    def tell(finding: Finding) -> None:
        if not arguments.json:
            out.result(_line(finding))

    findings = conformance.check(agent, streams, tell)
    broken = [finding for finding in findings if not finding.ok]
    if arguments.json:
        out.json([vars(finding) for finding in findings])
        return FAILED if broken else 0
    skipped = [kind for kind in {s.tasks[0].info.experience for s in streams} if kind not in {f.stream for f in findings}]
    if skipped:
        out.say(f"not tested, because {agent.name} does not take it: {', '.join(sorted(skipped))}")
    if broken:
        out.error(f"{len(broken)} of {len(findings)} clauses do not hold; the contract is in clbench.interfaces.Agent")
        return FAILED
    out.say(f"{agent.name} keeps the contract: {len(findings)} clauses. Next: clbench run stream=toy agent={arguments.agent}")
    return 0


def _line(finding: Finding) -> str:
    mark = "ok  " if finding.ok else "FAIL"
    return f"{mark}  {finding.stream:<15}{finding.clause:<40}{finding.seconds:5.1f} s" + (f"  {finding.message}" if finding.message else "")
