"""Every task begins with the first weights: nothing is retained and nothing is transferred.

The row against which forward transfer and retention are read (language.md, 2.7). Where task boundaries are hidden it is fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from clbench.interfaces import TaskInfo

from ..learners.learner import Learner, copied
from .method import Method, Weights


class Reset(Method):
    """Keeps a copy of the weights that the networks were built with; the optimiser begins anew as well."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._weights: dict[str, Tensor] = {}

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        self._weights = copied(dict(networks.state_dict()))
        return networks

    def before_task(self, learner: Learner, task: TaskInfo) -> Weights:
        return self._weights

    def state_dict(self) -> dict[str, Any]:
        return {"weights": copied(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = copied(dict(state["weights"]))
