"""Folders of text: every format gives its rows, what is broken is counted and said, what cannot be read says why."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from clbench.errors import UserError
from clbench.task_streams.local_text.corpus import Row, bucket
from clbench.task_streams.local_text.folder import survey
from clbench.task_streams.local_text.records import Named
from clbench.task_streams.local_text.stream import named

INTENTS = ("play", "stop", "wait")
SPLITS = ("train", "test")


def write(root: Path, files: dict[str, object]) -> Path:
    """A folder of these: text as it is, bytes as they are, all else as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return root


def lines(count: int, form: str = "{label} text number {n}") -> str:
    return "".join(form.format(label=INTENTS[n % 3], n=n) + "\n" for n in range(count))


def only(root: Path):
    """The one data set of a folder."""
    found = survey(root)
    assert len(found.datasets) == 1, (list(found.datasets), found.unread)
    return next(iter(found.datasets.values()))


TABLE = "text,category\n" + "".join(f"text {n},{INTENTS[n % 3]}\n" for n in range(30))
NEWS = "".join(f'"{n % 4 + 1}","Title {n}","What, {n}"\n' for n in range(40))
RECORDS = [{"sentence": f"text {n}", "label": INTENTS[n % 3]} for n in range(30)]
PROMPTS = [{"prompt": f"add {n} and {n}", "answer": str(2 * n)} for n in range(30)]
STORY = "1 Ann went home.\n2 Bob went out.\n3 Where is Ann? \thome\t1\n4 Ann went out.\n5 Where is Ann?\tout\t4\n"
SPOKEN = {i: {i: [{"data": [{"text": f"{i} "}, {"text": f"song {n}", "entity": "song"}]} for n in range(9)]} for i in INTENTS}
CLINC = {
    "train": [[f"text {n}", INTENTS[n % 3]] for n in range(30)],
    "val": [["text a", "play"]],
    "test": [["text b", "stop"]],
    "oos_test": [["strange", "oos"]],
}
PLAIN = "It was a dark and stormy night.\nThe rain fell.\n" * 30
KV = "".join(
    json.dumps({"ordered_kv_records": [[f"k{n}", f"v{n}"], ["x", "y"]], "key": f"k{n}", "value": f"v{n}"}) + "\n" for n in range(20)
)
COGS = "".join(f"A cat saw thing {n} .\tcat ( x {n} )\tin_distribution\n" for n in range(30))

CHAT = "".join(
    json.dumps(
        {
            "prompt": "again",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Say {n}."},
                {"role": "assistant", "content": f"It is {n}."},
            ],
        }
    )
    + "\n"
    for n in range(30)
)
TURNS = [[f"hello {n}", "hi", f"who is {n}?", f"Ann {n}"] for n in range(30)]
SHARED = [{"conversations": [{"from": ("human", "gpt")[n % 2], "value": said} for n, said in enumerate(turns)]} for turns in TURNS]
RIVERS = [[{"question": f"Which river {q}?", "answers": [{"text": f"river {n}"}] * 2} for q in "ab"] for n in range(15)]
SQUAD = {
    "version": "1",
    "data": [{"title": "T", "paragraphs": [{"context": f"City {n}.", "qas": asked} for n, asked in enumerate(RIVERS)]}],
}

NUMBERED = {str(n): record for n, record in enumerate(RECORDS)}
OBJECTS = {
    "splits of records": {"train": RECORDS, "test": RECORDS[:3]},
    "splits of pairs": {"train": [[r["sentence"], r["label"]] for r in RECORDS], "test": [["text 1", "stop"]]},
    "splits under data": {"data": {"Train": RECORDS, "test": RECORDS[:3]}},
    "columns": {key: [record[key] for record in RECORDS] for key in ("sentence", "label")},
    "columns as pandas writes them": {key: {n: record[key] for n, record in NUMBERED.items()} for key in ("sentence", "label")},
    "records by name": NUMBERED,
    "records of any name": {"name": "set", "few": [{"input": "a"}], "description": "..", "examples": RECORDS},
    "records one level down": {"nlu": {"examples": RECORDS, "synonyms": []}},
    "texts by label": {label: [r["sentence"] for r in RECORDS if r["label"] == label] for label in INTENTS},
    "pairs": [[record["sentence"], record["label"]] for record in RECORDS],
}
GOOD = {
    **{
        f"{name}{wide}": (
            {"a.json": json.dumps(held, indent=indent)},
            "choices",
            "JSON of splits" if "of pairs" in name else "JSON records",
            None,
            Row("text 4", "stop"),
        )
        for name, held in OBJECTS.items()
        for wide, indent in (("", None), (", on many lines", 1))
    },
    "rows that are not labelled": (
        {
            "train.tsv": "sentence\tlabel\n" + "".join(f"text {n}\t{n % 2}\n" for n in range(30)),
            "dev.tsv": "label\tsentence\n1\ttext 31\n",
            "test.tsv": "index\tsentence\n1\ttext 32\n",
        },
        "choices",
        "table",
        None,
        Row("text 31", "1"),
    ),
    "texts and nothing else": (
        {f"{s}.jsonl": "".join(json.dumps({"id": n, "text": f"text {n}"}) + "\n" for n in range(30)) for s in SPLITS},
        "text",
        "JSON records",
        30,
        Row("text 4"),
    ),
    "a column of texts": ({f"{s}.csv": "text\n" + lines(30, "say {n}") for s in SPLITS}, "text", "table", 30, Row("say 4")),
    "texts by source and target": (
        {f"{split}.{side}": lines(30, side + " {n}") for split in SPLITS for side in ("source", "target")},
        "answers",
        "two files, line by line",
        30,
        Row("source 4", "target 4"),
    ),
    "X and y": (
        {f"X_{split}.txt": lines(30, "text {n}") for split in SPLITS} | {f"y_{split}.txt": lines(30, "{label}") for split in SPLITS},
        "choices",
        "two files, line by line",
        30,
        Row("text 4", "stop"),
    ),
    "numbers that a mapping names": (
        {f"{split}_text.txt": lines(30, "text {n}") for split in SPLITS}
        | {f"{split}_labels.txt": "".join(f"{n % 3}\n" for n in range(30)) for split in SPLITS}
        | {"mapping.txt": "".join(f"{n}\t{label}\n" for n, label in enumerate(INTENTS))},
        "choices",
        "two files, line by line",
        30,
        Row("text 4", "stop"),
    ),
    "labels with their texts": (
        {
            f"{s}.jsonl": "".join(json.dumps({"text": f"a {n}", "label": n % 3, "label_text": INTENTS[n % 3]}) + "\n" for n in range(30))
            for s in SPLITS
        },
        "choices",
        "JSON records",
        30,
        Row("a 4", "stop"),
    ),
    "fastText": (
        {f"{s}.txt": lines(30, "__label__{label} text {n}") for s in SPLITS},
        "choices",
        "a label and a text a line",
        30,
        Row("text 4", "stop"),
    ),
    "UTF-16": (
        {f"{s}.csv": TABLE.replace("text 4", "text \u00e9").encode("utf-16") for s in SPLITS},
        "choices",
        "table",
        30,
        Row("text \u00e9", "stop"),
    ),
    "records on many lines each": (
        {"a.json": "\n".join(json.dumps(record, indent=1) for record in RECORDS)},
        "choices",
        "JSON records",
        None,
        Row("text 4", "stop"),
    ),
    "records that say whether they train": (
        {"a.json": {"sentences": [{**record, "training": n > 2} for n, record in enumerate(RECORDS + RECORDS[:3])]}},
        "choices",
        "JSON records",
        None,
        Row("text 4", "stop"),
    ),
    "one name that is known": (
        {"train.csv": "Utterance,Speaker,Mood\n" + "".join(f"text {n},['A B {n}'],{INTENTS[n % 3]}\n" for n in range(30))},
        "choices",
        "table",
        None,
        Row("text 4", "stop"),
    ),
    "conversations of roles": (
        {"train.jsonl": CHAT, "test.jsonl": CHAT},
        "answers",
        "JSON records",
        30,
        Row("Be brief. Say 3.", "It is 3."),
    ),
    "conversations of speakers": ({"chat.json": SHARED}, "answers", "JSON records", None, Row("hello 3 hi who is 3?", "Ann 3")),
    "passages with questions": (
        {"train-v1.1.json": SQUAD, "test-v1.1.json": json.dumps(SQUAD, indent=1)},
        "answers",
        "JSON records",
        30,
        Row("City 3. Which river b?", "river 3"),
    ),
    "answers under text": (
        {"a.json": [{"context": f"In {n}.", "question": "When?", "answers": {"text": [f"year {n}", "x"]}} for n in range(30)]},
        "answers",
        "JSON records",
        None,
        Row("In 3. When?", "year 3"),
    ),
    "records under data": ({"a.json": {"data": RECORDS}}, "choices", "JSON records", None, Row("text 4", "stop")),
    "named columns": ({"train.csv": TABLE, "test.csv": TABLE}, "choices", "table", 30, Row("text 4", "stop")),
    "unnamed columns": ({"train.csv": NEWS, "test.csv": NEWS}, "choices", "table", 40, Row("Title 4 What, 4", "1")),
    "tabs": ({"train.tsv": TABLE.replace(",", "\t"), "test.tsv": TABLE.replace(",", "\t")}, "choices", "table", 30, Row("text 4", "stop")),
    "quotes in tabs": (
        {"train.tsv": "".join(f'say "{n}\tplay\n' for n in range(9)) + "a\tstop\n" * 3, "test.tsv": "x\tplay\n"},
        "choices",
        "table",
        12,
        Row('say "3', "play"),
    ),
    "three columns": ({"train.tsv": COGS, "test.tsv": COGS}, "answers", "table", 30, Row("A cat saw thing 4 .", "cat ( x 4 )")),
    "label lines": (
        {"train.txt": lines(30, "{n}:").replace(":", "") and "".join(f"{n % 3} text {n}\n" for n in range(30)), "test.txt": "1 other\n"},
        "choices",
        "a label and a text a line",
        30,
        Row("text 4", "1"),
    ),
    "fine labels": (
        {
            "train_5500.label": "".join(f"{('DESC:manner', 'HUM:ind')[n % 2]} How {n} ?\n" for n in range(20)).encode()
            + b"HUM:ind Caf\xe9 ?\n",
            "test.label": "HUM:ind Who ?\n",
        },
        "choices",
        "a label and a text a line",
        21,
        Row("Café ?", "HUM:ind"),
    ),
    "records with labels": (
        {"agnews/train.json": RECORDS, "agnews/test.json": RECORDS, "agnews/labels.json": [*INTENTS]},
        "choices",
        "JSON records",
        30,
        Row("text 4", "stop"),
    ),
    "prompts": (
        {"train.json": PROMPTS, "eval.json": PROMPTS, "test.json": PROMPTS},
        "answers",
        "JSON records",
        30,
        Row("add 4 and 4", "8"),
    ),
    "lines of JSON": (
        {"train.jsonl": "".join(json.dumps(r) + "\n" for r in RECORDS), "test.jsonl": json.dumps(RECORDS[0])},
        "choices",
        "JSON records",
        30,
        Row("text 4", "stop"),
    ),
    "numbers as labels": (
        {"train.json": [{"text": f"t {n}", "label": n % 2} for n in range(20)], "test.json": [{"text": "a", "label": 1}]},
        "choices",
        "JSON records",
        20,
        Row("t 4", "0"),
    ),
    "key-value": ({"kv.jsonl.gz": KV}, "answers", "JSON records", None, None),
    "splits": (
        {"data_full.json": json.dumps(CLINC, indent=1), "domains.json": {"music": [*INTENTS]}},
        "choices",
        "JSON of splits",
        30,
        None,
    ),
    "spoken": (
        {f"{s}_{i}.json": SPOKEN[i] for i in INTENTS for s in ("train", "validate")},
        "choices",
        "SNIPS",
        None,
        Row("play song 0", "play"),
    ),
    "spoken, in a folder each": (
        {f"{i}/{s}_{i}{f}.json": SPOKEN[i] for i in INTENTS for s, f in (("train", ""), ("train", "_full"), ("validate", ""))}
        | {f"{i}/Alexa_metrics.json": {"a": 1} for i in INTENTS},
        "choices",
        "SNIPS",
        None,
        Row("play song 0", "play"),
    ),
    "two files, one split of which is not whole": (
        {"train.src": lines(9, "in {n}"), "train.tgt": lines(9, "out {n}"), "test.src": "a\n", "test.tgt": "b\n", "dev.src": "c\n"},
        "answers",
        "two files, line by line",
        None,
        Row("in 4", "out 4"),
    ),
    "two files": (
        {"train.src": lines(9, "in {n}"), "train.tgt": lines(9, "out {n}"), "test.src": "a\n", "test.tgt": "b\n"},
        "answers",
        "two files, line by line",
        9,
        Row("in 4", "out 4"),
    ),
    "titles and labels": (
        {"title_X.txt": lines(30, "title {n}"), "label_X.txt": lines(30, "{label}")},
        "choices",
        "two files, line by line",
        None,
        Row("title 4", "stop"),
    ),
    "stories": ({"qa1_one_train.txt": STORY * 9, "qa1_one_test.txt": STORY}, "choices", "bAbI", None, None),
    "commands": (
        {"tasks_train_x.txt": "IN: jump twice OUT: J J\n" * 9, "tasks_test_x.txt": "IN: run OUT: R\n"},
        "answers",
        "SCAN",
        9,
        Row("jump twice", "J J"),
    ),
    "plain text": ({"brown/train.txt": PLAIN, "brown/valid.txt": PLAIN, "brown/test.txt": PLAIN}, "text", "plain text", 1, Row(PLAIN)),
    "one text": ({"alice.txt": PLAIN}, "text", "plain text", 1, None),
    "a byte order mark": (
        {"train.csv": b"\xef\xbb\xbf" + TABLE.encode(), "test.csv": TABLE},
        "choices",
        "table",
        30,
        Row("text 0", "play"),
    ),
    "line ends of Windows": ({"train.csv": TABLE.replace("\n", "\r\n"), "test.csv": TABLE}, "choices", "table", 30, Row("text 4", "stop")),
    "names that are not known": (
        {
            f"{split}.csv": "id,tweet,stance\n" + "".join(f"{n},text {n},{INTENTS[n % 3]}\n" for n in range(30))
            for split in ("train", "test")
        },
        "choices",
        "table",
        30,
        Row("text 4", "stop"),
    ),
    "an answer of another name": (
        {"train.csv": "Class Index,Title,Description\n" + NEWS, "test.csv": NEWS},
        "choices",
        "table",
        40,
        Row("Title 4 What, 4", "1"),
    ),
    "a question of two columns": (
        {f"{s}.tsv": "id\tquestion1\tquestion2\tis_same\n" + "".join(f"{n}\tis {n}\tor {n}\t{n % 2}\n" for n in range(30)) for s in SPLITS},
        "choices",
        "table",
        30,
        Row("is 4 or 4", "0"),
    ),
    "a column of splits": (
        {
            "all.csv": "text,label,split\n"
            + "".join(f"text {n},{INTENTS[n % 3]},{('train', 'train', 'val', 'test')[n % 4]}\n" for n in range(40))
        },
        "choices",
        "table",
        20,
        Row("text 4", "stop"),
    ),
    "a field of splits": (
        {
            "en-US.jsonl": "".join(
                json.dumps({"partition": ("train", "dev", "test")[n % 3], "utt": f"u {n}", "intent": INTENTS[n % 2]}) + "\n"
                for n in range(60)
            )
        },
        "choices",
        "JSON records",
        20,
        Row("u 3", "stop"),
    ),
    "semicolons": ({f"{s}.csv": TABLE.replace(",", ";") for s in SPLITS}, "choices", "table", 30, Row("text 4", "stop")),
    "a text, a semicolon and a label": (
        {f"{s}.txt": lines(30, "i feel, {n};{label}") for s in SPLITS},
        "choices",
        "table",
        30,
        Row("i feel, 4", "stop"),
    ),
    "several fields of text": (
        {
            f"{s}.jsonl": "".join(json.dumps({"label": n % 4, "title": f"T {n}", "content": f"C {n}", "idx": n}) + "\n" for n in range(30))
            for s in SPLITS
        },
        "choices",
        "JSON records",
        30,
        Row("T 4 C 4", "0"),
    ),
    "true and false": (
        {
            f"{s}.jsonl": "".join(json.dumps({"passage": f"P {n}", "question": f"Q {n}", "label": n % 2 == 0}) + "\n" for n in range(30))
            for s in SPLITS
        },
        "choices",
        "JSON records",
        30,
        Row("P 4 Q 4", "True"),
    ),
    "fields that are not known": (
        {
            "train.json": [{"tweet": f"text {n}", "stance": INTENTS[n % 3], "id": n} for n in range(30)],
            "test.json": [{"tweet": "a", "stance": "play"}],
        },
        "choices",
        "JSON records",
        30,
        Row("text 4", "stop"),
    ),
    "parts of a file": (
        {
            "train-00000-of-00002.jsonl": "".join(json.dumps(r) + "\n" for r in RECORDS[:20]),
            "train-00001-of-00002.jsonl": "".join(json.dumps(r) + "\n" for r in RECORDS[20:]),
            "test-00000-of-00001.jsonl": json.dumps(RECORDS[0]),
        },
        "choices",
        "JSON records",
        30,
        Row("text 24", "play"),
    ),
    "folders of splits": ({f"{s}/data.csv": TABLE for s in SPLITS}, "choices", "table", 30, Row("text 4", "stop")),
    "texts and intents in folders": (
        {f"{s}/{n}": lines(30, f) for s in SPLITS for n, f in (("seq.in", "text {n}"), ("label", "{label}"), ("seq.out", "O O"))},
        "choices",
        "two files, line by line",
        30,
        Row("text 4", "stop"),
    ),
    "folders of answers": (
        {f"{s}/{i}/{n}_7.txt": f"{i} {n}\n" for s in SPLITS for i in INTENTS for n in range(9)},
        "choices",
        "a folder for each answer",
        27,
        Row("stop 4", "stop"),
    ),
    "folders of answers without splits": (
        {f"bbc/{i}/{n:03}.txt": f"{i} {n}\n" for i in INTENTS for n in range(40)},
        "choices",
        "a folder for each answer",
        None,
        Row("stop 4", "stop"),
    ),
    "folders of answers by date": (
        {f"news-{s}/{i}.x/{49_000 + n}": f"{i} {n}\n" for s in SPLITS for i in INTENTS for n in range(9)},
        "choices",
        "a folder for each answer",
        27,
        Row("stop 4", "stop.x"),
    ),
    "documents in folders of splits": (
        {"train/a.txt": PLAIN, "train/b.txt": PLAIN[::-1], "test/c.txt": PLAIN, "validation/d.txt": PLAIN},
        "text",
        "plain texts",
        2,
        Row(PLAIN[::-1]),
    ),
    "tokens": ({f"wiki.{s}.tokens": PLAIN for s in SPLITS}, "text", "plain text", None, Row(PLAIN)),
    "named numbers": (
        {"train.csv": NEWS, "test.csv": NEWS, "classes.txt": "World\nSports\nBusiness\nScience\n"},
        "choices",
        "table",
        40,
        Row("Title 4 What, 4", "World"),
    ),
    "TREC": (
        {"train_5500.label": lines(30, "HUM:{label} text {n}"), "TREC_10.label": "HUM:play Who ?\n"},
        "choices",
        "a label and a text a line",
        30,
        Row("Who ?", "HUM:play"),
    ),
    "endings that are answers": (
        {"rt-polarity.pos": "".join(f"good {n}\n" for n in range(15)), "rt-polarity.neg": "".join(f"bad {n}\n" for n in range(15)) + "\n"},
        "choices",
        "a file for each answer",
        None,
        Row("bad 3", "neg"),
    ),
    "names that are answers": (
        {
            **{f"{split}_{word}.txt": "".join(f"{word} {n}\n" for n in range(15)) for split in SPLITS for word in ("pos", "neg")},
            "test_neg.txt": b"caf\xe9\n",
        },
        "choices",
        "a file for each answer",
        30,
        Row("café", "neg"),
    ),
    "folders of names that are answers": (
        {f"{split}/{word}.txt": "".join(f"{word} {n}\n" for n in range(15)) for split in SPLITS for word in ("positive", "negative")},
        "choices",
        "a file for each answer",
        30,
        Row("positive 3", "positive"),
    ),
    "packed": ({"train.csv.gz": TABLE, "test.csv.gz": TABLE}, "choices", "table", 30, Row("text 4", "stop")),
}


@pytest.mark.parametrize("case", GOOD)
def test_every_format_gives_its_rows(case, tmp_path):
    files, kind, form, count, row = GOOD[case]
    found = only(write(tmp_path, files))
    assert (found.kind, found.form) == (kind, form)
    taken = any("no validation split" in remark for remark in found.remarks)
    assert count is None or len(found.splits["train"]) + len(found.splits["validation"]) * taken == count
    everything = [each for split in found.splits.values() for each in split]
    assert len(everything) > 1 and found.splits["train"] and found.splits["test"]
    assert row is None or row in everything


BROKEN = {
    "several answers": (
        {"a.json": [{"question": f"q {n}", "answer": [f"a{n}", "b"][: n % 2 + 1] * 2} for n in range(30)]},
        "15 rows have several answers, of which the first is taken",
    ),
    "a line that is nested deep": (
        {"train.jsonl": "".join(json.dumps(row) + "\n" for row in RECORDS) + "[" * 100_000 + "\n"},
        "left out: 1 row, expected an object with a text and a label or answer (first: train.jsonl:31)",
    ),
    "no answer": (
        {
            "a.json": [
                *({"question": f"q {n}", "answers": {"text": [f"a {n}"]}} for n in range(30)),
                {"question": "q", "answers": {"text": []}},
            ]
        },
        "left out: 1 row, an empty text or answer (first: a.json: record 31)",
    ),
    "a conversation of one": (
        {"a.jsonl": CHAT + json.dumps({"messages": [{"role": "user", "content": "alone"}]}) + "\n"},
        "left out: 1 row, no answer and no text (first: a.jsonl:31)",
    ),
    "turns that are none": ({"a.json": [*SHARED, {"conversations": ["hello", 3]}]}, "left out: 1 row, no answer and no text"),
    "passages that are none": (
        {"a.json": {"data": [*SQUAD["data"], {"paragraphs": [3, {"context": "c", "qas": ["q"]}]}]}},
        "left out: 2 rows, expected an object with a text and a label or answer",
    ),
    "short record": ({"train.csv": TABLE + "alone\n", "test.csv": TABLE}, "left out: 1 row, expected 2 columns (first: train.csv:32)"),
    "long record": ({"train.csv": TABLE + "a,b,c\n", "test.csv": TABLE}, "left out: 1 row, expected 2 columns (first: train.csv:32)"),
    "empty text": ({"train.csv": TABLE + ",play\n", "test.csv": TABLE}, "left out: 1 row, an empty text or answer (first: train.csv:32)"),
    "empty label": (
        {"train.csv": TABLE + "a,\nb,\n", "test.csv": TABLE},
        "left out: 2 rows, an empty text or answer (first: train.csv:32)",
    ),
    "unlisted label": (
        {"train.json": [*RECORDS, {"sentence": "a", "label": "-"}], "test.json": RECORDS, "labels.json": [*INTENTS]},
        "1 rows have labels that labels.json does not list, as '-': left out",
    ),
    "labels by name": (
        {"train.json": [*RECORDS, {"sentence": "a", "label": "-"}], "test.json": RECORDS, "labels.json": {"x": [*INTENTS]}},
        "1 rows have labels that labels.json does not list, as '-': left out",
    ),
    "unknown answer": (
        {"train.csv": TABLE, "test.csv": TABLE + "new,dance\n"},
        "1 test rows have answers that no training row has, as 'dance': left out",
    ),
    "no label": (
        {"train.json": [*RECORDS, {"sentence": "a"}], "test.json": RECORDS},
        "no answer among sentence (first: train.json: record 31)",
    ),
    "no text": ({"train.json": [*RECORDS, {"label": "play"}], "test.json": RECORDS}, "no text among label (first: train.json: record 31)"),
    "null label": (
        {"train.json": [*RECORDS, {"sentence": "a", "label": None}], "test.json": RECORDS},
        "no answer among label, sentence (first: train.json: record 31)",
    ),
    "several labels": (
        {"train.json": [*RECORDS, {"sentence": "a", "label": ["b", "c"]}], "test.json": RECORDS},
        "1 row has several answers, of which the first is taken",
    ),
    "a fraction as label": (
        {"train.json": [*RECORDS, {"sentence": "a", "label": [0.5]}], "test.json": RECORDS},
        "an answer that is neither text nor a whole number",
    ),
    "an object as label": ({"train.json": [*RECORDS, {"sentence": "a", "label": {"b": 1}}], "test.json": RECORDS}, "no answer among label"),
    "a number as text": ({"train.json": [*RECORDS, {"sentence": 3, "label": "play"}], "test.json": RECORDS}, "a text that is no text"),
    "no object": ({"train.json": [*RECORDS, 7], "test.json": RECORDS}, "expected an object with a text and a label or answer"),
    "a broken line": (
        {"train.jsonl": "".join(json.dumps(r) + "\n" for r in RECORDS) + '{"sentence": "a", \n', "test.jsonl": json.dumps(RECORDS[0])},
        "expected an object with a text and a label or answer (first: train.jsonl:31)",
    ),
    "a pair of three": (
        {"data.json": json.dumps({**CLINC, "train": [*CLINC["train"], ["a", "b", "c"]]}, indent=1)},
        "expected [text, label] (first: data.json: train 31)",
    ),
    "an utterance without text": (
        {
            **{f"{s}_{i}.json": SPOKEN[i] for i in INTENTS for s in ("train", "validate")},
            "train_play.json": {"play": [*SPOKEN["play"]["play"], {"data": []}]},
        },
        "an utterance without text (first: train_play.json: utterance 10)",
    ),
    "an utterance of another form": (
        {
            **{f"{s}_{i}.json": SPOKEN[i] for i in INTENTS for s in ("train", "validate")},
            "train_play.json": {"play": [*SPOKEN["play"]["play"], {"text": "a"}]},
        },
        'expected {"data": [{"text": ..}, ..]} (first: train_play.json: utterance 10)',
    ),
    "a question without answer": (
        {"qa1_x_train.txt": STORY * 9 + "1 Ann went home.\n2 Where is Ann?\t\t1\n", "qa1_x_test.txt": STORY},
        "a question without an answer (first: qa1_x_train.txt:47)",
    ),
    "a question first": (
        {"qa1_x_train.txt": STORY * 9 + "1 Where is Ann?\thome\t1\n", "qa1_x_test.txt": STORY},
        "a question before any statement (first: qa1_x_train.txt:46)",
    ),
    "a line without number": (
        {"qa1_x_train.txt": STORY * 9 + "Ann went home.\n", "qa1_x_test.txt": STORY},
        "expected a number, a blank and a statement (first: qa1_x_train.txt:46)",
    ),
    "a command without actions": (
        {"tasks_train_x.txt": "IN: jump OUT: J\n" * 9 + "IN: walk\n", "tasks_test_x.txt": "IN: run OUT: R\n"},
        "expected IN: command OUT: actions (first: tasks_train_x.txt:10)",
    ),
    "an empty line of two files": (
        {"train.src": "a\n\nb\n", "train.tgt": "A\nX\nB\n", "test.src": "a\n", "test.tgt": "b\n"},
        "a line that is empty in one of the two files (first: train.src:2)",
    ),
    "a label without text": (
        {"train.txt": "".join(f"{n % 3} text {n}\n" for n in range(30)) + "2\n", "test.txt": "1 other\n"},
        "a label without a text (first: train.txt:31)",
    ),
    "latin-1": (
        {"train.csv": TABLE.encode() + b"caf\xe9,play\n", "test.csv": TABLE},
        "train.csv: not UTF-8 at byte 397, read as latin-1",
    ),
    "an unknown key": (
        {"kv.jsonl": KV + json.dumps({"ordered_kv_records": [["a", "b"]], "key": "z", "value": "b"}) + "\n"},
        "a key that is not among its records (first: kv.jsonl:21)",
    ),
    "records that are no pairs": (
        {"kv.jsonl": KV + json.dumps({"ordered_kv_records": [["a"]], "key": "a", "value": "b"}) + "\n"},
        "expected ordered_kv_records of pairs, a key and its value (first: kv.jsonl:21)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_left_out_and_said(case, tmp_path):
    files, remark = BROKEN[case]
    found = only(write(tmp_path, files))
    assert any(remark in said for said in found.remarks), found.remarks
    assert found.splits["train"] and found.splits["test"]


UNREADABLE = {
    "empty": ({"train.csv": ""}, "train.csv", "is empty"),
    "blank": ({"train.txt": " \n\n"}, "train.txt", "is empty"),
    "zero bytes": ({"train.csv": b"a\0b,c\n"}, "train.csv", "is not text"),
    "no gzip": ({"x": b""}, "x", "is empty"),
    "one column": ({"train.csv": "a\nb\nc\n"}, "train.csv", "has one column"),
    "strange columns": ({"train.csv": "text,sentence\na,b\nc,d\n"}, "train.csv", "has the columns text, sentence"),
    "no JSON": ({"train.json": '[{"text": "a", '}, "train.json", "is no JSON"),
    "nested deep": ({"train.json": "[" * 100_000}, "train.json", "is no JSON that can be read"),
    "another object": ({"config.json": json.dumps({"a": 1, "b": 2}, indent=1)}, "config.json", "no split 'train' of them (it has a, b)"),
    "lines that do not match": ({"train.src": "a\nb\n", "train.tgt": "A\n"}, "train.src", "has 2 lines where 'train.tgt' has 1"),
    "one half": ({"train.src": "a\nb\n"}, "train.src", "is one of two files that belong together line by line, and there is no other"),
    "only test rows": ({"test.csv": TABLE}, "test.csv", "leaves no training rows"),
    "nothing but broken rows": ({"train.json": [1, 2], "test.json": [3]}, "train.json", "leaves no training rows (left out: 3 rows"),
    "arrow": ({"train/data-00000-of-00001.arrow": b"ARROW1"}, "train/data-00000-of-00001.arrow", "write it with to_parquet or to_json"),
    "no records": ({"a.json": {"layers": [{"n": 1}, {"n": 2}]}}, "a.json", "no text among n (first: a.json: layers 1)"),
    "a broken object": ({"a.json": '{"train": [\n["a", "b"],\n'}, "a.json", "is no JSON"),
    "lists of names": ({"intents.json": {domain: [*INTENTS] * 3 for domain in "ab"}}, "intents.json", "no text among a, b"),
    "no cells": ({"train.csv": ' , ,""\n'}, "train.csv", "is a table without cells"),
    "a zip archive": ({"train.zip": b"PK\x03\x04\0"}, "train.zip", "is packed (a zip archive or a workbook)"),
    "another ending": ({"model.safetensors": "abc\n"}, "model.safetensors", "is of no kind that can be read"),
    "no parquet": ({"train.parquet": "abc\n"}, "train.parquet", "p"),  # says what it needs, or that it is none
    "bad domains": ({"data.json": json.dumps(CLINC, indent=1), "domains.json": [1]}, "data.json", "'domains.json' that is no object"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_says_why(case, tmp_path):
    files, name, reason = UNREADABLE[case]
    found = survey(write(tmp_path, files))
    assert not found.datasets and reason in found.unread[name]


def test_a_broken_gzip_says_so(tmp_path):
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:40])
    assert "cannot be read" in survey(tmp_path).unread["train.csv.gz"]


def test_stories_keep_statements_and_how_old_the_support_is(tmp_path):
    found = only(write(tmp_path, {"qa1_x_train.txt": STORY * 9, "qa1_x_valid.txt": STORY, "qa1_x_test.txt": STORY}))
    first, second = found.splits["test"]
    assert first == Row("Ann went home. Bob went out. Where is Ann?", "home", 2)
    assert second == Row("Ann went home. Bob went out. Ann went out. Where is Ann?", "out", 1)
    assert found.question_last and found.labels == ("home", "out") and len(found.splits["train"]) == 18 and found.overlap == 2


def test_splits_that_are_missing_are_taken_by_a_hash_so_that_equal_texts_stay_together(tmp_path):
    rows = [f"text {n},{INTENTS[n % 3]}\n" for n in range(300)] * 2
    found = only(write(tmp_path, {"all.csv": "text,label\n" + "".join(rows)}))
    assert all(bucket(row.prompt) == 9 for row in found.splits["test"]) and all(
        bucket(row.prompt) == 8 for row in found.splits["validation"]
    )
    assert found.overlap == 0 and sum(map(len, found.splits.values())) == 600
    assert 40 < len(found.splits["test"]) < 80


def test_what_stands_beside_folders_of_answers_and_what_has_none_is_left_out_aloud(tmp_path):
    files = {f"{s}/{i}/{n}_7.txt": f"{i} {n}\n" for s in SPLITS for i in (*INTENTS, "unsup") for n in range(9)}
    files |= {"train/urls_play.txt": "http\n", "train/play/x.txt": b"caf\xe9", "test/stop/empty.txt": ""}
    found = survey(write(tmp_path, files))
    (dataset,) = found.datasets.values()
    assert dataset.labels == INTENTS and found.unread == {"train/urls_play.txt": "stands beside folders that are answers"}
    assert "train/unsup: texts without an answer, left out" in dataset.remarks
    assert "1 files are not UTF-8, read as latin-1 (first: play/x.txt)" in dataset.remarks
    assert "left out: 1 row, a file that is empty (first: stop/empty.txt)" in dataset.remarks


@pytest.mark.parametrize("names", ["{}.tsv", "multinli_1.0_{}.txt"])
def test_the_matched_validation_set_is_that_of_the_training_set(names, tmp_path):
    sizes = {"train": 90, "dev_matched": 9, "dev_mismatched": 6}
    head, row = "sentence1\tsentence2\tgold_label\n", "one {0} {1}\ttwo {0}\t{2}\n"
    files = {names.format(s): head + "".join(row.format(n, s, INTENTS[n % 3]) for n in range(size)) for s, size in sizes.items()}
    found = survey(write(tmp_path, files))
    (dataset,) = found.datasets.values()
    assert len(dataset.splits["validation"]) == 9 and sum(map(len, dataset.splits.values())) == 99
    assert [*found.unread] == [names.format("dev_mismatched")]


def test_answers_line_by_line_without_their_training_texts_are_no_text(tmp_path):
    for name in ("train_labels", "test_labels", "test_text"):
        (tmp_path / f"{name}.txt").write_text("0\n1\n" * 20)
    found = survey(tmp_path)
    assert not found.datasets and len(found.unread) == 3
    assert all("none for training" in reason for reason in found.unread.values())


def test_other_answers_beside_a_pair_are_no_text_and_samples_are_named_after_what_they_are_of(tmp_path):
    words = "\n".join(f"text {n}" for n in range(40))
    labels = "\n".join(INTENTS[n % 3] for n in range(40))
    places = {place: words for place in ("a/train", "a/test", "a/train_5", "b/train_5")}
    files = {f"{place}/seq.in": text for place, text in places.items()} | {f"{place}/label": labels for place in places}
    found = survey(write(tmp_path, files | {"b/train_5/label_original": labels}))
    assert sorted(found.datasets) == ["a", "a-train-5", "b-train-5"]
    assert [*found.unread] == ["b/train_5/label_original"] and "other answers of the same texts" in found.unread["b/train_5/label_original"]


@pytest.mark.parametrize("column", ["split", "set", "fold"])
def test_a_column_or_field_says_the_split_under_several_names(column, tmp_path):
    rows = [(f"text {n}", INTENTS[n % 3], ("train", "train", "valid", "test")[n % 4]) for n in range(60)]
    table = f"text,label,{column}\n" + "".join(",".join(row) + "\n" for row in rows)
    lines = "\n".join(json.dumps(dict(zip(("text", "label", column), row, strict=True))) for row in rows)
    for name, text in (("a.csv", table), ("b.jsonl", lines)):
        found = only(write(tmp_path / name[0], {name: text}))
        assert {split: len(held) for split, held in found.splits.items()} == {"train": 30, "validation": 15, "test": 15}


def test_books_in_folders_are_texts_of_their_own(tmp_path):
    book = PLAIN * 60
    found = survey(write(tmp_path, {f"{i}/{n}.txt": book for i in INTENTS[:2] for n in range(3)}))
    assert {dataset.kind for dataset in found.datasets.values()} == {"text"} and len(found.datasets) == 6


@pytest.mark.parametrize("names", ["World\nSports\n", "World\nWorld\nBusiness\nScience\n", "\n"])
def test_names_that_do_not_fit_the_numbers_change_nothing(names, tmp_path):
    found = only(write(tmp_path, {"train.csv": NEWS, "test.csv": NEWS, "classes.txt": names}))
    assert found.labels == ("1", "2", "3", "4")


def test_a_column_that_names_other_things_than_splits_says_no_split(tmp_path):
    rows = "".join(f"text {n},{INTENTS[n % 3]},{'train' if n else 'north'}\n" for n in range(40))
    found = only(write(tmp_path, {"all.csv": "text,label,split\n" + rows + "short,play\n"}))
    assert sum(map(len, found.splits.values())) == 40 and any("no test split" in remark for remark in found.remarks)
    rows = rows.replace("north", "test")
    found = only(write(tmp_path, {"all.csv": "text,label,split\n" + rows + "short,play\n"}))
    assert found.splits["test"] == (Row("text 0", "play"),)
    assert "left out: 1 row, expected 3 columns (first: all.csv:42)" in found.remarks


def test_a_first_row_of_an_answer_that_stands_there_alone_is_a_row(tmp_path):
    rows = "how do I get there,help\n" + "".join(f"this is text {n},{INTENTS[n % 3]}\n" for n in range(30))
    assert "help" in only(write(tmp_path, {"train.csv": rows, "test.csv": "x,play\n"})).labels


def test_what_is_no_text_is_none_though_its_name_is_known(tmp_path):
    rows = [{"text": f"text {n}", "review": n, "title": None if n % 2 else "T", "label": n % 3} for n in range(30)]
    found = only(write(tmp_path, {"train.json": rows, "test.json": rows}))
    assert found.splits["test"][:2] == (Row("text 0 T", "0"), Row("text 1", "1")) and len(found.splits["test"]) == 30
    assert "fields: text, title text, label answer; not used: review" in found.remarks


def test_fields_of_no_use_are_named(tmp_path):
    rows = [{"label": n % 2, "title": f"T {n}", "idx": n} for n in range(9)]
    found = only(write(tmp_path, {"train.json": rows, "test.json": rows}))
    assert "fields: title text, label answer; not used: idx" in found.remarks


def test_few_rows_in_the_order_of_their_answers_are_parted_all_over(tmp_path):
    texts = [text for n in range(99) if bucket(text := f"text {n}") < 8][:30]  # a hash takes none of them
    rows = [f"{text},{INTENTS[n // 10]}" for n, text in enumerate(texts)]
    splits = only(write(tmp_path, {"all.csv": "text,label\n" + "\n".join(rows) + "\n"})).splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 24, "validation": 3, "test": 3}
    assert all({row.answer for row in part} == {*INTENTS} for part in splits.values())
    assert len({row for part in splits.values() for row in part}) == 30


def test_two_rows_are_too_few_to_be_parted(tmp_path):
    found = survey(write(tmp_path, {"all.csv": "text,label\nyes,play\nno,stop\n"}))
    assert not found.datasets and "leaves no training rows" in found.unread["all.csv"]


def test_a_text_without_splits_is_cut_into_blocks(tmp_path):
    text = "".join(f"line {n}\n" for n in range(500))
    splits = only(write(tmp_path, {"book.txt": text})).splits
    parts = [splits[name][0].prompt for name in ("train", "validation", "test")]
    assert "".join(parts) == text and len(parts[1]) == len(parts[2]) == len(text) // 10


def test_several_data_sets_are_named_by_their_files_or_folders_in_natural_order(tmp_path):
    files = {f"en/qa{n}_x_{split}.txt": STORY * 9 for n in (10, 2, 1) for split in ("train", "test")}
    files |= {"brown/train.txt": PLAIN, "brown/test.txt": PLAIN, "news/train.txt": PLAIN, "news/test.txt": PLAIN}
    files |= {"README.md": "# hello", "LICENSE": "free", ".hidden/train.csv": TABLE}
    found = survey(write(tmp_path, files))
    assert list(found.datasets) == ["brown", "news", "qa1-x", "qa2-x", "qa10-x"] and not found.unread


def test_utterances_stand_beside_the_folders_of_splits(tmp_path):
    spoken = {f"{i}/{split}_{i}.json": SPOKEN[i] for i in INTENTS for split in ("train", "validate")}
    found = survey(write(tmp_path / "both", {**spoken, "play/notes.csv": TABLE, **{f"{split}/news.csv": NEWS for split in SPLITS}}))
    assert sorted(map(len, (dataset.labels for dataset in found.datasets.values()))) == [3, 4]
    assert found.unread == {"play/notes.csv": "stands beside utterances and holds none"}


def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path):
    folder = write(tmp_path / "sets", {f"a/{split}.csv": TABLE for split in SPLITS})
    (folder / "a" / "around").symlink_to(folder)
    (folder / "itself").symlink_to(folder)
    found = survey(folder)
    assert list(found.datasets) == ["a"] and not found.unread


def test_equal_names_stay_apart(tmp_path):
    found = survey(write(tmp_path, {f"{place}/data/{split}.csv": TABLE for place in "ab" for split in ("train", "test")}))
    assert list(found.datasets) == ["b-data", "data"]


def test_what_is_out_of_scope_is_left_out_aloud_and_groups_are_kept(tmp_path):
    found = only(
        write(tmp_path, {"data_full.json": json.dumps(CLINC, indent=1), "domains.json": {"music": ["play", "stop"], "rest": ["wait"]}})
    )
    assert "oos_test: splits of no use here, left out" in found.remarks
    assert found.groups == {"music": ("play", "stop"), "rest": ("wait",)} and len(found.splits["test"]) == 1


def test_parquet_is_read_where_something_reads_it(tmp_path):
    pytest.importorskip("pyarrow")
    import pandas

    half = len(RECORDS) // 2
    parts = {"train-00000-of-00002": RECORDS[:half], "train-00001-of-00002": RECORDS[half:], "test-00000-of-00001": RECORDS}
    for name, rows in parts.items():
        pandas.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    found = only(tmp_path)
    assert len(found.labels) == 3 and sum(len(found.splits[split]) for split in ("train", "validation")) == len(RECORDS)
    (tmp_path / "chat").mkdir()
    pandas.DataFrame([json.loads(line) for line in CHAT.splitlines()]).to_parquet(tmp_path / "chat/train.parquet")
    assert Row("Be brief. Say 3.", "It is 3.") in [row for split in only(tmp_path / "chat").splits.values() for row in split]


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no folder '.*nowhere'; expected one with csv or tsv"):
        survey(tmp_path / "nowhere")


# -- what the user says of columns and fields


CALLS = "id;Answer;intent;place\n" + "".join(f"{n};please do {n};{INTENTS[n % 3]};at home {n}\n" for n in range(30))
FIRST = Row("please do 0", "play")
SENTENCES = [{"sentence": "no", "said": row["sentence"], "label": row["label"]} for row in RECORDS]
ANSWERS = [{"answer": row["sentence"], "label": row["label"]} for row in RECORDS]
SAID = {
    "a column by its name": ({"a.csv": CALLS}, Named(("answer",), "intent"), FIRST),
    "names in any case": ({"a.csv": CALLS.replace("intent", "Intent")}, named("ANSWER", "INTENT"), FIRST),
    "several texts, in their order": ({"a.csv": CALLS}, named(["place", "answer"], "intent"), Row("at home 0 please do 0", "play")),
    "numbers, below names": ({"a.csv": CALLS}, named(2, 3), FIRST),
    "numbers, without names": ({"a.csv": CALLS.partition("\n")[2]}, named([2], 3), FIRST),
    "the answer alone": ({"a.csv": CALLS}, named(None, "intent"), Row("please do 0 at home 0", "play")),
    "the text alone": ({"a.csv": CALLS}, named("answer", None), FIRST),
    "two columns named after no choice": ({"a.csv": CALLS}, named("intent", "place"), Row("play", "at home 0")),
    "fields": ({"a.json": SENTENCES}, named("said", "label"), Row("text 0", "play")),
    "a field that is called as an answer": ({"a.json": ANSWERS}, named("answer", None), Row("text 0", "play")),
    "one of two data sets has them": ({"a.csv": CALLS, "b/b.csv": TABLE}, named("answer", "intent"), FIRST),
}


@pytest.mark.parametrize("case", SAID)
def test_columns_and_fields_are_what_the_user_says(case, tmp_path):
    files, said, first = SAID[case]
    found = survey(write(tmp_path, files), said)
    (dataset,) = found.datasets.values()
    assert first in [row for split in dataset.splits.values() for row in split]
    assert sum(map(len, dataset.splits.values())) == 30
    assert all("has no column 'answer'" in reason for reason in found.unread.values())


NUMBERS = "\n".join(f"{n},{n % 3}" for n in range(30))
NOT_THERE = {
    "a column": ({"a.csv": CALLS}, named("utterance", "intent"), "has no column 'utterance'; it has id, answer, intent, place"),
    "a number beyond": ({"a.csv": CALLS.partition("\n")[2]}, named(None, 5), "has no column '5'; it has 0, please do 0, play, at home 0"),
    "a field": ({"a.json": RECORDS}, named(None, "intent"), "has no field 'intent'; it has sentence, label"),
    "no text beside it": ({"a.csv": f"a,b\n{NUMBERS}"}, named(None, "b"), "which of them is the text has to be said, too"),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_what_the_user_says_and_is_not_there_is_said_with_what_there_is(case, tmp_path):
    files, said, reason = NOT_THERE[case]
    found = survey(write(tmp_path, files), said)
    assert not found.datasets and all(reason in told for told in found.unread.values())


def test_nothing_is_said_of_columns_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match=r"has columns or fields: leave out stream\.text and stream\.answer"):
        survey(write(tmp_path, {"qa1_train.txt": STORY * 9, "qa1_test.txt": STORY}), named("question", None))
