"""What a text task owes: its levels, its experience, its two ways of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clbench.errors import ContractError, UserError
from clbench.experience import Text
from clbench.task_streams.language import algorithms
from clbench.task_streams.language.algorithmic import BINDING, EXAMPLES, FLOORS, HELD_OUT, STREAM, generators, tasks
from clbench.task_streams.language.generation import Examples
from clbench.task_streams.language.task import HIGHEST_FLOOR, TextTask, decode
from clbench.task_streams.language.vocabulary import ANS, BOS, EOS, vocabulary

Integer = NDArray[np.integer[Any]]
V = vocabulary().size
SMOKE = tuple(generators("smoke"))


def task_of(name: str, identity: str = "cued") -> TextTask:
    (task,) = tasks("smoke", [name], identity=identity)
    return task


def texts(task: TextTask, seed: int) -> tuple[Integer, Integer]:
    tokens, mask, _ = Examples(generators("smoke")[task.name], "test", seed, vocabulary().id(f"op:{task.name}")).examples(np.arange(256))
    return tokens, mask


class Prefix:
    """A predictor whose state is all it has read; `next_token` maps prefixes (B, n) to tokens (B,)."""

    calls = 0

    def initial_state(self, batch: int) -> Integer:
        return np.zeros((batch, 0), dtype=np.int64)

    def next_token(self, prefix: Integer) -> Integer:
        raise NotImplementedError

    def logits(self, tokens: Integer, state: Integer) -> tuple[NDArray[np.float32], Integer]:
        self.calls += 1
        read = np.concatenate([state, tokens], axis=1)
        logits = np.zeros((*tokens.shape, V), dtype=np.float32)
        for position in range(tokens.shape[1]):
            chosen = self.next_token(read[:, : state.shape[1] + position + 1])
            logits[np.arange(len(tokens)), position, chosen] = 1
        return logits, read


class Oracle(Prefix):
    """Knows the continuation of every prefix of `known`."""

    def __init__(self, known: Integer) -> None:
        self.after = {tuple(row[:n]): row[n] for row in known.tolist() for n in range(1, len(row))}

    def next_token(self, prefix: Integer) -> Integer:
        return np.array([self.after.get(tuple(row), 0) for row in prefix.tolist()])


class Scrambler(Prefix):
    """Any token of the vocabulary, as a fixed function of the last two tokens and the position."""

    def next_token(self, prefix: Integer) -> Integer:
        before = prefix[:, -2] if prefix.shape[1] > 1 else 0
        return (prefix[:, -1] * 31 + before * 17 + prefix.shape[1]) % 40 + 90


class LooksAhead(Prefix):
    """Answers with the next token of the call itself; for the last token of a call it has nothing."""

    def logits(self, tokens: Integer, state: Integer) -> tuple[NDArray[np.float32], Integer]:
        logits = np.zeros((*tokens.shape, V), dtype=np.float32)
        ahead = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), EOS)], axis=1)
        np.put_along_axis(logits, ahead[:, :, None], 1, axis=2)
        return logits, state


class Noise:
    def initial_state(self, batch: int) -> np.random.Generator:
        return np.random.default_rng(5)

    def logits(self, tokens: Integer, state: np.random.Generator) -> tuple[NDArray[np.float32], np.random.Generator]:
        return state.random((*tokens.shape, V), dtype=np.float32), state


@pytest.mark.parametrize("name", SMOKE)
def test_an_oracle_scores_one_and_its_free_run_is_exact(name: str) -> None:
    task = task_of(name)
    tokens, mask = texts(task, 3)
    oracle = Oracle(tokens)
    episodes = task.evaluate(oracle, 3)
    assert episodes.score.shape == (256,) and (episodes.score == 1).all()
    assert all((episodes.facts[fact] == 1).all() for fact in ("exact", "teacher_forced_exact"))
    assert (episodes.facts["answer_length"] == mask.sum(axis=1) - 1).all()
    assert oracle.calls <= 1 + (mask.any(axis=0)).sum() or name in {"recall", "last-write", "dictionary", "variable-chase"}
    assert oracle.calls <= 100


@pytest.mark.parametrize("name", SMOKE)
def test_a_noisy_predictor_scores_as_guessing_among_legal_answers(name: str) -> None:
    task = task_of(name)
    episodes = task.evaluate(Noise(), 0)
    level = 1 / len(generators("smoke")[name].legal)
    error = np.sqrt(level * (1 - level) / episodes.facts["answer_length"].sum())
    assert abs(np.average(episodes.score, weights=episodes.facts["answer_length"]) - level) < 4 * error
    assert task.floors()["uniform"] == pytest.approx(level) and episodes.score.mean() < task.scale[0]
    assert episodes.facts["exact"].mean() < 0.02


def test_evaluation_depends_on_its_seed_alone() -> None:
    task, other = task_of("reverse"), task_of("reverse")
    task.evaluate(Scrambler(), 8)
    task.experience(4)
    scores = [task.evaluate(Scrambler(), 9), other.evaluate(Scrambler(), 9)]
    assert (scores[0].score == scores[1].score).all() and (scores[0].facts["text_length"] == scores[1].facts["text_length"]).all()
    assert (scores[0].facts["text_length"] != other.evaluate(Scrambler(), 10).facts["text_length"]).any()


@pytest.mark.parametrize("name", ["copy", "recall"])
def test_lockstep_decoding_equals_decoding_each_lane_alone(name: str) -> None:
    tokens, mask = (part[:12] for part in texts(task_of(name), 1))
    together = decode(Scrambler(), tokens, mask)
    for row, marks, found in zip(tokens, mask, together, strict=True):
        written = row.copy()
        for position in np.flatnonzero(marks):
            written[position] = Scrambler().next_token(written[None, :position])[0]
        assert (written == found).all()


@pytest.mark.parametrize("name", ["sort", "recall"])
def test_partly_right_answers_are_scored_by_hand(name: str) -> None:
    task = task_of(name)
    tokens, mask = texts(task, 2)
    damaged = tokens.copy()
    first = mask.argmax(axis=1)  # the first scored token of each text
    rows = np.arange(len(tokens))[::2]
    legal = generators("smoke")[name].legal
    damaged[rows, first[rows]] = np.where(tokens[rows, first[rows]] == legal[0], legal[1], legal[0])
    oracle = Oracle(tokens)
    for row, right, at in zip(damaged[::2], tokens[::2], first[::2], strict=True):
        oracle.after[tuple(right[:at].tolist())] = row[at]
    episodes = task.evaluate(oracle, 2)
    length = episodes.facts["answer_length"]
    # teacher forced, one of the answer's tokens is wrong in every other text
    assert episodes.score[::2] == pytest.approx(((length - 1) / length)[::2]) and (episodes.score[1::2] == 1).all()
    assert (episodes.facts["exact"] == np.arange(256) % 2).all()
    assert (episodes.facts["teacher_forced_exact"] == episodes.facts["exact"]).all()


def test_what_is_wrong_when_teacher_forced_is_not_decoded() -> None:
    task = task_of("reverse")
    scrambler = Scrambler()
    task.evaluate(scrambler, 0)
    assert scrambler.calls == 1


def test_looking_ahead_helps_when_teacher_forced_but_not_in_the_free_run() -> None:
    facts = task_of("copy").evaluate(LooksAhead(), 0).facts
    assert facts["teacher_forced_exact"].mean() > 0.5 and facts["exact"].mean() == 0


def test_a_wrong_format_costs_exact_match_but_not_the_score() -> None:
    task = task_of("reverse")
    tokens, _ = texts(task, 0)
    oracle = Oracle(tokens)

    class Hesitant(Oracle):
        """Prefers ANS to every answer, and knows the answer in second place."""

        def logits(self, tokens: Integer, state: Integer) -> tuple[NDArray[np.float32], Integer]:
            logits, after = oracle.logits(tokens, state)
            logits[:, :, ANS] = 2
            return logits, after

    episodes = task.evaluate(Hesitant(tokens), 0)
    assert (episodes.score == 1).all() and not episodes.facts["exact"].any() and not episodes.facts["teacher_forced_exact"].any()


def test_evaluation_shows_predictors_arrays_of_their_own() -> None:
    class Vandal(Scrambler):
        def logits(self, tokens: Integer, state: Integer) -> tuple[NDArray[np.float32], Integer]:
            result = super().logits(tokens.copy(), state)
            tokens[:] = 0
            return result

    task = task_of("copy")
    assert (task.evaluate(Vandal(), 0).score == task_of("copy").evaluate(Scrambler(), 0).score).all()
    assert (task.evaluate(Scrambler(), 0).score == task_of("copy").evaluate(Scrambler(), 0).score).all()


@pytest.mark.parametrize("name", SMOKE)
def test_frozen_floor_is_the_best_baseline_and_leaves_room(name: str) -> None:
    task = task_of(name)
    levels = task.floors()
    assert levels == task.floors()
    assert {"uniform", "majority"} < set(levels) and all(0 <= level <= 1 for level in levels.values())
    assert max(levels.values()) == pytest.approx(FLOORS["smoke"][name], abs=1e-4)
    assert task.scale == (FLOORS["smoke"][name], 1.0) and task.scale[0] <= HIGHEST_FLOOR


@pytest.mark.parametrize("name", ["recall", "copy", "swap-ends", "duplicate-each", "max-symbol"])
def test_frozen_floor_of_standard_sizes(name: str) -> None:
    (task,) = tasks("standard", [name])
    assert max(task.floors().values()) == pytest.approx(FLOORS["standard"][name], abs=1e-4)


def test_elimination_level_of_recall_is_the_one_derived_by_hand() -> None:
    # 6 distinct values, 4 asked: (1/6 + 1/5 + 1/4 + 1/3) / 4
    assert task_of("recall").floors()["unused"] == pytest.approx((1 / 6 + 1 / 5 + 1 / 4 + 1 / 3) / 4)


def test_echo_level_of_swap_ends_is_the_one_derived_by_hand() -> None:
    # all but the ends is right, and the ends where both are the same of 16: lengths 3, 4, 5 give 1/3, 2/4, 3/5 + (2/L)/16
    level = np.mean([(n - 2) / n + 2 / n / 16 for n in (3, 4, 5)])
    assert task_of("swap-ends").floors()["echo"] == pytest.approx(level, abs=0.015)


def test_a_task_that_can_be_guessed_is_refused() -> None:
    easy = algorithms.Rearrangement("swap-ends", algorithms.ends_swapped, 10, 12, 16)
    with pytest.raises(ContractError, match=r"swap-ends: the best shortcut scores 0\.8\d+, expected at most 0\.6"):
        TextTask(easy, cue=None, test_examples=10)


def test_all_profiles_list_what_they_have() -> None:
    for profile in STREAM:
        named = {*STREAM[profile], *HELD_OUT[profile]}
        assert named <= set(generators(profile)) == set(FLOORS[profile]) and set(STREAM[profile]) <= set(EXAMPLES[profile]) <= set(
            generators(profile)
        )
        assert not set(STREAM[profile]) & set(HELD_OUT[profile])
        for name, generator in generators(profile).items():
            assert generator.name == name and generator.legal.max() < V
            vocabulary().id(f"op:{name}")
    for table in EXAMPLES.values():
        assert {table[name] for name in BINDING} == {max(table.values())}


def test_shots_are_prefixes_of_one_another_and_repeat() -> None:
    task = task_of("shift-left")
    full = task.experience(5, shots=20)
    full.meter.grant(20)
    twenty = {tuple(row) for row in full.windows(20, full.longest)[0].tolist()}
    few = task.experience(5, shots=5)
    few.meter.grant(15)
    five = [tuple(row) for row in few.windows(15, few.longest)[0].tolist()]
    assert len(set(five)) == 5 and set(five) < twenty
    assert all(set(five[turn : turn + 5]) == set(five) for turn in (0, 5, 10))
    assert not twenty & {tuple(row) for row in texts(task, 5)[0].tolist()}
    other = task.experience(6, shots=20)
    other.meter.grant(20)
    assert twenty != {tuple(row) for row in other.windows(20, other.longest)[0].tolist()}


def test_joint_experience_mixes_tasks_in_equal_shares() -> None:
    parts = [task.experience(0) for task in tasks("smoke", ["copy", "recall", "sort"])]
    joint = Text.joint(parts, 0)
    joint.meter.grant(30)
    tokens, mask, _ = joint.windows(30, joint.longest)
    cues = [vocabulary().name(cue) for cue in tokens[:, 1]]
    assert cues == ["op:copy", "op:recall", "op:sort"] * 10 and mask.any(axis=1).all()


def test_identity_reaches_the_agent_only_where_the_variant_says_so() -> None:
    def opening(task: TextTask) -> list[int]:
        experience = task.experience(0)
        experience.meter.grant(1)
        return experience.windows(1, 2)[0][0].tolist()

    names = ["copy", "recall"]
    cued, blind, told = (tasks("smoke", names, identity=identity) for identity in ("cued", "blind", "oracle-id"))
    assert [(t.info.index, t.info.num_tasks) for t in cued] == [(None, 1)] * 2
    assert [(t.info.index, t.info.num_tasks) for t in blind] == [(None, 1)] * 2
    assert [(t.info.index, t.info.num_tasks) for t in told] == [(0, 2), (1, 2)]
    assert cued[0].info.experience == "text" and cued[0].info.input_size == cued[0].info.output_size == 512
    assert opening(cued[1]) == opening(told[1]) == [BOS, vocabulary().id("op:recall")]
    assert opening(blind[1])[1] != vocabulary().id("op:recall")
    assert blind[1].evaluate(Scrambler(), 0).score.shape == (256,)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown algorithmic task 'revers'\. Did you mean reverse"):
        tasks("smoke", ["revers"])
    with pytest.raises(UserError, match="Unknown profile 'smok'"):
        tasks("smok", ["reverse"])
    with pytest.raises(UserError, match="Unknown identity 'oracle'"):
        tasks("smoke", ["reverse"], identity="oracle")


def test_vocabulary_is_frozen() -> None:
    words = vocabulary()
    assert words.size == len(set(words.names)) == 512
    assert words.hash == (Path(__file__).parent / "golden_vocabulary.txt").read_text().strip()
    assert [words.id(name) for name in ("<pad>", "<bos>", "<eos>", "<ans>", "op:copy", "0", "A", "s00", "s63")] == [
        0,
        1,
        2,
        3,
        16,
        64,
        74,
        100,
        163,
    ]
    assert words.render([BOS, 16, 100, ANS, 100, EOS, 0, 0]) == "<bos> op:copy s00 <ans> s00 <eos>"
    with pytest.raises(UserError, match=r"Unknown token 'op:copi'\. Did you mean op:copy"):
        words.id("op:copi")
    with pytest.raises(IndexError, match=r"token id must be in \[0, 512\), got 512"):
        words.name(512)


def test_tuning_is_scored_on_texts_that_no_table_uses():
    (table,), (tuning,) = (tasks("smoke", ["sort"], scored_on=split) for split in ("test", "validation"))
    shown, other = table._test_set(5)[0], tuning._test_set(5)[0]
    assert not {tuple(row) for row in shown} & {tuple(row) for row in other}
