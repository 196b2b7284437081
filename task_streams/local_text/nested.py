"""Records that hold others, made flat: conversations in turns, texts with questions about them, choices, lists of answers.

A conversation: each turn of its assistant answers all turns before it, up to 16,384 characters (`messages` of role and content,
`conversations` of from and value, `utterances` of speaker and text). An answer with texts listed beside it is a record for each of them
(`patterns` of a `tag`), and so are the `instances` of an instruction. A text with questions about it is a record for each of them:
documents as in SQuAD (Rajpurkar et al. 2016), questions as objects (QuALITY, DROP, DREAM), in two lists with answers (RACE), or in
a talk, where the ones before stand in front (CoQA). What a question is about may lie in pieces: lines, titles with their sentences
(HotpotQA), paragraphs (MuSiQue), sessions of conversations (LongMemEval). Of several answers the first is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from . import choices
from .names import ANSWER_KEYS, CONTEXT_KEYS, SPLIT_KEYS

Record = tuple[str, Any]
"""A record and its place in a file."""
TURNS = ("messages", "conversations", "conversation", "turns")
ASKED = ("qas", "qa", "qa_pairs", "questions")
"""Fields that list what is asked about the text beside them."""
AROUND = (*CONTEXT_KEYS, "text", "document", "conversation")
"""Fields whose text there may be questions about."""
_LISTED, _LISTED_FOR = ("patterns", "examples", "utterances", "phrases"), ("tag", "intent")
"""Fields that list texts, and what is called the answer beside them that is right for each."""
_SPEAKER, _SAID = ("role", "from", "speaker"), ("content", "value", "text", "utterance")
_ASSISTANTS = ("assistant", "gpt", "chatgpt", "model", "bot", "agent", "wizard")
_IN_DIALOGUES = "system"
"""What dialogues call their assistant; conversations with models call what is said to it in advance so."""
_PART = re.compile(r"(.*), (?:question|turn) \d+", re.DOTALL)
_MARKED = re.compile(r"\[([^\]\n]+)\](?:\([^)\n]*\)|\{[^}\n]*\})")
"""Words of an example that Rasa's files say more about."""
_PIECES = ("title", *_SAID, "paragraph_text", "sentence")
_ANSWER = ("text", "value", "number", "spans")
_ANSWERS = frozenset(ANSWER_KEYS)
_DEEPEST = 8
_TALKED = 2**14
"""So many characters of a conversation stand in front of a turn that is asked for, behind the first of these."""


def flat(found: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """The records of each split with the names of their fields in small letters, in place of each that holds others those others.

    A list of two texts is a text and its label; one of lines and of questions is a dialogue and what is asked about it.
    """
    opened = {split: [record for each in listed for record in _opened(*each)] for split, listed in found.items()}
    first = choices.first_number(record for listed in opened.values() for _, record in listed if isinstance(record, Mapping))
    return {split: [(place, _closed(record, first)) for place, record in listed] for split, listed in opened.items()}


def _opened(place: str, given: Any) -> Iterator[Record]:
    if isinstance(given, list) and len(given) > 1 and all(isinstance(part, list) for part in given[:2]):
        given = {"dialogue": given[0], "questions": given[1]} if any(map(_is_question, given[1])) else given
    if isinstance(given, list) and len(given) == 2 and all(isinstance(part, str) for part in given):
        given = {"text": given[0], "label": given[1]}
    if not isinstance(given, Mapping):
        yield place, given
        return
    record = _lowered(given)
    if (told := _listed(record)) is not None:
        yield from _numbered(place, "text", told)
    elif (turns := turns_of(record)) is not None:
        said = [{**_only(record, SPLIT_KEYS), **answered} for answered in _conversation(turns)]
        yield from _numbered(place, "turn", said) if len(said) > 1 else [(place, said[0] if said else {})]
    elif (asked := _paragraphs(record) or _talk(record) or _questions(record)) is not None:
        yield from _numbered(place, "question", asked)
    else:
        yield place, record


def _numbered(place: str, word: str, parts: Sequence[Any]) -> Iterator[Record]:
    return ((f"{place}, {word} {number}", part) for number, part in enumerate(parts, 1))


def whole_of(place: str) -> str:
    """The place of the record that one of several questions or turns was opened from; "" for any other."""
    found = _PART.fullmatch(place)
    return found[1] if found else ""


def _closed(record: Any, first: int) -> Any:
    """A record that holds no others, with what it is about, and what there is to choose from, as texts."""
    if not isinstance(record, Mapping):
        return record
    return choices.with_choices(_as_texts(record), first)


def _as_texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose fields of what it is about are texts."""
    return {key: written(value) if key in AROUND and isinstance(value, list | Mapping) else value for key, value in record.items()}


def _around(record: Mapping[str, Any]) -> dict[str, Any]:
    """What each question of a record is about, written out once for all of them, and the split that it is of."""
    around = _as_texts(_only(record, (*AROUND, *SPLIT_KEYS)))
    if "conversation" in around:
        around.setdefault("context", around.pop("conversation"))
    return around


def written(value: Any, depth: int = 0) -> str:
    """The texts in a value, one after another: of an object those that are said in it, of one of columns row by row."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Mapping):
        columns = list(value.values())
        if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
            value = [list(row) for row in zip(*columns, strict=True)]
        else:
            value = [part for key, part in value.items() if isinstance(part, list | Mapping) or str(key).lower() in _PIECES]
    if not isinstance(value, list) or depth == _DEEPEST:
        return ""
    return " ".join(filter(None, (written(part, depth + 1) for part in value)))


def _lowered(record: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in record.items()}


def _only(record: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: record[key] for key in keys if key in record}


def _listed(record: Mapping[str, Any]) -> list[Any] | None:
    """A record for each of the texts of an answer, or of the instances of an instruction; None where there are none."""
    instances = record.get("instances")
    if isinstance(instances, list) and any(isinstance(part, Mapping) for part in instances):
        around = {key: value for key, value in record.items() if key != "instances"}
        return [{**around, **_lowered(part)} if isinstance(part, Mapping) else part for part in instances]
    answer = next((record[key] for key in _LISTED_FOR if isinstance(record.get(key), str)), None)
    if answer is None:
        return None
    texts = next((found for key in _LISTED if (found := _texts_in(record.get(key)))), [])
    return [{**_only(record, SPLIT_KEYS), "text": text, "label": answer} for text in texts] or None


def _texts_in(value: Any) -> list[str]:
    """Texts that are listed, as such, as objects of a text alone, or one a line behind a dash; none where anything else is."""
    if isinstance(value, str):
        lines = [line.strip() for line in value.splitlines() if line.strip()]
        return [_MARKED.sub(r"\1", line[1:].strip()) for line in lines] if all(line.startswith("- ") for line in lines) else []
    if not isinstance(value, list):
        return []
    alone = [part.get("text") if isinstance(part, Mapping) and _ANSWERS.isdisjoint(part) else part for part in value]
    return alone if all(isinstance(text, str) for text in alone) else []


def turns_of(record: Mapping[str, Any]) -> list[Any] | None:
    """The turns of a record that is a conversation; None of any other. Utterances are turns where it is said who speaks."""
    turns = next((record[key] for key in TURNS if isinstance(record.get(key), list)), None)
    said = record.get("utterances")
    if turns is None and isinstance(said, list) and any(isinstance(turn, Mapping) and _first(turn, _SPEAKER) for turn in said):
        return said
    return turns


def _conversation(turns: Sequence[Any]) -> list[dict[str, str]]:
    """What the assistant says, each time to all that was said before, as long as that is not too long to be read."""
    said = [(_first(turn, _SPEAKER).lower(), _first(turn, _SAID)) for turn in turns if isinstance(turn, Mapping)]
    speakers = {speaker for speaker, _ in said}
    assistants = _ASSISTANTS if not speakers.isdisjoint(_ASSISTANTS) else (_IN_DIALOGUES,)
    words = [text for _, text in said]
    asked = [n for n, (speaker, text) in enumerate(said) if n and text and speaker in assistants]
    before = list(accumulate(map(len, words)))  # characters up to and with each turn
    short = [n for n in asked if n == asked[0] or before[n - 1] <= _TALKED]
    return [{"text": " ".join(filter(None, words[:n])), "answer": words[n]} for n in short]


def _first(turn: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((turn[key].strip() for key in keys if isinstance(turn.get(key), str)), "")


def _paragraphs(record: Mapping[str, Any]) -> list[Any] | None:
    """The questions of a document in paragraphs, each with its paragraph; None where it is none."""
    if not isinstance(record.get("paragraphs"), list) or "question" in record:
        return None
    found: list[Any] = []
    for part in record["paragraphs"]:
        asked = part.get("qas") if isinstance(part, Mapping) else None
        for question in asked if isinstance(asked, list) else [None]:
            found.append({"context": part.get("context"), **_lowered(question)} if isinstance(question, Mapping) else question)
    return found


def _questions(record: Mapping[str, Any]) -> list[Any] | None:
    """The questions that a record lists, each with the text they are about; None where it lists none."""
    asked = next((record[key] for key in ASKED if isinstance(record.get(key), list)), [])
    if "question" in record:  # which it asks about the rest
        return None
    if any(map(_is_question, asked)):
        around = _around(record)
        return [{**around, **_lowered(question)} if isinstance(question, Mapping) else question for question in asked]
    beside = {key: record[key] for key in (*ANSWER_KEYS, *choices.KEYS) if isinstance(record.get(key), list)}
    beside = {key: listed for key, listed in beside.items() if len(listed) == len(asked)}
    if beside.keys().isdisjoint(ANSWER_KEYS) or not all(isinstance(question, str) for question in asked):
        return None
    around, rows = _around(record), zip(asked, *beside.values(), strict=True)
    return [{**around, "question": question, **dict(zip(beside, row, strict=True))} for question, *row in rows] or None


def _talk(record: Mapping[str, Any]) -> list[Any] | None:
    """The questions of a talk about a text, each with the ones before and their answers; None where it is none."""
    answers = _told(record.get("answers"))
    asked = _told(record.get("questions")) or record.get("questions")
    if not answers or not isinstance(asked, list) or len(asked) != len(answers) or not all(isinstance(each, str) for each in asked):
        return None
    around, turns = _around(record), list(zip(asked, answers, strict=True))
    return [
        {**around, "history": " ".join(word for turn in turns[:number] for word in turn), "question": question, "answer": answer}
        for number, (question, answer) in enumerate(turns)
    ]


def _told(value: Any) -> Sequence[str]:
    """The texts under `input_text` of a list of objects, or listed there; none where not all are texts."""
    found = value.get("input_text") if isinstance(value, Mapping) else None
    if isinstance(value, list):
        found = [part.get("input_text") if isinstance(part, Mapping) else None for part in value]
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else []


def _is_question(part: Any) -> bool:
    return isinstance(part, Mapping) and any(isinstance(part.get(key), str) for key in ("question", "Question"))


def answers_of(value: Any) -> list[Any]:
    """The answers that a field gives: itself, or those listed, each of which may be under a name; the same is said once."""
    listed = _answer_in(value)
    if not isinstance(listed, list):
        return [listed]
    found = [_answer_in(item) for item in listed]
    return list(dict.fromkeys(answer for answer in found if isinstance(answer, str | int | float))) or found[:1]


def _answer_in(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    there = [value[key] for key in _ANSWER if key in value]
    return next((answer for answer in there if answer not in (None, "", [])), there[0] if there else None)
