"""Named child generators: one integer in, an independent generator for every purpose out.

A new draw for one purpose moves no number of another, and no global generator is touched.
Source: the numbers come from `numpy.random.SeedSequence` (entropy = seed, then the sha256 of the purpose as eight words).
"""

from __future__ import annotations

import hashlib

import numpy as np

from .errors import UserError

MAX_SEED = 2**32 - 1


def _sequence(seed: int, purpose: tuple[str | int, ...]) -> np.random.SeedSequence:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) <= 2**63 - 1:
        raise UserError(f"seed must be an integer >= 0, got {seed!r}")
    digest = hashlib.sha256("\x1f".join(str(part) for part in purpose).encode()).digest()
    return np.random.SeedSequence([int(seed), *np.frombuffer(digest, dtype="<u4").tolist()])


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """The generator that `purpose` owns under `seed`; equal arguments give equal streams on every platform."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose)))


def integer(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**32) for something that takes only an integer (torch, a simulator, a stranger's agent)."""
    return int(_sequence(seed, purpose).generate_state(1, np.uint32)[0])
