"""Logs of Continual World (Wolczyk et al. 2021) as runs of our store, so that its numbers come from the same metrics as ours.

    LOGDIR/<any depth>/<run id>/progress.tsv   one header line, then one line for each evaluation, tab separated
    LOGDIR/<any depth>/<run id>/config.json    a flat object

Source: `awarelab/continual_world` 73f63bb. A run is continual where its header has `train/active_env`, multi-task where its configuration
has `use_popart`, a single-task reference where it has `task`. A score is the mean of ten stochastic episodes; the logs do not have them one
by one. The deterministic episode is kept apart, in `deterministic.csv`, and is no score.

Everything is read and checked before anything is written. A torn last line is left out with a warning; a cell that is empty or `nan` was
not evaluated. The streams are named after Meta-World's first version, so that these runs stand in no table with runs of another one.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError
from .registry import NAME
from .runs import derive
from .store import SCHEMA, RunFolder, utc_now
from .stream import PROTOCOL_VERSION, canonical_json, digest

SOURCE = "continual-world"
EPISODES = 10  # behind a score
_WINDOW = 5  # rows that the end of a phase averages over
_CW10 = ("hammer", "push-wall", "faucet-close", "push-back", "stick-pull", "handle-press-side", "push", "shelf-place", "window-close")
CW10 = tuple(f"{task}-v1" for task in (*_CW10, "peg-unplug-side"))
STEP, ACTIVE = "total_env_steps", "train/active_env"
_SUCCESS = re.compile(r"test/(stochastic|deterministic)/(\d+)/([^/]+)/success")
_BESIDE = ("return/avg", "return/std", "ep_length")
_SAID_ELSEWHERE = ("cl_method", "steps_per_task", "tasks", "task_list", "seed", "use_popart", "task", "steps")
_ROLES = {"continual": "stream", "multi-task": "joint", "reference": "single"}


class Cell(NamedTuple):
    """What a line says of one position."""

    score: float  # NaN: not evaluated
    deterministic: float
    beside: dict[str, float]  # return/avg, return/std, ep_length


@dataclass(frozen=True)
class Line:
    """One line of a log: one evaluation of all positions."""

    step: int
    active: int  # the position that is trained; 0 in runs of one phase
    cells: tuple[Cell, ...]
    seconds: float | None


@dataclass(frozen=True)
class Log:
    """One run as it was logged. `kind`: continual, multi-task or reference."""

    folder: Path
    kind: str
    config: Mapping[str, Any]
    tasks: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def run_id(self) -> str:
        """The name of its folder, whose order as a string decides the bits of an interval."""
        return self.folder.name

    @property
    def method(self) -> str:
        """The name in tables: that of the method, `mtl`, `mtl_popart`, or `single-task` for a reference."""
        if self.kind == "reference":
            return "single-task"
        if self.kind == "multi-task":
            return "mtl_popart" if self.config["use_popart"] else "mtl"
        if self.config.get("buffer_type") == "reservoir":  # Perfect Memory is fine-tuning with this buffer
            return "reservoir"
        return self.config["cl_method"] or "finetuning"


# ---- reading


def find_logs(root: Path) -> list[Log]:
    """Every log at or below `root`, sorted by run id; refused as a whole where one of them is broken or they do not belong together."""
    if not root.is_dir():
        raise UserError(f"no folder '{root}'; expected Continual World's logs, folders with progress.tsv and config.json")
    files = sorted(path for path in root.rglob("progress.tsv") if path.is_file())
    if not files:
        raise UserError(f"no progress.tsv at or below '{root}'; expected <run id>/progress.tsv and <run id>/config.json at any depth")
    logs = sorted((read_log(file.parent) for file in files), key=lambda log: (log.kind, log.run_id))
    _check_together(logs)
    return logs


def read_log(folder: Path) -> Log:
    """The log in `folder`."""
    config = _config(folder / "config.json")
    file = folder / "progress.tsv"
    header, rows = _table(file)
    kind = _kind(file, header, config)
    scores = _columns(file, header, "stochastic")
    tasks = tuple(task for task, _ in scores)
    if kind == "reference" and tasks != (config["task"],):
        raise UserError(
            f"{file}: expected the one task of its configuration, '{config['task']}', in test/stochastic/0/..., found {_listed(tasks)}"
        )
    deterministic = dict(enumerate(_columns(file, header, "deterministic", required=False)))
    reader = _Reader(file, header, scores, deterministic, kind)
    lines = sorted((reader.line(number, cells) for number, cells in rows), key=lambda line: line.step)
    _check_lines(file, kind, lines, tasks, config)
    return Log(folder, kind, config, tasks, tuple(lines))


def _config(file: Path) -> dict[str, Any]:
    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=refused)
    except FileNotFoundError:
        raise UserError(f"no file '{file}'; expected the run's configuration beside its progress.tsv") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected one JSON object, got something else ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected one JSON object, got {type(config).__name__}")
    return config


def _table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and, with their numbers, the lines that are whole; a torn last one is left out with a warning."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected tab-separated text ({error})") from None
    ended = text.endswith("\n")
    lines = text.rstrip("\n").split("\n")
    header = lines[0].split("\t")
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{file}:1: the column '{repeated[0]}' occurs more than once")
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        last = number == len(lines)
        if last and (len(cells) < len(header) or (not ended and len(cells) == len(header) and _torn(header[-1], cells[-1]))):
            warnings.warn(f"{file}:{number}: the last line is torn and was left out", stacklevel=2)
        elif len(cells) != len(header):
            raise UserError(f"{file}:{number}: expected {len(header)} cells, one for each column of line 1, got {len(cells)}")
        else:
            rows.append((number, cells))
    if not rows:
        raise UserError(f"{file}: expected a header and at least one line of evaluations, found none")
    return header, rows


def _torn(name: str, cell: str) -> bool:
    """Whether the last cell of a line without an end may miss its own end and count: a score, or what is no number."""
    return bool(_SUCCESS.fullmatch(name)) or _parsed(cell) is None


def _parsed(text: str) -> float | None:
    """The number in a cell, NaN for an empty one; None where it is no number."""
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        return None


def _kind(file: Path, header: Sequence[str], config: Mapping[str, Any]) -> str:
    where = file.with_name("config.json")
    if STEP not in header:
        raise UserError(f"{file}:1: no column '{STEP}'; found {_listed(header)}")
    if ACTIVE in header:
        for key in ("cl_method", "steps_per_task"):
            if key not in config:
                raise UserError(f"{where}: no '{key}', which a continual run (its log has '{ACTIVE}') needs")
        method = config["cl_method"]
        if method is not None and not (isinstance(method, str) and NAME.fullmatch(method)):
            raise UserError(f"{where}: cl_method: expected null or a name matching {NAME.pattern}, got {method!r:.60}")
        _positive(where, "steps_per_task", config["steps_per_task"])
        return "continual"
    if "use_popart" in config:
        if not isinstance(config["use_popart"], bool):
            raise UserError(f"{where}: use_popart: expected true or false, got {config['use_popart']!r:.60}")
        return "multi-task"
    if "task" in config:
        return "reference"
    raise UserError(
        f"{file}: expected a continual run (a column '{ACTIVE}'), a multi-task run (a key 'use_popart' in config.json) "
        "or a reference (a key 'task' there), found none of them"
    )


def _positive(where: Path, key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or value != int(value):
        raise UserError(f"{where}: {key}: expected a whole number > 0, got {value!r:.60}")


def _columns(file: Path, header: Sequence[str], which: str, *, required: bool = True) -> list[tuple[str, int]]:
    """Of each position its task and the index of its success column; positions are 0, 1, ..., each with one task."""
    found: dict[int, tuple[str, int]] = {}
    for index, name in enumerate(header):
        match = _SUCCESS.fullmatch(name)
        if match is None or match[1] != which:
            continue
        position = int(match[2])
        if position in found:
            raise UserError(f"{file}:1: position {position} has two tasks, '{found[position][0]}' and '{match[3]}'")
        found[position] = match[3], index
    if not found and required:
        raise UserError(f"{file}:1: no column 'test/{which}/<position>/<task>/success'; found {_listed(header)}")
    if missing := sorted(set(range(max(found, default=-1) + 1)) - set(found)):
        raise UserError(f"{file}:1: no column 'test/{which}/{missing[0]}/<task>/success', though there is one for position {max(found)}")
    return [found[position] for position in sorted(found)]


class _Reader:
    """Lines of one file."""

    def __init__(
        self, file: Path, header: Sequence[str], scores: Sequence[tuple[str, int]], deterministic: Mapping[int, tuple[str, int]], kind: str
    ) -> None:
        self._file, self._kind, self._scores, self._deterministic = file, kind, scores, deterministic
        self._index = {name: index for index, name in enumerate(header)}

    def line(self, number: int, cells: Sequence[str]) -> Line:
        """One line, checked."""
        step = self._whole(number, cells, STEP)
        active = self._whole(number, cells, ACTIVE) if self._kind == "continual" else 0
        if not active < len(self._scores):
            raise UserError(f"{self._file}:{number}: {ACTIVE}: expected a position 0..{len(self._scores) - 1}, got {active}")
        seconds = self._optional(number, cells, "walltime")
        found = tuple(self._cell(number, cells, position) for position in range(len(self._scores)))
        return Line(step, active, found, None if math.isnan(seconds) else seconds)

    def _cell(self, number: int, cells: Sequence[str], position: int) -> Cell:
        task, index = self._scores[position]
        score = self._share(number, f"test/stochastic/{position}/{task}/success", cells[index])
        other = self._deterministic.get(position)
        deterministic = math.nan
        if other is not None:
            deterministic = self._share(number, f"test/deterministic/{position}/{other[0]}/success", cells[other[1]])
        prefix = f"test/stochastic/{position}/{task}/"
        beside = {name: self._optional(number, cells, prefix + name) for name in _BESIDE}
        return Cell(score, deterministic, {name: value for name, value in beside.items() if math.isfinite(value)})

    def _whole(self, number: int, cells: Sequence[str], name: str) -> int:
        value = self._number(number, name, cells[self._index[name]])
        if not (math.isfinite(value) and value >= 0 and value == int(value)):
            raise UserError(f"{self._file}:{number}: {name}: expected a whole number >= 0, got '{cells[self._index[name]]}'")
        return int(value)

    def _share(self, number: int, name: str, text: str) -> float:
        value = self._number(number, name, text)
        if not (math.isnan(value) or 0 <= value <= 1):
            raise UserError(f"{self._file}:{number}: {name}: expected a share in [0, 1], nan or nothing, got '{text}'")
        return value

    def _optional(self, number: int, cells: Sequence[str], name: str) -> float:
        return self._number(number, name, cells[self._index[name]]) if name in self._index else math.nan

    def _number(self, number: int, name: str, text: str) -> float:
        value = _parsed(text)
        if value is None:
            raise UserError(f"{self._file}:{number}: {name}: expected a number, got '{text:.60}'")
        return value


def _check_lines(file: Path, kind: str, lines: Sequence[Line], tasks: Sequence[str], config: Mapping[str, Any]) -> None:
    for before, line in pairwise(lines):
        if line.step == before.step:
            raise UserError(f"{file}: two lines have {STEP} = {line.step}; expected one line for each evaluation")
        if line.active < before.active:
            raise UserError(f"{file}: {ACTIVE} falls from {before.active} to {line.active} at {STEP} = {line.step}; expected it to rise")
    if kind != "continual":
        return
    there = {line.active for line in lines}
    missing = [position for position in range(len(tasks)) if position not in there]
    if missing:
        first, whole = missing[0], len(tasks) * int(config["steps_per_task"])
        raise UserError(
            f"{file}: no evaluation while position {first} ('{tasks[first]}') is trained: the log ends at {STEP} = {lines[-1].step} "
            f"of {whole}. A run that did not reach its end has no numbers; move it out of this folder"
        )


def _check_together(logs: Sequence[Log]) -> None:
    """Runs of one kind have different names; those of one table have one order of tasks and one budget."""
    first: dict[str, Log] = {}
    names: dict[tuple[str, str], Log] = {}
    for log in logs:
        other = names.setdefault((log.kind, log.run_id), log)
        if other is not log:
            raise UserError(
                f"two {log.kind} runs are called '{log.run_id}': '{other.folder}' and '{log.folder}'; rename one of the folders"
            )
        if log.kind == "reference":
            continue
        other = first.setdefault(log.kind, log)
        if log.tasks != other.tasks:
            raise UserError(
                f"'{other.folder}' and '{log.folder}' have different tasks or another order of them "
                f"({_difference(other.tasks, log.tasks)}); import them into folders of their own"
            )
        said = other.config.get("steps_per_task"), log.config.get("steps_per_task")
        if said[0] != said[1]:
            raise UserError(f"'{other.folder}' and '{log.folder}' differ in steps_per_task: {said[0]} and {said[1]}; import them apart")


def _difference(a: Sequence[str], b: Sequence[str]) -> str:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} positions"
    position = next(n for n in range(len(a)) if a[n] != b[n])
    return f"position {position}: '{a[position]}' and '{b[position]}'"


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") if names else "nothing"


# ---- what is stored


def family(logs: Sequence[Log]) -> str:
    """The name of the stream that runs imported together belong to: cw10 or cw20 in Continual World's order, else marked by its tasks."""
    leading = next(log for kind in _ROLES for log in logs if log.kind == kind)
    tasks = leading.tasks if leading.kind != "reference" else tuple(sorted({log.tasks[0] for log in logs}))
    if tasks in (CW10, CW10 * 2):
        return f"cw{len(tasks)}-metaworld-v1"
    return f"cw{len(tasks)}-{digest(list(tasks))[:8]}-metaworld-v1"


def spec(log: Log, family: str) -> dict[str, Any]:
    """The stream that a log was made on, described as ours are."""
    role = _ROLES[log.kind]
    steps = [line.step for line in log.lines]
    between = Counter(after - before for before, after in pairwise(steps)).most_common(1)
    interval = between[0][0] if between else steps[0] or 1
    phases = [{"columns": columns, "units": units, "points": max(1, units // interval)} for columns, units in _phases(log)]
    rows = Counter(line.active for line in log.lines)
    return {
        "name": family if log.kind == "continual" else f"{family}-joint" if log.kind == "multi-task" else f"{family}-{log.tasks[0]}",
        "version": 1,
        "budget": "imported",
        "family": family,
        "role": role,
        "kind": SOURCE,
        "options": {"metaworld": "v1", "horizon": 200, "episodes": EPISODES},
        "protocol_version": PROTOCOL_VERSION,
        "boundaries": True,
        "window": min(_WINDOW, *rows.values()),
        "tasks": [_task(name, position, len(log.tasks)) for position, name in enumerate(log.tasks)],
        "phases": phases,
        "few_shot": None,
    }


def _phases(log: Log) -> list[tuple[list[int], int]]:
    """The positions that each phase trains, and its steps."""
    everything = list(range(len(log.tasks)))
    if log.kind == "continual":
        return [([n], int(log.config["steps_per_task"])) for n in everything]
    return [(everything, _units(log))]


def _units(log: Log) -> int:
    """Steps of a run of one phase: what its configuration says, else what its log reached."""
    said = log.config.get("steps") if log.kind == "reference" else log.config.get("steps_per_task")
    if isinstance(said, bool) or not isinstance(said, int | float) or said < 1:
        return max(1, log.lines[-1].step)
    return int(said) * (len(log.tasks) if log.kind == "multi-task" else 1)


def _task(name: str, position: int, count: int) -> dict[str, Any]:
    sizes = {"input_size": 12, "output_size": 4}
    return {"name": name, "index": position, "num_tasks": count, "experience": "interaction", **sizes, "scale": [0.0, 1.0]}


def store(log: Log, family: str, number: int, target: Path) -> bool:
    """Write a log as a run below `target`; False where it is there already. What a kill left half done is written again."""
    record = manifest(log, family, number)
    name, key = record["stream"]["name"], record["run_key"]
    folder = RunFolder(target / f"{name}@1" / record["budget"] / log.method / f"s{record['seed']:03d}-{key}")
    if folder.done:
        return False
    folder.open(record)
    try:
        folder.write("events.jsonl", events(log, key, family))
        if apart := deterministic(log):
            folder.write("deterministic.csv", apart)
        derive(folder.path, None)
        folder.finish()
    finally:
        folder.close()
    return True


def manifest(log: Log, family: str, number: int) -> dict[str, Any]:
    """What `run.json` holds; `number`: the run's place among those imported, its seed where it tells none."""
    stream, config = spec(log, family), {key: value for key, value in log.config.items() if key not in _SAID_ELSEWHERE}
    agent = {"name": log.method, "module": SOURCE, "distribution": None, "config": config}
    agent["hash"] = digest({"sources": [], "config": config})
    said = log.config.get("seed")
    seed = said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else number
    identity = {"stream": digest(stream), "agent": agent["name"], "config": config, "seed": seed, "kind": log.kind, "run_id": log.run_id}
    return {
        "schema": SCHEMA,
        "run_key": digest(identity)[:12],
        "created_utc": utc_now(),
        "stream": {"name": stream["name"], "version": 1, "hash": digest(stream), "spec": stream},
        "budget": stream["budget"],
        "agent": agent,
        "seed": seed,
        "order_id": 0,
        "protocol_version": PROTOCOL_VERSION,
        "track": {"task_identity": "cued", "boundaries": True},
        "determinism": {},
        "clbench": {"version": version("clbench")},
        "imported": {"source": SOURCE, "run_id": log.run_id, "kind": log.kind},
    }


def events(log: Log, run_key: str, family: str) -> str:
    """The lines of `events.jsonl`."""
    numbered = _numbered(log, run_key, family)
    lines = [{**record, "seq": n, "attempt": 0} for n, record in enumerate(numbered)]
    seconds = log.lines[-1].seconds
    if seconds is not None:
        lines.append({"kind": "resources", "seq": None, "attempt": 0, "total_s": seconds})
    return "".join(canonical_json(line) + "\n" for line in lines)


def _numbered(log: Log, run_key: str, family: str) -> Iterator[dict[str, Any]]:
    yield {"kind": "run_start", "run_key": run_key}
    phases = _phases(log)
    for phase, (columns, units) in enumerate(phases):
        yield {
            "kind": "task_start",
            "phase": phase,
            "tasks": columns,
            "task_ids": [log.tasks[n] for n in columns],
            "unit": "environment_steps",
        }
        for line in log.lines:
            if line.active == phase:
                yield from _evaluations(log, line, family)
        yield {"kind": "task_end", "phase": phase, "tasks": columns, "units": units, "unit": "environment_steps"}
    yield {"kind": "run_end", "phases": len(phases)}


def _evaluations(log: Log, line: Line, family: str) -> Iterator[dict[str, Any]]:
    where = {"phase": line.active, "step": line.step, "seed_set": f"{family}@1", "episodes": EPISODES}
    for position, cell in enumerate(line.cells):
        if math.isnan(cell.score):
            continue
        facts: dict[str, Any] = {"score": [cell.score]}
        if "return/avg" in cell.beside:
            facts["return"] = [cell.beside["return/avg"]]
        if "return/std" in cell.beside:
            facts["return_std"] = cell.beside["return/std"]
        if "ep_length" in cell.beside:
            facts["length"] = [cell.beside["ep_length"]]
        yield {"kind": "eval", **where, "task": position, "task_id": log.tasks[position], **facts}


def deterministic(log: Log) -> str:
    """The scores of the deterministic episode as CSV; empty where none was logged."""
    rows = [
        f"{line.active},{line.step},{position},{log.tasks[position]},{cell.deterministic!r}\n"
        for line in log.lines
        for position, cell in enumerate(line.cells)
        if not math.isnan(cell.deterministic)
    ]
    return "phase,step,task,task_id,score\n" + "".join(rows) if rows else ""
