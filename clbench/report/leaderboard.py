"""`leaderboard.md` and `results/leaderboard.csv`, generated from the committed submissions and reference sets; nothing is typed by hand.

One table per stream, version and budget; a row is a submission. Rows of fewer than 5 runs stand below it, without a rank.
Nothing in a submission is executed; its strings are escaped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import UserError, ValidationError
from ..files import make_folder, write_whole
from ..loading import LoadedRun, find_runs
from ..statistics import RESAMPLES, RUNS_FOR_INTERVAL, mean_interval
from ..store import read_json
from .formats import MISSING, amount, arrow, as_csv, data, interval_text, markdown_table, place_text, statements, text, versions
from .tables import BOOTSTRAP_SEED, Row, Table, comparison_tables, metric

BEGIN, END = "<!-- clbench:begin -->", "<!-- clbench:end -->"
TITLE = "# Leaderboard\n\n"


def generate(results: Path, leaderboard: Path, *, check: bool = False) -> list[Path]:
    """Write `leaderboard` (between its markers) and `<results>/leaderboard.csv`; returns the files that changed.

    With `check` nothing is written: files that differ from what would be written are an error that lists them.
    """
    tables, submissions = _tables(results)
    before = leaderboard.read_text(encoding="utf-8") if leaderboard.is_file() else f"{TITLE}{BEGIN}\n{END}\n"
    wanted = {
        leaderboard: _between_markers(before, markdown(tables, submissions, results, leaderboard), leaderboard),
        results / "leaderboard.csv": spreadsheet(tables, submissions),
    }
    differing = [path for path, content in wanted.items() if not path.is_file() or path.read_bytes() != content.encode()]
    if check:
        if differing:
            lines = "; ".join(f"{path.name}: {_difference(path, wanted[path])}" for path in differing)
            raise ValidationError(f"{lines}. Rebuild with: clbench leaderboard")
        return []
    for path in differing:
        make_folder(path.parent)
        write_whole(path, wanted[path])
    return differing


def _tables(results: Path) -> tuple[list[Table], Mapping[str, Mapping[str, Any]]]:
    """The tables, one row per submission, and every `submission.json` by its folder below `submissions/`."""
    folder = results / "submissions"
    runs = find_runs(folder) if folder.is_dir() else []
    submissions = {name: read_json(folder / name / "submission.json") for name in sorted({submission_of(run) for run in runs})}
    return comparison_tables(runs, results, submission_of), submissions


def submission_of(run: LoadedRun) -> str:
    """The folder of a packed run's submission, below the folder that was searched."""
    return run.origin.rpartition("/runs/")[0]


def _between_markers(before: str, generated: str, path: Path) -> str:
    head, begin, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"'{path}': expected the lines {BEGIN} and {END}, between which the tables go; put them back")
    return f"{head}{BEGIN}\n{generated}{END}{tail}"


def _difference(path: Path, wanted: str) -> str:
    if not path.is_file():
        return "expected a file, found none"
    found = path.read_bytes().decode(errors="replace").split("\n")
    lines = wanted.split("\n")
    number = next((n for n, (a, b) in enumerate(zip(lines, found, strict=False)) if a != b), min(len(lines), len(found)))
    want, have = (some[number] if number < len(some) else "" for some in (lines, found))
    same = next((n for n, (a, b) in enumerate(zip(want, have, strict=False)) if a != b), min(len(want), len(have)))
    begin = max(0, same - 20)
    return f"line {number + 1}: expected {want[begin : begin + 60]!r}, found {have[begin : begin + 60]!r}"


# -- markdown ------------------------------------------------------------------------------------------------------------


def markdown(tables: Sequence[Table], submissions: Mapping[str, Mapping[str, Any]], results: Path, leaderboard: Path) -> str:
    """What stands between the markers."""
    if not tables:
        return "\nNo submissions yet: `clbench submit` packs finished runs, and `clbench leaderboard` rebuilds this page.\n\n"
    base = Path(os.path.relpath(results / "submissions", leaderboard.parent)).as_posix()
    newest: dict[str, int] = {}
    for table in tables:
        family = table.spec["family"]
        newest[family] = max(table.spec["version"], newest.get(family, 0))
    return "\n" + "\n".join(_section(table, submissions, base, newest[table.spec["family"]]) for table in tables)


def _section(table: Table, submissions: Mapping[str, Mapping[str, Any]], base: str, newest: int) -> str:
    spec, earlier = table.spec, list[str]()
    if spec["version"] < newest:
        earlier = [f"An earlier version of the stream; new rows are those of {spec['family']}@{newest}."]
    listed = [row for row in table.rows if len(row.runs) >= RUNS_FOR_INTERVAL]
    columns = _columns(table, submissions, base)
    lines = [
        f"## {table.stream}, budget {table.budget}",
        "",
        *(f"- {escape(line)}" for line in [*earlier, *statements(table), *_iqm_line(listed)]),
        "",
    ]
    if listed:
        lines += markdown_table(columns, ([cell(row) for cell in columns.values()] for row in listed))
    few = [row for row in table.rows if row not in listed]
    if few:
        columns = _few_columns(table, base)
        lines += [f"Fewer than {RUNS_FOR_INTERVAL} runs: not ranked, without intervals; in brackets the lowest and the highest run.", ""]
        lines += markdown_table(columns, ([cell(row) for cell in columns.values()] for row in few))
    return "\n".join([*lines, ""])


def _iqm_line(rows: Sequence[Row]) -> list[str]:
    methods = sorted({row.iqm.method for row in rows})
    return [f"IQM: middle half of runs x tasks; {', '.join(methods)}, {RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}."] if methods else []


Cell = Callable[[Row], str]


def _columns(table: Table, submissions: Mapping[str, Mapping[str, Any]], base: str) -> dict[str, Cell]:
    """Heading -> how its cell is written."""

    def stated(row: Row, key: str) -> str:
        return escape(str(submissions[submission_of(row.runs[0])].get(key, MISSING)))

    def number(name: str) -> Cell:
        return lambda row: _bold(text(row.entries[name]), row.entries[name].best)

    def transfer(row: Row) -> str:
        raw = row.entries["forward_transfer_raw"]
        return f"{number('forward_transfer')(row)}<br>raw {text(raw)}" if text(raw) != MISSING else MISSING

    scores = {
        f"{metric(name).label} {arrow(name)}": number(name)
        for name in ("forgetting", "few_shot_area", "few_shot_gain", "few_shot_gain_over_scratch", "learning_auc")
        if name in table.columns
    }
    return {
        "Rank": place_text,
        "Agent": lambda row: escape(row.label),
        "Team": lambda row: stated(row, "team"),
        "Tier": lambda row: stated(row, "tier"),
        "Date": lambda row: stated(row, "date"),
        "Runs": lambda row: str(len(row.runs)),
        f"Performance {arrow('performance')}": number("performance"),
        "IQM ↑": lambda row: interval_text(row.iqm),
        f"Forward transfer {arrow('forward_transfer')}": transfer,
        **scores,
        "Hours per run (hardware)": lambda row: f"{text(row.entries['hours'])} ({escape(row.hardware) or MISSING})",
        "Parameters": lambda row: text(row.entries["parameters"]),
        "Retained": lambda row: amount(row.entries["retained_bytes"].value, "bytes"),
        **(
            {"Memory of a stream": lambda row: amount(row.entries["memory_bytes"].value, "bytes")}
            if "memory_bytes" in table.columns
            else {}
        ),
        "Versions": lambda row: escape(versions(row)) or MISSING,
        "Files": lambda row: _files(row, base),
    }


def _few_columns(table: Table, base: str) -> dict[str, Cell]:
    """What is said of rows with few runs: what they end with, what they lost, and what each task reached before it could be lost."""

    def entry(name: str) -> Cell:
        return lambda row: text(row.entries[name])

    def learned(column: int) -> Cell:
        return lambda row: _points_text([_learned(run, column) for run in row.runs])

    memory = {"Memory of a stream": lambda row: amount(row.entries["memory_bytes"].value, "bytes")}
    return {
        "Agent": lambda row: escape(row.label),
        "Runs": lambda row: str(len(row.runs)),
        f"Performance {arrow('performance')}": entry("performance"),
        **({f"Forgetting {arrow('forgetting')}": entry("forgetting")} if "forgetting" in table.columns else {}),
        **{f"{escape(task)} {_when(table, n)} ↑": learned(n) for n, task in enumerate(table.tasks)},
        "Hours per run (hardware)": lambda row: f"{text(row.entries['hours'])} ({escape(row.hardware) or MISSING})",
        **(memory if "memory_bytes" in table.columns else {}),
        "Files": lambda row: _files(row, base),
    }


def _when(table: Table, column: int) -> str:
    trained = any(run.matrix.phases_of(column) for row in table.rows for run in row.runs)
    return "at the end of its phase" if trained else "(never trained) at the best end of a phase"


def _learned(run: LoadedRun, column: int) -> float:
    """The score of a task in the last row of the last phase that trains it; where none does, the highest at the end of a phase."""
    matrix = run.matrix
    phases = matrix.phases_of(column)[-1:] or sorted({int(phase) for phase in matrix.phase if phase >= 0})
    ends = [scores[-1] for phase in phases if len(scores := matrix.score[matrix.phase == phase, column])]
    return float(np.nanmax(ends)) if ends and not np.isnan(ends).all() else math.nan


def _points_text(points: Sequence[float]) -> str:
    known = [point for point in points if not math.isnan(point)]
    return interval_text(mean_interval(known), known) if known else MISSING


def _files(row: Row, base: str) -> str:
    return f"[files]({base}/{quote(submission_of(row.runs[0]), safe='/@-._')})"


def _bold(written: str, best: bool) -> str:
    value, gap, rest = written.partition(" ")
    return f"**{value}**{gap}{rest}" if best else written


_ACTIVE = {c: f"\\{c}" for c in "\\`*_[]|#~!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escape(value: str) -> str:
    """Text in which no character means anything to Markdown or HTML; control and direction characters become `?`."""
    return "".join(_ACTIVE.get(c, c if c.isprintable() else "?") for c in value)


# -- spreadsheet ---------------------------------------------------------------------------------------------------------


def spreadsheet(tables: Sequence[Table], submissions: Mapping[str, Mapping[str, Any]]) -> str:
    """Every row of every table at full precision, those of few runs too; a missing value is an empty cell."""
    records = []
    for table in tables:
        for row, record in zip(table.rows, data(table), strict=True):
            folder = submission_of(row.runs[0])
            stated = {key: submissions[folder].get(key) for key in ("team", "tier", "date")}
            records.append({**record, **stated, "versions": versions(row) or None, "files": folder})
    return as_csv(records)
