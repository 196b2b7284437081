"""What was typed as `key=value`: literal keys, values in Hydra's grammar, and grids over both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from .errors import UserError

LITERAL_KEYS = ("agent", "stream", "results_dir", "device")
"""Taken as they were typed: paths need no quoting."""


@dataclass(frozen=True)
class Typed:
    """What was typed as `key=value`: the last value of each literal key, and everything else in order."""

    literal: Mapping[str, str]
    others: tuple[str, ...]


def split(overrides: Iterable[str]) -> Typed:
    """Sort `overrides` into literal keys and those that Hydra reads."""
    literal: dict[str, str] = {}
    others: list[str] = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if word.startswith("~") or not equals or not key.strip("+ "):
            raise UserError(f"expected key=value, got '{word}'; for example seed=1 or agent.methods.ewc.strength=5")
        if key in LITERAL_KEYS:
            if not value.strip():
                raise UserError(f"{key}= is empty; type {key}=VALUE")
            literal[key] = value.strip()
        else:
            others.append(word)
    return Typed(literal, tuple(others))


def budget_and_options(command: str, words: Sequence[str], groups: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was typed after `command`: the budget, where one is named, and options, which must be of `groups` (`stream.OPTION=VALUE`)."""
    budgets = [word.partition("=")[2] for word in words if word.startswith("budget=")]
    options = [word for word in words if not word.startswith("budget=")]
    for word in options:
        key, equals, _ = word.partition("=")
        if not equals or key.partition(".")[0] not in groups or "." not in key:
            raise UserError(f"{command}: expected {', '.join(f'{group}.OPTION=VALUE' for group in groups)} or budget=NAME, got '{word}'")
    return budgets[-1:], options


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of `agent=a,b`, `seed=range(0,5)` and `key=1,2`; one where nothing is varied."""
    choices: list[list[str]] = []
    for word in overrides:
        key, _, value = word.partition("=")
        if key in ("agent", "stream"):
            names = [name.strip() for name in value.split(",")]
            if not all(names):
                raise UserError(f"{word}: expected names with commas between them, for example {key}={names[0] or 'a'},b")
            choices.append([f"{key}={name}" for name in names])
        elif key in LITERAL_KEYS:
            choices.append([word])
        else:
            choices.append(_variations(word))
    return [list(combination) for combination in product(*choices)]


def _variations(word: str) -> list[str]:
    if word.startswith(("+", "~")) or "=" not in word:
        return [word]
    parsed = parse(word)
    if not parsed.is_sweep_override():
        return [word]
    words = [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
    if not words:
        raise UserError(f"{word}: this selects nothing; for example seed=range(0,5) is 0 1 2 3 4")
    return words


def parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        raise UserError(f"cannot read '{word}': the value '{value}' needs quotes, as in {key}=\"'{value}'\"") from error


def quoted(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    if isinstance(value, str):
        return _quoted_text(value)
    return repr(value)


def _quoted_text(text: str) -> str:
    """A string in Hydra's grammar: quotes are escaped, and so are the backslashes in front of a quote, and those alone."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"
