"""What names say: of files and folders which split they are of, and what is left of the name; of columns and fields what they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "validation", "validate", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
SPLIT_KEYS = ("split", "partition", "set", "subset", "fold")
"""Columns and fields of these names say of each row which split it is of."""
SPLIT_FLAGS = ("training", "is_train", "train")
"""Fields of these names say of each record whether it is a training row."""
TEXT_KEYS = (
    *("text", "sentence", "utterance", "utt", "title", "headline", "content", "body", "review", "document", "instruction"),
    *("sentence1", "premise", "question1", "sentence2", "hypothesis", "question2"),
    *("query", "input", "source", "prompt", "question", "description"),
)
_ABOUT = ("sentiment", "emotion", "polarity", "stance", "topic", "rating", "stars", "labels")
ANSWER_KEYS = (
    *("label_text", "label", "category", "intent", "class", "answer", "output", "target", "response", "completion"),
    *("answers", "class index", "gold_label", "final_decision", *_ABOUT),
    *("answerkey", "correct", "correct_answer", "answer_idx", "cop", "summary", "highlights"),
)
CONTEXT_KEYS = (
    *("context", "passage", "story", "fact1", "fact2", "ctx", "article", "goal"),
    *("contexts", "paragraphs", "passages", "dialogue", "history", "haystack_sessions", "support"),
)
"""Names of columns and fields, most wanted first."""
_ASKING = frozenset(("question", "instruction", "prompt"))
CHOICES = "choices"
"""The field under which a question's choices are written out."""
ASIDE = frozenset(("id", "idx", "index", "url", "title", "date", "timestamp", "created", "added", "meta", "metadata", "source", ""))
"""What may stand beside a text without being about it."""
_PUBLISHED = {"trec_10": "test"}
"""Names under which a split is published and that do not say so."""

_SPLIT = re.compile(rf"(?:^|(?<=[._\- ]))({'|'.join(sorted(SPLIT_OF, key=len, reverse=True))})(?=$|[._\- ])", re.IGNORECASE)
_MATCHED = re.compile(r"(?:^|[._\- ]+)matched$", re.IGNORECASE)  # MultiNLI's validation and test sets of the genres of its training set
_WRITTEN = (".gz", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".yml", ".yaml", ".src", ".tgt", ".all", ".label")


def answers_among(names: Collection[str]) -> list[str]:
    """The names that an answer may have, most wanted first; what a question is about comes behind what answers it."""
    found = [key for key in ANSWER_KEYS if key in names]
    return found if _ASKING.isdisjoint(names) else sorted(found, key=("category", "intent", "class", *_ABOUT).__contains__)


def slug(name: str) -> str:
    """A name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"


def stem_of(path: Path) -> str:
    """The name without what says how it is written."""
    name = path.name
    for suffix in _WRITTEN:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name or path.name


def split_of(stem: str) -> tuple[str, str]:
    """The split that a name says, "" where it says none, and the rest of the name."""
    if stem.lower() in _PUBLISHED:
        return _PUBLISHED[stem.lower()], ""
    found = list(_SPLIT.finditer(stem))
    if not found:
        return "", stem
    last = found[0] if found[0].start() == 0 else found[-1]
    rest = re.sub(r"[._\- ]{2,}", "_", stem[: last.start()] + stem[last.end() :]).strip("._- ")
    split = SPLIT_OF[last[1].lower()]
    return split, rest if split == "train" else _MATCHED.sub("", rest)


def is_open(place: Path) -> bool:
    """Whether what is in a folder can be listed and reached."""
    return os.access(place, os.R_OK | os.X_OK)


def own_files(place: Path) -> list[Path]:
    """The files of a folder itself, sorted, without hidden ones."""
    with os.scandir(place) as found:
        return sorted(place / each.name for each in found if each.is_file() and not each.name.startswith("."))


def subfolders(place: Path) -> list[Path]:
    """The folders of a folder itself, sorted, without hidden ones."""
    with os.scandir(place) as found:
        return sorted(place / each.name for each in found if each.is_dir() and not each.name.startswith((".", "__")))
