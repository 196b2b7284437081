"""Each task's answer is derived again from the tokens alone, by code that shares nothing with the generator."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clbench.experience import JointSource, Text
from clbench.task_streams.language.algorithmic import generators
from clbench.task_streams.language.generation import BUCKETS, Draws, Examples, bucket, drafts, key, mix
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS, PAD, vocabulary

PROFILES = ("smoke", "standard")
CASES = [(profile, name) for profile in PROFILES for name in generators(profile)]
CUE = 16


def source(profile: str, name: str, split: str = "train", seed: int = 7) -> Examples:
    return Examples(generators(profile)[name], split, seed, CUE)


def pairs(items: list[int]) -> list[tuple[int, int]]:
    return list(zip(items[::2], items[1::2], strict=True))


def look_up(prompt: list[int], answer: list[int], size: int = 2) -> list[int]:
    """The answer with every value replaced by the last one that the prompt writes under the same key of `size` - 1 tokens."""
    held = {tuple(prompt[i : i + size - 1]): prompt[i + size - 1] for i in range(0, len(prompt), size)}
    out = []
    for i in range(0, len(answer), size):
        asked = answer[i : i + size - 1]
        out += [*asked, held[tuple(asked)]]
    return out


def chase(prompt: list[int], answer: list[int]) -> list[int]:
    letters = {vocabulary().id(name) for name in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    held, i = {}, 0
    while i < len(prompt):
        if prompt[i] not in letters:  # noise
            i += 1
            continue
        held[prompt[i]] = held.get(prompt[i + 1], prompt[i + 1])  # a name must have been set before it is used
        assert prompt[i + 1] not in letters or prompt[i + 1] in held
        i += 2
    return [token for asked, _ in pairs(answer) for token in (asked, held[asked])]


def by_frequency(prompt: list[int], answer: list[int]) -> list[int]:
    return [token for token, _ in Counter(prompt).most_common()][: len(answer)]


def runs(prompt: list[int]) -> list[int]:
    return [token for token, before in zip(prompt, [None, *prompt], strict=False) if token != before]


def size_of_record(profile: str) -> int:
    return {"smoke": 3, "standard": 5}[profile]


SOLVE = {
    "copy": lambda x, a, p: x,
    "reverse": lambda x, a, p: x[::-1],
    "shift-left": lambda x, a, p: x[1:] + x[:1],
    "swap-ends": lambda x, a, p: [x[-1], *x[1:-1], x[0]],
    "duplicate-each": lambda x, a, p: [token for token in x for _ in range(2)],
    "drop-repeats": lambda x, a, p: runs(x),
    "sort": lambda x, a, p: sorted(set(x)),
    "freq-sort": lambda x, a, p: by_frequency(x, a),
    "recall": lambda x, a, p: look_up(x, a),
    "last-write": lambda x, a, p: look_up(x, a),
    "dictionary": lambda x, a, p: look_up(x, a, size_of_record(p)),
    "variable-chase": lambda x, a, p: chase(x, a),
    "count-symbol": lambda x, a, p: [vocabulary().id(str(x[:-2].count(x[-1])))],
    "max-symbol": lambda x, a, p: [max(x)],
}


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_answers_are_right(profile: str, name: str) -> None:
    tokens, mask, lengths = source(profile, name).examples(np.arange(60))
    legal = set(generators(profile)[name].legal.tolist())
    for row, marks, length in zip(tokens.tolist(), mask.tolist(), lengths.tolist(), strict=True):
        text, marks = row[:length], marks[:length]
        assert row[length:] == [PAD] * (len(row) - length) and PAD not in text
        assert text[:2] == [BOS, CUE] and text[-1] == EOS and text.count(ANS) == 1
        at = text.index(ANS)
        prompt, answer = text[2:at], text[at + 1 : -1]
        assert answer == SOLVE[name](prompt, answer, profile)
        assert not any(marks[: at + 1]) and marks[-1]
        assert {token for token, marked in zip(answer, marks[at + 1 : -1], strict=True) if marked} <= legal


def test_binding_tasks_mark_values_only_and_others_the_whole_answer() -> None:
    for name, generator in generators("smoke").items():
        draft = drafts(generator, "train", 1, np.arange(5))
        inside = np.arange(generator.answer_size) < draft.answer_length[:, None]
        if name in {"recall", "last-write", "variable-chase"}:
            assert (draft.scored == (np.arange(generator.answer_size) % 2 == 1)).all()
        elif name == "dictionary":
            assert (draft.scored == (np.arange(generator.answer_size) % 3 == 2)).all()
        else:
            assert (draft.scored == inside).all()


def test_freq_sort_counts_differ_and_drift() -> None:
    draft = drafts(generators("smoke")["freq-sort"], "train", 3, np.arange(300))
    for prompt in draft.prompt.tolist():
        count = [prompt.count(symbol) for symbol in range(100, 106)]
        assert len(set(count)) == 6
    early, late = draft.prompt[:, :10], draft.prompt[:, -10:]
    same = np.mean([np.intersect1d(a, b).size for a, b in zip(early, late, strict=True)])
    halves = np.mean([np.intersect1d(a, b).size for a, b in zip(early[:, :5], early[:, 5:], strict=True)])
    assert same < 6 and halves < same  # more tokens share more symbols; a drifting law still shares some


def test_sequence_is_that_of_the_reference_implementation() -> None:
    # splitmix64.c of Vigna with seed 1234567: its first five outputs
    gamma = 0x9E3779B97F4A7C15
    state = np.array([(1234567 + n * gamma) % 2**64 for n in range(1, 6)], dtype=np.uint64)
    assert mix(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_named_draws_are_uniform_and_independent() -> None:
    draws = Draws(key("test"), np.arange(20_000), np.zeros(20_000))
    first, second = draws.integers("a", 10, 3), draws.integers("b", 10, 3)
    assert np.abs(np.bincount(first.ravel(), minlength=10) / 60_000 - 0.1).max() < 0.006  # 5 standard errors
    joint = np.bincount((first * 10 + second).ravel(), minlength=100) / 60_000
    assert np.abs(joint - 0.01).max() < 0.0025
    assert np.abs(np.corrcoef(np.concatenate([first, first[1:][[*range(19_999), 0]]], axis=1)[:, [0, 1, 3]].T)[0, 1:]).max() < 0.04
    places = draws.permutations("c", 4)
    assert (np.sort(places, axis=1) == np.arange(4)).all()
    assert np.abs(np.bincount(places[:, 0], minlength=4) / 20_000 - 0.25).max() < 0.016


@pytest.mark.parametrize("name", list(generators("smoke")))
@pytest.mark.parametrize("split", ["train", "test"])
def test_any_example_can_be_made_alone(name: str, split: str) -> None:
    examples = source("smoke", name, split)
    index = np.array([5, 0, 123_456_789, 17, 5, 2**40])
    together = examples.examples(index)
    for place, number in enumerate(index):
        alone = examples.examples(np.array([number]))
        for whole, part in zip(together, alone, strict=True):
            assert (whole[place] == part[0]).all()


def test_no_examples_are_an_empty_batch() -> None:
    examples = source("smoke", "recall")
    tokens, mask, lengths = examples.examples(np.arange(0))
    assert tokens.shape == mask.shape == (0, examples.longest) and lengths.shape == (0,)


def test_examples_are_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from clbench.task_streams.language.algorithmic import generators;"
        "from clbench.task_streams.language.generation import Examples;"
        "print(Examples(generators('smoke')['recall'], 'train', 3, 18).examples(np.arange(4))[0].tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "11"})
    here = Examples(generators("smoke")["recall"], "train", 3, 18).examples(np.arange(4))[0].tolist()
    assert out.stdout.strip() == str(here)


@pytest.mark.parametrize("name", list(generators("smoke")))
def test_splits_are_disjoint_by_the_hash_of_the_input(name: str) -> None:
    generator = generators("smoke")[name]
    seen = {}
    for split, (first, past) in BUCKETS.items():
        parts = [drafts(generator, split, seed, np.arange(400)) for seed in (0, 1)]
        places = np.concatenate([bucket(draft) for draft in parts])
        assert first <= places.min() and places.max() < past
        seen[split] = {
            (tuple(p), tuple(np.where(s, PAD, a))) for d in parts for p, a, s in zip(d.prompt.tolist(), d.answer, d.scored, strict=True)
        }
    assert not seen["test"] & (seen["train"] | seen["support"] | seen["validation"])
    assert not seen["validation"] & (seen["train"] | seen["support"])


def test_hash_sees_the_input_only_and_ignores_padding() -> None:
    draft = drafts(generators("smoke")["recall"], "train", 0, np.arange(50))
    other_values = replace(draft, answer=np.where(draft.scored, draft.answer + 1, draft.answer))
    assert (bucket(other_values) == bucket(draft)).all()
    wider = replace(draft, prompt=np.pad(draft.prompt, ((0, 0), (0, 3))))
    assert (bucket(wider) == bucket(draft)).all()
    other_query = replace(draft, answer=np.where(draft.scored, draft.answer, draft.answer[:, [2, 3, 0, 1, *range(4, 8)]]))
    assert (bucket(other_query) != bucket(draft)).any()


def test_seeds_and_splits_draw_different_examples() -> None:
    rows = [source("smoke", "copy", split, seed).examples(np.arange(50))[0] for split, seed in (("train", 0), ("train", 1), ("support", 0))]
    assert all((a != b).any(axis=1).mean() > 0.95 for a, b in ((rows[0], rows[1]), (rows[0], rows[2])))


def test_joint_source_takes_turns() -> None:
    parts = [source("smoke", name) for name in ("recall", "copy", "freq-sort")]
    tokens, mask, lengths = JointSource(parts).examples(np.arange(9))
    assert tokens.shape == (9, max(part.longest for part in parts))
    for number in range(9):
        alone = parts[number % 3].examples(np.array([number // 3]))
        assert tokens[number, : lengths[number]].tolist() == alone[0][0, : alone[2][0]].tolist()
        assert mask[number].sum() == alone[1].sum()


def test_windows_hand_out_the_texts() -> None:
    examples = source("smoke", "reverse")
    text = Text(examples, 0)
    text.meter.grant(8)
    tokens, _, starts = text.windows(8, text.longest)
    assert starts.all() and (tokens == examples.examples(np.arange(8))[0]).all() and text.remaining == 0


def digest(profile: str, name: str) -> str:
    arrays = [part for split in ("train", "test") for part in source(profile, name, split).examples(np.arange(32))]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part, dtype="<i8").tobytes() for part in arrays)).hexdigest()[:16]


def test_examples_are_those_of_this_version_of_the_stream() -> None:
    # A difference here is a new version of the stream. New lines: print digest(profile, name).
    golden = dict(line.split() for line in (Path(__file__).parent / "golden_examples.txt").read_text().splitlines())
    assert {f"{profile}/{name}": digest(profile, name) for profile, name in CASES} == golden


@pytest.mark.parametrize("size, count", [(1, 1), (7, 7), (9, 3), (40, 1), (40, 9), (1600, 4), (1600, 0)])
def test_choices_are_the_beginning_of_a_permutation(size, count):
    draws = Draws(key("choices"), np.arange(300), np.zeros(300, dtype=np.int64))
    assert np.array_equal(draws.choices("c", size, count), draws.permutations("c", size)[:, :count])
