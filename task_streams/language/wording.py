"""The words that generated texts share: names of people, places and things, sentences about nothing, templates filled with them.

Shape letters: R rows, K tokens, n templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from .generation import Integer
from .vocabulary import PAD, vocabulary


def named(first: str, last: str) -> Integer:
    """The ids from one name of the vocabulary to another."""
    words = vocabulary()
    return np.arange(words.id(first), words.id(last) + 1)


PEOPLE, PLACES, OBJECTS, ANIMALS = named("Mary", "Tessa"), named("bathroom", "city"), named("apple", "phone"), named("cat", "cow")
DIRECTIONS = np.array([vocabulary().id(name) for name in ("north", "east", "south", "west")])  # the opposite stands two further on
YES_NO = np.array([vocabulary().id("yes"), vocabulary().id("no")])
STOP = vocabulary().id(".")
FILLER = np.concatenate([named("red", "gold"), named("today", "summer"), named("big", "full")])  # nothing of the world
SENTENCE = 8  # tokens of a filler sentence


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
