"""A language model that adapts to each question before it answers: memory-based parameter adaptation.

Sprechmann et al. 2018, arXiv:1802.10542, section 3.1 and appendix: the parameters of the output network move by

    d theta = -rate * grad( - sum_k w_k log p(v_k | h_k; theta) ) - rate * decay * (theta - theta_0)

for `steps` steps on the K nearest remembered states h_k and the tokens v_k that followed them, answer, and are forgotten. The weights w_k
are those of the kernel 1 / (epsilon + distance), or alike (`weighted` false) as in d'Autume et al. 2019, arXiv:1906.01076, section 3.2.
The output network is the head, which is linear, so that the steps are made exactly and for many positions at once: a moved head is
W_0 - sum_k a_k h_k^T, and only the coefficients a (K, V) are kept. Departures: it adapts at each token and not once for each text, as where
an answer begins is not told; the head alone adapts, where d'Autume et al. adapt all of BERT; examples are kept in a reservoir and their
states are read anew (`kept_states`). Shape letters: m positions, K neighbours, V vocabulary, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from clbench.errors import UserError

from ..learners.language_modelling import TokenModel
from .kept_states import KeptStates, LookingUp

_EPSILON = 1e-3  # of the kernel, as in the paper's code of this family (Pritzel et al. 2017, arXiv:1703.01988, equation 5)
_NUMBERS_AT_ONCE = 1 << 23  # coefficients, 32 MiB


class LocalAdaptation(KeptStates):
    """Keeps `capacity` examples; a policy moves its head on `neighbours` of their states for each token, `steps` times at `rate`.

    The rate was chosen on the validation history of `know` (one agent, nine settings): .005 brings back .14 of the first phase's facts and
    costs .15 and .05 of the others'; from .01 on the newest facts are lost.
    """

    name = "mbpa"

    def __init__(
        self,
        seed: int,
        *,
        capacity: int = 5000,
        neighbours: int = 16,
        steps: int = 10,
        rate: float = 0.005,
        decay: float = 0.01,
        weighted: bool = True,
    ) -> None:
        if neighbours < 1 or steps < 1 or rate <= 0 or decay < 0:
            raise UserError(
                "mbpa: neighbours and steps must be at least 1, rate > 0 and decay at least 0, "
                f"got {neighbours}, {steps}, {rate} and {decay}"
            )
        super().__init__(seed, capacity)
        self.neighbours, self.steps, self.rate, self.decay, self.weighted = neighbours, steps, rate, decay, weighted

    def looking_up(self, networks: TokenModel, states: np.ndarray, tokens: np.ndarray) -> nn.Module:
        return Adapting(
            networks,
            states,
            tokens,
            neighbours=self.neighbours,
            steps=self.steps,
            rate=self.rate,
            decay=self.decay,
            weighted=self.weighted,
        )


class Adapting(LookingUp):
    """Its logits are those of a head of its own for each position."""

    def __init__(
        self,
        networks: TokenModel,
        states: np.ndarray,
        tokens: np.ndarray,
        *,
        neighbours: int,
        steps: int,
        rate: float,
        decay: float,
        weighted: bool,
    ) -> None:
        at_once = max(1, _NUMBERS_AT_ONCE // (min(neighbours, len(tokens)) * networks.vocabulary))
        super().__init__(networks, states, tokens, neighbours=neighbours, at_once=at_once)
        self.steps, self.rate, self.decay, self.weighted = steps, rate, decay, weighted
        self.states = torch.from_numpy(states)
        self.has_bias = networks.head is not None and networks.head.bias is not None

    def scores(self, hidden: Tensor, distance: Tensor, near: Tensor) -> Tensor:
        states = self.states.to(hidden.device)[near].to(hidden.dtype)  # (m, K, D)
        wanted = self.tokens.to(hidden.device)[near][..., None]  # (m, K, 1)
        base, own = self.networks.scores(states), self.networks.scores(hidden)  # (m, K, V), (m, V)
        bias = 1.0 if self.has_bias else 0.0  # which is a weight of an input that is always 1
        alike = states @ states.transpose(1, 2) + bias  # (m, K, K)
        weight = (1 / (_EPSILON + distance)).to(base.dtype) if self.weighted else torch.ones_like(distance, dtype=base.dtype)
        weight = (weight / weight.sum(1, keepdim=True))[..., None]  # (m, K, 1)
        moved = torch.zeros_like(base)  # a: of all that the head was moved by, the part along each remembered state
        for _ in range(self.steps):
            error = (base - alike @ moved).softmax(-1)
            error = error.scatter_add(2, wanted, error.new_full(wanted.shape, -1.0))  # p - one-hot
            moved = (1 - self.rate * self.decay) * moved + self.rate * weight * error
        near_by = states @ hidden[:, :, None] + bias  # (m, K, 1)
        return own - (near_by * moved).sum(1)
