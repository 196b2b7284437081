"""What is read is the right length, is never held whole, and is answered only by who remembers its beginning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clbench.task_streams.language.long_reading import Reading, Readings, accuracy, long_reading, text
from clbench.task_streams.language.vocabulary import ANS, BOS, SYMBOLS, vocabulary


class Scripted:
    """Keeps the four tokens behind <fact> and counts what it reads; `forgets`: what it keeps is gone after as many tokens."""

    def __init__(self, forgets: int = 10**9) -> None:
        self.forgets, self.longest, self.read = forgets, 0, 0

    def initial_state(self, batch: int) -> Any:
        self.read = 0
        return None

    def logits(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        if state is None:
            assert (tokens[:, :2] == [BOS, vocabulary().id("<fact>")]).all()
            state = tokens[:, 2:6]
        self.longest, self.read = max(self.longest, tokens.shape[1]), self.read + tokens.shape[1]
        logits = np.zeros((*tokens.shape, vocabulary().size), dtype=np.float32)
        if tokens[0, 0] == ANS and self.read <= self.forgets:
            np.put_along_axis(logits, state[:, :, None], 1.0, axis=2)
        return logits, state


@pytest.mark.parametrize("tokens", [6, 1024, 1025, 5000])
def test_who_remembers_the_first_tokens_answers_at_any_length(tokens: int) -> None:
    reader = Scripted()
    assert accuracy(reader, tokens) == 1.0
    assert reader.read == tokens + 4
    assert reader.longest <= 1024


def test_who_forgets_guesses() -> None:
    assert accuracy(Scripted(forgets=2000), 3000, lanes=500) == pytest.approx(0.1, abs=0.03)


def test_texts_differ_by_lane_and_seed_and_come_again() -> None:
    answer, windows = text(2000, 4, seed=1)
    read = np.concatenate(list(windows), axis=1)
    again, other = np.concatenate(list(text(2000, 4, seed=1)[1]), axis=1), np.concatenate(list(text(2000, 4, seed=2)[1]), axis=1)
    assert read.shape == (4, 2000)
    assert (read == again).all()
    assert (read[:, 2:6] == answer).all()
    assert np.mean(read[0] == read[1]) < 0.2
    assert np.mean(read == other) < 0.2
    noise = read[:, 6:]
    assert noise.min() == SYMBOLS.start
    assert noise.max() == SYMBOLS.start + 9
    assert np.mean(noise[:, :900] == noise[:, 1024 : 1024 + 900]) < 0.15  # windows are no copies of one another


def test_a_recurrent_memory_reads_on() -> None:
    found = long_reading((64, 640), trained=(0,), units=(64,))
    assert [row.tokens for row in found.rows] == [64, 640]
    assert all(0 <= row.accuracy <= 1 and row.peak_megabytes > 50 and row.tokens_per_second > 0 for row in found.rows)
    assert [str(column.header) for column in found.table().columns] == ["tokens", "segments", "accuracy", "peak MB", "tokens/s"]


@pytest.mark.parametrize(
    ("later", "fulfilled"),
    [((1040.0, 95.0), True), ((1051.0, 100.0), False), ((1000.0, 89.0), False), ((900.0, 109.0), True), ((900.0, 112.0), False)],
)
def test_memory_and_speed_must_stay_what_they_were(later: tuple[float, float], fulfilled: bool) -> None:
    rows = (Reading(20_000, 1.0, 1000.0, 100.0), Reading(2_000_000, 0.1, *later))
    assert Readings(rows, trained_segments=4).fulfilled is fulfilled
