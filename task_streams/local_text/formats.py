"""From the files of one data set to its rows: which format they are in, and what of them cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from . import nested, objects, records
from .corpus import Dataset, Kind, Row, completed, is_choice, tallied
from .names import SPLIT_OF, TEXT_KEYS
from .nested import Record
from .records import NOTHING_SAID, Broken, Content, Named, Rows, Unreadable

FORMATS = (
    "csv or tsv of a text and a label or answer; JSON with the same, as lists, lines or objects (also .gz), conversations, texts with "
    "questions (SQuAD, RACE); parquet; lines 'LABEL text'; two files line by line (.src and .tgt, texts and labels, seq.in and label); a "
    "folder of short texts or a file of lines for each answer; bAbI stories; SCAN's IN: .. OUT: ..; CLINC150's and SNIPS' JSON, Rasa's "
    "YAML; plain .txt"
)

TABLE, RECORDS, PARQUET = WITH_NAMES = ("table", "JSON records", "parquet")
_Part = TypeVar("_Part")
CLASS_NAMES = ("classes", "class_names", "label_names", "mapping")
"""Files of these names, and `labels.txt`, may name the answers that a data set gives as numbers, one a line, behind its number or not."""


def _leading(parts: Mapping[str, _Part]) -> _Part:
    """Of what there is by split that which says how all of it is to be read."""
    return next(parts[split] for split in ("train", "", "validation", "test") if split in parts)


class Reading:
    """A data set in the making."""

    def __init__(self, name: str, form: str, named: Named = NOTHING_SAID) -> None:
        self.name, self.form, self.named = name, form, named
        self.splits: dict[str, tuple[Row, ...]] = {}
        self.remarks: list[str] = []
        self.texts_alone = False
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

    def add_records(self, given: Mapping[str, Sequence[Record]]) -> None:
        """Take in the records of each split, whose fields those of training tell."""
        found: Mapping[str, Sequence[Record]] = nested.flat(given)
        if len(found) == 1:
            found = records.records_by_split(next(iter(found.values()))) or found
        fields = records.fields_of(_leading(found), self.named)
        if records.is_text_alone(_leading(found), fields):
            self.texts_alone = True
            for split, listed in found.items():
                self.add(split, records.texts_alone(listed, fields.texts[0]))
            return
        for split, listed in found.items():
            self.add(split, records.record_rows(listed, fields))
        if several := records.several_answers(found.values(), fields):
            self.remarks.append(f"{several:,} row{'s have' if several > 1 else ' has'} several answers, of which the first is taken")
        if fields.unused:
            self.remarks.append(
                f"fields: {', '.join(fields.texts)} text, {', '.join(fields.answers[:1])} answer; not used: {', '.join(fields.unused)}"
            )

    def done(self, kind: Kind | None = None, groups: Mapping[str, tuple[str, ...]] | None = None) -> Dataset:
        """The data set; without `kind` its training rows say whether answers are choices."""
        answers = [row.answer for row in self.splits.get("train", ())]
        chosen: Kind = kind or ("text" if self.texts_alone else "choices" if is_choice(answers) else "answers")
        return completed(Dataset(self.name, chosen, self.form, self.splits, groups or {}, (*self.remarks, *tallied(self._broken))))


def snips(name: str, files: Sequence[Path]) -> Dataset:
    """SNIPS: a file for each intent and split; what it calls validation is scored."""
    reading = Reading(name, "SNIPS")
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
    reading = Reading(name, "two files, line by line")
    for split, path in texts.items():
        left, right = records.read(path), records.read(answers[split])
        reading.remarks += [*left.remarks, *right.remarks]
        reading.add(split, records.side_by_side(left, right))
    return reading.done()


def documents(name: str, paths: Mapping[str, Sequence[Path]]) -> Dataset:
    """Plain texts of which each split has its own."""
    reading = Reading(name, "plain texts")
    for split, parts in paths.items():
        for content in map(records.read, parts):
            reading.remarks += content.remarks
            reading.add(split, records.plain(content))
    return reading.done("text")


def is_single(path: Path) -> bool:
    """Whether a file is an object that is a record."""
    try:
        content = records.read(path)
    except Unreadable:
        return False
    return content.held is not None and content.listed is None and not objects.KNOWN.isdisjoint(map(str.lower, content.held))


def single(name: str, paths: Mapping[str, Sequence[Path]], named: Named) -> Dataset:
    """Files that are a record each."""
    reading = Reading(name, RECORDS, named)

    def record_of(path: Path) -> list[Record]:
        try:
            content = records.read(path)
        except Unreadable:
            return [(path.name, None)]
        reading.remarks += content.remarks
        return [(path.name, content.held)]

    return _of_files(reading, paths, record_of)


def _of_files(reading: Reading, paths: Mapping[str, Sequence[Path]], records_of: Callable[[Path], Sequence[Record]]) -> Dataset:
    """The records of all files of each split."""
    reading.add_records({split: [record for path in parts for record in records_of(path)] for split, parts in paths.items()})
    return reading.done()


def with_class_names(dataset: Dataset, place: Path) -> Dataset:
    """The same data set with names for its numbers, where a file beside it gives one for each: from 0 or from 1."""
    path = next((path for name in (*CLASS_NAMES, "labels") if (path := place / f"{name}.txt").is_file()), None)
    if dataset.kind != "choices" or path is None or not all(label.isdecimal() for label in dataset.labels):
        return dataset
    try:
        names = [re.sub(r"^\d+\t", "", line.strip()) for line in records.read(path).lines if line.strip()]
    except Unreadable:
        return dataset
    numbers = sorted(int(label) for label in dataset.labels)
    if len(set(names)) != len(names) or numbers not in (list(range(len(names))), list(range(1, len(names) + 1))):
        return replace(
            dataset, remarks=(*dataset.remarks, f"{path.name} does not name the answers {numbers[0]} to {numbers[-1]}, one each")
        )
    named = {str(number): name for number, name in zip(numbers, names, strict=True)}
    splits = {
        split: tuple(replace(row, answer=named.get(str(int(row.answer)), row.answer)) for row in rows)
        for split, rows in dataset.splits.items()
    }
    return replace(
        dataset, splits=splits, remarks=(*dataset.remarks, f"answers {numbers[0]} to {numbers[-1]} are called as in {path.name}")
    )


def one(name: str, place: Path, paths: Mapping[str, Sequence[Path]], named: Named) -> Dataset:
    """A data set whose files, by split, differ in their split alone; several of one split are its parts."""
    first = _leading(paths)[0]
    ending = first.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        return _parquet(name, paths, named)
    if ending in ("src", "tgt", "in"):
        raise Unreadable("is one of two files that belong together line by line, and there is no other (or none for training)")
    if any(len(parts) > 1 for parts in paths.values()) and ending != "jsonl":
        raise Unreadable("is one of several parts; of those only .parquet and .jsonl are read")
    if ending == "arrow":
        raise Unreadable("is of the form that Hugging Face's datasets save to; write it with to_parquet or to_json")
    contents = {split: records.joined([records.read(path) for path in parts]) for split, parts in paths.items()}
    leading = _leading(contents)
    as_text = ending in ("txt", "text", "tokens", "raw", first.name.lower())
    if ending in ("json", "jsonl") or (ending in ("yml", "yaml") and leading.held is not None) or (as_text and _is_json(leading)):
        return _json(name, place, contents, leading, named)
    if _is_tagged(leading):
        raise Unreadable("holds a word and its tag a line, as CoNLL's files do; words with tags are no stream here")
    if ending in ("csv", "tsv") or _is_parted(leading, "\t"):
        return _table(name, contents, leading, records.separator_of(leading) if ending == "csv" else "\t", named)
    if _is_parted(leading, ";") and _ends_in_choices(leading, ";"):
        return _table(name, contents, leading, ";", named)
    return _by_lines(name, as_text, contents, leading)


def _is_json(content: Content) -> bool:
    """Whether a file that is not called so holds an object, or one on nearly each of its first lines."""
    first = [line for line in content.lines[:20] if line.strip()]
    return content.held is not None or 10 * sum(objects.object_in(line) is not None for line in first) >= 9 * len(first)


def _by_lines(name: str, as_text: bool, contents: Mapping[str, Content], leading: Content) -> Dataset:
    """What lines look like says the format; those of none are plain text, if they may be."""
    lines = [line for line in leading.lines[:50] if line.strip()]
    if sum(bool(re.match(r"\s*IN:.*OUT:", line)) for line in lines) * 2 > len(lines):
        return _lines(Reading(name, "SCAN"), contents, records.scan, "answers")
    if re.match(r"1 \S", lines[0]) and sum(bool(re.match(r"\d+ \S", line)) for line in lines) * 10 >= 9 * len(lines):
        return _lines(Reading(name, "bAbI"), contents, records.stories, "choices")
    if records.is_labelled_lines(leading):
        return _lines(Reading(name, "a label and a text a line"), contents, records.labelled_lines, "choices")
    if not as_text:
        raise Unreadable(f"is of no kind that can be read; expected {FORMATS}")
    return _lines(Reading(name, "plain text"), contents, records.plain, "text")


def _is_tagged(content: Content) -> bool:
    """Whether there are blocks of lines whose last word is nearly always a tag: O, or B- and the like with a name."""
    top = content.lines[:400]
    last = [words[-1] for line in top if len(words := line.split()) > 1]
    tags = sum(bool(re.fullmatch(r"O|[BIESLU]-\S+", word)) for word in last)
    return any(not line.strip() for line in top[:-1]) and 10 * tags >= 9 * len([line for line in top if line.strip()])


def _is_parted(content: Content, mark: str) -> bool:
    """Whether every line has as many of a mark, and is no statement of a story."""
    lines = [line for line in content.lines[:200] if line.strip()]
    counts = {line.count(mark) for line in lines}
    return len(counts) == 1 and counts != {0} and not re.match(r"1 \S", lines[0])


def _ends_in_choices(content: Content, mark: str) -> bool:
    """Whether what stands behind the last mark of a line, or before the first, comes back again and again."""
    lines = [line for line in content.lines if line.strip()]
    return is_choice([line.rpartition(mark)[2] for line in lines]) or is_choice([line.partition(mark)[0] for line in lines])


def _lines(reading: Reading, contents: Mapping[str, Content], reader: records.Reader, kind: Kind) -> Dataset:
    for split, content in contents.items():
        reading.remarks += content.remarks
        reading.add(split, reader(content))
    return reading.done(kind)


def _table(name: str, contents: Mapping[str, Content], leading: Content, separator: str, named: Named) -> Dataset:
    reading = Reading(name, TABLE)
    found = {split: records.table(content, separator) for split, content in contents.items()}
    leader = _leading(found)
    for content in contents.values():
        reading.remarks += content.remarks
    if all(cells[0][1][0].lower() in TEXT_KEYS and len(cells[0][1]) == 1 for cells in found.values()):
        for split, rows in found.items():
            reading.add(split, (Row(" ".join(cells)) for _, cells in rows[1:]))
        return reading.done("text")
    columns = records.columns_of(leader, named)
    if columns.header and len(contents) == 1 and (parts := records.table_by_split(leader)):
        for split, rows in parts.items():
            reading.add(split, records.table_rows(leading, rows, replace(columns, header=False)))
    else:
        for split, rows in found.items():
            try:
                reading.add(split, records.table_rows(contents[split], rows, records.columns_in(rows[0][1], leader[0][1], columns)))
            except Unreadable as error:
                reading.remarks.append(f"left out: {contents[split].name}, which {error}")
    reading.remarks.append(f"{'named' if columns.header else 'unnamed'} columns: {columns.words}")
    return reading.done()


def _json(name: str, place: Path, contents: Mapping[str, Content], leading: Content, named: Named) -> Dataset:
    if leading.held is not None and (parts := objects.splits_in(leading.held)):
        return _of_splits(name, place, leading, parts, named)
    _refuse(leading)
    reading = Reading(name, RECORDS, named)
    for content in contents.values():
        reading.remarks += content.remarks
    reading.add_records({split: records.records(content) for split, content in contents.items()})
    labels = place / "labels.json"
    if labels.is_file():
        _keep_listed(reading, records.parsed(records.read(labels)))
    return reading.done()


def _keep_listed(reading: Reading, listed: Any) -> None:
    """Only rows whose label stands in `labels.json`, a list or an object of lists."""
    parts = listed.values() if isinstance(listed, Mapping) else [listed]
    known = {str(label) for part in parts for label in (part if isinstance(part, list) else [part])}
    found = {row.answer for rows in reading.splits.values() for row in rows}
    if strange := sorted(found - known):
        left = sum(row.answer not in known for rows in reading.splits.values() for row in rows)
        reading.remarks.append(f"{left} rows have labels that labels.json does not list, as '{strange[0]}': left out")
    for split, rows in reading.splits.items():
        reading.splits[split] = tuple(row for row in rows if row.answer in known)


def _refuse(content: Content) -> None:
    """An object on several lines that has no records, or is a broken one."""
    first = next(line for line in content.lines if line.strip()).strip()
    if content.listed is None and first.startswith("{") and not (first.endswith("}") and len(first) > 2):
        names = ", ".join(list(records.parsed(content))[:5])
        raise Unreadable(f"has no records of a text and a label or answer, and no split 'train' of them (it has {names or 'nothing'})")


def _of_splits(name: str, place: Path, content: Content, parts: Mapping[str, list[Any]], named: Named) -> Dataset:
    """An object of splits, each a list of records, or as CLINC150 of `[text, intent]`; the domains of intents in a file beside it."""
    found = {SPLIT_OF[key.lower()]: value for key, value in parts.items() if key.lower() in SPLIT_OF}
    pairs = isinstance(next(iter(found["train"]), None), list)
    reading = Reading(name, "JSON of splits" if pairs else RECORDS, NOTHING_SAID if pairs else named)
    reading.remarks += content.remarks
    if pairs:
        for key, value in found.items():
            reading.add(key, records.text_label_lists(value, f"{content.name}: {key}"))
    else:
        reading.add_records({key: objects.numbered(f"{content.name}: {key}", value) for key, value in found.items()})
    if aside := [key for key in parts if key.lower() not in SPLIT_OF]:
        reading.remarks.append(f"{', '.join(aside)}: splits of no use here, left out")
    groups: dict[str, tuple[str, ...]] = {}
    domains = place / "domains.json"
    if domains.is_file():
        listed = records.parsed(records.read(domains))
        if not isinstance(listed, Mapping) or not all(isinstance(part, list) for part in listed.values()):
            raise Unreadable("stands beside a 'domains.json' that is no object of lists of labels")
        groups = {str(domain): tuple(str(label) for label in part) for domain, part in listed.items()}
    return reading.done("choices" if pairs else None, groups)


def _parquet(name: str, paths: Mapping[str, Sequence[Path]], named: Named) -> Dataset:
    import pandas

    def rows_of(path: Path) -> list[Record]:
        try:
            frame = pandas.read_parquet(path)
        except ImportError:
            raise Unreadable("needs pyarrow to be read; type: pip install pyarrow") from None
        except Exception as error:  # whatever the engine raises for a file that is none
            raise Unreadable(f"is no parquet file that pandas reads ({type(error).__name__})") from None
        rows = [{key: _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
        return objects.numbered(f"{path.name}: row", rows)

    return _of_files(Reading(name, PARQUET, named), paths, rows_of)


def _plain(value: Any) -> Any:
    """What numpy made of a cell, as JSON would have it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
