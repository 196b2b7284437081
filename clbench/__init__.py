"""clbench: the benchmark suite for continual learning with memory.

`clbench.run(agent, stream, seed=...)` runs a benchmark, `clbench.load_runs(path)` reads results, `clbench.metrics` measures an
`EvaluationMatrix`. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import metrics as metrics
    from . import statistics as statistics
    from .api import run as run
    from .conformance import check as check
    from .errors import ClbenchError as ClbenchError
    from .errors import ContractError as ContractError
    from .errors import UserError as UserError
    from .experience import Demonstrations as Demonstrations
    from .experience import Experience as Experience
    from .experience import Interaction as Interaction
    from .experience import Text as Text
    from .interfaces import Agent as Agent
    from .interfaces import Episodes as Episodes
    from .interfaces import Policy as Policy
    from .interfaces import Predictor as Predictor
    from .interfaces import Task as Task
    from .interfaces import TaskInfo as TaskInfo
    from .loading import load_runs as load_runs
    from .matrix import EvaluationMatrix as EvaluationMatrix
    from .runs import Run as Run
    from .stream import Phase as Phase
    from .stream import TaskStream as TaskStream

_HOME = {
    "Agent": "interfaces",
    "ClbenchError": "errors",
    "ContractError": "errors",
    "Demonstrations": "experience",
    "Episodes": "interfaces",
    "EvaluationMatrix": "matrix",
    "Experience": "experience",
    "Interaction": "experience",
    "Phase": "stream",
    "Policy": "interfaces",
    "Predictor": "interfaces",
    "Run": "runs",
    "Task": "interfaces",
    "TaskInfo": "interfaces",
    "TaskStream": "stream",
    "Text": "experience",
    "UserError": "errors",
    "check": "conformance",
    "load_runs": "loading",
    "metrics": "",
    "run": "api",
    "statistics": "",
}
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clbench' has no attribute '{name}'; public names: {', '.join(__all__)}")
    home = _HOME[name]
    value = getattr(import_module(f".{home}", __name__), name) if home else import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
