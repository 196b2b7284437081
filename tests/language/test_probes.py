"""Questions over two facts and about people nobody described: who read the documents answers them, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.stream import TaskStream
from clbench.task_streams.language.knowledge import ATTRIBUTES, News
from clbench.task_streams.language.stream import knowledge_stream
from clbench.task_streams.language.vocabulary import ANS, EOS, PAD, vocabulary
from clbench.task_streams.language.wording import PEOPLE

from ..answering import Answering

WORD = vocabulary().name
VALUES = {name: {WORD(int(token)) for token in ids} for name, ids in ATTRIBUTES}
NAMES = {WORD(int(token)) for token in PEOPLE}
BOTH = ("two-hop", "unknown")


def made(**options) -> TaskStream:
    return knowledge_stream(name="know", version=1, budget="smoke", exposures=4, points=1, **{"probes": BOTH, **options})


def statement(words: list[str]) -> tuple[str, str, str]:
    """Who, what, and the value of a statement: of two people the boss is the one at the end, or at the start of "X is the boss of Y"."""
    (attribute,) = [word for word in words if word in VALUES or word == "boss"]
    people = [" ".join(words[at : at + 2]) for at, word in enumerate(words) if word in NAMES]
    if attribute != "boss":
        (value,) = [word for word in words if word in VALUES[attribute]]
        (who,) = people
        return who, attribute, value
    first, second = people
    return (second, attribute, first) if words[2:5] == ["is", "the", "boss"] else (first, attribute, second)


class Reader(Answering):
    """Keeps what documents said last, and answers questions from that alone."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], str] = {}

    def read(self, text: list[int]) -> None:
        for sentence in " ".join(WORD(token) for token in text[2:] if token not in (PAD, EOS)).split(" .")[:-1]:
            who, what, value = statement(sentence.split())
            self.said[who, what] = value

    def answer(self, text: list[int]) -> str:
        words = [WORD(token) for token in text[2:]]
        who = " ".join(words[-2:])
        if words[2:5] == ["of", "the", "boss"]:
            who = self.said.get((who, "boss"), "")
        return self.said.get((who, words[1]), "<unknown>").split()[0]  # of a person the name


def news(stream: TaskStream, phase: int, seed: int = 7) -> News:
    return stream.tasks[phase].experience(seed)._source


def test_who_reads_all_documents_answers_everything_and_before_that_only_what_they_said() -> None:
    stream = made()
    assert [task.name for task in stream.tasks] == ["news-0", "news-1", "news-2", *BOTH]
    assert stream.trained == ((0,), (1,), (2,))
    reader, two_hop = Reader(), stream.tasks[3]
    scores = []
    for phase in range(3):
        texts, _, _ = news(stream, phase).examples(np.arange(stream.phases[phase].units))
        for text in texts[::2].tolist():
            reader.read(text)
        scores.append(two_hop.evaluate(reader, 0).score.mean())
        for text, mask in zip(*news(stream, phase).examples(np.arange(1, 400, 2))[:2], strict=True):  # trained questions are right by then
            assert WORD(text[mask][0]) == reader.answer(text[: list(text).index(ANS)].tolist()) and text[mask][1] == EOS
    assert scores[0] < scores[1] < scores[2] == 1.0
    for task in stream.tasks:
        episodes = task.evaluate(reader, 0)
        assert episodes.score.all() and episodes.facts["exact"].all(), task.name
    updated = two_hop.evaluate(reader, 0).facts["updated"]
    assert 0.2 < updated.mean() < 0.9 and stream.tasks[4].evaluate(Reader(), 0).score.all()  # who knows nothing says so


def test_who_knows_the_first_phase_only_is_wrong_where_a_later_one_changed_a_link() -> None:
    stream = made()
    reader = Reader()
    for text in news(stream, 0).examples(np.arange(0, stream.phases[0].units, 2))[0].tolist():
        reader.read(text)
    episodes = stream.tasks[3].evaluate(reader, 0)
    assert episodes.score[episodes.facts["updated"] == 0].all()
    assert episodes.score[episodes.facts["updated"] == 1].mean() < 0.5


def asked(text: np.ndarray) -> tuple[str, bool]:
    """About whom a question is, and whether over two facts."""
    words = [WORD(int(token)) for token in text[2 : list(text).index(ANS)]]
    return " ".join(words[-2:]), words[2:5] == ["of", "the", "boss"]


def test_probes_ask_about_people_of_whom_no_question_is_trained_and_the_silent_are_in_no_document() -> None:
    stream = made()
    trained, described = set(), set()
    for phase in range(3):
        texts = news(stream, phase).examples(np.arange(1, 2 * stream.phases[phase].units, 2))[0]
        trained |= {asked(text)[0] for text in texts}
        assert 0.1 < np.mean([asked(text)[1] for text in texts]) < 0.8
        reader = Reader()
        for text in news(stream, phase).examples(np.arange(0, stream.phases[phase].units, 2))[0].tolist():
            reader.read(text)
        described |= {who for who, _ in reader.said}
    assert len(described) == 64 - 8
    for task in stream.tasks[3:]:
        about = {" ".join(words[:-2][-2:]) for words in (text.split() for text in task.shown(10_000))}
        assert about and not about & trained
        assert about <= described if task.name == "two-hop" else not about & described


def test_a_later_phase_asks_over_two_facts_only_where_one_of_them_is_its_news() -> None:
    stream = made(probes=["two-hop"])
    read = Reader()
    for phase in range(3):
        texts = news(stream, phase).examples(np.arange(2 * stream.phases[phase].units))[0]
        before = dict(read.said)
        for text in texts[::2].tolist():
            read.read(text)
        fresh = {fact for fact, value in read.said.items() if before.get(fact) != value}
        for text in texts[1::2]:
            who, far = asked(text)
            what = WORD(int(text[3]))
            facts = {(who, "boss"), (read.said[who, "boss"], what)} if far else {(who, what)}
            assert facts & fresh


def test_nobody_is_asked_about_through_a_boss_who_is_the_same_person() -> None:
    own = 0
    for entities in range(64, 128, 8):
        stream, reader = made(entities=entities, phases=1), Reader()
        for text in news(stream, 0).examples(np.arange(0, stream.phases[0].units, 2))[0].tolist():
            reader.read(text)
        own += sum(what == "boss" and who == value for (who, what), value in reader.said.items())
        assert all(reader.said[who, "boss"] != who for who in (" ".join(text.split()[-4:-2]) for text in stream.tasks[1].shown(10_000)))
    assert own >= 4


def test_one_probe_leaves_out_what_only_the_other_needs() -> None:
    assert [task.name for task in made(probes=["unknown"]).tasks] == ["news-0", "news-1", "news-2", "unknown"]
    assert "boss" not in " ".join(made(probes=["unknown"]).tasks[0].shown(200))
    assert "<unknown>" not in " ".join(made(probes=["two-hop"]).tasks[0].shown(200))
    assert made(probes=[]).hash() == knowledge_stream(name="know", version=1, budget="smoke", exposures=4, points=1).hash()
    joint = made(joint=True)
    assert joint.trained == ((0, 1, 2),)  # what is only probed is trained by no phase


def test_floors_are_the_commonest_value_and_nothing() -> None:
    stream = made()
    two_hop, unknown = stream.tasks[3:]
    answers = [text.split("[")[1][:-1] for text in two_hop.shown(10_000)]
    assert two_hop.scale[0] == pytest.approx(two_hop.floors()["majority"]) and unknown.scale == (0.0, 1.0)
    assert two_hop.floors()["majority"] <= max(np.unique(answers, return_counts=True)[1]) / len(answers) * 2
    assert len(answers) == two_hop.facts


def test_a_reader_outside_finds_both_facts_in_its_prompt() -> None:
    task = made().tasks[3]
    for row in task.sheet(0).rows[:20]:
        reader = Reader()
        *sentences, question = row["prompt"].split(" .")
        for sentence in sentences:
            who, what, value = statement(sentence.split())
            reader.said[who, what] = value
        assert reader.answer([0, 0, *(vocabulary().id(word) for word in question.split())]) == row["answer"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"probes": ["two-hops"]}, "Unknown probe 'two-hops'. Did you mean two-hop?"),
        ({"probes": ["unknown", "unknown"]}, "each probe at most once"),
        ({"probes": ["two-hop"], "entities": 8}, "people of different names must be there from the first phase on"),
        ({"probes": ["unknown"], "added": 0.4}, "must be below 0.75, got 0.8"),
        ({"probes": ["unknown"], "entities": 4, "added": 0.0}, "give more entities"),
    ],
)
def test_wrong_requests_are_one_line(options, message) -> None:
    with pytest.raises(UserError, match=message):
        made(**options)
