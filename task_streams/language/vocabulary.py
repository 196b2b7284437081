"""The closed vocabulary of all generated language streams: 512 tokens written by hand in `vocabulary.txt`, line i = id i.

Nothing is fitted, so nothing of later tasks leaks into earlier ones; a changed line is a new version of every stream.

    0-15 specials   16-63 op-codes `op:<task>`   64-73 digits   74-99 letters   100-163 abstract symbols   164-511 words and punctuation
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from clbench.errors import unknown_name

PAD, BOS, EOS, ANS = 0, 1, 2, 3
UNKNOWN = 9  # said of what is not known
SEP, QUERY, KEY, VALUE = 4, 5, 6, 7
OP_CODES = range(16, 64)
DIGITS = range(64, 74)
LETTERS = range(74, 100)
SYMBOLS = range(100, 164)
WORDS = range(164, 512)


@dataclass(frozen=True)
class Vocabulary:
    """Names by id and ids by name."""

    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """V, the number of ids."""
        return len(self.names)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 over the names in order, for the result row."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def id(self, name: str) -> int:
        """The id of `name`."""
        if name not in self._ids:
            raise unknown_name("token", name, self.names, "task_streams/language/vocabulary.txt")
        return self._ids[name]

    def name(self, token: int) -> str:
        """The name of id `token`."""
        if not 0 <= token < self.size:
            raise IndexError(f"token id must be in [0, {self.size}), got {token}")
        return self.names[token]

    def render(self, tokens: Iterable[int]) -> str:
        """The names of `tokens` with blanks between, padding left out; for people."""
        return " ".join(self.name(int(token)) for token in tokens if int(token) != PAD)


@functools.cache
def vocabulary() -> Vocabulary:
    """The 512 tokens, read from the file on first use."""
    text = resources.files("clbench.task_streams.language").joinpath("vocabulary.txt").read_text(encoding="utf-8")
    return Vocabulary(tuple(text.splitlines()))
