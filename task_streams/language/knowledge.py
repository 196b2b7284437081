"""Facts that are published, changed and changed back: what is known must be brought up to date, and what did not change must be kept.

    <bos> op:memorize the home of Mary is attic . cow is the pet of John . .. <eos>        a document: every token is to be predicted
    <bos> op:ask the home of Mary <ans> attic <eos>                                    a question: only the answer is

Phase 0 publishes most facts, each later phase a diff: facts that are new, others that change, and nothing of the rest. Documents and
questions are different examples, so that only weights or a memory that lasts can answer (regime across). A fact stands in `exposures`
documents of its phase, in one of six ways each time. Questions are trained about half of the entities; the other half is only scored, so
that an answer shows that a document was read. Column p holds the facts last published in phase p: its score at the end of phase p is how
well news is taken up, and what it loses later is forgetting, because nothing of it becomes wrong.
Source: spec language.md 3.6, after CKL (Jang et al. 2022, arXiv:2110.03215). Departures: documents have one number of statements, each fact
of a phase stands in equally many; nothing is asked about entities that were never described, nor about two facts at once.
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
from .vocabulary import ANS, BOS, EOS, LETTERS, PAD, SYMBOLS, vocabulary
from .world import ANIMALS, OBJECTS, PEOPLE, PLACES, compiled, filled

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
_QUESTION = "the {2} of {0} {1}"
_UPDATED_AGAIN = 0.3  # of the facts that a phase changes, those that the one before had changed; a third of them goes back


@dataclass(frozen=True)
class History:
    """What holds after each phase: `entities` with `attributes` each, one of `values` values; a pure function of its fields.

    `added`: the share of entities that each phase but the first describes for the first time. `updated`: the share of the facts known so
    far that it changes. Fact f is attribute f % attributes of entity f // attributes.
    """

    entities: int
    attributes: int
    values: int
    phases: int
    added: float
    updated: float
    world: str

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
    def _lived(self) -> tuple[Integer, Bool]:
        draws, facts = self._draws, self.entities * self.attributes
        known = draws.permutations("entities", self.entities)[0]  # in the order in which they are described
        later = round(self.added * self.entities)
        first = self.entities - later * (self.phases - 1)
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
        """(facts,), the phase that published each fact last."""
        return self.phases - 1 - self.published[::-1].argmax(axis=0)

    @cached_property
    def asked(self) -> Bool:
        """(facts,), whether questions about it are trained: those of half of the entities."""
        half = np.zeros(self.entities, dtype=bool)
        half[self._draws.permutations("asked", self.entities)[0][: self.entities // 2]] = True
        return np.repeat(half, self.attributes)

    @cached_property
    def words(self) -> Integer:
        """(attributes, values), the ids of the values of each attribute."""
        return np.stack([ids[: self.values] for _, ids in ATTRIBUTES[: self.attributes]])

    def previous(self, phase: int) -> Integer:
        """(facts,), the value that each had before it was published in `phase`; -1 where it had none."""
        return self.value[phase - 1] if phase else np.full(self.value.shape[1], -1)

    def tokens(self, fact: Integer, value: Integer) -> tuple[Integer, Integer, Integer, Integer]:
        """The ids of entity (two), attribute and value of facts (n,) with the values numbered `value` (n,)."""
        entity, attribute = fact // self.attributes, fact % self.attributes
        words = np.array([vocabulary().id(name) for name, _ in ATTRIBUTES])
        return PEOPLE[entity % len(PEOPLE)], np.array(SYMBOLS)[entity // len(PEOPLE)], words[attribute], self.words[attribute, value]


class News:
    """The `TextSource` of one phase under one seed: a document and a question in turn.

    Facts are dealt like cards, so that after n rounds each has been stated n times, in another order each round.
    """

    pad: int = PAD

    def __init__(self, history: History, phase: int, statements: int, seed: int) -> None:
        self._history, self._phase, self._statements, self._seed = history, phase, statements, seed
        self._facts = np.flatnonzero(history.published[phase])
        self._asked = self._facts[history.asked[self._facts]]
        self.longest = max(3 + statements * compiled(_WAYS).shape[1], question_size() + 3)

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
        ways = compiled(_WAYS)
        draws = Draws(key("news", self._history.world, self._phase, self._seed), number, np.zeros_like(number))
        way = ways[draws.integers("ways", len(ways), self._statements)]  # (n, S, K)
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
        fact = self._dealt("questions", self._asked, number[:, None])[:, 0] if len(self._asked) else np.zeros(0, dtype=np.int64)
        tokens, mask = questions(self._history, fact, self._history.value[self._phase, fact])
        return tokens, mask, np.full(len(tokens), tokens.shape[1])

    def _dealt(self, purpose: str, facts: Integer, place: Integer) -> Integer:
        """The facts at `place` of a sequence of shuffles of all of them, one after another."""
        rounds, at = place // len(facts), place % len(facts)
        which, back = np.unique(rounds, return_inverse=True)
        draws = Draws(key("dealt", self._history.world, self._phase, self._seed), which, np.zeros_like(which))
        order = draws.permutations(purpose, len(facts))  # (rounds, facts)
        return facts[order[back.reshape(place.shape), at]]


def question_size() -> int:
    """Tokens of a question without the first, <ans>, the answer and <eos>."""
    return compiled((_QUESTION,)).shape[1] + 1


def questions(history: History, fact: Integer, value: Integer) -> tuple[Integer, Bool]:
    """Questions about facts (n,) and their answers: tokens (n, T) and loss mask (n, T), on the answer and <eos>."""
    rows, words = len(fact), history.tokens(fact, value)
    asked = filled(np.repeat(compiled((_QUESTION,)), rows, axis=0), words)
    ends = [np.full((rows, 1), token) for token in (BOS, vocabulary().id("op:ask"), ANS, EOS)]
    tokens = np.concatenate([ends[0], ends[1], asked, ends[2], words[3][:, None], ends[3]], axis=1)
    mask = np.zeros(tokens.shape, dtype=bool)
    mask[:, -2:] = True
    return tokens, mask


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
        tokens, mask = questions(self._history, self._fact, self._value)
        logits, _ = policy.logits(tokens[:, :-1].copy(), policy.initial_state(len(tokens)))
        logits = np.asarray(logits)
        at = logits[:, -2]  # of what follows <ans>
        legal = self._history.words[self._fact % self._history.attributes]  # (n, values)
        said = np.take_along_axis(at, legal, axis=1).argmax(axis=1)
        whole = ((logits.argmax(axis=2) == tokens[:, 1:]) | ~mask[:, 1:]).all(axis=1)
        updated = self._before >= 0
        facts = {
            "exact": free_running_exact(policy, tokens, mask, whole, len(tokens)),
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
        final = history.value[-1]
        common = np.array([np.bincount(final[attribute == a], minlength=history.values).argmax() for a in range(history.attributes)])
        guess = common[attribute[self._fact]]
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
        tokens, _ = questions(self._history, self._fact, self._value)
        told: list[int] = []
        for phase, published in enumerate(self._history.published):
            fact = np.flatnonzero(published)
            words = self._history.tokens(fact, self._history.value[phase, fact])
            told += filled(np.repeat(compiled(_WAYS[:1]), len(fact), axis=0), words).ravel().tolist()
        rows = [
            {"example": number, "prompt": vocabulary().render([*told, *text[2:-3]]), "answer": vocabulary().render([text[-2]])}
            for number, text in enumerate(tokens.tolist())
        ]
        return Sheet("generation", rows)


def history(*, entities: int, attributes: int, values: int, phases: int, added: float, updated: float, validation: bool) -> History:
    """The history of a stream; sizes that it cannot have are refused."""
    most = len(PEOPLE) * len(SYMBOLS)
    if not 4 <= entities <= most:
        raise UserError(f"know: entities must be 4 to {most}, got {entities}")
    if not 1 <= attributes <= len(ATTRIBUTES):
        raise UserError(f"know: attributes must be 1 to {len(ATTRIBUTES)}, got {attributes}")
    fewest = min(len(ids) for _, ids in ATTRIBUTES[:attributes])
    if not 3 <= values <= fewest:
        raise UserError(f"know: values must be 3 to {fewest}, got {values}")
    if phases < 1 or not 0 <= added < 1 or not 0 <= updated < 1 or added * (phases - 1) >= 1:
        raise UserError(
            "know: phases must be > 0, added and updated in [0, 1) and added * (phases - 1) below 1, "
            f"got phases {phases}, added {added}, updated {updated}"
        )
    return History(entities, attributes, values, phases, added, updated, "validation" if validation else "test")


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
