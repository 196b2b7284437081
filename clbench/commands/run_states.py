"""How far the runs below a folder got, read from their files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..store import is_packed


def run_folders(paths: list[str]) -> list[Path]:
    """Every folder with a `run.json` at or below `paths`, sorted; none at all is an error."""
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise UserError(f"no folder '{name}'; expected the folder of a run, or one with runs below it (see: clbench list runs)")
        found += sorted(_below(path))
    if not found:
        raise UserError(f"no run in '{' '.join(paths)}': expected run.json there or below; run one with: clbench run stream=toy agent=ewc")
    return list(dict.fromkeys(found))


def _below(path: Path) -> Iterator[Path]:
    if (path / "run.json").is_file():
        yield path
    elif path.is_dir():
        for file in path.rglob("run.json"):
            yield file.parent


def run_rows(folder: str) -> list[dict[str, Any]]:
    """One row for each run below `folder`."""
    root = Path(folder)
    return [_row(path) for path in sorted(_below(root))] if root.is_dir() else []


def _row(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "run.json").read_text())
        stream, agent, seed = f"{manifest['stream']['name']}@{manifest['stream']['version']}", manifest["agent"]["name"], manifest["seed"]
        budget = manifest["budget"]
    except (OSError, ValueError, KeyError, TypeError):
        stream, agent, seed, budget = "?", "?", "?", "?"
    return {"name": agent, "stream": stream, "budget": budget, "seed": seed, "state": state(path), "folder": str(path)}


def state(path: Path) -> str:
    """`new`, `unfinished` (the same command continues it), `done` or `packed`."""
    if (path / "DONE").exists():
        return "done"
    if is_packed(path):
        return "packed"
    return "unfinished" if (path / "run.json").exists() else "new"
