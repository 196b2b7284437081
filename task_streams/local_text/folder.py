"""What a folder holds: every file is looked at, formats are recognised by what is in them, and what cannot be read is said.

    clbench data check FOLDER

Files of one data set differ only in the name of their split (`train`, `test`, ..); a folder with one of them gives it its name. Nothing is
downloaded and nothing of the folder is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from clbench.errors import UserError

from . import formats
from .corpus import Dataset
from .formats import FORMATS, SPLIT_OF
from .records import Unreadable

DEEPEST = 4
_SPLIT = re.compile(rf"(?:^|(?<=[._\- ]))({'|'.join(sorted(SPLIT_OF, key=len, reverse=True))})(?=$|[._\- ])", re.IGNORECASE)
_SILENT = ("license", "licence", "readme", "copying", "notice", "citation", "sha256sums", "domains", "labels")
_TEXTS, _LABELS = ("src", "text", "texts", "title", "titles", "sentence", "sentences", "source"), ("tgt", "label", "labels", "target")


@dataclass(frozen=True)
class Survey:
    """The data sets of a folder by name, and the files that gave none, each with the reason."""

    folder: Path
    datasets: Mapping[str, Dataset]
    unread: Mapping[str, str] = field(default_factory=dict)


def survey(folder: Path | str) -> Survey:
    """Read all that can be read below `folder`."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"no folder '{folder}'; expected one with {FORMATS}; give stream.folder=PATH")
    found: dict[str, Dataset] = {}
    unread: dict[str, str] = {}
    for place in _folders(root):
        try:
            files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
        except OSError as error:
            unread[str(place)] = f"cannot be opened ({error.strerror})"
            continue
        own = list(_datasets(place, files, unread))
        for dataset in own if len(own) > 1 else [replace(dataset, name=slug(place.resolve().name)) for dataset in own]:
            name = dataset.name if dataset.name not in found else slug(f"{place.parent.name}-{dataset.name}")
            number = 2
            while name in found:
                name, number = f"{dataset.name}-{number}", number + 1
            found[name] = replace(dataset, name=name)
    ordered = dict(sorted(found.items(), key=lambda item: _natural(item[0])))
    return Survey(root, ordered, {str(Path(path).relative_to(root)): reason for path, reason in unread.items()})


def _folders(root: Path) -> list[Path]:
    found = [root]
    for place in found:
        deep = len(place.relative_to(root).parts)
        if deep < DEEPEST and os.access(place, os.R_OK | os.X_OK):
            found += sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    return found


def _natural(name: str) -> list[Any]:
    """So that qa2 stands before qa10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def slug(name: str) -> str:
    """A name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"


def _datasets(place: Path, files: Sequence[Path], unread: dict[str, str]) -> Iterable[Dataset]:
    """The data sets of one folder's own files."""
    left = [path for path in files if _stem(path).lower() not in _SILENT and path.suffix.lower() not in (".md", ".rst", ".pdf", ".py")]
    spoken = [path for path in left if path.suffix == ".json" and re.match(r"(train|validate|test)_\w+\.json$", path.name)]
    spoken = [path for path in spoken if not path.stem.endswith("_full") or not path.with_name(f"{path.stem[:-5]}.json").exists()]
    if len({path.stem.split("_")[1] for path in spoken}) > 1:
        yield from _kept(unread, spoken, partial(formats.snips, slug(place.resolve().name), spoken))
        left = [path for path in left if not re.match(r"(train|validate|test)_\w+\.json$", path.name)]
    for texts, labels in _beside(left):
        left = [path for path in left if path not in texts.values() and path not in labels.values()]
        yield from _kept(unread, texts.values(), partial(formats.side_by_side, _of_pair(place, texts), texts, labels))
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for path in left:
        split, base = _split_of(_stem(path))
        kind = path.name[len(_stem(path)) :].lower()
        group = groups.setdefault((base, kind), {})
        if split in group:
            unread[str(path)] = f"stands for the same split as '{group[split].name}'"
        else:
            group[split] = path
    for (base, _), paths in _matched(groups).items():
        yield from _kept(unread, paths.values(), partial(formats.one, slug(base or place.resolve().name), place, paths))


def _matched(groups: Mapping[tuple[str, str], dict[str, Path]]) -> dict[tuple[str, str], dict[str, Path]]:
    """The groups, where one lacks a test split and another of the same kind has nothing else as one: `train_5500.label`, `test.label`."""
    joined = dict(groups)
    for ending in {ending for _, ending in groups}:
        alone = [key for key in groups if key[1] == ending and set(groups[key]) == {"test"}]
        without = [key for key in groups if key[1] == ending and "train" in groups[key] and "test" not in groups[key]]
        if len(alone) == len(without) == 1:
            joined[without[0]] = {**groups[without[0]], **joined.pop(alone[0])}
    return joined


def _kept(unread: dict[str, str], paths: Iterable[Path], read: Any) -> Iterable[Dataset]:
    """What `read` gives; where it fails, its files are not read, for that reason."""
    try:
        dataset = read()
    except Unreadable as error:
        unread.update({str(path): str(error) for path in paths})
        return
    if not dataset.splits["train"] or not dataset.splits["test"]:
        missing = "training" if not dataset.splits["train"] else "test"
        unread.update({str(path): f"leaves no {missing} rows" + _because(dataset) for path in paths})
        return
    yield dataset


def _because(dataset: Dataset) -> str:
    return f" ({dataset.remarks[0]})" if dataset.remarks else ""


def _stem(path: Path) -> str:
    """The name without what says how it is written."""
    name = path.name
    for suffix in (".gz", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".src", ".tgt", ".all", ".label"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name or path.name


def _split_of(stem: str) -> tuple[str, str]:
    """The split that a file's name says, "" where it says none, and the rest of the name."""
    found = list(_SPLIT.finditer(stem))
    if not found:
        return "", stem
    last = found[0] if found[0].start() == 0 else found[-1]
    rest = re.sub(r"[._\- ]{2,}", "_", stem[: last.start()] + stem[last.end() :]).strip("._- ")
    return SPLIT_OF[last[1].lower()], rest


def _beside(files: Sequence[Path]) -> list[tuple[dict[str, Path], dict[str, Path]]]:
    """Pairs of files of which one holds texts and the other their answers, by split."""
    sides: dict[str, tuple[dict[str, Path], dict[str, Path]]] = {}
    for path in files:
        if path.suffix.lower() not in (".txt", ".src", ".tgt", ""):
            continue
        words = [word for word in re.split(r"[._\- ]+", path.name.lower()) if word != "txt"]
        side = 0 if any(word in _TEXTS for word in words) else 1 if any(word in _LABELS for word in words) else None
        if side is None:
            continue
        rest = " ".join(word for word in words if word not in (*_TEXTS, *_LABELS))
        split, base = _split_of(rest)
        sides.setdefault(base, ({}, {}))[side][split or "train"] = path
    return [(texts, labels) for texts, labels in sides.values() if texts and texts.keys() == labels.keys()]


def _of_pair(place: Path, texts: Mapping[str, Path]) -> str:
    """The name of a data set whose texts and answers are in two files."""
    base = _split_of(next(iter(texts.values())).stem)[1]
    words = [word for word in re.split(r"[._\- ]+", base) if word.lower() not in _TEXTS]
    return slug("-".join(words) or place.resolve().name)
