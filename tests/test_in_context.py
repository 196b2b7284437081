"""Few shots that are read and not learned from: they stand in front of each question as they are, and change nothing else."""

import json

import numpy as np
import pytest

from clbench import cli, configuration
from clbench.errors import ContractError, UserError
from clbench.in_context import Behind, support_text
from clbench.protocol import Session
from clbench.store import EventLog, MemorySink

WORDS = [
    "stream=comp",
    "stream.tasks=[copy,rev]",
    "stream.held_out=[shift]",
    "stream.units=16",
    "stream.points=1",
    "stream.test_examples=4",
]
SHOTS = ["stream.shots=[0,2,5]", "stream.draws=2", "stream.adaptation_units=8"]
HEARD = []


class Reader:
    """Says of each token what followed it when it was read last, and keeps what it has read; learning only spends."""

    def __init__(self, task, seed):
        self.size, self.learned = task.output_size, 0

    def begin_task(self, task): ...
    def end_task(self, task): ...
    def learn(self, experience):
        while experience.remaining:
            experience.windows(4, experience.longest)
        self.learned += 1

    def policy(self, task):
        return Reading(self.size, self.learned)

    def state_dict(self):
        return {"learned": self.learned}

    def load_state_dict(self, state):
        self.learned = state["learned"]


class Reading:
    def __init__(self, size, learned):
        self.size, self.learned = size, learned

    def initial_state(self, batch):
        return np.zeros((batch, 0), dtype=np.int64)

    def logits(self, tokens, state):
        text = np.concatenate([state, tokens], axis=1)
        HEARD.append((self.learned, state.copy(), tokens.copy()))
        found = np.zeros((*tokens.shape, self.size))
        for row in range(len(text)):
            for at in range(state.shape[1], text.shape[1]):
                before = np.flatnonzero(text[row, :at] == text[row, at])
                if len(before):
                    found[row, at - state.shape[1], text[row, before[-1] + 1]] = 1.0
        return found, text


def lived(*words):
    HEARD.clear()
    request = configuration.resolve([*WORDS, *SHOTS, "agent=random", *words]).request
    spec = configuration.agent_spec(Reader, {})
    sink = MemorySink()
    Session(spec.build, request.stream, 0, EventLog(sink)).run()
    return request.stream, [json.loads(line) for line in sink.lines]


def test_the_examples_stand_in_front_of_each_question_and_nothing_is_learned():
    stream, _ = lived("stream.reading=context")
    begin = stream.tasks[0].experience(0)._source.examples(np.arange(1))[0][0, 0]
    read = [tokens for _, state, tokens in HEARD if state.shape[1] == 0 and (tokens[0] == begin).sum() > 1]
    assert {int((tokens[0] == begin).sum()) for tokens in read} == {2, 5}
    assert all((tokens == tokens[0]).all() and 0 not in tokens for tokens in read)  # alike in front of all, and no padding
    asked = [(state, tokens) for _, state, tokens in HEARD if (state[:, :-1] == begin).sum() > len(state)]
    assert asked and all(any(state[0, : text.shape[1]].tolist() == text[0].tolist() for text in read) for state, _ in asked)
    assert max(learned for learned, *_ in HEARD) == 2  # the two phases, no adaptation


def test_what_is_read_is_what_would_have_been_learned_from():
    stream = configuration.resolve([*WORDS, *SHOTS, "agent=random"]).request.stream
    task = stream.few_shot.tasks[0]
    text = support_text(task.experience(7, shots=5), 5)
    experience = task.experience(7, shots=5)
    experience.meter.grant(5)
    tokens, _, starts = experience.windows(5, experience.longest)
    assert starts.all() and (text == tokens[tokens != 0]).all()
    shorter = support_text(task.experience(7, shots=2), 2)
    assert sorted(map(tuple, split(shorter, tokens[0, 0]))) != [] and set(map(tuple, split(shorter, tokens[0, 0]))) <= set(
        map(tuple, split(text, tokens[0, 0]))
    )  # the support of a smaller K is part of that of a larger one


def split(text, begin):
    return np.split(text, np.flatnonzero(text == begin)[1:])


def test_a_predictor_behind_a_text_says_what_it_says_of_both_together():
    reading = Reading(9, 0)
    support, tokens = np.array([1, 4, 5, 2]), np.array([[1, 4, 7], [3, 5, 5]])
    behind = Behind(reading, support)
    found, _ = behind.logits(tokens, behind.initial_state(2))
    whole, _ = reading.logits(np.concatenate([np.repeat(support[None], 2, axis=0), tokens], axis=1), reading.initial_state(2))
    assert (found == whole[:, 4:]).all() and found[0, 1].argmax() == 5


def test_zero_shots_are_the_same_either_way_and_the_streams_are_not():
    scores = {}
    for reading in ("gradient", "context"):
        stream, events = lived(f"stream.reading={reading}")
        scores[reading] = [event["score"] for event in events if event["kind"] == "adapt" and event["shots"] == 0]
        spec = stream.spec()["few_shot"]
        assert spec.get("reading", "gradient") == reading
    assert scores["gradient"] == scores["context"] != []
    assert lived()[0].hash() == lived("stream.reading=gradient")[0].hash() != lived("stream.reading=context")[0].hash()


class Keeper(Reader):
    """Remembers how it was taught: `calls` in their order."""

    def __init__(self, task, seed):
        super().__init__(task, seed)
        self.calls = []

    def begin_task(self, task):
        self.calls.append("begin")

    def hold_weights(self):
        self.calls.append("hold")

    def learn(self, experience):
        self.calls.append(experience.remaining)
        tokens, _, starts = experience.windows(experience.remaining, experience.longest)
        assert starts.all()
        HEARD.append((list(self.calls), len({tuple(row) for row in tokens.tolist()})))

    def state_dict(self):
        return {"calls": list(self.calls)}

    def load_state_dict(self, state):
        self.calls = list(state["calls"])


def test_few_shots_of_memory_are_each_learned_from_once_with_the_weights_held():
    HEARD.clear()
    request = configuration.resolve([*WORDS, *SHOTS, "agent=random", "stream.reading=memory"]).request
    Session(configuration.agent_spec(Keeper, {}).build, request.stream, 0, EventLog(MemorySink())).run()
    taught = [(calls[-3:], different) for calls, different in (each for each in HEARD if len(each) == 2) if "hold" in calls]
    assert taught == [(["begin", "hold", shots], shots) for shots in (2, 2, 5, 5)] * 2  # untrained, and at the end; two draws each


def test_an_agent_that_cannot_hold_its_weights_is_refused_before_anything_runs():
    request = configuration.resolve([*WORDS, *SHOTS, "agent=random", "stream.reading=memory"]).request
    with pytest.raises(UserError, match="Reader has no hold_weights"):
        Session(configuration.agent_spec(Reader, {}).build, request.stream, 0, EventLog(MemorySink())).run()


@pytest.mark.parametrize("name", ["knn-lm", "frozen", "rmt"])
def test_few_shots_of_memory_reach_what_agents_keep_and_no_weight(name):
    resolved = configuration.resolve([*WORDS, *SHOTS, f"agent={name}", "stream.reading=memory"]).request
    task, info = resolved.stream.few_shot.tasks[0], resolved.stream.info(0)
    agent = resolved.agent.build(info, 3)
    before = agent.state_dict()
    agent.begin_task(task.info)
    agent.hold_weights()
    experience = task.experience(7, shots=5)
    experience.meter.grant(5)
    agent.learn(experience)
    after = agent.state_dict()
    for key, value in before["learner"]["networks"].items():
        assert (after["learner"]["networks"][key] == value).all()
    assert after["learner"]["gradient_steps"] == 0
    questions = task.experience(9, shots=5)
    questions.meter.grant(5)
    asked, _ = questions.whole(5)
    fresh = resolved.agent.build(info, 3)
    fresh.load_state_dict(before)
    told, untold = (each.policy(task.info) for each in (agent, fresh))
    answers = [policy.logits(asked[:, :-1], policy.initial_state(5))[0] for policy in (told, untold)]
    assert (np.abs(answers[0] - answers[1]).max() > 0) == (name != "rmt")  # whose memory lasts for an example


def test_other_readings_and_other_streams_are_refused():
    with pytest.raises(UserError, match="Did you mean context"):
        configuration.resolve([*WORDS, "agent=random", "stream.reading=contexts"])
    from clbench.stream import FewShot

    tasks = configuration.resolve(["stream=toy", "agent=random"]).request.stream.tasks
    for reading in ("context", "memory"):
        with pytest.raises(UserError, match="need tasks of text"):
            FewShot(tasks[:1], (0, 1), 1, 1, (-1,), reading=reading)


def test_whole_examples_are_not_taken_while_one_is_open():
    stream = configuration.resolve([*WORDS, "agent=random"]).request.stream
    experience = stream.tasks[0].experience(0)
    experience.meter.grant(9)
    experience.windows(2, 3)
    with pytest.raises(ContractError, match="in the middle of an example"):
        experience.whole(3)


def test_a_whole_run_reads_with_an_agent_of_ours(tmp_path, capsys):
    words = [*WORDS, "stream.reading=context", "stream.shots=[0,3]", "stream.draws=1", f"results_dir={tmp_path}"]
    assert cli.main(["run", *words, "agent=rmt"]) == 0
    assert "Few-shot area" in capsys.readouterr().out
