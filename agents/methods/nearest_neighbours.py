"""A language model that looks its next token up among the tokens it has seen: kNN-LM.

Khandelwal et al. 2020, arXiv:1911.00172, equations 2 and 3: p(y) = share * sum of exp(-d(h, k) / temperature) over the nearest stored keys
k whose value is y, plus (1 - share) times what the network says. Keys are the network's last hidden states before tokens that were to be
predicted, values these tokens (`kept_states`, with what differs there). Departure: the key is the backbone's output, not the input of its
last feed-forward layer. Shape letters: m positions, K neighbours, V vocabulary, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from clbench.errors import UserError
from clbench.interfaces import TaskInfo

from ..learners.language_modelling import TokenModel
from .kept_states import KeptStates, LookingUp

_ASKED_AT_ONCE = 1 << 14  # positions; each has K rows of the answer


class NearestNeighbours(KeptStates):
    """Keeps `capacity` examples; a policy reads their keys, and at each token looks up `neighbours` of them."""

    name = "knn"

    def __init__(self, seed: int, *, capacity: int = 5000, neighbours: int = 32, temperature: float = 10.0, share: float = 0.5) -> None:
        if neighbours < 1 or temperature <= 0 or not 0 <= share < 1:
            raise UserError(
                f"knn: neighbours must be at least 1, temperature > 0 and share in [0, 1), got {neighbours}, {temperature} and {share}"
            )
        super().__init__(seed, capacity)
        self.neighbours, self.temperature, self.share = neighbours, temperature, share

    def view(self, networks: nn.Module, task: TaskInfo) -> nn.Module:
        return super().view(networks, task) if self.share else networks

    def looking_up(self, networks: TokenModel, states: np.ndarray, tokens: np.ndarray) -> nn.Module:
        return Recalling(networks, states, tokens, neighbours=self.neighbours, temperature=self.temperature, share=self.share)


class Recalling(LookingUp):
    """Its logits are logarithms of what the network and the neighbours of its hidden states say together."""

    def __init__(
        self, networks: TokenModel, states: np.ndarray, tokens: np.ndarray, *, neighbours: int, temperature: float, share: float
    ) -> None:
        super().__init__(networks, states, tokens, neighbours=neighbours, at_once=_ASKED_AT_ONCE)
        self.temperature, self.share = temperature, share

    def scores(self, hidden: Tensor, distance: Tensor, near: Tensor) -> Tensor:
        own = self.networks.scores(hidden).float().softmax(-1)  # (m, V)
        weight = (-distance / self.temperature).softmax(-1)  # (m, K)
        recalled = torch.zeros_like(own).scatter_add(1, self.tokens.to(own.device)[near], weight)
        both = (1 - self.share) * own + self.share * recalled
        return both.clamp_min(torch.finfo(both.dtype).tiny).log()
