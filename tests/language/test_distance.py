"""The fact behind the noise: answers derived again from the tokens alone, and places checked against the segments a model cuts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.language import distance
from clbench.task_streams.language.curricula import distance_stream
from clbench.task_streams.language.generation import Examples
from clbench.task_streams.language.vocabulary import ANS, vocabulary

SEGMENTS = {"memorize": 8, "detect": 8, "reasoning": 16, "copy": 12, "reverse": 11}
CASES = [(question, gap) for question in SEGMENTS for gap in (0, 1, 4)]
FROZEN = [case for case in CASES if case[0] not in ("copy", "reverse")]
FACT = vocabulary().id("<fact>")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
ROWS = 300


def examples(question: str, gap: int, seed: int = 3, rows: int = ROWS, segment: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as a learner's network reads them, with a token of the learner's in front (-1), and the loss mask moved alike."""
    source = Examples(distance.generator(question, gap, segment or SEGMENTS[question]), "test", seed, None)
    tokens, mask, _ = source.examples(np.arange(rows))
    front = np.full((rows, 1), -1)
    return np.concatenate([front, tokens], axis=1), np.concatenate([front < -1, mask], axis=1)


def answered(question: str, row: list[int]) -> list[int]:
    """What stands behind <ans>, from what stands before it."""
    ask = row.index(ANS)
    facts = [place for place, token in enumerate(row) if token == FACT]
    if question != "reasoning":
        (fact,) = facts
        found = row[fact + 1 : fact + (9 if question in ("copy", "reverse") else 5)]
        return found[::-1] if question == "reverse" else found
    names = [vocabulary().name(token) for token in row[ask + 1 : ask + 3]]  # "bathroom west": what is the bathroom west of?
    said = [[vocabulary().name(token) for token in row[fact + 1 : fact + 4]] for fact in facts]
    (place,) = [subject for subject, direction, centre in said if centre == names[0] and OPPOSITE[direction] == names[1]]
    return [*row[ask + 1 : ask + 3], vocabulary().id(place)]


@pytest.mark.parametrize(("question", "gap"), CASES)
def test_the_answer_follows_from_the_facts(question: str, gap: int) -> None:
    tokens, mask = examples(question, gap)
    for row, scored in zip(tokens.tolist(), mask, strict=True):
        answer = answered(question, row)
        ask = row.index(ANS)
        assert row[ask + 1 : ask + 1 + len(answer)] == answer
        assert np.flatnonzero(scored).tolist() == (
            [ask + 3, ask + 4] if question == "reasoning" else list(range(ask + 1, ask + 2 + len(answer)))
        )


@pytest.mark.parametrize(("question", "gap"), CASES)
def test_question_and_answer_have_a_segment_of_their_own_behind_the_gap(question: str, gap: int) -> None:
    length = SEGMENTS[question]
    tokens, _ = examples(question, gap)
    asked = np.argmax(tokens == ANS, axis=1)
    assert (asked == (gap + 1) * length).all()  # the first token of segment gap + 1; what came in front fills 0..gap
    assert tokens.shape[1] - 1 <= (gap + 2) * length  # the last token is never read, so that the answer fits
    first = np.argmax(tokens == FACT, axis=1) // length
    if question != "detect" and question != "reasoning":
        assert (first == 0).all()
    else:
        assert set(first.tolist()) == set(range(gap + 1))


def test_a_fact_begins_its_segment_and_every_segment_is_as_likely() -> None:
    tokens, _ = examples("detect", 3, rows=2000)
    place = np.argmax(tokens == FACT, axis=1)
    assert set(place.tolist()) == {2, 8, 16, 24}  # <bos> and the learner's token stand before the first
    counts = np.unique(place, return_counts=True)[1]
    assert np.abs(counts - 500).max() < 100  # five standard deviations of a fair draw: 5 * sqrt(2000 * .25 * .75) = 97


def test_two_facts_in_one_segment_stand_behind_one_another() -> None:
    tokens, _ = examples("reasoning", 0)
    assert all(np.flatnonzero(row == FACT).tolist() == [2, 6] for row in tokens)


def test_both_facts_are_asked_about_and_directions_differ() -> None:
    tokens, _ = examples("reasoning", 1)
    first = []
    for row in tokens.tolist():
        facts = [row[place + 1 : place + 4] for place, token in enumerate(row) if token == FACT]
        assert len(facts) == 2
        assert facts[0][2] == facts[1][2]
        assert facts[0][1] != facts[1][1]
        assert len({facts[0][0], facts[1][0], facts[0][2]}) == 3
        first.append(row[row.index(ANS) + 3] == facts[0][0])
    assert 0.35 < np.mean(first) < 0.65  # the one that stands first is asked about as often as the other


@pytest.mark.parametrize(("question", "gap", "expected"), [("detect", 16, 0.15), ("reasoning", 2, 0.5)])
def test_the_floor_is_the_best_shortcut(question: str, gap: int, expected: float) -> None:
    assert distance.floor(distance.generator(question, gap, SEGMENTS[question])) == pytest.approx(expected, abs=0.03)


def test_examples_are_what_they_were() -> None:
    """A change here is a new version of the streams."""
    text = b"".join(examples(question, gap, rows=20)[0].astype("<i8").tobytes() for question, gap in FROZEN)
    assert hashlib.sha256(text).hexdigest()[:16] == "59c822da7e844ccb"


def test_trained_gaps_are_phases_in_order_and_probed_ones_columns_only() -> None:
    made = distance_stream(name="d", version=1, budget="smoke", question="detect", trained=[1, 0], probed=[0, 5], units=[64, 32])
    assert [task.name for task in made.tasks] == ["detect-1", "detect-0", "detect-5"]
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64), ((1,), 32)]


def test_mixed_phases_train_all_gaps_so_far_under_a_name_of_their_own() -> None:
    made = distance_stream(name="d", version=1, budget="smoke", question="detect", trained=[0, 1, 3], units=[64], mixed=True)
    assert made.name == "d-mixed"
    assert [(phase.columns, phase.units) for phase in made.phases] == [((0,), 64), ((0, 1), 64), ((0, 1, 2), 64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "memorise"}, "Unknown question 'memorise'. Did you mean memorize?"),
        ({"trained": [-1]}, r"trained and probed must be gaps >= 0, at least one trained, got \[-1\] and \[\]"),
        ({"trained": []}, "at least one trained"),
        ({"units": [1, 2]}, "expected units for 3 phases, got 2"),
        ({"question": "copy"}, "copy: segment must be at least 11 tokens to hold its facts, got 8"),
        ({"question": "reasoning", "segment": 16, "length": 3}, "length must be at least 0, and 0 for reasoning, got 3"),
        ({"length": -1}, "length must be at least 0"),
        ({"segment": 6}, "memorize: segment must be at least 7 tokens to hold its facts, got 6"),
        ({"question": "reasoning", "segment": 9}, "reasoning: segment must be at least 10 tokens"),
        ({"test_examples": 0}, "test_examples must be > 0, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distance_stream(**({"name": "d", "version": 1, "budget": "smoke", "question": "memorize", "units": [320]} | options))  # type: ignore[arg-type]


def test_copied_examples_are_what_they_were_and_a_length_is_part_of_the_stream() -> None:
    """A change here is a new version of the streams."""
    text = b"".join(examples(question, gap, rows=20)[0].astype("<i8").tobytes() for question, gap in CASES if (question, gap) not in FROZEN)
    assert hashlib.sha256(text).hexdigest()[:16] == "e5f12892050bbc00"
    plain, same, longer = (
        distance_stream(name="d", version=1, budget="smoke", question="copy", segment=20, units=[64], length=length) for length in (0, 8, 9)
    )
    assert plain.hash() != longer.hash() != same.hash()
    assert [task.scale for task in plain.tasks] == [task.scale for task in same.tasks]
