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
Addresses = NDArray[np.uintp]
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


class _Share(ctypes.Structure):
    _fields_ = (
        ("step", ctypes.c_void_p),
        ("settle", ctypes.c_void_p),
        ("model", ctypes.c_void_p),
        ("body_pos", ctypes.c_void_p),
        ("site_pos", ctypes.c_void_p),
        ("body_bytes", ctypes.c_long),
        ("site_bytes", ctypes.c_long),
        ("substeps", ctypes.c_long),
        ("pieces", ctypes.c_long),
        ("width", ctypes.c_long),
    )


class Stepper:
    """Steps the environments of one task, whose simulators and arrays stay where they are.

    `pieces`: for each environment the arrays (in the simulator, contiguous) that are copied, one behind the other, to its row of `out`.
    """

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        data: Sequence[mujoco.MjData],
        pieces: Sequence[Sequence[Array]],
        out: Array,
        *,
        exact: bool,
        substeps: int,
    ) -> None:
        engine = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco*"))))  # the one that Python's bindings use
        settle = engine.mj_forward if exact else engine.mj_kinematics
        self._step = _loaded().clbench_step
        self._step.restype = None
        self._kept = (models, data, pieces, out)  # alive as long as their addresses are used
        self._out = out.ctypes.data
        lengths = [piece.size for piece in pieces[0]]
        assert sum(lengths) == out.shape[1] and all(piece.flags.c_contiguous for row in pieces for piece in row)
        self._shares = [
            _Share(
                ctypes.cast(engine.mj_step, ctypes.c_void_p),
                ctypes.cast(settle, ctypes.c_void_p),
                model._address,
                model.body_pos.ctypes.data,
                model.site_pos.ctypes.data,
                model.body_pos.nbytes,
                model.site_pos.nbytes,
                substeps,
                len(lengths),
                out.shape[1],
            )
            for model in models
        ]
        self._lengths = np.array(lengths, dtype=np.int64)
        self._sources = np.array([[piece.ctypes.data for piece in row] for row in pieces], dtype=np.uintp)
        self._data = np.array([one._address for one in data], dtype=np.uintp)
        self._hand = np.array([one.mocap_pos.ctypes.data for one in data], dtype=np.uintp)
        self._control = np.array([one.ctrl.ctypes.data for one in data], dtype=np.uintp)
        self.placed = np.full(len(data), -1, dtype=np.int64)  # (N,) the number of the position that each environment stands at
        self._body_pos, self._site_pos = np.zeros(len(data), dtype=np.uintp), np.zeros(len(data), dtype=np.uintp)

    def place(self, n: int, number: int, body_pos: Array, site_pos: Array) -> None:
        """Environment n stands at position `number`, with the model's positions `body_pos` and `site_pos`, which stay where they are."""
        assert body_pos.flags.c_contiguous and site_pos.flags.c_contiguous
        self.placed[n], self._body_pos[n], self._site_pos[n] = number, body_pos.ctypes.data, site_pos.ctypes.data

    def step(self, thread: int, mocap: Array, grip: Array, active: NDArray[np.bool_] | None = None) -> None:
        """Step environments thread, thread + threads, ... of those that `active` (N,) marks; mocap (N, 3), grip (N, 2)."""
        arrays = (
            self._data,
            self.placed,
            self._body_pos,
            self._site_pos,
            self._hand,
            self._control,
            mocap,
            grip,
            self._sources,
            self._lengths,
        )
        marks = ctypes.c_void_p(None if active is None else active.ctypes.data)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
        counts = (ctypes.c_long(number) for number in (thread, len(self._shares), len(self._data)))
        self._step(ctypes.byref(self._shares[thread]), *counts, marks, *pointers, ctypes.c_void_p(self._out))


def main() -> None:
    """Build the helper and say where it lies."""
    try:
        sys.stdout.write(f"{build()}\n")
    except UserError as error:
        sys.stderr.write(f"clbench: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
