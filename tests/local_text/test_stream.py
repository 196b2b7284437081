"""Tasks of real text: what is handed out, how it is scored, what needs no skill, and whole runs over a folder."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from clbench import cli, configuration
from clbench.errors import UserError
from clbench.interfaces import TaskInfo
from clbench.task_streams.local_text import encoding as encodings
from clbench.task_streams.local_text import tasks
from clbench.task_streams.local_text.corpus import Dataset, Row
from clbench.task_streams.local_text.encoding import ANS, BOS, EOS, FIRST, PAD, SEP, Encoding, codes
from clbench.task_streams.local_text.stream import local_stream
from clbench.task_streams.local_text.tasks import AnswerTask, ChoiceTask, DocumentTask

LABELS = tuple(f"intent-{n}" for n in range(6))
WORDS, BYTES = Encoding("words"), Encoding("bytes")


@pytest.fixture
def folder(tmp_path):
    """Six intents of two domains, and two books."""
    for place in ("intents", "one", "two"):
        (tmp_path / place).mkdir()
    pairs = [[f"please do {LABELS[n % 6]} now {n}", LABELS[n % 6]] for n in range(120)]
    splits = {"train": pairs, "val": pairs[:12], "test": [[f"could you {label}", label] for label in LABELS]}
    (tmp_path / "intents" / "data.json").write_text(json.dumps(splits, indent=1))
    (tmp_path / "intents" / "domains.json").write_text(json.dumps({"first half": LABELS[:3], "second_half": LABELS[3:]}))
    for place, text in (("one", "the cat sat on the mat. "), ("two", "a dog ran in a park! ")):
        (tmp_path / place / "book.txt").write_text(text * 200)
    return tmp_path


def stream(folder, **options):
    return local_stream(name="local-text", version=1, budget="smoke", folder=str(folder), **options)


def info(encoding):
    return TaskInfo(None, 1, "text", encoding.size, encoding.size)


OPTIONS = {"longest": 12, "train_examples": None, "test_examples": 100, "scored_on": "test"}


def choices(rows, encoding=WORDS, **options):
    splits = {"train": rows, "validation": rows, "test": rows}
    given = {"labels": None, "verbal": False, **OPTIONS, **options}
    return ChoiceTask("task", info(encoding), Dataset("task", "choices", "test", splits), encoding, **given)


class Fixed:
    """A predictor that knows the texts: `after` maps a prefix to the token that follows; elsewhere it says `otherwise`."""

    def __init__(self, texts, size, otherwise=EOS, height=5.0):
        self.after = {tuple(text[:n]): text[n] for text in texts for n in range(1, len(text))}
        self.size, self.otherwise, self.height = size, otherwise, height

    def initial_state(self, batch):
        return np.zeros((batch, 0), dtype=np.int64)

    def logits(self, tokens, state):
        read = np.concatenate([state, tokens], axis=1)
        found = np.zeros((*tokens.shape, self.size), dtype=np.float32)
        for row in range(len(read)):
            for at in range(tokens.shape[1]):
                found[row, at, self.after.get(tuple(read[row, : state.shape[1] + at + 1]), self.otherwise)] = self.height
        return found, read


def texts(task):
    tokens, _ = task.test.rows(np.arange(len(task.test)), task.test.longest)
    return [row[row != PAD].tolist() for row in tokens]


# ---- text as numbers


def test_numbers_of_words_and_bytes_do_not_change():
    """Golden: the same on every platform and in every process."""
    assert WORDS.encode("Where is Mary? in the KITCHEN") == WORDS.encode("where is mary ? in the kitchen")
    assert WORDS.encode("where is mary?") == [7092, 3338, 2409, 7546]
    assert codes(["play", "stop"]) == {"play": (34, 22), "stop": (18, 45)}
    assert BYTES.encode("aé") == [FIRST + 97, FIRST + 195, FIRST + 169]
    assert WORDS.size == 8192 and BYTES.size == 304 and max(WORDS.encode("a b c d e f g h")) < WORDS.size


def test_words_that_share_a_number_are_counted():
    known = [f"w{n}" for n in range(20_000)]
    alike = {}
    for word in known:
        alike.setdefault(WORDS.encode(word)[0], []).append(word)
    one, other = next(found for found in alike.values() if len(found) > 1)[:2]
    assert WORDS.confused([f"{one} {one} {other} zzz"]) == (3, 0.25)
    assert BYTES.confused(["a b"]) == (0, 0.0)


def test_codes_are_fixed_different_and_do_not_depend_on_order():
    many = [f"label {n}" for n in range(1000)]
    assert codes(many) == codes(many[::-1]) and len(set(codes(many).values())) == 1000
    assert all(symbol in encodings.SYMBOLS for code in codes(many).values() for symbol in code)
    with pytest.raises(ValueError, match="at most 1024 labels"):
        codes([str(n) for n in range(1025)])


def test_more_labels_than_codes_are_one_line():
    with pytest.raises(UserError, match=r"codes for 1024 answers, its data set has 1025; give stream.verbal=true"):
        choices(tuple(Row("text", f"label {n}") for n in range(1025)))


# ---- choices


ROWS = tuple(Row(f"text {n} {LABELS[n % 3]}", LABELS[n % 3]) for n in range(30))


def test_a_choice_is_written_with_its_code_and_only_that_is_scored():
    task = choices(ROWS)
    experience = task.experience(0)
    experience.meter.grant(30)
    tokens, mask, _ = experience.windows(30, experience.longest)
    for row, scored in zip(tokens, mask, strict=True):
        ids = row[row != PAD].tolist()
        assert ids[0] == BOS and ids[-1] == EOS and ids[-4] == ANS and ids[-3] in encodings.SYMBOLS
        assert scored.sum() == 3 and scored[len(ids) - 3 : len(ids)].all()
    assert sorted(map(tuple, tokens.tolist())) == sorted(map(tuple, task.train.rows(np.arange(30), task.train.longest)[0].tolist()))


def test_each_round_has_every_row_once_in_another_order():
    task = choices(ROWS)

    def lived(seed, batch):
        experience = task.experience(seed)
        experience.meter.grant(90)
        return np.concatenate([experience.windows(batch, experience.longest)[0] for _ in range(90 // batch)])

    one = lived(0, 30)
    assert np.array_equal(one, lived(0, 15)) and not np.array_equal(one, lived(1, 30))
    rounds = [sorted(map(tuple, part.tolist())) for part in np.split(one, 3)]
    assert rounds[0] == rounds[1] == rounds[2] and not np.array_equal(one[:30], one[30:60])


def test_who_knows_all_is_right_and_who_is_wrong_at_a_token_is_not():
    task = choices(ROWS)
    known = texts(task)
    result = task.evaluate(Fixed(known, WORDS.size), 0)
    assert result.score.tolist() == result.facts["exact"].tolist() == [1.0] * 30
    assert result.facts["text_length"].tolist() == [float(len(text)) for text in known]
    wrong = [text if n % 2 else [*text[:-3], known[(n + 1) % 3][-3], *text[-2:]] for n, text in enumerate(known)]
    result = task.evaluate(Fixed(wrong, WORDS.size), 0)
    assert result.score.tolist() == result.facts["exact"].tolist() == [0.0, 1.0] * 15


def test_what_no_answer_begins_with_does_not_count_against_the_score_but_against_the_free_run():
    """Among the task's own answers it is right; a number that none of them has is what it would really say."""

    class Strange(Fixed):
        def logits(self, tokens, state):
            found, read = super().logits(tokens, state)
            found[:, :, FIRST] = 9.0
            return found, read

    task = choices(ROWS)
    result = task.evaluate(Strange(texts(task), WORDS.size), 0)
    assert result.score.all() and not result.facts["exact"].any()


def test_answers_in_their_own_words_may_begin_alike():
    rows = tuple(Row(f"text {n}", ("new", "new york", "york")[n % 3]) for n in range(30))
    task = choices(rows, verbal=True)
    assert task.evaluate(Fixed(texts(task), WORDS.size), 0).score.all()
    short = [[*text[:-2], EOS] if text[-3] == WORDS.encode("new")[0] else text for text in texts(task)]  # says new where new york is meant
    said = task.evaluate(Fixed(short, WORDS.size), 0).score
    assert said.tolist() == [float(row.answer != "new york") for row in task.test_rows]


def test_shots_are_so_many_of_each_answer_and_those_of_fewer_are_among_them():
    task = choices(ROWS)

    def shown(seed, shots):
        experience = task.experience(seed, shots=shots)
        experience.meter.grant(3 * shots)
        tokens, _, _ = experience.windows(3 * shots, experience.longest)
        return {tuple(row) for row in tokens.tolist()}

    assert len(shown(0, 2)) == 6 and shown(0, 1) < shown(0, 2) and shown(0, 2) != shown(1, 2)


def test_floors_know_the_commonest_the_question_and_what_was_said_last():
    train = tuple(Row(f"Ann went {p}. Where is {who}?", p, 1) for p in ("home", "out") for who in ("Ann", "Bob") for _ in range(4))
    test = (
        Row("Ann went home. Where is Ann?", "home", 1),
        Row("Bob went out. Where is Ann?", "out", 1),
        Row("Ann went out. Where is Bob?", "home", 1),
    )
    dataset = Dataset(
        "t", "choices", "test", {"train": (*train, Row("Bob went out. Where is Bob?", "out", 1)), "validation": (), "test": test}
    )
    task = ChoiceTask("t", info(WORDS), dataset, WORDS, labels=None, verbal=False, **OPTIONS)
    assert task.floors == {"uniform": 0.5, "majority": 1 / 3, "question only": pytest.approx(1 / 3), "last mentioned": pytest.approx(2 / 3)}
    assert task.scale == (pytest.approx(2 / 3), 1.0)
    facts = task.evaluate(Fixed(texts(task), WORDS.size), 0).facts
    assert facts["support_age"].tolist() == [1.0, 1.0, 1.0]


def test_an_age_that_is_not_known_is_none(monkeypatch):
    monkeypatch.setattr(tasks, "_LANES", 2)  # batches in which nobody has one
    rows = tuple(Row(f"{'w ' * n}. where", LABELS[n % 2], 3 if n < 2 else None) for n in range(6))
    task = choices(rows, longest=20)
    ages = task.evaluate(Fixed(texts(task), WORDS.size), 0).facts["support_age"]
    assert ages[:2].tolist() == [3.0, 3.0] and np.isnan(ages[2:]).all()


def test_long_texts_lose_their_end_and_questions_what_stands_before_them():
    long = " ".join(f"w{n}" for n in range(20))
    kept = choices(tuple(Row(long, LABELS[n % 2]) for n in range(8)), longest=5)
    asked = choices(tuple(Row(long, LABELS[n % 2], 1) for n in range(8)), longest=5)
    assert texts(kept)[0][1:6] == WORDS.encode("w0 w1 w2 w3 w4") and texts(asked)[0][1:6] == WORDS.encode("w15 w16 w17 w18 w19")
    assert kept.cut == (16, 20)


# ---- answers, plain text


def test_answers_are_scored_token_by_token():
    rows = tuple(Row(f"jump {n}", "J K L M"[: 1 + 2 * (n % 4)]) for n in range(20))
    splits = {"train": rows, "validation": rows, "test": rows}
    task = AnswerTask("t", info(WORDS), Dataset("t", "answers", "SCAN", splits), WORDS, **OPTIONS)
    result = task.evaluate(Fixed(texts(task), WORDS.size), 0)
    assert result.score.all() and result.facts["exact"].all() and result.facts["answer_length"].tolist() == [1, 2, 3, 4] * 5
    lost = task.evaluate(Fixed([[*text[:-1], ANS] for text in texts(task)], WORDS.size), 0)  # all but the end
    assert lost.score.tolist() == [1 / 2, 2 / 3, 3 / 4, 4 / 5] * 5 and not lost.facts["exact"].any()
    # J K L M in this order, ends after 1 to 4: who says J, K, L, EOS in turn is right at 1 of 2, 2 of 3, 3 of 4 and 3 of 5 places
    assert task.floors["majority by position"] == pytest.approx(np.mean([1 / 2, 2 / 3, 4 / 4, 3 / 5]), abs=0.3)
    assert task.floors["majority by token before"] >= task.floors["majority"]


def test_plain_text_is_scored_in_bits():
    text = "abcd" * 100
    splits = {"train": (Row(text),), "validation": (Row(text),), "test": (Row(text),)}
    task = DocumentTask("t", info(BYTES), Dataset("t", "text", "plain text", splits), BYTES, **{**OPTIONS, "longest": 40})
    result = task.evaluate(Fixed(texts(task), BYTES.size, height=0.0), 0)  # knows nothing: all ids alike
    assert result.facts["bits_per_byte"] == pytest.approx(np.full(10, math.log2(304)))
    assert result.score == pytest.approx(1 - np.full(10, math.log2(304)) / 8)
    assert task.evaluate(Fixed(texts(task), BYTES.size, height=50.0), 0).facts["bits_per_byte"] == pytest.approx(np.zeros(10), abs=1e-9)
    assert task.floors["unigram"] == pytest.approx(1 - math.log2((400 + 256) / 101) / 8)
    experience = task.experience(0)
    experience.meter.grant(10)
    tokens, mask, _ = experience.windows(10, 41)
    assert mask[:, 1:].all() and not mask[:, 0].any() and (tokens[:, 0] == BOS).all()
    with pytest.raises(UserError, match=r"is plain text, .*not read in words; give stream.tokens=bytes"):
        DocumentTask("t", info(WORDS), Dataset("t", "text", "plain text", splits), WORDS, **OPTIONS)


# ---- streams


def test_published_groups_are_tasks_and_names_lead_to_them(folder):
    built = stream(folder / "intents")
    assert built.name == "local-text-intents" and [task.name for task in built.tasks] == ["first-half", "second-half"]
    assert [phase.units for phase in built.phases] == [60, 60] and built.tasks[0].scale[0] == pytest.approx(1 / 3)
    everything = stream(folder, tokens="bytes")
    assert [task.name for task in everything.tasks] == ["intents-first-half", "intents-second-half", "one", "two"]
    some = stream(folder, tokens="bytes", tasks=["two", "intents-second-half"], held_out=["one"], epochs=3)
    assert [task.name for task in some.tasks] == ["two", "intents-second-half"] and some.few_shot.tasks[0].name == "one"
    assert some.phases[1].units == 180


def test_labels_are_cut_into_tasks(folder):
    assert [task.name for task in stream(folder / "intents", classes_per_task=2).tasks] == ["classes-1", "classes-2", "classes-3"]
    assert len(stream(folder / "intents", classes_per_task=5).tasks) == 1  # the sixth alone would be no choice


def test_what_is_read_is_part_of_the_stream(folder):
    first = stream(folder / "intents").hash()
    assert stream(folder / "intents").hash() == first and stream(folder / "intents", tokens="bytes").hash() != first
    text = (folder / "intents" / "data.json").read_text()
    (folder / "intents" / "data.json").write_text(text.replace("please do intent-0 now 0", "please do intent-0 now 7"))
    assert stream(folder / "intents").hash() != first


def test_cues_open_a_text(folder):
    blind, cued, told = (stream(folder / "intents", identity=identity) for identity in ("blind", "cued", "oracle-id"))
    assert cued.name == "local-text-intents-cued" and [task.info.index for task in told.tasks] == [0, 1]
    name = WORDS.encode("second-half")
    assert (
        texts(cued.tasks[1])[0][1 : len(name) + 2] == [*name, SEP]
        and len(texts(blind.tasks[1])[0]) == len(texts(cued.tasks[1])[0]) - len(name) - 1
    )
    assert all(task.info.index is None for task in cued.tasks)


def test_tuning_is_scored_on_other_rows(folder):
    assert stream(folder / "intents", validation=True).tasks[0].test_rows[0].prompt.startswith("please")
    assert stream(folder / "intents", validation=True).name.endswith("-validation")


def test_what_is_cut_is_said(folder):
    with pytest.warns(UserWarning, match=r"texts longer than 3 tokens lose the rest: first-half 63, .*; stream.longest=7 keeps all"):
        stream(folder / "intents", longest=3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"folder": None}, "reads a folder of yours; expected csv"),
        ({"folder": "/nowhere"}, "no folder '/nowhere'"),
        ({"tasks": ["first-haf"]}, "first-half"),
        ({"held_out": ["nothing"]}, "nothing"),
        ({"tasks": []}, "no task is left"),
        ({"tasks": ["first-half", "first-half"]}, "given twice"),
        ({"tasks": ["first-half"], "held_out": ["first-half"]}, "given twice"),
        ({"identity": "none"}, "identity"),
        ({"tokens": "letters"}, "unit of text"),
        ({"longest": 0}, "longest must be > 0, got 0"),
        ({"epochs": 0}, "epochs must be > 0, got 0"),
        ({"train_examples": -1}, "train_examples must be > 0, got -1"),
        ({"train_examples": 0}, "train_examples must be > 0, got 0"),
        ({"classes_per_task": 1}, "classes_per_task must be > 1, got 1"),
    ],
)
def test_wrong_requests_are_one_line(folder, options, message):
    with pytest.raises(UserError, match=message) as refused:
        local_stream(**{"name": "local-text", "version": 1, "budget": "smoke", "folder": str(folder / "intents"), **options})
    assert "\n" not in str(refused.value)


def test_a_folder_without_text_says_so(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(UserError, match=r"nothing in '.*' can be read: 'photo.png' is not text .*; type: clbench data check"):
        stream(tmp_path)


def test_a_folder_is_described_by_its_own_texts(folder, capsys):
    assert cli.main(["describe", "local-text", f"stream.folder={folder / 'intents'}", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["tasks"] == ["first-half", "second-half"] and len(described["examples"]) == 10
    assert all(re.fullmatch(r"(first|second)-half: please do (intent-\d) now \d+ \[\2\]", text) for text in described["examples"])
    assert cli.main(["describe", "local-text", f"stream.folder={folder / 'one'}", "stream.tokens=bytes"]) == 0
    assert "[the cat sat on the mat. the cat" in capsys.readouterr().out


def test_a_run_learns_it_and_the_check_says_what_is_there(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CI", "1")
    words = ["run", "stream=local-text", f"stream.folder={folder / 'intents'}", "agent=transformer", f"results_dir={tmp_path / 'runs'}"]
    words += ["stream.held_out=[second-half]", "stream.shots=[0,2]", "stream.draws=1", "stream.adaptation_units=64", "stream.points=2"]
    words += ["budget=smoke", "stream.epochs=20", "agent.text.learner.warmup=5", "agent.text.learner.learning_rate=3e-3"]
    assert cli.main(words) == 0
    assert "phase 1/1 first-half" in capsys.readouterr().out
    summary = json.loads(next((tmp_path / "runs").rglob("summary.json")).read_text())
    assert summary["metrics"]["performance"] > 0.8
    assert cli.main(["data", "check", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [dataset["kind"] for dataset in found["datasets"]] == ["choices", "text", "text"] and len(found["tasks"]) == 4
    assert cli.main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "4 tasks: intents-first-half, intents-second-half, one, two" in said and "stream.tokens=bytes" in said
    (tmp_path / "strange").mkdir()
    for number in range(5):
        (tmp_path / "strange" / f"{number}.bin").write_text("a\n")
    assert cli.main(["data", "check", str(tmp_path / "strange")]) == 1
    said = capsys.readouterr().out
    assert "2.bin is of no kind" in said and "3.bin" not in said and "and 2 more of which the same is true" in said
    (tmp_path / "empty").mkdir()
    assert cli.main(["data", "check", str(tmp_path / "empty")]) == 1 and "nothing here can be read" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "nowhere")]) == 2


def test_what_is_said_of_columns_reaches_the_stream_and_the_check(tmp_path, capsys):
    place = tmp_path / "the calls"
    place.mkdir()
    (place / "a.csv").write_text("id,answer,intent\n" + "".join(f"{n},please do {n},{'xyz'[n % 3]}\n" for n in range(60)))
    said = ["stream.text=answer", "stream.answer=intent"]
    assert cli.main(["data", "check", str(place), *said]) == 0
    found = capsys.readouterr().out
    assert "named columns: column 2 text, column 3 answer" in found
    assert f"clbench run stream=local-text 'stream.folder={place}' stream.text=answer stream.answer=intent agent=transformer" in found
    assert cli.main(["describe", "local-text", f"stream.folder={place}", *said]) == 0
    assert "please do" in capsys.readouterr().out
    hashes = [
        configuration.resolve(["stream=local-text", f"stream.folder={place}", "agent=random", *words]).request.stream.hash()
        for words in (said, ["stream.text=2", "stream.answer=3"], ["stream.text=[id,answer]", said[1]])
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    for words, reason in (
        (["stream.longest=5"], "stream.longest says nothing of what a folder holds; expected stream.text=NAME or stream.answer=NAME"),
        (["budget=smoke"], "got budget=smoke"),
        (["--out", "x"], "data check writes nothing"),
        (["stream.text={a:1}"], "stream.text: expected the name or number of a column or field, got {'a': 1}"),
        (["stream.text=[answer,'']"], "stream.text: expected the name or number of a column or field, got ['answer', '']"),
        (["stream.answer=[intent]"], "stream.answer: expected the name or number of a column or field, got ['intent']"),
        (["stream.text=intent", "stream.answer=intent"], "both 'intent'; expected two columns or fields"),
    ):
        assert cli.main(["data", "check", str(place), *words]) == 2
        assert reason in capsys.readouterr().err
    with pytest.raises(UserError, match=r"stream\.text: expected str \| int \| Sequence\[str \| int\] \| None, got"):
        configuration.resolve(["stream=local-text", f"stream.folder={place}", "agent=random", "stream.text={a:1}"])
