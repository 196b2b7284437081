"""Numbered random examples: every number is a pure function of (task, split, seed, index), made for many indices at once.

Randomness: SplitMix64 (Steele, Lea and Flood 2014, Java's SplittableRandom; constants of the reference implementation by Vigna) used as a
counter-based generator. Example i of a split owns the stream that starts at mix(mix(key + i G) + attempt G), and each named purpose
within it a stream of its own; so any example can be made alone, and a batch costs a few numpy calls in place of one Generator an example.
Departure from the specification, which names Philox: its ten rounds of wide products are slow in numpy, and a Generator an example slower.

Splits: an example belongs to the split that a 64-bit hash of its *input* modulo 10 says: 0-7 train, 8 validation, 9 test. An example
of the wrong split is drawn again under the next attempt number. So splits are disjoint exactly, for any seeds, and without storage.
Text form: `<bos> [cue] prompt <ans> answer <eos>`; the loss mask marks the scored tokens of the answer and <eos>.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .vocabulary import ANS, BOS, EOS, PAD

Integer = NDArray[np.integer[Any]]
Float = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
Words = NDArray[np.uint64]

BUCKETS = {"train": (0, 8), "support": (0, 8), "validation": (8, 9), "test": (9, 10)}  # first and past-the-last hash modulo 10
LONG_AGO = 10**6
AGE_BINS = ((1, 1), (2, 2), (3, 4), (5, 7), (8, LONG_AGO))  # statements ago, first and last: accuracy is told apart by them
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_WORDS_AT_ONCE = 1 << 21  # random words held at a time, 16 MiB


def mix(words: Words) -> Words:
    """The output function of SplitMix64, a bijection of 64-bit words; a fresh array."""
    z = words ^ (words >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


@functools.cache
def key(*purpose: str | int) -> np.uint64:
    """A 64-bit key for `purpose`: the first eight bytes of its sha256."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in purpose).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


class Draws:
    """Named random numbers for R rows, each row with a stream of its own."""

    def __init__(self, stream: np.uint64, index: Integer, attempt: Integer) -> None:
        self._stream, self.index = stream, np.asarray(index, dtype=np.int64)  # (R,), the examples' numbers
        row = mix(stream + np.asarray(index, dtype=np.uint64) * _GAMMA)
        self._state = mix(row + np.asarray(attempt, dtype=np.uint64) * _GAMMA)  # (R,)

    def __len__(self) -> int:
        return len(self._state)

    def of_groups(self, size: int) -> Draws:
        """Numbers that every `size` consecutive examples share, all their attempts too; use purposes of their own."""
        return Draws(self._stream, self.index // size, np.zeros_like(self.index))

    def words(self, purpose: str, columns: int) -> Words:
        """Random 64-bit words (R, columns)."""
        start = self._state + key("draw", purpose)
        return mix(start[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * _GAMMA)

    def integers(self, purpose: str, high: int | Integer, columns: int) -> Integer:
        """Integers (R, columns) in [0, high); `high` may differ by row (R, 1). The multiply-shift bias is below high / 2**32."""
        scaled = (self.words(purpose, columns) >> np.uint64(32)) * np.asarray(high, dtype=np.uint64)
        return (scaled >> np.uint64(32)).astype(np.int64)

    def uniform(self, purpose: str, columns: int) -> Float:
        """Numbers (R, columns) in [0, 1)."""
        return (self.words(purpose, columns) >> np.uint64(11)) * 2.0**-53

    def permutations(self, purpose: str, size: int) -> Integer:
        """A random order (R, size) of 0..size-1 for every row."""
        return np.argsort(self.words(purpose, size), axis=1, kind="stable")

    def choices(self, purpose: str, size: int, count: int) -> Integer:
        """The first `count` (R, count) of `permutations`: so many of 0..size-1, each once, in random order."""
        if 4 * count > size:
            return self.permutations(purpose, size)[:, :count]
        words = self.words(purpose, size)
        lowest = np.argpartition(words, count - 1, axis=1)[:, :count]  # two of 64 bits are never the same
        order = np.argsort(np.take_along_axis(words, lowest, axis=1), axis=1)
        return np.take_along_axis(lowest, order, axis=1)


@dataclass(frozen=True)
class Draft:
    """R examples of one task before they are put into text; rows are filled up with PAD.

    `scored` marks the tokens of the answer that have to be predicted; the others (the queries of recall) are given.
    `valid`: rows that are examples at all; the others are drawn again.
    """

    prompt: Integer  # (R, P)
    prompt_length: Integer  # (R,)
    answer: Integer  # (R, A)
    answer_length: Integer  # (R,)
    scored: Bool  # (R, A)
    valid: Bool  # (R,)
    age: Integer | None = None  # (R, A), how many statements ago what a scored token answers was last said; None: no such notion
    depth: Float | None = None  # (R,), where what is asked stands, 0 at the beginning of the text and 1 at its end; None: no such notion

    @staticmethod
    def whole(prompt: Integer, answer: Integer, scored: Bool) -> Draft:
        """Examples of one length, all of them valid."""
        full = np.ones(len(prompt), dtype=np.int64)
        return Draft(prompt, full * prompt.shape[1], answer, full * answer.shape[1], scored, np.ones(len(prompt), dtype=bool))

    def rows(self, rows: Integer) -> Draft:
        """The examples `rows`, in that order."""
        prompt, answer, age = self.prompt[rows], self.answer[rows], None if self.age is None else self.age[rows]
        depth = None if self.depth is None else self.depth[rows]
        return Draft(prompt, self.prompt_length[rows], answer, self.answer_length[rows], self.scored[rows], self.valid[rows], age, depth)

    def with_depth(self, depth: Float) -> Draft:
        """The same examples, where what is asked stands at `depth` (R,)."""
        return replace(self, depth=depth)

    @staticmethod
    def joined(parts: Sequence[Draft]) -> Draft:
        """The examples of `parts` one after another."""
        return Draft(
            np.concatenate([part.prompt for part in parts]),
            np.concatenate([part.prompt_length for part in parts]),
            np.concatenate([part.answer for part in parts]),
            np.concatenate([part.answer_length for part in parts]),
            np.concatenate([part.scored for part in parts]),
            np.concatenate([part.valid for part in parts]),
            np.concatenate(ages) if len(ages := [part.age for part in parts if part.age is not None]) == len(parts) else None,
            np.concatenate(depths) if len(depths := [part.depth for part in parts if part.depth is not None]) == len(parts) else None,
        )


class Generator(Protocol):
    """Draws examples of one task."""

    @property
    def name(self) -> str: ...
    @property
    def prompt_size(self) -> int:
        """Tokens of the longest prompt."""
        ...

    @property
    def answer_size(self) -> int:
        """Tokens of the longest answer."""
        ...

    @property
    def longest_pair(self) -> int:
        """Tokens of the longest prompt together with its answer."""
        ...

    def draw(self, draws: Draws) -> Draft: ...


class Paired(ABC):
    """A generator whose longest prompt may come together with its longest answer."""

    @property
    @abstractmethod
    def prompt_size(self) -> int: ...
    @property
    @abstractmethod
    def answer_size(self) -> int: ...
    @property
    def longest_pair(self) -> int:
        return self.prompt_size + self.answer_size


def bucket(draft: Draft) -> Integer:
    """The hash modulo 10 (R,) of what an example shows before it is answered: the prompt and the given tokens of the answer.

    Multilinear hash over token and position with fixed 64-bit weights; PAD is 0, so how far rows are filled up does not matter.
    """
    given = np.where(draft.scored, PAD, draft.answer).astype(np.uint64)
    total = draft.prompt.astype(np.uint64) @ _weights("prompt", draft.prompt.shape[1])
    if given.any():
        total = total + given @ _weights("answer", given.shape[1])
    return (mix(total) % np.uint64(10)).astype(np.int64)


@functools.cache
def _weights(part: str, size: int) -> Words:
    return mix(key("split", part) + np.arange(size, dtype=np.uint64) * _GAMMA) | np.uint64(1)


def drafts(generator: Generator, split: str, seed: int, index: Integer) -> Draft:
    """The examples `index` (n,) of `split` under `seed`; each is the first attempt that is valid and lies in the split."""
    index = np.asarray(index, dtype=np.int64)
    if len(index) == 0:
        return drafts(generator, split, seed, np.zeros(1, dtype=np.int64)).rows(index)
    return drawn(generator, split, seed, index)[0]


def drawn(generator: Generator, split: str, seed: int, index: Integer) -> tuple[Draft, Draws]:
    """As `drafts`, of at least one example, with the numbers that they were made of."""
    first, past = BUCKETS[split]
    stream = key("examples", generator.name, split, seed)
    width = generator.prompt_size + generator.answer_size
    attempt = np.zeros(len(index), dtype=np.int64)
    waiting = np.arange(len(index))
    parts: list[Draft] = []
    order: list[Integer] = []
    while len(waiting):
        rows = waiting[: max(1, _WORDS_AT_ONCE // width)]
        wanted = max(128, len(rows) * 10 // (past - first))  # small batches are bound by the number of numpy calls
        tries = max(1, min(wanted, _WORDS_AT_ONCE // width) // len(rows))
        attempts = attempt[rows, None] + np.arange(tries)  # (rows, tries)
        draft = generator.draw(Draws(stream, np.repeat(index[rows], tries), attempts.ravel()))
        place = bucket(draft)
        good = (draft.valid & (first <= place) & (place < past)).reshape(len(rows), tries)
        chosen = np.argmax(good, axis=1)  # the first good attempt, whatever the number of tries
        found = good[np.arange(len(rows)), chosen]
        parts.append(draft.rows(np.flatnonzero(found) * tries + chosen[found]))
        order.append(rows[found])
        attempt[rows] += np.where(found, chosen, tries)
        waiting = np.concatenate([rows[~found], waiting[len(rows) :]])
    return Draft.joined(parts).rows(np.argsort(np.concatenate(order))), Draws(stream, index, attempt)


class Examples:
    """The `TextSource` of one task, split and seed. `cue` is the op-code that names the task, None where it stays unsaid."""

    pad: int = PAD

    def __init__(self, generator: Generator, split: str, seed: int, cue: int | None) -> None:
        self._generator, self._split, self._seed = generator, split, seed
        self._head = [BOS] if cue is None else [BOS, cue]
        self.longest = len(self._head) + generator.longest_pair + 2  # tokens of the longest example

    def drafts(self, index: Integer) -> Draft:
        """The examples `index` (n,) before they are put into text."""
        return drafts(self._generator, self._split, self._seed, index)

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,) of the examples `index` (n,)."""
        return self.text(self.drafts(index))

    def text(self, draft: Draft) -> tuple[Integer, Bool, Integer]:
        """`<bos> [cue] prompt <ans> answer <eos>`: tokens (n, longest), loss mask (n, longest), lengths (n,)."""
        n, head = len(draft.prompt), self._head
        begin = len(head) + draft.prompt_length  # (n,), where <ans> stands
        width = max(self.longest, len(head) + draft.prompt.shape[1] + draft.answer.shape[1] + 2)
        tokens = np.full((n, width), PAD, dtype=np.int64)
        tokens[:, : len(head)] = head
        tokens[:, len(head) : len(head) + draft.prompt.shape[1]] = draft.prompt
        rows = np.arange(n)
        tail = np.zeros((n, draft.answer.shape[1] + 2), dtype=np.int64)
        tail[:, 0], tail[:, 1:-1] = ANS, draft.answer
        tail[rows, 1 + draft.answer_length] = EOS
        scored = np.zeros(tail.shape, dtype=bool)
        scored[:, 1:-1] = draft.scored
        scored[rows, 1 + draft.answer_length] = True
        place = begin[:, None] + np.arange(tail.shape[1])  # (n, A + 2)
        mask = np.zeros((n, width), dtype=bool)
        tokens[rows[:, None], place] = tail
        mask[rows[:, None], place] = scored
        return tokens[:, : self.longest], mask[:, : self.longest], begin + draft.answer_length + 2
