"""Keys bound again: answers derived from the tokens alone, and what a memory that only adds can know."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.language import overwrite
from clbench.task_streams.language.curricula import overwrite_stream
from clbench.task_streams.language.generation import Examples
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS

SIZES = {"keys": 12, "again": 6, "values": 12}
ASKED = {"overwrite": 12, "overwrite-again": 6, "overwrite-kept": 6}


def examples(name: str, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask, _ = Examples(overwrite.generator(name, **SIZES), "test", 3, None).examples(np.arange(rows))
    return tokens, mask


def parts(row: list[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Bindings of the prompt and of the answer."""
    ask, end = row.index(ANS), row.index(EOS)
    assert row[0] == BOS
    prompt, answer = row[1:ask], row[ask + 1 : end]
    return list(zip(prompt[::2], prompt[1::2], strict=True)), list(zip(answer[::2], answer[1::2], strict=True))


@pytest.mark.parametrize("name", ASKED)
def test_each_key_asked_stands_for_its_last_value(name: str) -> None:
    tokens, mask = examples(name)
    for row, scored in zip(tokens.tolist(), mask, strict=True):
        bound, asked = parts(row)
        latest = dict(bound)
        assert asked == [(key, latest[key]) for key, _ in asked]
        assert len({key for key, _ in asked}) == len(asked) == ASKED[name]
        ask = row.index(ANS)
        assert np.flatnonzero(scored).tolist() == [*range(ask + 2, ask + 2 + 2 * len(asked), 2), ask + 1 + 2 * len(asked)]  # and <eos>


@pytest.mark.parametrize(("name", "times"), [("overwrite-again", {2}), ("overwrite-kept", {1}), ("overwrite", {1, 2})])
def test_a_task_asks_for_the_keys_it_is_named_after(name: str, times: set[int]) -> None:
    for row in examples(name)[0].tolist():
        bound, asked = parts(row)
        count = Counter(key for key, _ in bound)
        assert sorted(count.values()) == [1] * 6 + [2] * 6
        assert {count[key] for key, _ in asked} == times


def test_neither_end_of_a_text_shows_which_binding_is_the_last() -> None:
    tokens, _ = examples("overwrite")
    places = []
    for row in tokens.tolist():
        keys = [key for key, _ in parts(row)[0]]
        count = Counter(keys)
        places += [place for place, key in enumerate(keys) if count[key] == 2]
    assert set(places) == set(range(2, 16))  # 18 bindings


def test_the_floor_is_the_best_shortcut() -> None:
    floor = {name: overwrite.floor(overwrite.generator(name, **SIZES)) for name in ASKED}
    assert floor["overwrite-again"] == pytest.approx(0.5 + 0.5 / 12, abs=0.02)  # one of two values, the same one in 1 of 12
    assert 1 / 12 < floor["overwrite-kept"] < 0.3
    assert 1 / 12 < floor["overwrite"] < 0.3


def test_examples_are_what_they_were() -> None:
    """A change here is a new version of the stream."""
    text = b"".join(examples(name, rows=20)[0].astype("<i8").tobytes() for name in ASKED)
    assert hashlib.sha256(text).hexdigest()[:16] == "f02fd4ed31122417"


def test_one_task_is_trained_and_two_are_probed() -> None:
    made = overwrite_stream(name="o", version=1, budget="smoke", units=64)
    assert [task.name for task in made.tasks] == list(ASKED)
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"again": 12}, "again must lie between 0 and keys - 4, .* got keys 12, again 12, values 12"),
        ({"again": 8}, "got keys 12, again 8, values 12"),
        ({"again": 0}, "got keys 12, again 0, values 12"),
        ({"values": 1}, "values must be at least 2"),
        ({"keys": 60}, "at most 64 together, got keys 60, again 6, values 12"),
        ({"test_examples": 0}, "test_examples must be > 0, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        overwrite_stream(name="o", version=1, budget="smoke", **options)
