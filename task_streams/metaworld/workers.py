"""Any task of Meta-World, stepped one environment after another in worker processes: Python's lock lets no thread help there.

Episode i belongs to worker i modulo the number of workers. Workers are started once and kept: a step costs one message of four bytes to
each and one back, arrays lie in shared memory. They are started by `subprocess`, not by `multiprocessing`, so that a script needs no
`if __name__ == "__main__"`. A worker ends when its socket closes or its parent is gone, so none outlives a killed run. Signals are left to
the parent.
"""

from __future__ import annotations

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
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from clbench.errors import ClbenchError, UserError

from .block import BYTES, KEPT_TASKS, Array, Block

_LOOK_UP_SECONDS = 5.0  # how often an idle worker looks whether its parent is still there


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
            return_memory()
        self._kept[task_name] = shared, envs
        while len(self._kept) > KEPT_TASKS:
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


def return_memory() -> None:
    """Give back what compiling a model left on the heap, about 40 MB for each task; glibc keeps it otherwise."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class InProcess:
    """Steps in this process."""

    closed = False

    def __init__(self) -> None:
        self.block = Block(bytearray(BYTES))
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
        descriptor = _anonymous_file(BYTES)
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
    "from clbench.task_streams.metaworld.workers import serve; serve(*map(int, sys.argv[2:]))"
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
