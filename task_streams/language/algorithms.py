"""Generators of the string tasks: copy, reverse, sort, freq-sort and the six held-out ones, with the shortcuts that earn points unlearned.

Source: spec 3.2 and 5.3; copy and reverse after RMT (Bulatov et al. 2022, arXiv:2207.06881), freq-sort after the infinity-former
(Martins et al. 2022, arXiv:2109.00301). The tasks that bind keys to values are in `binding.py`.
A shortcut gives, for every token of the answers, the chance of being right; ties are broken at random. Earlier answers are visible,
as they are when a predictor is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .generation import Bool, Draft, Draws, Float, Integer, Paired
from .vocabulary import DIGITS, PAD, QUERY, SYMBOLS, WORDS

Order = Callable[[Integer, Integer], Integer]  # positions (1, A), lengths (n, 1) -> source positions (n, A)


def copied(position: Integer, length: Integer) -> Integer:
    """Positions of x1 x2 .. xL."""
    return position + 0 * length


def reversed_(position: Integer, length: Integer) -> Integer:
    """Positions of xL .. x2 x1."""
    return length - 1 - position


def shifted_left(position: Integer, length: Integer) -> Integer:
    """Positions of x2 .. xL x1."""
    return (position + 1) % length


def ends_swapped(position: Integer, length: Integer) -> Integer:
    """Positions of xL x2 .. x1."""
    return np.where(position == 0, length - 1, np.where(position == length - 1, 0, position))


def duplicated(position: Integer, length: Integer) -> Integer:
    """Positions of x1 x1 x2 x2 .. xL xL."""
    return position // 2 + 0 * length


@dataclass(frozen=True)
class Rearrangement(Paired):
    """Strings of `low` to `high` of the first `symbols` symbols, drawn independently; `order` says where the answer takes its tokens."""

    name: str
    order: Order
    low: int
    high: int
    symbols: int
    repeats: int = 1  # answer tokens for each token of the prompt

    @property
    def prompt_size(self) -> int:
        return self.high

    @property
    def answer_size(self) -> int:
        return self.high * self.repeats

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols)

    def draw(self, draws: Draws) -> Draft:
        prompt, length = strings(draws, self.low, self.high, self.symbols)
        position = np.arange(self.answer_size)[None]
        inside = position < length[:, None] * self.repeats
        source = np.where(inside, self.order(position, length[:, None]), 0)
        answer = np.where(inside, np.take_along_axis(prompt, source, axis=1), PAD)
        return Draft(prompt, length, answer, length * self.repeats, inside, np.ones(len(draws), dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`bag`: the commonest token not yet used up. `echo`: the prompt as it stands. `repeat`: every other token is the one before."""
        fresh = draft.answer[:, :: self.repeats]
        bag = np.repeat(from_bag(counts(draft.prompt), fresh), self.repeats, axis=1)
        found = {"bag": bag}
        if self.repeats > 1:
            found = {"repeat": np.where(np.arange(self.answer_size) % self.repeats == 0, bag, 1.0)}
        if self.order is not copied:
            size = min(self.prompt_size, self.answer_size)
            found["echo"] = np.zeros(draft.answer.shape)
            found["echo"][:, :size] = draft.prompt[:, :size] == draft.answer[:, :size]
        return found


@dataclass(frozen=True)
class Sort(Paired):
    """`low` to `high` distinct ones of the first `symbols` symbols, to be given in increasing order."""

    low: int
    high: int
    symbols: int
    name: str = "sort"

    @property
    def prompt_size(self) -> int:
        return self.high

    @property
    def answer_size(self) -> int:
        return self.high

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols)

    def draw(self, draws: Draws) -> Draft:
        length = self.low + draws.integers("length", self.high - self.low + 1, 1)  # (R, 1)
        inside = np.arange(self.high) < length
        symbols = SYMBOLS.start + draws.choices("symbols", self.symbols, self.high)
        last = SYMBOLS.start + self.symbols  # sorts behind every symbol
        ordered = np.sort(np.where(inside, symbols, last), axis=1)
        prompt, answer = np.where(inside, symbols, PAD), np.where(inside, ordered, PAD)
        return Draft(prompt, length[:, 0], answer, length[:, 0], inside, np.ones(len(draws), dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`bag`: one of the tokens not yet given. `echo`: the prompt as it stands."""
        return {"bag": from_bag(counts(draft.prompt), draft.answer), "echo": (draft.prompt == draft.answer).astype(float)}


@dataclass(frozen=True)
class FrequencySort(Paired):
    """The first `listed` of `symbols` symbols by decreasing count in `length` tokens, whose distribution drifts from one law to another.

    Up to 8 symbols all counts differ; beyond, ties go by first appearance and absent symbols by id, last.
    """

    symbols: int
    length: int
    listed: int
    name: str = "freq-sort"

    @property
    def prompt_size(self) -> int:
        return self.length

    @property
    def answer_size(self) -> int:
        return self.listed

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols)

    def draw(self, draws: Draws) -> Draft:
        n, rows = self.symbols, len(draws)
        weights = [1 + draws.integers(name, 9, n) for name in ("weights before", "weights after")]
        bounds = [np.cumsum(w, axis=1) / w.sum(axis=1, keepdims=True) for w in weights]  # (R, n)
        share = (np.arange(self.length) + 1) / self.length
        later = draws.uniform("law", self.length) < share  # (R, L)
        point = draws.uniform("tokens", self.length)
        token = np.zeros((rows, self.length), dtype=np.int64)  # (R, L) in [0, n)
        for before, after in zip(bounds[0].T[:-1, :, None], bounds[1].T[:-1, :, None], strict=True):
            token += point >= np.where(later, after, before)
        prompt = SYMBOLS.start + token
        count, appearance = np.empty((rows, n), dtype=np.int64), np.empty((rows, n), dtype=np.int64)
        for symbol in range(n):
            seen = token == symbol
            count[:, symbol], appearance[:, symbol] = seen.sum(axis=1), seen.argmax(axis=1)
        appearance[count == 0] = self.length
        appearance += np.where(count > 0, 0, np.arange(n))
        ranked = np.argsort(-count * (self.length + n + 1) + appearance, axis=1)
        valid = np.full(rows, n > 8) | (np.diff(np.sort(count, axis=1), axis=1) > 0).all(axis=1)
        answer = SYMBOLS.start + ranked[:, : self.listed]
        size = np.ones(rows, dtype=np.int64)
        return Draft(prompt, size * self.length, answer, size * self.listed, np.ones(answer.shape, dtype=bool), valid)

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`unseen`: a symbol not yet listed. `window`: the commonest such symbol in the last quarter, for those who forget the rest."""
        everything = np.repeat(counts(self.legal[None]), len(draft.prompt), axis=0)  # (R, V)
        recent = counts(draft.prompt[:, -(self.length // 4) :]) + 0.5 * everything  # a symbol not in the window is still possible
        return {"unseen": from_bag(everything, draft.answer, once=True), "window": from_bag(recent, draft.answer, once=True)}


@dataclass(frozen=True)
class DropRepeats(Paired):
    """`low` to `high` runs of 1 to `run` equal symbols; the answer has one token for each run."""

    low: int
    high: int
    run: int
    symbols: int
    name: str = "drop-repeats"

    @property
    def prompt_size(self) -> int:
        return self.high * self.run

    @property
    def answer_size(self) -> int:
        return self.high

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols)

    def draw(self, draws: Draws) -> Draft:
        runs = self.low + draws.integers("runs", self.high - self.low + 1, 1)  # (R, 1)
        inside = np.arange(self.high) < runs
        step = 1 + draws.integers("steps", self.symbols - 1, self.high)  # neighbours differ
        step[:, 0] = draws.integers("first", self.symbols, 1)[:, 0]
        answer = np.where(inside, SYMBOLS.start + np.cumsum(step, axis=1) % self.symbols, PAD)
        ends = np.cumsum(np.where(inside, 1 + draws.integers("lengths", self.run, self.high), 0), axis=1)  # (R, high)
        position = np.arange(self.prompt_size)
        source = (position[None, :, None] >= ends[:, None, :]).sum(axis=2)  # (R, P), the run a position lies in
        prompt = np.where(position < ends[:, -1:], np.take_along_axis(answer, np.minimum(source, self.high - 1), axis=1), PAD)
        return Draft(prompt, ends[:, -1], answer, runs[:, 0], inside, np.ones(len(draws), dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`bag`: a symbol not yet given. `echo`: the prompt as it stands. `next`: what followed the first place of the answer before."""
        bag = from_bag(counts(draft.prompt) > 0, draft.answer, once=True)
        echo = (draft.prompt[:, : self.high] == draft.answer).astype(float)
        return {"bag": bag, "echo": echo, "next": follows(draft)}


@dataclass(frozen=True)
class CountSymbol(Paired):
    """How often the symbol behind <query> occurs in a string of `low` to `high` of the first `symbols` symbols, as a digit."""

    low: int
    high: int
    symbols: int
    name: str = "count-symbol"

    @property
    def prompt_size(self) -> int:
        return self.high + 2

    @property
    def answer_size(self) -> int:
        return 1

    @property
    def legal(self) -> Integer:
        return np.array(DIGITS)

    def draw(self, draws: Draws) -> Draft:
        string, length = strings(draws, self.low, self.high, self.symbols)
        asked = SYMBOLS.start + draws.integers("asked", self.symbols, 1)
        count = (string == asked).sum(axis=1)
        prompt = np.concatenate([string, np.full((len(draws), 2), PAD)], axis=1)
        rows = np.arange(len(draws))
        prompt[rows, length], prompt[rows, length + 1] = QUERY, asked[:, 0]
        size = np.ones(len(draws), dtype=np.int64)
        answer = DIGITS.start + np.minimum(count, 9)[:, None]
        return Draft(prompt, length + 2, answer, size, np.ones((len(draws), 1), dtype=bool), count <= 9)

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`even`: the count if all symbols were equally common."""
        return {"even": (draft.answer == DIGITS.start + (draft.prompt_length[:, None] - 2) // self.symbols).astype(float)}


@dataclass(frozen=True)
class MaxSymbol(Paired):
    """The symbol of highest id in a string of `low` to `high` of the first `symbols` symbols."""

    low: int
    high: int
    symbols: int
    name: str = "max-symbol"

    @property
    def prompt_size(self) -> int:
        return self.high

    @property
    def answer_size(self) -> int:
        return 1

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols)

    def draw(self, draws: Draws) -> Draft:
        prompt, length = strings(draws, self.low, self.high, self.symbols)
        answer = prompt.max(axis=1, keepdims=True)
        size = np.ones(len(draws), dtype=np.int64)
        return Draft(prompt, length, answer, size, np.ones((len(draws), 1), dtype=bool), np.ones(len(draws), dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`last`: the highest of the last quarter."""
        position = np.arange(self.high)
        late = position >= draft.prompt_length[:, None] - np.maximum(1, draft.prompt_length[:, None] // 4)
        return {"last": (np.where(late, draft.prompt, PAD).max(axis=1, keepdims=True) == draft.answer).astype(float)}


def alphabet(size: int, start: int = 0) -> Integer:
    """The ids of `size` symbols from number `start` on; beyond 64 the words of the vocabulary go on as symbols."""
    return np.arange(SYMBOLS.start + start, SYMBOLS.start + start + size)


def strings(draws: Draws, low: int, high: int, symbols: int) -> tuple[Integer, Integer]:
    """Random strings (R, high), filled up with PAD, and their lengths (R,) in [low, high]."""
    length = low + draws.integers("length", high - low + 1, 1)  # (R, 1)
    symbol = SYMBOLS.start + draws.integers("symbols", symbols, high)
    return np.where(np.arange(high) < length, symbol, PAD), length[:, 0]


def counts(tokens: Integer) -> Integer:
    """How often each id occurs in each row (R, V); padding does not count."""
    size = WORDS.stop
    rows = np.arange(len(tokens))[:, None] * size
    found = np.bincount((rows + tokens).ravel(), minlength=len(tokens) * size).reshape(len(tokens), size)
    found[:, PAD] = 0
    return found


def from_bag(bag: Integer | Float | Bool, answer: Integer, *, once: bool = False) -> Float:
    """The chance (R, A) of naming each answer by taking the commonest token of `bag` (R, V), of which every answer given uses up one.

    `once`: an answer given uses up all of its kind.
    """
    bag = np.array(bag, dtype=float)
    rows = np.arange(len(bag))
    chance = np.zeros(answer.shape)
    for position in range(answer.shape[1]):
        right = answer[:, position]
        commonest = bag.max(axis=1)
        ties = (bag == commonest[:, None]).sum(axis=1)
        chance[:, position] = (bag[rows, right] == commonest) * (commonest > 0) / ties
        bag[rows, right] = 0 if once else np.maximum(bag[rows, right] - 1, 0)
    return chance


def follows(draft: Draft) -> Float:
    """1 where the answer is what followed the first occurrence of the answer before it, or the first token of the prompt; else 0."""
    right = np.zeros(draft.answer.shape)
    right[:, 0] = draft.prompt[:, 0] == draft.answer[:, 0]
    padded = np.concatenate([draft.prompt, np.full((len(draft.prompt), 1), PAD)], axis=1)
    for position in range(1, draft.answer.shape[1]):
        at = (draft.prompt == draft.answer[:, position - 1 : position]).argmax(axis=1)
        right[:, position] = padded[np.arange(len(padded)), at + 1] == draft.answer[:, position]
    return right
