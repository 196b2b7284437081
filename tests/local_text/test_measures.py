"""Generated answers against the right ones: published formulas by hand, and predictors that say more, less and something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.errors import UserError
from clbench.interfaces import TaskInfo
from clbench.task_streams.local_text.corpus import Dataset, Row
from clbench.task_streams.local_text.encoding import ANS, BOS, EOS, FIRST, PAD, Encoding
from clbench.task_streams.local_text.measures import MEASURES, exact, f1, rouge_l
from clbench.task_streams.local_text.tasks import AnswerTask

WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


def split(text):
    return text.split()


@pytest.mark.parametrize(
    ("said", "right", "same", "common", "subsequence"),
    [
        ("police killed the gunman", "police kill the gunman", 0, 3 / 4, 3 / 4),  # Lin 2004, section 3.1, both candidates
        ("police kill the gunman", "police killed the gunman", 0, 3 / 4, 3 / 4),
        ("the gunman kill police", "police killed the gunman", 0, 3 / 4, 2 / 4),
        ("a b c", "a b c", 1, 1, 1),
        ("a a a", "a b", 0, 2 / 5, 2 / 5),
        ("c b a", "a b c", 0, 1, 1 / 3),
        ("", "a", 0, 0, 0),
        ("a", "", 0, 0, 0),
        ("", "", 1, 1, 1),
        ("a b c d", "b d", 0, 4 / 6, 4 / 6),
    ],
)
def test_measures_are_those_published(said, right, same, common, subsequence):
    found = [measure(split(said), split(right)) for measure in (exact, f1, rouge_l)]
    assert found == pytest.approx([same, common, subsequence])


@given(WORDS, WORDS)
def test_measures_agree_with_what_they_mean(said, right):
    assert 0 <= rouge_l(said, right) <= f1(said, right) <= 1
    assert exact(said, right) == (said == right) and rouge_l(said, right) == rouge_l(right, said)
    assert (rouge_l(said, right) == 1) == (said == right)
    assert (f1(said, right) == 1) == (sorted(said) == sorted(right))


class Says:
    """A predictor that writes a fixed answer behind <ans>, whatever was asked."""

    def __init__(self, answer, size):
        self.answer, self.size = [*answer, EOS], size

    def initial_state(self, batch):
        return np.zeros((batch, 0), dtype=np.int64)

    def logits(self, tokens, state):
        text = np.concatenate([state, tokens], axis=1)
        found = np.zeros((*tokens.shape, self.size))
        for row in range(len(text)):
            for at in range(tokens.shape[1]):
                behind = np.flatnonzero(text[row, : state.shape[1] + at + 1] == ANS)
                place = state.shape[1] + at - behind[0] if len(behind) else 0
                found[row, at, self.answer[place] if len(behind) and place < len(self.answer) else EOS] = 5.0
        return found, text


def task(encoding, measure, rows, longest=12):
    splits = {"train": rows, "validation": rows, "test": rows}
    info = TaskInfo(None, 1, "text", encoding.size, encoding.size)
    options = {"longest": longest, "train_examples": None, "test_examples": 100, "scored_on": "test"}
    return AnswerTask("task", info, Dataset("task", "answers", "test", splits), encoding, measure=measure, **options)


ROWS = (Row("who is it ?", "the old cat"), Row("and now, who is this ?", "a cat"), Row("who ?", "the dog of the old cat next door"))


@pytest.mark.parametrize("unit", ["words", "bytes"])
@pytest.mark.parametrize("text", ["", "Who's there?", "naïve 3.5 — ok\n\tend", "\ud800 lone"])
def test_a_text_is_as_long_as_its_ids(unit, text):
    assert Encoding(unit).length(text) == len(Encoding(unit).encode(text))


@pytest.mark.parametrize("unit", ["words", "bytes"])
@pytest.mark.parametrize("measure", list(MEASURES))
def test_a_free_run_is_scored_by_its_words(unit, measure):
    encoding = Encoding(unit)
    made = task(encoding, measure, ROWS, longest=40)
    result = made.evaluate(Says(encoding.encode("the old cat"), encoding.size), 0)
    expected = [MEASURES[measure](split("the old cat"), split(row.answer)) for row in made.test_rows]
    assert result.score == pytest.approx(expected)
    facts = {"exact": "same_words", "f1": "f1", "rouge-l": "rouge_l"}
    assert result.facts[facts[measure]] == pytest.approx(expected)
    assert made.floors["constant"] == pytest.approx(
        max(np.mean([MEASURES[measure](split(said.answer), split(row.answer)) for row in ROWS]) for said in ROWS)
    )


def test_an_answer_without_an_end_ends_at_the_longest_and_none_at_all_is_nothing():
    encoding = Encoding("words")
    made = task(encoding, "f1", ROWS[:2], longest=6)
    long = made.evaluate(Says(encoding.encode("cat " * 50), encoding.size), 0)
    assert long.score == pytest.approx([f1(["cat"] * 6, split(row.answer)) for row in made.test_rows])
    silent = made.evaluate(Says([], encoding.size), 0)
    assert (silent.score == 0).all()
    marks = made.evaluate(Says([BOS, PAD, *encoding.encode("a cat")], encoding.size), 0)
    assert marks.score[[row.answer for row in made.test_rows].index("a cat")] == 1  # marks of the stream are no words


def test_by_tokens_nothing_has_changed_and_other_measures_are_other_streams(tmp_path):
    from clbench.task_streams.local_text.stream import local_stream

    (tmp_path / "train.tsv").write_text("\n".join(f"question {n}\tanswer {'xyz'[n % 3]} and {n}" for n in range(300)))

    def made(**options):
        return local_stream(name="local-text", version=1, budget="smoke", folder=str(tmp_path), **options)

    assert made().hash() == made(measure="tokens").hash() != made(measure="rouge-l").hash()
    assert "measure" not in made().options
    with pytest.raises(UserError, match="Did you mean rouge-l"):
        made(measure="rouge")


def test_generated_ids_are_those_of_the_predictor():
    encoding = Encoding("bytes")
    made = task(encoding, "exact", ROWS, longest=60)
    assert encoding.said([ANS, *encoding.encode("Où est-il?"), EOS]) == ["où", "est", "-", "il", "?"]
    assert encoding.said([FIRST + 0xFF]) == ["\ufffd"]
    assert made.evaluate(Says(encoding.encode("A CAT"), encoding.size), 0).score.sum() == 1
