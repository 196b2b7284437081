from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from clbench.agents.backbones.backbone import Backbone


@pytest.fixture(autouse=True)
def _one_thread_and_own_generator() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def build() -> Callable[..., Backbone]:
    """Builds a backbone in double precision whose every parameter is drawn anew, so that no zero or one hides a term."""

    def built(kind: type[Backbone], input_size: int = 5, **options: int | bool) -> Backbone:
        module = kind(input_size, **options).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.4)
        return module

    return built
