"""`clbench.run` from Python: the same run that the command line makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .runs import AgentSpec, Request, Run, execute
from .stream import TaskStream


def run(
    agent: str | type | AgentSpec,
    stream: str | TaskStream,
    *,
    seed: int = 0,
    budget: str | None = None,
    results_dir: str | Path | None = None,
    device: str = "auto",
    threads: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run of `agent` on `stream`, with `.matrix`, `.metrics()` and `.events`.

    `agent`: a name of `clbench list agents`, a path `./mine.py:Mine`, a class, or an `AgentSpec`; `options` are its keyword arguments.
    `stream`: a name of `clbench list streams`, a YAML file, or a `TaskStream`. With `results_dir` the run has a folder, resumes after a
    kill, and is returned at once when it is done already; without, it stays in memory.
    """
    from . import configuration

    spec = configuration.agent_spec(agent, options, device)
    lived = configuration.stream_named(stream, budget)
    return execute(Request(spec, lived, seed, threads), None if results_dir is None else Path(results_dir))
