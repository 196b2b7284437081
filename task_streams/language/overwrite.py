"""Keys that are bound and bound again, and the question what each stands for now: a memory that only adds gives the old value as well.

Spec memory.md 13.8 (P-OVR); associative retrieval with rewriting after Rodkin et al. 2024, arXiv:2407.04841, section 3. Departures from
`last-write` (binding.py): every key is asked, so that what stays is scored too; a key is bound again once at most; first and second
bindings are mixed, and none of them is among the first two or the last two of a text. With all second ones at the end, and with ends that
show their place to a convolution, one layer of linear attention answered 0.72 and 0.69 of the keys bound twice instead of 0.54.

    overwrite           all keys are asked
    overwrite-again     those bound twice: a memory that only adds has two values for each, and half of the answers
    overwrite-kept      those bound once

Text: `<bos> key value ... <ans> key value ... <eos>`; in the answer the keys are given and the values scored.
Shape letters: R examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clbench.errors import UserError

from ..levels import Kept
from .algorithms import alphabet, counts
from .binding import alternating, asking, on_scored
from .generation import Draft, Draws, Float, Integer, Paired
from .task import best_shortcut

_SHIELD = 2  # bindings at either end of a text that are of keys bound once
ASKED = {"overwrite": "all", "overwrite-again": "again", "overwrite-kept": "kept"}


@dataclass(frozen=True)
class Overwrite(Paired):
    """Every one of `keys` keys is bound to one of `values` values, `again` of them twice; each key asked stands for its last value."""

    name: str
    keys: int
    again: int
    values: int

    @property
    def _asked(self) -> slice:
        """Which are asked of the keys in an order that has those bound again in front."""
        return {"all": slice(None), "again": slice(self.again), "kept": slice(self.again, None)}[ASKED[self.name]]

    @property
    def prompt_size(self) -> int:
        return 2 * (self.keys + self.again)

    @property
    def answer_size(self) -> int:
        return 2 * len(range(self.keys)[self._asked])

    @property
    def legal(self) -> Integer:
        return alphabet(self.values, start=self.keys)

    def draw(self, draws: Draws) -> Draft:
        bindings = self.keys + self.again
        key = alphabet(self.keys)[draws.permutations("keys", self.keys)]  # (R, keys), those bound again in front
        value = self.legal[draws.integers("values", self.values, bindings)]  # (R, bindings)
        early, late, rest = np.split(np.arange(self.again, self.keys), [_SHIELD, 2 * _SHIELD])
        middle = np.concatenate([np.arange(self.again), np.arange(self.again), rest])
        middle = middle[draws.permutations("order", len(middle))]
        ends = np.tile([*early, *late], (len(draws), 1))
        which = np.concatenate([ends[:, :_SHIELD], middle, ends[:, _SHIELD:]], axis=1)  # (R, bindings)
        last = bindings - 1 - (which[:, None, ::-1] == np.arange(self.keys)[:, None]).argmax(axis=2)  # (R, keys)
        bound, latest = np.take_along_axis(key, which, axis=1), np.take_along_axis(value, last, axis=1)
        key, latest = key[:, self._asked], latest[:, self._asked]
        order = draws.permutations("asked", key.shape[1])
        return asking(alternating(bound, value), np.take_along_axis(key, order, axis=1), np.take_along_axis(latest, order, axis=1))

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """`commonest`: the commonest value of the prompt. Of keys bound twice also `either`: one of the two."""
        value, right = draft.prompt[:, 1::2], draft.answer[:, 1::2]
        found = {"commonest": on_scored(draft, counts(value).argmax(axis=1)[:, None] == right)}
        if ASKED[self.name] == "again":
            of_key = draft.prompt[:, None, ::2] == draft.answer[:, ::2, None]  # (R, asked, bindings)
            hit = of_key & (value[:, None] == right[:, :, None])
            found["either"] = on_scored(draft, hit.sum(axis=2) / of_key.sum(axis=2))
        return found


def generator(name: str, keys: int, again: int, values: int) -> Overwrite:
    """What draws the task `name`; sizes that leave nothing to ask are refused."""
    if not 0 < again < keys - 2 * _SHIELD or values < 2 or keys + values > 64:
        raise UserError(
            f"overwrite: again must lie between 0 and keys - {2 * _SHIELD}, "
            f"values must be at least 2, and keys and values at most 64 together, got keys {keys}, again {again}, values {values}"
        )
    return Overwrite(name, keys, again, values)


@Kept
def floor(generator: Overwrite) -> float:
    """The level of the best shortcut on fixed examples. Remembering the first value is none: it is what overwriting is measured against."""
    return best_shortcut(generator, 512)
