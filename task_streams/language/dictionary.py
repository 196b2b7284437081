"""Definitions of keys and questions about them, in segments: what a memory of keys and values is for.

Tworkowski et al. 2023, arXiv:2307.03170, section 4.4 (dictionary lookup): definitions in one context, questions in the next. Wu et al.
2022, arXiv:2203.08913, have no such task; the form in which their model can learn it mixes in questions that the open segment answers.
Spec: memory.md 13.4 and 13.5.

    lookup   segments of definitions, then one of questions                                             (`local` 0)
    recall   every segment holds definitions and questions, a share `local` of them about its own definitions, the others about
             any before; in the last segment of a probe (`far`) all are about earlier ones, and only these are scored

A definition is `<key> k v`, a question `<query> k` with the answer v. A document defines no key twice, and of consecutive documents as
many as there are keys for share none, so that a batch of them can be read as one memory. Segments are `segment` tokens long, counted
from the learner's own first token, and filled up with `<sep>`, so that a model which cuts there reads no segment torn.
Shape letters: R examples, S segments, n definitions of a segment, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clbench.errors import UserError

from ..levels import Kept
from .distance import IN_FRONT
from .generation import Bool, Draft, Draws, Float, Integer, Paired
from .task import best_shortcut
from .vocabulary import KEY, QUERY, SEP, SYMBOLS, WORDS

_FLOOR_TOKENS = 1 << 17


@dataclass(frozen=True)
class Dictionary(Paired):
    """`segments` of memory in front of the last question. With `local` 0 they hold definitions only and a segment of questions follows."""

    name: str
    segments: int
    local: float = 0.0
    far: bool = False
    definitions: int = 8  # of a segment
    questions: int = 8
    keys: int = 256
    values: int = 16

    @property
    def segment(self) -> int:
        """Tokens of a segment."""
        return 4 + 3 * (self.definitions + (self.questions if self.local else 0))

    @property
    def defined(self) -> int:
        """Definitions of a document."""
        return self.definitions * (self.segments + (1 if self.local else 0))

    @property
    def prompt_size(self) -> int:
        return 3 * self.definitions if self.local else self.segments * self.segment - IN_FRONT

    @property
    def answer_size(self) -> int:
        if not self.local:
            return 3 * self.questions
        return (self.segments + 1) * self.segment - IN_FRONT - self.prompt_size - 2  # <ans> and <eos>

    @property
    def legal(self) -> Integer:
        return np.arange(SYMBOLS.start, SYMBOLS.start + self.values)

    def draw(self, draws: Draws) -> Draft:
        groups = max(1, self.keys // self.defined)  # documents of which no two share a key
        order = draws.of_groups(groups).permutations("keys", self.keys)  # (R, keys)
        own = (draws.index % groups)[:, None] * self.defined + np.arange(self.defined)
        key = WORDS.start + np.take_along_axis(order, own, axis=1)  # (R, S n)
        value = SYMBOLS.start + draws.integers("values", self.values, self.defined)
        text, scored = self._recall(draws, key, value) if self.local else self._lookup(draws, key, value)
        prompt, answer = text[:, : self.prompt_size], text[:, self.prompt_size :]
        return Draft.whole(prompt, answer, np.broadcast_to(scored[self.prompt_size :], answer.shape).copy())

    def _lookup(self, draws: Draws, key: Integer, value: Integer) -> tuple[Integer, Bool]:
        text = np.full((len(key), self.prompt_size + self.answer_size), SEP)
        for s in range(self.segments):
            own = slice(s * self.definitions, (s + 1) * self.definitions)
            _write(text, s * self.segment + 4 - IN_FRONT, KEY, key[:, own], value[:, own])
        asked = draws.integers("asked", self.defined, self.questions)
        places = _write(text, self.prompt_size, QUERY, _taken(key, asked), _taken(value, asked))
        scored = np.zeros(text.shape[1], dtype=bool)
        scored[places] = True
        return text, scored

    def _recall(self, draws: Draws, key: Integer, value: Integer) -> tuple[Integer, Bool]:
        n, last = self.definitions, self.segments
        text = np.full((len(key), self.prompt_size + self.answer_size), SEP)
        scored = np.zeros(text.shape[1], dtype=bool)
        near = draws.uniform("near", (last + 1) * self.questions) < self.local
        for s in range(last + 1):
            # in the first segment <ans> stands behind the definitions, and the two tokens in front of it take the filling's place
            begin = 0 if s == 0 else s * self.segment - IN_FRONT - 1 + 3
            own = slice(s * n, (s + 1) * n)
            _write(text, begin, KEY, key[:, own], value[:, own])
            inside = s * n + draws.integers(f"inside {s}", n, self.questions)
            before = draws.integers(f"before {s}", max(1, s * n), self.questions)
            local = near[:, s * self.questions : (s + 1) * self.questions] & (not self.far or s < last) if s else True
            asked = np.where(local, inside, before)
            places = _write(text, begin + 3 * n, QUERY, _taken(key, asked), _taken(value, asked))
            scored[places] = not self.far or s == last
        return text, scored

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`shown`: the value that the document's definitions have most often."""
        text = np.concatenate([draft.prompt, draft.answer], axis=1)
        defined = np.zeros(text.shape, dtype=bool)
        defined[:, 2:] = text[:, :-2] == KEY
        count = ((text[:, :, None] == self.legal) & defined[:, :, None]).sum(axis=1)
        return {"shown": (self.legal[count.argmax(axis=1)][:, None] == draft.answer).astype(float)}


def _write(text: Integer, begin: int, marker: int, key: Integer, value: Integer) -> Integer:
    """Put `<marker> key value` for key and value (R, n) into text (R, T) at `begin`; returns the values' places (n,)."""
    place = begin + 3 * np.arange(key.shape[1])
    text[:, place], text[:, place + 1], text[:, place + 2] = marker, key, value
    return place + 2


def _taken(rows: Integer, index: Integer) -> Integer:
    return np.take_along_axis(rows, index, axis=1)


def generator(segments: int, *, local: float, far: bool, definitions: int, questions: int) -> Dictionary:
    """`recall` or `lookup` with `segments` segments of memory, named so that other options are other tasks."""
    kind = "recall" if local else "lookup"
    made = Dictionary(f"{kind}-{segments}{'-far' if far else ''}", segments, local, far, definitions, questions)
    if segments < 1 or definitions < 1 or questions < 1 or not 0 <= local < 1:
        raise UserError(
            "dictionary: segments, definitions and questions must be at least 1 and local in [0, 1), "
            f"got {segments}, {definitions}, {questions}, {local}"
        )
    if made.defined > made.keys:
        raise UserError(f"dictionary: {segments} segments define {made.defined} keys, and there are {made.keys}; take fewer")
    return made


@Kept
def floor(generator: Dictionary) -> float:
    """The level of the best shortcut on fixed examples: guessing, or the document's commonest value."""
    rows = min(512, max(32, _FLOOR_TOKENS // generator.longest_pair))
    return max(best_shortcut(generator, rows), 1 / len(generator.legal))
