"""Phases that run into each other: who gets what and how often, that nothing is handed out twice, and that nothing else changes."""

import json

import numpy as np
import pytest

from clbench import configuration
from clbench.errors import UserError
from clbench.experience import BlurredSource, Neighbour
from clbench.protocol import Session
from clbench.store import EventLog, MemorySink

WORDS = ["stream=comp", "stream.tasks=[copy,rev,cipher]", "stream.control=unrelated", "stream.held_out=[]", "stream.units=400"]
SMALL = [*WORDS, "stream.points=2", "stream.test_examples=4"]


class Numbered:
    """Example i of source s: three tokens, the source and the number."""

    pad = 0

    def __init__(self, source, longest=3):
        self.source, self.longest = source, longest

    def examples(self, index):
        tokens = np.zeros((len(index), self.longest), dtype=np.int64)
        tokens[:, 0], tokens[:, 1] = self.source, index
        return tokens, tokens > 0, np.full(len(index), self.longest)


def blurred(units=10_000, blur=0.2, before=True, after=True, seed=3):
    edges = [Neighbour(Numbered(s, longest), 500) if there else None for s, longest, there in ((1, 5, before), (3, 4, after))]
    source = BlurredSource(Numbered(2), *edges, units=units, blur=blur, seed=seed)
    tokens, mask, lengths = source.examples(np.arange(units))
    return tokens, mask, lengths


def test_at_the_edge_one_in_two_is_the_neighbours_and_half_the_blur_away_none():
    tokens, _, lengths = blurred()
    whose = tokens[:, 0]
    assert (whose[1000:9000] == 2).all()
    for first, expected in ((0, 0.475), (250, 0.35), (500, 0.225), (750, 0.1)):  # in the middle of 500 places each
        assert (whose[first : first + 250] == 1).mean() == pytest.approx(0.5 - (first + 125) / 2000, abs=0.09), expected
        late = whose[10_000 - first - 250 : 10_000 - first or None]
        assert (late == 3).mean() == pytest.approx(0.5 - (first + 125) / 2000, abs=0.09)
    assert (whose[:1000] != 3).all() and (whose[9000:] != 1).all()
    assert (lengths == np.choose(whose, [0, 5, 3, 4])).all()


def test_own_examples_are_those_of_their_places_and_a_neighbours_are_new_ones():
    tokens, _, _ = blurred()
    at = np.arange(len(tokens))
    assert (tokens[:, 1] == np.where(tokens[:, 0] == 2, at, 500 + at)).all()


@pytest.mark.parametrize("missing", ["before", "after"])
def test_the_first_and_the_last_phase_have_one_edge(missing):
    tokens, _, _ = blurred(**{missing: False})
    assert set(tokens[:, 0].tolist()) == {2, 3 if missing == "before" else 1}


def test_any_example_can_be_made_alone_and_the_seed_decides():
    tokens, _, _ = blurred(units=300)
    source = BlurredSource(Numbered(2), Neighbour(Numbered(1, 5), 500), None, units=300, blur=0.2, seed=3)
    alone = np.concatenate([source.examples(np.array([at]))[0] for at in range(30)])
    assert (alone[:, :2] == tokens[:30, :2]).all()
    assert (blurred(units=300, seed=4)[0][:30, 0] != tokens[:30, 0]).any()


HEARD = []


class Listens:
    """Remembers which tokens it was handed and whether it was told of a boundary."""

    def __init__(self, task, seed):
        self.size = task.output_size

    def begin_task(self, task):
        HEARD.append("begin")

    def end_task(self, task):
        HEARD.append("end")

    def learn(self, experience):
        while experience.remaining:
            tokens, _, starts = experience.windows(4, experience.longest)
            HEARD.extend(row.tolist() for row in tokens[starts] if row.any())

    def policy(self, task):
        return self

    def initial_state(self, batch):
        return None

    def logits(self, tokens, state):
        return np.zeros((*tokens.shape, self.size)), None

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


def lived(*words):
    HEARD.clear()
    stream = configuration.resolve([*SMALL, "agent=random", *words]).request.stream
    sink = MemorySink()
    Session(configuration.agent_spec(Listens, {}).build, stream, 0, EventLog(sink)).run()
    return stream, [json.loads(line) for line in sink.lines], list(HEARD)


def test_a_blurred_stream_hands_out_as_much_and_tells_of_no_boundary():
    told = lived()[2]
    stream, events, heard = lived("stream.blur=0.5")
    texts = [tuple(each) for each in heard if isinstance(each, list)]
    assert "begin" in told and "begin" not in heard and "end" not in heard
    assert stream.name.endswith("-blurred") and not stream.boundaries
    assert len(texts) == 3 * 400 == sum(isinstance(each, list) for each in told)
    assert sum(e["units"] for e in events if e["kind"] == "task_end") == 1200
    codes = [row[1] for row in texts]
    plain_codes = [row[1] for row in told if isinstance(row, list)]
    assert len(set(plain_codes[:400])) == 1 and len(set(codes[:300])) == 1  # the first phase has no neighbour before it
    assert 2 == len(set(codes[300:400])) == len(set(codes[400:500]))
    assert len(set(texts)) > 1150  # nothing is handed out twice but what strings of this kind do anyway


def test_only_the_blurred_stream_is_another_and_references_are_not():
    def made(*words):
        return configuration.resolve([*SMALL, "agent=random", *words]).request.stream

    assert made().hash() == made("stream.blur=0").hash() != made("stream.blur=0.1").hash() != made("stream.blur=0.2").hash()
    for variant in ("stream.only=1", "stream.joint=true"):
        assert made(variant).hash() == made(variant, "stream.blur=0.1").hash()


@pytest.mark.parametrize("blur", ["-0.1", "1.5"])
def test_a_blur_is_a_share(blur):
    with pytest.raises(UserError, match="blur is a share of a phase"):
        configuration.resolve([*SMALL, "agent=random", f"stream.blur={blur}"])


def test_a_blurred_run_goes_on_where_it_was_saved():
    from clbench.conformance import check

    stream = configuration.resolve([*SMALL, "agent=random", "stream.blur=0.5"]).request.stream
    findings = check(configuration.agent_spec("random", {}), [stream])
    assert {finding.clause for finding in findings} >= {"killed and continued = uninterrupted"} and all(f.ok for f in findings), findings
