"""Text as numbers, without anything that was fitted: bytes, or words by their hash.

    0-15 specials as in the generated streams   16-47 symbols that codes of labels are made of   from 48 bytes, or buckets of words

Nothing depends on what a stream holds, so nothing of later tasks is known to earlier ones (language.md, 9.1). Two words in one bucket are
one word to every agent; how much of a data set's text that touches is counted and said.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from clbench.errors import unknown_name

PAD, BOS, EOS, ANS, SEP = 0, 1, 2, 3, 4
SYMBOLS = range(16, 48)
"""What codes of labels are made of: two of them a label, 1,024 codes."""

MOST_CODES = len(SYMBOLS) ** 2

FIRST = 48
BUCKETS = 8192 - FIRST
UNITS = ("words", "bytes")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Encoding:
    """Text as `unit` "bytes" or "words" (small letters, punctuation apart)."""

    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown_name("unit of text", self.unit, UNITS, "stream.tokens")

    @property
    def size(self) -> int:
        """V, the number of ids."""
        return FIRST + (256 if self.unit == "bytes" else BUCKETS)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        if self.unit == "bytes":
            return [FIRST + byte for byte in text.encode("utf-8", "surrogatepass")]
        return [FIRST + _bucket(word) for word in words(text)]

    def confused(self, texts: Iterable[str]) -> tuple[int, float]:
        """How many different words there are, and the share of running text whose words have the number of a commoner one."""
        if self.unit == "bytes":
            return 0, 0.0
        counts = Counter(word for text in texts for word in words(text))
        commonest: dict[int, int] = {}
        for word, count in counts.items():
            commonest[_bucket(word)] = max(count, commonest.get(_bucket(word), 0))
        total = sum(counts.values())
        return len(counts), (total - sum(commonest.values())) / total if total else 0.0


def words(text: str) -> list[str]:
    """The words and marks of a text, in small letters."""
    return _WORD.findall(text.lower())


@cache
def _bucket(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "little") % BUCKETS


def codes(labels: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Of each label its fixed random code of two symbols; of two labels with one code the later, by name, has the next that is free."""
    taken: dict[int, str] = {}
    if len(set(labels)) > MOST_CODES:
        raise ValueError(f"expected at most {MOST_CODES} labels, got {len(set(labels))}")
    for label in sorted(set(labels)):
        number = int.from_bytes(hashlib.sha256(f"label\0{label}".encode("utf-8", "surrogatepass")).digest()[:8], "little") % MOST_CODES
        while number in taken:
            number = (number + 1) % MOST_CODES
        taken[number] = label
    return {label: (SYMBOLS[number // len(SYMBOLS)], SYMBOLS[number % len(SYMBOLS)]) for number, label in taken.items()}


def padded(rows: Sequence[Sequence[int]], width: int | None = None) -> NDArray[np.int64]:
    """Rows of one length (n, width), filled up behind."""
    width = max((len(row) for row in rows), default=0) if width is None else width
    table = np.full((len(rows), width), PAD, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
