"""Shared by all tests: one thread, a cache of their own, the strangers' agents and the tiny models importable."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

for _name in ("strangers", "tiny_models"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).parent / f"{_name}.py")
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])

settings.register_profile("clbench", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test asks how fast a machine is
settings.load_profile("clbench")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def toy():
    """The toy stream of demonstrations, small."""
    from clbench.task_streams.toy import toy_stream

    return toy_stream(name="toy", version=1, budget="smoke")
