"""Private randomness for torch: initialisation and dropout draw from the global generators, and these are put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Randomness:
    """The states that torch's global generators have within `lent()`: they go on there where they stopped, and nobody outside sees it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self.states = [torch.Generator(generator.device).manual_seed(seed).get_state() for generator in self._generators()]

    def _generators(self) -> list[torch.Generator]:
        if self._device.type != "cuda":
            return [torch.default_generator]
        torch.cuda.init()
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        return [torch.default_generator, torch.cuda.default_generators[index]]

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within it, torch's global generators are ours."""
        generators = self._generators()
        outside: list[Tensor] = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, self.states, strict=True):
            generator.set_state(state)
        try:
            yield
        finally:
            self.states = [generator.get_state() for generator in generators]
            for generator, state in zip(generators, outside, strict=True):
                generator.set_state(state)
