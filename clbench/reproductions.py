"""What papers claim, run again: experiments with a `claim`, the packs of their runs, and the page that says which bars were met.

    configs/experiment/reproduce/<claim>.yaml                statement, source, published figure, departures, arms, bars
    results/reproductions/<claim>/<arm>/...                  packs as `clbench submit` makes them, one for each arm and stream
    results/reproductions.md                                 generated from both; nothing in it is typed by hand

A bar is about the worst seed: it is met where every run of its arm that asks for its task meets it. Bars that fail stay on the page. With
`times: ARM` it is about the ratio to the run of another arm with the same seed, with `minus: ARM` about the difference; with `curve: true`
about the mean of the scores of a task while it is trained, and not about the last one (`curve: 0.25`: while its first quarter is); with
`of: [A, B]` about the fact A over the fact B, each summed over the episodes of the last evaluation (steps over successes: how many steps a
success took). Of several tasks, joined by +, the mean counts, and of several arms, joined alike, all runs. With `interval: true` it is not
the worst seed that decides but the end of the 95 % interval over seeds, of which there must be five. With `hours: BUDGET` in place of a
task it is about the hours that a whole run of that budget would take, foretold from the times of the arm's shorter one.
A run belongs to an arm by its stream, its seed and all options of its agent, so that runs under other options never count. Options that
did not exist when it was made count as what they are by default: a new one does not make the packs of before strangers. Nor does what an
agent would do with experience of another kind than the stream's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from . import catalogue, derived, foretelling, registry
from .errors import UserError, ValidationError
from .experiment import Experiment, load
from .files import make_folder, write_whole
from .interfaces import ExperienceKind
from .loading import LoadedRun, find_runs
from .report.formats import MISSING, interval_text, markdown_table
from .report.leaderboard import escape
from .schemas import PARTS
from .statistics import RUNS_FOR_INTERVAL, mean_interval
from .store import SCHEMA, merge, read_json
from .stream import PROTOCOL_VERSION, plain

if TYPE_CHECKING:
    from .runs import Request

FOLDER = "reproduce/"
# of a claim; it may have "found" as well, what is known about bars that failed
KEYS = ("statement", "source", "published", "departure", "tuning", "bars")
SIGNS = {"at_least": "≥", "at_most": "≤"}


@dataclass(frozen=True)
class Bar:
    """At the end of every run of `arm`, or (`curve`) while it learns them, the score of `task` keeps to `value`.

    Over that of the arm `times`, or less that of the arm `minus`, if there is one.
    """

    arm: str
    task: str
    key: str  # at_least or at_most
    value: float
    times: str = ""
    of: tuple[str, str] | None = None
    minus: str = ""
    curve: float = 0.0  # the share of a phase whose scores count; 0: the score at the end of the run
    hours: str = ""  # a budget: about what a run of it takes, and about no task
    interval: bool = False  # the end of the interval over seeds decides, and not the worst of them

    def values(self, arms: Mapping[str, Sequence[LoadedRun]]) -> list[float]:
        """What the bar is about, of each seed; of a ratio those seeds that both arms have."""
        mine = self._measured(_together(arms, self.arm))
        if not self.times and not self.minus:
            return list(mine.values())
        other = self._measured(_together(arms, self.times or self.minus))
        if self.minus:
            return [found - other[seed] for seed, found in mine.items() if seed in other]
        return [found / other[seed] if other[seed] else math.inf for seed, found in mine.items() if seed in other]

    def _measured(self, runs: Sequence[LoadedRun]) -> dict[int, float]:
        if self.hours:
            return {run.seed: sum(foretelling.at_budget(run, self.hours)) for run in runs}
        if self.of is not None:
            return {run.seed: found for run in runs if (found := _pooled(run, self.task, *self.of)) is not None}
        found = _curves(runs, self.curve) if self.curve else scores(runs)
        parts = [found.get(task, {}) for task in self.task.split("+")]
        return {seed: _mean([part[seed] for part in parts]) for seed in parts[0] if all(seed in part for part in parts)}

    def decisive(self, values: Sequence[float]) -> float:
        """The one of them, or of the ends of their interval, that has to clear the bar; NaN where there are too few for an interval."""
        if self.interval:
            ends = mean_interval(values)
            return ends.low if self.key == "at_least" else ends.high
        return min(values) if self.key == "at_least" else max(values)

    def met(self, values: Sequence[float]) -> bool:
        """Whether it is cleared."""
        found = self.decisive(values)
        return found >= self.value if self.key == "at_least" else found <= self.value


@dataclass(frozen=True)
class Claim:
    """One experiment that is to show something."""

    name: str
    experiment: Experiment
    bars: tuple[Bar, ...]

    def text(self, key: str) -> str:
        """One of its sentences."""
        return str((self.experiment.claim or {}).get(key, "")).strip()

    @cached_property
    def requests(self) -> dict[str, list[Request]]:
        """By arm the runs that belong to it."""
        from .configuration import resolve_each

        made = resolve_each(words for commands in self.experiment.arms.values() for words in commands)
        return {arm: [next(made).request for _ in commands] for arm, commands in self.experiment.arms.items()}

    def asks_for(self, manifest: Mapping[str, Any]) -> bool:
        """Whether any arm has this run. A claim whose arms are all of other agents or seeds is not built for the answer."""
        named = any(_may_be(words, manifest) for commands in self.experiment.arms.values() for words in commands)
        return named and any(_same_run(request, manifest) for requests in self.requests.values() for request in requests)


def claims() -> list[Claim]:
    """All claims that come with clbench and its plug-ins, by name."""
    return [claim(name) for name in catalogue.files("experiment") if name.startswith(FOLDER)]


def claim(choice: str) -> Claim:
    """The claim of the experiment that a name or a path stands for."""
    experiment = load(choice)
    where, said = choice, experiment.claim
    if not isinstance(said, Mapping) or any(key not in said for key in KEYS):
        raise UserError(f"{where}: claim: expected a mapping with {', '.join(KEYS)}")
    bars = tuple(_bar(bar, experiment, f"{where}: claim.bars[{n}]") for n, bar in enumerate(said["bars"]))
    return Claim(experiment.name, experiment, bars)


def _bar(bar: Any, experiment: Experiment, where: str) -> Bar:
    signs = [key for key in SIGNS if isinstance(bar, Mapping) and key in bar]
    wanted = {"arm", "hours" if isinstance(bar, Mapping) and "hours" in bar else "task", *signs}
    if len(signs) != 1 or set(bar) - {"times", "of", "minus", "curve", "interval"} != wanted or {"times", "minus"} <= set(bar):
        raise UserError(
            f"{where}: expected arm, task (or hours) and one of {', '.join(SIGNS)}, and times for a ratio to another arm or minus for a "
            f"difference, got {bar!r}"
        )
    of = bar.get("of")
    if of is not None and not (isinstance(of, Sequence) and len(of) == 2 and all(isinstance(fact, str) for fact in of)):
        raise UserError(f"{where}: of: expected the names of two facts, such as [steps, successes], got {of!r}")
    curve = bar.get("curve", False)
    if not isinstance(curve, bool) and not (isinstance(curve, float) and 0 < curve < 1):
        raise UserError(f"{where}: curve: expected true, false or a share of the phase between 0 and 1, got {curve!r}")
    if not isinstance(bar.get("interval", False), bool):
        raise UserError(f"{where}: interval: expected true or false, got {bar['interval']!r}")
    for arm in "+".join((bar["arm"], bar.get("times", bar["arm"]), bar.get("minus", bar["arm"]))).split("+"):
        if arm not in experiment.arms:
            raise UserError(f"{where}: no arm '{arm}'; arms are {', '.join(experiment.arms)}")
    pair = None if of is None else (of[0], of[1])
    return Bar(
        bar["arm"],
        str(bar.get("task", "")),
        signs[0],
        float(bar[signs[0]]),
        times=bar.get("times", ""),
        of=pair,
        minus=bar.get("minus", ""),
        curve=float(curve),
        hours=str(bar.get("hours", "")),
        interval=bar.get("interval", False),
    )


def _together(arms: Mapping[str, Sequence[LoadedRun]], names: str) -> list[LoadedRun]:
    return [run for name in names.split("+") for run in arms[name]]


def scores(runs: Sequence[LoadedRun]) -> dict[str, dict[int, float]]:
    """By task and seed the raw score of the run, at its end."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        rows = derived.eval_rows(run.manifest, run.events)
        last = max(row["step"] for row in rows)
        for row in rows:
            if row["step"] == last:
                found.setdefault(row["task_id"], {})[run.seed] = row["raw_score"]
    return found


def _curves(runs: Sequence[LoadedRun], share: float) -> dict[str, dict[int, float]]:
    """By task and seed the mean of the raw scores taken in the first `share` of each phase that trained the task, of one at least."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        spec = run.manifest["stream"]["spec"]
        taken: dict[str, dict[int, list[float]]] = {}
        for row in derived.eval_rows(run.manifest, run.events):
            if row["phase"] >= 0 and row["task"] in spec["phases"][row["phase"]]["columns"]:
                taken.setdefault(row["task_id"], {}).setdefault(row["phase"], []).append(row["raw_score"])
        for task, phases in taken.items():
            counted = [value for values in phases.values() for value in values[: max(1, round(share * len(values)))]]
            found.setdefault(task, {})[run.seed] = _mean(counted)
    return found


def _pooled(run: LoadedRun, task: str, numerator: str, denominator: str) -> float | None:
    """One fact over another, summed over the episodes of the last evaluation of `task`; None where there is none."""
    asked = [record for record in merge(run.events) if record["kind"] == "eval" and record["task_id"] == task]
    if not asked:
        return None
    last = max(asked, key=lambda record: record["step"])
    for fact in (numerator, denominator):
        if fact not in last:
            raise ValidationError(f"{run.origin}: {task} has no fact '{fact}' that a bar asks for")
    above, below = (math.fsum(value for value in last[fact] if value is not None) for fact in (numerator, denominator))
    return above / below if below else math.inf


# -- packing -------------------------------------------------------------------------------------------------------------


def pack(claim: Claim, runs_dir: Path, results: Path, date: str) -> list[Path]:
    """Pack the finished runs of `claim` below `runs_dir`, one pack for each arm and stream that has none yet; returns the new ones."""
    from .submissions import pack as packed

    there = {path.parent: read_json(path.with_name("run.json")) for path in sorted(runs_dir.rglob("DONE"))}
    made: list[Path] = []
    for arm, requests in claim.requests.items():
        target = results / "reproductions" / claim.name / arm
        have = _runs_of(target, requests)
        missing = [request for request in requests if not any(_same_run(request, run.manifest) for run in have)]
        mine = [folder for folder, manifest in there.items() if any(_same_run(request, manifest) for request in missing)]
        for stream in sorted({folder.parents[2].name for folder in mine}):
            alike = [folder for folder in mine if folder.parents[2].name == stream]
            earlier = len(list(target.glob(f"{stream}/*/*/{date}-clbench*")))  # of the same day, of other seeds
            team = f"clbench-{earlier + 1}" if earlier else "clbench"
            made.append(packed(alike, target, team=team, date=date, tuning=claim.text("tuning"), notes=f"arm {arm} of {claim.name}"))
    return made


# -- the page ------------------------------------------------------------------------------------------------------------


def generate(results: Path, *, check: bool = False, shown: Sequence[Claim] | None = None) -> bool:
    """Write `<results>/reproductions.md` about `shown`, by default all claims; returns whether it changed.

    With `check` a difference is an error and nothing is written.
    """
    path, wanted = results / "reproductions.md", page(claims() if shown is None else shown, results)
    if path.is_file() and path.read_text(encoding="utf-8") == wanted:
        return False
    if check:
        raise ValidationError(f"{path.name} is not what the packs say. Rebuild with: clbench reproductions")
    make_folder(path.parent)
    write_whole(path, wanted)
    return True


def page(shown: Sequence[Claim], results: Path) -> str:
    """The whole page about the claims `shown`."""
    lines = ["# Reproductions", ""]
    lines += ["What papers claim, run again, most at a size for two CPU cores. Generated by `clbench reproductions` from the packs under"]
    lines += ["`reproductions/`. Numbers are raw scores at the end of the run: accuracies, where nothing else is said. A bar is about the"]
    lines += ["worst seed. What fails stays. What the Memory Transformer's encoder claims needs no agent and is a benchmark,"]
    lines += ["`clbench benchmark memory-encoder`, as is how far and how fast one memory reads (`long-reading`): README.", ""]
    claims, sections = list[list[str]](), list[str]()
    for claim in shown:
        arms = {arm: _runs_of(results / "reproductions" / claim.name / arm, requests) for arm, requests in claim.requests.items()}
        rows = [_row(bar, bar.values(arms)) for bar in claim.bars]
        counted = _counted([row[-1] for row in rows])
        claims.append([f"[{claim.name}](#{_anchor(f'{claim.name}: {counted}')})", counted])
        sections += [f"## {claim.name}: {counted}", "", *_section(claim, arms, rows), ""]
    return "\n".join([*lines, *markdown_table(("Claim", "Bars"), claims), *sections]).rstrip("\n") + "\n"


def _counted(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{verdicts.count(word)} {word}" for word in ("met", "failed", "not run") if word in verdicts)


def _anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def _section(claim: Claim, arms: Mapping[str, Sequence[LoadedRun]], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield claim.text("statement")
    yield ""
    yield f"- Source: {claim.text('source')}"
    yield f"- Published: {claim.text('published')}"
    yield f"- Here: {claim.text('departure')}"
    yield f"- Tuned: {claim.text('tuning')}"
    if claim.text("found"):
        yield f"- Found: {claim.text('found')}"
    made_on = sorted({run.hardware for runs in arms.values() for run in runs} - {""})
    if made_on:
        yield f"- Made on: {'; '.join(escape(name) for name in made_on)}"
    yield f"- Run it: `clbench run experiment={FOLDER}{claim.name}`"
    yield ""
    yield from markdown_table(("Arm", "Task", "Runs", "Value", "Worst", "Bar", ""), rows)
    for arm, runs in arms.items():
        curve = {task: _mean(list(found.values())) for task, found in scores(runs).items()}
        if curve:
            yield f"{arm}, all tasks: " + ", ".join(f"{task} {mean:.3f}" for task, mean in sorted(curve.items(), key=_natural)) + "."
            yield ""


def _runs_of(folder: Path, requests: Sequence[Request]) -> list[LoadedRun]:
    runs = [run for run in (find_runs(folder) if folder.is_dir() else []) if run.finished]
    mine = [run for run in runs if any(_same_run(request, run.manifest) for request in requests)]
    return sorted(mine, key=lambda run: (run.stream, run.seed))


def _may_be(words: Sequence[str], manifest: Mapping[str, Any]) -> bool:
    """Whether the command `words` is of the agent and the seed of a run, as far as its words tell."""
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    name = typed.get("agent.name") or _name_of(typed["agent"])
    return typed.get("seed") == str(manifest["seed"]) and name in (manifest["agent"]["name"], None)


@cache
def _name_of(choice: str) -> str | None:
    """What the agent of that file is called; None: it is none of clbench's or its plug-ins' files."""
    file = catalogue.files("agent").get(choice)
    return None if file is None else str(file.read().get("name", choice))


def _same_run(request: Request, manifest: Mapping[str, Any]) -> bool:
    agent = manifest["agent"]
    return (
        (manifest["schema"], manifest["protocol_version"], manifest["order_id"]) == (SCHEMA, PROTOCOL_VERSION, 0)
        and (manifest["seed"], agent["name"]) == (request.seed, request.agent.name)
        and _same_options(*(_used(options, request) for options in (request.agent.configuration, agent["config"])))
        and manifest["stream"]["hash"] == request.stream.hash()
    )


def _used(options: Any, request: Request) -> Any:
    """The options of an agent without what it would do with experience that the stream does not hand out."""
    others = {*get_args(ExperienceKind), "control"} - {request.stream.tasks[0].info.section}
    return {key: value for key, value in options.items() if key not in others} if isinstance(options, Mapping) else options


def _same_options(now: Any, then: Any, *path: str) -> bool:
    """Whether `then` is `now`, but for options of a part that `then` does not have and that are at their default in `now`."""
    if not isinstance(now, Mapping) or not isinstance(then, Mapping):
        return now == then
    added = now.keys() - then.keys()
    same = then.keys() <= now.keys() and all(_same_options(now[key], then[key], *path, key) for key in then)
    return same and (not added or _at_default(path, now, added))


def _at_default(path: tuple[str, ...], options: Mapping[str, Any], keys: Set[str]) -> bool:
    part = "method" if path[-2:-1] == ("methods",) else path[-1] if path else ""
    if part not in PARTS or "kind" not in options:
        return False
    known = registry.options_of(registry.load(PARTS[part], options["kind"]))
    return all(key in known and plain(known[key].default) == options[key] for key in keys)


def _row(bar: Bar, values: Sequence[float]) -> list[str]:
    value = f"{bar.value:.2f}" if round(bar.value, 2) == bar.value else str(bar.value)
    arm, limit = bar.arm, f"{SIGNS[bar.key]} {value}"
    task = bar.task.replace("+", ", ") if bar.of is None else f"{bar.task}, {bar.of[0]} / {bar.of[1]}"
    task += "" if not bar.curve else " (while trained)" if bar.curve == 1 else f" (the first {bar.curve:.0%} of training)"
    if bar.hours:
        task = f"hours of a whole run, budget {bar.hours}"
    if bar.times:
        arm, limit = f"{bar.arm} / {bar.times}", f"{limit} ×"
    if bar.minus:
        arm = f"{bar.arm} - {bar.minus}".replace("+", ", ")
    if bar.interval:
        limit += " (interval)"
    spread = interval_text(mean_interval(values)) if len(values) >= RUNS_FOR_INTERVAL else _range(values) if values else MISSING
    if len(values) < (RUNS_FOR_INTERVAL if bar.interval else 1):
        return [arm, task, str(len(values)), spread, MISSING, limit, "not run"]
    return [arm, task, str(len(values)), spread, f"{bar.decisive(values):.3f}", limit, "met" if bar.met(values) else "failed"]


def _range(values: Sequence[float]) -> str:
    return f"{_mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _natural(item: tuple[str, Any]) -> tuple[str, int]:
    stem, _, number = item[0].rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (item[0], 0)
