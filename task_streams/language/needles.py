"""Something said once in a long text about nothing, and asked for at its end: what long contexts are tested with.

    passkey     the key is 4 8 1 5 3 .  among filler                         Mohtashami and Jaggi 2023, arXiv:2305.16300
    needle      the ring of Mary is s07 s21 .  among filler, asked by name   RULER (Hsieh et al. 2024, arXiv:2404.06654), single
    keys        four of these, one asked                                     multi-key
    values      one name given four values at four places, all asked         multi-value
    questions   four names, all asked                                        multi-query
    haystack    nothing but such sentences in place of filler, four asked    multi-key 2
    variables   a = s07 . b = a . c = b .  beside another such chain: who has the value, in order      variable tracking

Filler is sentences of words that no needle has, drawn anew for each text; RULER repeats five. Values are symbols, so that each token of an
answer is one of 64. Facts: how deep what is asked first stands, 0 at the beginning of the text and 1 just before the question.
Spec: language.md 5.7 and 5.8. Shape letters: R examples, n needles, K tokens of one, F tokens of filler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from clbench.errors import UserError, unknown_name

from ..levels import Kept
from .generation import Draft, Draws, Float, Integer
from .task import best_shortcut
from .vocabulary import LETTERS, SYMBOLS, vocabulary
from .wording import FILLER, OBJECTS, PEOPLE, SENTENCE, STOP, compiled, filled

DIGITS = 5  # of a passkey
VALUE = 2  # symbols of a value
NEEDLES = 4
_FLOOR_TOKENS = 1 << 18
HOPS = 4  # variables of a chain behind the first
_KEY = compiled(("the key is {0} {1} {2} {3} {4} .",))
_KEY_ASKED = compiled(("what is the key ?",))
_SAID = compiled(("the {0} of {1} is {2} {3} .",))
_ASKED = compiled(("what is the {0} of {1} ?",))
_GIVEN = compiled(("{0} = {1} .",))
_WHO = compiled(("who is {0} ?",))


@dataclass(frozen=True)
class Needles:
    """One family among `filler` tokens."""

    family: str
    filler: int

    @property
    def name(self) -> str:
        """The family, with the number of filler tokens if there are any."""
        return f"{self.family}+{self.filler}" if self.filler else self.family

    @property
    def prompt_size(self) -> int:
        return _sizes(self)[0]

    @property
    def answer_size(self) -> int:
        return _sizes(self)[1]

    @property
    def longest_pair(self) -> int:
        return sum(_sizes(self))

    @property
    def legal(self) -> Integer:
        """Digits, symbols or letters."""
        return {"passkey": _DIGIT_IDS, "variables": np.array(LETTERS)}.get(self.family, np.array(SYMBOLS))

    @property
    def count(self) -> int:
        """Needles of a text."""
        if self.family == "haystack":
            return max(NEEDLES, self.filler // _SAID.shape[1])
        return {"passkey": 1, "needle": 1, "variables": 2 * (HOPS + 1)}.get(self.family, NEEDLES)

    def draw(self, draws: Draws) -> Draft:
        kinds = {"passkey": self._passkey, "variables": self._variables}
        needles, asked, answer, first = kinds.get(self.family, self._named)(draws)
        text, depth = self._hidden(draws, needles)
        rows, answer_size = len(draws), sum(each.shape[1] for each in (*asked, *answer)) - asked[0].shape[1]
        prompt = np.concatenate([text, asked[0]], axis=1)
        parts, scored = [answer[0]], [np.ones(answer[0].shape, dtype=bool)]
        for question, said in zip(asked[1:], answer[1:], strict=True):
            parts += [question, said]
            scored += [np.zeros(question.shape, dtype=bool), np.ones(said.shape, dtype=bool)]
        draft = Draft.whole(prompt, np.concatenate(parts, axis=1), np.concatenate(scored, axis=1))
        assert draft.answer.shape == (rows, answer_size)
        return draft.with_depth(np.take_along_axis(depth, first[:, None], axis=1)[:, 0])

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`said`: any of what could be an answer and stands in the text, one as likely as the other."""
        legal = np.isin(draft.prompt, self.legal)
        same = np.stack([((draft.prompt == token[:, None]) & legal).sum(axis=1) for token in draft.answer.T], axis=1)
        return {"said": same / np.maximum(1, legal.sum(axis=1))[:, None]}

    def _hidden(self, draws: Draws, needles: Integer) -> tuple[Integer, Float]:
        """The text (R, F + n K) of needles (R, n, K) in their order among filler, and the depth (R, n) of each."""
        rows, count, width = needles.shape
        filler = 0 if self.family == "haystack" else self.filler
        if not filler:
            return needles.reshape(rows, -1), np.broadcast_to(np.arange(count) / count, (rows, count))
        sentences = -(-filler // SENTENCE)
        words = FILLER[draws.integers("filler", len(FILLER), filler)]
        words[:, SENTENCE - 1 :: SENTENCE] = words[:, -1] = STOP  # the last sentence may be short
        gap = np.sort(draws.integers("gaps", sentences + 1, count), axis=1)  # behind how many sentences each stands
        place = np.concatenate([np.repeat(2 * gap, width, axis=1), np.tile(2 * (np.arange(filler) // SENTENCE) + 1, (rows, 1))], axis=1)
        order = np.argsort(place.astype(np.int32), axis=1, kind="stable")
        return np.take_along_axis(np.concatenate([needles.reshape(rows, -1), words], axis=1), order, axis=1), gap / sentences

    def _passkey(self, draws: Draws) -> tuple[Integer, list[Integer], list[Integer], Integer]:
        digits = _DIGIT_IDS[draws.integers("digits", len(_DIGIT_IDS), DIGITS)]  # (R, 5)
        said = filled(np.repeat(_KEY, len(draws), axis=0), list(digits.T))
        return said[:, None], [np.repeat(_KEY_ASKED, len(draws), axis=0)], [digits], np.zeros(len(draws), dtype=np.int64)

    def _named(self, draws: Draws) -> tuple[Integer, list[Integer], list[Integer], Integer]:
        """Needles (R, n, K), questions and answers (R, k) each, and which needle is asked first (R,)."""
        rows, count = len(draws), self.count
        one_name = self.family == "values"
        pair = draws.choices("names", len(OBJECTS) * len(PEOPLE), 1 if one_name else count)
        pair = np.repeat(pair, count, axis=1) if one_name else pair  # (R, n)
        thing, owner = OBJECTS[pair % len(OBJECTS)], PEOPLE[pair // len(OBJECTS)]
        value = SYMBOLS.start + draws.integers("values", len(SYMBOLS), count * VALUE).reshape(rows, count, VALUE)
        about = [thing.ravel(), owner.ravel(), value[:, :, 0].ravel(), value[:, :, 1].ravel()]
        said = filled(np.repeat(_SAID, rows * count, axis=0), about).reshape(rows, count, -1)
        at = np.arange(rows)
        if one_name:
            asked = filled(np.repeat(_ASKED, rows, axis=0), [thing[:, 0], owner[:, 0]])
            return said, [asked], [value.reshape(rows, -1)], np.zeros(rows, dtype=np.int64)
        order = draws.choices("asked", count, NEEDLES if self.family in ("questions", "haystack") else 1)
        questions = [filled(np.repeat(_ASKED, rows, axis=0), [thing[at, which], owner[at, which]]) for which in order.T]
        return said, questions, [value[at, which] for which in order.T], order[:, 0]

    def _variables(self, draws: Draws) -> tuple[Integer, list[Integer], list[Integer], Integer]:
        """Two chains of assignments, each in its order; who of all variables has the value of one of them is asked, in that order."""
        rows, length = len(draws), HOPS + 1
        names = np.array(LETTERS)[draws.choices("variables", len(LETTERS), 2 * length)].reshape(rows, 2, length)
        value = np.array(SYMBOLS)[draws.choices("values", len(SYMBOLS), 2)]  # (R, 2)
        source = np.concatenate([value[:, :, None], names[:, :, :-1]], axis=2)  # (R, 2, length), what each is given
        said = filled(np.repeat(_GIVEN, rows * 2 * length, axis=0), [names.ravel(), source.ravel()]).reshape(rows, 2 * length, -1)
        chain = draws.permutations("turns", 2 * length) >= length  # (R, 2 length), whose turn it is
        step = np.where(chain, chain.cumsum(axis=1), (~chain).cumsum(axis=1)) - 1
        turn = chain * length + step
        asked = draws.integers("asked", 2, 1)[:, 0]
        at = np.arange(rows)
        question = filled(np.repeat(_WHO, rows, axis=0), [value[at, asked]])
        first = (turn == asked[:, None] * length).argmax(axis=1)
        return np.take_along_axis(said, turn[:, :, None], axis=1), [question], [names[at, asked]], first


FAMILIES: Mapping[str, str] = {
    "passkey": "op:memorize",
    "needle": "op:ask",
    "keys": "op:ask",
    "values": "op:dictionary",
    "questions": "op:ask",
    "haystack": "op:ask",
    "variables": "op:variable-chase",
}
_DIGIT_IDS = np.array([vocabulary().id(str(digit)) for digit in range(10)])


@cache
def _sizes(family: Needles) -> tuple[int, int]:
    """Tokens of a prompt and of an answer, which are those of all."""
    draft = family.draw(Draws(np.uint64(0), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)))
    return draft.prompt.shape[1], draft.answer.shape[1]


def generator(family: str, filler: int) -> Needles:
    """One of `FAMILIES` among `filler` tokens."""
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES, "stream.tasks of needles")
    made = Needles(family, filler)
    if filler < 0 or made.count > len(OBJECTS) * len(PEOPLE):
        raise UserError(f"needles: {family} takes 0 to {_SAID.shape[1] * len(OBJECTS) * len(PEOPLE)} tokens of filler, got {filler}")
    return made


def floor(generator: Needles) -> float:
    """The level of the best shortcut on fixed examples; without filler, among which the same is said. Of long haystacks on fewer."""
    return _floor(generator if generator.family == "haystack" else Needles(generator.family, 0))


@Kept
def _floor(shown: Needles) -> float:
    return best_shortcut(shown, min(2048, max(64, _FLOOR_TOKENS // shown.longest_pair)))
