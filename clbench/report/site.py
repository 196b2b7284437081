"""A static site of stored runs: opens from a disk, asks no network, runs no agent, and is the same bytes for the same runs.

    index.html   streams/*.html   agents/*.html   runs/*.html   data/*.csv, *.tex   figures/*   assets/plotly.min.js, tables.js, style.css

Strings come from results of strangers: pages are rendered with autoescape, scripts get data only as escaped JSON.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import derived
from ..errors import UserError
from ..files import make_folder, write_whole
from ..loading import LoadedRun, find_runs
from ..metrics import METRICS
from ..statistics import RUNS_FOR_INTERVAL
from . import curves, figures, interactive
from .formats import MISSING, amount, arrow, as_csv, data, latex, place_text, score, statements, text, versions
from .tables import BOOTSTRAP_SEED, COSTS, Entry, Row, Table, comparison_tables, counted, metric

INDEX_COLUMNS = ("performance", "forgetting", "forward_transfer", "few_shot_gain", "hours")


def build(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write the site of every run below the folders `runs` to `out`; returns the files, `index.html` first."""
    found: list[LoadedRun] = []
    for root in runs:
        found += find_runs(root)
    if not found:
        raise UserError(f"no runs below {', '.join(map(str, runs)) or 'nothing'}; expected folders with run.json, as results/runs has them")
    tables = comparison_tables(found, _results_folder(runs))
    return _Site(found, tables, out).write()


def _results_folder(runs: Sequence[Path]) -> Path | None:
    """The nearest folder above the runs that has reference sets."""
    above = (folder for root in runs for folder in [root.resolve(), *root.resolve().parents])
    return next((folder for folder in above if (folder / "references").is_dir()), None)


class _Site:
    """The pages in the making: what links where."""

    def __init__(self, runs: Sequence[LoadedRun], tables: Sequence[Table], out: Path) -> None:
        self.out = out
        self.tables = tables
        self.runs = [run for run in runs if run.finished]
        self.unfinished = [run for run in runs if not run.finished]
        self.run_files = _run_files(self.runs)
        self.agent_files = {agent: f"{agent}.html" for agent in sorted({run.agent for run in self.runs})}
        self.labels = _labels(tables)
        self.navigation = [{"file": f"{table.slug}.html", "label": self.labels[table.slug]} for table in tables]
        self.environment = _environment(self)
        self.files: list[Path] = []

    def write(self) -> list[Path]:
        """Everything, the index last of the pages and first in the answer."""
        self._assets()
        data_files = [name for table in self.tables for name in self._table_data(table)]
        for table in self.tables:
            self._stream_page(table)
        for agent in self.agent_files:
            self._agent_page(agent)
        for run in self.runs:
            self._run_page(run)
        index = self._index(data_files)
        return [index, *(file for file in self.files if file != index)]

    def _put(self, name: str, content: str | bytes) -> Path:
        path = self.out / name
        make_folder(path.parent)
        write_whole(path, content)
        self.files.append(path)
        return path

    def _page(self, template: str, name: str, **values: Any) -> Path:
        depth = name.count("/")
        fixed = {"root": "../" * depth, "here": name.rpartition("/")[2] if name.startswith("streams/") else "", "plotly": False}
        return self._put(name, self.environment.get_template(template).render({**fixed, **values}))

    # -- assets and data -------------------------------------------------------------------------------------------------

    def _assets(self) -> None:
        from plotly.offline import get_plotlyjs

        self._put("assets/plotly.min.js", get_plotlyjs())
        self._put("assets/tables.js", _tables_script())
        self._put("assets/style.css", (resources.files("clbench.report") / "style.css").read_text(encoding="utf-8"))

    def _table_data(self, table: Table) -> list[str]:
        """CSV and LaTeX of what the stream's page shows."""
        runs = [run for row in table.rows for run in row.runs]
        content = {
            f"{table.slug}-table.csv": as_csv(data(table)),
            f"{table.slug}-table.tex": latex(table),
            f"{table.slug}-evals.csv": derived.rows_as_csv(
                record for run in runs for record in derived.eval_rows(run.manifest, run.events)
            ),
        }
        if table.spec.get("few_shot"):
            content[f"{table.slug}-few-shot.csv"] = _few_shot_csv(table)
        for name, written in content.items():
            self._put(f"data/{name}", written)
        return list(content)

    # -- pages -----------------------------------------------------------------------------------------------------------

    def _index(self, data_files: Sequence[str]) -> Path:
        sections = [
            {
                "file": f"{table.slug}.html",
                "label": self.labels[table.slug],
                "table": table,
                "columns": [name for name in INDEX_COLUMNS if name in table.columns],
                "statements": statements(table),
            }
            for table in self.tables
        ]
        singles: dict[tuple[str, str, str], int] = defaultdict(int)
        for run in self.runs:
            if run.role == "single":
                singles[run.stream, run.budget, run.agent] += 1
        lead = (
            f"{counted(len(self.runs), 'finished run')} of {counted(len(self.agent_files), 'agent')} "
            f"in {counted(len(self.tables), 'comparison')}."
        )
        return self._page(
            "index.html",
            "index.html",
            title="clbench report",
            lead=lead,
            sections=sections,
            references=[[*key, count] for key, count in sorted(singles.items())],
            unfinished=[[f"{run.agent} on {run.stream}, seed {run.seed}", run.origin] for run in self.unfinished],
            data_files=data_files,
        )

    def _stream_page(self, table: Table) -> None:
        make_folder(self.out / "figures")
        drawn = figures.draw_all(table, self.out / "figures")
        self.files += [file for files in drawn.values() for file in files]
        names = {name: [file.name for file in files] for name, files in drawn.items()}
        self._page(
            "stream.html",
            f"streams/{table.slug}.html",
            title=self.labels[table.slug],
            plotly=True,
            table=table,
            columns=table.columns,
            statements=statements(table),
            files=names,
            figures=_figures(table, names),
            data_files=[file.name for file in self.files if file.parent.name == "data" and file.name.startswith(table.slug)],
            spec=_pretty(table.spec),
            **_task_table(table),
            **_provenance_table(table),
            **self._run_table([run for row in table.rows for run in row.runs]),
        )

    def _agent_page(self, agent: str) -> None:
        results = [(table, row) for table in self.tables for row in table.rows if row.runs[0].agent == agent]
        columns = ("performance", "forgetting", "forward_transfer", "few_shot_gain")
        own = [run for run in self.runs if run.agent == agent]
        configurations = {_pretty(run.manifest["agent"].get("config")): _origin_of(run) for run in own}
        self._page(
            "agent.html",
            f"agents/{self.agent_files[agent]}",
            title=agent,
            result_headings=["Stream", "Agent", "Rank", "Runs", *(f"{metric(n).label}\u00a0{arrow(n)}" for n in columns)],
            result_numbers=list(range(2, 4 + len(columns))),
            result_rows=[
                [
                    {"href": f"../streams/{table.slug}.html", "text": self.labels[table.slug]},
                    row.label,
                    place_text(row),
                    len(row.runs),
                    *(text(row.entries[name]) for name in columns),
                ]
                for table, row in results
            ],
            configurations=[{"text": written, "origin": origin} for written, origin in configurations.items()],
            **self._run_table(own),
        )

    def _run_table(self, runs: Iterable[LoadedRun]) -> dict[str, Any]:
        rows = [
            [
                {"href": f"../runs/{self.run_files[id(run)]}", "text": f"s{run.seed:03d}-{run.run_key}"},
                run.stream,
                run.budget,
                run.agent,
                run.seed,
                counted(max(len(run.attempts), 1), "attempt"),
                run.origin,
            ]
            for run in runs
        ]
        return {"run_headings": ["Run", "Stream", "Budget", "Agent", "Seed", "Attempts", "Where"], "run_rows": rows, "run_numbers": [4]}

    def _run_page(self, run: LoadedRun) -> None:
        summary = next((s for t in self.tables for row in t.rows for r, s in zip(row.runs, row.summaries, strict=True) if r is run), None)
        summary = summary or derived.summary(run.manifest, run.events, None)
        self._page(
            "run.html",
            f"runs/{self.run_files[id(run)]}",
            title=f"{run.agent} on {run.stream}, seed {run.seed}",
            agent=run.agent,
            agent_file=self.agent_files[run.agent],
            stream=run.stream,
            budget=run.budget,
            seed=run.seed,
            run_key=run.run_key,
            origin=run.origin,
            metric_rows=[
                [METRICS[n].label, _metric_text(n, summary["metrics"].get(n)), METRICS[n].unit, METRICS[n].better] for n in METRICS
            ],
            attempts=[_pretty(attempt) for attempt in run.attempts],
            configuration=_pretty(run.manifest["agent"].get("config")),
            provenance_rows=_run_provenance(run),
            troubles=[
                f"{r['kind']} {r.get('code') or ''}: {r.get('message') or r.get('reason') or ''}"
                for r in run.events
                if r["kind"] in _TROUBLES
            ],
            **_matrix_table(run),
            **_few_shot_table(run),
        )


_TROUBLES = ("warning", "error", "interrupted")


def _environment(site: _Site) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("clbench.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names: dict[str, Any] = dict(
        version=version("clbench"),
        navigation=site.navigation,
        agent_files=site.agent_files,
        metric=metric,
        arrow=arrow,
        place_text=place_text,
        value_text=_value_text,
        spread_text=_spread_text,
        sort_value=_sort_value,
    )
    environment.globals.update(names)
    return environment


def _tables_script() -> str:
    """The one script of DataTables, as `itables` bundles it: browsers refuse modules from a disk, and this one loads them from memory."""
    from itables.javascript import generate_init_offline_itables_html

    with resources.as_file(resources.files("itables") / "html") as folder:
        page = generate_init_offline_itables_html(folder / "dt_bundle.js")
    return page.partition("<script>")[2].partition("</script>")[0]


def _run_files(runs: Sequence[LoadedRun]) -> dict[int, str]:
    """A page's file name for each run; two runs of one identity get two pages."""
    files: dict[int, str] = {}
    taken: dict[str, int] = defaultdict(int)
    for run in runs:
        stem = f"{run.stream}-{run.budget}-{run.agent}-s{run.seed:03d}-{run.run_key}"
        taken[stem] += 1
        files[id(run)] = f"{stem}.html" if taken[stem] == 1 else f"{stem}-{taken[stem]}.html"
    return files


def _labels(tables: Sequence[Table]) -> dict[str, str]:
    """What a table is called; its hash stands in the name only where another table is called the same."""
    names = [(table.stream, table.budget) for table in tables]
    return {
        table.slug: f"{table.stream}, {table.budget}" + (f" [{table.hash[:8]}]" if names.count((table.stream, table.budget)) > 1 else "")
        for table in tables
    }


# -- cells ---------------------------------------------------------------------------------------------------------------


def _value_text(entry: Entry) -> str:
    return text(entry).partition(" ")[0] if entry.metric not in COSTS else text(entry)


def _spread_text(entry: Entry) -> str:
    return text(entry).partition(" ")[2] if entry.metric not in COSTS else ""


def _sort_value(entry: Entry) -> str:
    """What a column sorts by; a missing value comes behind every other."""
    if math.isnan(entry.value):
        return "-1e9" if metric(entry.metric).sign >= 0 else "1e9"
    return repr(entry.value)


def _metric_text(name: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return (
        score(value) if abs(value) < 100 and METRICS[name].unit not in ("bytes", "numbers", "units", "updates", "s") else f"{value:,.10g}"
    )


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _origin_of(run: LoadedRun) -> str:
    agent = run.manifest["agent"]
    return f"{agent.get('distribution') or 'no distribution'}, module {agent.get('module')}, source {str(agent.get('hash'))[:12]}"


# -- tables of a stream --------------------------------------------------------------------------------------------------


def _figures(table: Table, files: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """What stands under each other on a stream's page: title, picture or script, caption, method."""
    from markupsafe import Markup

    counts = sorted({len(row.runs) for row in table.rows})
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    made = f"{counts[0]}{f' to {counts[-1]}' if counts[-1] != counts[0] else ''} runs per agent (seeds {_ranges(seeds)})"
    few = f"; below {RUNS_FOR_INTERVAL} runs none" if counts[0] < RUNS_FOR_INTERVAL else ""
    student = f"{made}; 95 % Student t intervals{few}."
    band = (
        f"{made}; bands: 95 % bootstrap of whole runs, pointwise, seed {BOOTSTRAP_SEED}{'; below 5 runs the range of runs' if few else ''}."
    )
    captions = {
        "headline": (
            "Headline",
            "Mean, interval and every run, best performance on top; joint training sees all tasks at once.",
            student,
            "image",
        ),
        "success-over-time": (
            "Scores along the stream",
            f"One panel per task over {table.unit}; the grey band is where the stream trains it.",
            band,
            "plot",
        ),
        "matrices": ("Evaluation matrices", "Rows: untrained, then after each phase. Columns: tasks. Mean over runs.", f"{made}.", "plot"),
        "forgetting": (
            "Forgetting",
            "Score lost since the end of each task's own phase; left of zero it improved later.",
            student,
            "image narrow",
        ),
        "few-shot": ("Few shots", "Held-out tasks, after the stream's end; dotted: the same agent untrained.", band, "image narrow"),
        "differences": ("Paired differences", "Performance minus that of the best agent, seed by seed.", student, "image narrow"),
    }
    parts = {"success-over-time": interactive.success_over_time, "matrices": interactive.matrices}
    shown = []
    for name, (title, caption, method, kind) in captions.items():
        if name in files:
            part = Markup(parts[name](table)) if name in parts else ""
            image = next(file for file in files[name] if file.endswith(".svg"))
            shown.append({"name": name, "title": title, "caption": caption, "method": method, "kind": kind, "html": part, "image": image})
    cost = interactive.cost(table)
    if cost:
        caption = "Small points are runs. Times of different machines do not compare; hardware is listed below."
        shown.append(
            {"name": "cost", "title": "Cost", "caption": caption, "method": student, "kind": "plot", "html": Markup(cost), "image": ""}
        )
    return shown


def _ranges(seeds: Sequence[int]) -> str:
    """`0-4, 7`."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1][1:] = [seed]
        else:
            parts.append([seed])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _task_table(table: Table) -> dict[str, Any]:
    """Final score per task and agent."""
    rows = []
    for number, task in enumerate(table.tasks):
        finals = [_mean([list(summary["final_per_task"].values())[number] for summary in row.summaries]) for row in table.rows]
        phases = [str(p + 1) for p, phase in enumerate(table.spec["phases"]) if number in phase["columns"]]
        rows.append([number + 1, task, " ".join(phases), *(_shaded(value) for value in finals)])
    headings = ["#", "Task", "Phase", *(figures.name_of(row) for row in table.rows)]
    return {"task_headings": headings, "task_rows": rows, "task_numbers": [0, *range(2, len(headings))]}


def _mean(values: Sequence[float | None]) -> float:
    return math.nan if None in values or not values else math.fsum(v for v in values if v is not None) / len(values)


def _shaded(value: float) -> Any:
    return MISSING if math.isnan(value) else {"text": score(value), "shade": f"{value:.3f}", "href": ""}


def _provenance_table(table: Table) -> dict[str, Any]:
    headings = ["Agent", "Runs", "Versions", "Commit", "Hardware", "Training", "Evaluation", "Peak memory"]
    return {"provenance_headings": headings, "provenance_rows": [_provenance(row) for row in table.rows]}


def _provenance(row: Row) -> list[str]:
    def mean(name: str) -> float:
        return _mean([summary["metrics"].get(name) for summary in row.summaries])

    stamps = [run.manifest.get("clbench") or {} for run in row.runs]
    commits = sorted({f"{str(stamp.get('git_sha') or MISSING)[:7]}{' (dirty)' if stamp.get('dirty') else ''}" for stamp in stamps})
    seconds = [amount(mean(name) / 3600, "h") for name in ("train_seconds", "evaluate_seconds")]
    return [
        figures.name_of(row),
        str(len(row.runs)),
        versions(row) or MISSING,
        ", ".join(commits),
        row.hardware or MISSING,
        *seconds,
        amount(mean("peak_rss_bytes"), "bytes"),
    ]


def _few_shot_csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["agent", "joint", "run_key", "seed", "phase", "shots", "score"])
    for row in table.rows:
        for run in row.runs:
            for phase, curve in run.few_shot.items():
                for shots, value in zip(curve.shots, curve.score.tolist(), strict=True):
                    written = "" if math.isnan(value) else repr(value)
                    writer.writerow([row.label, row.joint, run.run_key, run.seed, phase, shots, written])
    return buffer.getvalue()


# -- tables of a run -----------------------------------------------------------------------------------------------------


def _matrix_table(run: LoadedRun) -> dict[str, Any]:
    scores = curves.run_boundary_scores(run)
    names = ["untrained", *(f"after phase {p + 1}" for p in range(len(scores) - 1))]
    rows = [[name, *(_shaded(float(value)) for value in row)] for name, row in zip(names, scores, strict=True)]
    headings = ["", *(f"{n + 1}. {task}" for n, task in enumerate(run.tasks))]
    return {"matrix_headings": headings, "matrix_rows": rows, "matrix_numbers": list(range(1, len(headings)))}


def _few_shot_table(run: LoadedRun) -> dict[str, Any]:
    few = run.spec.get("few_shot")
    shots = few["shots"] if few else []
    rows = [
        ["untrained" if phase == -1 else f"after phase {phase + 1}", *(_shaded(float(value)) for value in curve.score)]
        for phase, curve in run.few_shot.items()
    ]
    headings = ["", *(counted(k, "shot") for k in shots)]
    return {
        "few_shot_headings": headings,
        "few_shot_rows": rows,
        "few_shot_numbers": list(range(1, len(headings))),
        "shot_unit": few.get("shot_unit", "shots") if few else "",
    }


def _run_provenance(run: LoadedRun) -> list[list[str]]:
    stamp = run.manifest.get("clbench") or {}
    last = run.attempts[-1] if run.attempts else {}
    rows: list[list[Any]] = [
        ["started", run.manifest.get("created_utc")],
        ["stream hash", run.manifest["stream"]["hash"]],
        ["agent", _origin_of(run)],
        ["clbench", f"{stamp.get('version')}, commit {stamp.get('git_sha')}{', dirty' if stamp.get('dirty') else ''}"],
        ["hardware", run.hardware],
        ["python", last.get("python")],
        ["operating system", last.get("os")],
        ["threads", (run.manifest.get("determinism") or {}).get("threads")],
    ]
    return [[name, MISSING if value in (None, "") else str(value)] for name, value in rows]
