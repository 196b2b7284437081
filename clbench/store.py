"""The event store: `events.jsonl` is the one truth of a run, everything else is derived from it.

A run's folder is named by what it is, `DONE` is created last, a second start continues or does nothing.

    results/runs/<stream>@<version>/<budget>/<agent>/s<seed>-<run_key>/
        run.json  config.yaml  events.jsonl  attempts/N.json  checkpoints/  evals.csv  summary.json  DONE
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from . import checkpoint
from .errors import UserError, ValidationError
from .files import LineFile, disk_errors, make_folder, write_whole
from .stream import canonical_json
from .validation import check_manifest, field_of

try:
    import fcntl
except ImportError:  # not on POSIX: the heartbeat alone guards a run
    fcntl = None

SCHEMA = 1
NUMBERED = ("run_start", "task_start", "eval", "adapt", "task_end", "run_end")
VOLATILE = ("attempt", "utc", "t")
HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 600.0


class RunBusy(UserError):
    """Another process is at work on this run."""

    exit_code = 0


def utc_now() -> str:
    """The time of day, for eyes only; no number depends on it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Sink(Protocol):
    """Where event lines go."""

    def append(self, line: str, *, durable: bool = False) -> None: ...


class MemorySink:
    """Keeps the lines of a run that has no folder."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def append(self, line: str, *, durable: bool = False) -> None:
        """Add one line."""
        self.lines.append(line)


class EventLog:
    """Writes events. Numbered records carry `seq` without gaps and hold only what the run's identity determines.

    `earlier`: what earlier attempts determined (see `determined`), where the log has a past; `where`: its name, for people.
    """

    def __init__(self, sink: Sink, attempt: int = 0, earlier: Sequence[str] | None = None, where: str = "events.jsonl") -> None:
        self._sink = sink
        self._past, self._where = earlier, where
        self._hashed: Any = sha256()
        self.attempt = attempt
        self.seq = 0
        self.train_seq = 0
        self._begun = time.monotonic()
        self._earlier = 0.0

    @property
    def seconds(self) -> float:
        """Monotonic seconds at work, summed over attempts."""
        return self._earlier + time.monotonic() - self._begun

    @property
    def digest(self) -> str | None:
        """Of all that was determined so far; None where the log went on from a past that it does not know."""
        return None if self._hashed is None else self._hashed.hexdigest()

    def continue_from(self, seq: int, train_seq: int, seconds: float, digest: str | None = None) -> None:
        """Go on counting where a checkpoint was taken, behind records with this digest; a log that lost or changed some is refused."""
        self.seq, self.train_seq, self._earlier = seq, train_seq, seconds
        if self._past is None:
            self._hashed = None
            return
        self._hashed = sha256("".join(self._past[:seq]).encode())
        if digest is not None and self._hashed.hexdigest() != digest:
            raise UserError(
                f"'{self._where}' has not the {seq} records that its checkpoint was taken behind: lines were lost or changed. "
                "Type the command again with --fresh to begin a new run beside it"
            )

    def numbered(self, kind: str, **payload: Any) -> None:
        """Append a record that every run of this identity has, byte for byte."""
        assert kind in NUMBERED, kind
        self._write(kind, self.seq, payload, durable=True)
        if self._hashed is not None:
            self._hashed.update(canonical_json({"kind": kind, "seq": self.seq, **payload}).encode())
        self.seq += 1

    def train(self, **payload: Any) -> None:
        """Append a progress record: one for a fixed number of units, with a counter of its own."""
        self._write("train", None, {"train_seq": self.train_seq, **payload}, durable=False)
        self.train_seq += 1

    def note(self, kind: str, **payload: Any) -> None:
        """Append a record that depends on the machine and the moment."""
        self._write(kind, None, payload, durable=False)

    def _write(self, kind: str, seq: int | None, payload: Mapping[str, Any], *, durable: bool) -> None:
        record = {"kind": kind, "seq": seq, "attempt": self.attempt, "utc": utc_now(), "t": round(self.seconds, 3), **payload}
        self._sink.append(canonical_json(record), durable=durable)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All records of a log, in file order. A torn last line is dropped; any other bad line is an error with its number."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no event log at '{path}'; expected a run's folder with events.jsonl") from None
    return parse_events(data, str(path))


def parse_events(data: bytes, where: str) -> list[dict[str, Any]]:
    """Records of the bytes of a log; see `read_events`."""
    lines = data.split(b"\n")
    lines.pop()  # empty after the last newline, or torn
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            raise ValidationError(f"{where}:{number}: expected one JSON record with a 'kind', got {line[:60]!r}")
        records.append(record)
    return records


def merge(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbered records in order; where a `seq` occurs twice (a continued run) the highest attempt wins."""
    best: dict[int, Mapping[str, Any]] = {}
    for record in records:
        seq = record.get("seq")
        if isinstance(seq, int) and (seq not in best or record.get("attempt", 0) >= best[seq].get("attempt", 0)):
            best[seq] = record
    return [dict(best[seq]) for seq in sorted(best)]


def determined(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a run's identity determines: merged records without times and attempts, as canonical lines. Equal for a continued run."""
    return [canonical_json({k: v for k, v in record.items() if k not in VOLATILE}) for record in merge(records)]


class RunFolder:
    """The folder of one run: manifest, log, checkpoints, derived files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: _Lock | None = None

    @property
    def done(self) -> bool:
        """Whether the run is finished: `DONE` exists."""
        return (self.path / "DONE").exists()

    def manifest(self) -> dict[str, Any]:
        """The contents of `run.json`."""
        return read_json(self.path / "run.json")

    def events(self) -> list[dict[str, Any]]:
        """All records of `events.jsonl`."""
        return read_events(self.path / "events.jsonl")

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Create the folder, or check that it holds the same run, and take its lock."""
        make_folder(self.path / "checkpoints")
        make_folder(self.path / "attempts")
        self._lock = _Lock(self.path / "lock")
        self._lock.acquire()
        if (self.path / "run.json").exists():
            self._compare(manifest)
        else:
            write_whole(self.path / "run.json", json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def _compare(self, manifest: Mapping[str, Any]) -> None:
        recorded = self.manifest()
        check_manifest(recorded, f"{self.path}/run.json")
        differing = [
            f"{key} {_short(field_of(recorded, key))} -> {_short(field_of(manifest, key))}"
            for key in ("run_key", "protocol_version", "stream.hash", "agent.hash", "determinism.threads", "seed")
            if field_of(recorded, key) != field_of(manifest, key)
        ]
        if differing:
            raise UserError(
                f"'{self.path}' was begun with something else: {'; '.join(differing)}. "
                "Type the command again with --fresh to begin beside it, or go back to the recorded version"
            )

    def write(self, name: str, content: str) -> None:
        """Write one derived or descriptive file whole."""
        write_whole(self.path / name, content)

    def next_attempt(self) -> int:
        """The number of this attempt: how many there were before."""
        return sum(1 for _ in (self.path / "attempts").glob("*.json"))

    def log(self, attempt: int) -> EventLog:
        """The log, opened for appending."""
        file = self.path / "events.jsonl"
        sink = LineFile(file)
        return EventLog(sink, attempt, determined(read_events(file)), str(file))

    def save_checkpoint(self, state: dict[str, Any]) -> dict[str, Any]:
        """Write the newest checkpoint; returns what the event log records of it."""
        checksum, size = checkpoint.save(self.path / "checkpoints" / "last.pt", state)
        return {"file": "checkpoints/last.pt", "sha256": checksum, "bytes": size}

    def load_checkpoint(self) -> tuple[dict[str, Any] | None, str | None]:
        """The newest state that loads and the name of its file; (None, None) where the run has none yet."""
        folder = self.path / "checkpoints"
        names = [name for name in ("last.pt", "last.prev.pt") if (folder / name).exists()]
        for name in names:
            state = checkpoint.load(folder / name)
            if state is not None:
                return state, name
        if names:
            raise UserError(
                f"no checkpoint of '{self.path}' can be read ({', '.join(names)}); nothing was changed. "
                "Type the command again with --fresh to begin a new run beside it"
            )
        return None, None

    def finish(self) -> None:
        """Mark the run as finished, last of all. The newest checkpoint stays: it holds the agent after its last phase."""
        write_whole(self.path / "DONE", "")
        for name in ("last.prev.pt", "last.pt.tmp"):
            with disk_errors(self.path):
                (self.path / "checkpoints" / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folder of a run that never began, and what was made for it above."""
        shutil.rmtree(self.path, ignore_errors=True)
        for above in list(self.path.parents)[:3]:  # agent, budget, stream
            try:
                above.rmdir()
            except OSError:  # other runs are there
                break

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def is_packed(folder: Path) -> bool:
    """Whether a run lies in `folder` as packs hold it."""
    return (folder / "events.jsonl.gz").is_file()


def parse(data: bytes) -> Any:
    """The JSON value that `data` is; raises ValueError where it is none, or has numbers that are none."""
    return _JSON.decode(data.decode())


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is no JSON")
    return value


_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def read_value(path: Path) -> Any:
    """A JSON value from a file, or one line that says what is wrong with it."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no file '{path}'; expected the folder of a run, with run.json and events.jsonl") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValidationError(f"{path}: expected JSON, got something else ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or one line that says what is wrong with it."""
    value = read_value(path)
    if not isinstance(value, dict):
        raise ValidationError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _short(value: Any) -> str:
    return str(value)[:12]


def host_hash() -> str:
    """A hash that tells hosts apart and names none."""
    return sha256(socket.gethostname().encode()).hexdigest()[:12]


class _Lock:
    """One worker on a run: a kernel lock on this host, a heartbeat for other hosts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._stop = threading.Event()

    def acquire(self) -> None:
        with disk_errors(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunBusy(f"another process is at work on '{self._path.parent}'; nothing to do") from None
        owner = os.pread(descriptor, 4096, 0).decode(errors="replace")
        same_host = owner == "" or f'"host":"{host_hash()}"' in owner
        if (not same_host or fcntl is None) and owner and self._age() < STALE_SECONDS:
            os.close(descriptor)
            raise RunBusy(f"another host is at work on '{self._path.parent}' (heartbeat {self._age():.0f} s ago); nothing to do")
        self._descriptor = descriptor
        self._write_owner()
        threading.Thread(target=self._beat, daemon=True, name="clbench-heartbeat").start()

    def _age(self) -> float:
        """Seconds since the last heartbeat, in the file system's own time."""
        probe = self._path.with_name(f".lock.{os.getpid()}.probe")
        with disk_errors(probe):
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        return now - self._path.stat().st_mtime

    def _write_owner(self) -> None:
        assert self._descriptor is not None
        with disk_errors(self._path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, canonical_json({"host": host_hash(), "pid": os.getpid()}).encode(), 0)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        self._stop.set()
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
