"""What follows from a run's manifest and events: the evaluation matrix, `evals.csv`, `summary.json`. Pure, and the same byte for byte.

A record that is missing stays missing: no row, no cell, `null` in the summary, never 0.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from . import metrics
from .errors import ValidationError
from .matrix import EvaluationMatrix
from .store import SCHEMA, merge, parse_events, read_json
from .validation import check_events, check_manifest

MAX_UNPACKED = 200 * 2**20
EVALS_COLUMNS = (
    *("run_key", "stream", "agent", "seed", "order_id", "phase", "step", "task", "task_id", "episodes"),
    *("score", "return_mean", "return_std", "length_mean", "seed_set", "raw_score"),
)

Record = Mapping[str, Any]


def scaled(raw: float, scale: Sequence[float]) -> float:
    """A mean raw score on [0, 1]: `scale` (floor, ceiling) goes to (0, 1), what lies outside is clipped."""
    floor, ceiling = scale
    return min(1.0, max(0.0, (raw - floor) / (ceiling - floor)))


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _spec(manifest: Record) -> Mapping[str, Any]:
    try:
        return manifest["stream"]["spec"]
    except (KeyError, TypeError):
        raise ValidationError("run.json: expected stream.spec, the resolved description of the stream; it is missing") from None


def matrix(manifest: Record, events: Iterable[Record]) -> EvaluationMatrix:
    """The evaluation matrix of a run: the pivot of its `eval` records, mapped to [0, 1] by the scale of each task."""
    spec = _spec(manifest)
    tasks = spec["tasks"]
    cells: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for record in merge(events):
        if record["kind"] == "eval":
            cells[record["phase"], record["step"]][record["task"]] = scaled(_mean(record["score"]), tasks[record["task"]]["scale"])
    rows = sorted(cells)
    score = np.full((len(rows), len(tasks)), np.nan)
    for number, row in enumerate(rows):
        for column, value in cells[row].items():
            score[number, column] = value
    return EvaluationMatrix(
        step=np.array([step for _, step in rows], dtype=np.int64),
        phase=np.array([phase for phase, _ in rows], dtype=np.int64),
        score=score,
        trained=tuple(tuple(phase["columns"]) for phase in spec["phases"]),
        tasks=tuple(task["name"] for task in tasks),
    )


def eval_rows(manifest: Record, events: Iterable[Record]) -> list[dict[str, Any]]:
    """The rows of `evals.csv`, sorted by phase, step and task; a cell that was not evaluated has none."""
    tasks = _spec(manifest)["tasks"]
    rows = []
    for record in merge(events):
        if record["kind"] != "eval":
            continue
        raw = _mean(record["score"])
        returns = [v for v in record.get("return", []) if v is not None]
        rows.append(
            {
                "run_key": manifest["run_key"],
                "stream": f"{manifest['stream']['name']}@{manifest['stream']['version']}",
                "agent": manifest["agent"]["name"],
                "seed": manifest["seed"],
                "order_id": manifest["order_id"],
                "phase": record["phase"],
                "step": record["step"],
                "task": record["task"],
                "task_id": record["task_id"],
                "episodes": record.get("episodes", len(record["score"])),  # an imported score is a mean over several
                "score": scaled(raw, tasks[record["task"]]["scale"]),
                "return_mean": _mean(returns) if returns else None,
                "return_std": record.get("return_std", float(np.std(returns)) if returns else None),
                "length_mean": _mean(record["length"]) if record.get("length") else None,
                "seed_set": record["seed_set"],
                "raw_score": raw,
            }
        )
    return sorted(rows, key=lambda row: (row["phase"], row["step"], row["task"]))


def evals_csv(manifest: Record, events: Iterable[Record]) -> str:
    """`evals.csv` as text: fixed columns, floats as Python writes them, an empty field where there is no value."""
    return rows_as_csv(eval_rows(manifest, events))


def rows_as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of `eval_rows`, of one run or of many, as text."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, EVALS_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row[name]) for name in EVALS_COLUMNS})
    return buffer.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def few_shot_curves(manifest: Record, events: Iterable[Record]) -> dict[int, metrics.FewShotCurve]:
    """The few-shot curve after each phase at which it was measured (-1 = untrained): mean over held-out tasks of the mean over draws."""
    few = _spec(manifest).get("few_shot")
    if not few:
        return {}
    scores: dict[int, dict[int, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for record in merge(events):
        if record["kind"] == "adapt":
            value = scaled(_mean(record["score"]), few["tasks"][record["task"]]["scale"])
            scores[record["phase"]][record["shots"]][record["task"]].append(value)
    shots = tuple(few["shots"])
    return {
        phase: metrics.FewShotCurve(
            shots,
            np.array(
                [
                    _mean([_mean(by_task[n]) for n in by_task]) if len(by_task := by_shots[k]) == len(few["tasks"]) else math.nan
                    for k in shots
                ]
            ),
        )
        for phase, by_shots in sorted(scores.items())
    }


def costs(events: Sequence[Record]) -> metrics.Costs:
    """What the run cost, from its phase ends and its last `resources` record."""
    ends = [record for record in merge(events) if record["kind"] == "task_end"]
    resources = [record for record in events if record["kind"] == "resources"]
    last = resources[-1] if resources else {}
    first_end, last_end = (ends[0], ends[-1]) if ends else ({}, {})
    nan = math.nan

    def number(record: Record, key: str) -> float:
        value = record.get(key)
        return nan if value is None else float(value)

    scalars = last_end.get("scalars") or {}
    return metrics.Costs(
        retained_bytes=number(last_end, "state_bytes"),
        first_retained_bytes=number(first_end, "state_bytes"),
        parameters=number(last_end, "parameters"),
        steps=float(sum(end["units"] for end in ends)) if ends else nan,
        unit=last_end.get("unit", ""),
        gradient_steps=number(last_end, "gradient_steps"),
        train_seconds=number(last, "learn_s"),
        evaluate_seconds=number(last, "evaluate_s") + number(last, "adapt_s"),
        peak_rss_bytes=number(last, "peak_rss_bytes"),
        peak_device_bytes=number(last, "peak_device_bytes"),
        memory_bytes=number(scalars, "memory_bytes_per_stream"),
        memory_writes=number(scalars, "memory_writes"),
        memory_reads=number(scalars, "memory_reads"),
    )


@dataclass(frozen=True)
class Reference:
    """The single-task runs a stream's forward transfer is measured against: the same for every agent."""

    name: str
    hash: str
    agent_config: Any
    runs: tuple[EvaluationMatrix, ...]
    scratch: metrics.FewShotCurve | None  # the reference agent's few-shot curve before any training

    def scratch_for(self, shots: tuple[int, ...]) -> metrics.FewShotCurve | None:
        """The curve from scratch, where it was measured with these numbers of shots."""
        return self.scratch if self.scratch is not None and self.scratch.shots == shots else None

    @property
    def count(self) -> int:
        """The smallest number of runs that any task has."""
        columns = [n for run in self.runs for phase in run.trained or () for n in phase]
        return min((columns.count(n) for n in set(columns)), default=0)

    @property
    def lowest(self) -> dict[str, float]:
        """By name of a task the lowest of the last scores of the runs that trained it."""
        found: dict[str, float] = {}
        for run in self.runs:
            for column in {column for phase in run.trained or () for column in phase}:
                name = run.labels[column]
                found[name] = min(found.get(name, math.inf), float(run.score[-1, column]))
        return found


def find_reference(manifest: Record, results_dir: Path | None) -> Reference | None:
    """The committed reference set of a run's stream family, version and budget, looked for beside `results_dir` and in ./results."""
    spec = _spec(manifest)
    tail = Path("references") / f"{spec['family']}@{spec['version']}" / manifest["budget"]
    roots = [*([results_dir, results_dir.parent] if results_dir is not None else []), Path("results")]
    for root in roots:
        sets = sorted(p for p in (root / tail).glob("*") if (p / "evals.csv").is_file())
        if sets:
            return _load_reference(sets[0].resolve(), (sets[0] / "evals.csv").stat().st_mtime_ns)
    return None


@lru_cache(maxsize=32)
def _load_reference(folder: Path, _modified: int) -> Reference:
    runs = [read_packed(path) for path in sorted((folder / "runs").iterdir()) if (path / "run.json").is_file()]
    if not runs:
        raise ValidationError(f"{folder}: expected runs/*/run.json, found none")
    curves = [curve for manifest, events in runs if (curve := few_shot_curves(manifest, events).get(-1)) is not None]
    scratch = metrics.FewShotCurve(curves[0].shots, np.mean([c.score for c in curves], axis=0)) if curves else None
    return Reference(
        name=folder.name,
        hash=hashlib.sha256((folder / "evals.csv").read_bytes()).hexdigest(),
        agent_config=runs[0][0]["agent"]["config"],
        runs=tuple(matrix(manifest, events) for manifest, events in runs),
        scratch=scratch,
    )


def read_packed(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Manifest and events of one packed run, checked."""
    file = folder / "events.jsonl.gz"
    manifest, events = read_json(folder / "run.json"), parse_events(unpacked(file, MAX_UNPACKED), str(file))
    check(manifest, events, folder, file)
    return manifest, events


def check(manifest: Record, events: Iterable[Record], folder: Path, log: Path) -> None:
    """Refuse a run in `folder` whose files lack what readers need."""
    check_manifest(manifest, f"{folder}/run.json")
    check_events(manifest, events, str(log))


def unpacked(file: Path, limit: int) -> bytes:
    """The content of a gzip file of events, read as a stream; more than `limit` bytes are refused."""
    try:
        with gzip.open(file, "rb") as handle:
            data = handle.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValidationError(f"{file}: expected a gzip file of events ({error})") from None
    if len(data) > limit:
        raise ValidationError(f"{file}: expected at most {MAX_UNPACKED} bytes unpacked in all, found more")
    return data


def summary(manifest: Record, events: Sequence[Record], reference: Reference | None) -> dict[str, Any]:
    """`summary.json`: every headline metric of the run, per-task values, the few-shot curves, what it was compared with."""
    spec = _spec(manifest)
    scores = matrix(manifest, events)
    window = spec["window"]
    curves = few_shot_curves(manifest, events)
    cost = costs(events)
    last = curves[max(curves)] if curves and max(curves) >= 0 else None
    own = reference.runs if reference is not None and reference.agent_config == manifest["agent"]["config"] else None
    measured = metrics.Measurements(
        scores,
        window,
        reference=None if reference is None else _reference_means(scores, reference),
        own_single_runs=own,  # plasticity compares an agent with itself: the reference set serves where this is the reference agent
        curve=last,
        fresh_curve=curves.get(-1),
        scratch_curve=None if reference is None or last is None else reference.scratch_for(last.shots),
        costs=cost,
    )
    values = metrics.measure_all(measured)
    trained = metrics.trained_columns(scores)
    minimum = None if reference is None else _null(np.min(metrics.headroom(_reference_means(scores, reference))[trained]))
    return {
        "schema": SCHEMA,
        "metric_version": metrics.METRIC_VERSION,
        "run_key": manifest["run_key"],
        "stream": f"{manifest['stream']['name']}@{manifest['stream']['version']}",
        "family": spec["family"],
        "role": spec["role"],
        "budget": manifest["budget"],
        "agent": manifest["agent"]["name"],
        "seed": manifest["seed"],
        "window": window,
        "metrics": {name: _null(value) for name, value in sorted(values.items()) if _applies(name, spec)},
        "final_per_task": {n: _null(v) for n, v in zip(scores.labels, metrics.performance_per_task(scores, window=window), strict=True)},
        "forward_transfer": {
            "value": _null(values["forward_transfer"]),
            "raw": _null(values["forward_transfer_raw"]),
            "min_headroom": minimum,
            "reference": None if reference is None else reference.name,
            "reference_hash": None if reference is None else reference.hash,
            "reference_runs": 0 if reference is None else reference.count,
        },
        "few_shot": {
            str(phase): {str(k): _null(s) for k, s in zip(curve.shots, curve.score, strict=True)} for phase, curve in curves.items()
        },
        "unit": cost.unit,
        "attempts": 1 + sum(record["kind"] == "attempt_start" for record in events),
        "status": "finished" if any(record["kind"] == "run_end" for record in events) else "unfinished",
    }


def _reference_means(scores: EvaluationMatrix, reference: Reference) -> np.ndarray[Any, Any]:
    return metrics.reference_curve_means(reference.runs, scores.tasks)


def _applies(name: str, spec: Mapping[str, Any]) -> bool:
    """Whether a metric can have a value in this stream: numbers of shots that it does not grant have no row."""
    if not name.startswith("few_shot("):
        return True
    shots = spec["few_shot"]["shots"] if spec.get("few_shot") else []
    return int(name.removeprefix("few_shot(").rstrip(")")) in shots


def _null(value: float) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
