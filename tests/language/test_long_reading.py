"""What is read is the right length, is never held whole, and is answered only by who remembers its beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.configuration import agent_spec, resolve
from clbench.errors import UserError
from clbench.loading import find_runs
from clbench.reproductions import claim
from clbench.runs import Request
from clbench.task_streams.language import long_reading as long_reading_module
from clbench.task_streams.language.distance import generator
from clbench.task_streams.language.generation import Examples
from clbench.task_streams.language.long_reading import OPTIONS, SEGMENT, Reading, Readings, learned, long_reading, read, text
from clbench.task_streams.language.vocabulary import ANS, BOS, SYMBOLS, vocabulary


class Scripted:
    """Keeps the four tokens behind <fact> and counts what it reads.

    `forgets`: what it keeps is gone after as many tokens. `tires`: seconds that a window takes behind as many tokens, none before. Its
    clock is its own: a window takes a thousandth of a second.
    """

    def __init__(self, forgets: int = 10**9, tires: tuple[int, float] = (0, 0.0)) -> None:
        self.forgets, self.tires, self.longest, self.read, self.calls, self.now = forgets, tires, 0, 0, 0, 0.0

    def initial_state(self, batch: int) -> Any:
        return None

    def logits(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        if state is None:
            assert (tokens[:, :2] == [BOS, vocabulary().id("<fact>")]).all()
            state = tokens[:, 2:6], 0
        kept, read = state[0], state[1] + tokens.shape[1]
        self.longest, self.read, self.calls = max(self.longest, tokens.shape[1]), read, self.calls + 1
        self.now += 0.001 + (self.tires[1] if read > self.tires[0] else 0.0)
        logits = np.zeros((*tokens.shape, vocabulary().size), dtype=np.float32)
        if tokens[0, 0] == ANS and read <= self.forgets:
            np.put_along_axis(logits, kept[:, :, None], 1.0, axis=2)
        return logits, (kept, read)


@pytest.mark.parametrize("tokens", [32, 1024, 1056, 5024])
def test_who_remembers_the_first_tokens_answers_at_any_length(tokens: int) -> None:
    reader = Scripted()
    assert read(reader, tokens)[0] == 1.0
    assert reader.read == tokens - 1 + 4  # a predictor's own first token is not handed over
    assert reader.longest <= 1024


def test_the_pace_is_that_of_a_window_far_on_beside_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    def pace(reader: Scripted, tokens: int) -> float:
        monkeypatch.setattr(long_reading_module.time, "perf_counter", lambda: reader.now)
        return read(reader, tokens)[2]

    assert pace(Scripted(), 512) == 1.0  # no second window
    reader = Scripted()
    assert pace(reader, 20 * 1024) == pytest.approx(1.0)
    assert reader.calls == 20 + 3 + 1  # the windows, the second again with numbers 1, 9 and 17, the question
    assert pace(Scripted(tires=(5 * 1024, 0.02)), 64 * 1024) == pytest.approx(21.0)


def test_who_forgets_guesses() -> None:
    assert read(Scripted(forgets=2000), 3200, lanes=500)[0] == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("tokens", [0, 31, 1000])
def test_lengths_are_whole_segments(tokens: int) -> None:
    with pytest.raises(UserError, match=f"whole segments of 32 tokens, got {tokens}"):
        text(tokens, 1, seed=0)


@pytest.mark.parametrize("gap", [0, 1, 31, 40])
def test_a_text_is_laid_out_as_those_of_training(gap: int) -> None:
    """The fact stands where it stood, the question begins a segment, and windows end with one (a predictor's own token is the first)."""
    _, windows = text((gap + 1) * SEGMENT, 3, seed=0)
    sizes = [window.shape[1] for window in windows]
    assert all(size % SEGMENT == (SEGMENT - 1 if n == 0 else 0) for n, size in enumerate(sizes))
    tokens, _, _ = Examples(generator("memorize", gap, SEGMENT), "test", 0, None).examples(np.arange(3))
    marked = (tokens == vocabulary().id("<fact>")).argmax(axis=1)
    assert (marked == 1).all()
    assert ((tokens == ANS).argmax(axis=1) == sum(sizes)).all()


def test_texts_differ_by_lane_and_seed_and_come_again() -> None:
    answer, windows = text(2048, 4, seed=1)
    read = np.concatenate(list(windows), axis=1)
    again, other = np.concatenate(list(text(2048, 4, seed=1)[1]), axis=1), np.concatenate(list(text(2048, 4, seed=2)[1]), axis=1)
    assert read.shape == (4, 2047)
    assert (read == again).all()
    assert (read[:, 2:6] == answer).all()
    assert np.mean(read[0] == read[1]) < 0.2
    assert np.mean(read == other) < 0.2
    noise = read[:, 6:]
    assert noise.min() == SYMBOLS.start
    assert noise.max() == SYMBOLS.start + 9
    assert np.mean(noise[:, :900] == noise[:, 1024 : 1024 + 900]) < 0.15  # windows are no copies of one another


SMALL = ["stream=memorize", "stream.trained=[0,1]", "stream.units=[32,32]", "stream.probed=[]", "stream.mixed=true"]
SMALL += [f"stream.segment={SEGMENT}", "stream.test_examples=8", "agent=random"]


def test_a_recurrent_memory_reads_on(tmp_path: Path) -> None:
    stream = resolve(SMALL).request.stream
    clbench.run("rmt", stream, seed=3, results_dir=tmp_path, options=OPTIONS)  # one run is there already
    heard: list[str] = []
    found = long_reading((64, 640), stream=stream, seeds=(3, 4), results_dir=tmp_path, say=heard.append)
    assert [line.partition(":")[0] for line in heard] == [f"seed {seed}, {tokens} tokens" for seed in (3, 4) for tokens in (64, 640)]
    assert found.trained_segments == 2
    assert len(find_runs(tmp_path)) == 2
    assert long_reading((64,), stream=stream, seeds=(3, 4), results_dir=tmp_path).rows[0].accuracy == found.rows[0].accuracy
    assert [row.tokens for row in found.rows] == [64, 640]
    assert all(len(row.accuracy) == 2 and min(row.accuracy) >= 0 and max(row.accuracy) <= 1 for row in found.rows)
    assert all(row.peak_megabytes > 50 and min(row.tokens_per_second, row.pace) > 0 for row in found.rows)
    headings = [str(column.header) for column in found.table().columns]
    assert headings == ["tokens", "segments", "accuracy", "by seed", "peak MB", "tokens/s", "pace"]


@pytest.mark.parametrize(
    ("later", "fulfilled"),
    [((1040.0, 0.95), True), ((1051.0, 1.0), False), ((1000.0, 0.89), False), ((900.0, 1.09), True), ((900.0, 1.12), False)],
)
def test_memory_and_pace_must_stay_what_they_were(later: tuple[float, float], fulfilled: bool) -> None:
    peak, pace = later
    rows = (Reading(20_000, (1.0,), 1000.0, 100.0, 1.0), Reading(2_000_000, (0.1,), peak, 50.0, pace))
    assert Readings(rows, trained_segments=4).fulfilled is fulfilled


def test_the_agents_that_read_are_those_of_the_claim() -> None:
    agent, stream = agent_spec("rmt", OPTIONS, "auto"), learned()
    wanted = [request.run_key for request in claim("reproduce/rmt-far").requests["long-first-gap"]]
    assert [Request(agent, stream, seed).run_key for seed in (3, 4, 5)] == wanted
