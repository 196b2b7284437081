"""Folders whose own folders are answers, with a text in each file: `train/pos/0_9.txt`, `20news-bydate-test/sci.space/61234`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import median

from . import records
from .corpus import ROWS_A_CHOICE, Dataset, Row
from .formats import Reading
from .names import SPLIT_OF, is_open, own_files, split_of, stem_of, subfolders
from .records import Broken, Rows, Unreadable

_LONGEST = 50_000
"""Bytes; where the text in the middle has more, they are books, and each is a text of its own."""

_UNNAMED = ("unsup", "unlabeled", "unlabelled")


def groups(places: Sequence[Path]) -> dict[tuple[Path, str], dict[str, Path]]:
    """The data sets of this kind among folders: where one stands and the rest of its name, then by split the folder of its answers."""
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for place in places:
        if _holds_answers(place):
            split, base = split_of(place.name) if place != places[0] else ("", "")
            found.setdefault((place.parent, base) if split else (place, ""), {})[split or "train"] = place
    return found


def is_plain(path: Path) -> bool:
    """Whether a file's name says that there is text in it and nothing else: `.txt`, a number or no ending."""
    return path.suffix.lower() in ("", ".txt") or path.suffix[1:].isdecimal()


def read(name: str, parts: Mapping[str, Path]) -> Dataset:
    """The data set of these folders by split."""
    reading = Reading(name, "a folder for each answer")
    foreign: list[str] = []
    for split, place in parts.items():
        answers = [_rows(folder, foreign) for folder in _answers(place)]
        reading.add(split, (row for turn in zip_longest(*answers) for row in turn if row is not None))
        if left := [folder.name for folder in subfolders(place) if folder.name in _UNNAMED]:
            reading.remarks.append(f"{place.name}/{left[0]}: texts without an answer, left out")
    if foreign:
        reading.remarks.append(f"{len(foreign):,} files are not UTF-8, read as latin-1 (first: {foreign[0]})")
    return reading.done("choices")


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
