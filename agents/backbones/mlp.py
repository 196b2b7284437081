"""A multilayer perceptron on each time step alone: the backbone without a memory.

The hidden layers of the Continual World baselines (Wolczyk et al. 2021, arXiv:2105.10919, and their code):
layer norm and tanh behind the first layer, leaky ReLU behind the others. Their default is four layers of 256.
With `norm_all` a layer norm stands behind every layer, as critics want it that learn from few updates (Nauman et al. 2024,
arXiv:2405.16158, section 4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State


class MLP(Backbone):
    """`depth` hidden layers of `width`; the state is empty, so that resets and pads change nothing."""

    def __init__(self, input_size: int, *, width: int = 256, depth: int = 3, layer_norm: bool = True, norm_all: bool = False) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise UserError(f"mlp: width and depth must be at least 1, got {width} and {depth}")
        self.input_size, self.output_size = input_size, width
        self.spec = MemorySpec(kind="none", width=width, layers=depth, segment_length=0, capacity=0)
        if norm_all and not layer_norm:
            raise UserError("mlp: norm_all=true needs layer_norm=true")
        norms = [True, *[norm_all] * (depth - 1)] if layer_norm else [False] * depth
        layers: list[nn.Module] = []
        for number, normed in enumerate(norms):
            layers += [nn.Linear(width if number else input_size, width), *([nn.LayerNorm(width)] if normed else [])]
            layers.append(nn.Tanh() if number == 0 and layer_norm else nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        return {}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        return Output(self.layers(x), state, x.new_zeros(()))
