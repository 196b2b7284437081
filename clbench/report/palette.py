"""Agent -> colour and marker, the same in every figure and in every paper.

An agent's first choice follows from the hash of its name alone; where two agents want the same, the later name takes the next free one.
Colours: Okabe and Ito 2008 ("Color Universal Design") without yellow and black, and five after Tol; black is for joint rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#6F6A1E", "#332288", "#44AA99", "#EE3377")
MARKERS = ("o", "s", "^", "v", "D", "p", "<", ">")
JOINT_COLOUR = "#222222"


class Look(NamedTuple):
    """How an agent is drawn; `marker` is a matplotlib marker."""

    colour: str
    marker: str


JOINT_LOOK = Look(JOINT_COLOUR, "*")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each name; no two share both as long as there are at most 88, none share a colour up to 11."""
    assigned: dict[str, Look] = {}
    taken: set[tuple[int, int]] = set()
    for name in sorted(set(names)):
        colour, marker = _free(name, taken)
        taken.add((colour, marker))
        assigned[name] = Look(COLOURS[colour], MARKERS[marker])
    return assigned


def _free(name: str, taken: set[tuple[int, int]]) -> tuple[int, int]:
    """The wanted colour and marker, or the next colour that the fewest have, or the next marker within it."""
    digest = sha256(name.encode()).digest()
    wanted, marker = digest[0] % len(COLOURS), digest[1] % len(MARKERS)
    uses = [sum(colour == c for colour, _ in taken) for c in range(len(COLOURS))]
    colour = min(range(len(COLOURS)), key=lambda c: (uses[c], (c - wanted) % len(COLOURS)))
    markers = [(marker + offset) % len(MARKERS) for offset in range(len(MARKERS))]
    used = {m for _, m in taken}
    fresh = [m for m in markers if m not in used] or [m for m in markers if (colour, m) not in taken] or [marker]
    return colour, fresh[0]
