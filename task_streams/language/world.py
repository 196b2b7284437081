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

from clbench.errors import UserError, unknown_name

from .generation import AGE_BINS, LONG_AGO, Bool, Draft, Draws, Float, Integer
from .task import TextTask
from .vocabulary import DIGITS, PAD, vocabulary

NEVER = -LONG_AGO  # the round of what was never said
_RECENT = 6  # shortcuts look so many mentions back
SENTENCE = 8  # tokens of a filler sentence

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


def named(first: str, last: str) -> Integer:
    """The ids from one name of the vocabulary to another."""
    words = vocabulary()
    return np.arange(words.id(first), words.id(last) + 1)


PEOPLE, PLACES, OBJECTS, ANIMALS = named("Mary", "Tessa"), named("bathroom", "city"), named("apple", "phone"), named("cat", "cow")
_PRONOUNS = np.array([vocabulary().id("she" if vocabulary().name(person) in _WOMEN else "he") for person in PEOPLE])
DIRECTIONS = np.array([vocabulary().id(name) for name in ("north", "east", "south", "west")])  # the opposite stands two further on
YES_NO = np.array([vocabulary().id("yes"), vocabulary().id("no")])
STOP = vocabulary().id(".")
FILLER = np.concatenate([named("red", "gold"), named("today", "summer"), named("big", "full")])  # nothing of the world


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


@cache
def compiled(templates: tuple[str, ...]) -> Integer:
    """Templates as ids (n, K), with -1 - i for the i-th of what they are about."""
    rows = [[-1 - int(word[1:-1]) if word[0] == "{" else vocabulary().id(word) for word in each.split()] for each in templates]
    compiled = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
    for number, row in enumerate(rows):
        compiled[number, : len(row)] = row
    return compiled


def filled(templates: Integer, about: Sequence[Integer]) -> Integer:
    """Templates (R, K) with the ids `about`, (R,) each, in their places."""
    tokens = templates.copy()
    for number, each in enumerate(about):
        tokens = np.where(templates == -1 - number, each[:, None], tokens)
    return tokens


def _with_pronouns(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with a pronoun where a statement names the person first whom the statement before named first."""
    told: list[Piece] = []
    before = np.full(len(pieces[0].tokens), PAD)
    for piece in pieces:
        if piece.scored.any():  # a question
            told.append(piece)
            continue
        person = np.isin(piece.tokens, PEOPLE)
        named, first = _at(piece.tokens, person.argmax(axis=1)), person & (person.cumsum(axis=1) == 1)
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


_KINDS = (PEOPLE, PLACES, OBJECTS, ANIMALS, DIRECTIONS, YES_NO, np.array(DIGITS))


def _pick(draws: Draws, when: str, age: Integer, value: Integer | None = None, values: int = 0) -> Integer:
    """The candidate (R,) to be asked about, of those (R, S) whose `age` is at least 1: each age bin as likely as the others.

    With `value` (R, S), numbers below `values`, each of these is as likely as the others instead.
    """
    bins = np.digitize(age, [first for first, _ in AGE_BINS]) - 1 if value is None else value
    count = len(AGE_BINS) if value is None else values
    rank = np.take_along_axis(draws.permutations(f"bin {when}", count), np.maximum(bins, 0), axis=1)  # (R, S)
    key = np.where(age >= 1, rank * 2**32 + (draws.words(f"candidate {when}", age.shape[1]) >> np.uint64(32)).astype(np.int64), 2**62)
    return key.argmin(axis=1)


def _other(draws: Draws, purpose: str, now: Integer, count: int) -> Integer:
    """A number (R,) in [0, count) that is not `now` (R,)."""
    return (now + 1 + draws.integers(purpose, count - 1, 1)[:, 0]) % count


def _at(table: Integer, column: Integer) -> Integer:
    return table[np.arange(len(table)), column]


@dataclass(frozen=True)
class _Whereabouts:
    """Where each subject is (R, S) and was before, and when either was last mentioned."""

    at: Integer
    before: Integer
    said: Integer
    said_before: Integer


@dataclass(frozen=True)
class Located(World):
    """Each subject is at one value at a time.

    People at places (`where-person`, `where-was-before`, `yes-no`), objects with people (`who-holds`), or people and the animal that each
    likes now, of as many as there are places (`what-likes`).
    """

    @property
    def _subjects(self) -> tuple[Integer, Integer]:
        if self.family == "who-holds":
            return OBJECTS[: self.objects], PEOPLE[: self.people]
        if self.family == "what-likes":
            return PEOPLE[: self.people], ANIMALS[: self.places]
        return PEOPLE[: self.people], PLACES[: self.places]

    @property
    def opening(self) -> int:
        return len(self._subjects[0]) * (2 if self.family == "where-was-before" else 1)

    @property
    def legal(self) -> Integer:
        return YES_NO if self.family == "yes-no" else self._subjects[1]

    def live(self, draws: Draws) -> Iterator[Piece]:
        subjects, values = self._subjects
        count, rows, each = len(subjects), len(draws), np.arange(len(draws))
        fact = {"who-holds": "holds", "what-likes": "likes"}.get(self.family, "at")
        at = draws.integers("begin", len(values), count)
        before = at.copy()
        said = np.full((rows, count), NEVER)  # when the present value of each was last mentioned
        said_before = said.copy()  # and when the one before
        order = draws.permutations("order", count)
        second = draws.permutations("second order", count)
        for number in range(self.opening + self.events):
            now = number - self.opening + 1  # the first statement behind the opening is number 1
            if number < count:
                who = order[:, number]
            else:
                who = second[:, number - count] if now < 1 else draws.integers(f"who {now}", count, 1)[:, 0]
                before[each, who], said_before[each, who] = at[each, who], said[each, who]
                at[each, who] = _other(draws, f"to {now}", at[each, who], len(values))
            said[each, who] = now
            yield self._say(draws, str(number), fact, subjects[who], values[_at(at, who)])
            if now >= 1:
                yield self._asked(draws, now, _Whereabouts(at, before, said, said_before))

    def _asked(self, draws: Draws, now: int, known: _Whereabouts) -> Piece:
        subjects, values = self._subjects
        each, said = np.arange(len(known.at)), known.said
        if self.family == "where-was-before":
            who = _pick(draws, str(now), now - known.said_before)
            age = now - _at(known.said_before, who)
            known.said_before[each, who] = now
            return self._ask("before", [subjects[who]], values[_at(known.before, who)], age)
        who = _pick(draws, str(now), now - said)
        age = now - _at(said, who)
        said[each, who] = now
        here = _at(known.at, who)
        if self.family != "yes-no":
            question = {"who-holds": "who", "what-likes": "likes"}.get(self.family, "where person")
            return self._ask(question, [subjects[who]], values[here], age)
        coin = draws.integers(f"yes or no {now}", 4, 1)[:, 0]
        other = _other(draws, f"not {now}", here, len(values))
        old = _at(known.before, who)
        shown = np.where(coin < 2, here, np.where((coin == 2) & (old != here), old, other))
        said[each, who] = np.where(shown == here, now, now - age)  # a "no" says nothing of where it is
        return self._ask("is", [subjects[who], values[shown]], YES_NO[(shown != here).astype(int)], age)


@dataclass(frozen=True)
class _Things:
    """Who has each object (R, O), where each person is (R, P), and when what is known of either was last mentioned."""

    holder: Integer
    place: Integer
    said: Integer
    seen: Integer


@dataclass(frozen=True)
class Carried(World):
    """Objects with people at places.

    `where-object` asks for the place of who has it (two statements), `count-held` how many one has, `list-held` which.
    """

    @property
    def _located(self) -> bool:
        return self.family == "where-object"

    @property
    def opening(self) -> int:
        return self.objects + (self.people if self._located else 0)

    @property
    def legal(self) -> Integer:
        if self._located:
            return PLACES[: self.places]
        return np.array(DIGITS)[: self.objects + 1] if self.family == "count-held" else np.append(OBJECTS[: self.objects], STOP)

    def live(self, draws: Draws) -> Iterator[Piece]:
        rows, each = len(draws), np.arange(len(draws))
        holder = draws.integers("holders", self.people, self.objects)
        place = draws.integers("places", self.places, self.people)
        said = np.full((rows, self.objects), NEVER)  # when each object's holder was last mentioned
        seen = np.full((rows, self.people), NEVER)  # when each one's place was, or what one has
        order = draws.permutations("order", self.opening)
        for number in range(self.opening + self.events):
            now = number - self.opening + 1
            if now < 1:
                subject = order[:, number]
                moves, what, who = subject >= self.objects, np.minimum(subject, self.objects - 1), np.maximum(subject - self.objects, 0)
            else:
                moves = draws.integers(f"moves {now}", 2, 1)[:, 0] > 0 if self._located else np.zeros(rows, dtype=bool)
                what, who = draws.integers(f"what {now}", self.objects, 1)[:, 0], draws.integers(f"who {now}", self.people, 1)[:, 0]
                if not self._located:
                    seen[each, _at(holder, what)] = now  # who gives it away has one fewer
                holder[each, what] = np.where(moves, _at(holder, what), _other(draws, f"to {now}", _at(holder, what), self.people))
                place[each, who] = np.where(moves, _other(draws, f"walks {now}", _at(place, who), self.places), _at(place, who))
            taker = _at(holder, what)
            said[each, what] = np.where(moves, _at(said, what), now)
            seen[each, who] = np.where(moves, now, _at(seen, who))
            if not self._located:
                seen[each, taker] = now
            yield self._either(draws, str(number), moves, (PEOPLE[who], PLACES[_at(place, who)]), (OBJECTS[what], PEOPLE[taker]))
            if now >= 1:
                yield self._asked(draws, now, _Things(holder, place, said, seen))

    def _either(self, draws: Draws, when: str, moves: Bool, walk: tuple[Integer, ...], take: tuple[Integer, ...]) -> Piece:
        took = self._say(draws, when, "holds", *take)
        return _one_of(moves, [took, self._say(draws, when, "at", *walk)]) if self._located else took

    def _asked(self, draws: Draws, now: int, known: _Things) -> Piece:
        holder, said, seen = known.holder, known.said, known.seen
        each = np.arange(len(holder))
        if self._located:
            of = np.take_along_axis(seen, holder, axis=1)  # (R, O), when the place of its holder was mentioned
            latest = of == seen.max(axis=1, keepdims=True)  # that is the place mentioned last
            age = np.where(latest, 0, now - np.minimum(said, of))  # of the older of the two
            age = np.where((age >= 1).any(axis=1, keepdims=True), age, now - np.minimum(said, of) + 1)
            what = _pick(draws, str(now), age)
            who = _at(holder, what)
            asked = self._ask("where object", [OBJECTS[what]], PLACES[_at(known.place, who)], _at(age, what))
            said[each, what] = now
            seen[each, who] = now
            return asked
        has = (holder[:, :, None] == np.arange(self.people)).sum(axis=1)  # (R, P)
        age = np.maximum(now - seen, 0) + 1  # the statement just before changes a number, but does not say it
        who = _pick(draws, str(now), age, has, max(16, self.objects + 1))
        if self.family == "count-held":
            answer = np.array(DIGITS)[_at(has, who)]
        else:
            mine = holder == who[:, None]
            answer = np.where(mine, OBJECTS[: self.objects], PAD)  # in the order of the vocabulary
        asked = self._ask("many" if self.family == "count-held" else "all", [PEOPLE[who]], answer, _at(age, who))
        if self.family == "list-held":
            asked.scored[:, -1] = True  # the stop says that there are no more
        seen[each, who] = now
        return asked


@dataclass(frozen=True)
class _Road:
    """Places along the way (R, L), directions of its links (R, L - 1), when and from which end each was last told."""

    places: Integer
    ways: Integer
    said: Integer
    told: Integer


@dataclass(frozen=True)
class Mapped(World):
    """Places along a road that turns between two directions.

    `direction` asks for the end of what was told last of a link ("office east of .."), `turned-direction` for its beginning from the other
    end, `path` for the two steps between two places.
    """

    @property
    def opening(self) -> int:
        return self.places - 1

    @property
    def legal(self) -> Integer:
        return DIRECTIONS if self.family == "path" else PLACES[: self.places]

    def live(self, draws: Draws) -> Iterator[Piece]:
        rows, each = len(draws), np.arange(len(draws))
        road = draws.permutations("road", self.places)  # place number i along the way
        turns = draws.integers("turns", 2, self.places - 1)
        first = draws.integers("first", 4, 1)
        ways = (first + turns) % 4  # (R, L - 1): from place i to place i + 1, one of two neighbouring directions
        said = np.full((rows, self.places - 1), NEVER)
        told = np.zeros(said.shape, dtype=np.int64)  # from which end each link was told last
        order = draws.permutations("order", self.places - 1)
        for number in range(self.opening + self.events):
            now = number - self.opening + 1
            link = order[:, number] if now < 1 else draws.integers(f"link {now}", self.places - 1, 1)[:, 0]
            turned = draws.integers(f"turned {number}", 2, 1)[:, 0]
            here, there = _at(road, link + turned), _at(road, link + 1 - turned)
            way = (_at(ways, link) + 2 * (1 - turned)) % 4  # `here` is that way of `there`
            said[each, link], told[each, link] = now, turned
            yield self._say(draws, str(number), "link", PLACES[here], DIRECTIONS[way], PLACES[there])
            if now >= 1:
                known = _Road(road, ways, said, told)
                yield self._steps(draws, now, known) if self.family == "path" else self._beside(draws, now, known)

    def _beside(self, draws: Draws, now: int, known: _Road) -> Piece:
        link = _pick(draws, str(now), now - known.said)
        turned = _at(known.told, link) if self.family == "direction" else 1 - _at(known.told, link)
        here, there = _at(known.places, link + turned), _at(known.places, link + 1 - turned)
        way = (_at(known.ways, link) + 2 * (1 - turned)) % 4
        age = now - _at(known.said, link)
        known.said[np.arange(len(link)), link] = now
        return self._ask("link", [PLACES[here], DIRECTIONS[way]], PLACES[there], age)

    def _steps(self, draws: Draws, now: int, known: _Road) -> Piece:
        older = np.minimum(known.said[:, :-1], known.said[:, 1:])
        age = np.maximum(now - older, 1)
        link = _pick(draws, str(now), age)  # of two that follow each other, the first
        turned = draws.integers(f"asked turned {now}", 2, 1)[:, 0]
        there, back = _at(known.ways, link), _at(known.ways, link + 1)
        one, two = np.where(turned, (back + 2) % 4, there), np.where(turned, (there + 2) % 4, back)
        start, end = _at(known.places, link + 2 * turned), _at(known.places, link + 2 - 2 * turned)
        return self._ask("path", [PLACES[start], PLACES[end]], DIRECTIONS[np.stack([one, two], axis=1)], _at(age, link))


@dataclass(frozen=True)
class Given(World):
    """Objects change hands: who gave what to whom, one of the three asked for; the last such gift counts."""

    @property
    def opening(self) -> int:
        return 3

    @property
    def legal(self) -> Integer:
        return np.concatenate([PEOPLE[: self.people], OBJECTS[: self.objects]])

    def live(self, draws: Draws) -> Iterator[Piece]:
        rows, each, total = len(draws), np.arange(len(draws)), self.opening + self.events
        holder = draws.integers("holders", self.people, self.objects)
        gifts = np.zeros((rows, total, 3), dtype=np.int64)  # giver, object, receiver
        said = np.full((rows, total), NEVER)
        for number in range(total):
            now = number - self.opening + 1
            what = draws.integers(f"what {number}", self.objects, 1)[:, 0]
            giver = _at(holder, what)
            receiver = _other(draws, f"to {number}", giver, self.people)
            holder[each, what] = receiver
            gifts[:, number] = np.stack([giver, what, receiver], axis=1)
            said[:, number] = now
            yield self._say(draws, str(number), "gives", PEOPLE[giver], OBJECTS[what], PEOPLE[receiver])
            if now >= 1:
                yield self._asked(draws, now, gifts[:, : number + 1], said)

    def _asked(self, draws: Draws, now: int, gifts: Integer, said: Integer) -> Piece:
        rows, count = gifts.shape[:2]
        each = np.arange(rows)
        form = draws.integers(f"form {now}", 3, 1)[:, 0]  # which of the three is asked for
        shown = np.array([[1, 2], [0, 2], [0, 1]])[form]  # (R, 2)
        pair = np.take_along_axis(gifts, shown[:, None], axis=2)  # (R, n, 2)
        same = (pair[:, :, None] == pair[:, None]).all(axis=3)  # (R, n, n)
        later = (same & (np.arange(count) > np.arange(count)[:, None])).any(axis=2)
        age = np.where(later, 0, now - said[:, :count])
        age = np.where((age >= 1).any(axis=1, keepdims=True), age, np.where(later, 0, 1))
        which = _pick(draws, str(now), age)
        one, two = (_kind(shown[:, i], pair[each, which, i]) for i in range(2))
        answer = _kind(form, gifts[each, which, form])
        asked = _one_of(form, [self._ask(kind, [one, two], answer, _at(age, which)) for kind in ("giver", "given", "receiver")])
        said[each, which] = now
        return asked


def _kind(role: Integer, number: Integer) -> Integer:
    """The id of a person, or of an object where the role (R,) is 1."""
    return np.where(role == 1, OBJECTS[number % len(OBJECTS)], PEOPLE[number % len(PEOPLE)])


def _one_of(which: Integer, pieces: Sequence[Piece]) -> Piece:
    """Row r of piece which[r]."""
    width = max(piece.tokens.shape[1] for piece in pieces)
    tokens = np.full((len(which), width), PAD, dtype=np.int64)
    scored = np.zeros(tokens.shape, dtype=bool)
    for number, piece in enumerate(pieces):
        mine, k = which == number, piece.tokens.shape[1]
        tokens[mine, :k], scored[mine, :k] = piece.tokens[mine], piece.scored[mine]
    return Piece(tokens, scored, pieces[0].age)


FAMILIES: Mapping[str, tuple[type[World], str]] = {  # by name what tells its stories, and the op-code that announces them
    "where-person": (Located, "op:where-is"),
    "where-was-before": (Located, "op:before"),
    "who-holds": (Located, "op:who-has"),
    "what-likes": (Located, "op:classify"),
    "where-object": (Carried, "op:position"),
    "yes-no": (Located, "op:yes-no"),
    "count-held": (Carried, "op:how-many"),
    "direction": (Mapped, "op:direction"),
    "turned-direction": (Mapped, "op:mirror"),
    "who-gave-what": (Given, "op:give"),
    "list-held": (Carried, "op:member"),
    "path": (Mapped, "op:path"),
}


def generator(name: str, *, people: int, places: int, objects: int, events: int, rendering: str, filler: int) -> World:
    """What draws the task `name`, one of FAMILIES; sizes that a world cannot have are refused."""
    if name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES, "task_streams/language/world.py")
    if rendering not in RENDERINGS:
        raise unknown_name("rendering", rendering, RENDERINGS, "stream.rendering")
    for what, count, least, words in (("people", people, 2, PEOPLE), ("places", places, 3, ANIMALS), ("objects", objects, 2, OBJECTS)):
        if not least <= count <= len(words):
            raise UserError(f"world-qa: {what} must be {least} to {len(words)}, got {count}")
    if objects > len(DIGITS) - 1 and name == "count-held":
        raise UserError(f"world-qa: count-held needs at most {len(DIGITS) - 1} objects, one digit a number, got {objects}")
    if events < 1 or filler < 0:
        raise UserError(f"world-qa: events must be > 0 and fillers >= 0, got {events} and {filler}")
    return FAMILIES[name][0](name, people, places, objects, events, rendering, filler)


def floor(generator: World) -> float:
    """The level of the best that can be had without the skill, on fixed examples. Neither filler nor the words of a story move it.

    Those of the sizes of `configs/stream/world-qa.yaml` are frozen: a change of them is a new version of the stream.
    """
    frozen = FLOORS.get((generator.people, generator.places, generator.objects, generator.events), {})
    return frozen.get(generator.family) or measured_floor(replace(generator, filler=0, rendering="symbolic"))


@cache
def measured_floor(generator: World) -> float:
    """As `floor`, measured."""
    return max(TextTask(generator, cue=None, test_examples=1, floor=0.0).floors().values())


FLOORS: Mapping[tuple[int, int, int, int], Mapping[str, float]] = {  # by people, places, objects and events
    (4, 4, 3, 8): {
        "where-person": 0.4426,
        "where-was-before": 0.3674,
        "who-holds": 0.5051,
        "what-likes": 0.4476,
        "where-object": 0.5146,
        "yes-no": 0.5054,
        "count-held": 0.4017,
        "direction": 0.4471,
        "turned-direction": 0.3906,
        "who-gave-what": 0.3765,
        "list-held": 0.5557,
        "path": 0.4083,
    },
    (8, 8, 6, 16): {
        "where-person": 0.2617,
        "where-was-before": 0.3022,
        "who-holds": 0.2727,
        "what-likes": 0.2616,
        "where-object": 0.3306,
        "yes-no": 0.5024,
        "count-held": 0.3453,
        "direction": 0.2023,
        "turned-direction": 0.1809,
        "who-gave-what": 0.2546,
        "list-held": 0.4923,
        "path": 0.3942,
    },
    (8, 8, 6, 24): {
        "where-person": 0.2496,
        "where-was-before": 0.2982,
        "who-holds": 0.2576,
        "what-likes": 0.2484,
        "where-object": 0.3303,
        "yes-no": 0.5044,
        "count-held": 0.3441,
        "direction": 0.1961,
        "turned-direction": 0.1878,
        "who-gave-what": 0.2427,
        "list-held": 0.4918,
        "path": 0.3994,
    },
}
