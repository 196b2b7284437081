"""From the files of one data set to its rows: which format they are in, and what of them cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import records
from .corpus import Dataset, Kind, Row, completed, is_choice, tallied
from .records import Broken, Content, Rows, Unreadable

FORMATS = (
    "csv or tsv of a text and a label or answer; JSON lists or lines with the same (.json, .jsonl, also .gz); parquet; lines 'LABEL text'; "
    "two files line by line (.src and .tgt, texts and labels); bAbI stories; SCAN's IN: .. OUT: ..; CLINC150's and SNIPS' JSON; plain .txt"
)

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "validate", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}


class _Reading:
    """A data set in the making."""

    def __init__(self, name: str, form: str) -> None:
        self.name, self.form = name, form
        self.splits: dict[str, tuple[Row, ...]] = {}
        self.remarks: list[str] = []
        self._broken: list[tuple[str, str]] = []

    def add(self, split: str, found: Rows) -> None:
        """Take in the rows of one file; a file whose name says no split is of the training rows."""
        rows = []
        for row in found:
            if isinstance(row, Broken):
                self._broken.append((row.reason, row.place))
            else:
                rows.append(row)
        self.splits[split or "train"] = (*self.splits.get(split or "train", ()), *rows)

    def done(self, kind: Kind | None = None, groups: Mapping[str, tuple[str, ...]] | None = None) -> Dataset:
        """The data set; without `kind` its training rows say whether answers are choices."""
        answers = [row.answer for row in self.splits.get("train", ())]
        chosen: Kind = kind or ("choices" if is_choice(answers) else "answers")
        return completed(Dataset(self.name, chosen, self.form, self.splits, groups or {}, (*self.remarks, *tallied(self._broken))))


def snips(name: str, files: Sequence[Path]) -> Dataset:
    """SNIPS: a file for each intent and split; what it calls validation is scored."""
    reading = _Reading(name, "SNIPS")
    for path in files:
        content = records.read(path)
        reading.remarks += content.remarks
        split = "train" if path.name.startswith("train_") else "test"
        try:
            reading.add(split, records.spoken(content))
        except Unreadable as error:
            raise Unreadable(f"belongs to '{path.name}', which {error}") from None
    return reading.done("choices")


def side_by_side(name: str, texts: Mapping[str, Path], answers: Mapping[str, Path]) -> Dataset:
    """Texts and answers in two files for each split."""
    reading = _Reading(name, "two files, line by line")
    for split, path in texts.items():
        left, right = records.read(path), records.read(answers[split])
        reading.remarks += [*left.remarks, *right.remarks]
        reading.add(split, records.side_by_side(left, right))
    return reading.done()


def one(name: str, place: Path, paths: Mapping[str, Path]) -> Dataset:
    """A data set whose files, by split, differ in their split alone."""
    first = next(paths[split] for split in ("train", "", "validation", "test") if split in paths)
    ending = first.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        return _parquet(name, paths)
    contents = {split: records.read(path) for split, path in paths.items()}
    leading = next(contents[split] for split in ("train", "", "validation", "test") if split in contents)
    if ending in ("json", "jsonl"):
        return _json(name, place, contents, leading)
    if ending in ("csv", "tsv") or _is_tabbed(leading):
        return _table(name, contents, leading, "," if ending == "csv" else "\t")
    lines = [line for line in leading.lines[:50] if line.strip()]
    if sum(bool(re.match(r"\s*IN:.*OUT:", line)) for line in lines) * 2 > len(lines):
        return _lines(_Reading(name, "SCAN"), contents, records.scan, "answers")
    if re.match(r"1 \S", lines[0]) and sum(bool(re.match(r"\d+ \S", line)) for line in lines) * 10 >= 9 * len(lines):
        return _lines(_Reading(name, "bAbI"), contents, records.stories, "choices")
    if records.is_labelled_lines(leading):
        return _lines(_Reading(name, "a label and a text a line"), contents, records.labelled_lines, "choices")
    if ending not in ("txt", "text", first.name.lower()):
        raise Unreadable(f"is of no kind that can be read; expected {FORMATS}")
    return _lines(_Reading(name, "plain text"), contents, records.plain, "text")


def _is_tabbed(content: Content) -> bool:
    lines = [line for line in content.lines[:200] if line.strip()]
    counts = {line.count("\t") for line in lines}
    return len(counts) == 1 and counts != {0} and not re.match(r"1 \S", lines[0])


def _lines(reading: _Reading, contents: Mapping[str, Content], reader: records.Reader, kind: Kind) -> Dataset:
    for split, content in contents.items():
        reading.remarks += content.remarks
        reading.add(split, reader(content))
    return reading.done(kind)


def _table(name: str, contents: Mapping[str, Content], leading: Content, separator: str) -> Dataset:
    reading = _Reading(name, "table")
    found = {split: records.table(content, separator) for split, content in contents.items()}
    leader = next(table for split, table in found.items() if contents[split] is leading)
    columns = records.columns_of(leader)
    for split, content in contents.items():
        reading.remarks += content.remarks
        named = columns.header and found[split][0][1] == leader[0][1]
        reading.add(split, records.table_rows(content, found[split], replace(columns, header=named)))
    reading.remarks.append(f"{'named' if columns.header else 'unnamed'} columns: {columns.words}")
    return reading.done()


def _json(name: str, place: Path, contents: Mapping[str, Content], leading: Content) -> Dataset:
    first = next(line for line in leading.lines if line.strip()).strip()
    if leading.text.lstrip()[0] == "{" and not (first.startswith("{") and first.endswith("}") and len(first) > 2):
        return _of_splits(name, place, leading)
    reading = _Reading(name, "JSON records")
    for split, content in contents.items():
        reading.remarks += content.remarks
        reading.add(split, records.record_rows(records.records(content)))
    labels = place / "labels.json"
    if labels.is_file():
        _keep_listed(reading, records.parsed(records.read(labels)))
    return reading.done()


def _keep_listed(reading: _Reading, listed: Any) -> None:
    """Only rows whose label stands in `labels.json`, a list or an object of lists."""
    parts = listed.values() if isinstance(listed, Mapping) else [listed]
    known = {str(label) for part in parts for label in (part if isinstance(part, list) else [part])}
    found = {row.answer for rows in reading.splits.values() for row in rows}
    if strange := sorted(found - known):
        left = sum(row.answer not in known for rows in reading.splits.values() for row in rows)
        reading.remarks.append(f"{left} rows have labels that labels.json does not list, as '{strange[0]}': left out")
    for split, rows in reading.splits.items():
        reading.splits[split] = tuple(row for row in rows if row.answer in known)


def _of_splits(name: str, place: Path, content: Content) -> Dataset:
    """CLINC150: an object of splits, each a list of `[text, intent]`, and the domains of the intents in a file beside it."""
    reading = _Reading(name, "JSON of splits")
    reading.remarks += content.remarks
    loaded = records.parsed(content)
    lists = {key: value for key, value in loaded.items() if isinstance(value, list)}
    if "train" not in lists:
        raise Unreadable(f"has no split 'train' of [text, label] pairs (it has {', '.join(list(loaded)[:5]) or 'nothing'})")
    for key, value in lists.items():
        if key.lower() in SPLIT_OF:
            reading.add(SPLIT_OF[key.lower()], records.text_label_lists(value, f"{content.name}: {key}"))
    if aside := [key for key in lists if key.lower() not in SPLIT_OF]:
        reading.remarks.append(f"{', '.join(aside)}: splits of no use here, left out")
    groups: dict[str, tuple[str, ...]] = {}
    domains = place / "domains.json"
    if domains.is_file():
        listed = records.parsed(records.read(domains))
        if not isinstance(listed, Mapping) or not all(isinstance(part, list) for part in listed.values()):
            raise Unreadable("stands beside a 'domains.json' that is no object of lists of labels")
        groups = {str(domain): tuple(str(label) for label in part) for domain, part in listed.items()}
    return reading.done("choices", groups)


def _parquet(name: str, paths: Mapping[str, Path]) -> Dataset:
    import pandas

    reading = _Reading(name, "parquet")
    for split, path in paths.items():
        try:
            frame = pandas.read_parquet(path)
        except ImportError:
            raise Unreadable("needs pyarrow to be read; type: pip install pyarrow") from None
        except Exception as error:  # whatever the engine raises for a file that is none
            raise Unreadable(f"is no parquet file that pandas reads ({type(error).__name__})") from None
        rows = [{key: value.item() if hasattr(value, "item") else value for key, value in row.items()} for row in frame.to_dict("records")]
        reading.add(split, records.record_rows([(f"{path.name}: row {number}", row) for number, row in enumerate(rows, 1)]))
    return reading.done()
