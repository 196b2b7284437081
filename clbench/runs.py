"""A run from its request to its finished folder: what it is called, where it lies, starting, continuing, finishing."""

from __future__ import annotations

import inspect
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from . import derived, guards, seeding
from .errors import Interrupted, UserError
from .interfaces import Agent, TaskInfo
from .matrix import EvaluationMatrix
from .protocol import Session
from .registry import NAME, check_options, options_of
from .signals import asked_to_stop
from .store import SCHEMA, EventLog, MemorySink, RunFolder, host_hash, parse_events, utc_now
from .stream import PROTOCOL_VERSION, TaskStream, digest, plain


@dataclass(frozen=True)
class AgentSpec:
    """An agent as it is asked for: a name for tables, a constructor, its options. `device` and `threads` are not part of its identity.

    `identity`: the options as records and run keys have them, where that is not what the constructor takes: a file by its content, say.
    """

    name: str
    constructor: Callable[..., Agent]
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    identity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"agent name must match {NAME.pattern}, got '{self.name}'")
        check_options(self.constructor, self.options, f"agent '{self.name}'")

    def build(self, task: TaskInfo, seed: int) -> Agent:
        """A fresh agent."""
        device = {"device": self.device} if "device" in options_of(self.constructor) and "device" not in self.options else {}
        return self.constructor(task, seed, **self.options, **device)

    @property
    def configuration(self) -> Any:
        """What says which agent this is, in plain types."""
        return plain(self.options if self.identity is None else self.identity)

    def describe(self) -> dict[str, Any]:
        """Name, origin, configuration and the hash of source and configuration."""
        module = inspect.getmodule(self.constructor)
        module_name = module.__name__ if module else "?"
        configuration = self.configuration
        sources = _sources(module)
        return {
            "name": self.name,
            "module": module_name,
            "distribution": _distribution(module_name),
            "config": configuration,
            "hash": digest({"sources": sources, "config": configuration}),
        }


def _sources(module: Any) -> list[list[str]]:
    """Sorted (relative path, sha256) of an agent's package, or of its one file."""
    file = getattr(module, "__file__", None)
    if file is None:
        return []
    path = Path(file)
    package = path.parent
    if not (package / "__init__.py").exists():
        return [[path.name, sha256(path.read_bytes()).hexdigest()]]
    while (package.parent / "__init__.py").exists():
        package = package.parent
    return [[str(f.relative_to(package).as_posix()), sha256(f.read_bytes()).hexdigest()] for f in sorted(package.rglob("*.py"))]


def _distribution(module: str) -> str | None:
    top = module.split(".")[0]
    try:
        return f"{top} {version(top)}"
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Request:
    """One run, fully said: agent, stream, seed, and where its folder goes."""

    agent: AgentSpec
    stream: TaskStream
    seed: int
    threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= seeding.MAX_SEED:
            raise UserError(f"seed must be an integer in 0..{seeding.MAX_SEED}, got {self.seed!r}")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise UserError(f"threads must be an integer >= 1, got {self.threads!r}")

    @property
    def run_key(self) -> str:
        """Twelve digits that say what the run is; device, paths and source code are left out."""
        identity = {
            "schema": SCHEMA,
            "protocol_version": PROTOCOL_VERSION,
            "stream_hash": self.stream.hash(),
            "order_id": 0,
            "agent": self.agent.name,
            "agent_config": self.agent.configuration,
            "seed": self.seed,
        }
        return digest(identity)[:12]

    def folder(self, results_dir: Path, repeat: int = 1) -> Path:
        """`stream@version/budget/agent/s003-<run_key>` below `results_dir`."""
        suffix = "" if repeat == 1 else f"-r{repeat}"
        return results_dir / self.stream.identity / self.stream.budget / self.agent.name / f"s{self.seed:03d}-{self.run_key}{suffix}"

    def manifest(self) -> dict[str, Any]:
        """What `run.json` holds: everything that was decided before the first step."""
        stream = self.stream
        return {
            "schema": SCHEMA,
            "run_key": self.run_key,
            "created_utc": utc_now(),
            "stream": {"name": stream.name, "version": stream.version, "hash": stream.hash(), "spec": plain(stream.spec())},
            "budget": stream.budget,
            "agent": self.agent.describe(),
            "seed": self.seed,
            "order_id": 0,
            "protocol_version": PROTOCOL_VERSION,
            "track": {"task_identity": _identity(stream), "boundaries": stream.boundaries},
            "determinism": {"threads": self.threads},
            "clbench": {"version": version("clbench"), **git_state(Path(__file__).parent)},
        }


def _identity(stream: TaskStream) -> str:
    """How tasks are told apart: in the stream's own word where it has one, else by whether the agent is told their number."""
    said = stream.options.get("identity")
    return str(said) if said else "hidden" if stream.tasks[0].info.index is None else "cued"


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and cleanliness of the repository that holds `folder`; None where there is none."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = ask("rev-parse", "--show-toplevel")
    if top is None or not (Path(top) / "pyproject.toml").exists():
        return {"git_sha": None, "dirty": None}
    return {"git_sha": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def provenance(device: str) -> dict[str, Any]:
    """Where and with what an attempt runs, asked for on `device`; no host name, no path, no environment beyond the named variables."""
    named = ("MUJOCO_GL", "OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED")
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}, key=str.lower)
    return {
        "started_utc": utc_now(),
        "host_hash": host_hash(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpu_model": cpu_model(),
        "cpu_count_allowed": allowed_cores(),
        "ram_mb": _ram_mb(),
        "device": device,
        "gpus": _gpus(),
        "packages": packages,
        "env": {name: os.environ[name] for name in named if name in os.environ},
        "argv": [Path(sys.argv[0]).name, *(_shorten(word) for word in sys.argv[1:])],
    }


def _shorten(word: str) -> str:
    """A command-line word without absolute paths."""
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def allowed_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _ram_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": p.name, "mem_mb": p.total_memory // 2**20, "cuda": torch.version.cuda} for p in properties]


@dataclass(frozen=True)
class Run:
    """A finished run: its manifest and numbered events; everything else follows from them."""

    manifest: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    folder: Path | None
    agent_left: Callable[[], Agent] = field(repr=False, compare=False)

    @cached_property
    def agent(self) -> Agent:
        """As the run left it, to be asked more; of a run that was found finished it is built anew and read from the last checkpoint."""
        return self.agent_left()

    @property
    def matrix(self) -> EvaluationMatrix:
        """The evaluation matrix."""
        return derived.matrix(self.manifest, self.events)

    def metrics(self, references: Path | None = None) -> dict[str, float | None]:
        """All headline metrics by name; None where a cell or a reference is missing."""
        return derived.summary(self.manifest, self.events, derived.find_reference(self.manifest, references))["metrics"]


def execute(
    request: Request, results_dir: Path | None = None, *, fresh: bool = False, on_folder: Callable[[Path], None] = lambda folder: None
) -> Run:
    """Run, continue or just return a run. Without `results_dir` it stays in memory and cannot be continued."""
    if results_dir is None:
        return _in_memory(request)
    repeat = 1
    while fresh and request.folder(results_dir, repeat).exists():
        repeat += 1
    folder = RunFolder(request.folder(results_dir, repeat))
    on_folder(folder.path)
    if folder.done:
        return Run(folder.manifest(), tuple(folder.events()), folder.path, lambda: _agent_left_in(folder, request))
    folder.open(request.manifest())
    try:
        return _on_disk(request, folder, results_dir)
    finally:
        folder.close()


def _in_memory(request: Request) -> Run:
    sink = MemorySink()
    log = EventLog(sink)
    with guards.torch_threads(request.threads), guards.seeded_global_generators(seeding.integer(request.seed, "agent")):
        session = Session(request.agent.build, request.stream, request.seed, log, run_key=request.run_key)
        session.run()
    events = parse_events("".join(line + "\n" for line in sink.lines).encode(), "memory")
    agent = session.agent
    return Run(request.manifest(), tuple(events), None, lambda: agent)


def _on_disk(request: Request, folder: RunFolder, results_dir: Path) -> Run:
    stop = _StopFlag()
    with asked_to_stop(stop.heard):  # before anything is written: from then on there is something to continue
        session = _lived(request, folder, stop)
    derive(folder.path, derived.find_reference(folder.manifest(), results_dir))
    folder.finish()
    agent = session.agent
    return Run(folder.manifest(), tuple(folder.events()), folder.path, lambda: agent)


def _lived(request: Request, folder: RunFolder, stop: _StopFlag) -> Session:
    attempt = folder.next_attempt()
    log = folder.log(attempt)
    folder.write(f"attempts/{attempt}.json", _json(provenance(request.agent.device)))
    session: Session | None = None
    with guards.torch_threads(request.threads), guards.seeded_global_generators(seeding.integer(request.seed, "agent")):
        try:
            session = Session(request.agent.build, request.stream, request.seed, log, run_key=request.run_key, should_stop=stop.is_set)
            state, name = folder.load_checkpoint()
            if state is not None:
                session.load_state_dict(state)
            if attempt:
                log.note("attempt_start", restored_from=None if state is None else {"checkpoint": name, "seq": state["seq"] - 1})
            if name == "last.prev.pt":
                log.note("warning", code="checkpoint-damaged", message="last.pt could not be read; continued from last.prev.pt")
            session.run(folder.save_checkpoint)
        except Interrupted as interruption:
            log.note("interrupted", reason=stop.reason or str(interruption))
            raise
        except Exception as error:
            if session is None and attempt == 0 and isinstance(error, UserError):
                folder.discard()  # the agent refuses its options: nothing has begun
            else:
                log.note("error", code=type(error).__name__, message=str(error)[:500])
            raise
    return session


def _agent_left_in(folder: RunFolder, request: Request) -> Agent:
    """The agent of a finished run, from the checkpoint that stayed."""
    state, _ = folder.load_checkpoint()
    if state is None:
        raise UserError(f"'{folder.path}' is finished and holds no checkpoint of its agent; expected checkpoints/last.pt")
    with guards.torch_threads(request.threads), guards.seeded_global_generators(seeding.integer(request.seed, "agent")):
        session = Session(request.agent.build, request.stream, request.seed, EventLog(MemorySink()), run_key=request.run_key)
        session.load_state_dict(state)
    return session.agent


def derive(path: Path, reference: derived.Reference | None) -> dict[str, Any]:
    """Rebuild `evals.csv` and `summary.json` of a run's folder from its events; returns the summary."""
    folder = RunFolder(path)
    manifest, events = folder.manifest(), folder.events()
    derived.check(manifest, events, path, path / "events.jsonl")
    return rebuild(path, manifest, events, reference)


def rebuild(
    path: Path, manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]], reference: derived.Reference | None
) -> dict[str, Any]:
    """The same from what was already read."""
    folder, summary = RunFolder(path), derived.summary(manifest, events, reference)
    folder.write("evals.csv", derived.evals_csv(manifest, events))
    folder.write("summary.json", _json(summary))
    return summary


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


class _StopFlag:
    """SIGTERM, SIGUSR1 and SIGINT ask the run to stop; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self.reason = ""

    def is_set(self) -> bool:
        return bool(self.reason)

    def heard(self, number: int, _frame: Any) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
