"""Stored floors and ceilings: all that standard streams and experiments ask for is there, and is what is measured.

python tests/test_levels.py     measures all again and writes them: minutes
"""

import json
from pathlib import Path

import pytest

from clbench import catalogue
from clbench.configuration import resolve, resolve_each
from clbench.experiment import load
from clbench.task_streams import levels

MEASURED = ("comp", "comp-alphabets", "memorize", "lookup", "overwrite", "drift", "needles", "lm", "taxi", "taxi-text")


def asked():
    """By function and arguments what standard streams and experiments ask for, and how it is measured."""
    for function in levels.functions:
        function.asked.clear()
    for name in catalogue.files("stream"):
        values = catalogue.find("stream", name).read()
        if values.get("folder", "") is None:  # of the user's
            continue
        for budget in values["budgets"]:
            for more in ([], ["stream.validation=true"])[: 1 + ("validation" in values)]:
                resolve([f"stream={values['name']}", "agent=random", f"budget={budget}", *more])
    for name in catalogue.files("experiment"):
        list(resolve_each(load(name).commands))
    return {function.name: dict(sorted(function.asked.items())) for function in levels.functions if function.asked}


def listed(level):
    """As JSON has it."""
    return list(level) if isinstance(level, tuple) else level


def parts(level):
    return list(level.values()) if isinstance(level, dict) else level


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_stored_is_what_is_measured(name):
    for function in levels.functions:
        function.asked.clear()
    resolve([f"stream={name}", "agent=random"])
    function = next(function for function in levels.functions if function.asked)
    key, measure = next(iter(function.asked.items()))
    assert parts(listed(measure())) == pytest.approx(parts(levels.stored()[function.name][key]), rel=1e-9)


@pytest.mark.slow
def test_all_that_is_stored_is_asked_for_and_measured():
    found = {name: {key: listed(measure()) for key, measure in each.items()} for name, each in asked().items()}
    assert {name: set(each) for name, each in found.items()} == {name: set(each) for name, each in levels.stored().items()}
    for name, each in found.items():
        for key, level in each.items():
            assert parts(level) == pytest.approx(parts(levels.stored()[name][key]), rel=1e-9), (name, key)


def test_other_sizes_are_measured_and_remembered():
    counted = []

    def level(size, more=0):
        counted.append((size, more))
        return size / 2

    kept = levels.Kept(level)
    levels.functions.remove(kept)
    assert kept(3) == kept(3) == 1.5 and kept(3, more=1) == 1.5 and counted == [(3, 0), (3, 1)]
    assert list(kept.asked) == ["3", "3, more=1"] and kept.__name__ == "level"


if __name__ == "__main__":
    levels.stored.cache_clear()
    levels.stored = dict  # nothing is stored, so that all of it is measured
    measured = {name: {key: listed(measure()) for key, measure in each.items()} for name, each in sorted(asked().items())}
    path = Path(levels.__file__).parent / levels.FILE
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(path)
