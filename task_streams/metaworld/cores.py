"""How many cores simulation may use: what the machine grants to this process, or what `CLBENCH_WORKERS` says."""

from __future__ import annotations

import os

from clbench.errors import UserError

_MOST = 16  # unless asked for more: a process holds 150 MB of libraries, a process or a thread 20 MB for each task it has seen


def cores() -> int:
    """Cores that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)


def worker_count() -> int:
    """How many threads or processes step episodes: `CLBENCH_WORKERS`, else the cores this process may use, at most 16."""
    given = os.environ.get("CLBENCH_WORKERS", "")
    if given and not given.isdecimal():
        raise UserError(f"CLBENCH_WORKERS: expected a number of processes >= 0, got {given!r}")
    return max(1, int(given) if given else cores())
