"""Domains of generated text to be predicted token by token. Their true distribution is known: what could be predicted, from how far back.

A document mixes three things, told apart by what kind of word comes, so that the probability of each next token has a closed form:

    words   a chain of order two: the next of 32 words follows the last or, as likely, the one before it; each has four successors
    pairs   a symbol, and some Geometric(1/16) tokens later `)` and the same symbol again; one at a time, of eight kinds
    names   two of 32 people belong to a document; wherever `who` stands it is followed by one of them

Words need two tokens, pairs and names need what was said long ago: their share of what could be predicted is told apart (`bits_pairs`,
`bits_names`), beside the bits of whoever knows the process and all of the document (`oracle`), or its last 32 tokens (`window`).
Of the six domains `words` has the grammar of `base` in other words, `grammar` its words in another grammar, `unrelated` neither, `mixture`
takes each document from `base` or from `unrelated`, and `drift` is `base` with three in ten of its own words replaced. Half of the words,
the symbols and the people are the same everywhere. Spec: language.md 3.4.
Documents of a split are drawn from a stream of their own: that two coincide is less likely than 2^-100, and not excluded by rejection.
Shape letters: n documents, T tokens of one, K slots of a lexicon.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clbench.errors import UserError, unknown_name
from clbench.experience import Text
from clbench.interfaces import Episodes, Predictor

from ..levels import Kept
from .export import Sheet
from .generation import Bool, Draws, Float, Integer, key
from .task import bits, task_info
from .vocabulary import BOS, PAD, SYMBOLS, vocabulary
from .wording import PEOPLE, named

WINDOW = 32  # tokens that the nearsighted reader knows
SHARED = named("a", "its")[:16]  # function words, in every lexicon
OWN = (named("bathroom", "football")[:16], named("milk", "lion")[:16], named("went", "holds")[:16])
REPLACED = named("red", "gold")[:5]
KINDS = np.array(SYMBOLS[:8])  # of pairs
CLOSE, WHO = vocabulary().id(")"), vocabulary().id("who")
CLOSES, OPENS, NAMED = 1 / 16, 1 / 16, 1 / 8  # chances, behind a word, of `)` where a pair is due, of a symbol where none is, of `who`
CAST = 2  # people of a document
SLOTS, SUCCESSORS = 32, np.array([0.4, 0.3, 0.2, 0.1])
_LOGITS_AT_ONCE = 1 << 25
_FLOOR_SEED = 2**31  # no evaluation seed of a stream
_FLOOR_TOKENS = 1 << 16
NAMES = ("base", "words", "grammar", "unrelated", "mixture", "drift")


class Process(NamedTuple):
    """A grammar and the words of its slots."""

    after: Integer  # (2, K, 4) successors of a slot, by the last one and by the one before it
    chance: Float  # (2, K, K) of the next slot, the same as a table
    lexicon: Integer  # (K,)
    slot: Integer  # (V,), -1 for what is no word of it


@dataclass(frozen=True, eq=False, repr=False)
class Domain:
    """Each document is of one of the `parts`, all alike; there is one of a kind."""

    name: str
    parts: tuple[Process, ...]

    def __repr__(self) -> str:
        return f"Domain({self.name!r})"  # which says it all

    def documents(self, split: str, seed: int, index: Integer, length: int) -> Integer:
        """The tokens (n, T) of the documents `index` (n,), without a first one."""
        draws = Draws(key("domains", self.name, split, seed), index, np.zeros_like(index))
        part = draws.integers("part", len(self.parts), 1)[:, 0]
        after, lexicon = (np.stack([each[at] for each in self.parts])[part] for at in (0, 2))
        return _written(draws, after, lexicon, length)

    def log_chances(self, tokens: Integer, window: int = 0) -> Float:
        """Natural logarithms of the chance of each of tokens (n, T) behind all before it, or behind the last `window` alone."""
        each = np.stack([_log_chances(part, tokens, window) for part in self.parts])  # (parts, n, T)
        if len(self.parts) == 1:
            return each[0]
        behind = each.cumsum(axis=2) - each  # of all before, by part
        if window:
            behind[:, :, window:] -= behind[:, :, :-window]
        highest = behind.max(axis=0)
        share = np.exp(behind - highest)
        together = (share * np.exp(each)).sum(axis=0) / share.sum(axis=0)
        return np.where(together > 0, np.log(np.maximum(together, np.finfo(float).tiny)), _NEVER)


_NEVER = -1e4  # in place of the logarithm of nothing, so that sums stay numbers


def _written(draws: Draws, after: Integer, lexicon: Integer, length: int) -> Integer:
    """Documents (n, T), each by successors (n, 2, K, 4) of slots and words (n, K) for them."""
    rows = np.arange(len(draws))
    cast = PEOPLE[draws.choices("cast", len(PEOPLE), CAST)]  # (n, CAST)
    kind, which, who = (draws.uniform(purpose, length) for purpose in ("kind", "which", "who"))
    pairs = draws.integers("pairs", len(KINDS), length)
    names = np.take_along_axis(cast, (who * CAST).astype(np.int64), axis=1)  # (n, T)
    back = (draws.uniform("back", length) >= 0.5).astype(np.int64)
    step = np.searchsorted(SUCCESSORS.cumsum()[:-1], which, side="right")  # (n, T)
    slots = np.tile([1, 0], (len(rows), 1))  # the last and the one before
    due, last = np.full(len(rows), -1), np.full(len(rows), PAD)
    found = np.empty((len(rows), length), dtype=np.int64)
    for at in range(length):
        named, closing = last == WHO, last == CLOSE  # what must come now
        free = ~named & ~closing
        paired = free & (kind[:, at] < np.where(due >= 0, CLOSES, OPENS))
        asks = free & (kind[:, at] >= 1 - NAMED)
        slot = after[rows, back[:, at], slots[rows, back[:, at]], step[:, at]]
        symbol = np.where(due >= 0, CLOSE, KINDS[pairs[:, at]])
        last = np.select([named, closing, paired, asks], [names[:, at], KINDS[due], symbol, WHO], lexicon[rows, slot])
        found[:, at] = last
        due = np.where(closing, -1, np.where(paired & (due < 0), pairs[:, at], due))
        slots = np.where((free & ~paired & ~asks)[:, None], np.stack([slot, slots[:, 0]], axis=1), slots)
    return found


def _log_chances(process: Process, tokens: Integer, window: int) -> Float:
    """As `Domain.log_chances`, for documents of one process; what it cannot say has `_NEVER`. The token just before is always seen."""
    n, length = tokens.shape
    person, kind = _place(PEOPLE)[tokens], _place(KINDS)[tokens]  # (n, T), -1: no such token
    slot = process.slot[tokens]
    rows = np.arange(n)
    slots = np.tile([1, 0], (n, 1))
    said = np.full((n, len(PEOPLE)), -(1 << 30))  # where each name stood last
    due, opened, since = np.full(n, -1), np.full(n, -1), np.full(n, -1)  # the kind that is open, where it was, any sign of a pair
    last = np.full(n, PAD)
    found = np.empty((n, length))
    for at in range(length):
        now, first = tokens[:, at], at - window if window else -1
        seen = said >= first
        count = seen.sum(axis=1)
        name = np.where(seen[rows, person[:, at]], 1.0, (CAST - count) / np.maximum(1, len(PEOPLE) - count)) / CAST
        is_open = np.where((since >= first) | (at <= window) | (window == 0), due >= 0, _open_unseen(window))
        closes = np.where((opened >= first) | (window == 0), due == kind[:, at], 1 / len(KINDS))
        word = 0.5 * process.chance[0, slots[:, 0], slot[:, at]] + 0.5 * process.chance[1, slots[:, 1], slot[:, at]]
        word = np.where(slot[:, at] >= 0, (1 - NAMED - is_open * CLOSES - (1 - is_open) * OPENS) * word, 0.0)
        free = np.select(
            [now == WHO, now == CLOSE, kind[:, at] >= 0], [np.full(n, NAMED), is_open * CLOSES, (1 - is_open) * OPENS / len(KINDS)], word
        )
        chance = np.select([last == WHO, last == CLOSE], [np.where(person[:, at] >= 0, name, 0.0), (kind[:, at] >= 0) * closes], free)
        found[:, at] = np.where(chance > 0, np.log(np.maximum(chance, np.finfo(float).tiny)), _NEVER)
        named = person[:, at] >= 0
        said[rows[named], person[named, at]] = at
        paired = kind[:, at] >= 0
        opened = np.where(paired & (last != CLOSE), at, opened)
        due = np.where(paired, np.where(last == CLOSE, -1, kind[:, at]), due)
        since = np.where(paired | (now == CLOSE), at, since)
        slots = np.where((slot[:, at] >= 0)[:, None], np.stack([slot[:, at], slots[:, 0]], axis=1), slots)
        last = now
    return found


def _open_unseen(window: int) -> float:
    """The chance that a pair is open for who sees no sign of it in the last `window` tokens.

    From how often one is open at all and how long nothing came; tokens behind `who`, where nothing can come, are not told apart.
    """
    share = OPENS / (OPENS + CLOSES)
    quiet = np.array([share, 1 - share]) * (1 - np.array([CLOSES, OPENS])) ** window
    return float(quiet[0] / quiet.sum())


@functools.cache
def _placed(ids: tuple[int, ...]) -> Integer:
    place = np.full(vocabulary().size, -1)
    place[list(ids)] = np.arange(len(ids))
    return place


def _place(ids: Integer) -> Integer:
    """The number (V,) of each token among `ids`, -1 for others."""
    return _placed(tuple(ids.tolist()))


def _process(grammar: str, lexicon: Integer) -> Process:
    """The grammar of that name: each word's successors are drawn, alike in all its lexicons."""
    draws = Draws(key("grammar", grammar), np.arange(2 * SLOTS), np.zeros(2 * SLOTS, dtype=np.int64))
    after = draws.choices("successors", SLOTS, len(SUCCESSORS))
    chance = np.zeros((2 * SLOTS, SLOTS))
    np.put_along_axis(chance, after, SUCCESSORS[None].repeat(2 * SLOTS, axis=0), axis=1)
    return Process(after.reshape(2, SLOTS, -1), chance.reshape(2, SLOTS, SLOTS), lexicon, _place(lexicon))


@functools.cache
def domain(name: str, *, validation: bool = False) -> Domain:
    """One of `NAMES`; `validation`: of another world, with grammars of its own."""
    world = "validation " if validation else ""
    one, two, three = (np.concatenate([SHARED, own]) for own in OWN)
    changed = one.copy()
    changed[len(SHARED) : len(SHARED) + len(REPLACED)] = REPLACED
    base, unrelated = _process(f"{world}first", one), _process(f"{world}third", three)
    parts = {
        "base": (base,),
        "words": (_process(f"{world}first", two),),
        "grammar": (_process(f"{world}second", one),),
        "unrelated": (unrelated,),
        "mixture": (base, unrelated),
        "drift": (_process(f"{world}first", changed),),
    }
    return Domain(f"{world}{name}", parts[name])


class Documents:
    """The `TextSource` of one domain, split and seed: all tokens but the first are to be predicted."""

    pad: int = PAD

    def __init__(self, domain: Domain, split: str, seed: int, length: int) -> None:
        self._domain, self._split, self._seed, self._length = domain, split, seed, length
        self.longest = length + 1

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,)."""
        written = self._domain.documents(self._split, self._seed, np.asarray(index, dtype=np.int64), self._length)
        tokens = np.concatenate([np.full((len(written), 1), BOS), written], axis=1)
        return tokens, np.arange(self.longest)[None] >= np.ones((len(tokens), 1)), np.full(len(tokens), self.longest)


class DomainTask:
    """A `clbench.interfaces.Task`: documents of one domain. The raw score is 1 - bits per token / 9, 0 for whoever takes all 512 alike.

    `scale` runs from what the frequencies of single tokens in training give to the process itself.
    """

    def __init__(self, domain: Domain, name: str, *, length: int, test_examples: int) -> None:
        self.name, self.info = name, task_info()
        self._domain, self._length, self._test_examples = domain, length, test_examples
        floors = self.floors()
        self.scale = (floors["unigram"], floors["oracle"])
        self._test: tuple[int, Integer, dict[str, Float]] | None = None

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """Documents without end; with `shots`, the first of those kept for it."""
        split = "train" if shots is None else "support"
        return Text(Documents(self._domain, split, seed, self._length), seed, count=shots)

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """1 - bits per token / 9 of each test document.

        Facts: `bits`, `bits_oracle`, `bits_window` per token; the same of names (`bits_names` ...) and of the symbols that close a pair
        (`bits_pairs` ...), NaN where a document has none.
        """
        tokens, facts = self._test_set(seed)
        lanes = max(1, _LOGITS_AT_ONCE // (tokens.shape[1] * self.info.output_size))
        needed = np.concatenate([bits(policy, tokens[at : at + lanes]) for at in range(0, len(tokens), lanes)])  # (n, T)
        own = _by_kind(tokens[:, 1:], needed, "")
        return Episodes(1 - own["bits"] / _MOST_BITS, {**own, **facts})

    def floors(self) -> dict[str, float]:
        """By name the raw score of what knows single tokens, the last 32 tokens and the process, and all of both."""
        return dict(_floors(self._domain, self._length))

    def shown(self, count: int) -> list[str]:
        """The beginnings of the first `count` validation documents."""
        written = self._domain.documents("validation", 0, np.arange(count), min(self._length, 40))
        return [f"[{vocabulary().render(row)}]" for row in written.tolist()]

    def sheet(self, seed: int) -> Sheet:
        """The test documents in the names of tokens."""
        return Sheet("text", [{"text": vocabulary().render(row)} for row in self._test_set(seed)[0][:, 1:].tolist()])

    def _test_set(self, seed: int) -> tuple[Integer, dict[str, Float]]:
        """The test documents of `seed` and what their process says of them; the last set is kept, as a run asks often."""
        if self._test is None or self._test[0] != seed:
            tokens, _, _ = Documents(self._domain, "test", seed, self._length).examples(np.arange(self._test_examples))
            facts: dict[str, Float] = {}
            for name, window in (("_oracle", 0), ("_window", WINDOW)):
                facts |= _by_kind(tokens[:, 1:], -self._domain.log_chances(tokens[:, 1:], window) / math.log(2), name)
            self._test = (seed, tokens, facts)
        return self._test[1:]


_MOST_BITS = 9.0  # of 512 tokens taken alike


@Kept
def _floors(domain: Domain, length: int) -> Mapping[str, float]:
    """As `DomainTask.floors`: of the process, whatever is trained and asked on it."""
    index = np.arange(max(32, _FLOOR_TOKENS // length))
    train, test = (domain.documents(split, _FLOOR_SEED, index, length) for split in ("train", "test"))
    seen = np.bincount(train.ravel(), minlength=vocabulary().size) + 1.0
    logs = {
        "uniform": np.full(test.shape, -math.log(vocabulary().size)),
        "unigram": np.log(seen / seen.sum())[test],
        "window": domain.log_chances(test, WINDOW),
        "oracle": domain.log_chances(test),
    }
    return {name: round(1 + float(log.mean()) / math.log(2) / _MOST_BITS, 4) for name, log in logs.items()}


def _by_kind(tokens: Integer, needed: Float, of: str) -> dict[str, Float]:
    """Means (n,) of the bits `needed` (n, T) over all of tokens (n, T), over names and over the symbols that close a pair."""
    found = {f"bits{of}": needed.mean(axis=1)}
    behind = np.concatenate([np.full((len(tokens), 1), PAD), tokens[:, :-1]], axis=1)
    for kind, mark in (("names", WHO), ("pairs", CLOSE)):
        among = behind == mark
        count = among.sum(axis=1)
        found[f"bits_{kind}{of}"] = np.where(count, (needed * among).sum(axis=1) / np.maximum(count, 1), np.nan)
    return found


def tasks(names: Sequence[str], *, length: int, test_examples: int, validation: bool) -> tuple[DomainTask, ...]:
    """One for each domain; names and sizes that there are none of are refused."""
    for name in names:
        if name not in NAMES:
            raise unknown_name("domain", name, NAMES, "stream.tasks of lm")
    if length < 2 * WINDOW:
        raise UserError(f"lm: documents must have at least {2 * WINDOW} tokens, got length {length}")
    return tuple(DomainTask(domain(name, validation=validation), name, length=length, test_examples=test_examples) for name in names)
