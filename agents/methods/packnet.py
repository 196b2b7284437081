"""PackNet: each task gets an equal share of the weights, which later tasks read and do not change.

Mallya and Lazebnik 2018, arXiv:1711.05769, in the form of Continual World (Wolczyk et al. 2021, arXiv:2105.10919, section 4 and
`continualworld/methods/packnet.py`): when a task is over, of the weights that it could change those of least magnitude are set to 0 and
left to the tasks to come, left / (left + 1) of every matrix where `left` tasks are; what it keeps is trained on for a while. Vectors
(biases, norms) learn in the first task only. A task is played with the weights of its own and of earlier tasks, all others 0.
Matrices and vectors are those that tasks share (`ItemLearner.held`); in soft actor-critic the critics and the heads stay free.

Departures: nothing decays; retraining takes `retrain` times the updates of the task (there 100,000 for 999,000), from what the learner
keeps itself or else from a uniform sample of `samples` items. Where the stream hides which task is asked, all weights answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clbench import seeding
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.batch import Batch
from ..learners.item_learner import ItemLearner
from ..learners.learner import Learner, copied
from .method import Method
from .reservoir import Reservoir


class PackNet(Method):
    """`tasks`: how many there will be; 0: as many as the stream says (where it hides identity it says 1)."""

    changes_batches = False
    steady = True

    def __init__(self, seed: int, *, retrain: float = 0.1, samples: int = 5000, batch_size: int = 128, tasks: int = 0) -> None:
        super().__init__(seed)
        if retrain < 0 or min(samples, batch_size) < 1 or tasks < 0:
            raise UserError(
                "packnet: retrain and tasks must be at least 0, samples and batch_size at least 1, "
                f"got {retrain}, {tasks}, {samples} and {batch_size}"
            )
        self.retrain, self.batch_size, self.tasks = retrain, batch_size, tasks
        self.owner: dict[str, Tensor] = {}  # by name of a matrix: the task (from 1) that owns each weight, 0: none yet
        self.order: dict[int, int] = {}  # by index of a task: as which (from 1) it was learned
        self.begun = 0
        self._over = False  # the task that began last is over
        self._steps_before = 0  # updates that had been made when it began
        self._items = Reservoir(samples, seeding.generator(seed, "reservoir"))
        self._draws = seeding.generator(seed, "retraining")

    def wrap_buffer(self, batch: Batch) -> Batch:
        self._items.offer(batch)
        return batch

    def before_task(self, learner: Learner, task: TaskInfo) -> None:
        if not self.owner:
            self.owner = {name: torch.zeros_like(weight, dtype=torch.int16) for name, weight in self._shared(learner) if weight.ndim > 1}
        self.begun += 1
        self._over, self._steps_before = False, learner.gradient_steps
        if task.index is not None:
            self.order[task.index] = self.begun

    def adjust_gradients(self, learner: Learner) -> None:
        if not self.begun:
            return
        for group in learner.optimizer.param_groups:
            group["weight_decay"] = 0.0  # it would move what is to stand still
        mine = self.begun if self._over else 0  # what may change: while a task is learned what nobody owns, afterwards what it kept
        for name, weight in self._shared(learner):
            if weight.grad is None:
                continue
            if name in self.owner:
                weight.grad.mul_(self._owner(name, weight) == mine)
            elif self.begun > 1 or self._over:
                weight.grad.zero_()

    def after_task(self, learner: Learner, task: TaskInfo) -> None:
        assert isinstance(learner, ItemLearner)
        self._items.finish()
        left = max(0, (self.tasks or task.num_tasks) - self.begun)
        updates = round(self.retrain * (learner.gradient_steps - self._steps_before))
        learner.go_on_with(self._pruned(learner, left))
        self._over = True
        if left:
            self._retrain(learner, updates)
            learner.reset_optimizer()
        self._items.clear()

    def _pruned(self, learner: ItemLearner, left: int) -> dict[str, Tensor]:
        """The learner's weights with the least of what is new set to 0; the rest has an owner from now on."""
        weights = copied(dict(learner.networks.state_dict()))
        for name in self.owner:
            owner = self._owner(name, weights[name])
            new = owner == 0
            size = weights[name].abs().masked_fill(~new, torch.inf)
            dropped = round(int(new.sum()) * left / (left + 1))
            keep = new.clone()
            keep.view(-1)[size.view(-1).argsort(stable=True)[:dropped]] = False
            weights[name][new & ~keep] = 0.0
            owner[keep] = self.begun
        return weights

    def _retrain(self, learner: ItemLearner, updates: int) -> None:
        learner.networks.train()
        with learner.randomness.lent():
            for _ in range(updates):
                batch = learner.own_batch(self.batch_size)
                if batch is None and len(self._items):
                    batch = self._items.sample(self.batch_size, self._draws)
                if batch is None:
                    return
                learner.update(batch, self)

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        """`networks` with the weights of later tasks, and of nobody, set to 0; as they are for a task that is not finished."""
        order = self.order.get(task.index) if task.index is not None else None
        if order is None or (order == self.begun and not self._over):
            return networks
        weights = dict(networks.named_parameters())
        with torch.no_grad():
            for name in self.owner:
                owner = self._owner(name, weights[name])
                weights[name].mul_((owner > 0) & (owner <= order))
        return networks

    def _owner(self, name: str, weight: Tensor) -> Tensor:
        """Who owns each entry of `weight`, on its device."""
        self.owner[name] = self.owner[name].to(weight.device)
        return self.owner[name]

    @staticmethod
    def _shared(learner: Learner) -> list[tuple[str, nn.Parameter]]:
        assert isinstance(learner, ItemLearner)
        held = {id(weight) for weight in learner.held}
        return [(name, weight) for name, weight in learner.networks.named_parameters() if id(weight) in held]

    def state_dict(self) -> dict[str, Any]:
        return {
            "owner": copied(self.owner),
            "order": dict(self.order),
            "begun": self.begun,
            "over": self._over,
            "steps_before": self._steps_before,
            "items": self._items.state_dict(),
            "draws": self._draws.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.owner, self.order = copied(state["owner"]), {int(index): int(place) for index, place in state["order"].items()}
        self.begun, self._over, self._steps_before = int(state["begun"]), bool(state["over"]), int(state["steps_before"])
        self._items.load_state_dict(state["items"])
        self._draws.bit_generator.state = state["draws"]
