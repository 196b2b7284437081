"""Look at a folder of your own text, or write a text stream's questions down for any language model.

clbench data check ~/data/clinc150                         what is in it, what cannot be read, which tasks a stream makes of it
clbench data check ~/data/calls stream.text=utterance stream.answer=intent           which columns or fields are what
clbench data export comp --out questions                   its test examples as lines of JSON, with tasks for lm-evaluation-harness
clbench data export local-text --out questions stream.folder=~/data/snips stream.classes_per_task=2

Exit code 1 where nothing of a folder can be read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import registry
from ..errors import UserError
from ..output import Output
from ..overrides import budget_and_options, parse

NOTHING = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench data`."""
    parser.add_argument(
        "what", choices=["check", "export"], help="check: read a folder and say what was found; export: write questions down"
    )
    parser.add_argument("name", metavar="folder|stream", help="where the text lies, or which stream")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the stream, and with export budget=NAME")
    parser.add_argument("--out", metavar="DIR", help="with export: where the files are written")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Read the folder and write what it holds, or write the questions."""
    if arguments.what == "export":
        return _export(arguments, out)
    if arguments.out:
        raise UserError(f"data check writes nothing, got --out {arguments.out}")
    budgets, words = budget_and_options("data check", arguments.overrides, ("stream",))
    if budgets:
        raise UserError(f"data check reads all of a folder under any budget, got budget={budgets[0]}")
    options = {word.partition("=")[0].partition(".")[2]: parse(word).value() for word in words}
    findings = registry.load("data", "text")(arguments.name, options, words)
    if arguments.json:
        out.json(findings.plain())
    else:
        if findings.datasets:
            out.table(findings.columns, findings.table)
        for line in findings.lines:
            out.result(line)
    return 0 if findings.fulfilled else NOTHING


def _export(arguments: argparse.Namespace, out: Output) -> int:
    from .. import configuration

    if not arguments.out:
        raise UserError(f"data export writes files; expected --out DIR, as in: clbench data export {arguments.name} --out questions")
    budgets, words = budget_and_options("data export", arguments.overrides, ("stream",))
    stream = configuration.stream_of(arguments.name, budgets[0] if budgets else None, words)
    written: list[Path] = registry.load("data", "export")(stream, Path(arguments.out))
    group = written[-1]
    if arguments.json:
        out.json([str(path) for path in written])
        return 0
    for path in written:
        if path.suffix == ".jsonl":
            count = path.read_bytes().count(b"\n")
            out.result(f"{count:>8,} questions  {path}")
    out.result(f"lm_eval --include_path {arguments.out} --tasks {group.stem} --model hf --model_args pretrained=MODEL")
    return 0
