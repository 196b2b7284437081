"""The algorithmic stream (ALG): which tasks, at which sizes, with how many examples. Source: spec 3.2.

Sizes where this departs from the table are smaller alphabets at `paper` (one vocabulary of 512 holds them all) and the changes that
`binding.py` names. Floors are frozen: a change of them is a new version of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clbench.errors import unknown_name

from . import algorithms
from .algorithms import CountSymbol, DropRepeats, FrequencySort, MaxSymbol, Rearrangement, Sort
from .binding import Dictionary, LastWrite, Recall, VariableChase
from .task import Generator, TextTask, announced


def _strings(low: int, high: int, symbols: int) -> list[Generator]:
    """The tasks that only move the tokens of a string, at one size."""
    return [
        Rearrangement("copy", algorithms.copied, low, high, symbols),
        Rearrangement("reverse", algorithms.reversed_, low, high, symbols),
        Rearrangement("shift-left", algorithms.shifted_left, low, high, symbols),
    ]


def generators(profile: str) -> dict[str, Generator]:
    """By name every task of `profile` at its size."""
    table: dict[str, list[Generator]] = {
        "smoke": [
            *_strings(4, 8, 16),
            Recall(pairs=6, queries=4, keys=6, values=6),
            Sort(8, 10, 32),
            FrequencySort(symbols=6, length=40, listed=4),
            LastWrite(keys=4, overwrites=4, queries=2, key_symbols=8, values=8),
            Dictionary(firsts=2, seconds=3, half=1, queries=3, key_symbols=8, values=8),
            VariableChase(chains=3, hops=2, queries=2, values=8, noise=0),
            Rearrangement("swap-ends", algorithms.ends_swapped, 3, 5, 16),
            Rearrangement("duplicate-each", algorithms.duplicated, 26, 30, 64, repeats=2),
            DropRepeats(4, 6, 3, 16),
            CountSymbol(4, 8, 4),
            MaxSymbol(4, 8, 16),
        ],
        "standard": [
            *_strings(24, 48, 16),
            Recall(pairs=16, queries=12, keys=32, values=32),
            Sort(16, 16, 64),
            FrequencySort(symbols=8, length=512, listed=5),
            LastWrite(keys=16, overwrites=32, queries=8, key_symbols=32, values=32),
            Dictionary(firsts=4, seconds=6, half=2, queries=12, key_symbols=32, values=32),
            VariableChase(chains=4, hops=4, queries=2, values=32, noise=256),
            Rearrangement("swap-ends", algorithms.ends_swapped, 3, 5, 64),
            Rearrangement("duplicate-each", algorithms.duplicated, 24, 48, 64, repeats=2),
            DropRepeats(16, 32, 3, 64),
            CountSymbol(24, 48, 16),
            MaxSymbol(24, 48, 64),
        ],
        "paper": [
            *_strings(120, 360, 16),
            Recall(pairs=64, queries=48, keys=128, values=128),
            Sort(64, 64, 256),
            FrequencySort(symbols=20, length=4000, listed=14),
            LastWrite(keys=64, overwrites=256, queries=32, key_symbols=128, values=128),
            Dictionary(firsts=8, seconds=12, half=2, queries=48, key_symbols=64, values=64),
            VariableChase(chains=2, hops=8, queries=1, values=64, noise=4000),
            Rearrangement("swap-ends", algorithms.ends_swapped, 3, 5, 64),
            Rearrangement("duplicate-each", algorithms.duplicated, 120, 240, 64, repeats=2),
            DropRepeats(64, 128, 3, 64),
            CountSymbol(120, 240, 64),
            MaxSymbol(120, 240, 256),
        ],
    }
    return {generator.name: generator for generator in table[profile]}


STREAM: Mapping[str, tuple[str, ...]] = {
    "smoke": ("recall", "reverse", "sort", "freq-sort"),
    "standard": ("copy", "reverse", "recall", "sort", "freq-sort", "last-write", "dictionary", "variable-chase"),
    "paper": ("copy", "reverse", "recall", "sort", "freq-sort", "last-write", "dictionary", "variable-chase"),
}
HELD_OUT: Mapping[str, tuple[str, ...]] = {
    "smoke": ("max-symbol", "drop-repeats"),
    "standard": ("shift-left", "swap-ends", "duplicate-each", "drop-repeats", "count-symbol", "max-symbol"),
    "paper": ("shift-left", "swap-ends", "duplicate-each", "drop-repeats", "count-symbol", "max-symbol"),
}
FLOORS: Mapping[str, Mapping[str, float]] = {
    "smoke": {
        "copy": 0.4833,  # bag
        "reverse": 0.4861,  # bag
        "shift-left": 0.4851,  # bag
        "recall": 0.2449,  # recent
        "sort": 0.3153,  # bag
        "freq-sort": 0.4938,  # window
        "last-write": 0.4934,  # any write
        "dictionary": 0.5638,  # second half
        "variable-chase": 0.4167,  # unused
        "swap-ends": 0.5717,  # bag
        "duplicate-each": 0.5946,  # repeat
        "drop-repeats": 0.4507,  # next
        "count-symbol": 0.3799,  # even
        "max-symbol": 0.3179,  # majority
    },
    "standard": {
        "copy": 0.2356,  # bag
        "reverse": 0.2361,  # bag
        "shift-left": 0.2354,  # bag
        "recall": 0.1084,  # recent
        "sort": 0.2379,  # majority by answer before
        "freq-sort": 0.4537,  # window
        "last-write": 0.3629,  # any write
        "dictionary": 0.2726,  # second half
        "variable-chase": 0.2917,  # unused
        "swap-ends": 0.5415,  # bag
        "duplicate-each": 0.5841,  # repeat
        "drop-repeats": 0.3205,  # next
        "count-symbol": 0.2710,  # even
        "max-symbol": 0.4287,  # majority
    },
    "paper": {
        "copy": 0.1281,  # bag
        "reverse": 0.1275,  # bag
        "shift-left": 0.1280,  # bag
        "recall": 0.0287,  # recent
        "sort": 0.2279,  # majority by answer before
        "freq-sort": 0.2760,  # window
        "last-write": 0.2373,  # any write
        "dictionary": 0.1383,  # second half
        "variable-chase": 0.5000,  # unused
        "swap-ends": 0.5415,  # bag
        "duplicate-each": 0.5382,  # repeat
        "drop-repeats": 0.1875,  # next
        "count-symbol": 0.2280,  # even
        "max-symbol": 0.4858,  # majority
    },
}
BINDING = ("last-write", "dictionary", "variable-chase")  # learned late and abruptly: all get the same, larger budget
EXAMPLES: Mapping[str, Mapping[str, int]] = {  # training examples a phase
    "smoke": {"reverse": 44_800, "sort": 16_000, "freq-sort": 28_800, "copy": 51_200, "recall": 40_000, **dict.fromkeys(BINDING, 64_000)},
    "standard": dict.fromkeys(STREAM["standard"], 1_280_000),
    "paper": dict.fromkeys(STREAM["paper"], 1_280_000),
}
TEST_EXAMPLES: Mapping[str, int] = {"smoke": 256, "standard": 1000, "paper": 2000}


def tasks(profile: str, names: Sequence[str], *, identity: str = "cued", scored_on: str = "test") -> list[TextTask]:
    """The tasks `names` at the sizes of `profile`, in this order.

    `identity` as of `task.announced`: a place is that in `names`, so that held-out tasks belong into one call with the others.
    """
    if profile not in TEST_EXAMPLES:
        raise unknown_name("profile", profile, TEST_EXAMPLES, "algorithmic.py")
    known = generators(profile)
    for name in names:
        if name not in known:
            raise unknown_name("algorithmic task", name, known, "algorithmic.py")
    return [
        announced(
            known[name],
            f"op:{name}",
            FLOORS[profile][name],
            identity=identity,
            place=number,
            tasks=len(names),
            test_examples=TEST_EXAMPLES[profile],
            scored_on=scored_on,
        )
        for number, name in enumerate(names)
    ]
