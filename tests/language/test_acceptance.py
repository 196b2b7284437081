"""What a stream must show to be called standard: learnable alone, not without a memory, forgotten in turn (spec language.md 2.10).

Minutes of a core each; `pytest -m slow -s tests/language/test_acceptance.py` prints the figures.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clbench import configuration

pytestmark = pytest.mark.slow

SEED = 0
NO_MEMORY = {  # two layers reach twice as far: in world-qa the statement before, in needles the question, in taxi-text the step told now
    "world-qa": "agent.text.backbone.context=2",
    "needles": "agent.text.backbone.context=2",
    "taxi-text": "agent.text.backbone.context=4",
}
Curve = list[tuple[int, float]]


def curves(folder: Path, *options: str) -> dict[str, Curve]:
    """By task its scores in order, with the phase that each was taken in, of one run."""
    words = [sys.executable, "-m", "clbench", "run", "budget=smoke", f"seed={SEED}", f"results_dir={folder}", *options]
    subprocess.run(words, check=True, capture_output=True, text=True)
    (evals,) = folder.rglob("evals.csv")
    found: dict[str, Curve] = {}
    with open(evals, newline="") as handle:
        for row in csv.DictReader(handle):
            found.setdefault(row["task_id"], []).append((int(row["phase"]), float(row["score"])))
    return found


STREAMS = ["know", "world-qa", "lm", "needles", "taxi-text", "comp-alphabets"]


@pytest.mark.parametrize("stream", STREAMS)
def test_each_task_is_learned_alone(stream: str, tmp_path: Path) -> None:
    made, alone = configuration.stream_named(stream, "smoke", {}), {}
    for number in (columns[0] for columns in made.trained):
        task = made.tasks[number].name
        found = curves(tmp_path / str(number), f"stream={stream}", "agent=fine-tuning", f"stream.only={number}")
        alone[task] = found[task][-1][1]
    print(f"\n{stream}, alone: {alone}")
    assert min(alone.values()) >= 0.8


@pytest.mark.parametrize("stream", STREAMS)
def test_fine_tuning_forgets_and_nothing_is_known_beforehand(stream: str, tmp_path: Path) -> None:
    found = curves(tmp_path, f"stream={stream}", "agent=fine-tuning")
    made, lost = configuration.stream_named(stream, "smoke", {}), {}
    for phase, columns in enumerate(made.trained):
        task = made.tasks[columns[0]].name
        curve = found[task]
        own = [score for at, score in curve if at == phase][-1]
        lost[task] = own - curve[-1][1]
        if stream == "know":  # news is not known before it is published
            assert max(score for at, score in curve if at < phase) <= 0.2
    print(f"\n{stream}, forgotten: {lost}")
    assert np.mean([each >= 0.2 for each in list(lost.values())]) >= 0.5


@pytest.mark.parametrize("stream", NO_MEMORY)
def test_without_a_memory_nothing_is_learned(stream: str, tmp_path: Path) -> None:
    found = curves(tmp_path, f"stream={stream}", "agent=transformer", NO_MEMORY[stream])
    best = {task: max(score for _, score in curve) for task, curve in found.items()}
    print(f"\n{stream}, no memory: {best}")
    assert max(best.values()) <= 0.2
