"""Records that hold others, made flat: conversations in turns, documents with passages and their questions, choices, lists of answers.

A conversation: the last turn of its assistant answers all turns before it (`messages` of role and content, `conversations` of from and
value). Documents: as SQuAD is published (Rajpurkar et al. 2016), a record for each question. Of several answers the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .choices import with_choices
from .names import SPLIT_KEYS

Record = tuple[str, Any]
"""A record and its place in a file."""
TURNS = ("messages", "conversations", "conversation", "turns")
_SPEAKER, _SAID = ("role", "from", "speaker"), ("content", "value", "text")
_ASSISTANTS = ("assistant", "gpt", "chatgpt", "model", "bot")


def flat(found: Iterable[Record]) -> Iterator[Record]:
    """The records with the names of their fields in small letters, in place of each that holds others those others.

    A list of two texts is a text and its label.
    """
    for place, given in found:
        if isinstance(given, Mapping):
            yield from _opened(place, with_choices(_lowered(given)))
        elif isinstance(given, list) and len(given) == 2 and all(isinstance(part, str) for part in given):
            yield place, {"text": given[0], "label": given[1]}
        else:
            yield place, given


def _opened(place: str, record: Mapping[str, Any]) -> Iterator[Record]:
    if (turns := next((record[key] for key in TURNS if isinstance(record.get(key), list)), None)) is not None:
        yield place, {**{key: value for key, value in record.items() if key in SPLIT_KEYS}, **_conversation(turns)}
    elif isinstance(record.get("paragraphs"), list):
        yield from _questions(place, record["paragraphs"])
    else:
        yield place, record


def _lowered(record: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in record.items()}


def _conversation(turns: Sequence[Any]) -> dict[str, str]:
    said = [(_first(turn, _SPEAKER), _first(turn, _SAID)) for turn in turns if isinstance(turn, Mapping)]
    last = max((n for n, (speaker, _) in enumerate(said) if speaker.lower() in _ASSISTANTS), default=0)
    return {"text": " ".join(words for _, words in said[:last] if words), "answer": said[last][1]} if last else {}


def _first(turn: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((turn[key].strip() for key in keys if isinstance(turn.get(key), str)), "")


def _questions(place: str, paragraphs: Sequence[Any]) -> Iterator[Record]:
    number = 0
    for paragraph in paragraphs:
        asked = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
        for question in asked if isinstance(asked, list) else [None]:
            number += 1
            record = {"context": paragraph.get("context"), **_lowered(question)} if isinstance(question, Mapping) else question
            yield f"{place}, question {number}", record


def answers_of(value: Any) -> list[Any]:
    """The answers that a field gives: itself, or those listed, each of which may be under `text`; the same is said once."""
    listed = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(listed, list):
        return [listed]
    found = [item.get("text") if isinstance(item, Mapping) else item for item in listed]
    return list(dict.fromkeys(answer for answer in found if isinstance(answer, str | int | float))) or found[:1]
