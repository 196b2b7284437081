"""A small world of people, places and objects, told statement by statement, with a question after each: what its stories look like.

    ann attic . bob cellar . <ans> bob garden . where ann attic . ann cellar . where bob garden . <eos>       symbolic
    ann went to the attic . .. <ans> bob is in the garden now . where is ann ? attic . ..                      text

After the idea of bAbI's question families (Weston et al. 2015, arXiv:1502.05698) and BABILong's facts among other text (Kuratov et al.
2024, arXiv:2406.10149); world, words and rules are our own; spec language.md 3.3. The prompt tells how things are to begin with; the answer
is the rest of the story, in which only the answers are scored. What a question asks is never in the statement just before it, and it is
drawn by how many statements ago it was last said (`AGE_BINS`, each as likely as the others where it can be had), so that the label
mentioned last is right by chance only. Counts, lists and paths, which several statements make, are excepted: one of these may be the one
just before. An answer counts as a mention: what was asked is not asked again as if it were old.
Shape letters: R rows, S subjects, K tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .generation import AGE_BINS, LONG_AGO, Bool, Draft, Draws, Float, Integer
from .vocabulary import DIGITS, PAD, vocabulary
from .wording import ANIMALS, DIRECTIONS, FILLER, OBJECTS, PEOPLE, PLACES, SENTENCE, STOP, YES_NO, compiled, filled

NEVER = -LONG_AGO  # the round of what was never said
_RECENT = 6  # shortcuts look so many mentions back

_STATEMENTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "symbolic": {
        "at": ("{0} {1} .",),
        "holds": ("{0} {1} .",),
        "likes": ("{0} {1} .",),
        "link": ("{0} {1} {2} .",),
        "gives": ("{0} {1} {2} .",),
    },
    "text": {
        "at": ("{0} went to the {1} .", "{0} moved to the {1} .", "{0} is in the {1} now ."),
        "holds": ("{1} took the {0} .", "{1} got the {0} .", "now {1} has the {0} ."),
        "likes": ("{0} likes the {1} .", "now {0} likes the {1} .", "the {1} is what {0} likes ."),
        "link": ("the {0} is {1} of the {2} .", "{1} of the {2} is the {0} .", "the {0} : {1} of the {2} ."),
        "gives": ("{0} gave the {1} to {2} .", "{0} handed the {1} to {2} .", "{2} received the {1} from {0} ."),
    },
}
_QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "symbolic": {
        "where person": "where {0}",
        "where object": "where {0}",
        "before": "before {0}",
        "who": "who {0}",
        "likes": "likes {0}",
        "is": "is {0} {1}",
        "many": "many {0}",
        "link": "what {0} {1}",
        "giver": "who {0} {1}",
        "given": "what {0} {1}",
        "receiver": "to {0} {1}",
        "all": "all {0}",
        "path": "from {0} {1}",
    },
    "text": {
        "where person": "where is {0} ?",
        "where object": "where is the {0} ?",
        "before": "where was {0} before ?",
        "who": "who has the {0} ?",
        "likes": "{0} likes what ?",
        "is": "is {0} in the {1} ?",
        "many": "how many has {0} ?",
        "link": "the {0} is {1} of what ?",
        "giver": "who gave the {0} to {1} ?",
        "given": "what was handed to {1} by {0} ?",
        "receiver": "{0} gave the {1} to who ?",
        "all": "what has {0} ?",
        "path": "from the {0} to the {1} ?",
    },
}
RENDERINGS = (*_STATEMENTS, "pronouns")
"""In "pronouns", sentences that name the person first whom the statement before named first say she or he instead."""
_WOMEN = ("Mary", "Sandra", "Julie", "Emily", "Lily", "Winona", "Gertrude", "Anna", "Laura", "Nora", "Clara", "Irene", "Rosa", "Tessa")
_PRONOUNS = np.array([vocabulary().id("she" if vocabulary().name(person) in _WOMEN else "he") for person in PEOPLE])
_KINDS = (PEOPLE, PLACES, OBJECTS, ANIMALS, DIRECTIONS, YES_NO, np.array(DIGITS))


@dataclass(frozen=True)
class Piece:
    """A statement, or a question with its answer, of R stories; PAD where a story has fewer tokens."""

    tokens: Integer  # (R, K)
    scored: Bool  # (R, K)
    age: Integer  # (R,), statements since what answers was last said; 0 where nothing is asked


@dataclass(frozen=True)
class World(ABC):
    """One family of questions over stories of `events` statements behind the opening ones, a question after each.

    `rendering`: one of RENDERINGS. `filler`: tokens of sentences about nothing in the world, put between the statements at random.
    """

    family: str
    people: int
    places: int
    objects: int
    events: int
    rendering: str = "symbolic"
    filler: int = 0

    @property
    def name(self) -> str:
        """The family, with the number of filler tokens if there are any."""
        return f"{self.family}+{self.filler}" if self.filler else self.family

    @property
    @abstractmethod
    def opening(self) -> int:
        """Statements of the prompt."""

    @property
    @abstractmethod
    def legal(self) -> Integer:
        """The ids that can be answers."""

    @abstractmethod
    def live(self, draws: Draws) -> Iterator[Piece]:
        """The statements of the opening, then a statement and a question in turn."""

    @property
    def prompt_size(self) -> int:
        return self._sizes[0] + self.filler

    @property
    def answer_size(self) -> int:
        return self._sizes[1] + self.filler

    @property
    def longest_pair(self) -> int:
        return sum(self._sizes) + self.filler

    @property
    def _sizes(self) -> tuple[int, int]:
        return _sizes(self)

    @property
    def _form(self) -> str:
        return "symbolic" if self.rendering == "symbolic" else "text"

    def draw(self, draws: Draws) -> Draft:
        pieces = list(self.live(draws))
        return _told(_with_pronouns(pieces) if self.rendering == "pronouns" else pieces, self.opening, self.filler, draws)

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`mentioned k ago`: of the labels of the answer's kind the one said so long ago. `commonest`: the one said most often."""
        return _mentions(draft, self.legal)

    def _say(self, draws: Draws, when: str, kind: str, *about: Integer) -> Piece:
        templates = compiled(_STATEMENTS[self._form][kind])
        chosen = templates[draws.integers(f"words {when}", len(templates), 1)[:, 0]]  # (R, K)
        tokens = filled(chosen, about)
        return Piece(tokens, np.zeros(tokens.shape, dtype=bool), np.zeros(len(tokens), dtype=np.int64))

    def _ask(self, kind: str, about: Sequence[Integer], answer: Integer, age: Integer) -> Piece:
        """`answer` (R,) or (R, A), PAD where an answer is shorter."""
        template = compiled((_QUESTIONS[self._form][kind],))
        asked = filled(np.repeat(template, len(age), axis=0), about)
        answer = answer.reshape(len(age), -1)
        stop = np.full((len(age), 1), STOP)
        tokens = np.concatenate([asked, answer, stop], axis=1)
        scored = np.zeros(tokens.shape, dtype=bool)
        scored[:, asked.shape[1] : -1] = answer != PAD
        return Piece(tokens, scored, age)


@cache
def _sizes(world: World) -> tuple[int, int]:
    """Tokens of the longest opening and of the longest rest, without filler."""
    one = Draws(np.uint64(0), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    widths = [piece.tokens.shape[1] for piece in world.live(one)]
    return sum(widths[: world.opening]), sum(widths[world.opening :])


def _with_pronouns(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with a pronoun where a statement names the person first whom the statement before named first."""
    told: list[Piece] = []
    before = np.full(len(pieces[0].tokens), PAD)
    for piece in pieces:
        if piece.scored.any():  # a question
            told.append(piece)
            continue
        person = np.isin(piece.tokens, PEOPLE)
        named, first = own(piece.tokens, person.argmax(axis=1)), person & (person.cumsum(axis=1) == 1)
        named = np.where(person.any(axis=1), named, PAD)
        again = first & ((named == before) & (named != PAD))[:, None]
        told.append(replace(piece, tokens=np.where(again, _PRONOUNS[np.maximum(named - PEOPLE[0], 0)][:, None], piece.tokens)))
        before = named
    return told


def _told(pieces: Sequence[Piece], opening: int, filler: int, draws: Draws) -> Draft:
    """The story that `pieces` make, filler sentences between its statements: one stable sort by where each token belongs."""
    rows = len(draws)
    gaps = [number if number < opening else opening + (number - opening) // 2 for number in range(len(pieces))]
    width = [piece.tokens.shape[1] for piece in pieces]
    tokens = np.concatenate([piece.tokens for piece in pieces], axis=1)
    scored = np.concatenate([piece.scored for piece in pieces], axis=1)
    age = np.concatenate([np.repeat(piece.age[:, None], k, axis=1) for piece, k in zip(pieces, width, strict=True)], axis=1) * scored
    place = np.broadcast_to(np.repeat(gaps, width) * 2 + 1, tokens.shape)
    if filler:
        words = FILLER[draws.integers("filler", len(FILLER), filler)]
        words[:, SENTENCE - 1 :: SENTENCE] = words[:, -1] = STOP  # the last sentence may be short
        sentences = -(-filler // SENTENCE)
        gap = np.sort(draws.integers("gaps", gaps[-1] + 1, sentences), axis=1)  # before which statement each stands
        tokens = np.concatenate([tokens, words], axis=1)
        scored = np.concatenate([scored, np.zeros(words.shape, dtype=bool)], axis=1)
        age = np.concatenate([age, np.zeros(words.shape, dtype=np.int64)], axis=1)
        place = np.concatenate([place, np.repeat(gap * 2, SENTENCE, axis=1)[:, :filler]], axis=1)
    last = 2 * len(pieces)
    place = np.where(tokens == PAD, last, place)
    order = np.argsort(place.astype(np.int32), axis=1, kind="stable")
    tokens, scored, age = (np.take_along_axis(each, order, axis=1) for each in (tokens, scored, age))
    first = (place < 2 * opening).sum(axis=1)  # (R,), tokens of the prompt
    length = (place < last).sum(axis=1) - first
    prompt_size, answer_size = sum(width[:opening]) + filler, sum(width[opening:]) + filler
    inside = np.arange(prompt_size) < first[:, None]
    prompt = np.where(inside, tokens[:, :prompt_size], PAD)
    behind = np.minimum(first[:, None] + np.arange(answer_size), tokens.shape[1] - 1)
    held = np.arange(answer_size) < length[:, None]
    answer, asked, ages = (np.take_along_axis(each, behind, axis=1) * held for each in (tokens, scored, age))
    return Draft(prompt, first, answer, length, asked, np.ones(rows, dtype=bool), ages)


def _mentions(draft: Draft, legal: Integer) -> Mapping[str, Float]:
    """Shortcuts that know the answer's kind and what was mentioned, but not of whom."""
    text = np.concatenate([draft.prompt, draft.answer], axis=1)
    own = draft.prompt.shape[1] + np.flatnonzero(draft.scored.any(axis=0))
    levels = {f"mentioned {k} ago": np.zeros(draft.answer.shape) for k in range(1, _RECENT + 1)}
    levels["commonest"] = np.zeros(draft.answer.shape)
    kinds = [legal] if STOP in legal else [kind for each in _KINDS if len(kind := np.intersect1d(each, legal))]
    for column in own:
        at = column - draft.prompt.shape[1]
        rows = np.flatnonzero(draft.scored[:, at])
        right = draft.answer[rows, at]
        kind = np.select([np.isin(right, each) for each in kinds], np.arange(len(kinds)), -1)
        for number, each in enumerate(kinds):
            of = kind == number
            before, wanted, r = text[rows[of], :column], right[of], rows[of]
            label = np.isin(before, each)
            count = label[:, ::-1].cumsum(axis=1)
            for k in range(1, _RECENT + 1):
                found = label[:, ::-1] & (count == k)
                value = np.where(found.any(axis=1), before[:, ::-1][np.arange(len(r)), found.argmax(axis=1)], each[0])
                levels[f"mentioned {k} ago"][r, at] = value == wanted
            most = (before[:, :, None] == each).sum(axis=1)
            levels["commonest"][r, at] = each[most.argmax(axis=1)] == wanted
    return levels


def pick(draws: Draws, when: str, age: Integer, value: Integer | None = None, values: int = 0) -> Integer:
    """The candidate (R,) to be asked about, of those (R, S) whose `age` is at least 1: each age bin as likely as the others.

    With `value` (R, S), numbers below `values`, each of these is as likely as the others instead.
    """
    bins = np.digitize(age, [first for first, _ in AGE_BINS]) - 1 if value is None else value
    count = len(AGE_BINS) if value is None else values
    rank = np.take_along_axis(draws.permutations(f"bin {when}", count), np.maximum(bins, 0), axis=1)  # (R, S)
    key = np.where(age >= 1, rank * 2**32 + (draws.words(f"candidate {when}", age.shape[1]) >> np.uint64(32)).astype(np.int64), 2**62)
    return key.argmin(axis=1)


def another(draws: Draws, purpose: str, now: Integer, count: int) -> Integer:
    """A number (R,) in [0, count) that is not `now` (R,)."""
    return (now + 1 + draws.integers(purpose, count - 1, 1)[:, 0]) % count


def own(table: Integer, column: Integer) -> Integer:
    return table[np.arange(len(table)), column]


def one_of(which: Integer, pieces: Sequence[Piece]) -> Piece:
    """Row r of piece which[r]."""
    width = max(piece.tokens.shape[1] for piece in pieces)
    tokens = np.full((len(which), width), PAD, dtype=np.int64)
    scored = np.zeros(tokens.shape, dtype=bool)
    for number, piece in enumerate(pieces):
        mine, k = which == number, piece.tokens.shape[1]
        tokens[mine, :k], scored[mine, :k] = piece.tokens[mine], piece.scored[mine]
    return Piece(tokens, scored, pieces[0].age)
