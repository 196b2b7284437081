"""Facts that are published, changed and changed back: what is known must be brought up to date, and what did not change must be kept.

    <bos> op:memorize the home of Mary is attic . cow is the pet of John . .. <eos>        a document: every token is to be predicted
    <bos> op:ask the home of Mary <ans> attic <eos>                                    a question: only the answer is
    <bos> op:ask the home of the boss of Mary <ans> cellar <eos>                       over two facts, with the probe two-hop
    <bos> op:ask the home of John <ans> <unknown> <eos>                                of nobody it heard of, with the probe unknown

Phase 0 publishes most facts, each later phase a diff: facts that are new, others that change, and nothing of the rest. Documents and
questions are different examples, so that only weights or a memory that lasts can answer (regime across). A fact stands in `exposures`
documents of its phase, in one of six ways each time. Questions are trained about half of the entities; the other half is only scored, so
that an answer shows that a document was read. Column p holds the facts last published in phase p: its score at the end of phase p is how
well news is taken up, and what it loses later is forgetting, because nothing of it becomes wrong. The columns of probes are trained in no
phase of their own: questions like theirs are among those of every phase, about the other half of the entities (module probes).
Source: spec language.md 3.6, after CKL (Jang et al. 2022, arXiv:2110.03215). Departures: documents have one number of statements, each fact
of a phase stands in equally many; nothing is asked about what held in an earlier phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clbench.errors import UserError
from clbench.experience import Text
from clbench.interfaces import Episodes, Predictor

from .export import Sheet
from .generation import Bool, Draws, Integer, key
from .task import free_running_exact, shown, task_info
from .vocabulary import ANS, BOS, EOS, LETTERS, PAD, SYMBOLS, UNKNOWN, vocabulary
from .wording import ANIMALS, OBJECTS, PEOPLE, PLACES, compiled, filled

ATTRIBUTES: tuple[tuple[str, Integer], ...] = (
    ("home", PLACES),
    ("pet", ANIMALS),
    ("hobby", OBJECTS),
    ("language", np.array(LETTERS)),
)
_WAYS = (  # {0} entity, {1} its second token, {2} attribute, {3} value
    "the {2} of {0} {1} is {3} .",
    "{3} is the {2} of {0} {1} .",
    "{0} {1} has the {2} {3} .",
    "for {0} {1} the {2} is {3} .",
    "{2} of {0} {1} : {3} .",
    "now {0} {1} has {3} for {2} .",
)
_OF_BOSSES = tuple(way.replace("{3}", "{3} {4}") for way in _WAYS)  # a person's name and number
BOSS = "boss"
_SILENT = 0.125  # the share of entities that is never described, where that is asked
_QUESTIONS = ("the {2} of {0} {1}", "the {2} of the boss of {0} {1}")
_UPDATED_AGAIN = 0.3  # of the facts that a phase changes, those that the one before had changed; a third of them goes back


@dataclass(frozen=True)
class History:
    """What holds after each phase: `entities` with `attributes` each, one of `values` values; a pure function of its fields.

    `added`: the share of entities that each phase but the first describes for the first time. `updated`: the share of the facts known so
    far that it changes. Fact f is attribute f % attributes of entity f // attributes. `bosses`: the last attribute is a person, described
    in the first phase. `silent`: entities that no phase describes.
    """

    entities: int
    attributes: int
    values: int
    phases: int
    added: float
    updated: float
    world: str
    bosses: bool = False
    silent: int = 0

    @cached_property
    def value(self) -> Integer:
        """(phases, facts), the number of each fact's value after each phase; -1 before it was published."""
        return self._lived[0]

    @cached_property
    def published(self) -> Bool:
        """(phases, facts), what each phase publishes."""
        return self._lived[1]

    @property
    def _draws(self) -> Draws:
        return Draws(key("knowledge", self.world), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))

    @cached_property
    def _order(self) -> Integer:
        """(entities,), in the order in which they are described; those last that never are."""
        return self._draws.permutations("entities", self.entities)[0]

    @property
    def _first(self) -> int:
        """How many the first phase describes."""
        return self.entities - self.silent - round(self.added * self.entities) * (self.phases - 1)

    @cached_property
    def _lived(self) -> tuple[Integer, Bool]:
        draws, facts = self._draws, self.facts
        known, first = self._order, self._first  # in the order in which they are described
        later = round(self.added * self.entities)
        value = np.full((self.phases, facts), -1)
        published = np.zeros(value.shape, dtype=bool)
        begin = draws.integers("values", self.values, facts)[0]
        for phase in range(self.phases):
            described = known[:first] if phase == 0 else known[first + later * (phase - 1) : first + later * phase]
            new = (described[:, None] * self.attributes + np.arange(self.attributes)).ravel()
            if phase:
                value[phase] = value[phase - 1]
                changed_before = published[phase - 1] & (value[max(0, phase - 2)] >= 0) & (phase > 1)
                changed = self._chosen(draws, phase, value[phase] >= 0, changed_before)
                step = 1 + draws.integers(f"steps {phase}", self.values - 1, facts)[0]
                before = value[max(0, phase - 2), changed]
                again = published[phase - 1, changed] & (before >= 0) & (before != value[phase, changed])
                back = again & (np.cumsum(again) % 3 == 1)  # a third of those that change twice
                value[phase, changed] = np.where(back, before, (value[phase, changed] + step[changed]) % self.values)
                published[phase, changed] = True
            value[phase, new] = begin[new]
            published[phase, new] = True
        return value, published

    def _chosen(self, draws: Draws, phase: int, known: Bool, before: Bool) -> Integer:
        """Facts that a phase changes, of those `known`; some of them those that the phase `before` had changed."""
        count = round(self.updated * known.sum())
        order = draws.permutations(f"order {phase}", len(known))[0]
        twice = order[before[order]][: round(_UPDATED_AGAIN * count)]
        rest = order[(known & ~before)[order]]
        return np.concatenate([twice, rest[: count - len(twice)]])

    @cached_property
    def last(self) -> Integer:
        """(facts,), the phase that published each fact last; -1 where none did."""
        return np.where(self.published.any(axis=0), self.phases - 1 - self.published[::-1].argmax(axis=0), -1)

    @cached_property
    def asked(self) -> Bool:
        """(facts,), whether questions about it are trained: those of half of the entities."""
        half = np.zeros(self.entities, dtype=bool)
        half[self._draws.permutations("asked", self.entities)[0][: self.entities // 2]] = True
        return np.repeat(half, self.attributes)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its attributes."""
        plain = tuple(name for name, _ in ATTRIBUTES)
        return (*plain[: self.attributes - 1], BOSS) if self.bosses else plain[: self.attributes]

    @cached_property
    def boss(self) -> Integer:
        """(values,), the entities that the last attribute may name: no two of one name, all described in the first phase."""
        described = np.sort(self._order[: self._first])
        _, place = np.unique(described % len(PEOPLE), return_index=True)
        if len(place) < self.values:
            raise UserError(f"know: {self.values} people of different names must be there from the first phase on; give more entities")
        return described[place[: self.values]]

    @cached_property
    def words(self) -> Integer:
        """(attributes, values), the ids of the values of each attribute; of a person the name."""
        rows = [ids[: self.values] for _, ids in ATTRIBUTES[: len(self.names) - self.bosses]]
        return np.stack([*rows, *([PEOPLE[self.boss % len(PEOPLE)]] if self.bosses else [])])

    def legal(self, attribute: Integer) -> Integer:
        """(n, answers), the ids that may answer a question for `attribute` (n,): its values, and last, where that occurs, <unknown>."""
        words = self.words[attribute]
        return np.concatenate([words, np.full((len(words), 1), UNKNOWN)], axis=1) if self.silent else words

    @cached_property
    def commonest(self) -> Integer:
        """(attributes,), the number of each attribute's commonest value at the end."""
        final, attribute = self.value[-1], np.arange(self.facts) % self.attributes
        known = final >= 0
        return np.array([np.bincount(final[known & (attribute == a)], minlength=self.values).argmax() for a in range(self.attributes)])

    def previous(self, phase: int) -> Integer:
        """(facts,), the value that each had before it was published in `phase`; -1 where it had none."""
        return self.value[phase - 1] if phase else np.full(self.value.shape[1], -1)

    def tokens(self, fact: Integer, value: Integer) -> tuple[Integer, ...]:
        """The ids of entity (two), attribute, value and, where that is a person, its number of facts (n,) with the values `value` (n,).

        The value -1 is that it is unknown.
        """
        entity, attribute = fact // self.attributes, fact % self.attributes
        words = np.array([vocabulary().id(name) for name in self.names])
        said = np.where(value < 0, UNKNOWN, self.words[attribute, value])
        number = np.array(SYMBOLS)[self.boss[value] // len(PEOPLE)] if self.bosses else np.full(len(fact), PAD)
        return PEOPLE[entity % len(PEOPLE)], np.array(SYMBOLS)[entity // len(PEOPLE)], words[attribute], said, number

    def ways(self) -> Integer:
        """Templates of statements (n, K); the second half is for those that name a person."""
        return compiled(_WAYS + _OF_BOSSES if self.bosses else _WAYS)

    def is_boss(self, fact: Integer) -> Bool:
        """Whether each of these facts is who somebody's boss is."""
        return (fact % self.attributes == self.attributes - 1) & self.bosses

    # ---- cards: what a question is about. Card f is fact f; card facts + f asks for attribute f % attributes of the boss of its entity.

    @property
    def facts(self) -> int:
        """How many there are."""
        return self.entities * self.attributes

    def through_boss(self, phase: int) -> Integer:
        """The cards over two facts that can be answered after `phase`, of everybody whose boss is another one."""
        fact = np.arange(self.facts)
        number = self._boss_number(fact, phase)
        described = ~self.is_boss(fact) & (number >= 0) & (self.boss[number] != fact // self.attributes)
        return self.facts + fact[described]

    def second(self, card: Integer, phase: int) -> Integer:
        """(n,), of cards over two facts the fact that holds the answer after `phase`."""
        fact = card - self.facts
        return self.boss[self._boss_number(fact, phase)] * self.attributes + fact % self.attributes

    def first(self, card: Integer) -> Integer:
        """(n,), of cards over two facts the fact that says who the boss is."""
        return self._link(card - self.facts)

    def _link(self, fact: Integer) -> Integer:
        return fact // self.attributes * self.attributes + self.attributes - 1

    def _boss_number(self, fact: Integer, phase: int) -> Integer:
        return self.value[phase, self._link(fact)]

    def answer(self, card: Integer, phase: int) -> Integer:
        """(n,), the number of the value that answers each card after `phase`; -1: unknown."""
        if not self.bosses:
            return self.value[phase, card]
        held = card.copy()
        far = card >= self.facts
        held[far] = self.second(card[far], phase)
        return self.value[phase, held]


class News:
    """The `TextSource` of one phase under one seed: a document and a question in turn.

    Facts are dealt like cards, so that after n rounds each has been stated n times, in another order each round.
    """

    pad: int = PAD

    def __init__(self, history: History, phase: int, statements: int, seed: int) -> None:
        self._history, self._phase, self._statements, self._seed = history, phase, statements, seed
        self._facts = np.flatnonzero(history.published[phase])
        self._asked = self._cards()
        self._ways = history.ways()
        self.longest = max(3 + statements * self._ways.shape[1], question_size(history) + 3)

    def _cards(self) -> Integer:
        """What is asked: the facts of the phase, those over two of which one is of the phase, and those of people never described."""
        history, phase = self._history, self._phase
        cards = [self._facts[history.asked[self._facts]]]
        if history.bosses:
            far = history.through_boss(phase)
            news = history.published[phase, history.first(far)] | history.published[phase, history.second(far, phase)]
            cards.append(far[news & history.asked[far - history.facts]])
        if history.silent:
            cards.append(np.flatnonzero((history.last < 0) & history.asked))
        return np.concatenate(cards)

    def documents(self, exposures: int) -> int:
        """How many documents state each fact so often."""
        return -(-len(self._facts) * exposures // self._statements)

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        index = np.asarray(index, dtype=np.int64)
        tokens = np.full((len(index), self.longest), PAD, dtype=np.int64)
        mask = np.zeros(tokens.shape, dtype=bool)
        lengths = np.zeros(len(index), dtype=np.int64)
        for rows, write in ((np.flatnonzero(index % 2 == 0), self._documents), (np.flatnonzero(index % 2), self._questions)):
            if len(rows):
                part, scored, lengths[rows] = write(index[rows] // 2)
                tokens[rows, : part.shape[1]], mask[rows, : part.shape[1]] = part, scored
        return tokens, mask, lengths

    def _documents(self, number: Integer) -> tuple[Integer, Bool, Integer]:
        rows = len(number)
        fact = self._dealt("documents", self._facts, number[:, None] * self._statements + np.arange(self._statements))  # (n, S)
        draws = Draws(key("news", self._history.world, self._phase, self._seed), number, np.zeros_like(number))
        which = draws.integers("ways", len(_WAYS), self._statements)
        way = self._ways[which + len(_WAYS) * self._history.is_boss(fact)]  # (n, S, K)
        words = self._history.tokens(fact.ravel(), self._history.value[self._phase, fact.ravel()])
        said = filled(way.reshape(rows * self._statements, -1), words).reshape(rows, -1)
        head = np.tile([BOS, vocabulary().id("op:memorize")], (rows, 1))
        whole = np.concatenate([head, said], axis=1)
        order = np.argsort(whole == PAD, axis=1, kind="stable")
        whole = np.take_along_axis(whole, order, axis=1)
        length = (whole != PAD).sum(axis=1)
        whole = np.concatenate([whole, np.full((rows, 1), PAD)], axis=1)
        whole[np.arange(rows), length] = EOS
        scored = (whole != PAD) & (np.arange(whole.shape[1]) >= head.shape[1])
        return whole, scored, length + 1

    def _questions(self, number: Integer) -> tuple[Integer, Bool, Integer]:
        card = self._dealt("questions", self._asked, number[:, None])[:, 0] if len(self._asked) else np.zeros(0, dtype=np.int64)
        tokens, mask = questions(self._history, card, self._history.answer(card, self._phase))
        return tokens, mask, (tokens != PAD).sum(axis=1)

    def _dealt(self, purpose: str, facts: Integer, place: Integer) -> Integer:
        """The facts at `place` of a sequence of shuffles of all of them, one after another."""
        rounds, at = place // len(facts), place % len(facts)
        which, back = np.unique(rounds, return_inverse=True)
        draws = Draws(key("dealt", self._history.world, self._phase, self._seed), which, np.zeros_like(which))
        order = draws.permutations(purpose, len(facts))  # (rounds, facts)
        return facts[order[back.reshape(place.shape), at]]


def question_size(history: History) -> int:
    """Tokens of the longest question without the first, <ans>, the answer and <eos>."""
    return compiled(_questions(history)).shape[1] + 1


def _questions(history: History) -> tuple[str, ...]:
    return _QUESTIONS if history.bosses else _QUESTIONS[:1]


def questions(history: History, card: Integer, value: Integer) -> tuple[Integer, Bool]:
    """Questions about cards (n,) with the answers numbered `value` (n,): tokens (n, T) and loss mask (n, T), on the answer and <eos>."""
    rows, words = len(card), history.tokens(card % history.facts, value)
    asked = filled(compiled(_questions(history))[card // history.facts], words)
    ends = [np.full((rows, 1), token) for token in (BOS, vocabulary().id("op:ask"), ANS, EOS)]
    tokens = np.concatenate([ends[0], ends[1], asked, ends[2], words[3][:, None], ends[3]], axis=1)
    tokens = np.take_along_axis(tokens, np.argsort(tokens == PAD, axis=1, kind="stable"), axis=1)
    place = np.arange(tokens.shape[1]) - (tokens != PAD).sum(axis=1, keepdims=True)
    return tokens, (place == -1) | (place == -2)


def answered(history: History, policy: Predictor, card: Integer, value: Integer) -> tuple[Integer, Bool]:
    """The number of the value that a policy says to each card (n,), past the last for <unknown>; whether its free run is `value`."""
    tokens, mask = questions(history, card, value)
    logits, _ = policy.logits(tokens[:, :-1].copy(), policy.initial_state(len(tokens)))
    logits = np.asarray(logits)
    before = mask.argmax(axis=1) - 1  # the place of <ans>
    legal = history.legal(card % history.facts % history.attributes)
    said = np.take_along_axis(logits[np.arange(len(tokens)), before], legal, axis=1).argmax(axis=1)
    whole = ((logits.argmax(axis=2) == tokens[:, 1:]) | ~mask[:, 1:]).all(axis=1)
    return said, free_running_exact(policy, tokens, mask, whole, len(tokens))


class KnowledgeTask:
    """One phase of a history: its news to learn from, and questions about the facts that it published last.

    Only entities about which no question is ever trained are asked. `scale` runs from the best that can be had without knowing the news.
    """

    def __init__(self, history: History, phase: int, statements: int) -> None:
        self.name = f"news-{phase}"
        self.info = task_info()
        self._history, self._phase, self._statements = history, phase, statements
        self._fact = np.flatnonzero((history.last == phase) & ~history.asked)
        if not len(self._fact) or not (history.published[phase] & history.asked).any():
            raise UserError(f"know: phase {phase} publishes nothing that lasts; give more entities, or larger shares of added and updated")
        self._value, self._before = history.value[phase, self._fact], history.previous(phase)[self._fact]
        self.scale = (max(self.floors().values()), 1.0)
        if self.scale[0] >= 1.0:
            raise UserError(f"know: all answers of phase {phase} can be guessed; give more entities")

    @property
    def facts(self) -> int:
        """How many facts are asked."""
        return len(self._fact)

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """Documents and questions in turn, unbounded; with `shots`, the first `shots` of them."""
        return Text(News(self._history, self._phase, self._statements, seed), seed, count=shots)

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """1 where the likeliest value of the attribute is the fact's; the same questions for every seed.

        Facts: `exact`, free-running exact match over the whole vocabulary; `updated`, 1 where the phase changed it, 0 where it is new;
        `stale`, 1 where the answer is the value before, NaN where there was none; `returned`, 1 where an earlier value holds again.
        """
        said, exact = answered(self._history, policy, self._fact, self._value)
        updated = self._before >= 0
        facts = {
            "exact": exact,
            "updated": updated.astype(float),
            "stale": np.where(updated, said == self._before, np.nan),
            "returned": self._returned.astype(float),
        }
        return Episodes((said == self._value).astype(float), facts)

    @property
    def _returned(self) -> Bool:
        earlier = self._history.value[: max(0, self._phase - 1), self._fact]
        return (earlier == self._value).any(axis=0)

    def floors(self) -> dict[str, float]:
        """By name the score of what knows nothing of this phase's news.

        `majority`: each attribute's commonest value among all facts. `first value`: what was published first; of what is new, the
        commonest.
        """
        history = self._history
        attribute = np.arange(history.value.shape[1]) % history.attributes
        guess = history.commonest[attribute[self._fact]]
        first = np.where(self._before >= 0, history.value[history.published.argmax(axis=0)[self._fact], self._fact], guess)
        return {
            "uniform": 1 / history.values,
            "majority": float((guess == self._value).mean()),
            "first value": float((first == self._value).mean()),
        }

    def shown(self, count: int) -> list[str]:
        """The first `count` documents and questions of its news, what is scored in brackets."""
        return shown(News(self._history, self._phase, self._statements, 0), count)

    def sheet(self, seed: int) -> Sheet:
        """Each question behind all that was published, phase by phase, said once: for models that read instead of learning."""
        return asked_of_a_reader(self._history, self._fact, self._value)


def asked_of_a_reader(history: History, card: Integer, value: Integer) -> Sheet:
    """Cards (n,) and their answers, each behind all that was published, phase by phase, said once."""
    told: list[int] = []
    for phase, published in enumerate(history.published):
        fact = np.flatnonzero(published)
        way = history.ways()[len(_WAYS) * history.is_boss(fact)]
        told += filled(way, history.tokens(fact, history.value[phase, fact])).ravel().tolist()
    render, rows = vocabulary().render, []
    for number, text in enumerate(questions(history, card, value)[0].tolist()):
        answer = text.index(ANS)
        rows.append({"example": number, "prompt": render([*told, *text[2:answer]]), "answer": render([text[answer + 1]])})
    return Sheet("generation", rows)


def history(
    *,
    entities: int,
    attributes: int,
    values: int,
    phases: int,
    added: float,
    updated: float,
    validation: bool,
    bosses: bool = False,
    silent: bool = False,
) -> History:
    """The history of a stream; sizes that it cannot have are refused. `silent`: an eighth of the entities is never described."""
    most = len(PEOPLE) * len(SYMBOLS)
    if not 4 <= entities <= most:
        raise UserError(f"know: entities must be 4 to {most}, got {entities}")
    if not 1 <= attributes <= len(ATTRIBUTES):
        raise UserError(f"know: attributes must be 1 to {len(ATTRIBUTES)}, got {attributes}")
    fewest = min(len(ids) for _, ids in ATTRIBUTES[:attributes])
    if not 3 <= values <= fewest:
        raise UserError(f"know: values must be 3 to {fewest}, got {values}")
    if silent and added * (phases - 1) >= 1 - 2 * _SILENT:
        raise UserError(f"know: with the probe unknown added * (phases - 1) must be below {1 - 2 * _SILENT}, got {added * (phases - 1):g}")
    if phases < 1 or not 0 <= added < 1 or not 0 <= updated < 1 or added * (phases - 1) >= 1:
        raise UserError(
            "know: phases must be > 0, added and updated in [0, 1) and added * (phases - 1) below 1, "
            f"got phases {phases}, added {added}, updated {updated}"
        )
    world = "validation" if validation else "test"
    quiet = max(2, round(_SILENT * entities)) if silent else 0
    return History(entities, attributes + bosses, values, phases, added, updated, world, bosses, quiet)


def tasks(history: History, statements: int) -> Sequence[KnowledgeTask]:
    """One for each phase."""
    if statements < 1:
        raise UserError(f"know: statements must be > 0, got {statements}")
    return [KnowledgeTask(history, phase, statements) for phase in range(history.phases)]


def phase_units(history: History, phase: int, statements: int, exposures: int) -> int:
    """Examples of a phase in which each of its facts stands in `exposures` documents, a question for each document."""
    if exposures < 1:
        raise UserError(f"know: exposures must be > 0, got {exposures}")
    return 2 * News(history, phase, statements, 0).documents(exposures)
