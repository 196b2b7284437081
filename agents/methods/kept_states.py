"""Examples kept from all that was lived through, and what a network makes of them now: its states before each token that was to be said.

Shared by the methods that look up at each token what came next where the network was in a state like the present one. A network that goes
on learning would leave states behind that it no longer makes, so the examples themselves are kept, evenly over all that was lived through
(a reservoir, as `replay` has it, and as many bytes), and are read anew for each policy. faiss finds the nearest (exact, squared Euclidean
distance). Nothing about learning changes. Shape letters: B rows, T time, V vocabulary, D width, n states.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from clbench import seeding
from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..backbones.state import State
from ..learners.batch import Batch
from ..learners.language_modelling import Prediction, TokenModel
from ..learners.learner import copied
from ..stores.faiss_store import imported_faiss
from .method import Method
from .reservoir import Reservoir

_READ_AT_ONCE = 64  # stored examples


class KeptStates(Method):
    """Keeps `capacity` examples. A subclass says what a policy makes of their states and of the tokens that followed."""

    name: ClassVar[str]  # in messages

    def __init__(self, seed: int, capacity: int) -> None:
        super().__init__(seed)
        imported_faiss()  # missing, it is missed before anything is learned
        self.memory = Reservoir(capacity, seeding.generator(seed, "reservoir"))
        self._made: tuple[int, Mapping[str, Tensor], tuple[np.ndarray, np.ndarray]] | None = (
            None  # after how many examples, by which weights
        )

    @abstractmethod
    def looking_up(self, networks: TokenModel, states: np.ndarray, tokens: np.ndarray) -> nn.Module:
        """`networks` beside states (n, D) and the tokens (n,) that followed them."""

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        if not isinstance(networks, TokenModel):
            raise UserError(f"{self.name} looks tokens up and serves text alone, got a stream of another kind; leave it out")
        return networks

    def wrap_buffer(self, batch: Batch) -> Batch:
        if not batch.whole:
            raise UserError(f"{self.name} keeps whole examples, got windows; leave agent.text.learner.window at 0")
        self.memory.offer(batch)
        return batch

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        assert isinstance(networks, TokenModel)
        return self.looking_up(networks, *self._states_of(networks)) if len(self.memory) else networks

    def _states_of(self, networks: TokenModel) -> tuple[np.ndarray, np.ndarray]:
        """As `_read`; all columns of one evaluation are asked of the same weights and examples, and share them."""
        weights = networks.state_dict()
        if self._made is not None:
            offered, before, made = self._made
            if offered == self.memory.offered and all(torch.equal(before[name], weight) for name, weight in weights.items()):
                return made
        self._made = (self.memory.offered, copied(dict(weights)), self._read(networks))
        return self._made[2]

    def _read(self, networks: TokenModel) -> tuple[np.ndarray, np.ndarray]:
        """States (n, D) and the tokens (n,) that followed, of all examples that are kept."""
        device = networks.embedding.weight.device
        states, tokens = [], []
        networks.eval()
        with torch.no_grad():
            for first in range(0, len(self.memory), _READ_AT_ONCE):
                batch = self.memory.items(np.arange(first, min(first + _READ_AT_ONCE, len(self.memory))))
                inputs = torch.from_numpy(batch.inputs.astype(np.int64)).to(device)
                hidden, *_ = networks.read(inputs, networks.initial_state(len(inputs)), write=False)
                scored = torch.from_numpy(batch.scored).to(device)
                states.append(hidden[scored].float().cpu().numpy())
                tokens.append(batch.targets[batch.scored])
        return np.concatenate(states), np.concatenate(tokens).astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self._made = None


class LookingUp(nn.Module):
    """A `TokenModel` beside what it remembers; `at_once` positions are asked together. A subclass says how that changes its scores."""

    def __init__(self, networks: TokenModel, states: np.ndarray, tokens: np.ndarray, *, neighbours: int, at_once: int) -> None:
        super().__init__()
        self.networks, self.tokens = networks, torch.from_numpy(tokens)
        self.neighbours, self.at_once = min(neighbours, len(tokens)), at_once
        self.index = imported_faiss().IndexFlatL2(states.shape[1])
        self.index.add(np.ascontiguousarray(states))

    def initial_state(self, batch: int) -> State:
        """The network's."""
        return self.networks.initial_state(batch)

    def forward(self, tokens: Tensor, state: State) -> Prediction:
        """Tokens (B, T); logits (B, T, V)."""
        hidden, state, auxiliary_loss, diagnostics = self.networks.read(tokens, state)
        asked = hidden.reshape(-1, hidden.shape[-1])  # (B T, D)
        found = []
        for part in asked.split(self.at_once):
            distance, near = self.index.search(part.float().cpu().numpy(), self.neighbours)
            found.append(self.scores(part, *(torch.from_numpy(each).to(part.device) for each in (distance, near))))
        return Prediction(torch.cat(found).view(*hidden.shape[:2], -1), state, auxiliary_loss, diagnostics)

    @abstractmethod
    def scores(self, hidden: Tensor, distance: Tensor, near: Tensor) -> Tensor:
        """Logits (m, V) of states `hidden` (m, D), to which those numbered `near` (m, K) are nearest, at a squared `distance`."""
