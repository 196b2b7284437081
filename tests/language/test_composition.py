"""Composed functions of strings: answers made again by Python's own lists, controls, levels, and the stream."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from clbench.configuration import stream_named
from clbench.errors import UserError
from clbench.task_streams.language import composition
from clbench.task_streams.language.composition import COMPONENTS, COMPOSED, CONTROLS, HELD_OUT, OTHERS, generators, order
from clbench.task_streams.language.generation import Examples, bucket, drafts
from clbench.task_streams.language.stream import composition_stream
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS, SYMBOLS, vocabulary

SIZES = {"low": 3, "high": 7, "symbols": 10}


def swapped(x):
    return [*x[len(x) // 2 :], *x[: len(x) // 2]]


FUNCTIONS = {
    "op:copy": lambda x: x,
    "op:reverse": lambda x: x[::-1],
    "op:interleave": swapped,
    "op:shift-left": lambda x: [*x[1:], x[0]],
    "op:filter": lambda x: x[1:],
    "op:sort": sorted,
    "op:decrement": lambda x: sorted(x, reverse=True),
    "op:increment": lambda x: [each + 1 if each + 1 < SYMBOLS.start + SIZES["symbols"] else SYMBOLS.start for each in x],
    "op:rotate": lambda x: swapped(x)[::-1],
    "op:mirror": lambda x: FUNCTIONS["op:shift-left"](x[::-1]),
    "op:complement": lambda x: swapped(FUNCTIONS["op:shift-left"](x)),
    "op:merge": lambda x: FUNCTIONS["op:shift-left"](swapped(x))[::-1],
}


def texts(name, control="none", rows=40, split="train"):
    (generator,) = generators([name], control=control, **SIZES)
    tokens, mask, lengths = Examples(generator, split, 3, None).examples(np.arange(rows))
    return [(row[:length].tolist(), scored[:length]) for row, scored, length in zip(tokens, mask, lengths, strict=True)]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_codes_say_what_is_done_from_the_last_to_the_first(control):
    for name in [*order(control), *HELD_OUT]:
        if name == "cipher":
            continue
        for row, scored in texts(name, control):
            at = row.index(ANS)
            codes = [vocabulary().name(token) for token in row[1:at] if token not in SYMBOLS]
            found = string = [token for token in row[1:at] if token in SYMBOLS]
            assert row[0] == BOS and row[-1] == EOS and row[1 : 1 + len(codes)] == [vocabulary().id(code) for code in codes]
            assert len(codes) == (1 if control == "relabel" and name in COMPOSED else len(name.split("-")))
            assert SIZES["low"] <= len(string) <= SIZES["high"]
            for code in reversed(codes):
                found = FUNCTIONS[code](found)
            assert row[at + 1 : -1] == list(found) and np.flatnonzero(scored).tolist() == list(range(at + 1, len(row)))


def test_a_cipher_is_one_permutation_in_which_nothing_stays():
    found = {}
    for row, _ in texts("cipher", "unrelated"):
        at = row.index(ANS)
        for one, other in zip(row[2:at], row[at + 1 : -1], strict=True):
            assert found.setdefault(one, other) == other != one
    assert sorted(found) == sorted(found.values()) == list(range(SYMBOLS.start, SYMBOLS.start + SIZES["symbols"]))


def test_controls_share_the_compositions_and_their_strings():
    assert order("unrelated")[4:] == order("none")[4:] == order("relabel")[4:] == list(COMPOSED) and set(order("unrelated")[:4]) == set(
        OTHERS
    )
    for name in COMPOSED:
        one, other = (generators([name], control=control, **SIZES)[0] for control in ("none", "unrelated"))
        assert one == other and composition.floor(one) == composition.floor(other)


def test_splits_are_disjoint():
    for name in (*COMPONENTS, *COMPOSED, *OTHERS):
        (generator,) = generators([name], control="none", **SIZES)
        for split, (first, past) in (("train", (0, 8)), ("validation", (8, 9)), ("test", (9, 10))):
            found = bucket(drafts(generator, split, 1, np.arange(200)))
            assert first <= found.min() and found.max() < past


def test_levels_need_no_skill():
    (rev, copy, drop) = generators(["rev", "copy", "drop"], control="none", low=4, high=4, symbols=64)
    # of four that are nearly all different: one of 4, 3, 2, 1 left
    assert composition.floor(rev) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2 + 1) / 4, abs=0.02)
    assert composition.floor(copy) == pytest.approx(composition.floor(rev), abs=0.02)  # saying the string again is the skill itself
    assert composition.floor(drop) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3, abs=0.02)
    (drop,) = generators(["drop"], control="none", low=2, high=2, symbols=4)
    assert composition.floor(drop) == pytest.approx(1 / 2 + 1 / 8, abs=0.05)


@pytest.mark.parametrize("budget", ["smoke", "standard", "paper"])
@pytest.mark.parametrize("name", ["comp", "comp-alphabets", "comp-unrelated", "comp-relabel"])
def test_streams_are_what_they_were(name, budget):
    """Golden: tasks, first examples and floors; a change is a new version."""
    stream = stream_named(name, budget)
    assert [task.name for task in stream.tasks] == order(stream.options["control"], stream.options.get("alphabets", 1))
    assert len(stream.few_shot.tasks) == 5 and all(task.scale[0] <= 0.6 for task in stream.tasks)
    digest = hashlib.sha256()
    for task in (*stream.tasks, *stream.few_shot.tasks):
        tokens = task._test_set(0)[0]
        digest.update(np.ascontiguousarray(tokens[:50]).astype("<i8").tobytes())
    assert digest.hexdigest()[:12] == GOLDEN[name, budget]


def test_score_0_counts_the_commonest_answers_where_that_is_asked_for():
    own, everything = (
        composition_stream(name="x", version=1, budget="b", tasks=["rev", "up"], held_out=[], alphabets=2, symbols=8, floor=each)
        for each in ("shortcuts", "all")
    )
    assert own.tasks[1].scale[0] == 0.0 and everything.tasks[1].scale[0] > 0.2
    for task in everything.tasks:
        assert task.scale[0] == max(task.floors().values())
    with pytest.raises(UserError, match="floor 'none'"):
        composition_stream(name="x", version=1, budget="b", floor="none")


GOLDEN = {
    ("comp", "smoke"): "7bfa4bb6bf79",
    ("comp", "standard"): "34f3afec8235",
    ("comp", "paper"): "521407cb6c10",
    ("comp-alphabets", "smoke"): "997d49d1d6ca",
    ("comp-alphabets", "standard"): "a5cfa2201c06",
    ("comp-alphabets", "paper"): "fc8cd4c92fb6",
    ("comp-unrelated", "smoke"): "07f6ca3f7a56",
    ("comp-unrelated", "standard"): "2b95ad437160",
    ("comp-unrelated", "paper"): "5ef53b0f624c",
    ("comp-relabel", "smoke"): "317b297d3963",
    ("comp-relabel", "standard"): "34ab275fe5e7",
    ("comp-relabel", "paper"): "f0a7994857c1",
}


def test_the_list_may_be_lived_through_again():
    stream = composition_stream(name="comp", version=1, budget="smoke", tasks=["copy", "rev"], repeats=2, units=100, points=2)
    assert stream.name == "comp-2-times" and [phase.columns for phase in stream.phases] == [(0,), (1,), (0,), (1,)]
    assert stream.few_shot.after == (-1, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"control": "some"}, "control"),
        ({"tasks": ["revswap"]}, "rev-swap"),
        ({"tasks": ["rev-"]}, "composition"),
        ({"low": 1}, "expected 2 <= low <= high, got 1 and 6"),
        ({"low": 9}, "expected 2 <= low <= high, got 9 and 6"),
        ({"symbols": 65}, "symbols must be 2 to 64, got 65"),
        ({"repeats": 0}, "must be > 0"),
        ({"units": 0}, "must be > 0"),
    ],
)
def test_wrong_requests_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        composition_stream(name="comp", version=1, budget="smoke", **options)
