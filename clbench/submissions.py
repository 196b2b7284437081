"""Packed runs: what is committed of them, and the check that a pack is what it claims to be. Nothing in a pack is ever executed.

    results/submissions/<stream>@<version>/<budget>/<agent>/<date>-<team>/     results/references/<family>@<version>/<budget>/<name>/
        submission.json     who, what, how tuned, claims
        runs/s003-<key>/    run.json, attempts.json, events.jsonl.gz (numbered records, then `resources`; gzip without a time)
        evals.csv           all runs, derived
        environment.txt     package versions common to all runs
        SHA256SUMS          of every other file

Packing the same runs again gives the same bytes. A pack holds no host name and no absolute path.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import derived
from .errors import UserError, ValidationError
from .files import disk_errors, make_folder, write_whole
from .loading import LoadedRun, load_run
from .registry import NAME
from .store import SCHEMA, canonical_json, merge, read_json
from .stream import digest
from .validation import field_of

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
RUN_FOLDER = re.compile(r"s(\d{3,})-([0-9a-f]{12})")
ABSOLUTE = re.compile(r"(?:^|[=:\s])(?:/[\w.@+~-]+){2,}|(?:^|[=\s])[A-Za-z]:[\\/]")
CLAIMS = ("performance", "worst_task", "forgetting", "learning_auc", "few_shot_area", "few_shot_gain")
TOP_FILES = ("SHA256SUMS", "environment.txt", "evals.csv", "submission.json")
RUN_FILES = ("attempts.json", "events.jsonl.gz", "run.json")
MAX_BYTES = 5 * 2**20
TIER = "self-reported"

Record = Mapping[str, Any]


# -- packing -------------------------------------------------------------------------------------------------------------


def pack(runs: Sequence[Path], out: Path, *, team: str, date: str, tuning: Mapping[str, Any] | str, notes: str) -> Path:
    """The folder `<out>/<stream>/<budget>/<agent>/<date>-<team>`, written from finished runs of one agent on one stream.

    `tuning` says how hyper-parameters were chosen; "none" is an answer, nothing is not.
    """
    _require(bool(NAME.fullmatch(team)), f"team: expected a name matching {NAME.pattern}, got '{team}'")
    _require(bool(DATE.fullmatch(date)), f"date: expected YYYY-MM-DD, got '{date}'")
    _require(bool(tuning), 'tuning: say how hyper-parameters were chosen, or "none"; it is required')
    loaded = _loaded(runs)
    _require_alike(loaded, "stream.hash", "agent.name", "agent.config", "agent.hash")
    first = loaded[0]
    folder = out / first.stream / first.budget / first.agent / f"{date}-{team}"
    extra = {"team": team, "date": date, "tuning": dict(tuning) if isinstance(tuning, Mapping) else tuning, "notes": notes, "tier": TIER}
    return _write(loaded, folder, extra)


def pack_reference(runs: Sequence[Path], out: Path, *, name: str, date: str, notes: str = "") -> Path:
    """The folder `<out>/<family>/<budget>/<name>`: single-task runs of one agent that forward transfer is measured against."""
    _require(bool(NAME.fullmatch(name)), f"name: expected a name matching {NAME.pattern}, got '{name}'")
    _require(bool(DATE.fullmatch(date)), f"date: expected YYYY-MM-DD, got '{date}'")
    loaded = _loaded(runs)
    _require_alike(loaded, "stream.spec.family", "stream.spec.version", "budget", "agent.name", "agent.config", "agent.hash")
    other = next((run for run in loaded if run.role != "single"), None)
    _require(other is None, f"a reference set holds single-task runs, got '{other.stream if other else ''}'; make them with only=K")
    first = loaded[0]
    return _write(loaded, out / first.family / first.budget / name, {"reference": name, "date": date, "notes": notes})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _loaded(runs: Sequence[Path]) -> list[LoadedRun]:
    """The runs, in the order of stream, seed and key; each finished and there once."""
    _require(bool(runs), "no runs to pack; give the folders of finished runs, as in results/runs/<stream>/<budget>/<agent>/*")
    for path in runs:
        _require((path / "run.json").is_file(), f"'{path}' is no run: expected a folder with run.json")
        _require((path / "DONE").is_file(), f"'{path}' is not finished: no DONE; run it to its end first")
    loaded = [load_run(path, path.name) for path in runs]
    imported = next((run for run in loaded if "imported" in run.manifest), None)
    _require(
        imported is None,
        f"'{imported.origin if imported else ''}' was imported from other logs; submissions are runs that clbench made, and published "
        "numbers stand in results/published",
    )
    unfinished = next((run for run in loaded if not run.finished), None)
    _require(
        unfinished is None,
        f"'{unfinished.origin if unfinished else ''}' has DONE but no run_end in events.jsonl; run it again with --fresh",
    )
    again = [key for key, count in Counter(_name(run) for run in loaded).items() if count > 1]
    _require(not again, f"run {again[0] if again else ''} is given more than once; give each run once")
    return sorted(loaded, key=lambda run: (run.stream, run.seed, run.run_key))


def _require_alike(runs: Sequence[LoadedRun], *keys: str) -> None:
    for key in keys:
        values = sorted({canonical_json(field_of(run.manifest, key)) for run in runs})
        _require(len(values) == 1, f"runs differ in {key}: {' against '.join(value[:60] for value in values[:2])}; pack them apart")


def _name(run: LoadedRun) -> str:
    return f"s{run.seed:03d}-{run.run_key}"


def _write(runs: Sequence[LoadedRun], folder: Path, extra: Mapping[str, Any]) -> Path:
    """Write the pack under a temporary name, check it as everybody will, then give it its name."""
    _require(not folder.exists(), f"'{folder}' is there already; a submission is never changed, give another date or team")
    files = _files(runs, extra)
    make_folder(folder.parent)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, content in files.items():
            make_folder((temporary / name).parent)
            write_whole(temporary / name, content)
        verify(temporary)
        with disk_errors(folder):
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _files(runs: Sequence[LoadedRun], extra: Mapping[str, Any]) -> dict[str, bytes]:
    """The content of every file of the pack by its path."""
    files: dict[str, bytes] = {}
    for run in runs:
        _refuse_paths(run)
        folder = f"runs/{_name(run)}"
        files[f"{folder}/run.json"] = _json(run.manifest)
        files[f"{folder}/attempts.json"] = _json(list(run.attempts))
        files[f"{folder}/events.jsonl.gz"] = compressed(packed_lines(run.events))
    files["evals.csv"] = evals_of(runs).encode()
    files["environment.txt"] = environment_of(runs).encode()
    first = runs[0]
    agent = {key: first.manifest["agent"].get(key) for key in ("name", "module", "distribution", "hash", "config")}
    files["submission.json"] = _json(
        {
            "schema": SCHEMA,
            "agent": agent,
            "stream": first.family if "reference" in extra else first.stream,
            "budget": first.budget,
            "seeds": sorted({run.seed for run in runs}),
            "orders": sorted({run.manifest["order_id"] for run in runs}),
            "claims": claims_of(runs) if "reference" not in extra else {},
            **extra,
        }
    )
    files["SHA256SUMS"] = sums_of(files).encode()
    return files


def _refuse_paths(run: LoadedRun) -> None:
    for where, text in _strings({"run.json": run.manifest, "attempts": list(run.attempts)}):
        if ABSOLUTE.search(text):
            raise ValidationError(
                f"{run.origin}: {where}: expected no absolute path, found {text!r:.80}; a pack must not name folders of a machine"
            )


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _strings(item, f"{where}[{number}]")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def packed_lines(events: Sequence[Record]) -> str:
    """The numbered records in order, each phase's `resources` behind its `task_end`; of replaced records the last attempt's."""
    resources = {record.get("phase"): record for record in events if record["kind"] == "resources"}
    lines = []
    for record in merge(events):
        lines.append(canonical_json(record))
        if record["kind"] == "task_end" and record["phase"] in resources:
            lines.append(canonical_json(resources[record["phase"]]))
    return "".join(line + "\n" for line in lines)


def compressed(text: str) -> bytes:
    """The text as gzip, with neither time nor file name in it."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as handle:
        handle.write(text.encode())
    return buffer.getvalue()


def evals_of(runs: Sequence[LoadedRun]) -> str:
    """`evals.csv` of all runs, in the order of their folders."""
    ordered = sorted(runs, key=_name)
    return derived.rows_as_csv(row for run in ordered for row in derived.eval_rows(run.manifest, run.events))


def environment_of(runs: Sequence[LoadedRun]) -> str:
    """Package versions that every attempt of every run had, one a line."""
    found = [set(map(str, attempt.get("packages") or [])) for run in runs for attempt in run.attempts]
    common = set.intersection(*found) if found else set()
    return "".join(f"{name}\n" for name in sorted(common, key=lambda name: (name.lower(), name)))


def claims_of(runs: Iterable[LoadedRun]) -> dict[str, float]:
    """Means over runs of the metrics that need no reference set; those that a run lacks are left out."""
    summaries = [derived.summary(run.manifest, run.events, None)["metrics"] for run in runs]
    values = {name: [summary.get(name) for summary in summaries] for name in CLAIMS}
    return {name: math.fsum(known) / len(known) for name, known in values.items() if known and None not in known}


def sums_of(files: Mapping[str, bytes]) -> str:
    """Lines of `sha256sum`, sorted by path."""
    return "".join(f"{sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files) if name != "SHA256SUMS")


# -- checking ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing that is not as claimed."""

    file: str
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: expected {_clip(self.expected)}, found {_clip(self.found)}"


def _clip(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 100 else f"{printable[:97]}..."


def verify(folder: Path) -> None:
    """Refuse a pack that is not what it claims to be, naming the first finding and how many more there are."""
    found = findings(folder)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValidationError(f"{folder.name}/{found[0]}{more}")


def findings(folder: Path) -> list[Finding]:
    """Everything about a pack that is not as claimed, one line each; empty for a good one. Stops early where reading on would be unsafe."""
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}'; expected a submission with submission.json and runs/")
    layout = list(_check_layout(folder))
    if layout:
        return layout
    try:
        return [*_check_sums(folder), *_check_content(folder)]
    except ValidationError as error:
        return [Finding(".", "content", "files that can be read", str(error).replace(f"{folder}/", ""))]
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, AttributeError) as error:
        return [Finding(".", "content", "records of this version's schema", f"{type(error).__name__}: {error}")]


def _check_layout(folder: Path) -> Iterator[Finding]:
    present = sorted(folder.rglob("*"))
    for path in present:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Finding(name, "type", "a plain file or folder", "a link or device")
        elif path.is_file() and not _allowed(name):
            yield Finding(name, "name", "a file of the layout", name)
    names = {path.relative_to(folder).as_posix() for path in present}
    folders = sorted(name for name in names if re.fullmatch(r"runs/[^/]+", name))
    needed = [*TOP_FILES, *(f"{run}/{file}" for run in folders for file in RUN_FILES)]
    yield from (Finding(name, "presence", "a file", "nothing") for name in needed if name not in names)
    if not folders:
        yield Finding("runs", "presence", "at least one run", "nothing")
    size = sum(path.stat().st_size for path in present if path.is_file() and not path.is_symlink())
    if size > MAX_BYTES:
        yield Finding(".", "size", f"at most {MAX_BYTES} bytes", str(size))


def _allowed(name: str) -> bool:
    parts = name.split("/")
    return name in TOP_FILES or (len(parts) == 3 and parts[0] == "runs" and bool(RUN_FOLDER.fullmatch(parts[1])) and parts[2] in RUN_FILES)


def _check_sums(folder: Path) -> Iterator[Finding]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    expected = _read_sums(sums_of(files))
    stated = _read_sums(files["SHA256SUMS"].decode(errors="replace"))
    for name in sorted(expected.keys() | stated.keys()):
        if expected.get(name) != stated.get(name):
            yield Finding(name, "SHA256SUMS", stated.get(name, "no such file"), expected.get(name, "nothing"))


def _read_sums(text: str) -> dict[str, str]:
    """The sum of each file by its path."""
    pairs = (line.partition("  ") for line in text.splitlines())
    return {name: checksum for checksum, _, name in pairs}


def _check_content(folder: Path) -> Iterator[Finding]:
    runs, unpacked = [], 0
    for path in sorted((folder / "runs").iterdir()):
        unpacked += len(derived.unpacked(path / "events.jsonl.gz", derived.MAX_UNPACKED - unpacked))
        run = load_run(path, path.name)
        runs.append(run)
        yield from check_run(run, f"runs/{path.name}")
    yield from _compare("evals.csv", "content", evals_of(runs), (folder / "evals.csv").read_bytes().decode(errors="replace"))
    yield from _compare(
        "environment.txt", "content", environment_of(runs), (folder / "environment.txt").read_bytes().decode(errors="replace")
    )
    yield from _check_submission(read_json(folder / "submission.json"), runs)


def _compare(file: str, field: str, expected: str, found: str) -> Iterator[Finding]:
    if expected != found:
        pairs = zip([*expected.splitlines(), "its end"], [*found.splitlines(), "its end"], strict=False)
        number, (want, have) = next(
            ((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1]), (0, ("equal bytes", "other bytes"))
        )
        yield Finding(f"{file}:{number}" if number else file, field, want, have)


def check_run(run: LoadedRun, where: str) -> Iterator[Finding]:
    """What one run's manifest and events contradict: identity, numbering, schedule, budget, scores."""
    yield from _check_identity(run, f"{where}/run.json")
    for key, text in _strings({"run.json": run.manifest, "attempts.json": list(run.attempts)}):
        if ABSOLUTE.search(text):
            yield Finding(where, key, "no absolute path", text)
    file = f"{where}/events.jsonl.gz"
    numbers = [record["seq"] for record in run.events if record.get("seq") is not None]
    if numbers != list(range(len(numbers))):
        at = next((n for n, seq in enumerate(numbers) if seq != n), len(numbers))
        yield Finding(file, "seq", str(at), str(numbers[at]))
    strange = next((r["kind"] for r in run.events if r.get("seq") is None and r["kind"] != "resources"), None)
    if strange is not None:
        yield Finding(file, "kind", "numbered records and resources only", str(strange))
    yield from _check_schedule(run, file)
    yield from _check_scores(run, file)


def _check_identity(run: LoadedRun, file: str) -> Iterator[Finding]:
    manifest = run.manifest
    stream = manifest["stream"]
    for key in ("name", "version"):
        if stream[key] != stream["spec"][key]:
            yield Finding(file, f"stream.{key}", str(stream["spec"][key]), str(stream[key]))
    if manifest["budget"] != stream["spec"].get("budget"):
        yield Finding(file, "budget", str(stream["spec"].get("budget")), manifest["budget"])
    key = run_key_of(manifest)
    if manifest["run_key"] != key:
        yield Finding(file, "run_key", key, manifest["run_key"])
    if Path(file).parent.name != _name(run):
        yield Finding(file, "folder", _name(run), Path(file).parent.name)


def run_key_of(manifest: Record) -> str:
    """The key that a manifest's identity has."""
    identity = {
        "schema": manifest["schema"],
        "protocol_version": manifest["protocol_version"],
        "stream_hash": manifest["stream"]["hash"],
        "order_id": manifest["order_id"],
        "agent": manifest["agent"]["name"],
        "agent_config": manifest["agent"]["config"],
        "seed": manifest["seed"],
    }
    return digest(identity)[:12]


def schedule(manifest: Record, untrained: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """What the numbered records of a run must say, in order: kind and the fields that the stream and the run's identity decide.

    `untrained`: the columns of the first row; without it those that the protocol asks about.
    """
    spec = manifest["stream"]["spec"]
    tasks, few = spec["tasks"], spec.get("few_shot")
    seed_set = f"{spec['family']}@{spec['version']}"

    def evaluations(phase: int, step: int, columns: Iterable[int]) -> list[dict[str, Any]]:
        return [
            {"kind": "eval", "phase": phase, "step": step, "task": n, "task_id": tasks[n]["name"], "seed_set": seed_set} for n in columns
        ]

    def adaptations(phase: int) -> list[dict[str, Any]]:
        if not few or phase not in few["after"]:
            return []
        return [
            {"kind": "adapt", "phase": phase, "task": n, "task_id": task["name"], "shots": shots, "draw": draw, "seed_set": seed_set}
            for n, task in enumerate(few["tasks"])
            for shots in few["shots"]
            for draw in range(few["draws"] if shots else 1)
        ]

    everything = spec["phases"][0]["columns"] if spec["role"] == "single" else range(len(tasks))
    first = everything if untrained is None else untrained
    plan = [{"kind": "run_start", "run_key": manifest["run_key"]}, *evaluations(-1, 0, first), *adaptations(-1)]
    step = 0
    for number, phase in enumerate(spec["phases"]):
        columns, units, points = phase["columns"], phase["units"], phase["points"]
        plan.append({"kind": "task_start", "phase": number, "tasks": columns, "task_ids": [tasks[n]["name"] for n in columns]})
        ends_run = number == len(spec["phases"]) - 1
        for point in range(1, points + 1):
            left = points - point
            plan += [{"kind": "task_end", "phase": number, "tasks": columns, "units": units}] if left == 0 else []
            whole = left == 0 or (ends_run and left < spec["window"])
            plan += evaluations(number, step + units * point // points, everything if whole else columns)
        step += units
        plan += adaptations(number)
    return [*plan, {"kind": "run_end", "units": step, "phases": len(spec["phases"])}]


def _check_schedule(run: LoadedRun, file: str) -> Iterator[Finding]:
    """The first record that is not the scheduled one.

    Single-task runs of November 2026 and before asked about all tasks once, untrained; they stay valid.
    """
    expected = schedule(run.manifest)
    if run.role == "single" and len(run.numbered) > len(expected):
        expected = schedule(run.manifest, range(len(run.manifest["stream"]["spec"]["tasks"])))
    for number, (want, record) in enumerate(zip(expected, run.numbered, strict=False)):
        for key, value in want.items():
            if record.get(key) != value:
                yield Finding(file, f"seq {number}: {want['kind']}.{key}", str(value), str(record.get(key)))
                return
    if len(expected) != len(run.numbered):
        yield Finding(file, "records", f"{len(expected)} numbered ones", str(len(run.numbered)))


def _check_scores(run: LoadedRun, file: str) -> Iterator[Finding]:
    """Scores are finite numbers, as many as other evaluations have, and other arrays are as long."""
    counts: Counter[int] = Counter()
    for record in run.numbered:
        if record["kind"] not in ("eval", "adapt"):
            continue
        scores = record.get("score")
        where = f"seq {record['seq']}: score"
        if not isinstance(scores, list) or not scores or not all(_finite(value) for value in scores):
            yield Finding(file, where, "a list of finite numbers", str(scores))
            return
        counts[len(scores)] += 1
        lengths = {key: len(value) for key, value in record.items() if isinstance(value, list) and len(value) != len(scores)}
        for key, length in lengths.items():
            yield Finding(file, f"seq {record['seq']}: {key}", f"{len(scores)} values, as score has", str(length))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_submission(submission: Any, runs: Sequence[LoadedRun]) -> Iterator[Finding]:
    file, first = "submission.json", runs[0]
    reference = "reference" in submission
    text_fields = ("stream", "budget", "notes", "date", "reference") if reference else ("stream", "budget", "notes", "date", "team", "tier")
    for key in text_fields:
        if not isinstance(submission.get(key), str):
            yield Finding(file, key, "text", str(submission.get(key)))
    if not reference and not submission.get("tuning"):
        yield Finding(file, "tuning", 'a declaration, or "none"', str(submission.get("tuning")))
    expected = {
        "schema": SCHEMA,
        "stream": first.family if reference else first.stream,
        "budget": first.budget,
        "seeds": sorted({run.seed for run in runs}),
        "orders": sorted({run.manifest["order_id"] for run in runs}),
    }
    for key, value in expected.items():
        if submission.get(key) != value:
            yield Finding(file, key, str(value), str(submission.get(key)))
    for key in ("name", "hash", "config"):
        for run in runs:
            if run.manifest["agent"].get(key) != submission["agent"].get(key):
                yield Finding(file, f"agent.{key}", str(run.manifest["agent"].get(key)), str(submission["agent"].get(key)))
                break
    hashes = {run.manifest["stream"]["hash"] for run in runs}
    if not reference and len(hashes) > 1:
        yield Finding(file, "stream.hash", "one stream", f"{len(hashes)} streams")
    yield from _check_claims(submission.get("claims"), {} if reference else claims_of(runs))


def _check_claims(stated: Any, recomputed: Mapping[str, float]) -> Iterator[Finding]:
    if not isinstance(stated, Mapping):
        yield Finding("submission.json", "claims", "an object of means", str(stated))
        return
    for name, value in stated.items():
        true = recomputed.get(name)
        if true is None or not _finite(value) or abs(value - true) > 1e-9:
            yield Finding("submission.json", f"claims.{name}", repr(true), repr(value))
