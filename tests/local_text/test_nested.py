"""Records that hold others give a row for each of them, as such data sets are published."""

import json

import pytest

from clbench.task_streams.local_text.corpus import Row
from clbench.task_streams.local_text.folder import survey
from clbench.task_streams.local_text.nested import flat, written
from clbench.task_streams.local_text.records import Broken, fields_of, record_rows


def rows(*found) -> list[Row | Broken]:
    listed = flat({"train": [(f"{number}", record) for number, record in enumerate(found)]})["train"]
    return list(record_rows(listed, fields_of(listed)))


NEWS = [["Rome", ["It rained.", "All day."]], ["Oslo", ["It snowed."]]]
FORMS = {
    "RACE": (
        {"id": "h1", "article": "Bo ate.", "questions": ["Who?", "What?"], "options": [["Bo", "Al"], ["x", "y"]], "answers": ["A", "B"]},
        [Row("Bo ate. Who? A) Bo B) Al", "A"), Row("Bo ate. What? A) x B) y", "B")],
    ),
    "DREAM": (
        [["M: Hi.", "W: Bye."], [{"question": "Who left?", "choice": ["a man", "a woman"], "answer": "a woman"}], "3-1"],
        [Row("M: Hi. W: Bye. Who left? a man, a woman", "a woman")],
    ),
    "QuALITY": (
        {"article": ["Bo", "ate."], "questions": [{"question": f"Who {n}?", "options": ["x", "y"], "gold_label": n} for n in (1, 2)]},
        [Row("Bo ate. Who 1? 1) x 2) y", "1"), Row("Bo ate. Who 2? 1) x 2) y", "2")],
    ),
    "DROP": (
        {
            "passage": "Two came.",
            "qa_pairs": [
                {"question": "How many?", "answer": {"number": "2", "date": {"day": ""}, "spans": []}},
                {"question": "Who?", "answer": {"number": "", "date": {"day": ""}, "spans": ["Bo", "Al"]}},
            ],
        },
        [Row("Two came. How many?", "2"), Row("Two came. Who?", "Bo")],
    ),
    "LoCoMo": (
        {
            "conversation": {"speaker_a": "Bo", "session_1": [{"speaker": "Bo", "text": "Hi."}], "session_2": [{"text": "Bye."}]},
            "qa": [{"question": "Who spoke?", "answer": "Bo", "category": 2}, {"question": "When?", "answer": 2022, "category": 1}],
        },
        [Row("Hi. Bye. Who spoke?", "Bo"), Row("Hi. Bye. When?", "2022")],
    ),
    "HotpotQA": (
        {"question": "Where did it rain?", "answer": "Rome", "context": NEWS, "type": "bridge"},
        [Row("Rome It rained. All day. Oslo It snowed. Where did it rain?", "Rome")],
    ),
    "HotpotQA in columns": (
        {
            "question": "Where did it rain?",
            "answer": "Rome",
            "context": {"title": [title for title, _ in NEWS], "sentences": [said for _, said in NEWS]},
        },
        [Row("Rome It rained. All day. Oslo It snowed. Where did it rain?", "Rome")],
    ),
    "MuSiQue": (
        {"paragraphs": [{"idx": 0, "title": "Bo", "paragraph_text": "He ate."}], "question": "Who ate?", "answer": "Bo"},
        [Row("Bo He ate. Who ate?", "Bo")],
    ),
    "PubMedQA": (
        {"QUESTION": "Is it?", "CONTEXTS": ["It was seen.", "Twice."], "LABELS": ["A", "B"], "final_decision": "yes", "LONG_ANSWER": "so"},
        [Row("It was seen. Twice. Is it?", "yes")],
    ),
    "LongMemEval": (
        {
            "question": "What do I like?",
            "question_type": "single-session-user",
            "answer": "tea",
            "haystack_sessions": [[{"role": "user", "content": "I like tea."}, {"role": "assistant", "content": "Good."}], []],
        },
        [Row("I like tea. Good. What do I like?", "tea")],
    ),
    "CoQA": (
        {
            "story": "Bo has a cat.",
            "questions": [{"input_text": "Who has one?", "turn_id": 1}, {"input_text": "What?", "turn_id": 2}],
            "answers": [{"input_text": "Bo", "span_start": 0}, {"input_text": "a cat", "span_start": 7}],
        },
        [Row("Bo has a cat. Who has one?", "Bo"), Row("Bo has a cat. Who has one? Bo What?", "a cat")],
    ),
    "CoQA in columns": (
        {
            "story": "Bo has a cat.",
            "questions": ["Who has one?", "What?"],
            "answers": {"input_text": ["Bo", "a cat"], "answer_start": [0, 7]},
        },
        [Row("Bo has a cat. Who has one?", "Bo"), Row("Bo has a cat. Who has one? Bo What?", "a cat")],
    ),
    "a chatbot's intents": (
        {"tag": "greeting", "patterns": ["Hi", "How are you?"], "responses": ["Hello"]},
        [Row("Hi", "greeting"), Row("How are you?", "greeting")],
    ),
    "Watson": ({"intent": "bye", "examples": [{"text": "See you"}, {"text": "Ciao"}]}, [Row("See you", "bye"), Row("Ciao", "bye")]),
    "Self-Instruct": (
        {"instruction": "Add.", "is_classification": False, "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}]},
        [Row("Add. 1 1", "2"), Row("Add.", "0")],
    ),
    "Taskmaster": (
        {
            "utterances": [
                {"index": 0, "speaker": "USER", "text": "A ride, please."},
                {"index": 1, "speaker": "ASSISTANT", "text": "Sure."},
                {"index": 2, "speaker": "ASSISTANT", "text": "Where to?"},
                {"index": 3, "speaker": "USER", "text": "Home."},
            ]
        },
        [Row("A ride, please.", "Sure."), Row("A ride, please. Sure.", "Where to?")],
    ),
    "MultiWOZ": (
        {"turns": [{"speaker": "USER", "utterance": "Hi."}, {"speaker": "SYSTEM", "utterance": "Hello."}], "services": ["hotel"]},
        [Row("Hi.", "Hello.")],
    ),
    "a word in advance": (
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi."},
                {"role": "system", "content": "It is late."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": None},
                {"role": "assistant", "content": "So."},
            ]
        },
        [Row("Be kind. Hi. It is late.", "Hello."), Row("Be kind. Hi. It is late. Hello. Why?", "So.")],
    ),
    "utterances that are no turns": ({"utterances": ["a", "b"], "text": "t", "label": "x"}, [Row("t", "x")]),
    "a talk about a conversation": (
        {
            "conversation": {"first": [{"speaker": "Bo", "text": "I have a cat."}, {"speaker": "Al", "text": "Nice."}]},
            "questions": [{"input_text": "Who has one?"}],
            "answers": [{"input_text": "Bo"}],
        },
        [Row("I have a cat. Nice. Who has one?", "Bo")],
    ),
    "TriviaQA": ({"question": "Who?", "answer": {"value": "Bo", "aliases": ["Bob"]}}, [Row("Who?", "Bo")]),
    "Dolly": (
        {"instruction": "Name it.", "context": "Bo sat.", "response": "Bo", "category": "closed_qa"},
        [Row("Bo sat. Name it.", "Bo")],
    ),
    "a topic beside a text": ({"text": "Bo won.", "category": "sport", "output": "x"}, [Row("Bo won.", "sport")]),
    "a label beside a question": ({"question": "Who?", "answer": "Bo did.", "label": 1}, [Row("Who?", "1")]),
    "SAMSum": ({"dialogue": "A: Hi", "summary": "They met.", "id": "1"}, [Row("A: Hi", "They met.")]),
    "SciQ": ({"question": "What melts?", "correct_answer": "ice", "support": "Ice melts."}, [Row("Ice melts. What melts?", "ice")]),
    "questions about a question": ({"question": "Who?", "answer": "Bo", "questions": ["a", "b"]}, [Row("Who?", "Bo")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_as_published(form):
    record, expected = FORMS[form]
    assert rows(record) == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"article": "Bo.", "questions": [{"question": "Who?"}]}, "no answer among article, question"),
        ({"article": "Bo.", "questions": [], "answers": []}, "an empty text or answer"),
        ([["Hi."], [3]], "expected an object with a text and a label or answer"),
        ({"passage": "Bo.", "qa_pairs": [{"question": "When?", "answer": {"number": "", "spans": []}}]}, "an empty text or answer"),
    ],
)
def test_what_is_no_question_is_left_out_and_said(record, reason):
    *_, last = rows({"text": "t", "article": "a", "answer": "b"}, record)
    assert isinstance(last, Broken) and reason.split(" among")[0] in last.reason


def test_broken_questions_among_good_ones_have_their_place():
    found = rows({"article": "Bo.", "questions": [{"question": "Who?", "answer": "Bo"}, "x", {"question": "Why?", "answer": None}]})
    assert found[0] == Row("Bo. Who?", "Bo")
    assert [row.place for row in found[1:] if isinstance(row, Broken)] == ["0, question 2", "0, question 3"]


def test_texts_in_pieces_have_a_deepest_one():
    deep: object = "x"
    for _ in range(5000):
        deep = [deep]
    assert written(["a", deep, 3, None, {"title": "b", "id": "c"}]) == "a b"


def test_choices_are_counted_as_the_answers_of_all_splits_say():
    asked = {split: [{"question": f"q{n}", "options": ["x", "y"], "answer": n}] for split, n in (("train", 2), ("test", 1))}
    found = flat({split: [(split, record) for record in listed] for split, listed in asked.items()})
    assert {found[split][0][1]["choices"] for split in found} == {"1) x 2) y"}


def test_lines_of_records_under_another_name(tmp_path):
    lines = [json.dumps({"text": f"word{n} again", "label": "ab"[n % 2]}) for n in range(40)]
    lines[3] = "{broken"
    (tmp_path / "train.txt").write_text("\n".join(lines[:30]) + "\n")
    (tmp_path / "dev.txt").write_text("\n".join(lines[30:]) + "\n")
    (only,) = survey(tmp_path).datasets.values()
    assert only.kind == "choices" and len(only.splits["validation"]) == 10
    assert any("left out: 1 row" in remark and "train.txt:4" in remark for remark in only.remarks)


@pytest.mark.parametrize("inner", ["", "high"])
def test_a_file_for_each_record_in_folders_of_splits(inner, tmp_path):
    for split, many in (("train", 20), ("dev", 4), ("test", 6)):
        place = tmp_path / "RACE" / split / inner
        place.mkdir(parents=True)
        for n in range(many):
            asked = {"questions": ["Who?", "Why?"], "options": [["x", "y"], ["u", "v"]], "answers": ["A", "B"]}
            (place / f"{n}.txt").write_text(json.dumps({**asked, "article": f"{split} {n}.", "id": f"{n}.txt"}))
    (tmp_path / "RACE" / "train" / inner / "0.txt").write_text("{broken")
    found = survey(tmp_path)
    (only,) = found.datasets.values()
    assert only.name == (inner or "race") and not found.unread
    assert {split: len(listed) for split, listed in only.splits.items()} == {"train": 38, "validation": 8, "test": 12}
    assert any("left out: 1 row" in remark and "0.txt" in remark for remark in only.remarks)


def test_folders_of_one_name_in_those_of_splits_are_a_data_set_each(tmp_path):
    for split in ("train", "test"):
        for language in ("de", "en"):
            place = tmp_path / split / language
            place.mkdir(parents=True)
            (place / "data.csv").write_text("text,label\n" + "".join(f"{split} {language}{n},{'ab'[n % 2]}\n" for n in range(20)))
    found = survey(tmp_path)
    assert all(len(dataset.splits["test"]) == 20 for dataset in found.datasets.values())
    assert sorted(found.datasets) == ["de", "en"] and not found.unread


def test_a_split_alone_says_what_it_lacks(tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(20)))
    assert "it is of the validation split by its name" in survey(tmp_path).unread["dev.csv"]


RASA = """version: "3.1"
nlu:
- intent: greet
  examples: |
    - hi
    - good [morning](time) [Bo]{"entity": "name", "role": "host"}
- synonym: Bo
  examples: |
    - Bob
- intent: leave
  examples: |
    - bye
    - see you at [noon](time)
"""


def test_intents_of_rasa(tmp_path):
    for split in ("training", "test"):
        (tmp_path / f"{split}_data.yml").write_text(RASA)
    (tmp_path / "config.yml").write_text("pipeline:\n- name: x\n")
    found = survey(tmp_path)
    (dataset,) = found.datasets.values()
    assert dataset.splits["test"][0] == Row("hi", "greet") and len(dataset.splits["test"]) == 4
    assert {row.prompt for row in dataset.splits["test"]} == {"hi", "good morning Bo", "bye", "see you at noon"}
    assert list(found.unread) == ["config.yml"]


@pytest.mark.parametrize("text", ["nlu: 3\n", "nlu:\n- intent: [\n", "nlu:\n- 3\n", "nlu:\n", "nlu: &a [*a]\n", "[nlu]\nnlu:\n"])
def test_yaml_that_holds_no_intents_is_said(text, tmp_path):
    (tmp_path / "nlu.yml").write_text(text)
    found = survey(tmp_path)
    assert not found.datasets and list(found.unread) == ["nlu.yml"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("train.conll", "EU\tB-ORG\nrejects\tO\n\nBo\tB-PER\nsleeps\tO\n", "a word and its tag a line"),
        ("train.txt", "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n", "a word and its tag a line"),
        ("train.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:35dc\nsize 4\n", "git lfs pull"),
    ],
)
def test_what_is_no_data_of_ours_says_what_it_is(name, text, reason, tmp_path):
    (tmp_path / name).write_text(text)
    found = survey(tmp_path)
    assert not found.datasets and reason in found.unread[name]


@pytest.mark.parametrize("count", [3, 5, 100])
def test_the_turns_of_one_conversation_are_of_one_split(tmp_path, count):
    talks = [
        {"messages": [{"role": ("user", "assistant")[n % 2], "content": f"{talk} says {n}"} for n in range(12)]} for talk in range(count)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    (dataset,) = survey(tmp_path).datasets.values()
    told = {split: {row.prompt.split()[0] for row in rows} for split, rows in dataset.splits.items()}
    assert all(told.values()) and sum(map(len, told.values())) == count
    assert sum(map(len, dataset.splits.values())) == 6 * count


def test_of_long_conversations_the_beginning_is_asked_for():
    said = [{"role": ("user", "assistant")[n % 2], "content": str(n) * 5000} for n in range(10)]
    assert [row.answer[0] for row in rows({"messages": said})] == ["1", "3"]
    assert [row.answer for row in rows({"messages": [{"role": "user", "content": "x" * 20_000}, {"role": "bot", "content": "y"}]})] == ["y"]


def test_the_questions_about_one_text_alone_are_parted(tmp_path):
    asked = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(20)]
    (tmp_path / "text.json").write_text(json.dumps([{"article": "Bo.", "questions": asked}]))
    (dataset,) = survey(tmp_path).datasets.values()
    assert {split: len(found) for split, found in dataset.splits.items()} == {"train": 16, "validation": 2, "test": 2}
