"""The families of questions of a small world: who is where, who holds what, which place lies beside which, who gave what to whom.

How a story is told, and what makes its questions fair, is in `stories`; spec language.md 3.3. Shape letters: R rows, S subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from clbench.errors import UserError, unknown_name

from .generation import Bool, Draws, Integer
from .stories import NEVER, RENDERINGS, Piece, World, another, one_of, own, pick
from .task import TextTask
from .vocabulary import DIGITS, PAD
from .wording import ANIMALS, DIRECTIONS, OBJECTS, PEOPLE, PLACES, STOP, YES_NO


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
                at[each, who] = another(draws, f"to {now}", at[each, who], len(values))
            said[each, who] = now
            yield self._say(draws, str(number), fact, subjects[who], values[own(at, who)])
            if now >= 1:
                yield self._asked(draws, now, _Whereabouts(at, before, said, said_before))

    def _asked(self, draws: Draws, now: int, known: _Whereabouts) -> Piece:
        subjects, values = self._subjects
        each, said = np.arange(len(known.at)), known.said
        if self.family == "where-was-before":
            who = pick(draws, str(now), now - known.said_before)
            age = now - own(known.said_before, who)
            known.said_before[each, who] = now
            return self._ask("before", [subjects[who]], values[own(known.before, who)], age)
        who = pick(draws, str(now), now - said)
        age = now - own(said, who)
        said[each, who] = now
        here = own(known.at, who)
        if self.family != "yes-no":
            question = {"who-holds": "who", "what-likes": "likes"}.get(self.family, "where person")
            return self._ask(question, [subjects[who]], values[here], age)
        coin = draws.integers(f"yes or no {now}", 4, 1)[:, 0]
        other = another(draws, f"not {now}", here, len(values))
        old = own(known.before, who)
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
                    seen[each, own(holder, what)] = now  # who gives it away has one fewer
                holder[each, what] = np.where(moves, own(holder, what), another(draws, f"to {now}", own(holder, what), self.people))
                place[each, who] = np.where(moves, another(draws, f"walks {now}", own(place, who), self.places), own(place, who))
            taker = own(holder, what)
            said[each, what] = np.where(moves, own(said, what), now)
            seen[each, who] = np.where(moves, now, own(seen, who))
            if not self._located:
                seen[each, taker] = now
            yield self._either(draws, str(number), moves, (PEOPLE[who], PLACES[own(place, who)]), (OBJECTS[what], PEOPLE[taker]))
            if now >= 1:
                yield self._asked(draws, now, _Things(holder, place, said, seen))

    def _either(self, draws: Draws, when: str, moves: Bool, walk: tuple[Integer, ...], take: tuple[Integer, ...]) -> Piece:
        took = self._say(draws, when, "holds", *take)
        return one_of(moves, [took, self._say(draws, when, "at", *walk)]) if self._located else took

    def _asked(self, draws: Draws, now: int, known: _Things) -> Piece:
        holder, said, seen = known.holder, known.said, known.seen
        each = np.arange(len(holder))
        if self._located:
            of = np.take_along_axis(seen, holder, axis=1)  # (R, O), when the place of its holder was mentioned
            latest = of == seen.max(axis=1, keepdims=True)  # that is the place mentioned last
            age = np.where(latest, 0, now - np.minimum(said, of))  # of the older of the two
            age = np.where((age >= 1).any(axis=1, keepdims=True), age, now - np.minimum(said, of) + 1)
            what = pick(draws, str(now), age)
            who = own(holder, what)
            asked = self._ask("where object", [OBJECTS[what]], PLACES[own(known.place, who)], own(age, what))
            said[each, what] = now
            seen[each, who] = now
            return asked
        has = (holder[:, :, None] == np.arange(self.people)).sum(axis=1)  # (R, P)
        age = np.maximum(now - seen, 0) + 1  # the statement just before changes a number, but does not say it
        who = pick(draws, str(now), age, has, max(16, self.objects + 1))
        if self.family == "count-held":
            answer = np.array(DIGITS)[own(has, who)]
        else:
            mine = holder == who[:, None]
            answer = np.where(mine, OBJECTS[: self.objects], PAD)  # in the order of the vocabulary
        asked = self._ask("many" if self.family == "count-held" else "all", [PEOPLE[who]], answer, own(age, who))
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
            here, there = own(road, link + turned), own(road, link + 1 - turned)
            way = (own(ways, link) + 2 * (1 - turned)) % 4  # `here` is that way of `there`
            said[each, link], told[each, link] = now, turned
            yield self._say(draws, str(number), "link", PLACES[here], DIRECTIONS[way], PLACES[there])
            if now >= 1:
                known = _Road(road, ways, said, told)
                yield self._steps(draws, now, known) if self.family == "path" else self._beside(draws, now, known)

    def _beside(self, draws: Draws, now: int, known: _Road) -> Piece:
        link = pick(draws, str(now), now - known.said)
        turned = own(known.told, link) if self.family == "direction" else 1 - own(known.told, link)
        here, there = own(known.places, link + turned), own(known.places, link + 1 - turned)
        way = (own(known.ways, link) + 2 * (1 - turned)) % 4
        age = now - own(known.said, link)
        known.said[np.arange(len(link)), link] = now
        return self._ask("link", [PLACES[here], DIRECTIONS[way]], PLACES[there], age)

    def _steps(self, draws: Draws, now: int, known: _Road) -> Piece:
        older = np.minimum(known.said[:, :-1], known.said[:, 1:])
        age = np.maximum(now - older, 1)
        link = pick(draws, str(now), age)  # of two that follow each other, the first
        turned = draws.integers(f"asked turned {now}", 2, 1)[:, 0]
        there, back = own(known.ways, link), own(known.ways, link + 1)
        one, two = np.where(turned, (back + 2) % 4, there), np.where(turned, (there + 2) % 4, back)
        start, end = own(known.places, link + 2 * turned), own(known.places, link + 2 - 2 * turned)
        return self._ask("path", [PLACES[start], PLACES[end]], DIRECTIONS[np.stack([one, two], axis=1)], own(age, link))


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
            giver = own(holder, what)
            receiver = another(draws, f"to {number}", giver, self.people)
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
        which = pick(draws, str(now), age)
        one, two = (_kind(shown[:, i], pair[each, which, i]) for i in range(2))
        answer = _kind(form, gifts[each, which, form])
        asked = one_of(form, [self._ask(kind, [one, two], answer, own(age, which)) for kind in ("giver", "given", "receiver")])
        said[each, which] = now
        return asked


def _kind(role: Integer, number: Integer) -> Integer:
    """The id of a person, or of an object where the role (R,) is 1."""
    return np.where(role == 1, OBJECTS[number % len(OBJECTS)], PEOPLE[number % len(PEOPLE)])


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
