"""Generators of the tasks that bind: recall, last-write, dictionary and variable-chase, with the shortcuts that earn points unlearned.

Source: spec 3.2. Recall is MQAR (Arora et al. 2023, arXiv:2312.04927), last-write associative retrieval with rewriting (Rodkin et al. 2024,
arXiv:2407.04841), dictionary FoT's look-up (Tworkowski et al. 2023, arXiv:2307.03170), variable-chase RULER's variable tracking (Hsieh et
al. 2024, arXiv:2404.06654).
Departures, all so that no shortcut passes .6: fewer queries than keys, because the answers already given rule out candidates (one query
for each of K keys would score (1 + 1/2 + .. + 1/K) / K by elimination); dictionary keys form a grid, so that half a key is not enough, and
values are one token, because the rest of a longer value follows from its first token; last-write asks for overwritten keys only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .algorithms import alphabet, counts, from_bag
from .generation import Bool, Draft, Draws, Float, Integer, Paired
from .vocabulary import LETTERS, PAD, WORDS


@dataclass(frozen=True)
class Recall(Paired):
    """`pairs` of distinct keys and distinct values, then `queries` of the keys, each followed by its value."""

    pairs: int
    queries: int
    keys: int
    values: int
    name: str = "recall"

    @property
    def prompt_size(self) -> int:
        return 2 * self.pairs

    @property
    def answer_size(self) -> int:
        return 2 * self.queries

    @property
    def legal(self) -> Integer:
        return alphabet(self.values, start=self.keys)

    def draw(self, draws: Draws) -> Draft:
        key = alphabet(self.keys)[draws.choices("keys", self.keys, self.pairs)]  # (R, pairs)
        value = self.legal[draws.choices("values", self.values, self.pairs)]
        asked = draws.choices("asked", self.pairs, self.queries)
        prompt = alternating(key, value)
        return asking(prompt, np.take_along_axis(key, asked, axis=1), np.take_along_axis(value, asked, axis=1))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`unused`: one of the values not yet given. `recent`: the last of these."""
        value = draft.prompt[:, 1::2]
        return {"unused": unused(value, draft), "recent": latest_unused(value, draft)}


@dataclass(frozen=True)
class LastWrite(Paired):
    """Every one of `keys` keys is written once, then `overwrites` of them again; `queries` distinct overwritten keys are asked.

    A key stands for its value of the last write.
    """

    keys: int
    overwrites: int
    queries: int
    key_symbols: int
    values: int
    name: str = "last-write"

    @property
    def prompt_size(self) -> int:
        return 2 * (self.keys + self.overwrites)

    @property
    def answer_size(self) -> int:
        return 2 * self.queries

    @property
    def legal(self) -> Integer:
        return alphabet(self.values, start=self.key_symbols)

    def draw(self, draws: Draws) -> Draft:
        rows = len(draws)
        name = alphabet(self.key_symbols)[draws.choices("keys", self.key_symbols, self.keys)]  # (R, keys)
        again = draws.integers("overwritten", self.keys, self.overwrites)
        written = np.concatenate([np.tile(np.arange(self.keys), (rows, 1)), again], axis=1)  # (R, writes)
        value = self.legal[draws.integers("values", self.values, written.shape[1])]
        prompt = alternating(np.take_along_axis(name, written, axis=1), value)
        rewritten = (again[:, :, None] == np.arange(self.keys)).any(axis=1)  # (R, keys)
        order = draws.words("asked", self.keys) >> np.uint64(1) | np.uint64(1 << 63) * ~rewritten  # overwritten keys first
        asked = np.argsort(order, axis=1, kind="stable")[:, : self.queries]
        last = written.shape[1] - 1 - (written[:, None, ::-1] == asked[:, :, None]).argmax(axis=2)  # (R, queries)
        draft = asking(prompt, np.take_along_axis(name, asked, axis=1), np.take_along_axis(value, last, axis=1))
        return replace(draft, valid=rewritten.sum(axis=1) >= self.queries)

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`any write` of the key asked, its `first write`, or the `commonest` value."""
        key, value = draft.prompt[:, ::2], draft.prompt[:, 1::2]
        asked, right = draft.answer[:, ::2], draft.answer[:, 1::2]
        of_key = key[:, None] == asked[:, :, None]  # (R, queries, writes)
        hit = of_key & (value[:, None] == right[:, :, None])
        first = np.take_along_axis(value, of_key.argmax(axis=2), axis=1) == right
        return {
            "any write": on_scored(draft, hit.sum(axis=2) / of_key.sum(axis=2)),
            "first write": on_scored(draft, first),
            "commonest": on_scored(draft, np.concatenate([from_bag(counts(value), column[:, None]) for column in right.T], axis=1)),
        }


@dataclass(frozen=True)
class Dictionary(Paired):
    """Records `first half, second half, value` for all pairs of `firsts` x `seconds` half keys of `half` tokens, then `queries` of them."""

    firsts: int
    seconds: int
    half: int
    queries: int
    key_symbols: int
    values: int
    name: str = "dictionary"

    @property
    def prompt_size(self) -> int:
        return self.firsts * self.seconds * (2 * self.half + 1)

    @property
    def answer_size(self) -> int:
        return self.queries * (2 * self.half + 1)

    @property
    def legal(self) -> Integer:
        return alphabet(self.values, start=self.key_symbols)

    def draw(self, draws: Draws) -> Draft:
        rows, records = len(draws), self.firsts * self.seconds
        halves = self.firsts + self.seconds
        token = alphabet(self.key_symbols)[draws.choices("keys", self.key_symbols, halves * self.half)]
        token = token.reshape(rows, halves, self.half)  # no token lies in two halves
        place = draws.permutations("order", records)  # (R, records)
        row = np.arange(rows)[:, None]
        first, second = token[row, place // self.seconds], token[row, self.firsts + place % self.seconds]  # (R, records, half)
        value = self.legal[draws.integers("values", self.values, records)][:, :, None]
        record = np.concatenate([first, second, value], axis=2)  # (R, records, 2 half + 1)
        asked = draws.choices("asked", records, self.queries)
        answer = record[row, asked].reshape(rows, -1)
        scored = np.zeros(answer.shape, dtype=bool)
        scored[:, 2 * self.half :: 2 * self.half + 1] = True
        return Draft.whole(record.reshape(rows, -1), answer, scored)

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """A record with the same `first half`, with the same `second half`, or the `commonest` value."""
        size = 2 * self.half + 1
        record = draft.prompt.reshape(len(draft.prompt), -1, size)  # (R, records, size)
        asked = draft.answer.reshape(len(draft.prompt), -1, size)  # (R, queries, size)
        same = record[:, None, :, -1] == asked[:, :, None, -1]  # (R, queries, records)
        found = {}
        for name, at in (("first half", 0), ("second half", self.half)):
            match = record[:, None, :, at] == asked[:, :, None, at]
            found[name] = on_scored(draft, (match & same).sum(axis=2) / match.sum(axis=2))
        pool = counts(record[:, :, -1])
        found["commonest"] = on_scored(draft, np.concatenate([from_bag(pool, column[:, None]) for column in asked[:, :, -1].T], axis=1))
        return found


@dataclass(frozen=True)
class VariableChase(Paired):
    """`chains` of assignments, root `X value` and then `hops` times `Y X`, interleaved at random; the ends of `queries` chains are asked.

    `noise` words stand between the assignments; a chain's assignments are in order.
    """

    chains: int
    hops: int
    queries: int
    values: int
    noise: int
    name: str = "variable-chase"

    @property
    def prompt_size(self) -> int:
        return 2 * self.chains * (self.hops + 1) + self.noise

    @property
    def answer_size(self) -> int:
        return 2 * self.queries

    @property
    def legal(self) -> Integer:
        return alphabet(self.values)

    def draw(self, draws: Draws) -> Draft:
        rows, links = len(draws), self.hops + 1
        row = np.arange(rows)[:, None]
        name = LETTERS.start + draws.choices("names", len(LETTERS), self.chains * links).reshape(rows, self.chains, links)
        root = self.legal[draws.choices("values", self.values, self.chains)]  # (R, chains)
        held = np.concatenate([root[:, :, None], name[:, :, :-1]], axis=2)  # (R, chains, links), what a name is set to
        total = self.chains * links
        order = draws.permutations("order", total + self.noise)  # items in order of text; those >= total are noise
        chain = np.where(order < total, order // links, -1)
        depth = sum((np.cumsum(chain == c, axis=1) - 1) * (chain == c) for c in range(self.chains))
        width = np.where(chain >= 0, 2, 1)
        begin = np.cumsum(width, axis=1) - width  # (R, items)
        prompt = np.full((rows, self.prompt_size), PAD)
        filler = WORDS.start + draws.integers("noise", len(WORDS), self.noise) if self.noise else np.zeros((rows, 0), dtype=np.int64)
        statement = np.argsort(chain < 0, axis=1, kind="stable")  # assignments first, in order of text
        said, quiet = statement[:, :total], statement[:, total:]
        at, which, level = (np.take_along_axis(part, said, axis=1) for part in (begin, chain, depth))
        prompt[row, at], prompt[row, at + 1] = name[row, which, level], held[row, which, level]
        prompt[row, np.take_along_axis(begin, quiet, axis=1)] = filler
        asked = draws.choices("asked", self.chains, self.queries)
        return asking(prompt, name[row, asked, self.hops], root[row, asked])

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`unused`: one of the values not yet given. `recent`: the last of these."""
        row = np.arange(len(draft.prompt))[:, None]
        is_value = (draft.prompt >= self.legal[0]) & (draft.prompt <= self.legal[-1])
        value = draft.prompt[row, np.argsort(~is_value, axis=1, kind="stable")[:, : self.chains]]
        return {"unused": unused(value, draft), "recent": latest_unused(value, draft)}


def alternating(first: Integer, second: Integer) -> Integer:
    """One of each in turn: (R, 2 n) of two times (R, n)."""
    return np.stack([first, second], axis=2).reshape(len(first), -1)


def asking(prompt: Integer, asked: Integer, right: Integer) -> Draft:
    """`prompt` of full length, then each key `asked` (R, n), given, and its value `right` (R, n), scored."""
    answer = alternating(asked, right)
    scored = np.zeros(answer.shape, dtype=bool)
    scored[:, 1::2] = True
    return Draft.whole(prompt, answer, scored)


def on_scored(draft: Draft, chance: Float | Bool) -> Float:
    """(R, A) with the chances (R, queries) at the scored tokens."""
    placed = np.zeros(draft.answer.shape)
    placed[draft.scored] = np.asarray(chance, dtype=float).ravel()
    return placed


def unused(value: Integer, draft: Draft) -> Float:
    """The chance of guessing among the values (R, n) not yet given."""
    right = draft.answer[draft.scored].reshape(len(value), -1)
    return on_scored(draft, from_bag(counts(value), right))


def latest_unused(value: Integer, draft: Draft) -> Float:
    """1 where the answer is the last of the values (R, n) not yet given; else 0."""
    right = draft.answer[draft.scored].reshape(len(value), -1)
    left = np.ones(value.shape, dtype=bool)
    chance = np.zeros(right.shape)
    for position in range(right.shape[1]):
        last = value.shape[1] - 1 - left[:, ::-1].argmax(axis=1)
        chance[:, position] = value[np.arange(len(value)), last] == right[:, position]
        left &= value != right[:, position : position + 1]
    return on_scored(draft, chance)
