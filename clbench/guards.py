"""What stands between an agent and the referee: outputs are checked, global generators are kept apart, sizes are read off."""

from __future__ import annotations

import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import checkpoint
from .errors import ContractError
from .interfaces import TaskInfo


class CheckedPolicy:
    """A policy or predictor whose answers are refused where they have the wrong shape or are not finite."""

    def __init__(self, policy: Any, task: TaskInfo, task_name: str) -> None:
        self._policy, self._task, self._where = policy, task, f"task '{task_name}'"
        needed = "logits" if task.experience == "text" else "act"
        for member in ("initial_state", needed):
            if not callable(getattr(policy, member, None)):
                raise ContractError(f"{self._where}: policy(task) must return an object with {member}(...), got {type(policy).__name__}")

    def initial_state(self, batch: int) -> Any:
        """The agent's own."""
        return self._policy.initial_state(batch)

    def act(self, observation: Any, state: Any) -> tuple[Any, Any]:
        """The agent's actions, checked: shape (B, A), finite."""
        action, state = self._pair(self._policy.act(observation, state), "act", "(action, state)")
        return self._array(action, (len(observation), self._task.output_size), "action", "act"), state

    def logits(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        """The agent's logits, checked: shape (B, T, V), no NaN."""
        logits, state = self._pair(self._policy.logits(tokens, state), "logits", "(logits, state)")
        return self._array(logits, (*tokens.shape, self._task.output_size), "logits", "logits"), state

    def _pair(self, value: Any, member: str, expected: str) -> tuple[Any, Any]:
        if not isinstance(value, tuple) or len(value) != 2:
            raise ContractError(f"{self._where}: {member} must return {expected}, got {type(value).__name__}")
        return value

    def _array(self, value: Any, shape: tuple[int, ...], noun: str, member: str) -> Any:
        array = np.asarray(value)
        if array.shape != shape or array.dtype.kind not in "biuf":
            raise ContractError(f"{self._where}: {member}: expected {noun} of shape {shape} and numbers, got {array.shape} {array.dtype}")
        if not np.isfinite(array.sum()) and not (np.isfinite(array).all() or (noun == "logits" and not np.isnan(array).any())):
            raise ContractError(f"{self._where}: {member}: {noun} is not finite (NaN or infinite)")
        return array


def global_generators() -> dict[str, Any]:
    """The states of the global generators of random, numpy and (where it is loaded) torch, in types a checkpoint can hold."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  kept and restored for agents that draw from it
    state: dict[str, Any] = {
        "random": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys), position, has_gauss, cached],
    }
    if (torch := sys.modules.get("torch")) is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_global_generators(state: dict[str, Any]) -> None:
    """Put back what `global_generators` returned."""
    version, internal, gauss = state["random"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    if (torch := sys.modules.get("torch")) is not None and "torch" in state:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def seeded_global_generators(seed: int) -> Generator[None]:
    """Within it the global generators follow from `seed`; afterwards they are as they were before.

    clbench itself draws from none of them; agents from outside may, and then still give the same numbers for the same seed.
    """
    import torch

    before = global_generators()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        restore_global_generators(before)


@contextmanager
def unchanged(agent: Any) -> Generator[None]:
    """Within it an agent is evaluated: its state must be the same afterwards, to the bit, the contents of any memory included."""
    before = checkpoint.fingerprint(checkpoint.encode(agent.state_dict(), "state_dict()"))
    yield
    if checkpoint.fingerprint(checkpoint.encode(agent.state_dict(), "state_dict()")) != before:
        raise ContractError("evaluation changed state_dict(); policy(task) must return a snapshot that shares nothing with the agent")


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Within it torch computes with `count` threads; afterwards with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_number(agent: Any, name: str) -> int | None:
    """An optional count that an agent reports about itself; None where it does not say."""
    value = getattr(agent, name, None)
    value = value() if callable(value) else value
    return int(value) if isinstance(value, int | float | np.number) and np.isfinite(float(value)) else None


def read_diagnostics(agent: Any) -> dict[str, float]:
    """The finite numbers an agent reports about its learning (losses and the like); empty where it does not say."""
    report = getattr(agent, "diagnostics", None)
    values = report() if callable(report) else {}
    if not isinstance(values, dict):
        return {}
    return {str(k): float(v) for k, v in sorted(values.items()) if isinstance(v, int | float | np.number) and np.isfinite(float(v))}
