"""Stored runs as data: what lies in a folder, read and never executed.

A run is stored in one of two shapes: the folder of a run (`run.json`, `events.jsonl`) or a packed one (`run.json`, `events.jsonl.gz`,
`attempts.json`), as submissions and reference sets hold it. Two folders of one name are two runs. Links are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import derived
from .errors import UserError, ValidationError
from .matrix import EvaluationMatrix
from .metrics import FewShotCurve
from .store import is_packed, merge, read_events, read_json, read_value

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (*derived.EVALS_COLUMNS, "budget", "origin")

Record = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """One stored run. `attempts` is its provenance, oldest first; `origin` says where it lies below the folder that was searched."""

    manifest: Record
    events: tuple[Record, ...]
    attempts: tuple[Record, ...]
    origin: str

    @property
    def spec(self) -> Record:
        """The resolved description of the stream."""
        return self.manifest["stream"]["spec"]

    @property
    def stream(self) -> str:
        """`name@version`."""
        return f"{self.manifest['stream']['name']}@{self.manifest['stream']['version']}"

    @property
    def family(self) -> str:
        """`family@version`: the streams whose joint and single variants belong together."""
        return f"{self.spec['family']}@{self.spec['version']}"

    @property
    def budget(self) -> str:
        """The budget's name."""
        return self.manifest["budget"]

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self.manifest["agent"]["name"]

    @property
    def seed(self) -> int:
        """The run's one integer."""
        return self.manifest["seed"]

    @property
    def run_key(self) -> str:
        """The twelve digits that say what the run is."""
        return self.manifest["run_key"]

    @property
    def role(self) -> str:
        """What the stream is for: 'stream', 'joint' (upper bound) or 'single' (reference)."""
        return self.spec["role"]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(task["name"] for task in self.spec["tasks"])

    @cached_property
    def numbered(self) -> tuple[Record, ...]:
        """The numbered records in order, without those that a later attempt replaced."""
        return tuple(merge(self.events))

    @cached_property
    def finished(self) -> bool:
        """Whether the run reached its end."""
        return bool(self.numbered) and self.numbered[-1]["kind"] == "run_end"

    @cached_property
    def matrix(self) -> EvaluationMatrix:
        """The evaluation matrix."""
        return derived.matrix(self.manifest, self.events)

    @cached_property
    def few_shot(self) -> dict[int, FewShotCurve]:
        """The few-shot curve after each phase at which it was measured; -1 is the untrained agent."""
        return derived.few_shot_curves(self.manifest, self.events)

    @cached_property
    def episodes(self) -> tuple[int, ...]:
        """The numbers of episodes that cells have; one number where all are alike."""
        return tuple(sorted({record.get("episodes", len(record["score"])) for record in self.numbered if record["kind"] == "eval"}))

    @property
    def hardware(self) -> str:
        """Device and processor of the last attempt, without a GPU that was there and not asked for; empty where no provenance is stored."""
        last = self.attempts[-1] if self.attempts else {}
        there = [] if last.get("device") == "cpu" else last.get("gpus") or []
        gpus = [str(gpu.get("name", "")) for gpu in there if isinstance(gpu, Mapping)]
        return ", ".join(filter(None, [*gpus, str(last.get("cpu_model") or "")]))

    def package(self, name: str) -> str:
        """The version of a distribution in the last attempt; empty where it was not there."""
        packages = (self.attempts[-1].get("packages") or []) if self.attempts else []
        prefix = f"{name.lower()}=="
        return next((str(p)[len(prefix) :] for p in packages if str(p).lower().startswith(prefix)), "")


def load_runs(path: str | Path) -> pd.DataFrame:
    """Every evaluated cell of every run and submission below `path`: the columns of `evals.csv`, with `budget` and `origin`.

    A cell that was not evaluated has no row. `origin` tells runs apart; `run_key` does not where a run was made twice.
    """
    import pandas as pd

    runs = find_runs(path)
    if not runs:
        raise UserError(f"no runs below '{path}'; expected folders with run.json and events.jsonl, as results/runs has them")
    rows = [{**row, "budget": run.budget, "origin": run.origin} for run in runs for row in derived.eval_rows(run.manifest, run.events)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({name: "float64" for name in ("score", "raw_score", "return_mean", "return_std", "length_mean")})


def find_runs(path: str | Path) -> list[LoadedRun]:
    """Every run and packed run below `path`, or at it, sorted by where they lie; unfinished ones too."""
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"no folder '{path}'; expected a folder of runs, for example results/runs")
    return [load_run(folder, _origin(folder, root)) for folder in _run_folders(root)]


def _run_folders(root: Path) -> Iterator[Path]:
    for manifest in sorted(root.rglob("run.json")):
        if manifest.is_file() and not manifest.is_symlink():
            yield manifest.parent


def _origin(folder: Path, root: Path) -> str:
    """Where a run lies below `root`; of a run that was given itself, the names that say what it is."""
    return "/".join(folder.resolve().parts[-4:]) if folder == root else folder.relative_to(root).as_posix()


def load_run(folder: Path, origin: str | None = None) -> LoadedRun:
    """The run that lies in `folder`, in either shape; without a log yet it has no events."""
    if is_packed(folder):
        manifest, events = derived.read_packed(folder)
        attempts = _packed_attempts(folder / "attempts.json")
    else:
        manifest = read_json(folder / "run.json")
        events = read_events(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
        files = sorted((folder / "attempts").glob("*.json"), key=lambda file: (len(file.name), file.name))
        attempts = [read_json(file) for file in files]
        derived.check(manifest, events, folder, folder / "events.jsonl")
    return LoadedRun(manifest, tuple(events), tuple(attempts), folder.name if origin is None else origin)


def _packed_attempts(file: Path) -> list[dict[str, Any]]:
    attempts = read_value(file) if file.is_file() else []
    if not isinstance(attempts, list) or not all(isinstance(attempt, dict) for attempt in attempts):
        raise ValidationError(f"{file}: expected a list of objects, one per attempt")
    return attempts
