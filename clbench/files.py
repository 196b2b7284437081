"""Files that survive: whole ones appear complete or not at all, logs grow by one line at a time.

A full or read-only disk is the user's to mend: it ends the command with one line, and what was saved before stays readable.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError

_ADVICE = {
    errno.ENOSPC: "free some space, then type the same command again: it continues",
    errno.EDQUOT: "free some of your quota, then type the same command again: it continues",
    errno.EROFS: "choose another folder with results_dir=DIR",
    errno.EACCES: "choose a folder you may write to with results_dir=DIR",
    errno.EPERM: "choose a folder you may write to with results_dir=DIR",
    errno.ENOTDIR: "a part of this path is a file; choose another folder with results_dir=DIR",
    errno.ENAMETOOLONG: "choose a shorter path with results_dir=DIR",
}


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn an operating system's refusal about `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        advice = _ADVICE.get(error.errno, "check the path and the disk, then type the same command again")
        raise UserError(f"cannot write '{path}': {os.strerror(error.errno)}; {advice}") from error


def make_folder(path: Path) -> None:
    """Create `path` and its parents where they are missing."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` in one step: temporary name in the same folder, flush, rename, flush the folder."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable, where the operating system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LineFile:
    """An append-only file of lines. A torn last line, left by a kill, is cut off when the file is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            block = os.pread(self._descriptor, end - begin, begin)
            if (newline := block.rfind(b"\n")) >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._descriptor, end)

    def append(self, line: str, *, durable: bool = False) -> None:
        """Add one line in one write; with `durable` it is on the disk when this returns."""
        data = line.encode() + b"\n"
        with disk_errors(self.path):
            before = os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, before)
                raise
            if durable:
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
