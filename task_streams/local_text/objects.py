"""What a file that is one JSON object as a whole holds: splits, or records in one of the shapes that such files come in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .names import ANSWER_KEYS, CONTEXT_KEYS, SPLIT_OF, TEXT_KEYS
from .nested import AROUND, ASKED, Record, turns_of

TEXTS = frozenset((*TEXT_KEYS, *CONTEXT_KEYS))
KNOWN = TEXTS.union(ANSWER_KEYS)


def object_in(text: str) -> Mapping[str, Any] | None:
    """The object that a text is as a whole; None where it is anything else."""
    if text.lstrip()[:1] != "{":
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def intents_in(text: str) -> Mapping[str, Any] | None:
    """The intents of a file of Rasa's in YAML, each with its examples; None where it is anything else."""
    import yaml

    if not re.search(r"^nlu:", text, re.MULTILINE):
        return None
    try:
        listed = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["nlu"]
        return {"nlu": [part for part in listed if "intent" in part]}
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError):
        return None


def splits_in(held: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The lists of an object, or of the one under its `data`, where one of them is named as the training split."""
    data = held.get("data")
    found = {key: value for key, value in (data if isinstance(data, Mapping) else held).items() if isinstance(value, list)}
    return found if any(SPLIT_OF.get(key.lower()) == "train" for key in found) else None


def records_in(name: str, held: Mapping[str, Any]) -> list[Record] | None:
    """The records of an object; None where it has none, or is one.

    They are listed under `data`, or are its columns, as lists or as pandas writes them, or stand each under a name of its own, or are texts
    listed under their answers, or are the longest list of objects in it.
    """
    if isinstance(held.get("data"), list):
        return numbered(f"{name}: record", held["data"])
    if _is_record(held):
        return None
    return _columns(name, held) or _by_name(name, held) or _by_answer(name, held) or _longest(name, held)


def _is_record(held: Mapping[str, Any]) -> bool:
    """Whether an object holds records of its own that belong together: turns, paragraphs, what is asked about a text."""
    asked = ASKED if not held.keys().isdisjoint(AROUND) else ()
    return turns_of(held) is not None or any(isinstance(held.get(key), list) for key in ("paragraphs", "ordered_kv_records", *asked))


def one_after_another(name: str, text: str) -> list[Record] | None:
    """The objects of a text that holds several, each on many lines; None where it is anything else."""
    decoder, found, at = json.JSONDecoder(), [], 0
    if text.lstrip()[:1] != "{" or object_in(text.lstrip().partition("\n")[0]) is not None:
        return None
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            record, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found.append(record)
    return numbered(f"{name}: record", found)


def numbered(where: str, listed: Sequence[Any]) -> list[Record]:
    """With their places."""
    return [(f"{where} {number}", record) for number, record in enumerate(listed, 1)]


def _columns(name: str, held: Mapping[str, Any]) -> list[Record] | None:
    columns = {key: value for key, value in held.items() if isinstance(value, list | Mapping)}
    cells = {key: list(value.values()) if isinstance(value, Mapping) else value for key, value in columns.items()}
    rows = {tuple(value) if isinstance(value, Mapping) else len(value) for value in columns.values()}
    texts = [key for key, listed in cells.items() if key.lower() in TEXTS and listed and all(isinstance(cell, str) for cell in listed)]
    if len(columns) < 2 or len(rows) > 1 or not texts:
        return None
    return numbered(f"{name}: record", [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)])


def _by_name(name: str, held: Mapping[str, Any]) -> list[Record] | None:
    objects = [value for value in held.values() if isinstance(value, Mapping) and not KNOWN.isdisjoint(map(str.lower, value))]
    return [(f"{name}: {key}", value) for key, value in held.items()] if len(objects) > max(1, len(held) // 2) else None


def _by_answer(name: str, held: Mapping[str, Any]) -> list[Record] | None:
    if len(held) < 2 or not KNOWN.isdisjoint(map(str.lower, held)) or not all(isinstance(value, list) for value in held.values()):
        return None
    texts = [text for value in held.values() for text in value]
    if 2 * sum(isinstance(text, str) and " " in text for text in texts) <= len(texts):  # lists of names, of no text
        return None
    pairs = {f"{name}: {answer}": [{"text": text, "label": answer} for text in value] for answer, value in held.items()}
    return [record for where, listed in pairs.items() for record in numbered(where, listed)]


def _longest(name: str, held: Mapping[str, Any]) -> list[Record] | None:
    below = {f"{key}.{inner}": value for key, part in held.items() if isinstance(part, Mapping) for inner, value in part.items()}
    lists = {key: value for key, value in (*held.items(), *below.items()) if isinstance(value, list)}
    objects = {key: value for key, value in lists.items() if 2 * sum(isinstance(item, Mapping) for item in value) > len(value)}
    longest = max(objects, key=lambda key: len(objects[key]), default=None)
    return None if longest is None else numbered(f"{name}: {longest}", objects[longest])
