"""What a question offers to choose from, wherever a record keeps it, written out as a text that stands behind the question.

Forms as published: a list of texts, of which some bear their letters (AQuA, MMLU, HellaSwag); marks and texts, as objects, as two lists
or as an object (CommonsenseQA, OpenBookQA, ARC; MedQA); fields of their own, numbered or lettered (WinoGrande, Social IQa, BBQ).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .names import ANSWER_KEYS, CHOICES

KEYS = (CHOICES, "choice", "options", "endings", "candidates", "answer_choices")
"""Fields that hold what there is to choose from."""
_FIELD = re.compile(r"(option|choice|ans|answer|sol|ending|opt|op)[_ ]?([0-9]|[a-h])|([a-h])")
_MARKED = re.compile(r"\(?([A-Ha-h0-9])[).:]\s*\S")


def with_choices(record: Mapping[str, Any], first: int = 0) -> Mapping[str, Any]:
    """The record with its choices as a text under one name, where its answer is one of them; else as it is. Numbers begin with `first`."""
    question = record.get("question")
    if isinstance(question, Mapping) and isinstance(question.get("stem"), str):
        record = {**record, **{str(key).lower(): value for key, value in question.items()}, "question": question["stem"]}
        record.pop("stem")
    called, apart = _offering(tuple(record))
    key = next((name for name in called if isinstance(record[name], list | Mapping)), "")
    if not (used := (key,) if key else apart):
        return record
    answers = [str(record[name]).strip() for name in ANSWER_KEYS if isinstance(record.get(name), str | int) and name not in used]
    offered = _listed(record[key], answers, first) if key else [(mark_of(name), record[name]) for name in used]
    if len(offered) < 2 or not all(isinstance(text, str) and text.strip() for _, text in offered) or not is_answered(answers, offered):
        return record
    written = spelled(offered) if offered[0][0] else ", ".join(text for _, text in offered)
    return {**{name: value for name, value in record.items() if name not in used}, CHOICES: written}


@lru_cache(maxsize=64)
def _offering(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields that may hold choices: those that are called so, and those with one each."""
    return tuple(key for key in KEYS if key in names), family(names)


def family(names: Sequence[str]) -> tuple[str, ...]:
    """Of names in small letters those of one stem whose ends count on, two or more from 0, 1 or a: `option1`, `option2`; `a`, `b`, `c`."""
    families: dict[str, list[str]] = {}
    for name in names:
        if found := _FIELD.fullmatch(name):
            families.setdefault(found[1] or "", []).append(name)
    for members in families.values():
        if _count_on([mark_of(name) for name in members]):
            return tuple(members)
    return ()


def spelled(offered: Iterable[tuple[str, str]]) -> str:
    """Marks and texts as they stand behind a question."""
    return " ".join(f"{mark}) {text.strip()}" for mark, text in offered)


def _count_on(marks: Sequence[str]) -> bool:
    """Whether two or more marks follow one another from 0, 1 or A."""
    return len(marks) > 1 and any("".join(marks).upper() == counted[: len(marks)] for counted in ("0123456789", "123456789", "ABCDEFGH"))


def mark_of(name: str) -> str:
    """What a name of `family` ends in."""
    found = _FIELD.fullmatch(name)
    return (found[2] or found[3]).upper() if found else ""


def first_number(records: Iterable[Mapping[str, Any]]) -> int:
    """1 where records count the choices that they list from 1, as none is answered by 0 and some by the last number, else 0."""
    counted: set[tuple[int, int]] = set()
    for record in records:
        listed = next((record[key] for key in KEYS if isinstance(record.get(key), list)), None)
        if listed is not None:
            answers = (str(record[name]) for name in ANSWER_KEYS if isinstance(record.get(name), str | int))
            counted.update((int(answer), len(listed)) for answer in answers if answer.isdecimal() and len(answer) < 3)
    return int(all(answer for answer, _ in counted) and any(answer == many for answer, many in counted))


def _listed(held: Any, answers: Sequence[str], first: int) -> list[tuple[str, Any]]:
    """Marks and texts of a list or an object of choices; marks are "" where the answer is a text."""
    if isinstance(held, Mapping):
        marks, texts = held.get("label"), held.get("text")
        if isinstance(marks, list) and isinstance(texts, list) and len(marks) == len(texts):
            return list(zip(map(str, marks), texts, strict=True))
        return [(str(mark), text) for mark, text in held.items()]
    if all(isinstance(one, Mapping) and isinstance(one.get("text"), str) for one in held):
        return [(str(one.get("label", number)), one["text"]) for number, one in enumerate(held, first)]
    if not all(isinstance(one, str) for one in held):
        return []
    marked = [(found[1], one[found.start(1) + 2 :]) for one in held if (found := _MARKED.match(one))]
    if len(marked) == len(held) and _count_on([mark for mark, _ in marked]):
        return marked
    lettered, numbered = (any(len(word) < 3 and test(word) for word in answers) for test in (str.isalpha, str.isdecimal))
    if any(word in held for word in answers) or not (lettered or numbered):
        return [("", one) for one in held]
    return [(chr(ord("A") + number) if lettered else str(first + number), one) for number, one in enumerate(held)]


def is_answered(answers: Sequence[str], offered: Sequence[tuple[str, Any]]) -> bool:
    """Whether one of the answers is a mark, the number or the text of a choice."""
    numbers = {str(number) for number in range(len(offered) + 1)}
    known = numbers.union(*((mark, mark.lower(), text.strip()) for mark, text in offered))
    return any(word in known for word in answers if word)
