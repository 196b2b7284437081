"""What a question offers stands behind it, however a record keeps it."""

import json

import pytest

from clbench.task_streams.local_text.corpus import Row
from clbench.task_streams.local_text.folder import survey
from clbench.task_streams.local_text.nested import flat
from clbench.task_streams.local_text.records import fields_of, record_rows

LETTERED = [{"label": "A", "text": "wet"}, {"label": "B", "text": "dry"}]


def row(record: dict) -> Row:
    found = flat({"train": [("here", record)]})["train"]
    (only,) = record_rows(found, fields_of(found))
    assert isinstance(only, Row), only
    return only


@pytest.mark.parametrize(
    ("record", "text", "answer"),
    [
        ({"question": "Old price?", "options": ["A)21", "B)21.5"], "rationale": "x", "correct": "B"}, "Old price? A) 21 B) 21.5", "B"),
        ({"question": "Old price?", "options": ["(a) 21", "(b) 21.5"], "answer": "b"}, "Old price? a) 21 b) 21.5", "b"),
        ({"question": "How far?", "options": ["3.5 km", "2.1 km"], "answer": "A"}, "How far? A) 3.5 km B) 2.1 km", "A"),
        ({"id": "1", "question": {"stem": "Rain is", "choices": LETTERED}, "answerKey": "A"}, "Rain is A) wet B) dry", "A"),
        ({"question": "Rain is", "choices": {"text": ["wet", "dry"], "label": ["1", "2"]}, "answerKey": "1"}, "Rain is 1) wet 2) dry", "1"),
        ({"question": "Rain is", "choices": ["wet", "dry"], "answer": 1, "subject": "sky"}, "Rain is 0) wet 1) dry", "1"),
        ({"question": "Rain is", "A": "wet", "B": "dry", "answer": "B"}, "Rain is A) wet B) dry", "B"),
        ({"question": "Rain is", "options": {"A": "wet", "B": "dry"}, "answer": "dry", "answer_idx": "B"}, "Rain is A) wet B) dry", "dry"),
        ({"ctx": "He writes. then", "ctx_a": "He writes.", "label": 1, "endings": ["x y", "z"]}, "He writes. then 0) x y 1) z", "1"),
        ({"sentence": "Ian ate _ up", "option1": "it", "option2": "him", "answer": "2"}, "Ian ate _ up 1) it 2) him", "2"),
        (
            {"context": "He spoke.", "question": "How?", "answerA": "well", "answerB": "ill", "correct": "A"},
            "He spoke. How? A) well B) ill",
            "A",
        ),
        ({"context": "Two came.", "question": "Who?", "ans0": "one", "ans1": "both", "label": 1}, "Two came. Who? 0) one 1) both", "1"),
        ({"goal": "Mend it", "sol1": "glue", "sol2": "cut", "label": 1}, "Mend it 1) glue 2) cut", "1"),
        ({"article": "Long.", "question": "Why?", "options": ["a x", "b y"], "answer": "A"}, "Long. Why? A) a x B) b y", "A"),
        ({"question": "Who came?", "options": ["Bob", "Ann"], "answer": "Ann"}, "Who came? Bob, Ann", "Ann"),
    ],
)
def test_forms_of_choices(record, text, answer):
    assert row(record) == Row(text, answer)


@pytest.mark.parametrize(
    "record",
    [
        {"text": "hello there", "options": ["x", "y"], "label": "greeting"},  # what is answered is none of them
        {"text": "hello there", "options": ["x"], "label": "x"},
        {"text": "hello there", "options": ["x", 3], "label": "x"},
        {"text": "hello there", "options": "x, y", "label": "x"},
        {"text": "hello there", "option": "x", "label": "x"},
        {"text": "hello there", "option2": "x", "option3": "y", "label": "x"},  # they do not count from a beginning
    ],
)
def test_what_is_no_choice_is_left_where_it_is(record):
    assert row(record) == Row("hello there", record["label"])


def test_columns_of_choices_stand_behind_the_question(tmp_path):
    head = "id,prompt,A,B,answer"
    rows = "\n".join(f"{n},which of {n}?,{n},{n + 1},{'AB'[n % 2]}" for n in range(90))
    (tmp_path / "train.csv").write_text(f"{head}\n{rows}\n")
    (tmp_path / "test.csv").write_text("answer,B,A,prompt\nA,y,x,which?\n")
    (dataset,) = survey(tmp_path).datasets.values()
    assert dataset.splits["test"] == (Row("which? A) x B) y", "A"),)
    assert dataset.labels == ("A", "B") and all(" A) " in row.prompt for row in dataset.splits["train"])
    assert any("column 2 text, columns 3, 4 choices, column 5 answer" in remark for remark in dataset.remarks)
    (tmp_path / "train.csv").write_text(f"{head}\n{rows.replace(',A', ',red').replace(',B', ',blue')}\n")
    (tmp_path / "test.csv").unlink()
    (dataset,) = survey(tmp_path).datasets.values()
    assert dataset.labels == ("blue", "red") and all(" A) " not in row.prompt for row in dataset.splits["train"])


def test_choices_reach_the_data_set_and_its_remark(tmp_path):
    lines = [
        json.dumps({"question": f"q {n}?", "options": [f"A) {n}", f"B) {n + 1}"], "why": "x", "correct": "AB"[n % 2]}) for n in range(90)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (dataset,) = survey(tmp_path).datasets.values()
    assert dataset.labels == ("A", "B") and dataset.kind == "choices"
    assert all(" A) " in row.prompt and " B) " in row.prompt for row in dataset.splits["train"])
    assert any("question, choices text, correct answer; not used: why" in remark for remark in dataset.remarks)
