"""The command line: finds the command, reads its arguments, turns errors into one line and an exit code.

0 done or nothing to do; 1 a run failed; 2 the user's mistake; 3 a contract or a record is broken; 4 some runs of several failed;
75 interrupted, the same command continues; 130 Ctrl-C. Only the module of the command that was typed is imported.
"""

from __future__ import annotations

import argparse
import errno
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from .errors import ClbenchError, UserError, unknown_name
from .output import Output, said

COMMANDS = {
    "list": "names of agents, streams, experiments, metrics, runs ...",
    "describe": "everything about one name or one run: tasks, budgets, options, provider",
    "doctor": "what is installed here and whether it works",
    "data": "say what a folder of your own text holds; write a text stream's questions down",
    "check": "test an agent against the contract, line by line",
    "run": "run an agent on a stream, or a grid, or an experiment; the same command continues",
    "metrics": "measure runs, or say what the metrics are",
    "report": "write tables, figures and a site about runs",
    "leaderboard": "rebuild leaderboard.md from the submissions",
    "reproductions": "rebuild results/reproductions.md: what papers claim, run again",
    "continual-world": "rebuild results/continual_world.md: our figures beside the published ones",
    "submit": "pack runs as a submission and validate it",
    "import": "turn the logs of another code base into runs",
    "benchmark": "measure the suite's own speed",
}
EPILOG = """start here:
  clbench run stream=toy agent=ewc            seconds; shows what a run is
  clbench run experiment=quickstart           minutes; three agents, two streams, a report
  clbench check ./mine.py:Mine                tests your own agent
  clbench COMMAND --help                      the arguments of a command
"""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is a `UserError` of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        message = message.removeprefix("argument ").replace("\n", " ")
        raise UserError(f"{message}; see: {self.prog} --help")


def program() -> NoReturn:
    """What is typed as `clbench`: Ctrl-C no longer changes the exit code once there is one."""
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv`."""
    words = list(sys.argv[1:] if argv is None else argv)
    out = Output(quiet="--quiet" in words)
    try:
        with out.warnings_as_lines():
            return _dispatch(words)
    except ClbenchError as error:
        if "--debug" in words:
            out.traceback()
        (out.warn if error.exit_code == 0 else out.error)(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        out.error("stopped by Ctrl-C; nothing was begun or everything is saved, the same command continues")
        return 130
    except BrokenPipeError:  # `clbench list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        return _said(error, "--debug" in words, out)


def _said(error: Exception, debug: bool, out: Output) -> int:
    """The exit code of an error that nobody expected: the user's where a name cannot be one or may not be opened."""
    if debug:
        out.traceback()
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES) and error.filename is not None:
        name = str(error.filename)
        out.error(f"'{name if len(name) < 80 else name[:79] + '…'}': {error.strerror}; give another name")
        return UserError.exit_code
    out.error(said(error) + ("" if debug else ". --debug shows the traceback"))
    return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _root().print_help()
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        Output().result(f"clbench {version('clbench')}")
        return 0
    command = next((word for word in words if not word.startswith("-")), words[0])
    if command not in COMMANDS:
        raise unknown_name("command", command, COMMANDS, "clbench --help")
    words.remove(command)
    module = import_module(f".commands.{command.replace('-', '_')}{'_' if keyword.iskeyword(command) else ''}", __package__)
    parser = Parser(prog=f"clbench {command}", description=module.__doc__, allow_abbrev=False, formatter_class=_Format)
    module.add_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="say only what was asked for")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    try:
        arguments = parser.parse_intermixed_args(words)
    except SystemExit as leaving:  # --help
        return int(leaving.code or 0)
    return module.execute(arguments, Output(quiet=arguments.quiet))


class _Format(argparse.RawDescriptionHelpFormatter):
    """Help with the text as it stands in the module."""


def _root() -> Parser:
    lines = "\n".join(f"  {name:<17}{text}" for name, text in COMMANDS.items())
    description = f"The benchmark suite for continual learning with memory.\n\ncommands:\n{lines}\n\n{EPILOG}"
    return Parser(prog="clbench", usage="clbench COMMAND [arguments]", description=description, formatter_class=_Format)
