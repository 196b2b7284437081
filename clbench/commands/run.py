"""Run an agent on a stream. Typing the same again continues a run that was stopped, and does nothing where it is done.

  clbench run stream=toy agent=ewc                              one run
  clbench run stream=toy agent=ewc agent.methods.ewc.strength=5 seed=3
  clbench run stream=./reach4.yaml agent=./mine.py:Mine         your own
  clbench run stream=toy agent=ewc,replay seed=range(0,5) --jobs 2
  clbench run experiment=quickstart                             a planned set of runs, with a report

keys: stream, agent, seed, budget (smoke, standard, paper), results_dir, device, threads, stream.OPTION, agent.OPTION
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import catalogue
from ..errors import ClbenchError, Interrupted, UserError
from ..output import Output, duration, said
from .run_states import state

if TYPE_CHECKING:
    from ..configuration import Resolved
    from ..experiment import Experiment

SOME_FAILED = 4
SHOWN = ("performance", "forgetting", "forward_transfer", "forward_transfer_raw", "few_shot_area", "few_shot_gain")


class RunFailed(ClbenchError):
    """The agent, the stream or clbench itself raised something; the run's folder says what."""


@dataclass(frozen=True)
class Planned:
    """One run: the words that ask for it, what they resolve to, and its folder."""

    words: tuple[str, ...]
    resolved: Resolved
    folder: Path

    @property
    def title(self) -> str:
        """What people call it."""
        request = self.resolved.request
        return f"{request.agent.name} {request.stream.name} s{request.seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench run`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to run, see above")
    parser.add_argument("--fresh", action="store_true", help="begin anew beside a run that is there; nothing is overwritten")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and what is done already")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: 1; with an experiment as many as cores)")
    parser.add_argument("--config", metavar="FILE", help="start from the config.yaml of a run's folder")
    parser.add_argument("--json", action="store_true", help="with --dry-run: for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Run what was asked for."""
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {arguments.jobs}")
    given = _given(arguments.config)
    experiment = _experiment(arguments)
    plan = _plan(arguments, given, experiment)
    if arguments.dry_run:
        return _show_plan(plan, arguments.json, out)
    begun = [item for item in plan if state(item.folder) != "done"]
    if len(plan) == 1 and experiment is None:
        return _run_one(plan[0], arguments.fresh, out)
    if len(begun) < len(plan):
        out.say(f"{len(plan) - len(begun)} of {len(plan)} runs are done already")
    jobs = arguments.jobs or (_default_jobs() if experiment else 1)
    config = ["--config", arguments.config] if arguments.config else []
    failures = _run_pool(begun, jobs, [*config, *(["--fresh"] if arguments.fresh else [])], out) if begun else []
    return _finish(plan, failures, experiment, out)


def _default_jobs() -> int:
    from ..pool import default_jobs

    return default_jobs()


def _given(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    path = Path(file)
    if not path.is_file():
        raise UserError(f"no file '{file}'; expected the config.yaml of a run's folder, as in results/runs/.../config.yaml")
    given = catalogue.read_yaml(path)
    if (path.parent / "run.json").is_file():  # RESULTS/stream/budget/agent/run/config.yaml: what is run again belongs to the same results
        given.setdefault("results_dir", str(path.absolute().parents[4]))
    return given


def _experiment(arguments: argparse.Namespace) -> Experiment | None:
    named = [word for word in arguments.overrides if word.startswith("experiment=")]
    if not named:
        return None
    if arguments.config:
        raise UserError("experiment= and --config exclude each other; give one of them")
    from ..experiment import load

    return load(named[-1].partition("=")[2], [word for word in arguments.overrides if word not in named])


def _plan(arguments: argparse.Namespace, given: dict[str, Any], experiment: Experiment | None) -> list[Planned]:
    """Every run, resolved: a mistake in the last one is found before the first begins."""
    from ..configuration import resolve_each
    from ..overrides import grid

    commands: Sequence[Sequence[str]] = experiment.commands if experiment else grid(arguments.overrides)
    plan: dict[Path, Planned] = {}
    for words, resolved in zip(commands, resolve_each(commands, given), strict=True):
        repeat = 1
        while arguments.fresh and resolved.request.folder(resolved.results_dir, repeat).exists():
            repeat += 1
        folder = resolved.request.folder(resolved.results_dir, repeat)
        plan.setdefault(folder, Planned(tuple(words), resolved, folder))
    return list(plan.values())


def _show_plan(plan: Sequence[Planned], as_json: bool, out: Output) -> int:
    rows = []
    for item in plan:
        request, units = item.resolved.request, sum(phase.units for phase in item.resolved.request.stream.phases)
        name = f"{request.stream.identity}"
        rows.append((request.agent.name, name, request.stream.budget, request.seed, units, state(item.folder), str(item.folder)))
    columns = ("agent", "stream", "budget", "seed", "units", "state", "folder")
    if as_json:
        out.json([dict(zip(columns, row, strict=True)) for row in rows])
        return 0
    out.table(columns, rows)
    out.say("nothing was run; leave out --dry-run to begin" if any(row[5] != "done" for row in rows) else "all of it is done")
    return 0


# -- one run in this process ------------------------------------------------------------------------------------------


def _run_one(item: Planned, fresh: bool, out: Output) -> int:
    if state(item.folder) == "done":
        _summarise(item, out, "was done before; --fresh runs it again beside this one")
        out.result(str(item.folder)) if out.quiet else None
        return 0
    if state(item.folder) == "unfinished":
        out.say(f"continuing {item.folder}")
    _carry_out(item, fresh, out)
    _summarise(item, out, "finished")
    if out.quiet:
        out.result(str(item.folder))
    return 0


def _carry_out(item: Planned, fresh: bool, out: Output) -> None:
    from .. import runs
    from ..progress import View

    with View(out) as view:

        def begun(folder: Path) -> None:
            if state(folder) == "new":
                _write_config(folder, item)
            view.watch(folder, item.title)

        try:
            runs.execute(item.resolved.request, item.resolved.results_dir, fresh=fresh, on_folder=begun)
        except ClbenchError:
            raise
        except Exception as error:
            kept = _keep_traceback(item.folder)
            raise RunFailed(f"{item.title} failed: {said(error)}. {kept}") from error


def _write_config(folder: Path, item: Planned) -> None:
    import yaml

    from ..files import make_folder, write_whole

    make_folder(folder)
    tree = {key: value for key, value in item.resolved.tree.items() if key != "results_dir"}
    head = "# The resolved configuration of this run; clbench run --config THIS_FILE runs it again.\n"
    write_whole(folder / "config.yaml", head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))


def _keep_traceback(folder: Path) -> str:
    """Add the traceback being handled to the run's `stdout.log`; says where it is."""
    file = folder / "stdout.log"
    try:
        with open(file, "a", encoding="utf-8") as handle:
            handle.write(traceback.format_exc())
    except OSError:
        return "--debug shows the traceback"
    return f"The traceback is in {file} (--debug shows it here)"


def _summarise(item: Planned, out: Output, how: str) -> None:
    """The headline metrics of a finished run and its files."""
    from ..store import read_json

    request = item.resolved.request
    summary = read_json(item.folder / "summary.json")
    metrics = summary["metrics"]
    learning, evaluating = (duration(metrics.get(name)) for name in ("train_seconds", "evaluate_seconds"))
    if out.terminal:
        out.say()
    out.say(f"{request.agent.name} on {request.stream.identity}, budget {request.stream.budget}, seed {request.seed}: {how}")
    for line in _headline_lines(metrics, request.stream.family):
        out.say(line)
    out.say(f"  {learning} learning, {evaluating} evaluating")
    out.say(f"  {item.folder}: summary.json, evals.csv, events.jsonl, config.yaml")


def _headline_lines(values: dict[str, Any], family: str) -> list[str]:
    from ..metrics import METRICS

    width = max(len(METRICS[name].label) for name in SHOWN)
    lines = []
    for name in SHOWN:
        metric, value = METRICS[name], values.get(name)
        if value is None and not metric.needs_reference:
            continue
        note = f"{metric.unit}, {metric.better} is better" if value is not None else f"needs the reference runs of {family}"
        lines.append(f"  {metric.label:<{width}}{'-' if value is None else format(value, '.3f'):>7}  {note}")
    return lines


# -- many runs --------------------------------------------------------------------------------------------------------


def _run_pool(plan: Sequence[Planned], jobs: int, options: Sequence[str], out: Output) -> list[tuple[str, str]]:
    """Run them in a pool; returns the failures as (title, message). Interrupted runs end the command."""
    from ..pool import Job, Outcome, Pool
    from ..progress import View

    pool = Pool(min(jobs, len(plan)))
    todo = [Job((*item.words, *options), item.folder, item.title, item.resolved.request.threads) for item in plan]
    out.say(f"{len(todo)} runs, {pool.jobs} at once; Ctrl-C saves and stops, the same command continues")
    with View(out) as view:
        for job in todo:
            view.watch(job.folder, job.title)

        def heard(outcome: Outcome) -> None:
            view.ended(outcome.job.folder, outcome.state)
            if not out.terminal and outcome.state in ("failed", "busy"):
                out.say(f"{outcome.job.title}  {outcome.state}  {outcome.message}")

        outcomes = pool.run(todo, heard)
    count = {name: sum(o.state == name for o in outcomes) for name in ("done", "failed", "interrupted", "busy")}
    out.say(", ".join(f"{number} {name}" for name, number in count.items() if number))
    if count["interrupted"]:
        kept = "each run goes on from its last checkpoint" if pool.ending.is_set() else "everything is saved"
        raise Interrupted(f"interrupted; {kept}, type the same command again to continue")
    for outcome in outcomes:
        if outcome.state == "busy":
            out.warn(f"{outcome.job.title}: {outcome.message}")
    return [(outcome.job.title, outcome.message) for outcome in outcomes if outcome.state == "failed"]


def _finish(plan: Sequence[Planned], failures: Sequence[tuple[str, str]], experiment: Experiment | None, out: Output) -> int:
    folders = [item.folder for item in plan if state(item.folder) == "done"]
    if folders:
        show_comparison(folders, plan[0].resolved.results_dir, out)
        if experiment is not None and experiment.report:
            _write_report(folders, plan[0].resolved.results_dir / "reports" / experiment.name, out)
        out.say(f"runs: {_common(folders)}")
    for title, message in failures:
        out.error(f"{title}: {message}")
    if failures:
        out.error(f"{len(failures)} of {len(plan)} runs failed; the same command runs them again and nothing else")
        return SOME_FAILED
    return 0


def show_comparison(folders: Sequence[Path], results_dir: Path, out: Output) -> None:
    """One table per stream and budget: agents, runs, headline metrics."""
    from ..loading import load_run
    from ..report.formats import arrow, text
    from ..report.tables import comparison_tables, metric

    for table in comparison_tables([load_run(folder) for folder in folders], results_dir):
        shown = [name for name in table.columns if name in SHOWN]
        heading = ["agent", "runs", *(f"{metric(name).label} {arrow(name)}".strip() for name in shown)]
        rows = [(row.label, len(row.runs), *(text(row.entries[name]) for name in shown)) for row in table.rows]
        out.say()
        out.table(heading, rows, title=f"{table.stream}, budget {table.budget}")
    out.say()


def _write_report(folders: Sequence[Path], target: Path, out: Output) -> None:
    from ..report.site import build

    out.say("writing the report ...")
    files = build(list(folders), target)
    index = next((file for file in files if file.name == "index.html"), target)
    figures = sum(file.suffix in (".png", ".svg", ".pdf") for file in files)
    out.say(f"report: {index}" + (f" ({figures} figure files in {target / 'figures'})" if figures else ""))


def _common(folders: Sequence[Path]) -> str:
    """The folder that holds all of them."""
    import os

    return os.path.commonpath([str(folder) for folder in folders])
