"""Comparison tables: one per stream, version and budget; a row is an agent, a number stands with its interval over runs.

Which way is better comes from `METRICS` alone. Numbers of different streams, versions, budgets or stream hashes never share a table.
Joint runs of the family appear as rows without a rank; single-task runs are references and no rows. How a table is
written stands in `formats`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import derived, metrics, statistics
from ..loading import LoadedRun
from ..statistics import Interval
from ..store import determined
from ..stream import digest

HEADLINE = (
    "performance",
    "worst_task",
    "forgetting",
    "forward_transfer",
    "forward_transfer_raw",
    "zero_shot_transfer",
    "few_shot_area",
    "few_shot_gain",
    "few_shot_gain_over_scratch",
    "learning_auc",
)
COSTS = ("parameters", "retained_bytes", "memory_bytes", "hours")
BOOTSTRAP_SEED = 0


def hours(costs: metrics.Costs) -> float:
    """Training and evaluation of one run, in hours."""
    return (costs.train_seconds + costs.evaluate_seconds) / 3600


HOURS = metrics.Metric("hours", "Hours per run", "h", "lower", False, hours, "clbench", ("costs",))


def metric(name: str) -> metrics.Metric:
    """The entry that says label, unit and direction of a column."""
    return HOURS if name == "hours" else metrics.METRICS[name]


@dataclass(frozen=True)
class Entry:
    """One metric of one row: `points` holds a value per run, in the order of the row's runs; NaN where a run has none.

    `best`: no other row of the table is ahead of it by more than the intervals allow.
    """

    metric: str
    interval: Interval
    points: tuple[float, ...]
    best: bool = False

    @property
    def value(self) -> float:
        """The mean over runs; NaN where a run has no value."""
        return self.interval.value

    @property
    def has_interval(self) -> bool:
        """Whether there were enough runs for an interval."""
        return not math.isnan(self.interval.low)


@dataclass(frozen=True)
class Row:
    """One agent, with one configuration. `rank` is (best, worst) place by performance; None below 5 runs and for joint rows."""

    label: str
    runs: tuple[LoadedRun, ...]
    summaries: tuple[Mapping[str, Any], ...]
    entries: Mapping[str, Entry]
    iqm: Interval
    joint: bool
    rank: tuple[int, int] | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs, in their order."""
        return tuple(run.seed for run in self.runs)

    @property
    def hardware(self) -> str:
        """Every hardware that the runs used; empty where it is not known."""
        return "; ".join(sorted({run.hardware for run in self.runs} - {""}))

    def package(self, name: str) -> str:
        """The versions of a distribution that the runs used; empty where it is not known."""
        return ", ".join(sorted({run.package(name) for run in self.runs} - {""}))


@dataclass(frozen=True)
class ReferenceNote:
    """What forward transfer was measured against."""

    name: str
    hash: str
    runs: int
    min_headroom: float
    alone: Mapping[str, float]  # by task the lowest last score among the runs that learned it and nothing else


@dataclass(frozen=True)
class Table:
    """The rows of one stream and budget, best performance first, joint rows last."""

    stream: str
    family: str
    budget: str
    hash: str
    spec: Mapping[str, Any]
    rows: tuple[Row, ...]
    reference: ReferenceNote | None
    unit: str
    remarks: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()  # the labels of all tables that belong together, so that an agent looks the same in all of them

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the columns of the evaluation matrix."""
        return tuple(task["name"] for task in self.spec["tasks"])

    @property
    def slug(self) -> str:
        """A file name for it."""
        return f"{self.stream}-{self.budget}-{self.hash[:8]}"

    @property
    def episodes(self) -> tuple[int, ...]:
        """The numbers of episodes per cell."""
        return tuple(sorted({count for row in self.rows for run in row.runs for count in run.episodes}))

    @property
    def columns(self) -> tuple[str, ...]:
        """The headline metrics and costs that at least one row has."""
        return tuple(n for n in (*HEADLINE, *COSTS) if any(not math.isnan(row.entries[n].value) for row in self.rows))

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows that compete: no joint ones."""
        return tuple(row for row in self.rows if not row.joint)


Group = Callable[[LoadedRun], str]


def comparison_tables(runs: Iterable[LoadedRun], references: Path | None = None, group: Group = lambda run: "") -> list[Table]:
    """One table per stream, version, budget and stream hash, from the finished runs; sorted by these.

    `references`: a folder that has, or whose parent has, `references/`. Runs of one agent whose `group` differs make different rows; within
    a group a run found twice counts once.
    """
    streams: dict[tuple[str, str, str], list[LoadedRun]] = defaultdict(list)
    joint: dict[str, list[LoadedRun]] = defaultdict(list)
    for run in runs:
        if run.role == "joint":
            joint[_family_key(run)].append(run)
        elif run.role != "single":
            streams[run.stream, run.budget, run.manifest["stream"]["hash"]].append(run)
    alone = {_family_key(run) for own in streams.values() for run in own}
    groups = [(own, joint[_family_key(own[0])]) for _, own in sorted(streams.items())]
    groups += [([], bounds) for key, bounds in sorted(joint.items()) if key not in alone]
    tables = [table for table in (_table(own, bounds, references, group) for own, bounds in groups) if table.rows]
    agents = tuple(sorted({row.label for table in tables for row in table.ranked}))
    return [replace(table, agents=agents) for table in tables]


def _family_key(run: LoadedRun) -> str:
    """What a stream and its joint variant share: family, version, budget, columns, window."""
    return digest([run.family, run.budget, run.spec["tasks"], run.spec["window"]])


def _table(own: Sequence[LoadedRun], bounds: Sequence[LoadedRun], references: Path | None, group: Group) -> Table:
    remarks: list[str] = []
    found = [*own, *bounds]
    finished, unfinished = [r for r in found if r.finished], sum(not r.finished for r in found)
    if unfinished:
        remarks.append(f"{counted(unfinished, 'unfinished run')} left out.")
    kept = _without_copies(finished, group)
    if len(kept) < len(finished):
        remarks.append(f"{counted(len(finished) - len(kept), 'copy of a run', 'copies of runs')} counted once.")
    first = (own or bounds)[0]
    reference = derived.find_reference(first.manifest, references)
    rows = [_row(members, label, reference, remarks) for label, members in _by_agent(kept, group)]
    rows = _marked(_ranked(sorted(rows, key=_order)))
    summaries = [summary for row in rows for summary in row.summaries]
    note = None
    if reference is not None and summaries:
        minimum = summaries[0]["forward_transfer"]["min_headroom"]
        headroom = math.nan if minimum is None else minimum
        note = ReferenceNote(reference.name, reference.hash, reference.count, headroom, reference.lowest)
    return Table(
        stream=first.stream,
        family=first.family,
        budget=first.budget,
        hash=first.manifest["stream"]["hash"],
        spec=first.spec,
        rows=tuple(rows),
        reference=note,
        unit=next((s["unit"] for s in summaries if s["unit"]), "units"),
        remarks=tuple(remarks),
    )


def _without_copies(runs: Iterable[LoadedRun], group: Group) -> list[LoadedRun]:
    """The runs without those that are another one again, event by event: a submission beside the runs it was packed from."""
    seen: set[str] = set()
    kept = []
    for run in runs:
        identity = digest([group(run), run.run_key, determined(run.events)])
        if identity not in seen:
            seen.add(identity)
            kept.append(run)
    return kept


def _by_agent(runs: Iterable[LoadedRun], group: Group) -> list[tuple[str, list[LoadedRun]]]:
    """Runs by role, group, agent and configuration; a name with several configurations gets the beginning of its hash."""
    members: dict[tuple[bool, str, str, str], list[LoadedRun]] = defaultdict(list)
    for run in runs:
        members[run.role == "joint", group(run), run.agent, digest(run.manifest["agent"].get("config"))].append(run)
    variants = Counter(key[:3] for key in members)
    return [
        (key[2] if variants[key[:3]] == 1 else f"{key[2]} #{key[3][:6]}", sorted(found, key=lambda run: (run.seed, run.origin)))
        for key, found in sorted(members.items())
    ]


def _row(runs: Sequence[LoadedRun], label: str, reference: derived.Reference | None, remarks: list[str]) -> Row:
    joint = runs[0].role == "joint"
    repeated = sorted(seed for seed, count in Counter(run.seed for run in runs).items() if count > 1)
    if repeated:
        remarks.append(f"{label}: seed {', '.join(map(str, repeated))} occurs more than once, with different events.")
    if len({run.manifest["agent"]["hash"] for run in runs}) > 1:
        remarks.append(f"{label}: the agent's source differs between runs.")
    summaries = tuple(derived.summary(run.manifest, run.events, reference) for run in runs)
    entries = {name: _entry(name, [_value(summary, name) for summary in summaries]) for name in (*HEADLINE, *COSTS)}
    finals = np.array([[_number(value) for value in summary["final_per_task"].values()] for summary in summaries])  # (n, N)
    return Row(label, tuple(runs), summaries, entries, _iqm(finals), joint)


def _iqm(finals: np.ndarray[Any, Any]) -> Interval:
    if np.isnan(finals).any():
        return Interval(math.nan, math.nan, math.nan, statistics.POINTS_ONLY, len(finals))
    return statistics.iqm_interval(finals, np.random.default_rng(BOOTSTRAP_SEED))


def _entry(name: str, points: Sequence[float]) -> Entry:
    return Entry(name, statistics.mean_interval(points), tuple(points))


def _value(summary: Mapping[str, Any], name: str) -> float:
    values = summary["metrics"]
    if name == "hours":
        train, evaluate = _number(values.get("train_seconds")), _number(values.get("evaluate_seconds"))
        return hours(metrics.Costs(train_seconds=train, evaluate_seconds=evaluate))
    return _number(values.get(name))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _order(row: Row) -> tuple[bool, float, str]:
    """Joint rows last, best performance first, missing behind it, then by name."""
    value = row.entries["performance"].value
    return row.joint, math.inf if math.isnan(value) else -metric("performance").sign * value, row.label


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows with their rank intervals: pairwise t tests on performance, Holm over all pairs, level 0.05.

    Runs are paired where both agents have the same seeds; else Welch's test. Only rows with enough runs take part.
    """
    competing = [row for row in rows if not row.joint and row.entries["performance"].has_interval]
    pairs = [(i, j) for i in range(len(competing)) for j in range(i + 1, len(competing))]
    better = np.zeros((len(competing), len(competing)), dtype=bool)
    adjusted = statistics.holm([_p_value(competing[i], competing[j]) for i, j in pairs]) if pairs else []
    for (i, j), p in zip(pairs, adjusted, strict=True):
        ahead = competing[i].entries["performance"].value - competing[j].entries["performance"].value
        better[i, j], better[j, i] = p <= 0.05 and ahead > 0, p <= 0.05 and ahead < 0
    ranks = {id(row): rank for row, rank in zip(competing, statistics.rank_intervals(better) if competing else [], strict=True)}
    return [replace(row, rank=ranks.get(id(row))) for row in rows]


def _p_value(one: Row, other: Row) -> float:
    a, b = one.entries["performance"].points, other.entries["performance"].points
    if one.seeds == other.seeds:
        return statistics.paired_comparison(a, b, np.random.default_rng(BOOTSTRAP_SEED)).t_p
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return float(a[0] == b[0])
    from scipy import stats

    return float(np.asarray(stats.ttest_ind(a, b, equal_var=False))[1])  # (statistic, p)


def _marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with `best` set: the best value of a column and those whose intervals reach into its interval; never joint ones."""
    competing = [row for row in rows if not row.joint]
    best = {name: _best(name, [row.entries[name] for row in competing]) for name in (*HEADLINE, *COSTS)}
    return [replace(row, entries={name: replace(e, best=id(e) in best[name]) for name, e in row.entries.items()}) for row in rows]


def _best(name: str, entries: Sequence[Entry]) -> set[int]:
    """The identities of the best entries; none where nothing is better or worse. Too few runs compete only among themselves."""
    sign = metric(name).sign
    known = [entry for entry in entries if not math.isnan(entry.value)]
    known = [entry for entry in known if entry.has_interval] or known
    if not sign or len({entry.value for entry in known}) < 2:
        return set()
    top = max(known, key=lambda entry: sign * entry.value)
    return {id(entry) for entry in known if entry.value == top.value or _overlap(entry.interval, top.interval)}


def _overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals share a value; what has no interval overlaps with nothing."""
    return one.low <= other.high and other.low <= one.high


def counted(number: int, one: str, many: str = "") -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {one if number == 1 else many or one + 's'}"
