"""Text as numbers, without anything that was fitted to it: bytes, words by their hash, or the pieces of a tokenizer in a folder.

    0-15 specials as in the generated streams   16-47 symbols that codes of labels are made of   from 48 bytes, buckets of words, or pieces

Nothing depends on what a stream holds, so nothing of later tasks is known to earlier ones (language.md, 9.1). Two words in one bucket are
one word to every agent; how much of a data set's text that touches is counted and said. Pieces are for models that were trained before
with that tokenizer, and their vocabulary may hold what its makers fitted it to.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UserError, unknown_name

PAD, BOS, EOS, ANS, SEP = 0, 1, 2, 3, 4
SYMBOLS = range(16, 48)
"""What codes of labels are made of: two of them a label, 1,024 codes."""

MOST_CODES = len(SYMBOLS) ** 2

FIRST = 48
BUCKETS = 8192 - FIRST
UNITS = ("words", "bytes")
_MARKS = ("<pad>", "<bos>", "<eos>", "<ans>", "<sep>")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Encoding:
    """Text as `unit` "bytes", "words" (small letters, punctuation apart), or the pieces of `tokenizer.json` in the folder of that name."""

    unit: str

    def __post_init__(self) -> None:
        if self.unit in UNITS:
            return
        if not Path(self.unit).expanduser().is_dir():
            raise unknown_name("unit of text", self.unit, UNITS, "stream.tokens, which may also be the folder of a tokenizer")
        _ = self._tokenizer  # what cannot be read is refused here

    @cached_property
    def _tokenizer(self) -> Any:
        return tokenizer_in(Path(self.unit).expanduser())

    @property
    def identity(self) -> str:
        """The unit, of pieces with the content of their tokenizer and not its place."""
        return self.unit if self.unit in UNITS else f"pieces {hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()}"

    @cached_property
    def size(self) -> int:
        """V, the number of ids."""
        if self.unit in UNITS:
            return FIRST + (256 if self.unit == "bytes" else BUCKETS)
        return FIRST + max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def written(self) -> tuple[str, ...]:
        """How each id is written, as `TaskInfo.tokens` has it: marks in angle brackets; nothing for words, whose numbers say too little."""
        if self.unit == "words":
            return ()
        marks = [*_MARKS, *(f"<special {n}>" for n in range(len(_MARKS), SYMBOLS[0])), *(f"<code {n}>" for n in range(len(SYMBOLS)))]
        if self.unit == "bytes":
            return (*marks, *(chr(byte) if 32 <= byte < 127 else f"<0x{byte:02X}>" for byte in range(256)))
        names = {number: name for name, number in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        return (*marks, *(names.get(number, f"<nothing {number}>") for number in range(self.size - FIRST)))

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        if self.unit == "bytes":
            return [FIRST + byte for byte in text.encode("utf-8", "surrogatepass")]
        if self.unit == "words":
            return [FIRST + _bucket(word) for word in words(text)]
        return [FIRST + piece for piece in self._pieces(text).ids]

    def length(self, text: str) -> int:
        """How many ids a text has."""
        if self.unit == "bytes":
            return len(text.encode("utf-8", "surrogatepass"))
        return len(words(text) if self.unit == "words" else self._pieces(text).ids)

    def said(self, ids: Sequence[int]) -> list[str] | list[int]:
        """The words of ids, for comparison: marks of the stream are left out; words that have only a number are that number."""
        inside = [number for number in ids if number >= FIRST]
        if self.unit == "words":
            return inside
        if self.unit == "bytes":
            return words(bytes(number - FIRST for number in inside).decode("utf-8", "replace"))
        return words(self._tokenizer.decode([number - FIRST for number in inside]))

    def cut(self, text: str, longest: int) -> list[str]:
        """A long text in parts of `longest` pieces that give it when joined; the last may be shorter. Only for pieces."""
        begins = [first for first, _ in self._pieces(text).offsets[::longest]]
        begins = [0, *(begin for begin in begins[1:] if begin)]
        return [part for begin, end in pairwise([*begins, len(text)]) if (part := text[begin:end])]

    def _pieces(self, text: str) -> Any:
        return self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False)

    def confused(self, texts: Iterable[str]) -> tuple[int, float]:
        """How many different words there are, and the share of running text whose words have the number of a commoner one."""
        if self.unit != "words":
            return 0, 0.0
        counts = Counter(chain.from_iterable(map(words, texts)))
        commonest: dict[int, int] = {}
        for word, count in counts.items():
            commonest[_bucket(word)] = max(count, commonest.get(_bucket(word), 0))
        total = sum(counts.values())
        return len(counts), (total - sum(commonest.values())) / total if total else 0.0


def tokenizer_in(folder: Path) -> Any:
    """The tokenizer that Hugging Face's models have beside them, which is read and never fetched."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"stream.tokens: expected a folder with tokenizer.json, got '{folder}', where none lies")
    try:
        tokenizers = __import__("tokenizers")
    except ImportError:
        raise UserError("stream.tokens: pieces need tokenizers, which is not installed; type: pip install 'clbench[hf]'") from None
    try:
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"stream.tokens: '{folder / 'tokenizer.json'}' cannot be read: {error}") from None


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
