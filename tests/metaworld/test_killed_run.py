"""The real command on the real simulator, killed and typed again: the events are those of a run that nobody touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from clbench import seeding
from clbench.store import determined, read_events

KILLS = 10
WORDS = ["stream=mw3-demo", "agent=replay", "seed=7", "stream.demonstrations=20", "stream.units=51200", "stream.episodes=10"]


def run(results, cache, seconds=None):
    """One try at the command; whether it came to its end before `seconds` were over and it was killed."""
    command = [sys.executable, "-m", "clbench", "run", *WORDS, f"results_dir={results}", "--quiet"]
    try:
        subprocess.run(command, env={**os.environ, "CLBENCH_CACHE": str(cache)}, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:  # run() has killed it by then, with SIGKILL
        return False
    return True


def events_of(results):
    (log,) = results.rglob("events.jsonl")
    return determined(read_events(log))


@pytest.mark.slow
def test_a_meta_world_run_killed_at_ten_random_moments_has_the_events_of_an_uninterrupted_one(tmp_path):
    begin = time.monotonic()
    assert run(tmp_path / "whole", tmp_path / "cache")
    whole = time.monotonic() - begin
    draws = seeding.generator(int(os.environ.get("CLBENCH_TEST_SEED", "0")), "kills")
    killed, kills = tmp_path / "killed", 0
    while kills < KILLS:
        if run(killed, tmp_path / "cache", float(draws.uniform(0.2, 1.0)) * whole):
            next(killed.rglob("DONE")).unlink()  # it got through too soon: as if killed just before the end
        else:
            kills += 1
    assert run(killed, tmp_path / "cache")
    assert events_of(killed) == events_of(tmp_path / "whole")
    assert next(killed.rglob("evals.csv")).read_text() == next((tmp_path / "whole").rglob("evals.csv")).read_text()
