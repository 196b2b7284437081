"""The compiled helper of `vector_env`: one call of a thread steps all of its environments. Built on demand, and never needed.

    python -m clbench.task_streams.metaworld.native          # needs a C compiler: $CC, cc, gcc or clang

It lies in the cache beside recorded demonstrations, under a name that its source, the platform and MuJoCo's version determine; what was
built for another of these is not used. Numbers are those of the threads in Python, bit by bit.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError

from .cache import cache_folder

Array = NDArray[np.float64]
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-shared", "-fPIC")


def source() -> str:
    """The helper in C."""
    return resources.files(__package__).joinpath("step.c").read_text(encoding="utf-8")


def library() -> Path:
    """Where the helper lies once it is built."""
    made_of = "\0".join([source(), platform.system(), platform.machine(), version("mujoco"), *FLAGS])
    return cache_folder() / "native" / f"step-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"


def build(compiler: str | None = None) -> Path:
    """Compile the helper, whole or not at all; the library's path."""
    chosen = compiler or os.environ.get("CC") or next((name for name in COMPILERS if shutil.which(name)), None)
    if chosen is None:
        raise UserError(f"no C compiler found ({', '.join(COMPILERS)}); set CC to one, or go on without: nothing needs the helper")
    path = library()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        done = subprocess.run(
            [chosen, *FLAGS, "-x", "c", "-", "-o", str(part)], input=source(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[0]
            raise UserError(f"'{chosen}' says '{said}'; set CC to a C compiler, or go on without: nothing needs the helper")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"'{chosen}' cannot be started ({error.strerror}); set CC to a C compiler, or go on without") from None
    finally:
        part.unlink(missing_ok=True)
    _loaded.cache_clear()
    return path


@cache
def _loaded() -> Any:
    path = library()
    if not path.is_file():
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None  # of another machine that shares the cache


def available() -> bool:
    """Whether the helper was built."""
    return _loaded() is not None


class _Simulator(ctypes.Structure):
    """A thread's simulator, as `step.c` has it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("step", "settle", "set_state", "get_state", "model", "data")),
        *((name, ctypes.c_void_p) for name in ("body_pos", "site_pos", "hand", "control", "sources", "lengths")),
        *((name, ctypes.c_long) for name in ("body_bytes", "site_bytes", "substeps", "pieces", "width", "size")),
        ("what", ctypes.c_uint),
    )


class Stepper:
    """Steps the environments of one task in the threads' simulators, where the arrays stay where they are.

    `pieces`: for each thread the arrays (in its simulator, contiguous) that are copied, one behind the other, to an environment's row of
    `out` (N, .). `states` (N, .): what the simulator knows of each environment, as `mj_getState` gives it of the kind `what`.
    """

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        data: Sequence[mujoco.MjData],
        pieces: Sequence[Sequence[Array]],
        states: Array,
        out: Array,
        *,
        what: int,
        exact: bool,
        substeps: int,
    ) -> None:
        engine = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco*"))))  # the one that Python's bindings use
        settle = engine.mj_forward if exact else engine.mj_kinematics
        calls = [ctypes.cast(call, ctypes.c_void_p) for call in (engine.mj_step, settle, engine.mj_setState, engine.mj_getState)]
        self._step = _loaded().clbench_step
        self._step.restype = None
        lengths = [piece.size for piece in pieces[0]]
        assert sum(lengths) == out.shape[1] and all(piece.flags.c_contiguous for row in pieces for piece in row)
        assert states.flags.c_contiguous and out.flags.c_contiguous
        self._lengths = np.array(lengths, dtype=np.int64)
        self._sources = np.array([[piece.ctypes.data for piece in row] for row in pieces], dtype=np.uintp)
        self._kept = (models, data, pieces, states, out)  # alive as long as their addresses are used
        self._simulators = [
            _Simulator(
                *calls,
                model._address,
                one._address,
                *(array.ctypes.data for array in (model.body_pos, model.site_pos, one.mocap_pos, one.ctrl, sources, self._lengths)),
                *(model.body_pos.nbytes, model.site_pos.nbytes, substeps, len(lengths), out.shape[1], states.shape[1]),
                what,
            )
            for model, one, sources in zip(models, data, self._sources, strict=True)
        ]
        self._states, self._out, count = states.ctypes.data, out.ctypes.data, len(states)
        self.placed = np.full(count, -1, dtype=np.int64)  # (N,) the number of the position that each environment stands at
        self._body_pos, self._site_pos = np.zeros(count, dtype=np.uintp), np.zeros(count, dtype=np.uintp)
        self._next = ctypes.c_long(count)

    def place(self, n: int, number: int, body_pos: Array, site_pos: Array) -> None:
        """Environment n stands at position `number`, with the model's positions `body_pos` and `site_pos`, which stay where they are."""
        assert body_pos.flags.c_contiguous and site_pos.flags.c_contiguous
        self.placed[n], self._body_pos[n], self._site_pos[n] = number, body_pos.ctypes.data, site_pos.ctypes.data

    def prepare(self) -> None:
        """Before the threads step: all environments are still to be stepped."""
        self._next.value = 0

    def step(self, thread: int, mocap: Array, grip: Array, active: NDArray[np.bool_] | None = None) -> None:
        """Step those that no thread has begun, of those that `active` (N,) marks; mocap (N, 3), grip (N, 2)."""
        pointers = [
            self._states,
            *(array.ctypes.data for array in (self.placed, self._body_pos, self._site_pos, mocap, grip)),
            self._out,
        ]
        self._step(
            ctypes.byref(self._simulators[thread]),
            ctypes.byref(self._next),
            ctypes.c_long(len(self.placed)),
            ctypes.c_void_p(None if active is None else active.ctypes.data),
            *map(ctypes.c_void_p, pointers),
        )


def main() -> None:
    """Build the helper and say where it lies."""
    try:
        sys.stdout.write(f"{build()}\n")
    except UserError as error:
        sys.stderr.write(f"clbench: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
