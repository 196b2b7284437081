"""A language model that looks its next token up among those it has seen: k nearest neighbours beside the network (kNN-LM).

Khandelwal et al. 2020, "Generalization through memorization: nearest neighbor language models", arXiv:1911.00172, section 2: p(y | x) is
`share` times the softmax over -|f(x) - k|^2 / `temperature` of the nearest stored keys k whose value is y, plus (1 - share) times what the
network says. Keys are the network's last hidden states before tokens that were to be predicted, values these tokens; faiss finds the
nearest (exact, squared Euclidean distance). Departures: a network that goes on learning would leave keys behind that it no longer makes, so
the examples themselves are kept, evenly over all that was lived through (a reservoir, as `replay` has it, and as many bytes), and their
keys are made anew for each policy; the key is the backbone's output, not the input of its last feed-forward layer.
It changes nothing about learning. Shape letters: B rows, T time, V vocabulary, D width, n keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_ASKED_AT_ONCE = 1 << 14  # positions; each has `neighbours` rows of the answer


class NearestNeighbours(Method):
    """Keeps `capacity` examples; a policy reads their keys, and at each token looks up `neighbours` of them."""

    def __init__(self, seed: int, *, capacity: int = 5000, neighbours: int = 32, temperature: float = 10.0, share: float = 0.5) -> None:
        super().__init__(seed)
        if neighbours < 1 or temperature <= 0 or not 0 <= share < 1:
            raise UserError(
                f"knn: neighbours must be at least 1, temperature > 0 and share in [0, 1), got {neighbours}, {temperature} and {share}"
            )
        imported_faiss()  # missing, it is missed before anything is learned
        self.neighbours, self.temperature, self.share = neighbours, temperature, share
        self.memory = Reservoir(capacity, seeding.generator(seed, "reservoir"))
        self._made: tuple[int, Mapping[str, Tensor], tuple[np.ndarray, np.ndarray]] | None = (
            None  # after how many examples, by which weights
        )

    def wrap_networks(self, networks: nn.Module) -> nn.Module:
        if not isinstance(networks, TokenModel):
            raise UserError("knn looks tokens up and serves text alone, got a stream of another kind; leave it out")
        return networks

    def wrap_buffer(self, batch: Batch) -> Batch:
        if not batch.whole:
            raise UserError("knn keeps whole examples, got windows; leave agent.text.learner.window at 0")
        self.memory.offer(batch)
        return batch

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        assert isinstance(networks, TokenModel)
        if not len(self.memory) or not self.share:
            return networks
        keys, values = self._keys_of(networks)
        return Recalling(networks, keys, values, neighbours=self.neighbours, temperature=self.temperature, share=self.share)

    def _keys_of(self, networks: TokenModel) -> tuple[np.ndarray, np.ndarray]:
        """As `_read`; all columns of one evaluation are asked of the same weights and examples, and share them."""
        weights = networks.state_dict()
        if self._made is not None:
            offered, before, made = self._made
            if offered == self.memory.offered and all(torch.equal(before[name], weight) for name, weight in weights.items()):
                return made
        self._made = (self.memory.offered, copied(dict(weights)), self._read(networks))
        return self._made[2]

    def _read(self, networks: TokenModel) -> tuple[np.ndarray, np.ndarray]:
        """Keys (n, D) and values (n,) of all examples that are kept."""
        device = networks.embedding.weight.device
        keys, values = [], []
        networks.eval()
        with torch.no_grad():
            for first in range(0, len(self.memory), _READ_AT_ONCE):
                batch = self.memory.items(np.arange(first, min(first + _READ_AT_ONCE, len(self.memory))))
                tokens = torch.from_numpy(batch.inputs.astype(np.int64)).to(device)
                hidden, *_ = networks.read(tokens, networks.initial_state(len(tokens)), write=False)
                scored = torch.from_numpy(batch.scored).to(device)
                keys.append(hidden[scored].float().cpu().numpy())
                values.append(batch.targets[batch.scored])
        return np.concatenate(keys), np.concatenate(values).astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self._made = None


class Recalling(nn.Module):
    """A `TokenModel` whose logits are logarithms of what it and the neighbours of its hidden states say together."""

    def __init__(
        self, networks: TokenModel, keys: np.ndarray, values: np.ndarray, *, neighbours: int, temperature: float, share: float
    ) -> None:
        super().__init__()
        self.networks, self.values, self.share = networks, torch.from_numpy(values), share
        self.neighbours, self.temperature = min(neighbours, len(values)), temperature
        self.index = imported_faiss().IndexFlatL2(keys.shape[1])
        self.index.add(np.ascontiguousarray(keys))

    def initial_state(self, batch: int) -> State:
        """The network's."""
        return self.networks.initial_state(batch)

    def forward(self, tokens: Tensor, state: State) -> Prediction:
        """Tokens (B, T); logits (B, T, V)."""
        hidden, state, auxiliary_loss, diagnostics = self.networks.read(tokens, state)
        own = self.networks.scores(hidden).float().log_softmax(-1)  # (B, T, V)
        asked = hidden.reshape(-1, hidden.shape[-1]).float().cpu()  # (B T, D)
        recalled = torch.zeros(len(asked), own.shape[-1])
        for rows in torch.arange(len(asked)).split(_ASKED_AT_ONCE):
            distance, near = self.index.search(asked[rows].numpy(), self.neighbours)
            weight = (-torch.from_numpy(distance) / self.temperature).softmax(-1)  # (rows, neighbours)
            recalled[rows] = recalled[rows].scatter_add(1, self.values[torch.from_numpy(near)], weight)
        both = (1 - self.share) * own.exp() + self.share * recalled.view(own.shape).to(own.device)
        return Prediction(both.clamp_min(torch.finfo(both.dtype).tiny).log(), state, auxiliary_loss, diagnostics)
