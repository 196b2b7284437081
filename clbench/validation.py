"""What a run's files must hold for their readers: `run.json` field by field, `events.jsonl` by kinds of records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import ValidationError
from .registry import NAME
from .stream import digest

Record = Mapping[str, Any]

_TYPES: tuple[tuple[str, type], ...] = (
    ("run_key", str),
    ("budget", str),
    ("seed", int),
    ("order_id", int),
    ("protocol_version", int),
    ("stream.name", str),
    ("stream.version", int),
    ("stream.hash", str),
    ("stream.spec.name", str),
    ("stream.spec.version", int),
    ("stream.spec.family", str),
    ("stream.spec.role", str),
    ("stream.spec.window", int),
    ("stream.spec.tasks", list),
    ("stream.spec.phases", list),
    ("agent.name", str),
    ("agent.hash", str),
)
_NAMES = ("budget", "stream.name", "stream.spec.family", "agent.name")


def check_manifest(manifest: Record, where: str) -> None:
    """Refuse a manifest without the fields that every reader needs, or with names that are no names."""
    for key, kind in _TYPES:
        value = field_of(manifest, key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _refusal(f"{where}: {key}", kind.__name__, value)
    for key in _NAMES:
        if not NAME.fullmatch(field_of(manifest, key)):
            raise _refusal(f"{where}: {key}", f"a name matching {NAME.pattern}", field_of(manifest, key))
    if not re.fullmatch(r"[0-9a-f]{12}", manifest["run_key"]):
        raise _refusal(f"{where}: run_key", "12 hexadecimal digits", manifest["run_key"])
    spec = manifest["stream"]["spec"]
    for number, task in enumerate(spec["tasks"]):
        _check_task(task, f"{where}: stream.spec.tasks[{number}].")
    for number, phase in enumerate(spec["phases"]):
        _check_phase(phase, len(spec["tasks"]), f"{where}: stream.spec.phases[{number}].")
    if spec.get("few_shot") is not None:
        _check_few_shot(spec["few_shot"], f"{where}: stream.spec.few_shot.")
    if manifest["stream"]["hash"] != digest(spec):
        raise _refusal(f"{where}: stream.hash", f"{digest(spec)[:12]}.., which stream.spec has", manifest["stream"]["hash"][:12])


def _check_task(task: Any, where: str) -> None:
    _check(task, where, "name", "str", lambda value: isinstance(value, str))
    _check(task, where, "scale", "a floor and a ceiling above it", _is_scale)


def _check_phase(phase: Any, tasks: int, where: str) -> None:
    _check(phase, where, "columns", f"numbers of tasks below {tasks}", lambda value: _are_counts(value) and all(n < tasks for n in value))
    for key in ("units", "points"):
        _check(phase, where, key, "a whole number", _is_count)


def _check_few_shot(few: Any, where: str) -> None:
    for key in ("shots", "after"):
        _check(few, where, key, "a list of whole numbers", lambda value: isinstance(value, list) and all(map(_is_whole, value)))
    _check(few, where, "draws", "a whole number", _is_count)
    _check(few, where, "tasks", "a list", lambda value: isinstance(value, list))
    for number, task in enumerate(few["tasks"]):
        _check_task(task, f"{where}tasks[{number}].")


def check_events(manifest: Record, events: Iterable[Record], where: str) -> None:
    """Refuse records without what their readers need. `manifest` is a checked one."""
    spec = manifest["stream"]["spec"]
    tasks = {"eval": len(spec["tasks"]), "adapt": len((spec.get("few_shot") or {}).get("tasks", ()))}
    for number, record in enumerate(events, 1):
        place = f"{where}: record {number} ({record['kind']:.20}): "
        _check(record, place, "seq", "a whole number or nothing", lambda value: value is None or _is_count(value))
        _check({"attempt": 0, **record}, place, "attempt", "a whole number", _is_count)
        for key, (expected, fits) in _NEEDED.get(record["kind"], {}).items():
            _check(record, place, key, expected, fits)
        if record["kind"] in tasks and record["task"] >= tasks[record["kind"]]:
            raise _refusal(f"{place}task", f"a number below {tasks[record['kind']]}", record["task"])


def _check(record: Any, where: str, key: str, expected: str, fits: Callable[[Any], bool]) -> None:
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping) or not fits(value):
        raise _refusal(where + key, expected, value)


def _refusal(where: str, expected: str, found: Any) -> ValidationError:
    return ValidationError(f"{where}: expected {expected}, found {found!r:.60}")


def field_of(record: Record, key: str) -> Any:
    """The value at a dotted key; None where a part is missing."""
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_nothing(value: Any) -> bool:
    return value is None or _is_number(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number_or_nothing, value))


def _is_scale(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


_COUNT = ("a whole number", _is_count)
_WHOLE = ("a whole number", _is_whole)
_TEXT = ("text", lambda value: isinstance(value, str))
_NUMBERS = ("a list of numbers", _are_numbers)
_NUMBERS_OR_NOTHING = ("a list of numbers or nothing", lambda value: value is None or _are_numbers(value))
_NUMBER_OR_NOTHING = ("a number or nothing", _is_number_or_nothing)
_NEEDED: Mapping[str, Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "eval": {
        **dict.fromkeys(("step", "task"), _COUNT),
        **dict.fromkeys(("task_id", "seed_set"), _TEXT),
        "phase": _WHOLE,
        "score": _NUMBERS,
        **dict.fromkeys(("return", "length"), _NUMBERS_OR_NOTHING),
        **dict.fromkeys(("episodes", "return_std"), _NUMBER_OR_NOTHING),
    },
    "adapt": {"phase": _WHOLE, **dict.fromkeys(("task", "shots"), _COUNT), "score": _NUMBERS},
    "task_end": {
        "units": _COUNT,
        **dict.fromkeys(("state_bytes", "parameters", "gradient_steps"), _NUMBER_OR_NOTHING),
        "scalars": ("an object or nothing", lambda value: value is None or isinstance(value, Mapping)),
    },
    "resources": dict.fromkeys(("learn_s", "evaluate_s", "adapt_s", "peak_rss_bytes", "peak_device_bytes"), _NUMBER_OR_NOTHING),
}
"""By kind of record what is read of it."""
