"""`clbench.run` from Python: the same run that the command line makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .interfaces import Agent
from .runs import AgentSpec, Request, Run, execute
from .stream import TaskStream


def run(
    agent: str | Callable[..., Agent] | AgentSpec,
    stream: str | TaskStream,
    *,
    seed: int = 0,
    budget: str = "smoke",
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
    if isinstance(agent, str) or isinstance(stream, str):
        from . import configuration

        spec = configuration.agent_spec(agent, device=device, options=options) if isinstance(agent, str) else _spec(agent, options, device)
        lived = configuration.stream_named(stream, budget=budget) if isinstance(stream, str) else stream
    else:
        spec, lived = _spec(agent, options, device), stream
    return execute(Request(spec, lived, seed, threads), None if results_dir is None else Path(results_dir))


def _spec(agent: Callable[..., Agent] | AgentSpec, options: Mapping[str, Any] | None, device: str) -> AgentSpec:
    if isinstance(agent, AgentSpec):
        return agent
    return AgentSpec(kebab(getattr(agent, "__name__", "agent")), agent, dict(options or {}), device)


def kebab(name: str) -> str:
    """A class name as the name of an agent: `MyAgent` -> `my-agent`."""
    import re

    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower().replace("_", "-").strip("-.") or "agent"
