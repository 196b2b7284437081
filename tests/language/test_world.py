"""Stories of a small world: every answer is found again from the words alone, and what knows only the order of words is at its floor."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from clbench.configuration import stream_named
from clbench.errors import UserError
from clbench.task_streams.language import wording, world
from clbench.task_streams.language.generation import AGE_BINS, Draws, Examples, bucket, drafts, key
from clbench.task_streams.language.stories import World
from clbench.task_streams.language.stream import world_stream
from clbench.task_streams.language.vocabulary import EOS, PAD, vocabulary

SIZES = {"people": 4, "places": 5, "objects": 3, "events": 8}
TURN = {"north": "south", "south": "north", "east": "west", "west": "east"}
WORD = vocabulary().name


def made(family: str, rendering: str = "symbolic", filler: int = 0, **sizes: int) -> World:
    return world.generator(family, rendering=rendering, filler=filler, **{**SIZES, **sizes})


def story(draft, row: int) -> list[tuple[list[str], list[str], list[int]]]:
    """Sentences of one example as words, what is scored of each, and its ages."""
    prompt = draft.prompt[row][: draft.prompt_length[row]]
    answer = draft.answer[row][: draft.answer_length[row]]
    words = [WORD(int(token)) for token in (*prompt, *answer)]
    scored = [False] * len(prompt) + draft.scored[row][: len(answer)].tolist()
    ages = [0] * len(prompt) + draft.age[row][: len(answer)].tolist()
    sentences, begin = [], 0
    for at, word in enumerate(words):
        if word == ".":
            told = slice(begin, at + scored[at])  # a scored stop belongs to what is asked for
            asked = [word for word, mark in zip(words[told], scored[told], strict=True) if mark]
            given = [word for word, mark in zip(words[told], scored[told], strict=True) if not mark]
            sentences.append((given, asked, [age for age in ages[told] if age]))
            begin = at + 1
    assert begin == len(words)
    return sentences


class Reader:
    """Keeps what it is told, in dictionaries, and answers from them."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.now, self.said = 0, {}
        self.at, self.before, self.beside, self.gifts, self.told = {}, {}, {}, [], []

    def hear(self, words: list[str]) -> None:
        self.now += 1
        if self.family == "who-gave-what":
            self.gifts.append((*words, self.now))
        elif self.family in ("direction", "turned-direction", "path"):
            here, way, there = words
            self.told = [each for each in self.told if {each[0], each[2]} != {here, there}] + [(here, way, there)]
            self.beside[there, way], self.beside[here, TURN[way]] = here, there
        else:
            subject, value = words
            if subject in self.at:
                self.before[subject] = self.at[subject]
                assert self.at[subject] != value
            self.at[subject] = value

    def answer(self, words: list[str]) -> list[str]:
        question, *about = words
        if self.family == "where-object":
            return [self.at[self.at[about[0]]]]
        if question in ("where", "who", "likes") and len(about) == 1:
            return [self.at[about[0]]]
        if question == "before":
            return [self.before[about[0]]]
        if question == "is":
            return ["yes" if self.at[about[0]] == about[1] else "no"]
        if question == "many":
            return [str(sum(holder == about[0] for holder in self.at.values()))]
        if question == "all":
            mine = [thing for thing, holder in self.at.items() if holder == about[0]]
            return [*sorted(mine, key=vocabulary().id), "."]
        if self.family.endswith("direction"):
            assert ((*about, self.beside[about[0], TURN[about[1]]]) in self.told) == (self.family == "direction")
            return [self.beside[about[0], TURN[about[1]]]]
        if self.family == "path":
            start, end = about
            ways = [(one, two) for one in TURN for two in TURN if self.beside.get((self.beside.get((start, one)), two)) == end]
            ways = [(one, two) for one, two in ways if two != TURN[one]]
            assert len(ways) == 1
            return list(ways[0])
        role = {"who": 0, "what": 1, "to": 2}[question]
        found = [gift for gift in self.gifts if [each for number, each in enumerate(gift[:3]) if number != role] == about]
        return [found[-1][role]]


@pytest.mark.parametrize("family", world.FAMILIES)
def test_a_reader_with_dictionaries_is_always_right(family):
    draft = drafts(made(family), "test", 5, np.arange(200))
    questions = 0
    for row in range(200):
        reader = Reader(family)
        for given, asked, ages in story(draft, row):
            if asked:
                assert reader.answer(given) == asked, (given, asked)
                assert len(set(ages)) == 1
                questions += 1
            else:
                reader.hear(given)
    assert questions == 200 * SIZES["events"]


@pytest.mark.parametrize("family", [each for each in world.FAMILIES if each != "count-held"])
def test_large_worlds_are_told_as_well(family):
    """As many places and objects as there are words for, and few people who have them all."""
    generator = made(family, people=2, places=len(wording.ANIMALS), objects=len(wording.OBJECTS), events=30)
    draft = drafts(generator, "train", 1, np.arange(10))
    for row in range(10):
        reader = Reader(family)
        for given, asked, _ in story(draft, row):
            if asked:
                assert reader.answer(given) == asked
            else:
                reader.hear(given)


@pytest.mark.parametrize("family", ["where-person", "who-holds", "yes-no"])
def test_ages_count_statements_since_what_answers_was_last_mentioned(family):
    draft = drafts(made(family), "train", 2, np.arange(100))
    for row in range(100):
        told, number = {}, 0
        for given, asked, ages in story(draft, row):
            if not asked:
                number += 1
                told[given[0]] = number
                continue
            subject = given[1]
            assert ages == [number - told[subject]] and ages[0] >= 1
            if family != "yes-no" or asked == ["yes"]:  # "no" does not say where
                told[subject] = number


@pytest.mark.parametrize("family", world.FAMILIES)
def test_words_are_only_the_rendering(family):
    """The same draws in sentences and in symbols have the same answers, of the same ages, one after another."""
    draws = Draws(key("t"), np.arange(64), np.zeros(64, dtype=np.int64))
    symbols, text = (made(family, rendering).draw(draws) for rendering in ("symbolic", "text"))
    assert (symbols.answer[symbols.scored] == text.answer[text.scored]).all()
    assert (symbols.age[symbols.scored] == text.age[text.scored]).all()
    lengths = text.prompt_length + text.answer_length
    assert (lengths > symbols.prompt_length + symbols.answer_length).all()
    assert lengths.max() <= made(family, "text").longest_pair


WOMEN = {"Mary", "Sandra", "Julie", "Emily", "Lily", "Winona", "Gertrude", "Anna", "Laura", "Nora", "Clara", "Irene", "Rosa", "Tessa"}


@pytest.mark.parametrize("family", world.FAMILIES)
def test_a_pronoun_is_who_was_named_first_in_the_statement_before(family):
    draws = Draws(key("t"), np.arange(32), np.zeros(32, dtype=np.int64))
    text, spoken = (made(family, rendering, people=16).draw(draws) for rendering in ("text", "pronouns"))
    people, count = {WORD(int(token)) for token in wording.PEOPLE}, 0
    for row in range(32):
        expected, before = [], None
        for given, asked, ages in story(text, row):
            named = [number for number, word in enumerate(given) if word in people]
            first = given[named[0]] if named else None
            if not asked:
                if first and first == before:
                    given[named[0]] = "she" if first in WOMEN else "he"
                    count += 1
                before = first
            expected.append((given, asked, ages))
        assert story(spoken, row) == expected
    assert (count > 0) == (family not in {"direction", "turned-direction", "path"})


@pytest.mark.parametrize("filler", [8, 61])
def test_filler_stands_between_statements_and_changes_nothing_else(filler):
    draws = Draws(key("t"), np.arange(64), np.zeros(64, dtype=np.int64))
    bare, filled = made("where-object").draw(draws), made("where-object", filler=filler).draw(draws)
    background = set(wording.FILLER.tolist())
    kept = set(np.concatenate([wording.PEOPLE, wording.PLACES, wording.OBJECTS, wording.ANIMALS]).tolist())
    assert not background & kept
    assert (filled.prompt_length + filled.answer_length == bare.prompt_length + bare.answer_length + filler).all()
    in_prompt = (np.isin(filled.prompt, wording.FILLER)).sum(axis=1)
    assert 0 < in_prompt.mean() < filler  # some before the first question and some behind
    for row in range(64):
        texts = []
        for draft in (bare, filled):
            sentences = [(given, asked) for given, asked, _ in story(draft, row)]
            texts.append([each for each in sentences if not each[0] or vocabulary().id(each[0][0]) not in background])
        rest = [each for each in texts[1] if each != ([], [])]  # the end of a sentence that was cut off
        assert rest == texts[0]
    assert filled.answer[filled.scored].tolist() == bare.answer[bare.scored].tolist()


@pytest.mark.parametrize("family", ["where-person", "where-was-before", "who-holds", "what-likes", "direction"])
def test_what_was_mentioned_last_is_right_by_chance_in_every_bin_of_age(family):
    generator = made(family, people=6, places=6, objects=6, events=12)
    draft = drafts(generator, "test", 1, np.arange(1500))
    last = generator.shortcuts(draft)["mentioned 1 ago"]
    for first, until in AGE_BINS:
        of = draft.scored & (first <= draft.age) & (draft.age <= until)
        assert of.sum() > 150
        assert last[of].mean() < 1 / 6 + 4 * np.sqrt(5 / 36 / of.sum())


def test_ages_are_drawn_evenly_where_they_can_be_had():
    draft = drafts(made("where-person", people=12, places=8, events=24), "test", 1, np.arange(300))
    late = np.flatnonzero(draft.scored.any(axis=0))[12:]
    ages = draft.age[:, late][draft.scored[:, late]]
    shares = [((first <= ages) & (ages <= until)).mean() for first, until in AGE_BINS]
    assert min(shares) > 0.15 and max(shares) < 0.25


@pytest.mark.parametrize("family", world.FAMILIES)
def test_floors_leave_something_to_learn(family):
    generator = made(family)
    level = world.floor(generator)
    assert 1 / len(generator.legal) <= level <= 0.6
    assert world.floor(replace(generator, filler=64)) == level


@pytest.mark.parametrize("family", world.FAMILIES)
def test_splits_are_apart_and_answers_are_balanced(family):
    generator = made(family)
    places = {split: set(bucket(drafts(generator, split, 3, np.arange(50))).tolist()) for split in ("train", "validation", "test")}
    assert places["train"] <= set(range(8)) and places["validation"] == {8} and places["test"] == {9}
    draft = drafts(generator, "train", 3, np.arange(1000))
    share = np.bincount(draft.answer[draft.scored], minlength=512)[generator.legal] / draft.scored.sum()
    most = {"count-held": 0.5, "list-held": 0.6}.get(family, 1.5 / len(generator.legal))
    assert share.max() <= most and share.min() > 0


@pytest.mark.parametrize("sizes", world.FLOORS)
def test_frozen_floors_are_what_is_measured(sizes):
    people, places, objects, events = sizes
    for family, level in world.FLOORS[sizes].items():
        if people > 4 and family not in ("where-person", "count-held", "direction"):
            continue  # the others take long
        generator = made(family, people=people, places=places, objects=objects, events=events)
        assert world.floor(generator) == level == round(world.measured_floor(generator), 4)


GOLDEN = {"smoke": "03a75c133632", "standard": "a11f89cdf635", "paper": "8e4bac65dee4"}


@pytest.mark.parametrize("budget", GOLDEN)
def test_examples_are_what_they_were(budget):
    """A change here is a new version of the stream."""
    stream = stream_named("world-qa", budget)
    digest = hashlib.sha256()
    for task in (*stream.tasks, *stream.few_shot.tasks):
        digest.update(repr((task.name, round(task.scale[0], 12))).encode())
        if task._generator.filler <= 256:  # the others are long, and differ in the number of filler tokens only
            tokens, _, _ = Examples(task._generator, "test", 0, task._cue).examples(np.arange(8))
            digest.update(np.ascontiguousarray(tokens).astype("<i8").tobytes())
    assert digest.hexdigest()[:12] == GOLDEN[budget]


def test_columns_are_families_by_filler():
    stream = world_stream(
        name="w", version=1, budget="b", tasks=["yes-no", "path"], fillers=[0, 16], probed=[32], units={"yes-no": 5, "path": 7}
    )
    assert [task.name for task in stream.tasks] == ["yes-no", "yes-no+16", "yes-no+32", "path", "path+16", "path+32"]
    assert [(phase.columns, phase.units) for phase in stream.phases] == [((0, 1), 5), ((3, 4), 7)]
    assert [task.name for task in stream.few_shot.tasks] == ["list-held"]
    assert {task.info.index for task in stream.tasks} == {None}
    told = world_stream(name="w", version=1, budget="b", tasks=["yes-no", "path"], identity="oracle-id")
    assert told.name == "w-oracle-id" and [task.info.index for task in (*told.tasks, *told.few_shot.tasks)] == [0, 1, 2]
    blind = world_stream(name="w", version=1, budget="b", tasks=["yes-no"], identity="blind")
    assert blind.name == "w-blind" and blind.tasks[0]._test_set(0)[0].shape[1] == told.tasks[0]._test_set(0)[0].shape[1] - 1  # no op-code


def test_a_list_of_families_may_be_lived_through_again_and_a_phase_alone():
    options = {"name": "w", "version": 1, "budget": "b", "tasks": ["yes-no", "path"], "fillers": [0, 16], "units": 10}
    twice = world_stream(**options, repeats=2)
    assert (twice.name, twice.family) == ("w-2-times", "w")
    assert [phase.columns for phase in twice.phases] == [(0, 1), (2, 3)] * 2
    assert twice.few_shot is not None and twice.few_shot.after == (-1, 3)
    once = world_stream(**options)
    assert [twice.seed("evaluation", task) for task in twice.tasks] == [once.seed("evaluation", task) for task in once.tasks]
    alone = world_stream(**options, only=2)
    assert [phase.columns for phase in alone.phases] == [(2, 3)] and alone.name == "w-only-2"
    with pytest.raises(UserError, match=r"only must name a task that a phase begins with, one of \[0, 2\], got 1"):
        world_stream(**options, only=1)
    with pytest.raises(UserError, match="repeats must be > 0, got 0"):
        world_stream(**options, repeats=0)


class Certain:
    """Predicts the text itself, but for labels said `wrong` statements ago or more."""

    def __init__(self, task, seed: int, wrong: int) -> None:
        self.tokens, mask, ages, _ = task._test_set(seed)
        graded = mask & (self.tokens != EOS)
        self.says = self.tokens.copy()
        miss = np.zeros(graded.shape, dtype=bool)
        miss[graded] = ages >= wrong
        self.says[miss] = PAD

    def initial_state(self, batch: int) -> int:
        return 0

    def logits(self, tokens: np.ndarray, state: int):
        end = state + tokens.shape[1]
        rows = (self.says[: len(tokens)], self.says)[len(tokens) == len(self.says)][:, state + 1 : end + 1]
        out = np.zeros((*tokens.shape, 512))
        np.put_along_axis(out, rows[:, : tokens.shape[1], None], 1.0, axis=2)
        return out, end


def test_accuracy_is_told_by_age():
    task = world_stream(name="w", version=1, budget="b", tasks=["where-person"], test_examples=64).tasks[0]
    facts = task.evaluate(Certain(task, 3, wrong=3), 3).facts
    names = ["said_1_ago", "said_2_ago", "said_3_to_4_ago", "said_5_to_7_ago", "said_8_or_more_ago"]
    assert [name for name in facts if name.startswith("said")] == names
    assert np.nanmin(facts["said_1_ago"]) == np.nanmin(facts["said_2_ago"]) == 1
    assert np.nanmean(facts["said_3_to_4_ago"]) < 0.5
    assert np.isnan(facts["said_8_or_more_ago"]).any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tasks": ["where"]}, "family 'where'"),
        ({"tasks": []}, "expected tasks"),
        ({"tasks": ["path", "path"]}, "each once"),
        ({"fillers": []}, "at least one number in fillers"),
        ({"fillers": [-1]}, "fillers >= 0"),
        ({"people": 1}, "people must be 2 to"),
        ({"places": 2}, "places must be 3 to"),
        ({"objects": 1000}, "objects must be 2 to"),
        ({"tasks": ["count-held"], "objects": 10}, "at most 9 objects"),
        ({"rendering": "prose"}, "rendering 'prose'"),
        ({"identity": "known"}, "identity 'known'"),
        ({"units": {"yes-no": 5}}, "'where-person'"),
        ({"tasks": ["path"], "units": {"path": 5, "yes-no": 5}}, "task in units"),
        ({"test_examples": 0}, "test_examples must be > 0"),
        ({"events": 0}, "events must be > 0"),
    ],
)
def test_wrong_requests_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        world_stream(name="world-qa", version=1, budget="smoke", **options)
