"""Facts brought up to date: a reader of the documents with a dictionary knows them all, one that keeps what it read first is stale."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from clbench.configuration import stream_named
from clbench.errors import UserError
from clbench.task_streams.language import knowledge
from clbench.task_streams.language.knowledge import ATTRIBUTES, News, questions
from clbench.task_streams.language.stream import knowledge_stream
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS, PAD, vocabulary

from ..answering import Answering

SIZES = {"entities": 64, "attributes": 2, "values": 8, "phases": 4, "added": 0.1, "updated": 0.25}
NAMES = {name: {vocabulary().name(int(token)) for token in ids} for name, ids in ATTRIBUTES}
WORD = vocabulary().name
Fact = tuple[str, str]


def lived(validation: bool = False, **sizes: float) -> knowledge.History:
    return knowledge.history(validation=validation, **{**SIZES, **sizes})


def read(words: list[str]) -> tuple[Fact, str]:
    """Who, what and the value of one statement, found by what kind of word each is."""
    (attribute,) = [word for word in words if word in NAMES]
    (value,) = [word for word in words if word in NAMES[attribute]]
    at = next(at for at, word in enumerate(words) if word[:1] == "s" and word[1:].isdigit())
    return (" ".join(words[at - 1 : at + 1]), attribute), value


def documents(source: News, count: int) -> list[list[tuple[Fact, str]]]:
    tokens, mask, lengths = source.examples(np.arange(0, 2 * count, 2))
    found = []
    for row, marks, length in zip(tokens.tolist(), mask.tolist(), lengths.tolist(), strict=True):
        assert row[0] == BOS and row[length - 1] == EOS and row[length:] == [PAD] * (len(row) - length)
        assert marks == [False] * 2 + [True] * (length - 2) + [False] * (len(row) - length)
        words = [WORD(token) for token in row[2 : length - 1]]
        sentences = " ".join(words).split(" .")
        assert sentences[-1] == ""
        found.append([read(sentence.split()) for sentence in sentences[:-1]])
    return found


def asked(task: knowledge.KnowledgeTask) -> list[tuple[Fact, str]]:
    tokens, mask = questions(task._history, task._fact, task._value)
    found = []
    for row, marks in zip(tokens.tolist(), mask.tolist(), strict=True):
        assert row[-3] == ANS and row[-1] == EOS and marks == [False] * (len(row) - 2) + [True, True]
        words = [WORD(token) for token in row[2:-3]]
        found.append(((" ".join(words[3:5]), words[1]), WORD(row[-2])))
    return found


class Knows(Answering):
    """Answers from a dictionary, with padding where it has nothing."""

    def __init__(self, known: dict[Fact, str]) -> None:
        self.known = known

    def answer(self, text: list[int]) -> str:
        words = [WORD(token) for token in text[2:]]
        return self.known.get((" ".join(words[3:5]), words[1]), WORD(PAD))


def test_a_dictionary_of_the_documents_answers_everything_and_an_older_one_is_stale():
    history = lived()
    tasks = knowledge.tasks(history, 6)
    latest: dict[Fact, str] = {}
    first: dict[Fact, str] = {}
    for phase, task in enumerate(tasks):
        before = dict(latest)
        source = News(history, phase, 6, seed=3)
        for fact, value in [each for document in documents(source, source.documents(2)) for each in document]:
            latest[fact] = value
            first.setdefault(fact, value)
        episodes = task.evaluate(Knows(latest), 0)
        assert episodes.score.all() and episodes.facts["exact"].all() and not np.nansum(episodes.facts["stale"])
        kept = task.evaluate(Knows(before), 0)
        updated = kept.facts["updated"] == 1
        if phase:
            assert kept.facts["stale"][updated].all() and np.isnan(kept.facts["stale"][~updated]).all()
        assert not kept.score[updated].any()
        returned = [first[fact] == value for fact, value in asked(task)]
        assert (task.evaluate(Knows(first), 0).score == 1)[updated].tolist() == np.array(returned)[updated].tolist()
    for task in tasks:  # what was published last in a phase stays right until the end
        assert task.evaluate(Knows(latest), 0).score.all()


def test_a_phase_says_each_of_its_facts_equally_often_and_nothing_else():
    history = lived()
    for phase in range(SIZES["phases"]):
        source = News(history, phase, 6, seed=1)
        said = [each for document in documents(source, source.documents(12)) for each in document]
        count = Counter(fact for fact, _ in said)
        assert len(count) == history.published[phase].sum()
        assert set(count.values()) <= {12, 13} and sum(count.values()) - 12 * len(count) < 6
        assert all(len(set(document)) == len(document) for document in documents(source, 4))
    assert documents(News(history, 0, 6, seed=1), 5) != documents(News(history, 0, 6, seed=2), 5)


def test_each_fact_is_said_in_every_way():
    history = lived(entities=8, attributes=1)
    source = News(history, 0, 6, seed=1)
    tokens, _, _ = source.examples(np.arange(0, 800, 2))
    forms = Counter()
    for row in tokens.tolist():
        for sentence in " ".join(WORD(token) for token in row[2:] if token not in (PAD, EOS)).split(" .")[:-1]:
            fact, value = read(sentence.split())
            forms[fact, sentence.replace(value, "V").strip()] += 1
    facts = {fact for fact, _ in forms}
    assert len(forms) == 6 * len(facts)


def test_questions_are_trained_about_one_half_of_the_entities_and_scored_about_the_other():
    history = lived()
    tasks = knowledge.tasks(history, 6)
    scored = {fact[0] for task in tasks for fact, _ in asked(task)}
    trained = set()
    for phase in range(SIZES["phases"]):
        tokens, mask, lengths = News(history, phase, 6, seed=1).examples(np.arange(1, 400, 2))
        assert (mask.sum(axis=1) == 2).all()
        published = dict(each for document in documents(News(history, phase, 6, 1), 200) for each in document)
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
            words = [WORD(token) for token in row[2:length]]
            fact = (" ".join(words[3:5]), words[1])
            assert published[fact] == words[-2]
            trained.add(fact[0])
    assert not scored & trained
    assert len(scored | trained) > 60


def test_a_history_changes_what_it_says():
    history = lived(entities=1024, attributes=4, values=16)
    known = [(value >= 0).sum() for value in history.value]
    assert np.diff(known).tolist() == [102 * 4] * 3  # a tenth of the entities
    twice = back = total = 0
    for phase in range(1, 4):
        was, now = history.value[phase - 1], history.value[phase]
        changed = (was >= 0) & (was != now)
        new = (was < 0) & (now >= 0)
        assert changed.sum() == round(0.25 * known[phase - 1])
        assert (history.published[phase] == (changed | new)).all()
        if phase > 1:
            earlier = history.value[phase - 2]
            again = changed & (earlier >= 0) & (earlier != was)
            twice, back, total = twice + again.sum(), back + (again & (now == earlier)).sum(), total + changed.sum()
    assert twice / total == pytest.approx(0.3, abs=0.02)
    assert back / total == pytest.approx(0.1, abs=0.02)
    other = lived(entities=1024, attributes=4, values=16, validation=True)
    assert (history.value != other.value).mean() > 0.5


def test_examples_do_not_depend_on_how_they_are_asked_for():
    source = News(lived(), 1, 6, seed=4)
    whole = source.examples(np.arange(40))
    for part in (np.array([7]), np.array([30, 2, 2, 9])):
        for together, alone in zip(whole, source.examples(part), strict=True):
            assert (together[part] == alone).all()


def test_the_reading_test_outside_has_everything_in_its_prompt():
    task = knowledge.tasks(lived(), 6)[2]
    for row, (fact, value) in zip(task.sheet(0).rows, asked(task), strict=True):
        told = {}
        *statements, question = row["prompt"].split(" .")
        for statement in statements:
            which, said = read(statement.split())
            told[which] = said
        assert told[fact] == value == row["answer"] and question.split()[-2:] == fact[0].split()


GOLDEN = {"smoke": "4f5823708af3", "standard": "dc091652ee6a", "paper": "5472c1e1beb6"}


@pytest.mark.parametrize("budget", GOLDEN)
def test_histories_and_examples_are_what_they_were(budget):
    """A change here is a new version of the stream."""
    digest = hashlib.sha256()
    for task, phase in zip(stream_named("know", budget).tasks, stream_named("know", budget).phases, strict=True):
        digest.update(repr((task.name, task.facts, round(task.scale[0], 12), phase.units)).encode())
        digest.update(task._fact.astype("<i8").tobytes() + task._value.astype("<i8").tobytes())
        digest.update(task.experience(5)._source.examples(np.arange(20))[0].astype("<i8").tobytes())
    assert digest.hexdigest()[:12] == GOLDEN[budget]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"entities": 3}, "entities must be 4 to"),
        ({"entities": 5000}, "entities must be 4 to"),
        ({"attributes": 5}, "attributes must be 1 to 4"),
        ({"values": 40}, "values must be 3 to"),
        ({"phases": 0}, "phases must be > 0"),
        ({"added": 0.5}, "below 1"),
        ({"updated": 1.0}, "updated in"),
        ({"statements": 0}, "statements must be > 0"),
        ({"exposures": 0}, "exposures must be > 0"),
        ({"entities": 4, "added": 0.0, "updated": 0.0}, "publishes nothing that lasts"),
    ],
)
def test_wrong_requests_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        knowledge_stream(name="know", version=1, budget="smoke", **options)
