"""Arrays that are costly to make, kept between runs in `$CLBENCH_CACHE`, `$XDG_CACHE_HOME/clbench` or `~/.cache/clbench`.

An entry is found by everything that decides what is in it. Files appear whole or not at all; one that cannot be read is as good as none; a
folder that cannot be written costs time, never a run. Deleting the folder is always safe.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from clbench.errors import UserError
from clbench.files import make_folder, write_whole


def cache_folder() -> Path:
    """Where entries lie."""
    if given := os.environ.get("CLBENCH_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "clbench"


def _path(kind: str, key: Mapping[str, Any]) -> tuple[Path, str]:
    text = json.dumps(key, sort_keys=True)
    return cache_folder() / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz", text


def load(kind: str, key: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays kept under `key`, or None."""
    path, text = _path(kind, key)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays if str(arrays.pop("key")) == text else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None


def save(kind: str, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Keep `arrays` under `key`, replacing what was there; warns once where the folder cannot be written."""
    path, text = _path(kind, key)
    content = io.BytesIO()
    np.savez(content, key=np.array(text), **arrays)
    try:
        make_folder(path.parent)
        write_whole(path, content.getvalue())
    except (UserError, OSError) as error:
        _warn(f"{cache_folder()} cannot be written ({error}); demonstrations are made anew each time. Set CLBENCH_CACHE to another folder")


@cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
