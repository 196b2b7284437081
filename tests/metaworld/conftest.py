"""Meta-World tests: a cache of their own for the whole session, and no worker process left behind."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get("CLBENCH_CACHE")
    os.environ["CLBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["CLBENCH_CACHE"]
    else:
        os.environ["CLBENCH_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def no_workers_afterwards():
    yield
    from clbench.task_streams.metaworld.simulation import close_workers

    close_workers()
