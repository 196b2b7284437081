"""What is kept from past tasks and how it bends the next update: seven hooks that a learner and its agent call.

The hooks are those of Continual World (Wolczyk et al. 2021, `sac/sac.py`), lifted off SAC: what a hook contributes it returns, so that
methods compose in declared order and serve every learner. All hooks as they stand here = fine-tuning. A method keeps its own state and
draws from its own generator. Where a stream hides its boundaries, `before_task` and `after_task` are never called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from clbench.interfaces import TaskInfo

from ..learners.batch import Batch
from ..learners.learner import Learner

Weights = Mapping[str, Tensor]  # of the networks, by name


class Method:
    """Constructed as `Name(seed, *, options)`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @property
    def needs_batches(self) -> bool | str | None:
        """Whether it looks at what is learned from."""
        return type(self).wrap_buffer is not Method.wrap_buffer

    @property
    def changes_batches(self) -> bool:
        """Whether `wrap_buffer` may return another batch than it was given; who only stores is not asked for batches that are `kept`."""
        return bool(self.needs_batches)

    @property
    def steady(self) -> bool:
        """Whether `penalty` and `adjust_gradients` are, between two boundaries of tasks, the same operations on the same tensors.

        Then an update can be recorded and played again (`learners.recording`).
        """
        return (type(self).penalty, type(self).adjust_gradients) == (Method.penalty, Method.adjust_gradients)

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        """The networks to learn with, callable as the learner's own are; called once."""
        return networks

    def wrap_buffer(self, batch: Batch) -> Batch:
        """What to learn from instead of `batch`; rows [0, fresh) stay in front. Called before every update."""
        return batch

    def before_task(self, learner: Learner, task: TaskInfo) -> Weights | None:
        """Weights to begin the task with, or None to go on with those there are."""
        return None

    def penalty(self, learner: Learner) -> Tensor | None:
        """What is added to the loss (); None adds nothing."""
        return None

    def adjust_gradients(self, learner: Learner) -> None:
        """Change `p.grad` in place: the one hook that changes its argument. Gradients are clipped afterwards."""

    def after_task(self, learner: Learner, task: TaskInfo) -> Weights | None:
        """Weights to go on with, or None to keep those there are."""
        return None

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        """What is evaluated on `task`; `networks` is a copy."""
        return networks

    def state_dict(self) -> dict[str, Any]:
        """What the hooks depend on; a copy."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""


class Chain(Method):
    """Several methods as one: each takes what the one before returned; penalties add up; of two sets of weights the later stands."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        super().__init__(seed=0)
        self._methods = dict(methods)

    @property
    def needs_batches(self) -> str | None:
        """The name of the first method that looks at what is learned from; None where there is none."""
        return next((name for name, method in self._methods.items() if method.needs_batches), None)

    @property
    def changes_batches(self) -> bool:
        return any(method.changes_batches for method in self._methods.values())

    @property
    def steady(self) -> bool:
        return all(method.steady for method in self._methods.values())

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        for method in self._methods.values():
            networks = method.wrap_networks(networks)
        return networks

    def wrap_buffer(self, batch: Batch) -> Batch:
        for method in self._methods.values():
            batch = method.wrap_buffer(batch)
        return batch

    def before_task(self, learner: Learner, task: TaskInfo) -> Weights | None:
        return _last([method.before_task(learner, task) for method in self._methods.values()])

    def penalty(self, learner: Learner) -> Tensor | None:
        found = [penalty for method in self._methods.values() if (penalty := method.penalty(learner)) is not None]
        return sum(found[1:], start=found[0]) if found else None

    def adjust_gradients(self, learner: Learner) -> None:
        for method in self._methods.values():
            method.adjust_gradients(learner)

    def after_task(self, learner: Learner, task: TaskInfo) -> Weights | None:
        return _last([method.after_task(learner, task) for method in self._methods.values()])

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        for method in self._methods.values():
            networks = method.view(networks, task)
        return networks

    def state_dict(self) -> dict[str, Any]:
        return {name: method.state_dict() for name, method in self._methods.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, method in self._methods.items():
            method.load_state_dict(state[name])


def _last(found: Sequence[Weights | None]) -> Weights | None:
    return next((weights for weights in reversed(found) if weights is not None), None)
