"""What a folder of real text holds: data sets of three kinds, each with its splits, and what had to be left out.

choices: a text and one of few answers (a label, a place); answers: a text and another text; text: nothing but text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["choices", "answers", "text"]

SPLITS = ("train", "validation", "test")
MOST_CHOICES = 300
"""More different answers than these are texts, not choices."""

ROWS_A_CHOICE = 3
"""So many rows an answer must have on average to be a choice."""

_BUCKET = {"validation": 8, "test": 9}


@dataclass(frozen=True)
class Row:
    """One example. `age`: statements since the last one that the answer rests on, where the source says so; 1 is the one before.

    `part_of`: the text or conversation that it asks about, of which there are more examples; they are of one split.
    """

    prompt: str
    answer: str = ""
    age: int | None = None
    part_of: str = field(default="", compare=False)


@dataclass(frozen=True)
class Dataset:
    """A named data set as it was read. `groups`: published groups of its answers; `remarks`: what was left out or decided, in words."""

    name: str
    kind: Kind
    form: str
    splits: Mapping[str, tuple[Row, ...]]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The different answers of its training rows, sorted; numbers by their size."""
        found = {row.answer for row in self.splits["train"]}
        return tuple(sorted(found, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)))

    @property
    def question_last(self) -> bool:
        """Whether the end of a text asks for something in it, so that what has to go of a long text is its beginning."""
        return any(row.age is not None for row in self.splits["train"][:100])

    @property
    def overlap(self) -> int:
        """Test rows whose text stands in the training rows as well."""
        known = {row.prompt for row in self.splits["train"]}
        return sum(row.prompt in known for row in self.splits["test"])


def is_choice(answers: Sequence[str]) -> bool:
    """Whether these answers of training rows are choices: few, and each seen several times."""
    different = len(set(answers))
    return 1 < different <= MOST_CHOICES and different * ROWS_A_CHOICE <= len(answers)


def bucket(text: str) -> int:
    """0 to 9, from a hash of the text, so that equal texts are in one split."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little") % 10


def completed(dataset: Dataset) -> Dataset:
    """The same data set with all three splits, and with answers in every split that training knows.

    A split that is missing is taken from the training rows: one of ten by a hash of the text, for all parts of one thing that of the first;
    of few rows one of ten as they stand; of plain text a tenth of it, at its end.
    """
    splits = {split: tuple(dataset.splits.get(split, ())) for split in SPLITS}
    remarks = list(dataset.remarks)
    missing = [split for split in ("validation", "test") if not splits[split]]
    if missing and splits["train"]:
        rows = splits["train"]
        parts = _blocks(rows, missing) if dataset.kind == "text" else _by_hash(rows, missing)
        splits.update(parts)
        counts = ", ".join(f"{len(splits[split]):,} {split}" for split in ("train", *missing))
        remarks.append(f"no {' and no '.join(missing)} split in the source: taken from its training rows ({counts})")
    if dataset.kind == "choices":
        known = {row.answer for row in splits["train"]}
        for split in ("validation", "test"):
            kept = tuple(row for row in splits[split] if row.answer in known)
            if left := len(splits[split]) - len(kept):
                strange = Counter(row.answer for row in splits[split] if row.answer not in known).most_common(1)[0][0]
                remarks.append(f"{left} {split} rows have answers that no training row has, as '{shortened(strange)}': left out")
            splits[split] = kept
    return replace(dataset, splits=splits, remarks=tuple(remarks))


def _by_hash(rows: Sequence[Row], missing: Sequence[str]) -> dict[str, tuple[Row, ...]]:
    split_of = {_BUCKET[split]: split for split in missing}
    found: dict[str, list[Row]] = {split: [] for split in ("train", *missing)}
    first: dict[str, str] = {}
    for row in rows:
        said = first.setdefault(row.part_of, row.prompt) if row.part_of else row.prompt
        found[split_of.get(bucket(said), "train")].append(row)
    parts = {split: tuple(chosen) for split, chosen in found.items()}
    return parts if all(parts.values()) else _by_place(rows, missing)  # few rows, or few different ones


def _by_place(rows: Sequence[Row], missing: Sequence[str]) -> dict[str, tuple[Row, ...]]:
    """From all over the rows, as they may stand in the order of their answers; parts of one thing together, where there are several."""
    things: list[object] = [row.part_of or at for at, row in enumerate(rows)]
    if len(set(things)) <= len(missing):
        things = list(range(len(rows)))
    numbers = {thing: number for number, thing in enumerate(dict.fromkeys(things))}
    share = max(1, len(numbers) // 10)
    every = len(numbers) // share
    taken = {split: set(range(every - 1 - n, every * share, every)) for n, split in enumerate(reversed(missing))}
    placed = [(numbers[thing], row) for thing, row in zip(things, rows, strict=True)]
    parts = {split: tuple(row for at, row in placed if at in places) for split, places in taken.items()}
    left = tuple(row for at, row in placed if not any(at in places for places in taken.values()))
    return {"train": left, **{split: parts[split] for split in missing}}


def _blocks(rows: Sequence[Row], missing: Sequence[str]) -> dict[str, tuple[Row, ...]]:
    """Of one long text its end; of many their last ones."""
    if len(rows) > len(missing):
        share = max(1, len(rows) // 10)
        cuts = [len(rows) - share * left for left in range(len(missing), -1, -1)]
        parts = {split: tuple(rows[cuts[n] : cuts[n + 1]]) for n, split in enumerate(missing)}
        return {"train": tuple(rows[: cuts[0]]), **parts}
    whole = "\n".join(row.prompt for row in rows)
    share = len(whole) // 10
    cuts = [len(whole) - share * left for left in range(len(missing), -1, -1)]
    parts = {split: (Row(whole[cuts[n] : cuts[n + 1]]),) for n, split in enumerate(missing)}
    return {"train": (Row(whole[: cuts[0]]),), **parts}


def shortened(text: str, most: int = 40) -> str:
    """The beginning of a text in one line, for people."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def tallied(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """One remark for each reason that rows were left out for, with how often and the first place."""
    found: dict[str, list[str]] = {}
    for reason, place in reasons:
        found.setdefault(reason, []).append(place)
    return [f"left out: {len(places):,} row{'s'[: len(places) > 1]}, {why} (first: {places[0]})" for why, places in found.items()]
