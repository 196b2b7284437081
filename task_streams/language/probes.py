"""What is asked beside the news of a history and trained in no phase of its own: over two facts, and of people nobody described.

    two-hop     the home of the boss of Mary <ans> cellar      both facts were read, in documents that need not be of one phase
    unknown     the home of John <ans> <unknown>               no document speaks of John

Questions like these are among those of every phase, about the half of the entities that questions are trained on; here stand those about
the other half. What is right is what holds at the end of the history, so that a score between two phases is of what is known by then.
Source: spec language.md 3.6 (HOP2, NULL). Departures: the second fact is any attribute of the boss, not the boss of the boss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clbench.errors import UserError, unknown_name
from clbench.experience import Text
from clbench.interfaces import Episodes, Predictor

from .export import Sheet
from .knowledge import History, News, answered, asked_of_a_reader, questions
from .task import bracketed, task_info

TWO_HOP, UNKNOWN = "two-hop", "unknown"
PROBES = (TWO_HOP, UNKNOWN)


class Probe:
    """Questions that no phase trains, about entities on which no question is trained.

    Of `two-hop` the floor is who always says the attribute's commonest value. Of `unknown` it is 0: who says that of everything scores 1
    here and nothing anywhere else.
    """

    def __init__(self, history: History, kind: str, statements: int) -> None:
        self.name = kind
        self.info = task_info()
        self._history, self._statements, last = history, statements, history.phases - 1
        if kind == TWO_HOP:
            cards = history.through_boss(last)
            self._card = cards[~history.asked[cards - history.facts]]
        else:
            self._card = np.flatnonzero((history.last < 0) & ~history.asked)
        self._value = history.answer(self._card, last)
        self._kind = kind
        trained = history.asked[history.last < 0]
        if not len(self._card) or (kind == UNKNOWN and not trained.any()) or self.floors()["majority"] >= 1.0:
            raise UserError(f"know: nothing is left that the probe '{kind}' could ask; give more entities")
        self.scale = (max(self.floors().values()), 1.0)

    @property
    def facts(self) -> int:
        """How many questions there are."""
        return len(self._card)

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """News of the last phase, which has such questions among its own."""
        return Text(News(self._history, self._history.phases - 1, self._statements, seed), seed, count=shots)

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """1 where the likeliest of all answers the attribute can have is right; the same questions for every seed.

        Facts: `exact`, free-running exact match over the whole vocabulary; `updated` (two-hop), 1 where a later phase than the first
        published one of the two facts.
        """
        said, exact = answered(self._history, policy, self._card, self._value)
        right = np.where(self._value < 0, said == self._history.values, said == self._value)
        if self._kind == UNKNOWN:
            return Episodes(right.astype(float), {"exact": exact})
        last = self._history.last
        facts = (self._history.first(self._card), self._history.second(self._card, self._history.phases - 1))
        return Episodes(
            right.astype(float), {"exact": exact, "updated": np.maximum(*(last[fact] for fact in facts)).clip(0, 1).astype(float)}
        )

    def floors(self) -> dict[str, float]:
        """By name the score of what knows no document."""
        if self._kind == UNKNOWN:
            return {"majority": 0.0}
        guess = self._history.commonest[self._card % self._history.facts % self._history.attributes]
        return {"uniform": 1 / self._history.values, "majority": float((guess == self._value).mean())}

    def shown(self, count: int) -> list[str]:
        """The first `count` questions, what is scored in brackets."""
        tokens, mask = questions(self._history, self._card[:count], self._value[:count])
        return [bracketed(text, scored) for text, scored in zip(tokens, mask, strict=True)]

    def sheet(self, seed: int) -> Sheet:
        """Each question behind all that was published."""
        return asked_of_a_reader(self._history, self._card, self._value)


def probe_tasks(history: History, kinds: Sequence[str], statements: int) -> list[Probe]:
    """One for each of `kinds`."""
    return [Probe(history, kind, statements) for kind in kinds]


def check_probes(kinds: Sequence[str]) -> None:
    """Refuse names of probes that there are not, and a name twice."""
    for kind in kinds:
        if kind not in PROBES:
            raise unknown_name("probe", kind, PROBES, "task_streams/language/probes.py")
    if len(set(kinds)) != len(kinds):
        raise UserError(f"know: each probe at most once, got {', '.join(kinds)}")
