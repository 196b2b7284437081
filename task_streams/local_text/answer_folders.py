"""Answers that are told by where a text lies.

Folders whose own folders are answers, with a text in each file: `train/pos/0_9.txt`, `20news-bydate-test/sci.space/61234`. Files whose
names are answers, with a text on each line: `rt-polarity.pos`, `rt-polarity.neg`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import median

from . import records
from .corpus import ROWS_A_CHOICE, Dataset, Row
from .formats import Reading
from .names import SPLIT_OF, is_open, own_files, split_of, stem_of, subfolders
from .records import Broken, Content, Rows, Unreadable

_LONGEST = 50_000
"""Bytes; where the text in the middle has more, they are books, and each is a text of its own."""

_NAMED = ("pos", "neg", "neu", "positive", "negative", "neutral", "objective", "subjective")
_UNNAMED = ("unsup", "unlabeled", "unlabelled")


def groups(places: Sequence[Path]) -> dict[tuple[Path, str], dict[str, Path]]:
    """The data sets of this kind among folders: where one stands and the rest of its name, then by split the folder of its answers."""
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for place in places:
        if _holds_answers(place):
            split, base = split_of(place.name) if place != places[0] else ("", "")
            found.setdefault((place.parent, base) if split else (place, ""), {})[split or "train"] = place
    return found


def named_files(files: Iterable[Path], given: Mapping[Path, str]) -> dict[str, dict[str, dict[str, Path]]]:
    """Files that are named as an answer of these, where several of one name are: by the rest of their names, by split, by answer."""
    found: dict[str, dict[str, dict[str, Path]]] = {}
    for path in files:
        words = [word for word in re.split(r"[._\- ]+", path.name.lower()) if word != "txt"]
        said = [word for word in words if word in _NAMED]
        if len(said) == 1 and path.suffix.lower()[1:] in ("", "txt", *_NAMED):
            split, base = split_of(" ".join(word for word in words if word not in said))
            found.setdefault(base, {}).setdefault(given.get(path, split) or "train", {})[said[0]] = path
    return {base: parts for base, parts in found.items() if len(parts.get("train", ())) > 1}


def is_plain(path: Path) -> bool:
    """Whether a file's name says that there is text in it and nothing else: `.txt`, a number or no ending."""
    return path.suffix.lower() in ("", ".txt") or path.suffix[1:].isdecimal()


def read(name: str, parts: Mapping[str, Path]) -> Dataset:
    """The data set of these folders by split."""
    reading = Reading(name, "a folder for each answer")
    foreign: list[str] = []
    for split, place in parts.items():
        reading.add(split, _in_turn(_rows(folder, foreign) for folder in _answers(place)))
        if left := [folder.name for folder in subfolders(place) if folder.name in _UNNAMED]:
            reading.remarks.append(f"{place.name}/{left[0]}: texts without an answer, left out")
    if foreign:
        reading.remarks.append(f"{len(foreign):,} files are not UTF-8, read as latin-1 (first: {foreign[0]})")
    return reading.done("choices")


def read_lines(name: str, parts: Mapping[str, Mapping[str, Path]]) -> Dataset:
    """The data set of files by split and answer, with a text on each line."""
    reading = Reading(name, "a file for each answer")
    for split, files in parts.items():
        contents = {answer: records.read(path) for answer, path in sorted(files.items())}
        reading.remarks += [remark for content in contents.values() for remark in content.remarks]
        reading.add(split, _in_turn(_lines(content, answer) for answer, content in contents.items()))
    return reading.done("choices")


def _lines(content: Content, answer: str) -> Rows:
    return (Row(line.strip(), answer) for line in content.lines if line.strip())


def _in_turn(answers: Iterable[Rows]) -> Rows:
    """One row of each answer after another, so that no order of answers is left."""
    return (row for turn in zip_longest(*answers) for row in turn if row is not None)


def _holds_answers(place: Path) -> bool:
    if not is_open(place):
        return False
    folders = _answers(place)
    if len(folders) < 2 or all(folder.name.lower() in SPLIT_OF for folder in folders):
        return False
    if not all(map(is_open, folders)) or any(subfolders(folder) for folder in folders):
        return False
    files = [own_files(folder) for folder in folders]
    everything = [path for part in files for path in part]
    if not all(files) or len(everything) < ROWS_A_CHOICE * len(files):
        return False
    if not all(is_plain(path) and not split_of(stem_of(path))[0] for path in everything):
        return False
    return median(path.stat().st_size for path in everything) <= _LONGEST


def _answers(place: Path) -> Sequence[Path]:
    return [folder for folder in subfolders(place) if folder.name not in _UNNAMED]


def _rows(folder: Path, foreign: list[str]) -> Rows:
    for path in own_files(folder):
        place = f"{folder.name}/{path.name}"
        try:
            content = records.read(path)
        except Unreadable as error:
            yield Broken(f"a file that {error}", place)
            continue
        foreign.extend([place] if content.remarks else [])
        yield Row(content.text.strip(), folder.name)
