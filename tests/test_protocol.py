import json
from dataclasses import replace

import numpy as np
import pytest
import strangers

from clbench import derived, runs
from clbench.errors import ContractError
from clbench.protocol import Adapt, Begin, End, Evaluate, Learn, moments
from clbench.store import determined
from clbench.task_streams.toy import toy_stream


def run(agent, stream, seed=0, **options):
    return runs.execute(runs.Request(runs.AgentSpec("stranger", agent, options), stream, seed))


def test_the_row_at_a_boundary_comes_after_end_task_and_before_the_next_phase(toy):
    kinds = [type(m).__name__ for m in moments(toy)]
    assert kinds == ["Evaluate", "Adapt"] + ["Begin", "Learn", "Evaluate", "Learn", "End", "Evaluate"] * 3 + ["Adapt"]
    plan = moments(toy)
    assert plan[0] == Evaluate(-1, 0, (0, 1, 2))
    assert plan[2:8] == [Begin(0), Learn(0, 128), Evaluate(0, 128, (0,)), Learn(0, 256), End(0), Evaluate(0, 256, (0, 1, 2))]
    assert plan[-1] == Adapt(2, 0)


def test_the_reference_run_of_a_single_task_asks_about_that_task_only():
    plan = moments(toy_stream(name="toy", version=1, budget="smoke", held_out=0, only=1))
    assert plan == [Evaluate(-1, 0, (1,)), Begin(0), Learn(0, 128), Evaluate(0, 128, (1,)), Learn(0, 256), End(0), Evaluate(0, 256, (1,))]


def test_the_last_rows_of_the_run_ask_about_all_tasks_where_a_window_averages_over_them(toy):
    wide = replace(toy, phases=tuple(replace(phase, points=4) for phase in toy.phases), window=3)
    asked = [(m.phase, m.step, m.columns) for m in moments(wide) if isinstance(m, Evaluate)]
    everything = (0, 1, 2)
    assert asked[1:5] == [(0, 64, (0,)), (0, 128, (0,)), (0, 192, (0,)), (0, 256, everything)]
    assert asked[9:] == [(2, 576, (2,)), (2, 640, everything), (2, 704, everything), (2, 768, everything)]


def test_cells_that_were_not_evaluated_are_nan_and_the_others_are_not(toy):
    matrix = run(strangers.Ridge, toy).matrix
    assert matrix.phase.tolist() == [-1, 0, 0, 1, 1, 2, 2]
    assert matrix.step.tolist() == [0, 128, 256, 384, 512, 640, 768]
    expected = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    assert np.array_equal(np.isfinite(matrix.score), expected)


def test_an_agent_learns_its_first_task_and_the_untrained_one_does_not_know_it(toy):
    score = run(strangers.Ridge, toy).matrix.score
    assert score[2, 0] > 0.9 > 0.5 > score[0, 0]


def test_text_and_interaction_run_through_the_same_loop():
    text = run(strangers.Bigram, toy_stream(name="toy", version=1, budget="smoke", experience="text"))
    assert text.matrix.score[2, 0] > 0.9
    world = run(strangers.Explorer, toy_stream(name="toy", version=1, budget="smoke", experience="interaction"))
    assert world.events[-1]["units"] == 3 * 256


def test_the_same_seed_gives_the_same_events_and_another_seed_others(toy):
    first, second, other = (determined(run(strangers.Ridge, toy, seed).events) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_evaluating_twice_as_often_only_adds_rows(toy):
    dense = replace(toy, phases=tuple(replace(phase, points=4) for phase in toy.phases))
    few, many = run(strangers.Ridge, toy).matrix, run(strangers.Ridge, dense).matrix
    rows = np.isin(many.step, few.step)
    assert np.array_equal(many.score[rows], few.score, equal_nan=True)
    assert len(many.step) == len(few.step) + 6


def test_a_task_alone_gets_the_same_experience_as_within_the_stream(toy):
    single = run(strangers.Ridge, toy_stream(name="toy", version=1, budget="smoke", only=0)).matrix
    stream = run(strangers.Ridge, toy).matrix
    assert np.array_equal(single.score[:3, 0], stream.score[:3, 0])


def test_a_joint_phase_mixes_all_tasks():
    joint = run(strangers.Ridge, toy_stream(name="toy", version=1, budget="smoke", joint=True))
    starts = [event for event in joint.events if event["kind"] == "task_start"]
    assert [event["tasks"] for event in starts] == [[0, 1, 2]]
    assert joint.matrix.is_joint(0)
    assert joint.metrics()["forgetting"] is None
    assert joint.metrics()["performance"] is not None


def test_adaptation_leaves_the_agent_as_it_was(toy):
    without = run(strangers.Ridge, replace(toy, few_shot=None)).matrix
    assert without == run(strangers.Ridge, toy).matrix


def test_few_shot_events_hold_every_number_of_shots_and_draw(toy):
    found = [(e["phase"], e["shots"], e["draw"]) for e in run(strangers.Ridge, toy).events if e["kind"] == "adapt"]
    draws = [(0, 0), (1, 0), (1, 1), (4, 0), (4, 1)]
    assert found == [(phase, *pair) for phase in (-1, 2) for pair in draws]


def test_numbered_events_count_without_gaps_and_train_records_apart(toy):
    events = run(strangers.Ridge, toy).events
    assert [e["seq"] for e in events if e["seq"] is not None] == list(range(sum(e["seq"] is not None for e in events)))
    trains = [e for e in events if e["kind"] == "train"]
    assert [e["train_seq"] for e in trains] == list(range(len(trains)))
    assert trains[-1]["step"] <= 768


def test_no_score_reaches_the_agent():
    seen = []

    class Nosy(strangers.Ridge):
        def learn(self, experience):
            seen.append(json.dumps({k: str(v) for k, v in vars(experience).items() if not k.startswith("_")}))
            super().learn(experience)

    run(Nosy, toy_stream(name="toy", version=1, budget="smoke"))
    assert seen and not any("score" in text for text in seen)


class Underspends(strangers.Ridge):
    def learn(self, experience):
        experience.steps(10)


class Overspends(strangers.Ridge):
    def learn(self, experience):
        while True:
            experience.steps(50)


class GrantsItself(strangers.Ridge):
    def learn(self, experience):
        experience.meter.grant(100)
        super().learn(experience)


class NanActions(strangers.Ridge):
    def policy(self, task):
        return strangers.Linear(self.cross * np.nan)


class WrongShape(strangers.Ridge):
    def policy(self, task):
        return strangers.Linear(np.zeros((len(self.cross), 3)))


class NoPolicy(strangers.Ridge):
    def policy(self, task):
        return None


class NoState(strangers.Ridge):
    def act(self, observation, state):
        return observation

    def policy(self, task):
        class Forgetful(strangers.Linear):
            def act(self, observation, state):
                return super().act(observation, state)[0]

        return Forgetful(self.cross)


class StateWithFunction(strangers.Ridge):
    def state_dict(self):
        return {**super().state_dict(), "schedule": [1, {"rate": lambda step: step}]}


class RemembersBeingAsked(strangers.Ridge):
    def policy(self, task):
        memory = self.gram

        class Writes(strangers.Linear):
            def act(self, observation, state):
                memory[0, 0] = np.nextafter(memory[0, 0], np.inf)  # by one bit
                return super().act(observation, state)

        return Writes(np.linalg.solve(self.gram, self.cross))


class LacksMember:
    def __init__(self, task, seed):
        pass


BROKEN = [
    (Underspends, r"phase 0: underspent: learn returned with 118 of 128 demonstration steps unspent"),
    (Overspends, r"phase 0: overspent: steps\(50\) asks for 50 demonstration steps, 28 of 128 remain"),
    (GrantsItself, r"the agent changed its own grant from 128 to 228"),
    (NanActions, r"task 'toy-0': act: action is not finite"),
    (WrongShape, r"task 'toy-0': act: expected action of shape \(8, 2\)"),
    (NoPolicy, r"policy\(task\) must return an object with initial_state\(...\), got NoneType"),
    (NoState, r"act must return \(action, state\), got ndarray"),
    (StateWithFunction, r"state_dict\(\)\['schedule'\]\[1\]\['rate'\]: expected tensors, numpy arrays, .* got builtins.function"),
    (RemembersBeingAsked, r"evaluation changed state_dict\(\); policy\(task\) must return a snapshot that shares nothing with the agent"),
    (LacksMember, r"agent LacksMember has no begin_task\(...\)"),
]


@pytest.mark.parametrize(("agent", "message"), BROKEN, ids=[a.__name__ for a, _ in BROKEN])
def test_a_broken_agent_is_told_so_by_name(toy, agent, message):
    with pytest.raises(ContractError, match=message):
        run(agent, replace(toy, few_shot=None))


def test_the_global_generators_are_as_before_a_run_and_a_stranger_who_uses_them_is_repeatable(toy):
    class Careless(strangers.Ridge):
        def learn(self, experience):
            self.cross += np.random.normal(size=self.cross.shape)  # noqa: NPY002
            super().learn(experience)

    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first, second = run(Careless, toy), run(Careless, toy)
    assert np.random.random() == expected  # noqa: NPY002
    assert determined(first.events) == determined(second.events)


def test_a_memory_that_was_reported_reaches_the_summary_and_one_that_was_not_stays_unknown(toy):
    said = {"memory_bytes_per_stream": 64, "memory_writes": 3, "memory_reads": 9}
    for report, expected in ((said, [64, 3, 9]), ({"loss": 1.0}, [None] * 3)):

        class Reports(strangers.Ridge):
            def diagnostics(self, report=report):
                return report

        lived = run(Reports, replace(toy, few_shot=None))
        found = derived.summary(lived.manifest, lived.events, None)["metrics"]
        assert [found[name] for name in ("memory_bytes", "memory_writes", "memory_reads")] == expected
