"""What a folder holds: every file is looked at, formats are recognised by what is in them, and what cannot be read is said.

    clbench data check FOLDER

Files of one data set differ only in the name of their split (`train`, `test`, ..), which may be that of the folder they are in; a folder
with one data set gives it its name. Where folders hold short texts only, each is an answer. Nothing is downloaded and nothing of the folder
is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from clbench.errors import UserError

from . import answer_folders, formats
from .corpus import Dataset
from .formats import FORMATS, WITH_NAMES
from .names import SPLIT_OF, is_open, own_files, slug, split_of, stem_of, subfolders
from .records import NOTHING_SAID, Named, Unreadable

DEEPEST = 4
_SILENT = (
    "license",
    "licence",
    "readme",
    "copying",
    "notice",
    "contributing",
    "changelog",
    "citation",
    "sha256sums",
    "domains",
    "labels",
    "dataset_dict",
    "dataset_info",
    "requirements",
    *formats.CLASS_NAMES,
)
_TEXTS = ("src", "text", "texts", "title", "titles", "sentence", "sentences", "source", "input", "inputs")
_LABELS = ("tgt", "label", "labels", "target", "output", "outputs")
_SIDES = (*dict.fromkeys(_TEXTS, 0).items(), *dict.fromkeys(_LABELS, 1).items(), ("x", 0), ("y", 1))
"""Words of names that say whether a file holds texts or their answers; of several the first here."""
_SLOTS = "seq.out"
_SHARD = re.compile(r"[-_]?\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Survey:
    """The data sets of a folder by name, and the files that gave none, each with the reason."""

    folder: Path
    datasets: Mapping[str, Dataset]
    unread: Mapping[str, str] = field(default_factory=dict)


def survey(folder: Path | str, named: Named = NOTHING_SAID) -> Survey:
    """Read all that can be read below `folder`; `named` says which columns of tables and fields of records are what."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"no folder '{folder}'; expected one with {FORMATS}; give stream.folder=PATH")
    finds = _Finds(root, named)
    places = _folders(root)
    done = finds.answer_folders(places)
    for place in places:
        done |= finds.own(place, done)
    if any(named) and finds.datasets and not any(dataset.form in WITH_NAMES for dataset in finds.datasets.values()):
        raise UserError(f"nothing in '{folder}' has columns or fields: leave out stream.text and stream.answer")
    ordered = dict(sorted(finds.datasets.items(), key=lambda item: _natural(item[0])))
    return Survey(root, ordered, {str(Path(path).relative_to(root)): reason for path, reason in finds.unread.items()})


class _Finds:
    """What was found so far."""

    def __init__(self, root: Path, named: Named) -> None:
        self.root, self.named = root, named
        self.datasets: dict[str, Dataset] = {}
        self.unread: dict[str, str] = {}

    def answer_folders(self, places: Sequence[Path]) -> set[Path]:
        """Take in the data sets whose answers are folders; which folders are done with."""
        done: set[Path] = set()
        for (place, base), parts in answer_folders.groups(places).items():
            for dataset in _kept(self.unread, parts.values(), partial(answer_folders.read, slug(base or place.resolve().name), parts)):
                self._keep(dataset, place)
            for part in parts.values():
                self.unread.update({str(path): "stands beside folders that are answers" for path in own_files(part)})
                done |= {part, *subfolders(part)}
        return done

    def own(self, place: Path, done: set[Path]) -> set[Path]:
        """Take in the data sets of the files of a folder, and of those in the folders of its splits, with which we are then done."""
        try:
            splits = {split: folder for split, folder in _splits(place).items() if folder not in done}
            within = [parts for parts in _within(splits).values() if done.isdisjoint(parts.values())]
            intents = _intents(place)
            files = [path for folder in (*([] if place in done else [place]), *intents) for path in own_files(folder)]
            found = [(place, files, _given(splits)), *((parts["train"], [], _given(parts)) for parts in within)]
        except OSError as error:
            self.unread[str(place)] = f"cannot be opened ({error.strerror})"
            return set()
        for at, own, given in found:
            datasets = list(_datasets(at, [*own, *given], given, self.named, self.unread))
            for dataset in datasets if len(datasets) > 1 else [replace(dataset, name=self._name_of(at)) for dataset in datasets]:
                self._keep(formats.with_class_names(dataset, at), at)
        return {*splits.values(), *intents, *(folder for parts in within for folder in parts.values())}

    def _name_of(self, place: Path) -> str:
        """The name of the one data set in a folder; where that begins as a split is called, the folder around it says of what."""
        name = place.resolve().name
        return slug(f"{place.resolve().parent.name}-{name}" if place != self.root and _begins_as_split(name) else name)

    def _keep(self, dataset: Dataset, place: Path) -> None:
        around = place.parent.parent if _begins_as_split(place.name) else place.parent
        name, number = dataset.name if dataset.name not in self.datasets else slug(f"{around.name}-{dataset.name}"), 2
        while name in self.datasets:
            name, number = f"{dataset.name}-{number}", number + 1
        self.datasets[name] = replace(dataset, name=name)


def _begins_as_split(name: str) -> bool:
    return re.split(r"[._\- ]", name.lower())[0] in SPLIT_OF


def _folders(root: Path) -> list[Path]:
    found = [root]
    for place in found:
        if len(place.relative_to(root).parts) < DEEPEST and is_open(place):
            found += [folder for folder in subfolders(place) if not _leads_back(folder)]
    return found


def _leads_back(place: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return place.is_symlink() and place.resolve() in [parent.resolve() for parent in place.parents]


def _splits(place: Path) -> dict[str, Path]:
    """The folders of one that are its splits, where one of several is the training split."""
    named = {SPLIT_OF[folder.name.lower()]: folder for folder in subfolders(place) if folder.name.lower() in SPLIT_OF}
    return named if len(named) > 1 and "train" in named else {}


def _given(splits: Mapping[str, Path]) -> dict[Path, str]:
    """The files of folders that are splits, and which split each is of."""
    return {path: split for split, folder in splits.items() for path in own_files(folder)}


def _within(splits: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """The folders that stand under one name in the folders of several splits, of which one is for training: by name, then by split."""
    found: dict[str, dict[str, Path]] = {}
    for split, folder in splits.items():
        for inner in subfolders(folder):
            found.setdefault(inner.name, {})[split] = inner
    return {name: parts for name, parts in found.items() if len(parts) > 1 and "train" in parts}


def _intents(place: Path) -> list[Path]:
    """The folders of one that are named as the intent whose utterances they hold, as SNIPS is published."""
    found = [folder for folder in subfolders(place) if (folder / f"train_{folder.name}.json").is_file()]
    return found if len(found) > 1 else []


def _natural(name: str) -> list[Any]:
    """So that qa2 stands before qa10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _datasets(place: Path, files: Sequence[Path], given: Mapping[Path, str], named: Named, unread: dict[str, str]) -> Iterable[Dataset]:
    """The data sets of one folder's own files, and of those in the folders of its splits, to which these are given."""
    left = [path for path in files if path.suffix.lower() not in (".md", ".rst", ".pdf", ".py")]
    spoken = [path for path in left if path.suffix == ".json" and re.match(r"(train|validate|test)_\w+\.json$", path.name)]
    spoken = [path for path in spoken if not path.stem.endswith("_full") or not path.with_name(f"{path.stem[:-5]}.json").exists()]
    if len({path.stem.split("_")[1] for path in spoken}) > 1:
        yield from _kept(unread, spoken, partial(formats.snips, slug(place.resolve().name), spoken))
        left = [path for path in left if not re.match(r"(train|validate|test)_\w+\.json$", path.name)]
        beside = [path for path in left if path.parent != place and path not in given]
        left = _without(beside, left, "stands beside utterances and holds none", unread)
    pairs, others = _beside(left, given)
    left = _without(others, left, "holds answers line by line, and beside it stand other answers of the same texts", unread)
    for texts, labels, everything in pairs:
        slots = [path.with_name(_SLOTS) for path in texts.values()]
        left = _without(slots, left, "names the parts of each text, which are of no use here", unread)
        if "train" not in texts:
            left = _without(everything, left, "goes with texts and answers line by line, of which there are none for training", unread)
            continue
        left = [path for path in left if path not in (*texts.values(), *labels.values())]
        yield from _kept(unread, texts.values(), partial(formats.side_by_side, _of_pair(place, texts), texts, labels))
    for base, parts in answer_folders.named_files(left, given).items():
        taken = [path for files in parts.values() for path in files.values()]
        left = [path for path in left if path not in taken]
        yield from _kept(unread, taken, partial(answer_folders.read_lines, slug(base or place.resolve().name), parts))
    left = [path for path in left if stem_of(path).lower() not in _SILENT]
    if read := _together(left, given, named):
        yield from _kept(unread, given, partial(read, slug(place.resolve().name)))
        left = [path for path in left if path not in given]
    groups: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for path in left:
        stem = stem_of(path)
        split, base = split_of(_SHARD.sub("", stem))
        group = groups.setdefault((base, path.name[len(stem) :].lower()), {})
        same = group.setdefault(given.get(path, split), [])
        if same and not _SHARD.search(stem):
            unread[str(path)] = f"stands for the same split as '{same[0].name}'"
        else:
            same.append(path)
    for (base, _), paths in _matched(groups).items():
        everything = [path for parts in paths.values() for path in parts]
        yield from _kept(unread, everything, partial(formats.one, slug(base or place.resolve().name), place, paths, named))


def _without(some: Collection[Path], left: Sequence[Path], reason: str, unread: dict[str, str]) -> list[Path]:
    """What is left but for some, which are not read for that reason."""
    unread.update({str(path): reason for path in left if path in some})
    return [path for path in left if path not in some]


def _together(files: Sequence[Path], given: Mapping[Path, str], named: Named) -> Callable[[str], Dataset] | None:
    """What reads the files in the folders of splits as one data set: where each is a record (RACE), or a piece of one text."""
    found: dict[str, list[Path]] = {}
    for path in files:
        if path in given:
            found.setdefault(given[path], []).append(path)
    everything = [path for paths in found.values() for path in paths]
    if len(found) < 2 or len(found.get("train", ())) < 2:
        return None
    first = found["train"][:5]
    if 2 * sum(map(formats.is_single, first)) > len(first):
        return partial(formats.single, paths=found, named=named)
    names = [split_of(stem_of(path))[1] for path in everything]
    if all(map(answer_folders.is_plain, everything)) and len(set(names)) == len(names):
        return partial(formats.documents, paths=found)
    return None


def _matched(groups: Mapping[tuple[str, str], dict[str, list[Path]]]) -> dict[tuple[str, str], dict[str, list[Path]]]:
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
    others = [split for split, rows in dataset.splits.items() if rows]
    if others and "train" not in others:
        return f" (it is of the {others[0]} split by its name, and no file like it of the training split; under another name it is divided)"
    said = sorted(dataset.remarks, key=lambda remark: "left out" not in remark)
    return f" ({said[0]})" if said else ""


_Pair = tuple[dict[str, Path], dict[str, Path], set[Path]]


def _beside(files: Sequence[Path], given: Mapping[Path, str]) -> tuple[list[_Pair], set[Path]]:
    """Pairs of files of which one holds texts and the other their answers, by split, with all files of these names; and other answers."""
    sides: dict[str, tuple[dict[str, Path], dict[str, Path]]] = {}
    for path in files:
        if path.suffix.lower() not in (".txt", ".src", ".tgt", ".source", ".target", ".in", ""):
            continue
        name = "text" if path.name == "seq.in" else path.name.lower()
        words = [word for word in re.split(r"[._\- ]+", name) if word != "txt"]
        said = next(((word, side) for word, side in _SIDES if word in words), None)
        if said is None:
            continue
        rest = " ".join(word for word in words if word not in (said[0], *_TEXTS, *_LABELS))
        split, base = split_of(rest)
        sides.setdefault(base, ({}, {}))[said[1]][given.get(path, split) or "train"] = path
    both = [(texts, labels, texts.keys() & labels.keys()) for texts, labels in sides.values()]
    pairs = [
        (
            {split: texts[split] for split in texts if split in shared},
            {split: labels[split] for split in labels if split in shared},
            {*texts.values(), *labels.values()},
        )
        for texts, labels, shared in both
        if shared
    ]
    return pairs, {path for texts, labels, _ in both if pairs and not texts for path in labels.values()}


def _of_pair(place: Path, texts: Mapping[str, Path]) -> str:
    """The name of a data set whose texts and answers are in two files."""
    base = split_of(next(iter(texts.values())).stem)[1]
    words = [word for word in re.split(r"[._\- ]+", base) if word.lower() not in (*_TEXTS, "seq")]
    return slug("-".join(words) or place.resolve().name)
