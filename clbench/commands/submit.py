"""Pack runs as a submission (or a reference set), validate it, and say how to hand it in. Nothing in a pack is ever executed.

clbench submit results/runs/alg@1/smoke/ewc --out results/submissions --team uni-x --tuning none
clbench submit results/runs/alg-only-* --out results/references --reference fine-tuning
clbench submit --check results/submissions --base origin/main
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import catalogue
from ..errors import UserError
from ..output import Output
from .run_states import run_folders, state

if TYPE_CHECKING:
    from ..reproductions import Claim
    from ..submissions import Finding

INVALID = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench submit`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs of one agent on one stream, or with them below")
    parser.add_argument("--out", metavar="DIR", help="where packs go (default: results/submissions or results/references)")
    parser.add_argument("--team", metavar="T", help="who hands it in: a name like uni-x")
    parser.add_argument("--tuning", metavar="TEXT|FILE", help="how hyper-parameters were chosen: a YAML file, a sentence, or none")
    parser.add_argument("--notes", default="", metavar="TEXT", help="anything a reader should know")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="the date of the pack (default: today)")
    parser.add_argument("--reference", metavar="NAME", help="pack single-task runs as the reference set NAME")
    parser.add_argument("--check", action="store_true", help="only validate packs that are there: one line for each finding")
    parser.add_argument("--base", metavar="REF", help="with --check: no pack that was there at the merge base with REF may have changed")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Pack or validate."""
    if arguments.check:
        return _check([Path(name) for name in arguments.runs], arguments.base, out)
    if arguments.base is not None:
        raise UserError("--base goes with --check; packing never changes a pack that is there")
    folders = run_folders(arguments.runs)
    unfinished = [folder for folder in folders if state(folder) != "done"]
    if unfinished:
        raise UserError(
            f"{len(unfinished)} of {len(folders)} runs are not finished, first '{unfinished[0]}'; type their commands again, then submit"
        )
    date = arguments.date or datetime.now(UTC).strftime("%Y-%m-%d")
    folder = _packed(arguments, folders, date)
    out.say(f"packed and validated {len(folders)} {'run' if len(folders) == 1 else 'runs'}")
    out.result(str(folder))
    out.say("next:")
    out.say(f"  git switch -c {folder.parent.name}-{folder.name}")
    out.say(f"  git add {folder}")
    out.say(f"  git commit -m 'results: {folder.parent.name}, {folder.name}' && git push -u origin HEAD, then open a pull request")
    return 0


def _packed(arguments: argparse.Namespace, folders: list[Path], date: str) -> Path:
    from .. import submissions

    if arguments.reference:
        target = Path(arguments.out or "results/references")
        return submissions.pack_reference(folders, target, name=arguments.reference, date=date, notes=arguments.notes)
    if not arguments.team:
        raise UserError("--team is missing: say who hands it in, for example --team uni-x")
    if not arguments.tuning:
        raise UserError("--tuning is missing: say how hyper-parameters were chosen, for example --tuning none or --tuning tuning.yaml")
    target = Path(arguments.out or "results/submissions")
    return submissions.pack(folders, target, team=arguments.team, date=date, tuning=_tuning(arguments.tuning), notes=arguments.notes)


def _tuning(text: str) -> dict[str, Any] | str:
    return catalogue.read_yaml(Path(text)) if text.endswith((".yaml", ".yml")) else text


def _check(paths: list[Path], base: str | None, out: Output) -> int:
    from .. import history, submissions
    from ..store import read_json

    packs = sorted({sums.parent for path in paths for sums in [*path.rglob("SHA256SUMS"), path / "SHA256SUMS"] if sums.is_file()})
    if not packs:
        raise UserError(f"no pack in '{' '.join(map(str, paths))}': expected SHA256SUMS there or below; make one with clbench submit RUNS")
    landed = history.landed(paths, base) if base is not None else None
    found, earlier = list[str](), 0
    for pack in packs:
        findings = submissions.findings(pack)
        if not findings:
            manifests = {file.relative_to(pack): read_json(file) for file in sorted(pack.glob("runs/*/run.json"))}
            if _is_earlier(manifests.values()) and (landed is None or pack.resolve() in landed):
                earlier += 1
            else:
                findings = _strange_streams(manifests)
        found += [f"{pack}/{finding}" for finding in findings]
    found += [str(finding) for finding in (history.changes(paths, base) if base is not None else [])]
    for line in found:
        out.result(line)
    if earlier and landed is None:
        out.say(f"of earlier versions of their streams, which take no new packs (--base tells which those are): {earlier}")
    out.say(f"packs looked at: {len(packs)}, findings: {len(found)}")
    return INVALID if found else 0


def _is_earlier(runs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all runs of a pack are of earlier versions of their streams."""
    from .. import known_streams

    return all(known_streams.is_earlier(run["stream"]["spec"]) for run in runs)


def _strange_streams(manifests: Mapping[Path, Mapping[str, Any]]) -> list[Finding]:
    """Findings about a pack that is sound in itself: streams that this version does not build, unless a claim asks for just this run."""
    from .. import known_streams
    from ..submissions import Finding

    found = []
    for file, run in manifests.items():
        difference = known_streams.contradiction(run["stream"]["spec"])
        if difference is not None and not any(claim.asks_for(run) for claim in _claims()):
            found.append(Finding(file.as_posix(), *difference))
    return found


@cache
def _claims() -> list[Claim]:
    """The claims of this version, whose arms are looked at once."""
    from ..reproductions import claims

    return claims()
