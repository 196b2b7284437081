"""One language task: examples out, scores of a predictor in, and the levels that need no skill.

A predictor is scored twice on the same test examples. Teacher forced: the argmax over the task's legal answers, from one call with the
whole text; this is the score, so that a forgotten answer format is not mistaken for a forgotten skill. Free running: greedy decoding over
the whole vocabulary, token by token, each lane fed the text where it is given and its own prediction where it is scored; `exact` is 1
where every scored token and <eos> were right. For a causal deterministic predictor the free-running exact match equals the teacher-forced
one (both are right as long as the prefix is), so a difference shows a predictor that looks ahead or whose windows matter.
Source: spec 2.6 and 2.9; guards 9.3, 9.4 and 9.15.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from clbench.errors import ContractError, unknown_name
from clbench.experience import Text, TextSource
from clbench.interfaces import Episodes, Predictor, TaskInfo

from . import generation
from .export import Sheet
from .generation import AGE_BINS, LONG_AGO, Bool, Draft, Examples, Float, Integer
from .vocabulary import BOS, EOS, vocabulary

IDENTITIES = ("cued", "blind", "oracle-id")
HIGHEST_FLOOR = 0.6  # of the ceiling; above it a task says too little (guard 9.4)
_FLOOR_TOKENS = 1 << 20  # at most 2,048 examples
_FLOOR_SEED = 2**31  # no evaluation seed of a stream
_LOGITS_AT_ONCE = 1 << 25  # numbers held at a time, 128 MiB


class Generator(generation.Generator, Protocol):
    """Draws examples of one task and knows what can be had without the skill."""

    @property
    def legal(self) -> Integer:
        """The ids that can be answers."""
        ...

    def shortcuts(self, draft: Draft) -> Mapping[str, Float]:
        """By name the chance (R, A) of each answer being right."""
        ...


def task_info(index: int | None = None, num_tasks: int = 1) -> TaskInfo:
    """What an agent may know of a task over the generated streams' vocabulary."""
    size = vocabulary().size
    return TaskInfo(index, num_tasks, "text", size, size, tokens=vocabulary().names)


class TextTask:
    """Implements `clbench.interfaces.Task` over generated examples; `scale` runs from the best shortcut to 1.

    `cue`: the op-code that opens each text, None where the task stays unsaid. `info.index` is None but in the oracle-id variant.
    `floor`: the frozen level of the best shortcut; measured here if not given. `scored_on`: the split of the scored examples.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        cue: int | None,
        test_examples: int,
        floor: float | None = None,
        scored_on: str = "test",
        index: int | None = None,
        num_tasks: int = 1,
    ) -> None:
        self.name = generator.name
        self.info = task_info(index, num_tasks)
        self._generator, self._cue, self._test_examples, self._scored_on = generator, cue, test_examples, scored_on
        floor = max(self.floors().values()) if floor is None else floor
        if floor > HIGHEST_FLOOR:
            raise ContractError(
                f"{self.name}: the best shortcut scores {floor:.3f}, expected at most {HIGHEST_FLOOR}: choose sizes with less to guess"
            )
        self.scale = (floor, 1.0)
        self._test: tuple[int, Integer, Bool, Integer | None, Float | None] | None = None

    def experience(self, seed: int, *, shots: int | None = None) -> Text:
        """Training examples, unbounded; with `shots`, the first `shots` of the support examples that `seed` draws.

        Support examples have a stream of their own within the training buckets, so that none of them is a test input.
        """
        split = "train" if shots is None else "support"
        return Text(Examples(self._generator, split, seed, self._cue), seed, count=shots)

    def evaluate(self, policy: Predictor, seed: int) -> Episodes:
        """Constrained token accuracy of each test example, teacher forced.

        Facts: `exact`, free-running exact match; `teacher_forced_exact`; `answer_length`, scored tokens without <eos>; `text_length`, all
        tokens; where the generator knows how deep what is asked stands, `depth`; where it knows ages, `said_1_ago`, `said_3_to_4_ago` and
        so on: the accuracy among what was last said so many statements ago, NaN where an example has nothing of that age.
        """
        tokens, mask, ages, depth = self._test_set(seed)
        graded = mask & np.isin(tokens, self._generator.legal)  # all but <eos>
        lanes = max(1, _LOGITS_AT_ONCE // (tokens.shape[1] * self.info.output_size))
        parts = [slice(first, first + lanes) for first in range(0, len(tokens), lanes)]
        answers = [self._constrained(policy, tokens[part], mask[part]) for part in parts]
        right = np.concatenate([legal for legal, _ in answers]) & graded  # (n, T)
        forced = np.concatenate([whole for _, whole in answers])  # (n,)
        facts = {
            "exact": free_running_exact(policy, tokens, mask, forced, lanes),
            "teacher_forced_exact": forced.astype(float),
            "answer_length": graded.sum(axis=1).astype(float),
            "text_length": (tokens != Examples.pad).sum(axis=1).astype(float),
        }
        if ages is not None:
            facts |= {name: _mean(right, graded & of) for name, of in _by_age(ages, graded)}
        if depth is not None:
            facts["depth"] = depth
        return Episodes(_mean(right, graded), facts)

    def sheet(self, seed: int) -> Sheet:
        """The test examples in the names of tokens, a question for each stretch of the answer that has to be said."""
        tokens, mask, *_ = self._test_set(seed)
        rows = []
        for number, (text, scored) in enumerate(zip(tokens.tolist(), mask, strict=True)):
            at = np.flatnonzero(scored & (tokens[number] != EOS))
            for stretch in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1):
                prompt, answer = text[1 : stretch[0]], text[stretch[0] : stretch[-1] + 1]
                rows.append({"example": number, "prompt": vocabulary().render(prompt), "answer": vocabulary().render(answer)})
        return Sheet("generation", rows)

    def shown(self, count: int) -> list[str]:
        """The first `count` validation examples in the names of tokens, what is scored in brackets."""
        return shown(Examples(self._generator, "validation", 0, self._cue), count)

    def _constrained(self, policy: Predictor, tokens: Integer, mask: Bool) -> tuple[Bool, Bool]:
        """Where the likeliest legal answer is the text's (B, T), and whether over the whole vocabulary all masked tokens are (B,)."""
        logits, _ = policy.logits(tokens[:, :-1].copy(), policy.initial_state(len(tokens)))
        logits = np.asarray(logits)
        wanted, legal = tokens[:, 1:], self._generator.legal
        right = np.zeros(tokens.shape, dtype=bool)
        right[:, 1:] = legal[logits[:, :, legal].argmax(axis=2)] == wanted
        return right, ((logits.argmax(axis=2) == wanted) | ~mask[:, 1:]).all(axis=1)

    def _test_set(self, seed: int) -> tuple[Integer, Bool, Integer | None, Float | None]:
        """The test examples of `seed`, the ages of their scored tokens in order, and depths; the last set is kept, as a run asks often."""
        if self._test is None or self._test[0] != seed:
            source = Examples(self._generator, self._scored_on, seed, self._cue)
            draft = source.drafts(np.arange(self._test_examples))
            tokens, mask, _ = source.text(draft)
            self._test = (seed, tokens, mask, None if draft.age is None else draft.age[draft.scored], draft.depth)
        return self._test[1:]

    def floors(self) -> dict[str, float]:
        """By name the accuracy of every scripted baseline on one fixed set of test inputs; the highest is the floor of `scale`.

        `uniform` over the legal answers; `majority`: the commonest answer of training; `majority by position`: the commonest one at the
        same place of the answer to a prompt of the same length; `majority by answer before`: at the same place, behind the same token;
        then the task's own shortcuts.
        """
        index = np.arange(min(2048, _FLOOR_TOKENS // self._generator.longest_pair))
        test = Examples(self._generator, "test", _FLOOR_SEED, self._cue).drafts(index)
        train = Examples(self._generator, "train", _FLOOR_SEED, self._cue).drafts(index)
        place = np.arange(test.answer.shape[1])
        longest = self._generator.prompt_size + 1

        def position(draft: Draft) -> Integer:
            return place * longest + draft.prompt_length[:, None]

        def before(draft: Draft) -> Integer:
            previous = np.concatenate([np.full((len(draft.answer), 1), BOS), draft.answer[:, :-1]], axis=1)
            return place * vocabulary().size + previous

        levels: dict[str, Float] = {
            "uniform": np.full(test.answer.shape, 1 / len(self._generator.legal)),
            "majority": commonest(0 * train.answer, train, 0 * test.answer) == test.answer,
            "majority by position": commonest(position(train), train, position(test)) == test.answer,
            "majority by answer before": commonest(before(train), train, before(test)) == test.answer,
            **self._generator.shortcuts(test),
        }
        scored = test.scored.sum(axis=1)
        return {name: float(((level * test.scored).sum(axis=1) / scored).mean()) for name, level in levels.items()}


def _mean(right: Bool, among: Bool) -> Float:
    """The share (n,) of `among` (n, T) that is right; NaN where there is none."""
    count = among.sum(axis=1)
    return np.where(count, (right & among).sum(axis=1) / np.maximum(count, 1), np.nan)


def _by_age(ages: Integer, graded: Bool) -> Iterator[tuple[str, Bool]]:
    """By name the graded tokens (n, T) of each bin of `ages` (m,), which are those of the graded tokens in order."""
    of = np.zeros(graded.shape, dtype=np.int64)
    of[graded] = ages
    for first, last in AGE_BINS:
        span = f"{first}_to_{last}" if last < LONG_AGO else f"{first}_or_more"
        yield f"said_{first if first == last else span}_ago", (first <= of) & (of <= last)


def announced(
    generator: Generator, code: str, floor: float, *, identity: str, place: int, tasks: int, test_examples: int, scored_on: str
) -> TextTask:
    """The task that the op-code `code` announces, number `place` of `tasks`, as far as `identity` has it said.

    `cued`: the op-code opens the text. `blind`: nothing tells tasks apart. `oracle-id`: the op-code, and `info.index` is the place.
    """
    if identity not in IDENTITIES:
        raise unknown_name("identity", identity, IDENTITIES, "stream.identity")
    told = identity == "oracle-id"
    return TextTask(
        generator,
        cue=None if identity == "blind" else vocabulary().id(code),
        test_examples=test_examples,
        floor=floor,
        scored_on=scored_on,
        index=place if told else None,
        num_tasks=tasks if told else 1,
    )


def shown(source: TextSource, count: int) -> list[str]:
    """The first `count` examples of `source` as a person reads them, what is scored in brackets."""
    tokens, mask, _ = source.examples(np.arange(count))
    return [bracketed(text, scored) for text, scored in zip(tokens, mask, strict=True)]


def bracketed(tokens: Integer, mask: Bool) -> str:
    """A text (T,) as a person reads it: names of tokens between <bos> and <eos>, stretches of what is scored in brackets."""
    inside = (tokens != Examples.pad) & (tokens != BOS) & (tokens != EOS)
    words: list[str] = []
    before = False
    for token, scored in [*zip(tokens[inside].tolist(), mask[inside].tolist(), strict=True), (None, False)]:
        if before and not scored:
            words[-1] += "]"
        if token is not None:
            words.append(("[" if scored and not before else "") + vocabulary().name(token))
        before = scored
    return " ".join(words)


def best_shortcut(generator: Generator, rows: int) -> float:
    """The accuracy of the best of the generator's own shortcuts on `rows` fixed test examples."""
    draft = generation.drafts(generator, "test", _FLOOR_SEED, np.arange(rows))
    return max(float(level[draft.scored].mean()) for level in generator.shortcuts(draft).values())


def commonest(context: Integer, draft: Draft, asked: Integer) -> Integer:
    """The scored answer most often seen in each context `asked` (n, A), from contexts (R, A) of `draft`; the overall one where unseen."""
    size = vocabulary().size
    seen = context[draft.scored] * size + draft.answer[draft.scored]
    pairs, count = np.unique(seen, return_counts=True)
    where, token = pairs // size, pairs % size
    order = np.lexsort((token, -count, where))  # the commonest token of a context first
    known, first = np.unique(where[order], return_index=True)
    best = token[order][first]
    overall = np.bincount(draft.answer[draft.scored]).argmax()
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[at] == asked, best[at], overall)


def bits(policy: Predictor, tokens: Integer) -> Float:
    """Bits (B, T - 1) that `policy` needs for all of tokens (B, T) but the first, each behind all before it."""
    logits, _ = policy.logits(tokens[:, :-1].copy(), policy.initial_state(len(tokens)))
    logits = np.asarray(logits).astype(np.float64)
    highest = logits.max(axis=2, keepdims=True)
    norm = np.log(np.exp(logits - highest).sum(axis=2)) + highest[:, :, 0]
    return (norm - np.take_along_axis(logits, tokens[:, 1:, None], axis=2)[:, :, 0]) / np.log(2)


def free_running_exact(policy: Predictor, tokens: Integer, mask: Bool, forced: Bool, lanes: int) -> Float:
    """1 for each text (B, T) whose masked tokens the free run of `policy` writes as they are, `lanes` texts at a time.

    A text that is wrong when teacher forced is wrong in the free run as well, so that only those `forced` (B,) are decoded.
    """
    exact, alike = np.zeros(len(tokens)), np.flatnonzero(forced)
    for rows in (alike[first : first + lanes] for first in range(0, len(alike), lanes)):
        exact[rows] = (decode(policy, tokens[rows], mask[rows]) == tokens[rows]).all(axis=1)
    return exact


def decode(policy: Predictor, tokens: Integer, mask: Bool) -> Integer:
    """Texts (B, T) with the masked tokens replaced by the greedy free run of `policy`.

    All lanes go in step: one call for what is given in every lane, then one call a token, in which a lane is fed its text where it is
    given and its own prediction where it is masked. So lanes with prompts of different lengths share their calls.
    """
    written = tokens.copy()
    used = np.flatnonzero(mask.any(axis=0))
    first, last = int(used[0]), int(used[-1])
    state: Any = policy.initial_state(len(tokens))
    fed = written[:, :first].copy()
    for position in range(first, last + 1):
        logits, state = policy.logits(fed, state)
        predicted = np.asarray(logits)[:, -1].argmax(axis=1)
        written[:, position] = np.where(mask[:, position], predicted, tokens[:, position])
        fed = written[:, position : position + 1].copy()
    return written


def generated(policy: Predictor, tokens: Integer, given: Integer, longest: int) -> list[list[int]]:
    """What the greedy free run of `policy` says behind the first `given` (B,) of tokens (B, T): up to `longest` ids, or until <eos>.

    All lanes go in step, as in `decode`.
    """
    first, lanes = int(given.min()), np.arange(len(tokens))
    said: list[list[int]] = [[] for _ in tokens]
    open_ = np.ones(len(tokens), dtype=bool)
    state: Any = policy.initial_state(len(tokens))
    fed = tokens[:, :first].copy()
    for position in range(first, int(given.max()) + longest):
        logits, state = policy.logits(fed, state)
        predicted = np.asarray(logits)[:, -1].argmax(axis=1)
        free = position >= given
        for lane in lanes[free & open_].tolist():
            open_[lane] = predicted[lane] != EOS and len(said[lane]) < longest
            if open_[lane]:
                said[lane].append(int(predicted[lane]))
        if not open_.any():
            break
        fed = np.where(free, predicted, tokens[lanes, np.minimum(position, tokens.shape[1] - 1)])[:, None].astype(np.int64)
    return said
