"""Shared by all tests: one thread, a cache of their own, the strangers' agents importable."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

_spec = importlib.util.spec_from_file_location("strangers", Path(__file__).parent / "strangers.py")
sys.modules["strangers"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["strangers"])


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def toy():
    """The toy stream of demonstrations, small."""
    from clbench.task_streams.toy import toy_stream

    return toy_stream(name="toy", version=1, budget="smoke")
