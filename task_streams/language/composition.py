"""Functions of strings, first alone and then one after another: what was learned of the parts serves the whole, by construction.

    rev swap a b c d <ans> b a d c          rev of (swap of a b c d), which changes the halves over
    up rev a b c d <ans> Q X A M            with two alphabets: `up` writes each symbol as another of the second, by a fixed table

After the string edits of PCFG SET (Hupkes et al. 2020, arXiv:1908.08351) and SCAN (Lake and Baroni 2018, arXiv:1711.00350); spec
language.md 3.7. Four functions are trained alone, then four compositions of them, written with the op-codes of their parts. Two controls
say what of the transfer is no more than practice with the format: in `unrelated` the first four tasks are other functions, in `relabel`
each composition has an op-code of its own.
With one alphabet all functions move symbols, and so do their compositions, which are then no harder to learn than their parts: at small
sizes nothing specific is passed on (results/reproductions.md, specific-transfer). With two, every composition needs the table of `up`,
which must be learned symbol by symbol; the control learns another table into the same alphabet.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from clbench.errors import UserError, unknown_name

from ..levels import Kept
from . import algorithms
from .algorithms import alphabet, counts, from_bag, strings
from .generation import Bool, Draft, Draws, Float, Integer, Paired, key, mix
from .task import Generator, TextTask, best_shortcut
from .vocabulary import PAD, SYMBOLS, vocabulary

CONTROLS = ("none", "unrelated", "relabel")


@dataclass(frozen=True)
class Part:
    """A function of strings that only moves symbols: where each of the answer's comes from. `drops`: by how much it is shorter."""

    code: str
    order: algorithms.Order
    drops: int = 0


def _halves(position: Integer, length: Integer) -> Integer:
    """Positions of xh+1 .. xL x1 .. xh, the halves of a string changed over; of an odd number the first is the shorter."""
    return (position + length // 2) % length


def _rest(position: Integer, length: Integer) -> Integer:
    """Positions of x2 .. xL."""
    return position + 1 + 0 * length


PARTS: Mapping[str, Part] = {
    "copy": Part("op:copy", algorithms.copied),
    "rev": Part("op:reverse", algorithms.reversed_),
    "swap": Part("op:interleave", _halves),
    "shift": Part("op:shift-left", algorithms.shifted_left),
    "drop": Part("op:filter", _rest, drops=1),
    "up": Part("op:then", algorithms.copied),  # and each symbol is written in the second alphabet
}
OTHERS: Mapping[str, str] = {"cipher": "op:translate", "ascending": "op:sort", "descending": "op:decrement", "next": "op:increment"}
TABLES: Mapping[str, str] = {"ascending": "op:sort", "descending": "op:decrement", "next": "op:increment", "code": "op:translate"}
RELABELLED: Mapping[str, str] = {
    "rev-swap": "op:rotate",
    "shift-rev": "op:mirror",
    "swap-shift": "op:complement",
    "rev-shift-swap": "op:merge",
    "up-rev": "op:rotate",
    "up-shift": "op:mirror",
    "up-swap": "op:complement",
    "up-rev-shift": "op:merge",
}

COMPONENTS = ("copy", "rev", "swap", "shift")
COMPOSED = ("rev-swap", "shift-rev", "swap-shift", "rev-shift-swap")
HELD_OUT = ("swap-rev", "shift-swap", "rev-shift", "swap-rev-shift", "drop")
COMPONENTS_OF_TWO = ("rev", "swap", "shift", "up")
COMPOSED_OF_TWO = ("up-rev", "up-shift", "up-swap", "up-rev-shift")
HELD_OUT_OF_TWO = ("up-rev-swap", "up-swap-shift", "rev-shift", "up-drop", "drop")


@dataclass(frozen=True)
class Function(Paired):
    """Strings of `low` to `high` of the first `symbols` symbols behind the op-codes `codes`, and what becomes of them.

    With two `alphabets` any of twice as many symbols may be an answer.
    """

    name: str
    codes: tuple[str, ...]
    low: int
    high: int
    symbols: int
    alphabets: int

    @property
    def prompt_size(self) -> int:
        return len(self.codes) + self.high

    @property
    def answer_size(self) -> int:
        return self.high

    @property
    def legal(self) -> Integer:
        return alphabet(self.symbols * self.alphabets)

    @abstractmethod
    def applied(self, text: Integer, length: Integer) -> tuple[Integer, Integer]:
        """The answer (R, high) to strings (R, high) of `length` (R,), and its length (R,)."""

    def draw(self, draws: Draws) -> Draft:
        text, length = strings(draws, self.low, self.high, self.symbols)
        answer, left = self.applied(text, length)
        codes = np.array([vocabulary().id(code) for code in self.codes])
        prompt = np.concatenate([np.tile(codes, (len(text), 1)), text], axis=1)
        inside = np.arange(self.answer_size) < left[:, None]
        return Draft(prompt, length + len(codes), answer, left, inside, np.ones(len(draws), dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`bag`: the commonest symbol not yet used up. `echo`: the string as it stands."""
        text = draft.prompt[:, len(self.codes) :]
        return {"bag": from_bag(counts(text), draft.answer), "echo": (text == draft.answer).astype(float)}


@dataclass(frozen=True)
class Composition(Function):
    """The answer is `parts[0](parts[1](..(string)))`."""

    parts: tuple[str, ...]

    def applied(self, text: Integer, length: Integer) -> tuple[Integer, Integer]:
        lengths = [length]  # before each part, from the innermost on
        for part in reversed(self.parts):
            lengths.append(lengths[-1] - PARTS[part].drops)
        inside = np.arange(self.answer_size) < lengths[-1][:, None]
        source = np.where(inside, np.arange(self.answer_size), 0)
        for part, before in zip(self.parts, reversed(lengths[:-1]), strict=True):  # from the outermost in
            source = np.where(inside, PARTS[part].order(source, before[:, None]), 0)
        moved = np.take_along_axis(text, source, axis=1)
        if "up" in self.parts:
            moved = _paired("up", self.symbols, moved, lengths[-1], inside)
        return np.where(inside, moved, PAD), lengths[-1]

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """As of all functions; saying the string again is the skill of copying, and no shortcut to it."""
        found = super().shortcuts(draft)
        return {"bag": found["bag"]} if self.parts == ("copy",) else found


@dataclass(frozen=True)
class Unrelated(Function):
    """A function that no composition has: a cipher, two orders, each symbol's next one."""

    def applied(self, text: Integer, length: Integer) -> tuple[Integer, Integer]:
        inside = text != PAD
        if self.name == "cipher":
            answer = np.where(inside, _cipher(self.symbols)[np.where(inside, text - SYMBOLS.start, 0)], PAD)
        elif self.name == "code":
            answer = np.where(inside, _paired("code", self.symbols, text, length, inside), PAD)
        elif self.name == "next":
            answer = np.where(inside, SYMBOLS.start + (text - SYMBOLS.start + 1) % self.symbols, PAD)
        elif self.name == "ascending":
            answer = np.where(inside, np.sort(np.where(inside, text, SYMBOLS.stop), axis=1), PAD)
        else:
            answer = -np.sort(-text, axis=1)
        return answer, length


@cache
def _cipher(symbols: int) -> Integer:
    """The id that each symbol becomes: a fixed permutation in which none stays."""
    order = np.argsort(mix(key("composition", "cipher") + np.arange(symbols, dtype=np.uint64)), kind="stable")
    found = np.empty(symbols, dtype=np.int64)
    found[order] = SYMBOLS.start + np.roll(order, 1)
    return found


def _paired(name: str, symbols: int, text: Integer, length: Integer, inside: Bool) -> Integer:
    """What the table `name` has for each symbol of strings (R, high) with the one behind it, for the last with the first."""
    at = np.arange(text.shape[1])[None]
    after = np.take_along_axis(text, np.where(inside, (at + 1) % length[:, None], 0), axis=1)
    first, second = (np.where(inside, each - SYMBOLS.start, 0) for each in (text, after))
    return _table(name, symbols)[first, second]


@cache
def _table(name: str, symbols: int) -> Integer:
    """The id in the second alphabet for each pair of symbols of the first (K, K), drawn alike and apart."""
    drawn = mix(key("composition", "table", name) + np.arange(symbols**2, dtype=np.uint64)) % np.uint64(symbols)
    return SYMBOLS.start + symbols + drawn.astype(np.int64).reshape(symbols, symbols)


def generators(names: Sequence[str], *, low: int, high: int, symbols: int, control: str, alphabets: int = 1) -> list[Generator]:
    """What draws the tasks `names`: `copy`, `rev-swap` and the like, and in control `unrelated` the names of OTHERS."""
    if control not in CONTROLS:
        raise unknown_name("control", control, CONTROLS, "stream.control")
    if not 2 <= low <= high:
        raise UserError(f"composition: expected 2 <= low <= high, got {low} and {high}")
    if alphabets not in (1, 2):
        raise UserError(f"composition: alphabets must be 1 or 2, got {alphabets}")
    if not 2 <= symbols <= len(SYMBOLS) // alphabets:
        raise UserError(f"composition: symbols must be 2 to {len(SYMBOLS) // alphabets}, got {symbols}")
    return [_generator(name, (low, high), symbols=symbols, control=control, alphabets=alphabets) for name in names]


def _generator(name: str, lengths: tuple[int, int], *, symbols: int, control: str, alphabets: int) -> Generator:
    others = OTHERS if alphabets == 1 else TABLES
    if name in others:
        return Unrelated(name, (others[name],), *lengths, symbols, alphabets)
    parts = tuple(name.split("-"))
    known = [part for part in PARTS if part != "up" or alphabets == 2]
    if not name or any(part not in known for part in parts) or parts.count("up") > 1:
        raise unknown_name("composition", name, [*order(control, alphabets), *held_out(alphabets), *others], "parts: " + ", ".join(known))
    codes = tuple(PARTS[part].code for part in parts)
    if control == "relabel" and name in RELABELLED:
        codes = (RELABELLED[name],)
    return Composition(name, codes, *lengths, symbols, alphabets, parts)


def order(control: str, alphabets: int = 1) -> list[str]:
    """The tasks of a stream, in turn."""
    if alphabets == 2:
        return [*(TABLES if control == "unrelated" else COMPONENTS_OF_TWO), *COMPOSED_OF_TWO]
    return [*(OTHERS if control == "unrelated" else COMPONENTS), *COMPOSED]


def held_out(alphabets: int) -> Sequence[str]:
    """Compositions that no phase trains, and a new function."""
    return HELD_OUT if alphabets == 1 else HELD_OUT_OF_TWO


@Kept
def floor(generator: Generator) -> float:
    """The level of the best shortcut on fixed examples."""
    return best_shortcut(generator, 2048)


@Kept
def highest_floor(generator: Generator) -> float:
    """The level of the best of everything that needs no skill on fixed examples: the shortcuts, and the commonest answers of training."""
    return max(TextTask(generator, cue=None, test_examples=1, floor=0.0).floors().values())


FLOORS = {"shortcuts": floor, "all": highest_floor}
"""What score 0 stands for."""
