"""Rows out of one file: lines, tables, records, stories. Every reader yields a `Row`, or a `Broken` that says why there is none.

Formats, as published: language.md, section 4.1. Text is UTF-8, with or without a byte order mark; what is not is read as latin-1, aloud.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from . import choices, nested, objects
from .corpus import MOST_CHOICES, ROWS_A_CHOICE, Row, is_choice, shortened
from .names import ANSWER_KEYS, ASIDE, CHOICES, CONTEXT_KEYS, SPLIT_FLAGS, SPLIT_KEYS, SPLIT_OF, TEXT_KEYS, answers_among

_Name = TypeVar("_Name", str, int)
_Item = TypeVar("_Item")
SAY = "stream.text=NAME stream.answer=NAME say which they are"
_NOT_THE_TEXT = {
    b"PK\x03\x04": "packed (a zip archive or a workbook); unpack it, or save it as csv",
    b"BZh": "packed (bzip2); unpack it",
    b"\xfd7zXZ": "packed (xz); unpack it",
    b"\x28\xb5\x2f\xfd": "packed (zstd); unpack it",
    b"7z\xbc\xaf": "packed (7z); unpack it",
    b"version https://git-lfs.github.com/": "a pointer of Git LFS and not the file itself; type: git lfs pull",
}
LABEL_WORD = re.compile(r"[0-9]{1,3}|[A-Z][A-Z_]*(?::[A-Za-z0-9_-]+)?|__label__\S+")


class Broken(NamedTuple):
    """Why a place in a file gave no row."""

    reason: str
    place: str


Rows = Iterator[Row | Broken]


class Unreadable(Exception):
    """A file as a whole gives nothing; the text says why."""


@dataclass(frozen=True)
class Content:
    """A file's text, and what was noticed while it was read."""

    name: str
    text: str
    remarks: tuple[str, ...] = ()

    @cached_property
    def held(self) -> Mapping[str, Any] | None:
        """The object that the text is as a whole; None where it is anything else, or lines of records by its name."""
        if re.search(r"\.jsonl(\.gz)?$", self.name.lower()):
            return None
        return objects.intents_in(self.text) if re.search(r"\.ya?ml(\.gz)?$", self.name.lower()) else objects.object_in(self.text)

    @cached_property
    def listed(self) -> list[nested.Record] | None:
        """The records of that object, or objects on many lines each; None where there are none."""
        return objects.one_after_another(self.name, self.text) if self.held is None else objects.records_in(self.name, self.held)

    @cached_property
    def lines(self) -> list[str]:
        """Without their ends; line ends of all systems, nothing else parts lines."""
        return re.split(r"\r\n|\n|\r", self.text.removesuffix("\n").removesuffix("\r")) if self.text else []


def read(path: Path) -> Content:
    """The text of a file, unpacked where its name ends in .gz."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"cannot be read ({error})") from None
    if other := next((kind for mark, kind in _NOT_THE_TEXT.items() if data.startswith(mark)), ""):
        raise Unreadable(f"is {other}")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and len(data) % 2 == 0:
        data = data.decode("utf-16", "replace").encode()
    if b"\0" in data[:4096]:
        raise Unreadable("is not text (it holds zero bytes)")
    try:
        text, remarks = data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        text, remarks = data.decode("latin-1"), (f"{path.name}: not UTF-8 at byte {error.start}, read as latin-1",)
    if not text.strip():
        raise Unreadable("is empty")
    return Content(path.name, text, remarks)


def joined(parts: Sequence[Content]) -> Content:
    """The parts of one file, one after another."""
    if len(parts) == 1:
        return parts[0]
    remarks = tuple(remark for part in parts for remark in part.remarks)
    return Content(parts[0].name, "\n".join(part.text for part in parts), remarks)


# Lines.


def labelled_lines(content: Content) -> Rows:
    """`LABEL text of the example`, one a line."""
    for number, line in enumerate(content.lines, 1):
        label, _, text = line.strip().partition(" ")
        if not line.strip():
            continue
        yield (
            Row(text.strip(), label.removeprefix("__label__"))
            if text.strip()
            else Broken("a label without a text", f"{content.name}:{number}")
        )


def is_labelled_lines(content: Content) -> bool:
    """Whether nearly every line begins with a word that looks like a label and comes back."""
    lines = [line.split(None, 1) for line in content.lines if line.strip()]
    marked = [parts[0] for parts in lines if len(parts) == 2 and LABEL_WORD.fullmatch(parts[0])]
    few = 1 < len(set(marked)) <= min(MOST_CHOICES, max(2, len(marked) // ROWS_A_CHOICE))
    return few and len(marked) >= 0.9 * len(lines)


def scan(content: Content) -> Rows:
    """`IN: command OUT: actions`."""
    for number, line in enumerate(content.lines, 1):
        if not line.strip():
            continue
        command, _, actions = line.strip().removeprefix("IN:").partition("OUT:")
        if not line.strip().startswith("IN:") or not command.strip() or not actions.strip():
            yield Broken("expected IN: command OUT: actions", f"{content.name}:{number}")
        else:
            yield Row(command.strip(), actions.strip())


def stories(content: Content) -> Rows:
    """Numbered statements and `number question TAB answer TAB numbers of the statements it rests on`; numbers begin anew with a story."""
    facts: list[tuple[int, str]] = []
    before = 0
    for number, line in enumerate(content.lines, 1):
        place = f"{content.name}:{number}"
        if not line.strip():
            continue
        head, _, rest = line.strip().partition(" ")
        if not head.isdecimal() or not rest.strip():
            yield Broken("expected a number, a blank and a statement", place)
            continue
        at = int(head)
        if at <= before:
            facts = []
        before = at
        parts = [part.strip() for part in rest.split("\t")]
        if len(parts) == 1:
            facts.append((at, parts[0]))
        elif not parts[0] or not parts[1]:
            yield Broken("a question without an answer", place)
        elif not facts:
            yield Broken("a question before any statement", place)
        else:
            rests = [int(word) for word in parts[2].split() if word.isdecimal()] if len(parts) > 2 else []
            since = [sum(when > rest for when, _ in facts) + 1 for rest in rests if any(when == rest for when, _ in facts)]
            yield Row(" ".join([*(fact for _, fact in facts), parts[0]]), parts[1].lower(), min(since, default=None))


def plain(content: Content) -> Rows:
    """The whole file as one text."""
    yield Row(content.text)


def side_by_side(texts: Content, answers: Content) -> Rows:
    """A text a line in one file, its answer on the same line of the other."""
    left, right = texts.lines, answers.lines
    if len(left) != len(right):
        raise Unreadable(f"has {len(left):,} lines where '{answers.name}' has {len(right):,}; line n of one belongs to line n of the other")
    for number, (text, answer) in enumerate(zip(left, right, strict=True), 1):
        if not text.strip() or not answer.strip():
            yield Broken("a line that is empty in one of the two files", f"{texts.name}:{number}")
        else:
            yield Row(text.strip(), answer.strip())


# Tables.


def separator_of(content: Content) -> str:
    """What parts the cells of a .csv: a comma, or what its first line has where it has none."""
    first = next(line for line in content.lines if line.strip())
    return next((mark for mark in ",;\t|" if mark in first), ",")


def table(content: Content, separator: str) -> list[tuple[int, list[str]]]:
    """The cells of each record, with the line on which it ends; empty lines are none."""
    csv.field_size_limit(1 << 27)
    reader = csv.reader(io.StringIO(content.text, newline=""), delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else 0)
    found = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise Unreadable(f"is no table at line {reader.line_num} ({error})") from None
    if not found:
        raise Unreadable("is a table without cells")
    return found


class Named(NamedTuple):
    """Which columns or fields the user says are text, and which the answer; empty: not said. Names are in small letters."""

    texts: tuple[str, ...] = ()
    answer: str = ""

    def missing_in(self, names: Sequence[str]) -> str:
        """What is said and is not among the names of a file; "" where all is."""
        return next((name for name in (*self.texts, self.answer) if name and name not in names), "")


NOTHING_SAID = Named()


@dataclass(frozen=True)
class Columns:
    """Which cells of a table are what. `header`: whether the first record names them. `choices`: what is to choose from, with its marks."""

    text: tuple[int, ...]
    answer: int
    width: int
    header: bool
    choices: tuple[tuple[str, int], ...] = ()

    @property
    def words(self) -> str:
        """For people."""
        texts = ", ".join(str(column + 1) for column in self.text)
        offered = f", columns {', '.join(str(column + 1) for _, column in self.choices)} choices" if self.choices else ""
        return f"column{'s' if len(self.text) > 1 else ''} {texts} text{offered}, column {self.answer + 1} answer"


def columns_of(records: Sequence[tuple[int, list[str]]], named: Named = NOTHING_SAID) -> Columns:
    """By what the user says, the names in the first record, else what the columns hold: the answer has fewest different values, if few.

    Where no column is a choice, the second answers the first (sentence, logical form, type).
    """
    first = [cell.lower() for cell in records[0][1]]
    if any(named):
        return _said_columns(records, first, named)
    width = max((len(cells) for _, cells in records), key=[len(cells) for _, cells in records].count)
    known = {*TEXT_KEYS, *ANSWER_KEYS, *CONTEXT_KEYS}
    if len(records) > 1 and sum(cell in known for cell in first) >= min(2, len(first)):
        answers = [n for key in answers_among(first) for n, cell in enumerate(first) if cell == key]
        texts = [n for n, cell in enumerate(first) if cell in CONTEXT_KEYS] + [n for n, cell in enumerate(first) if cell in TEXT_KEYS]
        rest = {n: [cells[n] for _, cells in records[1:] if len(cells) == len(first)] for n in range(len(first)) if n not in texts}
        answer = answers[0] if answers else fewest(rest)
        if answer is None or not texts:
            raise Unreadable(
                f"has the columns {', '.join(first)}; expected a text ({', '.join(TEXT_KEYS[:4])}, ..) and a label or answer; {SAY}"
            )
        return Columns(tuple(texts), answer, len(first), True, _choices_of(records, first, answer))
    if width < 2:
        raise Unreadable("has one column; expected a text and a label or answer")
    columns = {column: [cells[column] for _, cells in records if len(cells) == width] for column in range(width)}
    chosen = fewest(columns)
    if chosen is None or (known.isdisjoint(first) and _third_is_type(tuple(columns.values()))):
        return Columns((0,), 1, width, False)
    others = [column for column in columns if column != chosen]
    texts = tuple(column for column in others if _is_worded(columns[column])) or tuple(others)
    top = records[0][1]
    header = len(top) == width and _are_names(top, columns, texts, chosen)
    called = tuple(column for column in texts if header and first[column] in (*CONTEXT_KEYS, *TEXT_KEYS))
    return Columns(called or texts, chosen, width, header)


def _choices_of(records: Sequence[tuple[int, list[str]]], names: Sequence[str], answer: int) -> tuple[tuple[str, int], ...]:
    """Columns that hold choices, where nearly every answer is one of them."""
    found = [(choices.mark_of(name), names.index(name)) for name in choices.family(names) if names.index(name) != answer]
    if len(found) < 2:
        return ()
    rows = [cells for _, cells in records[1:] if len(cells) == len(names)]
    answered = [choices.is_answered([cells[answer]], [(mark, cells[column]) for mark, column in found]) for cells in rows]
    return tuple(found) if sum(answered) >= 0.9 * len(rows) else ()


def _said_columns(records: Sequence[tuple[int, list[str]]], first: Sequence[str], named: Named) -> Columns:
    """As the user says, by the names in the first record or by numbers from 1; what is not said is found."""
    numbers = [str(number + 1) for number in range(len(first))]
    called = any(name in first for name in (*named.texts, named.answer))
    if missing := named.missing_in(first if called else numbers):
        raise Unreadable(f"has no column '{missing}'; it has {shortened(', '.join(first), 200)}")
    place = (first if called else numbers).index
    rows = [cells for _, cells in records if len(cells) == len(first)]
    texts, columns = tuple(map(place, named.texts)), {n: [cells[n] for cells in rows] for n in range(len(first))}
    below = {n: cells[1:] for n, cells in columns.items() if n not in texts}
    answer = place(named.answer) if named.answer else fewest(below)
    if not texts:
        known = [n for key in (*CONTEXT_KEYS, *TEXT_KEYS) for n in below if first[n] == key and n != answer]
        texts = tuple(known) or tuple(n for n, cells in below.items() if n != answer and _is_worded(cells))
    if answer is None or not texts:
        raise Unreadable(f"has the columns {', '.join(first)}; which of them is the {'answer' if texts else 'text'} has to be said, too")
    return Columns(texts, answer, len(first), called or _are_names(records[0][1], columns, texts, answer))


def _are_names(top: Sequence[str], columns: Mapping[int, Sequence[str]], texts: Sequence[int], answer: int) -> bool:
    """Whether the first record names the columns: its answer comes back nowhere, and its texts are words."""
    return columns[answer].count(top[answer]) == 1 and all(len(top[column].split()) <= 2 for column in texts)


def parted(rows: Sequence[_Item], said: Sequence[str]) -> dict[str, list[_Item]] | None:
    """Rows by the split that each is said to be of; None where that is no split."""
    if not said or not all(word.lower() in SPLIT_OF for word in said):
        return None
    found: dict[str, list[_Item]] = {}
    for row, word in zip(rows, said, strict=True):
        found.setdefault(SPLIT_OF[word.lower()], []).append(row)
    return found


def fewest(columns: Mapping[_Name, Sequence[str]]) -> _Name | None:
    """Of the columns that are choices the one with the fewest different values."""
    choices = {name: len(set(cells)) for name, cells in columns.items() if is_choice(cells)}
    return min(choices, key=choices.__getitem__, default=None)


def _is_worded(cells: Sequence[str]) -> bool:
    """Whether these are texts, of two words and more in the middle, and no numbers or names."""
    return 2 * sum(" " in cell for cell in cells) > len(cells)


def _third_is_type(columns: Sequence[Sequence[str]]) -> bool:
    """Sentence, logical form, type: the first two are texts, each nearly one for every row."""
    if len(columns) != 3 or not all(map(_is_worded, columns[:2])):
        return False
    different, rows = [len(set(cells)) for cells in columns], len(columns[0])
    return min(different[:2]) > 0.8 * rows and different[2] < 0.2 * rows


def table_rows(content: Content, records: Sequence[tuple[int, list[str]]], columns: Columns) -> Rows:
    """The rows of a table."""
    for line, cells in records[columns.header :]:
        place = f"{content.name}:{line}"
        if len(cells) != columns.width:
            yield Broken(f"expected {columns.width} columns", place)
            continue
        text = " ".join(cells[column] for column in columns.text if cells[column])
        if columns.choices and text:
            text = f"{text} {choices.spelled((mark, cells[column]) for mark, column in columns.choices if cells[column])}"
        if not text or not cells[columns.answer]:
            yield Broken("an empty text or answer", place)
        else:
            yield Row(text, cells[columns.answer])


# Records.


def records(content: Content) -> list[nested.Record]:
    """The records of a JSON list, of an object with records in it, or of lines, each with its place; a line that is no JSON is None."""
    if content.listed is not None:
        return content.listed
    if content.text.lstrip()[:1] == "[":
        return objects.numbered(f"{content.name}: record", parsed(content))
    found = []
    for number, line in enumerate(content.lines, 1):
        if line.strip():
            try:
                found.append((f"{content.name}:{number}", json.loads(line)))
            except (ValueError, RecursionError):
                found.append((f"{content.name}:{number}", None))
    return found


def parsed(content: Content) -> Any:
    """The JSON that a file is."""
    try:
        return json.loads(content.text)
    except ValueError as error:
        raise Unreadable(f"is no JSON ({error})") from None
    except RecursionError:
        raise Unreadable("is no JSON that can be read (nested too deep)") from None


class Fields(NamedTuple):
    """Which fields of records are text, which the answer, most wanted first, and which are neither."""

    texts: tuple[str, ...]
    answers: tuple[str, ...]
    unused: tuple[str, ...]


def fields_of(found: Sequence[nested.Record], named: Named = NOTHING_SAID) -> Fields:
    """By what the user says, or their names; where none is known for the answer or the text, by what they hold, as with columns."""
    rows = [record for _, record in found if isinstance(record, Mapping)]
    names = list(dict.fromkeys(name for record in rows for name in record))
    if missing := named.missing_in(names):
        raise Unreadable(f"has no field '{missing}'; it has {', '.join(names) or 'none'}")
    known = [key for key in (*CONTEXT_KEYS, *TEXT_KEYS, CHOICES) if key in names and _is_mostly_text([record.get(key) for record in rows])]
    texts = list(named.texts) or [key for key in known if key != named.answer]
    answers = [named.answer] if named.answer else [key for key in answers_among(names) if key not in named.texts]
    held = {name: [str(record[name]) for record in rows if isinstance(record.get(name), str | int)] for name in names}
    if not answers and (guessed := fewest({name: held[name] for name in names if name not in texts})) is not None:
        answers = [guessed]
    if not texts:
        texts = [name for name in names if name not in answers and held[name] and _is_worded(held[name])]
    used = {*texts, *answers[:1], *SPLIT_KEYS, *SPLIT_FLAGS, "ordered_kv_records", "key", "value"}
    return Fields(tuple(texts), tuple(answers), tuple(sorted(set(names) - used)))


def _is_mostly_text(values: Sequence[Any]) -> bool:
    """Whether what stands under a name, where anything does, is text."""
    there = [value for value in values if value is not None]
    return 2 * sum(isinstance(value, str) for value in there) > len(there)


def records_by_split(found: Sequence[nested.Record]) -> dict[str, list[nested.Record]] | None:
    """Records by the split that a field of each names; None where none does."""
    rows = [record for _, record in found if isinstance(record, Mapping)]
    for keys, kind in ((SPLIT_KEYS, str), (SPLIT_FLAGS, bool)):
        for key in keys:
            said = [record[key] for record in rows if isinstance(record.get(key), kind)]
            if len(said) == len(found):
                return parted(found, [word if isinstance(word, str) else "train" if word else "test" for word in said])
    return None


def columns_in(top: Sequence[str], names: Sequence[str], columns: Columns) -> Columns:
    """Where in a file with the first record `top` those columns are which another calls `names`; by their names, where it has such.

    Raises Unreadable where the answer is not among them.
    """
    here, there = ([cell.lower() for cell in cells] for cells in (top, names))
    if not columns.header or here == there:
        return columns
    if not all(there[column] in here for column in (*columns.text, *(column for _, column in columns.choices))):
        return replace(columns, header=False)
    if there[columns.answer] not in here:
        raise Unreadable(f"has no column '{names[columns.answer]}'")
    offered = tuple((mark, here.index(there[column])) for mark, column in columns.choices)
    texts = tuple(here.index(there[column]) for column in columns.text)
    return Columns(texts, here.index(there[columns.answer]), len(here), True, offered)


def table_by_split(records: Sequence[tuple[int, list[str]]]) -> dict[str, list[tuple[int, list[str]]]] | None:
    """The records of a table below its names by the split that a column names; None where none does."""
    names = [cell.lower() for cell in records[0][1]]
    column = next((names.index(key) for key in SPLIT_KEYS if key in names), None)
    if column is None:
        return None
    return parted(records[1:], [cells[column] if len(cells) == len(names) else "train" for _, cells in records[1:]])


def is_text_alone(found: Sequence[nested.Record], fields: Fields) -> bool:
    """Whether records are texts that nothing answers: beside one of them stands nothing but what is said about it."""
    names = {name for _, record in found if isinstance(record, Mapping) for name in record}
    return bool(fields.texts) and not fields.answers and names <= ASIDE.union(fields.texts[:1])


def texts_alone(found: Sequence[nested.Record], field: str) -> Rows:
    """The texts of such records."""
    for place, record in found:
        text = record.get(field) if isinstance(record, Mapping) else None
        yield Row(text) if isinstance(text, str) and text.strip() else Broken("no text", place)


def several_answers(found: Iterable[Sequence[nested.Record]], fields: Fields) -> int:
    """How many records give more than one answer."""
    return sum(len(_answers(record, fields)) > 1 for listed in found for _, record in listed if isinstance(record, Mapping))


def _answers(record: Mapping[str, Any], fields: Fields) -> list[Any]:
    return nested.answers_of(next((record[key] for key in fields.answers if key in record), None))


def record_rows(found: Sequence[nested.Record], fields: Fields) -> Rows:
    """Rows of records with a text, or a context and a question, and a label or an answer; key-value records ask for one of their keys."""
    for place, record in found:
        if not isinstance(record, Mapping):
            yield Broken("expected an object with a text and a label or answer", place)
        elif "ordered_kv_records" in record:
            yield _key_value(record, place)
        else:
            yield _record(record, place, fields)


def _record(record: Mapping[str, Any], place: str, fields: Fields) -> Row | Broken:
    answer = next(iter(_answers(record, fields)), "")
    texts = [record[key] for key in fields.texts if record.get(key) is not None]
    if answer is None or not texts:
        return Broken(f"no {'answer' if texts else 'text'} among {', '.join(sorted(record))}" if record else "no answer and no text", place)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not isinstance(answer, str | int):
        return Broken("an answer that is neither text nor a whole number", place)
    if not all(isinstance(text, str) for text in texts):
        return Broken("a text that is no text", place)
    text, said = " ".join(text.strip() for text in texts if text.strip()), str(answer).strip()
    return Row(text, said, part_of=nested.whole_of(place)) if text and said else Broken("an empty text or answer", place)


def _key_value(record: Mapping[str, Any], place: str) -> Row | Broken:
    pairs, asked, value = record["ordered_kv_records"], record.get("key"), record.get("value")
    good = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not good or not isinstance(asked, str) or not isinstance(value, str):
        return Broken("expected ordered_kv_records of pairs, a key and its value", place)
    if [asked, value] not in pairs:
        return Broken("a key that is not among its records", place)
    written = " ".join(f"{key} : {held} ," for key, held in pairs)
    return Row(f"{written} {asked} :", value, len(pairs) - pairs.index([asked, value]))


def text_label_lists(listed: Any, where: str) -> Rows:
    """A JSON list of `[text, label]`."""
    for number, pair in enumerate(listed, 1):
        place = f"{where} {number}"
        good = isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) and part.strip() for part in pair)
        yield Row(pair[0].strip(), pair[1].strip()) if good else Broken("expected [text, label]", place)


def spoken(content: Content) -> Rows:
    """`{intent: [{"data": [{"text": ..}, ..]}, ..]}`: the pieces of an utterance are joined."""
    loaded = parsed(content)
    if not isinstance(loaded, Mapping) or len(loaded) != 1:
        raise Unreadable("is no object with one intent and its utterances")
    ((intent, utterances),) = loaded.items()
    if not isinstance(utterances, list):
        raise Unreadable(f"has no list of utterances under '{intent}'")
    for number, utterance in enumerate(utterances, 1):
        place = f"{content.name}: utterance {number}"
        pieces = utterance.get("data") if isinstance(utterance, Mapping) else None
        if not isinstance(pieces, list) or not all(isinstance(piece, Mapping) and isinstance(piece.get("text"), str) for piece in pieces):
            yield Broken('expected {"data": [{"text": ..}, ..]}', place)
            continue
        text = "".join(piece["text"] for piece in pieces).strip()
        yield Row(text, str(intent)) if text else Broken("an utterance without text", place)


Reader = Callable[[Content], Rows]
