"""A fact, noise, and a question about the fact far behind it: memorize, detect, reasoning, copy, reverse, by the segments between.

Bulatov, Kuratov, Burtsev 2023, arXiv:2304.11062 ("Scaling Transformer to 1M tokens"), section 4; spec memory.md 13.3 and language.md 5.4.
There facts are English sentences in articles; here they are tokens of the closed vocabulary in noise of the same tokens, so that a model
can learn the task from nothing. The curriculum (a gap after a longer one) is a stream over tasks of rising gap.

    memorize   <fact> a b c d  stands first                              answer a b c d
    detect     <fact> a b c d  stands at the start of a random segment   answer a b c d
    copy       <fact> and as many symbols as the question asks for (8), which stand first      answer: all of them
    reverse    the same                                                                         answer: all of them, the last one first
    reasoning  two facts "s <direction> of c", each at the start of a random segment, and the question "c <opposite direction>": answer s

copy and reverse are after Bulatov et al. 2022, arXiv:2207.06881, section 4.1, where the sequence alone fills the segments and copy asks for
it twice; here one segment holds it, and a memory must bring all of it to the segment of the question.

Text: `<bos> prompt <ans> answer <eos>`, where the prompt fills gap + 1 segments together with the two tokens that stand before it (<bos>,
and the learner's own first token), so that a model which cuts its input every `segment` tokens reads question and answer in a segment of
their own. A model with other segments can do the task as well.
Shape letters: R examples, P prompt, A answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clbench.errors import UserError

from ..levels import Kept
from .generation import Draft, Draws, Float, Integer, Paired
from .task import best_shortcut
from .vocabulary import SYMBOLS, vocabulary

_FACT = "<fact>"
_FLOOR_TOKENS = 1 << 17
IN_FRONT = 2  # tokens before the prompt: the learner's own first token and <bos>


@dataclass(frozen=True)
class Recollection(Paired):
    """`length` of the first `symbols` symbols behind a marker, in noise of the same symbols; the answer repeats them, or turns them round.

    `anywhere`: the fact begins a random one of the gap + 1 segments (detect) instead of the first.
    """

    name: str
    gap: int
    segment: int
    anywhere: bool
    length: int = 4
    symbols: int = 10
    backwards: bool = False

    @property
    def least_segment(self) -> int:
        """Tokens that the first segment needs."""
        return IN_FRONT + 1 + self.length

    @property
    def prompt_size(self) -> int:
        return (self.gap + 1) * self.segment - IN_FRONT

    @property
    def answer_size(self) -> int:
        return self.length

    @property
    def legal(self) -> Integer:
        return np.arange(SYMBOLS.start, SYMBOLS.start + self.symbols)

    def draw(self, draws: Draws) -> Draft:
        prompt = SYMBOLS.start + draws.integers("noise", self.symbols, self.prompt_size)  # (R, P)
        answer = SYMBOLS.start + draws.integers("fact", self.symbols, self.length)  # (R, A)
        fact = np.concatenate([np.full((len(draws), 1), vocabulary().id(_FACT)), answer], axis=1)
        put_at_segment(prompt, fact, segments(draws, "segment", self.gap + 1 if self.anywhere else 1), self.segment)
        answer = answer[:, ::-1] if self.backwards else answer
        return Draft.whole(prompt, answer, np.ones(answer.shape, dtype=bool))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`noise`: the commonest symbol of the prompt."""
        count = (draft.prompt[:, :, None] == self.legal).sum(axis=1)  # (R, symbols)
        return {"noise": (self.legal[count.argmax(axis=1)][:, None] == draft.answer).astype(float)}


@dataclass(frozen=True)
class Reasoning(Paired):
    """Two facts of four tokens, `<fact> s direction c`, about one place c and two different others; the question turns one of them round.

    "hallway east bathroom" (the hallway is east of the bathroom) and "bathroom west"? (what is the bathroom west of?): hallway. After
    task 4 of bAbI (Weston et al. 2015, arXiv:1502.05698).
    """

    name: str
    gap: int
    segment: int

    @property
    def least_segment(self) -> int:
        """Tokens that the first segment needs."""
        return IN_FRONT + 2 * 4

    @property
    def prompt_size(self) -> int:
        return (self.gap + 1) * self.segment - IN_FRONT

    @property
    def answer_size(self) -> int:
        return 3

    @property
    def legal(self) -> Integer:
        return _ids("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")

    def draw(self, draws: Draws) -> Draft:
        places, directions = self.legal, _ids("north", "south", "east", "west")  # opposites stand side by side
        prompt = SYMBOLS.start + draws.integers("noise", 10, self.prompt_size)  # (R, P)
        place = places[draws.choices("places", len(places), 3)]  # (R, 3): c and the two others
        direction = draws.choices("directions", len(directions), 2)  # (R, 2)
        where = np.concatenate([segments(draws, f"segment {n}", self.gap + 1) for n in range(2)], axis=1)  # (R, 2)
        marker = np.full(len(draws), vocabulary().id(_FACT))
        facts = [np.stack([marker, place[:, 1 + n], directions[direction[:, n]], place[:, 0]], axis=1) for n in range(2)]
        put_at_segment(prompt, facts[0], where[:, :1], self.segment)
        together = (where[:, 0] == where[:, 1]).astype(np.int64)
        put_at_segment(prompt, facts[1], where[:, 1:], self.segment, behind=together * facts[0].shape[1])
        asked = draws.integers("asked", 2, 1)  # (R, 1)
        opposite = directions[np.take_along_axis(direction, asked, axis=1)[:, 0] ^ 1]
        subject = np.take_along_axis(place[:, 1:], asked, axis=1)[:, 0]
        answer = np.stack([place[:, 0], opposite, subject], axis=1)
        return Draft.whole(prompt, answer, np.broadcast_to([False, False, True], answer.shape).copy())

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`either`: one of the two places that the facts put beside the one asked about."""
        named = (draft.prompt[:, :, None] == self.legal).any(axis=1)  # (R, places)
        other = named & (self.legal != draft.answer[:, :1])
        chance = (other & (self.legal == draft.answer[:, 2:])).sum(axis=1) / other.sum(axis=1)
        return {"either": np.repeat(chance[:, None], 3, axis=1)}


def segments(draws: Draws, purpose: str, count: int) -> Integer:
    """A random segment (R, 1) of `count`."""
    return draws.integers(purpose, count, 1)


def put_at_segment(prompt: Integer, fact: Integer, segment: Integer, length: int, behind: Integer | int = 0) -> None:
    """Overwrite `prompt` (R, P) by `fact` (R, F) at the first free place of `segment` (R, 1), or `behind` (R,) tokens after it."""
    first = np.maximum(segment * length - IN_FRONT, 0) + np.reshape(behind, (-1, 1))  # (R, 1)
    np.put_along_axis(prompt, first + np.arange(fact.shape[1]), fact, axis=1)


def _ids(*names: str) -> Integer:
    return np.array([vocabulary().id(name) for name in names])


QUESTIONS = ("memorize", "detect", "reasoning", "copy", "reverse")


def generator(question: str, gap: int, segment: int, length: int = 0) -> Recollection | Reasoning:
    """What draws `question` with `gap` whole segments of `segment` tokens between the first one and the question.

    `length`: symbols of a fact; 0: 4, and 8 for copy and reverse.
    """
    name = f"{question}-{gap}"
    if length < 0 or (length and question == "reasoning"):
        raise UserError(f"{question}: length must be at least 0, and 0 for reasoning, got {length}")
    length = length or (8 if question in ("copy", "reverse") else 4)
    made: Recollection | Reasoning
    if question == "reasoning":
        made = Reasoning(name, gap, segment)
    else:
        made = Recollection(name, gap, segment, anywhere=question == "detect", length=length, backwards=question == "reverse")
    if segment < made.least_segment:
        raise UserError(f"{question}: segment must be at least {made.least_segment} tokens to hold its facts, got {segment}")
    return made


@Kept
def floor(generator: Recollection | Reasoning) -> float:
    """The level of the best shortcut on fixed examples: guessing, or the task's own; symbols are uniform, no count of answers helps."""
    rows = min(512, max(32, _FLOOR_TOKENS // generator.prompt_size))
    return max(best_shortcut(generator, rows), 1 / len(generator.legal))
