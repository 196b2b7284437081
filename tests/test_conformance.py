"""`clbench check` passes what keeps the contract and names what does not."""

from pathlib import Path

import numpy as np
import pytest
import strangers

from clbench import conformance, runs
from clbench.task_streams.toy import toy_stream

STREAMS = [toy_stream(name="toy", version=1, budget="smoke", experience=kind) for kind in ("demonstrations", "text")]


def findings(agent, **options):
    return conformance.check(runs.AgentSpec("stranger", agent, options), STREAMS)


@pytest.mark.parametrize("agent", [strangers.Ridge, strangers.Bigram])
def test_an_agent_that_keeps_the_contract_passes_on_the_kind_it_takes(agent):
    found = findings(agent)
    assert [f.clause for f in found if not f.ok] == []
    assert {f.stream for f in found} == {"demonstrations" if agent is strangers.Ridge else "text"}
    assert len(found) == 1 + len(conformance.CLAUSES)


class Underspends(strangers.Ridge):
    def learn(self, experience):
        while experience.remaining >= 16:
            x, y = experience.steps(16)
            self.cross += np.pad(x.T @ y, ((0, 1), (0, 0)))


class Unseeded(strangers.Ridge):
    def learn(self, experience):
        super().learn(experience)
        self.cross += np.random.default_rng().normal(size=self.cross.shape)


class LearnsWhileEvaluated(strangers.Ridge):
    def policy(self, task):
        agent = self

        class Spy(strangers.Linear):
            def act(self, observation, state):
                agent.gram[0, 0] += 1.0
                return super().act(observation, state)

        return Spy(np.linalg.solve(self.gram, self.cross))


class SharesWeights(strangers.Ridge):
    def policy(self, task):
        return strangers.Linear(self.cross)


class ForgetsPartOfItsState(strangers.Ridge):
    def state_dict(self):
        return {"gram": self.gram.copy()}

    def load_state_dict(self, state):
        self.gram = state["gram"].copy()


class DrawsFromAGeneratorItDoesNotSave(strangers.Ridge):
    def __init__(self, task, seed):
        super().__init__(task, seed)
        self.draws = np.random.default_rng(seed)

    def learn(self, experience):
        super().learn(experience)
        self.cross += self.draws.normal(size=self.cross.shape)


class MixesRows(strangers.Ridge):
    def policy(self, task):
        class Mean(strangers.Linear):
            def act(self, observation, state):
                action, state = super().act(observation, state)
                return action - action.mean(axis=0) * 0.5, state

        return Mean(np.linalg.solve(self.gram, self.cross))


class Unbounded(strangers.Ridge):
    def policy(self, task):
        class Far(strangers.Linear):
            def act(self, observation, state):
                return super().act(observation, state)[0] + 3.0, state

        return Far(np.linalg.solve(self.gram, self.cross))


class ChangesItsInput(strangers.Ridge):
    def policy(self, task):
        class Normalises(strangers.Linear):
            def act(self, observation, state):
                observation /= 2.0
                return super().act(observation, state)

        return Normalises(np.linalg.solve(self.gram, self.cross))


class KeepsItsStateInside(strangers.Ridge):
    def policy(self, task):
        class Counts(strangers.Linear):
            steps = 0

            def act(self, observation, state):
                self.steps += 1
                return super().act(observation, state)[0] / self.steps, state

        return Counts(np.linalg.solve(self.gram, self.cross))


class NeedsBoundaries(strangers.Ridge):
    task = None

    def begin_task(self, task):
        self.task = task

    def learn(self, experience):
        assert self.task.num_tasks > 0
        super().learn(experience)


class NanActions(strangers.Ridge):
    def policy(self, task):
        return strangers.Linear(self.cross * np.nan)


BROKEN = [
    (Underspends, "learns|spends every grant exactly", "underspent"),
    (Unseeded, "same seed, same numbers", "two runs with the same seed differ"),
    (LearnsWhileEvaluated, "evaluation leaves the agent unchanged", "snapshot that shares nothing"),
    (SharesWeights, "a policy is a snapshot", "must return a copy"),
    (ForgetsPartOfItsState, "state can be saved and loaded", "state_dict lacks something"),
    (DrawsFromAGeneratorItDoesNotSave, "state can be saved and loaded", "optimizer, buffer or generator"),
    (MixesRows, "batch of 1 = batch of 8", "rows must not touch one another"),
    (Unbounded, "answers are finite and in bounds", r"must be in \[-1, 1\]"),
    (ChangesItsInput, "arguments are left untouched", "changed the array it was shown"),
    (KeepsItsStateInside, "arguments are left untouched", "must return a new state"),
    (NeedsBoundaries, "works with hidden boundaries", "AttributeError"),
    (NanActions, "answers are finite and in bounds", "not finite"),
]


@pytest.mark.parametrize(("agent", "clause", "message"), BROKEN, ids=[a.__name__ for a, _, _ in BROKEN])
def test_each_broken_clause_is_found_and_explained(agent, clause, message):
    import re

    broken = [f for f in findings(agent) if not f.ok]
    assert any(re.fullmatch(clause, f.clause) and re.search(message, f.message) for f in broken), broken


def test_an_agent_that_takes_no_kind_gets_its_own_errors():
    class Picky(strangers.Ridge):
        def learn(self, experience):
            raise TypeError("only Atari, please")

    found = findings(Picky)
    assert [f.ok for f in found] == [False, False]
    assert all("TypeError: only Atari, please" in f.message for f in found)


def test_the_strangers_agent_of_the_readme_is_at_most_35_lines():
    import re

    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"```python\n# mine.py\n(.*?)```", text, re.S).group(1)
    assert len(code.strip().splitlines()) <= 34
    space = {}
    exec(code, space)
    assert [f for f in findings(space["Mine"]) if not f.ok] == []
