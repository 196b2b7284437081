"""Domains of text whose distribution is known: it is a distribution, it is that of the documents, and reading less is never better."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pytest

from clbench import configuration
from clbench.errors import UserError
from clbench.task_streams.language.domains import CAST, CLOSE, KINDS, NAMES, WHO, WINDOW, Documents, Domain, DomainTask, domain
from clbench.task_streams.language.vocabulary import BOS, vocabulary
from clbench.task_streams.language.wording import PEOPLE

V = vocabulary().size
LENGTH = 96


def written(name: str, count: int = 400, seed: int = 0, length: int = LENGTH) -> np.ndarray:
    return domain(name).documents("test", seed, np.arange(count), length)


@pytest.mark.parametrize("window", [0, WINDOW])
@pytest.mark.parametrize("name", ["base", "mixture", "drift"])
def test_the_chances_of_all_next_tokens_add_up_to_one(name: str, window: int) -> None:
    text = written(name, 3)
    for row in range(3):
        for at in (0, 1, 7, 40, LENGTH - 1):
            every = np.repeat(text[row : row + 1, : at + 1], V, axis=0)
            every[:, -1] = np.arange(V)
            assert np.exp(domain(name).log_chances(every, window)[:, -1]).sum() == pytest.approx(1.0, abs=1e-9)


def counted(text: np.ndarray) -> Counter:
    """By hand, of documents read from their beginnings: how often a pair is opened, and where it could be."""
    found: Counter = Counter()
    for row in text.tolist():
        due, before = None, None
        for token in row:
            if before == CLOSE:
                assert token == due  # the one that belongs to it
                due = None
            elif before == WHO:
                assert token in PEOPLE
            else:
                assert token not in PEOPLE
                found["free open" if due is not None else "free"] += 1
                if token in KINDS:
                    assert due is None  # one at a time
                    due, found["opened"] = token, found["opened"] + 1
                elif token == CLOSE:
                    assert due is not None
                    found["closed"] += 1
                found["asked"] += token == WHO
            before = token
    return found


def test_pairs_close_as_they_were_opened_and_each_document_has_its_people() -> None:
    text = written("base", 500)
    found = counted(text)
    assert found["opened"] / found["free"] == pytest.approx(1 / 16, rel=0.1)
    assert found["closed"] / found["free open"] == pytest.approx(1 / 16, rel=0.1)
    assert found["asked"] / (found["free"] + found["free open"]) == pytest.approx(1 / 8, rel=0.05)
    named = [set(row) & set(PEOPLE.tolist()) for row in text.tolist()]
    assert max(map(len, named)) == CAST and np.mean([len(people) for people in named]) > CAST - 0.1
    assert len(set().union(*named)) == len(PEOPLE)


def test_the_nearsighted_know_nothing_of_what_is_out_of_sight() -> None:
    """A pair opened long ago closes with any kind alike for them, and a name not said in the window is as any that was not."""
    made, window = domain("base"), domain("base").log_chances
    text = written("base", 300, length=128)
    for row in range(300):
        opened, seen = None, {}
        logs = window(text[row : row + 1], WINDOW)[0]
        for at, token in enumerate(text[row].tolist()):
            before = text[row, at - 1] if at else None
            if before == CLOSE:
                near = opened is not None and opened >= at - WINDOW
                assert logs[at] == pytest.approx(0.0 if near else -math.log(8))
            elif token in KINDS:
                opened = at
            if before == WHO:
                known = {name for name, place in seen.items() if place >= at - WINDOW}
                unseen = (CAST - len(known)) / (len(PEOPLE) - len(known))
                assert logs[at] == pytest.approx(math.log((1.0 if token in known else unseen) / CAST))
                seen[token] = at
    assert (made.log_chances(text).mean()) > window(text, WINDOW).mean()


def test_what_is_said_to_be_likely_comes_as_often() -> None:
    """Among tokens that were given a chance between two bounds, so many come: over all next tokens at many places."""
    text = written("base", 60, length=64)
    chances, came = [], []
    for at in (20, 41, 63):
        every = np.repeat(text[:, : at + 1], V, axis=0)
        every[:, -1] = np.tile(np.arange(V), len(text))
        chances.append(np.exp(domain("base").log_chances(every)[:, -1]))
        came.append(every[:, -1] == np.repeat(text[:, at], V))
    chance, real = np.concatenate(chances), np.concatenate(came)
    for low, high in ((0.0005, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 1.0)):
        inside = (chance >= low) & (chance < high)
        expected = chance[inside].sum()
        assert real[inside].sum() == pytest.approx(expected, abs=4 * math.sqrt(expected) + 1)


@pytest.mark.parametrize("name", NAMES)
def test_reading_less_is_never_better_and_no_frequency_is_as_good(name: str) -> None:
    text = written(name)
    train = domain(name).documents("train", 5, np.arange(2000), LENGTH)
    pairs = np.bincount((train[:, :-1] * V + train[:, 1:]).ravel(), minlength=V * V).reshape(V, V) + 0.02
    pair = -np.log2(pairs / pairs.sum(axis=1, keepdims=True))[text[:, :-1], text[:, 1:]].mean()
    whole, near = (-domain(name).log_chances(text, window)[:, 1:].mean() / math.log(2) for window in (0, WINDOW))
    assert whole < near < pair
    assert near - whole > 0.03  # bits a token that only memory gives


def test_the_mixture_is_recognised_as_it_is_read() -> None:
    """Its two kinds are told apart within a few words: that costs the one bit of which it is, and soon nothing more."""
    text = written("base", 300)
    alone, mixed = (-domain(name).log_chances(text) / math.log(2) for name in ("base", "mixture"))
    costs = mixed - alone
    assert costs.sum(axis=1).max() < 1.0 + 1e-9 and costs.sum(axis=1).mean() == pytest.approx(1.0, abs=1e-6)
    assert costs[:, :8].sum(axis=1).mean() > 0.9 and abs(costs[:, 30:]).max() < 1e-3


def test_domains_share_what_their_names_say() -> None:
    base, words, grammar, unrelated, drift = (domain(name).parts[0] for name in ("base", "words", "grammar", "unrelated", "drift"))
    assert (base.after == words.after).all() and (base.after == drift.after).all()
    assert (base.after == grammar.after).mean() < 0.2 and (base.after == unrelated.after).mean() < 0.2
    assert (base.lexicon == grammar.lexicon).all()
    common = [len(set(base.lexicon.tolist()) & set(other.lexicon.tolist())) for other in (words, unrelated, drift)]
    assert common == [16, 16, 27]
    told = base.lexicon[base.slot]  # a document of base in the words of words is as likely there
    text = written("base", 20)
    other = np.where(base.slot[text] >= 0, words.lexicon[base.slot[text]], text)
    assert (told[text[base.slot[text] >= 0]] == text[base.slot[text] >= 0]).all()
    np.testing.assert_allclose(domain("base").log_chances(text), domain("words").log_chances(other))


def test_splits_seeds_and_worlds_differ_and_any_document_can_be_made_alone() -> None:
    made = domain("base")
    whole = made.documents("train", 3, np.arange(40), LENGTH)
    assert (made.documents("train", 3, np.array([7, 31]), LENGTH) == whole[[7, 31]]).all()
    others = [made.documents("test", 3, np.arange(40), LENGTH), made.documents("train", 4, np.arange(40), LENGTH)]
    texts = [tuple(row) for part in (whole, *others) for row in part.tolist()]
    assert len(set(texts)) == len(texts)
    tuned = domain("base", validation=True).parts[0]
    assert (tuned.after == made.parts[0].after).mean() < 0.2


class Knows:
    """A predictor that says the process's own chances, or fixed ones."""

    def __init__(self, domain: Domain | None, fixed: np.ndarray | None = None) -> None:
        self.domain, self.fixed = domain, fixed

    def initial_state(self, batch: int) -> None:
        return None

    def logits(self, tokens: np.ndarray, state: None):
        if self.domain is None:
            return np.broadcast_to(self.fixed, (*tokens.shape, V)), None
        n, length = tokens.shape
        found = np.zeros((n, length, V))
        for at in range(length):
            every = np.repeat(tokens[:, 1 : at + 2], V, axis=0) if at + 1 < length else np.repeat(tokens[:, 1:], V, axis=0)
            every = np.concatenate([every[:, :at], np.tile(np.arange(V), n)[:, None]], axis=1)
            found[:, at] = self.domain.log_chances(every)[:, -1].reshape(n, V)
        return found, None


def test_who_knows_the_process_scores_one_and_who_knows_frequencies_nothing() -> None:
    task = DomainTask(domain("base"), "base", length=64, test_examples=6)
    floor, ceiling = task.scale
    result = task.evaluate(Knows(domain("base")), 0)
    np.testing.assert_allclose(result.facts["bits"], result.facts["bits_oracle"], rtol=1e-6)
    np.testing.assert_allclose(result.facts["bits_names"], result.facts["bits_names_oracle"], rtol=1e-6)
    seen = np.bincount(domain("base").documents("train", 9, np.arange(3000), 64).ravel(), minlength=V) + 1.0
    many = DomainTask(domain("base"), "base", length=64, test_examples=400)
    by_frequency = many.evaluate(Knows(None, np.log(seen)), 0).score.mean()
    assert by_frequency == pytest.approx(floor, abs=0.004)
    assert (1 - many.evaluate(Knows(None, np.log(seen)), 0).facts["bits_oracle"].mean() / 9) == pytest.approx(ceiling, abs=0.004)
    assert many.evaluate(Knows(None, np.zeros(V)), 0).score == pytest.approx(np.zeros(400), abs=1e-9)


def test_all_tokens_but_the_first_are_to_be_predicted() -> None:
    tokens, mask, lengths = Documents(domain("base"), "train", 0, 64).examples(np.arange(3))
    assert tokens.shape == (3, 65) and (tokens[:, 0] == BOS).all() and (lengths == 65).all()
    assert mask[:, 1:].all() and not mask[:, 0].any()


# sha256 of the first hundred test documents of seed 0; a changed one is a new version of the stream
GOLDEN = {
    "base": "00de76a1b2b1287b",
    "words": "fdc7d3e1682cbb5b",
    "grammar": "cd0c038c73739d8c",
    "unrelated": "0fdc7b84f6b6d89b",
    "mixture": "f39d839863ebfb2b",
    "drift": "9f05aed3b4bf7c6b",
}


@pytest.mark.parametrize("name", NAMES)
def test_golden_documents(name: str) -> None:
    text = domain(name).documents("test", 0, np.arange(100), 128).astype("<i8")
    assert hashlib.sha256(text.tobytes()).hexdigest()[:16] == GOLDEN[name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stream.tasks=[base,word]"], "Did you mean words"),
        (["stream.length=40"], "at least 64 tokens, got length 40"),
        (["stream.tasks=[base,base]"], "expected tasks, each once"),
        (["stream.units=0"], "units and test_examples must be > 0"),
    ],
)
def test_impossible_streams_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration.resolve(["stream=lm", "agent=random", *words])


def test_held_out_domains_are_adapted_to_and_lists_repeated() -> None:
    made = configuration.resolve(["stream=lm", "agent=random", "stream.tasks=[base,words]", "stream.held_out=[drift,base]"]).request.stream
    assert [task.name for task in made.few_shot.tasks] == ["drift"]
    again = configuration.resolve(["stream=lm", "agent=random", "stream.repeats=2", "budget=standard"]).request.stream
    assert len(again.phases) == 12 and len(again.tasks) == 6
