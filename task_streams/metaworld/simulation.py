"""Many episodes of one task in lock-step, on all cores that this process may use.

`with simulation(task, positions) as batch:` gives the first observations; `batch.step(actions, active)` advances every active episode by
one step. Episode i belongs to worker i modulo the number of workers; numbers do not depend on how many there are, because an episode starts
from a remembered state and touches no other.

Workers are processes of their own, started once and kept: a step costs one message of four bytes to each and one back, arrays lie in
shared memory. They are started by `subprocess`, not by `multiprocessing`, so that a script needs no `if __name__ == "__main__"`. A worker
ends when its socket closes or its parent is gone, so none outlives a killed run. Signals are left to the parent.
`CLBENCH_WORKERS` sets the number; with 1 (or 0) episodes run in this process and none is started.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clbench.errors import ClbenchError, UserError

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]

CAPACITY = 1024
"""Most episodes in one batch."""

OBSERVATION_SIZE = 39
ACTION_SIZE = 4

_MAX_WORKERS = 16  # unless asked for more: each holds 150 MB of libraries and 25 MB for each task it has seen
_KEPT_TASKS = 12
_LOOK_UP_SECONDS = 5.0  # how often an idle worker looks whether its parent is still there
_ROW_BYTES = 8 * (OBSERVATION_SIZE + ACTION_SIZE + 1 + 1)


class Block:
    """The arrays of up to CAPACITY episodes over one piece of memory."""

    def __init__(self, memory: Any) -> None:
        self.observation = self._take(memory, 0, OBSERVATION_SIZE)  # (CAPACITY, 39)
        self.action = self._take(memory, OBSERVATION_SIZE, ACTION_SIZE)  # (CAPACITY, 4)
        self.reward = self._take(memory, OBSERVATION_SIZE + ACTION_SIZE, 1)[:, 0]  # (CAPACITY,)
        flags = np.frombuffer(memory, dtype=np.bool_, count=8 * CAPACITY, offset=8 * CAPACITY * (OBSERVATION_SIZE + ACTION_SIZE + 1))
        self.success, self.active = flags[:CAPACITY], flags[CAPACITY : 2 * CAPACITY]  # (CAPACITY,)

    @staticmethod
    def _take(memory: Any, before: int, width: int) -> Array:
        return np.frombuffer(memory, dtype=np.float64, count=CAPACITY * width, offset=8 * CAPACITY * before).reshape(CAPACITY, width)


class Lanes:
    """The episodes that one process steps; environments and remembered starts are kept from batch to batch."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Any, list[Any]]] = OrderedDict()
        self._lanes: list[tuple[int, Any]] = []

    def begin(self, task_name: str, positions: Array, rows: Sequence[int], block: Block) -> None:
        """Start an episode at each of `positions` (n, .) and write its first observation into its row."""
        from .fast_env import Shared, make_env

        shared, envs = self._kept.pop(task_name, (Shared(), []))
        compiled = shared.model is not None
        envs.extend(make_env(task_name, shared) for _ in range(len(rows) - len(envs)))
        if not compiled:
            _return_memory()
        self._kept[task_name] = shared, envs
        while len(self._kept) > _KEPT_TASKS:
            self._kept.popitem(last=False)
        self._lanes = list(zip(rows, envs[: len(rows)], strict=True))
        for (row, env), position in zip(self._lanes, positions, strict=True):
            block.observation[row] = env.reset_to(position)

    def step(self, block: Block) -> None:
        """One step of every active episode."""
        observation, action, reward, success = block.observation, block.action, block.reward, block.success
        active = block.active.tolist()
        for row, env in self._lanes:
            if active[row]:
                observation[row], reward[row], _, _, info = env.step(action[row])
                success[row] = info["success"] > 0


def _return_memory() -> None:
    """Give back what compiling a model left on the heap, about 40 MB for each task; glibc keeps it otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Engine(Protocol):
    """Where episodes are stepped."""

    block: Block

    def begin(self, task_name: str, positions: Array) -> None: ...
    def step(self) -> None: ...
    def close(self) -> None: ...


class InProcess:
    """Steps in this process."""

    def __init__(self) -> None:
        self.block = Block(bytearray(_ROW_BYTES * CAPACITY + 64))
        self._lanes = Lanes()

    def begin(self, task_name: str, positions: Array) -> None:
        self._lanes.begin(task_name, positions, range(len(positions)), self.block)

    def step(self) -> None:
        self._lanes.step(self.block)

    def close(self) -> None:
        """Nothing to end."""


class Pool:
    """Steps in `count` worker processes."""

    def __init__(self, count: int) -> None:
        descriptor = _anonymous_file(_ROW_BYTES * CAPACITY + 64)
        self.block = Block(mmap.mmap(descriptor, 0))
        self._busy: list[int] = []
        self._workers: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
        try:
            self._workers.extend(_start_worker(descriptor) for _ in range(count))
        finally:
            os.close(descriptor)

    def begin(self, task_name: str, positions: Array) -> None:
        count = len(self._workers)
        rows = [list(range(worker, len(positions), count)) for worker in range(count)]
        self._busy = [worker for worker in range(count) if rows[worker]]
        self._exchange([pickle.dumps((task_name, positions[rows[worker]], rows[worker])) for worker in self._busy])

    def step(self) -> None:
        self._exchange([b""] * len(self._busy))

    def _exchange(self, messages: list[bytes]) -> None:
        try:
            for worker, message in zip(self._busy, messages, strict=True):
                _send(self._workers[worker][1], message)
            answers = [_receive(self._workers[worker][1]) for worker in self._busy]
        except (OSError, EOFError) as error:
            ended = [worker.poll() for worker, _ in self._workers]
            self.close()
            raise ClbenchError(
                f"a simulation worker ended (exit codes {ended}; -9 is often a lack of memory); "
                "type the same command again: it continues, with CLBENCH_WORKERS=1 in this process alone"
            ) from error
        except BaseException:
            self.close()  # an answer may be on its way: these workers cannot be asked again
            raise
        for answer in answers:
            if answer:
                _raise(pickle.loads(answer))

    @property
    def closed(self) -> bool:
        """Whether the workers are gone."""
        return not self._workers

    @property
    def pids(self) -> list[int]:
        """Process numbers of the workers."""
        return [worker.pid for worker, _ in self._workers]

    def close(self) -> None:
        """End the workers and wait for them."""
        workers, self._workers = self._workers, []
        for _, connection in workers:
            connection.close()
        for worker, _ in workers:
            try:
                worker.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _raise(answer: tuple[str, str]) -> None:
    kind, text = answer
    if kind == "user":
        raise UserError(text)
    raise RuntimeError(f"in a simulation worker:\n{text}")


def _anonymous_file(size: int) -> int:
    """A descriptor of memory without a name, so that a kill leaves nothing behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("clbench-simulation")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from clbench.task_streams.metaworld.simulation import serve; serve(*map(int, sys.argv[2:]))"
)


def _start_worker(memory: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    arguments = [sys.executable, "-W", "ignore", "-c", _WORKER, json.dumps(sys.path)]
    arguments += [str(theirs.fileno()), str(memory), str(os.getpid())]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with theirs:
        worker = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), memory),
            env={**os.environ, **one_thread},
        )
    return worker, ours


def serve(connection: int, memory: int, parent: int) -> None:
    """What a worker does until its parent is gone: start a batch (a pickled message) or take one step (an empty one)."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    channel = socket.socket(fileno=connection)
    channel.settimeout(_LOOK_UP_SECONDS)
    block, lanes = Block(mmap.mmap(memory, 0)), Lanes()
    with suppress(OSError, EOFError):
        while True:
            message = _receive(channel, parent)
            answer = b""
            try:
                if message:
                    task_name, positions, rows = pickle.loads(message)
                    lanes.begin(task_name, positions, rows, block)
                else:
                    lanes.step(block)
            except UserError as error:
                answer = pickle.dumps(("user", str(error)))
            except Exception:  # reported whole to the parent, which raises it
                answer = pickle.dumps(("bug", traceback.format_exc()))
            _send(channel, answer)


def _send(channel: socket.socket, message: bytes) -> None:
    channel.sendall(struct.pack("<I", len(message)) + message)


def _receive(channel: socket.socket, parent: int | None = None) -> bytes:
    (size,) = struct.unpack("<I", _receive_exactly(channel, 4, parent))
    return _receive_exactly(channel, size, parent) if size else b""


def _receive_exactly(channel: socket.socket, size: int, parent: int | None) -> bytes:
    """`size` bytes; raises EOFError when the other end has closed or, for a worker, the parent is gone."""
    parts = []
    while size:
        try:
            part = channel.recv(size)
        except TimeoutError:
            if parent is not None and os.getppid() != parent:
                raise EOFError from None
            continue
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Batch:
    """Episodes of one task. `observation` (n, 39), `reward` (n,) and `success` (n,) are of the latest step of each; copy what you keep."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine, self._count = engine, count
        engine.block.reward[:count] = 0.0
        engine.block.success[:count] = False
        self.observation: Array = engine.block.observation[:count]
        self.reward: Array = engine.block.reward[:count]
        self.success: Bool = engine.block.success[:count]

    def step(self, action: Array, active: Bool) -> None:
        """Advance the episodes that `active` (n,) marks by their row of `action` (n, 4) in [-1, 1]; the others stay as they are."""
        self._engine.block.action[: self._count] = action
        self._engine.block.active[: self._count] = active
        self._engine.step()


def cores() -> int:
    """Cores that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MAX_WORKERS)


def worker_count() -> int:
    """How many processes step episodes: `CLBENCH_WORKERS`, else the cores this process may use, at most 16."""
    given = os.environ.get("CLBENCH_WORKERS", "")
    if given and not given.isdecimal():
        raise UserError(f"CLBENCH_WORKERS: expected a number of processes >= 0, got {given!r}")
    count = int(given) if given else cores()
    return max(1, count) if os.name == "posix" else 1


_lock = threading.Lock()
_engines: dict[tuple[int, int], Engine] = {}  # by (process, workers): a forked child must not talk to its parent's workers


def _engine(count: int) -> Engine:
    key = (os.getpid(), count)
    engine = _engines.get(key)
    if engine is None or (isinstance(engine, Pool) and engine.closed):
        close_workers()
        engine = _engines[key] = InProcess() if count == 1 else Pool(count)
    return engine


def close_workers() -> None:
    """End the worker processes that this process started; the next batch starts new ones."""
    for process, count in list(_engines):
        engine = _engines[(process, count)]
        if process == os.getpid() and isinstance(engine, Pool):
            engine.close()
            del _engines[(process, count)]


atexit.register(close_workers)


@contextmanager
def simulation(task_name: str, positions: Array) -> Iterator[Batch]:
    """Episodes of `task_name` at `positions` (n, .), at most CAPACITY, with their first observations; one batch at a time."""
    if not 1 <= len(positions) <= CAPACITY:
        raise UserError(f"{task_name}: expected 1 to {CAPACITY} episodes at once, got {len(positions)}")
    with _lock:
        engine = _engine(worker_count())
        engine.begin(task_name, np.asarray(positions, dtype=np.float64))
        yield Batch(engine, len(positions))
