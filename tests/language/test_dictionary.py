"""Definitions and questions: answers derived again from the tokens alone, places against the segments a model cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.language import dictionary
from clbench.task_streams.language.curricula import dictionary_stream
from clbench.task_streams.language.generation import Examples
from clbench.task_streams.language.vocabulary import ANS, EOS, KEY, QUERY, SEP

LOOKUP: Mapping[str, Any] = {"local": 0.0, "far": False, "definitions": 8, "questions": 8}
RECALL: Mapping[str, Any] = {"local": 0.5, "far": False, "definitions": 6, "questions": 6}
CASES = [(1, LOOKUP), (4, LOOKUP), (3, RECALL), (3, {**RECALL, "far": True}), (2, {**RECALL, "definitions": 3, "questions": 5})]


def examples(
    segments: int, options: Mapping[str, Any], rows: int = 64, seed: int = 3, split: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as a learner's network reads them, with a token of the learner's in front (-1), and the loss mask moved alike."""
    source = Examples(dictionary.generator(segments, **options), split, 3, None)
    tokens, mask, _ = source.examples(np.arange(rows))
    front = np.full((rows, 1), -1)
    return np.concatenate([front, tokens], axis=1), np.concatenate([front < -1, mask], axis=1)


@pytest.mark.parametrize(("segments", "options"), CASES)
def test_every_answer_is_what_was_defined_before(segments: int, options: Mapping[str, Any]) -> None:
    tokens, mask = examples(segments, options)
    for row, scored in zip(tokens.tolist(), mask, strict=True):
        defined: dict[int, int] = {}
        asked = []
        for place, token in enumerate(row):
            if token == KEY:
                assert row[place + 1] not in defined
                defined[row[place + 1]] = row[place + 2]
            if token == QUERY:
                assert defined[row[place + 1]] == row[place + 2]
                asked.append(place + 2)
        assert row[int(np.flatnonzero(scored)[-1])] == EOS
        expected = asked if not options["far"] else asked[-options["questions"] :]
        assert np.flatnonzero(scored)[:-1].tolist() == expected


@pytest.mark.parametrize(("segments", "options"), CASES)
def test_no_segment_is_torn(segments: int, options: Mapping[str, Any]) -> None:
    """Cut every `segment` tokens, each piece holds its definitions, or the questions, as a whole."""
    length = dictionary.generator(segments, **options).segment
    tokens, _ = examples(segments, options)
    assert tokens.shape[1] <= (segments + 1) * length
    lookup = options["local"] == 0
    for s in range(segments + 1):
        piece = tokens[:, s * length : (s + 1) * length]
        defines = options["definitions"] if not lookup or s < segments else 0
        asks = options["questions"] if not lookup or s == segments else 0
        assert ((piece == KEY).sum(axis=1) == defines).all()
        assert ((piece == QUERY).sum(axis=1) == asks).all()
        assert (piece[:, -1] != KEY).all() and (piece[:, -2] != KEY).all() and (piece[:, -1] != QUERY).all()
    assert ((tokens == ANS).sum(axis=1) == 1).all()
    assert ((tokens == SEP).sum(axis=1) == tokens.shape[1] - 4 - 3 * ((tokens == KEY) | (tokens == QUERY)).sum(axis=1)).all()


def test_half_of_the_questions_are_about_the_own_segment_and_far_ones_are_not() -> None:
    for far, low, high in ((False, 0.4, 0.6), (True, 0.0, 0.0)):
        options = {**RECALL, "far": far}
        length = dictionary.generator(3, **options).segment
        tokens, _ = examples(3, options, rows=300)
        last = tokens[:, 3 * length :]
        own = [
            sum(key in row[np.flatnonzero(row == KEY) + 1] for key in row[np.flatnonzero(row == QUERY) + 1]) / RECALL["questions"]
            for row in last
        ]
        assert low <= np.mean(own) <= high


def test_documents_of_one_batch_share_no_key() -> None:
    """256 keys are enough for 32 documents of 8: training examples 0 to 31 and 32 to 63."""
    tokens, _ = examples(1, LOOKUP, rows=64, split="train")
    keys = [set(row[np.flatnonzero(row == KEY) + 1].tolist()) for row in tokens]
    for first in (0, 32):
        assert len(set.union(*keys[first : first + 32])) == 256
    assert keys[:32] != keys[32:]


def test_the_floor_is_the_commonest_value_where_few_are_shown() -> None:
    """Eight values of sixteen: the commonest is there 2.0 times on average over draws, so that it answers a quarter."""
    assert dictionary.floor(dictionary.generator(1, **LOOKUP)) == pytest.approx(0.25, abs=0.03)
    assert dictionary.floor(dictionary.generator(32, **LOOKUP)) < 0.13


def test_examples_are_what_they_were() -> None:
    """A change here is a new version of the streams."""
    text = b"".join(examples(segments, options, rows=20)[0].astype("<i8").tobytes() for segments, options in CASES)
    assert hashlib.sha256(text).hexdigest()[:16] == "41eef79fa08fa518"


def test_probes_are_columns_only_and_ask_about_earlier_segments() -> None:
    made = dictionary_stream(
        name="d", version=1, budget="smoke", trained=[3], probed=[3, 7], local=0.5, definitions=6, questions=6, units=[64]
    )
    assert [task.name for task in made.tasks] == ["recall-3", "recall-3-far", "recall-7-far"]
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64)]
    made = dictionary_stream(name="d", version=1, budget="smoke", trained=[1, 2], probed=[2, 4], units=[64, 32])
    assert [task.name for task in made.tasks] == ["lookup-1", "lookup-2", "lookup-4"]
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64), ((1,), 32)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trained": [0]}, "segments, definitions and questions must be at least 1 and local in .0, 1., got 0, 8, 8, 0.0"),
        ({"local": 1.0}, "local in .0, 1., got 1, 8, 8, 1.0"),
        ({"probed": [40]}, "40 segments define 320 keys, and there are 256; take fewer"),
        ({"trained": []}, "expected at least one number of segments in trained, got none"),
        ({"units": [1, 2]}, "expected units for 1 phases, got 2"),
        ({"test_examples": 0}, "test_examples must be > 0, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dictionary_stream(**({"name": "d", "version": 1, "budget": "smoke", "units": [320]} | options))
