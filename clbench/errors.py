"""Everything clbench raises on purpose.

ClbenchError                 one line for a person; `exit_code` says whose turn it is
├── UserError            2   a name, a key, a file or a value that a user can mend
├── ContractError        3   an agent or a stream broke its contract
├── ValidationError      3   a stored result is not what it claims to be
└── Interrupted         75   a signal came; everything is saved and the same command goes on
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12  # names, which a line has room for


class ClbenchError(Exception):
    """A message of one line: what was expected, what came, where, and what to type next."""

    exit_code = 1


class UserError(ClbenchError):
    """A mistake in what was typed or in a file that was given; nothing has been changed."""

    exit_code = 2


class ContractError(ClbenchError):
    """An agent or a task did what the contract of `clbench.interfaces` excludes."""

    exit_code = 3


class ValidationError(ClbenchError):
    """A stored record contradicts itself, its manifest or the stream it names."""

    exit_code = 3


class Interrupted(ClbenchError):
    """A signal asked the run to stop; the last checkpoint stands and the run can be continued."""

    exit_code = 75


def unknown_name(kind: str, name: str, known: Iterable[str], see: str) -> UserError:
    """The error for a name that is not there, with the nearest ones that are; where none is near and they are few, with all."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    few = f"Known: {', '.join(names)}. " if 0 < len(names) <= FEW else ""
    hint = f"Did you mean {', '.join(near)}? " if near else few
    return UserError(f"Unknown {kind} '{name}'. {hint}See: {see}")
