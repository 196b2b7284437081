"""The real command on the real simulator, killed and typed again: the events are those of a run that nobody touched."""

from __future__ import annotations

import os
import sys
import time

import pytest

from ..kills import came_to_its_end, events_of, killed_and_continued

WORDS = ["stream=mw3-demo", "agent=replay", "seed=7", "stream.demonstrations=20", "stream.units=51200", "stream.episodes=10"]


@pytest.mark.slow
def test_a_meta_world_run_killed_at_ten_random_moments_has_the_events_of_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "clbench", "run", *WORDS, "--quiet"]
    env = {**os.environ, "CLBENCH_CACHE": str(tmp_path / "cache")}
    # Loading takes a tenth of the run, and a try keeps what it did up to its last checkpoint: short tries, or the third is through.
    begin = time.monotonic()
    assert came_to_its_end([*command, f"results_dir={whole}"], env=env)
    killed_and_continued([*command, f"results_dir={killed}"], killed, time.monotonic() - begin, earliest=0.1, latest=0.35, env=env)
    assert events_of(killed) == events_of(whole)
    assert next(killed.rglob("evals.csv")).read_text() == next(whole.rglob("evals.csv")).read_text()
