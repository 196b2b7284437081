"""Weights that no longer learn, so that what is new must be kept by memory: in-context learning over a stream of tasks.

After its first `after` tasks nothing learns but the parameters whose names match `learns`. With none the networks only read: what a task
leaves behind is what their memory holds, which lasts beyond an episode where the learner's `scope` is task or never. With some it is the
frozen core of Sorokin & Burtsev 2019 (spec: memory.md 10.1): a new task's embedding reads memories that it did not shape.
Where task boundaries are hidden no task ever begins, and nothing is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.learner import Learner
from .method import Method


class Freeze(Method):
    """`learns`: patterns as of a shell (`backbone.embedding.*`) for names of parameters; after=0 freezes from the beginning.

    Gradients of what is held are dropped, so that this method stands last of those that change gradients.
    """

    steady = True

    def __init__(self, seed: int, *, after: int = 1, learns: Sequence[str] = ()) -> None:
        super().__init__(seed)
        if after < 0:
            raise UserError(f"freeze: after must be at least 0, got {after}")
        self.after, self.learns = after, tuple(learns)
        self._begun = 0

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        names = [name for name, _ in networks.named_parameters()]
        for pattern in self.learns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError(f"freeze: no parameter matches '{pattern}' in learns; the parameters are {', '.join(names)}")
        return networks

    def before_task(self, learner: Learner, task: TaskInfo) -> None:
        self._begun += 1
        learner.frozen = self._holds and not self.learns

    def adjust_gradients(self, learner: Learner) -> None:
        if not self._holds:
            return
        for name, parameter in learner.networks.named_parameters():
            if not any(fnmatchcase(name, pattern) for pattern in self.learns):
                parameter.grad = None  # the optimiser passes it by, its weight decay too

    @property
    def _holds(self) -> bool:
        return self._begun > self.after

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._begun = int(state["begun"])
