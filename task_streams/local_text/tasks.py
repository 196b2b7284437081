"""A task over rows of real text: training rows handed out in a new order each time round, test rows scored, and what needs no skill.

Text form: `<bos> [cue <sep>] prompt <ans> answer <eos>`, of plain text `<bos> [cue <sep>] text`. Scores: of choices whether the answer is
right among the task's own answers; of answers the share of right tokens, teacher forced; of plain text 1 - bits per byte / 8.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError, unknown_name
from clbench.experience import Text
from clbench.interfaces import Episodes, Predictor, TaskInfo

from ..language.export import Sheet
from ..language.task import bits, free_running_exact, generated
from .corpus import Dataset, Row
from .encoding import ANS, BOS, EOS, FIRST, MOST_CODES, PAD, SEP, Encoding, codes, words
from .measures import MEASURES

Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]
Bool = NDArray[np.bool_]

_LOGITS_AT_ONCE = 1 << 24  # numbers held at a time, 64 MiB
_LANES = 128
_CONSTANT_ANSWERS = 50  # commonest ones of training, of which the best is a floor


class Written:
    """Examples as they are handed out: ids, of which the last `scored` are to be predicted. Kept end to end.

    `whole`: the tokens of each text before any was left out.
    """

    def __init__(self, examples: Sequence[tuple[list[int], int, int]]) -> None:
        lengths, self.scored, self.whole = (np.array(column, dtype=np.int64) for column in _columns(examples))
        self.lengths = lengths
        self._ids = np.concatenate([np.array(ids, dtype=np.int32) for ids, _, _ in examples])
        self._first = np.cumsum(lengths) - lengths
        self.longest = int(lengths.max())

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def content(self) -> bytes:
        """All of it that is handed out."""
        return self._ids.tobytes() + self.lengths.tobytes() + self.scored.tobytes()

    @property
    def asked(self) -> Integer:
        """The ids that are to be predicted, end to end."""
        place = np.arange(len(self._ids)) - np.repeat(self._first, self.lengths)
        return self._ids[place >= np.repeat(self.lengths - self.scored, self.lengths)]

    def rows(self, rows: Integer, width: int) -> tuple[Integer, Bool]:
        """Tokens and loss mask (n, width) of the examples `rows` (n,)."""
        place = np.arange(width)
        inside = place < self.lengths[rows, None]
        tokens = np.where(inside, self._ids[np.where(inside, self._first[rows, None] + place, 0)], PAD).astype(np.int64)
        return tokens, inside & (place >= (self.lengths - self.scored)[rows, None])


def _columns(examples: Sequence[tuple[list[int], int, int]]) -> tuple[list[int], list[int], list[int]]:
    """Length, scored tokens and whole length of each example."""
    return [len(ids) for ids, _, _ in examples], [scored for _, scored, _ in examples], [whole for _, _, whole in examples]


class Rounds:
    """The `TextSource` of some examples: each round of all of them in an order that the seed draws."""

    pad = PAD

    def __init__(self, written: Written, seed: int, name: str, only: Integer | None = None) -> None:
        self._written, self._seed, self._name = written, seed, name
        self._only = np.arange(len(written)) if only is None else only
        self._orders: dict[int, Integer] = {}
        self.longest = written.longest

    def __len__(self) -> int:
        return len(self._only)

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,) of the examples handed out as numbers `index` (n,)."""
        index = np.asarray(index, dtype=np.int64)
        rounds, places = index // len(self._only), index % len(self._only)
        rows = np.array([self._order(turn)[place] for turn, place in zip(rounds.tolist(), places.tolist(), strict=True)], dtype=np.int64)
        return *self._written.rows(rows, self.longest), self._written.lengths[rows]

    def _order(self, turn: int) -> Integer:
        if turn not in self._orders:
            if len(self._orders) > 3:
                self._orders.clear()
            drawn = seeding.generator(self._seed, "local text", self._name, turn).permutation(len(self._only))
            self._orders[turn] = self._only[drawn]
        return self._orders[turn]


class LocalTask(ABC):
    """A `clbench.interfaces.Task`. `labels`: of a data set of choices those that are this task's; None: all."""

    def __init__(
        self,
        name: str,
        info: TaskInfo,
        dataset: Dataset,
        encoding: Encoding,
        *,
        longest: int,
        train_examples: int | None,
        test_examples: int,
        scored_on: str,
        labels: Sequence[str] | None = None,
        cue: bool = False,
    ) -> None:
        self.name, self.info = name, info
        self._encoding, self._longest = encoding, longest
        self._cue = [*encoding.encode(name), SEP] if cue else []
        self._own = None if labels is None else frozenset(labels)
        train = self._rows(dataset, "train")
        if not train:
            raise UserError(f"task '{name}': no training rows are left")
        self.train_rows = train if train_examples is None else fixed_choice(train, train_examples, f"{name} train")
        tested = self._rows(dataset, scored_on)
        if not tested:
            raise UserError(f"task '{name}': no {scored_on} rows are left; it cannot be scored")
        self.test_rows = fixed_choice(tested, test_examples, f"{name} {scored_on}")
        self._question_last = dataset.question_last
        self.train, self.test = self._written(self.train_rows), self._written(self.test_rows)
        self.floors = self._floors()
        floor = max(self.floors.values())
        if floor >= 1.0:
            raise UserError(
                f"task '{name}': {max(self.floors, key=self.floors.__getitem__)} is always right there; leave it out with stream.tasks"
            )
        self.scale = (floor, 1.0)

    @property
    def content(self) -> str:
        """sha256 of what is trained on and scored, as ids."""
        return hashlib.sha256(self.train.content + self.test.content).hexdigest()

    @property
    def cut(self) -> tuple[int, int]:
        """How many texts, trained on and scored, are longer than what is kept of them, and the tokens of the longest."""
        lengths = np.concatenate([self.train.whole, self.test.whole])
        return int((lengths > self._longest).sum()), int(lengths.max())

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """All training rows in turn; with `shots` K of them, of choices K for each answer."""
        if shots is None:
            return Text(Rounds(self.train, seed, f"{self.name} train"), seed)
        chosen = self._shots(seed, shots)
        return Text(Rounds(self.train, seed, f"{self.name} shots", chosen), seed)

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """Scores of the fixed test rows, which are the same for every seed."""
        order = np.argsort(self.test.lengths, kind="stable")
        score = np.zeros(len(order))
        facts: dict[str, Float] = {}
        first = 0
        while first < len(order):
            width = int(self.test.lengths[order[min(first + _LANES, len(order)) - 1]])
            lanes = max(1, min(_LANES, _LOGITS_AT_ONCE // (width * self.info.output_size)))
            rows = order[first : first + lanes]
            tokens, mask = self.test.rows(rows, int(self.test.lengths[rows].max()))
            found, said = self._scores(policy, rows, tokens, mask)
            score[rows] = found
            for name, values in said.items():
                facts.setdefault(name, np.full(len(order), math.nan))[rows] = values
            first += lanes
        return Episodes(score, {**facts, "text_length": self.test.lengths.astype(float)})

    def _rows(self, dataset: Dataset, split: str) -> Sequence[Row]:
        return [row for row in dataset.splits[split] if self._own is None or row.answer in self._own]

    def shown(self, count: int) -> list[str]:
        """The first `count` training rows as they were read, each on a line, what is scored in brackets."""
        return [" ".join(f"{row.prompt} [{row.answer}]".split()) for row in self.train_rows[:count]]

    @abstractmethod
    def sheet(self, seed: int) -> Sheet:
        """The test rows as they were read."""

    @abstractmethod
    def _written(self, rows: Sequence[Row]) -> Written:
        """The rows as ids."""

    @abstractmethod
    def _floors(self) -> dict[str, float]:
        """Scores of what needs no skill, by name."""

    @abstractmethod
    def _scores(self, policy: Predictor, rows: Integer, tokens: Integer, mask: Bool) -> tuple[Float, dict[str, Float]]:
        """Scores (B,) and facts of test rows `rows` (B,), written as tokens and mask (B, T)."""

    def _teacher_forced(self, policy: Predictor, tokens: Integer) -> Float:
        """Logits (B, T - 1, V) for all tokens (B, T) but the first."""
        logits, _ = policy.logits(tokens[:, :-1].copy(), policy.initial_state(len(tokens)))
        return np.asarray(logits)

    def _shots(self, seed: int, shots: int) -> Integer:
        drawn = seeding.generator(seed, "local text", self.name, "shots").permutation(len(self.train))
        return drawn[:shots]


def fixed_choice(rows: Sequence[Row], most: int, purpose: str) -> Sequence[Row]:
    """At most so many of the rows, the same ones each time, in their order."""
    if len(rows) <= most:
        return rows
    drawn = seeding.generator(0, "local text", "fixed choice", purpose).permutation(len(rows))[:most]
    return [rows[number] for number in sorted(drawn.tolist())]


class _Answering(LocalTask):
    """Rows with an answer, which may be long (`_cuts_answers`) or is one of few."""

    _cuts_answers = False

    @abstractmethod
    def _answer(self, row: Row) -> list[int]:
        """The answer as ids."""

    def _written(self, rows: Sequence[Row]) -> Written:
        found = []
        for row in rows:
            ids, answer = self._encoding.encode(row.prompt), self._answer(row)
            kept = ids[-self._longest :] if self._question_last else ids[: self._longest]
            said = answer[: self._longest] if self._cuts_answers else answer
            whole = max(len(ids), len(answer)) if self._cuts_answers else len(ids)
            found.append(([BOS, *self._cue, *kept, ANS, *said, EOS], len(said) + 1, whole))
        return Written(found)


class ChoiceTask(_Answering):
    """A text and one of few answers. Answers are codes of two symbols, or (`verbal`) their own words.

    Of an answer in several tokens each is predicted among those that go on with what precedes it in one of the task's answers. That needs
    no decoding: the first wrong token makes it wrong, and up to there the text is what was predicted.
    """

    def __init__(
        self, name: str, info: TaskInfo, dataset: Dataset, encoding: Encoding, *, labels: Sequence[str] | None, verbal: bool, **options: Any
    ) -> None:
        self._labels = dataset.labels if labels is None else tuple(labels)
        self._spoken = {label.lower(): label for label in self._labels}
        if not verbal and len(dataset.labels) > MOST_CODES:
            count = len(dataset.labels)
            raise UserError(f"task '{name}': there are codes for {MOST_CODES} answers, its data set has {count}; give stream.verbal=true")
        made = {label: tuple(encoding.encode(label)) for label in self._labels} if verbal else codes(dataset.labels)
        self._code = {label: made[label] for label in self._labels}
        if len(set(self._code.values())) < len(self._code) or not all(self._code.values()):
            raise UserError(f"task '{name}': two of its answers are written alike; give stream.tokens=bytes or stream.verbal=false")
        ways: dict[tuple[int, ...], set[int]] = {}
        for code in self._code.values():
            for at, token in enumerate((*code, EOS)):
                ways.setdefault(code[:at], set()).add(token)
        self._next = {before: np.array(sorted(tokens)) for before, tokens in ways.items()}
        super().__init__(name, info, dataset, encoding, labels=labels, **options)

    def sheet(self, seed: int) -> Sheet:
        choices = list(self._labels)
        rows = [{"prompt": row.prompt, "choices": choices, "answer": choices.index(row.answer)} for row in self.test_rows]
        return Sheet("choice", rows)

    def _answer(self, row: Row) -> list[int]:
        return list(self._code[row.answer])

    def _shots(self, seed: int, shots: int) -> Integer:
        drawn = super()._shots(seed, len(self.train))
        left = Counter({label: shots for label in self._labels})
        chosen = []
        for number in drawn.tolist():
            label = self.train_rows[number].answer
            if left[label]:
                left[label] -= 1
                chosen.append(number)
        return np.array(chosen)

    def _floors(self) -> dict[str, float]:
        answers = [row.answer for row in self.test_rows]
        common = Counter(row.answer for row in self.train_rows).most_common(1)[0][0]
        floors = {"uniform": 1 / len(self._labels), "majority": sum(answer == common for answer in answers) / len(answers)}
        if self._question_last:
            asked: dict[str, Counter[str]] = {}
            for row in self.train_rows:
                asked.setdefault(_question(row.prompt), Counter())[row.answer] += 1
            said = {question: answers.most_common(1)[0][0] for question, answers in asked.items()}
            guesses = [said.get(_question(row.prompt), common) for row in self.test_rows]
            floors["question only"] = sum(guess == answer for guess, answer in zip(guesses, answers, strict=True)) / len(answers)
            last = [self._last_mentioned(row.prompt) or common for row in self.test_rows]
            floors["last mentioned"] = sum(guess == answer for guess, answer in zip(last, answers, strict=True)) / len(answers)
        return floors

    def _last_mentioned(self, prompt: str) -> str | None:
        return next((self._spoken[word] for word in reversed(words(prompt)) if word in self._spoken), None)

    def _scores(self, policy: Predictor, rows: Integer, tokens: Integer, mask: Bool) -> tuple[Float, dict[str, Float]]:
        logits = self._teacher_forced(policy, tokens)
        score, free = np.ones(len(rows)), np.zeros(len(rows), dtype=bool)
        for n, row in enumerate(rows.tolist()):
            code = self._code[self.test_rows[row].answer]
            at = int(self.test.lengths[row]) - len(code) - 2  # of the logits for the first token of the answer
            own = logits[n, at : at + len(code) + 1]
            wanted = (*code, EOS)
            free[n] = own.argmax(axis=1).tolist() == list(wanted)
            for step, token in enumerate(wanted):
                ways = self._next[code[:step]]
                if ways[own[step, ways].argmax()] != token:
                    score[n] = 0.0
                    break
        facts = {"exact": free_running_exact(policy, tokens, mask, free, _LANES)}
        ages = [self.test_rows[row].age for row in rows.tolist()]
        if any(age is not None for age in ages):
            facts["support_age"] = np.array([math.nan if age is None else float(age) for age in ages])
        return score, facts


def _question(prompt: str) -> str:
    """The last sentence."""
    return prompt.rstrip("?. ").rpartition(".")[2].strip()


class AnswerTask(_Answering):
    """A text and another text. `measure` "tokens": the share of right tokens, teacher forced; else one of `measures`, of a free run.

    An answer longer than `longest` is cut, and a free run ends there.
    """

    _cuts_answers = True

    def __init__(self, name: str, info: TaskInfo, dataset: Dataset, encoding: Encoding, *, measure: str = "tokens", **options: Any) -> None:
        if measure != "tokens" and measure not in MEASURES:
            raise unknown_name("measure", measure, ["tokens", *MEASURES], "stream.measure")
        self._measure = measure
        super().__init__(name, info, dataset, encoding, **options)

    def sheet(self, seed: int) -> Sheet:
        return Sheet("generation", [{"prompt": row.prompt, "answer": row.answer} for row in self.test_rows])

    def _answer(self, row: Row) -> list[int]:
        return self._encoding.encode(row.answer)

    def _right(self, rows: Sequence[Row]) -> list[list[str] | list[int]]:
        return [self._encoding.said(self._answer(row)[: self._longest]) for row in rows]

    def _floors(self) -> dict[str, float]:
        if self._measure != "tokens":
            measure, wanted = MEASURES[self._measure], self._right(self.test_rows)
            often = Counter(tuple(answer) for answer in self._right(self.train_rows)).most_common(_CONSTANT_ANSWERS)
            return {"constant": max(float(np.mean([measure(said, right) for right in wanted])) for said, _ in often)}
        answers, wanted = ([self._answer(row)[: self._longest] for row in rows] for rows in (self.train_rows, self.test_rows))
        common: dict[int, Counter[int]] = {}
        for answer in answers:
            for at, token in enumerate((*answer, EOS)):
                common.setdefault(at, Counter())[token] += 1
                common.setdefault(-1, Counter())[token] += 1
        best = {at: counter.most_common(1)[0][0] for at, counter in common.items()}
        before: dict[int, Counter[int]] = {}
        for answer in answers:
            for left, token in zip((ANS, *answer), (*answer, EOS), strict=True):
                before.setdefault(left, Counter())[token] += 1
        after = {left: counter.most_common(1)[0][0] for left, counter in before.items()}

        def level(right: list[list[bool]]) -> float:
            return float(np.mean([np.mean(one) for one in right]))

        wanted = [[*answer, EOS] for answer in wanted]
        return {
            "majority": level([[token == best[-1] for token in answer] for answer in wanted]),
            "majority by position": level([[token == best.get(at, best[-1]) for at, token in enumerate(answer)] for answer in wanted]),
            "majority by token before": level(
                [[token == after.get(left, best[-1]) for left, token in zip((ANS, *answer), answer, strict=False)] for answer in wanted]
            ),
        }

    def _scores(self, policy: Predictor, rows: Integer, tokens: Integer, mask: Bool) -> tuple[Float, dict[str, Float]]:
        right = self._teacher_forced(policy, tokens).argmax(axis=2) == tokens[:, 1:]
        scored = mask[:, 1:]
        score = (right & scored).sum(axis=1) / scored.sum(axis=1)
        whole = (right | ~scored).all(axis=1)
        facts = {"exact": free_running_exact(policy, tokens, mask, whole, _LANES), "answer_length": scored.sum(axis=1) - 1.0}
        if self._measure == "tokens":
            return score, facts
        given = mask.argmax(axis=1)
        wanted = self._right([self.test_rows[row] for row in rows.tolist()])
        said = [self._encoding.said(ids) for ids in generated(policy, tokens, given, self._longest)]
        alike = {name: np.array([measure(*pair) for pair in zip(said, wanted, strict=True)]) for name, measure in MEASURES.items()}
        facts |= {"tokens": score, "f1": alike["f1"], "rouge_l": alike["rouge-l"], "same_words": alike["exact"]}
        return alike[self._measure], facts


class DocumentTask(LocalTask):
    """Plain text in documents of `longest` bytes, or of about so many pieces, all of which is to be predicted."""

    def __init__(self, name: str, info: TaskInfo, dataset: Dataset, encoding: Encoding, **options: Any) -> None:
        if encoding.unit == "words":
            raise UserError(
                f"task '{name}' is plain text, which is not read in words; give stream.tokens=bytes or the folder of a tokenizer, "
                "or leave it out with stream.tasks"
            )
        super().__init__(name, info, dataset, encoding, **options)
        self._bytes = np.array([len(_bytes_of(row.prompt, encoding)) for row in self.test_rows])

    def shown(self, count: int) -> list[str]:
        texts = (_bytes_of(row.prompt, self._encoding).decode("utf-8", "replace") for row in self.train_rows[:count])
        return [f"[{' '.join(text.split())}]" for text in texts]

    def sheet(self, seed: int) -> Sheet:
        return Sheet("text", [{"text": _bytes_of(row.prompt, self._encoding).decode("utf-8", "replace")} for row in self.test_rows])

    def _rows(self, dataset: Dataset, split: str) -> Sequence[Row]:
        text = "\n".join(row.prompt for row in dataset.splits[split])
        if self._encoding.unit != "bytes":
            return [Row(part) for part in self._encoding.cut(text, self._longest)]
        data = text.encode("utf-8", "surrogatepass")
        return [Row(data[at : at + self._longest].decode("latin-1")) for at in range(0, len(data), self._longest)]

    def _ids(self, row: Row) -> list[int]:
        if self._encoding.unit != "bytes":
            return self._encoding.encode(row.prompt)
        return [FIRST + byte for byte in row.prompt.encode("latin-1")]

    def _written(self, rows: Sequence[Row]) -> Written:
        found = [self._ids(row) for row in rows]
        return Written([([BOS, *self._cue, *ids], len(ids), min(len(ids), self._longest)) for ids in found])

    def _floors(self) -> dict[str, float]:
        """Bytes or pieces alike, and by how often each occurs in training, one counted for each that never did."""
        kinds = self._encoding.size - FIRST
        seen, asked = (np.bincount(written.asked - FIRST, minlength=kinds) for written in (self.train, self.test))
        size = sum(len(_bytes_of(row.prompt, self._encoding)) for row in self.test_rows)
        level = -float((asked * np.log2((seen + 1) / (seen + 1).sum())).sum() / size)
        return {"uniform": 1 - math.log2(kinds) * int(asked.sum()) / size / 8, "unigram": 1 - level / 8}

    def _scores(self, policy: Predictor, rows: Integer, tokens: Integer, mask: Bool) -> tuple[Float, dict[str, Float]]:
        needed = (bits(policy, tokens) * mask[:, 1:]).sum(axis=1) / self._bytes[rows]
        return 1 - needed / 8, {"bits_per_byte": needed}


def _bytes_of(prompt: str, encoding: Encoding) -> bytes:
    """A document's bytes; where these are what is read, each stands as one character."""
    return prompt.encode("latin-1") if encoding.unit == "bytes" else prompt.encode("utf-8", "replace")
