"""Many runs at once: a pool of `python -m clbench run ...` processes, every one of them collected and counted.

The plan is a list of commands; a worker knows only its own. Typing the same again skips what is done and continues the rest, so the pool
keeps no state. Ctrl-C and SIGTERM reach the workers, which save and leave.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from .errors import Interrupted
from .runs import allowed_cores
from .signals import asked_to_stop

LAST_LINES = 40
KILLED = {-signal.SIGKILL: "was killed (out of memory?); the same command continues it"}


@dataclass(frozen=True)
class Job:
    """One run: what to type after `clbench run`, its folder, its name for people."""

    words: tuple[str, ...]
    folder: Path
    title: str
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `done`, `busy` (another process is at it), `interrupted` or `failed`, and the last thing it said."""

    job: Job
    state: str
    message: str = ""


class Pool:
    """Workers and their processes."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._slots = list(range(jobs))
        self._gpus = _gpus()
        self.stopping = threading.Event()
        self.ending = threading.Event()  # asked a second time: at once

    def run(self, plan: Sequence[Job], heard: Callable[[Outcome], None]) -> list[Outcome]:
        """The outcome of every job, in the order of the plan; `heard` gets each as it comes."""
        with asked_to_stop(self._heard), ThreadPoolExecutor(self.jobs, thread_name_prefix="clbench-job") as executor:
            futures = {executor.submit(self._one, job): number for number, job in enumerate(plan)}
            outcomes: dict[int, Outcome] = {}
            for future in as_completed(futures):
                outcomes[futures[future]] = future.result()
                heard(outcomes[futures[future]])
        assert len(outcomes) == len(plan)
        return [outcomes[number] for number in range(len(plan))]

    def _one(self, job: Job) -> Outcome:
        if self.stopping.is_set():
            return Outcome(job, "interrupted", "was not begun")
        with self._lock:
            slot = self._slots.pop(0)
        try:
            return self._work(job, slot)
        finally:
            with self._lock:
                self._slots.append(slot)

    def _work(self, job: Job, slot: int) -> Outcome:
        command = [sys.executable, "-m", "clbench", "run", *job.words, "--quiet"]
        with self._lock:
            if self.stopping.is_set():
                return Outcome(job, "interrupted", "was not begun")
            process = subprocess.Popen(
                command,
                env=self._environment(slot, job.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                process_group=0,  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
            )
            self._processes.add(process)
            if self.stopping.is_set():  # since it was looked at: who passed the word on did not see this one
                process.send_signal(self._word())
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._processes.discard(process)
        if self.stopping.is_set() and process.returncode == -signal.SIGTERM:  # before it could listen
            return Outcome(job, "interrupted", "had hardly begun")
        if self.ending.is_set() and process.returncode == -signal.SIGKILL:
            return Outcome(job, "interrupted", "was ended at once; the same command continues it from its last checkpoint")
        return _outcome(job, process.returncode, said)

    def _environment(self, slot: int, threads: int) -> dict[str, str]:
        """One thread a worker and its share of the cores for evaluation, so that workers do not fight over them; GPUs in turn."""
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if self.jobs > 1:
            env.setdefault("CLBENCH_WORKERS", str(max(1, allowed_cores() // self.jobs)))
        if len(self._gpus) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        return env

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        """SIGINT and SIGTERM ask every worker to save and stop; a second SIGINT ends them at once."""
        if self.stopping.is_set() and number == signal.SIGINT:
            self.ending.set()
        self.stopping.set()
        for process in list(self._processes):
            process.send_signal(self._word())

    def _word(self) -> signal.Signals:
        """What tells a worker to stop: in its own time, or at once."""
        return signal.SIGKILL if self.ending.is_set() else signal.SIGTERM


def _gpus() -> list[str]:
    """The CUDA devices that workers may be given; torch is asked only where it is loaded already."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    torch = sys.modules.get("torch")
    return [str(n) for n in range(torch.cuda.device_count())] if torch is not None else []


def _outcome(job: Job, code: int, said: str) -> Outcome:
    lines = [line for line in said.splitlines() if line.strip()][-LAST_LINES:]
    message = lines[-1].removeprefix("clbench: ") if lines else ""
    if code == 0:
        return Outcome(job, "done") if (job.folder / "DONE").exists() else Outcome(job, "busy", message)
    if code == Interrupted.exit_code:
        return Outcome(job, "interrupted", message)
    return Outcome(job, "failed", KILLED.get(code, message or f"left with exit code {code} and said nothing"))


def default_jobs() -> int:
    """As many runs at once as there are cores."""
    return allowed_cores()
