"""Things hidden in long texts: whoever reads the text from its words alone is always right, and filler changes nothing that is asked."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from clbench import configuration
from clbench.errors import UserError
from clbench.task_streams.language import needles
from clbench.task_streams.language.generation import Draft, drafts
from clbench.task_streams.language.needles import FAMILIES, Needles, generator
from clbench.task_streams.language.task import TextTask
from clbench.task_streams.language.vocabulary import PAD, vocabulary

NAME = vocabulary().name


def drawn(family: str, filler: int, count: int = 200, seed: int = 0) -> Draft:
    return drafts(generator(family, filler), "test", seed, np.arange(count))


def sentences(words: list[str]) -> list[list[str]]:
    found, last = [], 0
    for at, word in enumerate(words):
        if word in (".", "?"):
            found.append(words[last:at])
            last = at + 1
    return found


def read(family: str, words: list[str], asked: list[str]) -> list[str]:
    """The answer to a question (words without the mark) from the sentences of a text."""
    said = sentences(words)
    if family == "passkey":
        return next(one[3:] for one in said if one[:3] == ["the", "key", "is"])
    if family == "variables":
        known: dict[str, str] = {}
        for name, equal, source in (one for one in said if len(one) == 3 and one[1] == "="):
            assert equal == "="
            known[name] = known.get(source, source)
        return [name for name, value in known.items() if value == asked[-1]]
    _, _, _, thing, _, owner = asked
    return [word for one in said if one[:5] == ["the", thing, "of", owner, "is"] for word in one[5:]]


@pytest.mark.parametrize("filler", [0, 9, 64, 300])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reader_of_the_words_is_always_right(family: str, filler: int) -> None:
    draft = drawn(family, filler)
    for row in range(len(draft.prompt)):
        prompt = [NAME(token) for token in draft.prompt[row].tolist()]
        assert prompt[-1] == "?" and "<pad>" not in prompt
        begin = max(at for at, word in enumerate(prompt[:-1]) if word == ".") + 1
        question = prompt[begin:-1]
        behind, expected = [], []
        for token, scored in zip(draft.answer[row].tolist(), draft.scored[row].tolist(), strict=True):
            if scored:
                expected.append(NAME(token))
                if behind:
                    question, behind = behind[:-1], []
            else:
                if expected:
                    assert read(family, prompt[:begin], question) == expected
                    expected = []
                behind.append(NAME(token))
        assert read(family, prompt[:begin], question) == expected


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "haystack"])
def test_filler_stands_around_and_changes_nothing_else(family: str) -> None:
    """With the same draws the needles, questions and answers are the same."""
    from clbench.task_streams.language.generation import Draws

    draws = Draws(np.uint64(7), np.arange(50), np.zeros(50, dtype=np.int64))
    alone, among = generator(family, 0).draw(draws), generator(family, 100).draw(draws)
    assert (alone.answer == among.answer).all() and (alone.scored == among.scored).all()
    fill = set(needles.FILLER.tolist())
    for row in range(50):
        kept = [
            one for one in sentences([NAME(token) for token in among.prompt[row].tolist()]) if not set(map(vocabulary().id, one)) <= fill
        ]
        assert kept == sentences([NAME(token) for token in alone.prompt[row].tolist()])
    assert among.prompt.shape[1] == alone.prompt.shape[1] + 100


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_says_where_what_is_asked_stands(family: str) -> None:
    draft = drawn(family, 400, 300)
    assert draft.depth is not None and draft.depth.min() < 0.15 and draft.depth.max() > 0.6 and (draft.depth <= 1).all()
    length = draft.prompt.shape[1]
    for row in range(0, 300, 7):
        words = [NAME(token) for token in draft.prompt[row].tolist()]
        question = words[max(at for at, word in enumerate(words[:-1]) if word == ".") + 1 : -1]
        sought = {
            "passkey": ["the", "key", "is"],
            "variables": ["=", question[-1], "."],
        }.get(family, ["the", question[3] if len(question) > 3 else "", "of", question[-1], "is"])
        place = next(at for at in range(length) if words[at : at + len(sought)] == sought)
        assert place / length == pytest.approx(draft.depth[row], abs=0.16)


def test_the_haystack_is_as_long_as_asked_and_names_nothing_twice() -> None:
    draft = drawn("haystack", 700, 20)
    for row in draft.prompt.tolist():
        said = [tuple(one[1:4:2]) for one in sentences([NAME(token) for token in row]) if one[0] == "the"]
        assert len(said) == len(set(said)) == 700 // 8


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_are_disjoint_and_floors_are_what_guessing_among_the_said_gives(family: str) -> None:
    made = generator(family, 16)
    test, train = drawn(family, 16, 300), drafts(made, "train", 0, np.arange(300))
    assert not {tuple(row) for row in test.prompt.tolist()} & {tuple(row) for row in train.prompt.tolist()}
    floor = needles.floor(made)
    task = TextTask(made, cue=None, test_examples=8, floor=floor)
    assert floor < 0.6 and max(task.floors().values()) <= floor + 0.03
    assert (test.answer[test.scored] != PAD).all() and np.isin(test.answer[test.scored], made.legal).all()


# sha256 of the first hundred test examples of seed 0 among 32 tokens; a changed one is a new version of the stream
GOLDEN = {
    "passkey": "965419f72a2404a9",
    "needle": "f404600e55304fd8",
    "keys": "19961614a33eedc4",
    "values": "db4e9d0e3c57daef",
    "questions": "83f567da75626ec8",
    "haystack": "bb923a5ad3411fa0",
    "variables": "908e6817744c5307",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_examples(family: str) -> None:
    draft = drawn(family, 32, 100)
    assert hashlib.sha256(draft.prompt.astype("<i8").tobytes() + draft.answer.astype("<i8").tobytes()).hexdigest()[:16] == GOLDEN[family]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stream.tasks=[pass-key]"], "Did you mean passkey"),
        (["stream.tasks=[passkey,passkey]"], "expected tasks, each once"),
        (["stream.fillers=[-1]"], "takes 0 to"),
        (["stream.tasks=[haystack]", "stream.fillers=[100000]"], "takes 0 to 9984 tokens of filler, got 100000"),
        (["stream.units=0"], "units and test_examples > 0"),
        (["stream.identity=known"], "identity"),
    ],
)
def test_impossible_streams_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration.resolve(["stream=needles", "agent=random", *words])


def test_columns_are_amounts_of_filler_and_the_trained_ones_are_mixed() -> None:
    words = ["stream.tasks=[passkey,values]", "stream.fillers=[0,16]", "stream.probed=[64]", "stream.held_out=[variables]"]
    made = configuration.resolve(["stream=needles", "agent=random", *words]).request.stream
    assert [task.name for task in made.tasks] == ["passkey", "passkey+16", "passkey+64", "values", "values+16", "values+64"]
    assert [phase.columns for phase in made.phases] == [(0, 1), (3, 4)] and [t.name for t in made.few_shot.tasks] == ["variables"]
    result = made.tasks[1].evaluate(Blank(), 0)
    assert result.facts["depth"].shape == (256,) and isinstance(made.tasks[1]._generator, Needles)


class Blank:
    def initial_state(self, batch: int) -> None:
        return None

    def logits(self, tokens: np.ndarray, state: None):
        return np.zeros((*tokens.shape, vocabulary().size)), None
