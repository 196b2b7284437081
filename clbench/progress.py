"""How runs are getting on, read from their `events.jsonl` and nothing else: the trainer never draws, the view never writes.

A view can be killed, or opened on a run of another process, without consequence. On a terminal it is a live table, elsewhere one plain
line for every evaluation.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .output import Output, duration

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_SECONDS, LIVE_SECONDS = 1.0, 0.25
LIVE_ROWS, MOST_SCORES = 24, 8
ENDS = {"run_end": "done", "interrupted": "interrupted", "error": "failed"}

Record = Mapping[str, Any]


class Tail:
    """The complete lines that were added to a file since the last call, as records; a file that is not there yet has none."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def records(self) -> list[Record]:
        """New records; a torn last line waits for its end, a line that is no record is left out (readers of results refuse it)."""
        try:
            with open(self._path, "rb") as handle:
                handle.seek(self._offset)
                data = handle.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [record for line in data[:end].splitlines() if isinstance(record := _record(line), dict)]


def _record(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


@dataclass
class Pace:
    """Seconds spent so far on each kind of work, and how much of it was done: what the time left is estimated from."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("learn", "eval", "adapt"), 0.0))
    count: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("learn", "eval", "adapt"), 0.0))

    def add(self, kind: str, seconds: float, count: float) -> None:
        """One interval between two events."""
        work = kind if kind in ("eval", "adapt") else "learn"
        self.seconds[work] += max(0.0, seconds)
        self.count[work] += max(0.0, count)

    def left(self, total: Mapping[str, float]) -> float | None:
        """Seconds that the rest of `total` takes at this pace; None before anything was learned."""
        if not self.count["learn"]:
            return None
        rates = {work: self.seconds[work] / self.count[work] if self.count[work] else 0.0 for work in self.seconds}
        return sum(rates[work] * max(0.0, total[work] - self.count[work]) for work in rates)


class RunProgress:
    """One run as its events show it."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title
        self.state = "waiting"
        self.phase, self.step = -1, 0
        self.scores: dict[int, float] = {}
        self._tail = Tail(folder / "events.jsonl")
        self._spec: Mapping[str, Any] | None = None
        self._pace = Pace()
        self._before: Record = {"t": 0.0, "attempt": None}
        self._seen: set[int] = set()
        self._read_at = time.monotonic()
        self._row: tuple[int, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.state in ENDS.values()

    @property
    def spec(self) -> Mapping[str, Any] | None:
        """The stream's description, once `run.json` is there."""
        if self._spec is None:
            try:
                self._spec = json.loads((self.folder / "run.json").read_text())["stream"]["spec"]
            except (OSError, ValueError, KeyError, TypeError):
                return None
        return self._spec

    def poll(self) -> list[str]:
        """Read what is new; returns one line for each evaluation that was completed."""
        lines = []
        for record in self._tail.records():
            lines += self._hear(record)
        return lines

    def _hear(self, record: Record) -> Iterator[str]:
        kind, moment = record.get("kind"), float(record.get("t", 0.0))
        if kind != "eval" and self._row is not None:
            yield self.line()
            self._row = None
        self._read_at = time.monotonic()
        same = record.get("attempt") == self._before["attempt"]
        step = record.get("step", self.step)
        fresh = record.get("seq") is None or record["seq"] not in self._seen
        if fresh:
            work = 1.0 if kind in ("eval", "adapt") else max(0, step - self.step)
            self._pace.add(str(kind), moment - self._before["t"] if same else 0.0, work)
        if isinstance(record.get("seq"), int):
            self._seen.add(record["seq"])
        self._before = {"t": moment, "attempt": record.get("attempt")}
        self._place(str(kind), record, step)

    def _place(self, kind: str, record: Record, step: int) -> None:
        self.phase = record.get("phase", self.phase)
        if kind in ("train", "eval"):
            self.step = step
        if kind == "eval":
            self._row = (self.phase, self.step)
            scores = [s for s in record["score"] if s is not None]
            self.scores[record["task"]] = self._scaled(record["task"], math.fsum(scores) / len(scores)) if scores else math.nan
        self.state = ENDS.get(
            kind, "adapting" if kind == "adapt" else "evaluating" if kind in ("eval", "run_start", "task_end") else "learning"
        )

    def _scaled(self, column: int, raw: float) -> float:
        if self.spec is None:
            return raw
        floor, ceiling = self.spec["tasks"][column]["scale"]
        return min(1.0, max(0.0, (raw - floor) / (ceiling - floor)))

    @property
    def totals(self) -> dict[str, float] | None:
        """Units, evaluated cells and adaptations of the whole run."""
        if self.spec is None:
            return None
        tasks, phases, few = len(self.spec["tasks"]), self.spec["phases"], self.spec.get("few_shot")
        row = [len(p["columns"]) if self.spec["role"] == "single" else tasks for p in phases]
        wide = [*[1] * (len(phases) - 1), min(self.spec.get("window", 1), phases[-1]["points"])]  # rows of each phase that ask about all
        ends = zip(phases, row, wide, strict=True)
        cells = tasks + sum(rows * end + (p["points"] - rows) * len(p["columns"]) for p, end, rows in ends)
        copies = sum(few["draws"] if shots else 1 for shots in few["shots"]) * len(few["tasks"]) * len(few["after"]) if few else 0
        return {"learn": sum(p["units"] for p in phases), "eval": cells, "adapt": copies}

    @property
    def share(self) -> float:
        """Share of the units that were learned from."""
        totals = self.totals
        return min(1.0, self.step / totals["learn"]) if totals and totals["learn"] else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds at work, attempts summed, up to now."""
        running = 0.0 if self.ended or self.state == "waiting" else time.monotonic() - self._read_at
        return float(self._before["t"]) + running

    @property
    def left(self) -> float | None:
        """Seconds still needed, as far as the events tell."""
        if self.ended or self.totals is None:
            return None
        estimate = self._pace.left(self.totals)
        return None if estimate is None else max(0.0, estimate - (time.monotonic() - self._read_at))

    def where(self) -> str:
        """Phase and task in words."""
        if self.spec is None or self.phase < 0:
            return "untrained" if self.spec is not None and self.state != "waiting" else ""
        columns = self.spec["phases"][self.phase]["columns"]
        name = self.spec["tasks"][columns[0]]["name"] if len(columns) == 1 else "all tasks"
        return f"{self.phase + 1}/{len(self.spec['phases'])} {name}"

    def score_text(self) -> str:
        """The last score of every task; of more than a few their mean."""
        known = [self.scores[column] for column in sorted(self.scores)]
        if len(known) > MOST_SCORES:
            return f"mean {math.fsum(known) / len(known):.2f} of {len(known)} tasks"
        return " ".join(f"{score:.2f}" for score in known)

    def line(self) -> str:
        """An evaluation in one plain line."""
        totals = self.totals
        of = f"/{totals['learn']:,.0f}" if totals else ""
        left = self.left
        ahead = f", about {duration(left)} left" if left is not None and self.share < 1 else ""
        where = self.where()
        phase = where if where == "untrained" else f"phase {where}"
        return f"{self.title}  {phase}  step {self.step:,}{of}  score {self.score_text()}  {duration(self.elapsed)}{ahead}"


class View:
    """Shows runs until it is closed. `watch` adds one; a run that is not there yet is shown as waiting."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._runs: dict[Path, RunProgress] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._show, name="clbench-view", daemon=True)
        self._failure: BaseException | None = None

    def watch(self, folder: Path, title: str) -> None:
        """Show the run in `folder` from now on."""
        with self._lock:
            self._runs.setdefault(folder, RunProgress(folder, title))

    def ended(self, folder: Path, state: str) -> None:
        """Say how a run ended that cannot say so itself."""
        with self._lock:
            if folder in self._runs:
                self._runs[folder].state = state

    def __enter__(self) -> Self:
        if not self._out.quiet:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _show(self) -> None:
        if self._out.terminal:
            self._show_live()
        else:
            self._show_lines()

    def _show_lines(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(PLAIN_SECONDS)
            for line in self._poll():
                self._out.say(line)

    def _show_live(self) -> None:
        from rich.live import Live

        with Live(self.table(), console=self._out.console, auto_refresh=False, transient=False) as live:
            last = False
            while not last:
                last = self._stop.wait(LIVE_SECONDS)
                self._poll()
                live.update(self.table(), refresh=True)

    def _poll(self) -> list[str]:
        with self._lock:
            runs = list(self._runs.values())
        return [line for run in runs for line in run.poll()]

    def table(self) -> Table:
        """The runs at work, then the last that ended, one row each."""
        from rich.table import Table

        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for name, width in (("run", 0), ("phase", 16), ("", 20), ("scores", 14), ("time", 9), ("left", 9)):
            table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width, justify="right" if width == 9 else "left")
        with self._lock:
            runs = list(self._runs.values())
        for run in _worth_showing(runs):
            table.add_row(*_cells(run))
        hidden = len(runs) - len(_worth_showing(runs))
        if hidden:
            states = [run.state for run in runs]
            table.add_row(f"[dim]{states.count('done')} of {len(runs)} done, {states.count('waiting')} waiting[/dim]")
        return table


def _worth_showing(runs: Sequence[RunProgress]) -> list[RunProgress]:
    """All where they fit on the screen; else those at work and those that failed."""
    if len(runs) <= LIVE_ROWS:
        return list(runs)
    return [run for run in runs if run.state not in ("waiting", "done")][:LIVE_ROWS]


def _cells(run: RunProgress) -> list[Any]:
    from rich.markup import escape
    from rich.progress_bar import ProgressBar

    colour = {"done": "green", "failed": "red", "interrupted": "yellow", "waiting": "dim"}.get(run.state, "cyan")
    where = run.state if run.ended else "few-shot tasks" if run.share == 1 else run.where()
    bar = ProgressBar(total=1.0, completed=run.share, width=20)
    left = duration(run.left) if not run.ended and run.left is not None else ""
    state = f"[{colour}]{escape(where or run.state)}[/{colour}]"
    return [escape(run.title), state, bar, run.score_text(), duration(run.elapsed) if run.state != "waiting" else "", left]
