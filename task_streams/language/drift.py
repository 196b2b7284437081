"""Symbols by decreasing frequency in a text whose distribution drifts, by the length of the text: counts of all of it must be kept.

Martins, Marinho, Martins 2022 (∞-former), arXiv:2109.00301, section 4.1; deep-spin/infinite-former `sorting/generate_data.py`; spec
language.md 5.3 and memory.md 13.6. Law and target are those of `FrequencySort`, all symbols are listed, and with up to 8 symbols all counts
differ, so that the target is unique. Scored as the paper's code scores: the symbols listed so far are visible. Counting the last 64 of 512
tokens of 8 symbols then gives 0.52 and the last 128 give 0.57, where blind listing gives 0.26 and 0.31 (chance: 0.34 and 0.125).
"""

from __future__ import annotations

from clbench.errors import UserError

from ..levels import Kept
from .algorithms import FrequencySort
from .task import best_shortcut
from .vocabulary import SYMBOLS

_FLOOR_TOKENS = 1 << 20


def generator(length: int, symbols: int) -> FrequencySort:
    """What draws texts of `length` tokens over `symbols` symbols."""
    if not 2 <= symbols <= len(SYMBOLS):
        raise UserError(f"drift: symbols must be 2 to {len(SYMBOLS)}, got {symbols}")
    if length < symbols**2:
        raise UserError(f"drift: a text must have at least symbols² = {symbols**2} tokens, got {length}")
    return FrequencySort(symbols, length, listed=symbols, name=f"drift-{length}")


@Kept
def floor(generator: FrequencySort) -> float:
    """The level of the best shortcut on fixed examples: any symbol not yet listed, or the commonest such one in the last quarter."""
    rows = min(512, max(64, _FLOOR_TOKENS // generator.prompt_size))
    return best_shortcut(generator, rows)
