"""What version control says of packs: those that were handed in are never changed; a wrong row is corrected by a new, dated one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import UserError
from .submissions import Finding

VERBS = {"A": "added", "D": "removed", "M": "changed", "T": "another type"}


def changes(paths: Sequence[Path], base: str) -> list[Finding]:
    """Each file below `paths` that differs inside a pack which was there where this branch left `base`, committed or not.

    Compared is with the merge base: what others handed in after it is no change of this branch.
    """
    top, fork, below = _fork(paths, base)
    packs = _packs(top, fork, below)
    expected = f"no change since {fork[:7]}"
    return [Finding(name, "history", expected, verb) for name, verb in _differences(top, fork, below) if packs & {*Path(name).parents}]


def landed(paths: Sequence[Path], base: str) -> set[Path]:
    """The packs below `paths` that were there where this branch left `base`, as absolute paths."""
    top, fork, below = _fork(paths, base)
    return {top / pack for pack in _packs(top, fork, below)}


def _packs(top: Path, fork: str, below: Sequence[str]) -> set[Path]:
    """Those that the commit `fork` has, from the repository's folder."""
    names = map(Path, _names(top, "ls-tree", "-r", "--name-only", "-z", fork, "--", *below))
    return {name.parent for name in names if name.name == "SHA256SUMS"}


def _fork(paths: Sequence[Path], base: str) -> tuple[Path, str, list[str]]:
    """The repository's folder, the commit where this branch left `base`, and `paths` from that folder."""
    top = Path(_git(paths[0], "rev-parse", "--show-toplevel").strip())
    return top, _git(top, "merge-base", base, "HEAD").strip(), [os.path.relpath(path.resolve(), top) for path in paths]


def _differences(top: Path, fork: str, below: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(_names(top, "diff", "--name-status", "--no-renames", "-z", fork, "--", *below))
    yield from ((name, VERBS.get(status, status)) for status, name in zip(words, words, strict=True))
    yield from ((name, "added") for name in _names(top, "ls-files", "--others", "-z", "--", *below))


def _names(top: Path, *words: str) -> list[str]:
    return _git(top, *words).split("\0")[:-1]


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--base needs git, which cannot be started: {error.strerror}; leave --base out") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(
            f"--base: git {words[0]} says '{said[0] if said else 'nothing'}' in '{folder}'; give a branch or commit of its repository"
        )
    return done.stdout
