"""What a folder of text holds, for people: data sets, what was left out, which tasks come of it, and how long the texts are.

clbench data check FOLDER
clbench data check FOLDER stream.text=utterance stream.answer=intent
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clbench.errors import UserError

from .corpus import SPLITS, Dataset, shortened
from .encoding import UNITS, Encoding
from .folder import survey
from .formats import FORMATS
from .stream import named, parts_of

OPTIONS = ("text", "answer")
FIRST = 3
"""So many files are named that were not read for the same reason."""

KINDS = {"choices": "a text and one of few answers", "answers": "a text and another text", "text": "plain text"}


@dataclass(frozen=True)
class Found:
    """One data set. `longest` and `median`: tokens of a text by unit; `words`: different ones; `confused`: see `Encoding.confused`."""

    name: str
    kind: str
    form: str
    rows: dict[str, int]
    answers: int
    overlap: int
    median: dict[str, int]
    longest: dict[str, int]
    words: int
    confused: float
    example: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """All of a folder.

    `tasks`: what a stream makes of it, in order; `unread`: files that gave nothing, with the reason; `said`: options, as they were typed.
    """

    folder: str
    datasets: tuple[Found, ...]
    tasks: tuple[str, ...]
    unread: dict[str, str]
    said: tuple[str, ...] = ()

    @property
    def fulfilled(self) -> bool:
        """Whether anything can be learned from it."""
        return bool(self.datasets)

    def plain(self) -> dict[str, Any]:
        """For another program."""
        return asdict(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        return ("data set", "kind", "format", *SPLITS, "answers", "in both", "words", "bytes")

    @property
    def table(self) -> list[tuple[str, ...]]:
        """One row for each data set; of words and bytes a text has in the middle and at most."""
        return [
            (
                found.name,
                found.kind,
                found.form,
                *(f"{found.rows[split]:,}" for split in SPLITS),
                f"{found.answers:,}" if found.answers else "-",
                f"{found.overlap:,}" if found.kind != "text" else "-",
                *(f"{found.median[unit]:,} to {found.longest[unit]:,}" if found.kind != "text" else "-" for unit in UNITS),
            )
            for found in self.datasets
        ]

    @property
    def lines(self) -> list[str]:
        """What the table does not say."""
        said = ["in both: test texts that stand in training as well; words, bytes: of a text, in the middle and at most"]
        for found in self.datasets:
            said += ["", f"{found.name}: {KINDS[found.kind]}", f"  {found.example}"]
            said += [f"  {remark}" for remark in found.remarks]
            if found.confused:
                shared = (
                    f"{found.words:,} different words; {100 * found.confused:.1f} % of the text is words that share a commoner one's number"
                )
                said.append(f"  {shared} (bytes keep them apart)")
        if self.unread:
            said += ["", "not read:", *self._reasons]
        if not self.datasets:
            return [*said[1:], "", f"nothing here can be read; expected {FORMATS}"]
        said += ["", f"{len(self.tasks)} task{'s'[: len(self.tasks) > 1]}: {', '.join(self.tasks)}"]
        words = ["stream=local-text", f"stream.folder={self.folder}", *self.said, "agent=transformer", *self._options]
        return [*said, "", shlex.join(["clbench", "run", *words])]

    @property
    def _reasons(self) -> list[str]:
        """Why files were not read: the first few for each reason."""
        files: dict[str, list[str]] = {}
        for file, reason in self.unread.items():
            files.setdefault(reason, []).append(file)
        said = []
        for reason, held in files.items():
            said += [f"  {file} {reason}" for file in held[:FIRST]]
            said += [f"  and {len(held) - FIRST:,} more of which the same is true"] if len(held) > FIRST else []
        return said

    @property
    def _options(self) -> list[str]:
        """What has to be said for these."""
        if any(found.kind == "text" for found in self.datasets):
            return ["stream.tokens=bytes"]
        if len(self.tasks) == 1 and self.datasets[0].kind == "choices" and self.datasets[0].answers > 3:
            return ["stream.classes_per_task=2"]
        return []


def look(folder: str, options: Mapping[str, Any] | None = None, words: Sequence[str] = ()) -> Findings:
    """Read all of `folder`, under `options` of the stream that say which columns are what, typed as `words`."""
    options = options or {}
    for option in options:
        if option not in OPTIONS:
            expected = " or ".join(f"stream.{known}=NAME" for known in OPTIONS)
            raise UserError(f"data check: stream.{option} says nothing of what a folder holds; expected {expected}")
    found = survey(folder, named(options.get("text"), options.get("answer")))
    tasks = tuple(part[0] for part in parts_of(found, None))
    return Findings(str(folder), tuple(_of(dataset) for dataset in found.datasets.values()), tasks, dict(found.unread), tuple(words))


def _of(dataset: Dataset) -> Found:
    texts = [row.prompt for split in SPLITS for row in dataset.splits[split]]
    lengths = {unit: [Encoding(unit).length(text) for text in texts] for unit in UNITS} if dataset.kind != "text" else {}
    known, confused = Encoding("words").confused(texts) if dataset.kind != "text" else (0, 0.0)
    row = dataset.splits["train"][0]
    shown = f"{shortened(row.prompt, 90)!r}" + (f" -> {shortened(row.answer)!r}" if row.answer else "")
    return Found(
        name=dataset.name,
        kind=dataset.kind,
        form=dataset.form,
        rows={split: len(dataset.splits[split]) for split in SPLITS},
        answers=len(dataset.labels) if dataset.kind == "choices" else 0,
        overlap=dataset.overlap,
        median={unit: int(np.median(found)) for unit, found in lengths.items()},
        longest={unit: max(found) for unit, found in lengths.items()},
        words=known,
        confused=confused,
        example=shown,
        remarks=dataset.remarks,
    )
