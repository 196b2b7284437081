"""How numbers and tables are written: for eyes, for a paper, for a spreadsheet. A missing value is an en dash or empty, never 0."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..metrics import LOW_HEADROOM
from ..statistics import RUNS_FOR_INTERVAL, Interval
from .tables import COSTS, HEADLINE, Entry, ReferenceNote, Row, Table, counted, metric

MISSING = "–"
JOINT = "joint"
PACKAGES = ("metaworld", "mujoco", "torch")  # besides clbench, what moves scores


def markdown_table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, and the empty one behind it."""
    names = list(headings)
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def text(entry: Entry) -> str:
    """`mean [low, high]` with an interval, `mean (min .. max)` of fewer runs, an en dash where the value is missing."""
    if entry.metric in COSTS:
        return amount(entry.value, metric(entry.metric).unit)
    return interval_text(entry.interval, entry.points)


def interval_text(interval: Interval, points: Sequence[float] = ()) -> str:
    """An interval, or the range of the points where there is none."""
    if math.isnan(interval.value):
        return MISSING
    if not math.isnan(interval.low):
        return f"{score(interval.value)} [{score(interval.low)}, {score(interval.high)}]"
    if len(points) > 1:
        return f"{score(interval.value)} ({score(min(points))} .. {score(max(points))})"
    return score(interval.value)


def score(value: float) -> str:
    """A score with three decimals; never `-0.000`."""
    if math.isnan(value):
        return MISSING
    written = f"{value:.3f}"
    return written.lstrip("-") if float(written) == 0 else written


def amount(value: float, unit: str) -> str:
    """A cost for eyes: bytes and counts with a prefix, hours with what matters of them."""
    if math.isnan(value):
        return MISSING
    if unit == "h":
        return f"{value:.1f} h" if value >= 1 else f"{value * 60:.1f} min" if value >= 1 / 60 else f"{value * 3600:.2g} s"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}{'B' if unit == 'bytes' else ''}"
    return f"{value:.3g}{' B' if unit == 'bytes' else ''}"


def place_text(row: Row) -> str:
    """What stands in a table's first column: the rank, or that a row is joint and has none."""
    return JOINT if row.joint else rank_text(row)


def rank_text(row: Row) -> str:
    """`2-4`, `1`, or an en dash without a rank."""
    if row.rank is None:
        return MISSING
    best, worst = row.rank
    return str(best) if best == worst else f"{best}-{worst}"


def versions(row: Row) -> str:
    """The versions of clbench and of what moves scores, as far as they are known."""
    clbench = ", ".join(sorted({str((run.manifest.get("clbench") or {}).get("version", "")) for run in row.runs} - {""}))
    found = {"clbench": clbench, **{name: row.package(name) for name in PACKAGES}}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def arrow(name: str) -> str:
    """Which way is better, as a sign for a heading."""
    return {1: "↑", -1: "↓", 0: ""}[metric(name).sign]


def statements(table: Table) -> list[str]:
    """What every table says of itself: window, denominators, reference, episodes, runs, how intervals and ranks came about."""
    counts = sorted({len(row.runs) for row in table.rows})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    columns = len(table.tasks)
    lines = [
        f"Stream {table.stream} (hash {table.hash[:12]}), budget {table.budget}; "
        f"{columns} tasks, {len(table.spec['phases'])} phases, {sum(phase['units'] for phase in table.spec['phases']):,} {table.unit}.",
        f"Window: {counted(table.spec['window'], 'row')} at the end of a phase and of the run; "
        f"{' or '.join(map(str, table.episodes)) or 'no'} episodes per cell; {runs} {'run' if runs == '1' else 'runs'} per row.",
        f"Performance is the mean over {columns} tasks; forgetting divides by those that a phase trains and the last one does not.",
        _reference_line(table.reference),
        *_alone_line(table),
        "Intervals: 95 % Student t over runs, the reference held fixed."
        + (
            f" Rows with fewer than {RUNS_FOR_INTERVAL} runs have no interval and no rank: mean (min .. max) over runs."
            if counts[0] < RUNS_FOR_INTERVAL
            else ""
        ),
    ]
    if any(row.rank for row in table.rows):
        lines.append(
            "Ranks: t tests on performance, paired where seeds agree, else Welch; Holm over all pairs at level 0.05; ties share it."
        )
    if any(row.joint for row in table.rows):
        lines.append("Joint: all tasks at once under the same budget, so that there is nothing to forget; no rank.")
    return [*lines, *table.remarks]


def _reference_line(reference: ReferenceNote | None) -> str:
    if reference is None:
        return "Forward transfer: no reference set for this stream and budget, so it is missing."
    low = " (below 0.05: read the raw difference)" if reference.min_headroom < LOW_HEADROOM else ""
    return (
        f"Forward transfer: against reference set {reference.name} (hash {reference.hash[:12]}), "
        f"{counted(reference.runs, 'run')} per task, minimum headroom {score(reference.min_headroom)}{low}."
    )


def _alone_line(table: Table) -> list[str]:
    """How well each task is learned where there is no other, in the order of the table's columns."""
    found = table.reference.alone if table.reference else {}
    alone = [f"{task} {score(found[task])}" for task in table.tasks if task in found]
    return [f"Alone each task ends at (lowest run of the reference set): {', '.join(alone)}."] if alone else []


def data(table: Table) -> list[dict[str, Any]]:
    """The table at full precision, one dict per row: `<metric>`, `<metric>_low`, `<metric>_high`; missing is None."""
    rows = []
    for row in table.rows:
        record: dict[str, Any] = {
            "stream": table.stream,
            "budget": table.budget,
            "stream_hash": table.hash,
            "agent": row.label,
            "joint": row.joint,
            "rank_low": row.rank[0] if row.rank else None,
            "rank_high": row.rank[1] if row.rank else None,
            "runs": len(row.runs),
            "seeds": " ".join(map(str, row.seeds)),
        }
        for name in (*HEADLINE, *COSTS):
            record |= _ends(name, row.entries[name].interval)
        record |= _ends("iqm", row.iqm)
        record["min_headroom"] = _none(table.reference.min_headroom) if table.reference else None
        record |= {"reference_hash": table.reference.hash if table.reference else None, "hardware": row.hardware or None}
        rows.append(record)
    return rows


def _ends(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: _none(interval.value), f"{name}_low": _none(interval.low), f"{name}_high": _none(interval.high)}


def _none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as text: floats as Python writes them, missing empty, text that a spreadsheet would compute with a leading `'`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(records[0]) if records else []
    writer.writerow(names)
    writer.writerows([_plain(record.get(name)) for name in names] for record in records)
    return buffer.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    written = "".join(c if c.isprintable() else "?" for c in str(value))
    return f"'{written}" if isinstance(value, str) and written[:1] in ("=", "+", "-", "@") else written


def latex(table: Table) -> str:
    """The table for a paper, with booktabs; best values bold, names escaped."""
    names = [name for name in table.columns if name not in COSTS]
    lines = [
        *(f"% {line}" for line in statements(table)),
        r"\begin{tabular}{l" + "r" * (len(names) + 1) + "}",
        r"\toprule",
        " & ".join(["Agent", "Runs", *(f"{escape_latex(metric(n).label)} {_LATEX_ARROW[metric(n).sign]}".strip() for n in names)]) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        if row.joint and index and not table.rows[index - 1].joint:
            lines.append(r"\midrule")
        label = escape_latex(row.label) + (f" ({JOINT})" if row.joint else "")
        cells = [_latex_cell(row.entries[name]) for name in names]
        lines.append(" & ".join([label, str(len(row.runs)), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


_LATEX_ARROW = {1: r"$\uparrow$", -1: r"$\downarrow$", 0: ""}


def _latex_cell(entry: Entry) -> str:
    interval = entry.interval
    if math.isnan(interval.value):
        return "--"
    value = rf"\textbf{{{score(interval.value)}}}" if entry.best else score(interval.value)
    return f"{value} [{score(interval.low)}, {score(interval.high)}]" if entry.has_interval else value


_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def escape_latex(value: str) -> str:
    """Text in which no character has a meaning for LaTeX."""
    return "".join(_LATEX.get(c, c if c.isprintable() else " ") for c in value)
