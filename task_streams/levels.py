"""Floors and ceilings of the standard streams, measured once and stored with the package: a run reads them, other sizes are measured.

`levels.json` holds them by function and arguments; `python tests/test_levels.py` measures all of them again and writes it. Whoever changes
what they are measured on gives the stream a new version and does that too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial, update_wrapper
from importlib import resources
from typing import Any, Generic, ParamSpec, TypeVar

FILE = "levels.json"
P = ParamSpec("P")
T = TypeVar("T")


@cache
def stored() -> dict[str, dict[str, Any]]:
    """By function and arguments the levels that lie beside this module."""
    return json.loads(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8"))


class Kept(Generic[P, T]):
    """A function `measure` whose answers are stored, or else remembered. Its arguments are hashable and say all in their `repr`.

    Answers are numbers, or tuples or mappings of numbers. `asked`: by their arguments those that this process asked for.
    """

    def __init__(self, measure: Callable[P, T]) -> None:
        self.name = f"{measure.__module__.removeprefix(f'{__package__}.')}.{measure.__name__}"
        self.measure = cache(measure)
        self.asked: dict[str, Callable[[], T]] = {}
        update_wrapper(self, measure)
        functions.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer."""
        key = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        self.asked[key] = partial(self.measure, *args, **kwargs)
        found = stored().get(self.name, {}).get(key)
        if found is None:
            return self.measure(*args, **kwargs)
        return tuple(found) if isinstance(found, list) else found


functions: list[Kept[Any, Any]] = []
"""All whose answers are stored."""
