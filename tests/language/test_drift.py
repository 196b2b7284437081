"""Sorting under drift: answers counted again from the tokens alone, the law, its levels, and the stream."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from clbench.configuration import stream_named
from clbench.errors import UserError
from clbench.task_streams.language import drift
from clbench.task_streams.language.algorithms import counts, from_bag
from clbench.task_streams.language.curricula import drift_stream
from clbench.task_streams.language.generation import Draft, Examples, drafts
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS, SYMBOLS

CASES = [(8, 512), (8, 64), (20, 1000)]


def examples(symbols: int, length: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask, _ = Examples(drift.generator(length, symbols), "test", 3, None).examples(np.arange(rows))
    return tokens, mask


@pytest.mark.parametrize(("symbols", "length"), CASES)
def test_the_answer_lists_all_symbols_as_often_as_they_come(symbols: int, length: int) -> None:
    """`Counter.most_common` keeps ties in order of first appearance, as in the authors' script; what is absent comes last, by id."""
    tokens, mask = examples(symbols, length)
    for row, scored in zip(tokens.tolist(), mask, strict=True):
        assert (row[0], row[length + 1], row[-1]) == (BOS, ANS, EOS)
        text, answer = row[1 : length + 1], row[length + 2 : -1]
        found = Counter(text).most_common()
        absent = [symbol for symbol in range(SYMBOLS.start, SYMBOLS.start + symbols) if symbol not in text]
        assert answer == [symbol for symbol, _ in found] + absent
        assert np.flatnonzero(scored).tolist() == list(range(length + 2, len(row)))
        if symbols <= 8:
            assert len({text.count(symbol) for symbol in answer}) == symbols  # no ties


def test_the_distribution_drifts_from_one_law_to_another() -> None:
    """The first and the last 64 of 512 tokens differ by more than two draws from one law would, and the middle lies between them."""
    draft = drafts(drift.generator(512, 8), "test", 0, np.arange(400))
    legal = np.arange(SYMBOLS.start, SYMBOLS.start + 8)
    share = (draft.prompt[:, :, None] == legal).reshape(400, 8, 64, 8).mean(axis=2)  # (R, parts, symbols)
    distance = np.abs(share[:, :1] - share).sum(axis=2).mean(axis=0) / 2  # total variation from the first part
    assert distance[7] > 0.25 > 0.2 > distance[1]
    assert (np.diff(distance[1:]) > 0).all()


def seen_last(draft: Draft, tokens: int) -> tuple[float, float]:
    """What counting the last tokens scores: behind the right list so far, and blindly."""
    legal = np.arange(SYMBOLS.start, SYMBOLS.start + 8)
    every = np.repeat(counts(legal[None]), len(draft.prompt), axis=0)
    recent = counts(draft.prompt[:, -tokens:])
    listed = legal[np.argsort(-recent[:, legal], axis=1, kind="stable")]
    return from_bag(recent + 0.5 * every, draft.answer, once=True).mean(), (listed == draft.answer).mean()


def test_levels_of_windows_are_those_that_are_written_down() -> None:
    draft = drafts(drift.generator(512, 8), "validation", 1000, np.arange(600))
    assert seen_last(draft, 64) == pytest.approx((0.52, 0.26), abs=0.015)
    assert seen_last(draft, 128) == pytest.approx((0.57, 0.31), abs=0.015)
    assert seen_last(draft, 512) == (1, 1)
    assert drift.floor(drift.generator(512, 8)) == pytest.approx(seen_last(draft, 128)[0], abs=0.02)  # the last quarter


def test_examples_are_what_they_were() -> None:
    """A change here is a new version of the stream."""
    text = b"".join(examples(*case, rows=20)[0].astype("<i8").tobytes() for case in CASES)
    assert hashlib.sha256(text).hexdigest()[:16] == "d0a0494f04276804"


def test_trained_lengths_are_phases_in_order_and_probed_ones_columns_only() -> None:
    made = drift_stream(name="d", version=1, budget="smoke", trained=[512, 128], probed=[128, 256], units=[64, 32])
    assert [task.name for task in made.tasks] == ["drift-512", "drift-128", "drift-256"]
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64), ((1,), 32)]
    assert all(task.scale[0] < 0.6 for task in made.tasks)


def test_the_stream_of_the_smallest_budget_is_that_of_the_pilot() -> None:
    made = stream_named("drift", "smoke", {})
    assert [task.name for task in made.tasks] == ["drift-512", "drift-256", "drift-1024"]
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 1200 * 64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": 1}, "drift: symbols must be 2 to 64, got 1"),
        ({"trained": [63]}, "a text must have at least symbols² = 64 tokens, got 63"),
        ({"trained": []}, "expected at least one length in trained, got none"),
        ({"units": [1, 2]}, "expected units for 1 phases, got 2"),
        ({"test_examples": 0}, "test_examples must be > 0, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drift_stream(**({"name": "d", "version": 1, "budget": "smoke", "units": [320]} | options))  # type: ignore[arg-type]
