"""The contract, tested clause by clause: what `clbench check` runs and what a stranger's agent must pass before its numbers count.

Each clause is a function that returns nothing and raises `ContractError` with what was expected and what came.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import checkpoint, guards, seeding
from .errors import ClbenchError, ContractError
from .experience import Interaction
from .interfaces import Agent, TaskInfo
from .protocol import Session
from .runs import AgentSpec
from .store import EventLog, MemorySink, determined, parse_events
from .stream import TaskStream

AGENT_SEED = 7
ODD_BUDGETS = (1, 7, 64, 101)


@dataclass(frozen=True)
class Finding:
    """One clause on one stream: whether it holds, and if not, why; `seconds` it took."""

    clause: str
    stream: str
    ok: bool
    message: str
    seconds: float


def check(agent: AgentSpec, streams: Sequence[TaskStream], tell: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Findings for every clause on every stream whose kind of experience the agent takes; `tell` hears each as it comes.

    A kind that the agent refuses in its very first `learn` is passed over, unless it refuses all: then the refusals are the findings.
    """
    findings: list[Finding] = []
    refusals: list[Finding] = []
    for stream in streams:
        first = _finding("learns", stream, lambda agent=agent, stream=stream: _learns(agent, stream))
        if not first.ok:
            refusals.append(first)
            continue
        for finding in [first, *(_finding(name, stream, lambda c=clause, s=stream: c(agent, s)) for name, clause in CLAUSES.items())]:
            findings.append(finding)
            tell(finding)
    if findings:
        return findings
    for refusal in refusals:
        tell(refusal)
    return refusals


def _finding(name: str, stream: TaskStream, clause: Callable[[], None]) -> Finding:
    begin = time.perf_counter()
    kind = stream.tasks[0].info.experience
    try:
        clause()
    except ClbenchError as error:
        return Finding(name, kind, False, str(error), time.perf_counter() - begin)
    except Exception as error:  # the agent's own: whatever it raises is a finding about it, named with the clause
        return Finding(name, kind, False, f"the agent raised {type(error).__name__}: {error}", time.perf_counter() - begin)
    return Finding(name, kind, True, "", time.perf_counter() - begin)


def _build(agent: AgentSpec, task: TaskInfo, seed: int = AGENT_SEED) -> Agent:
    with guards.seeded_global_generators(seed):
        built = agent.build(task, seed)
    for member in ("begin_task", "learn", "end_task", "policy", "state_dict", "load_state_dict"):
        if not callable(getattr(built, member, None)):
            raise ContractError(f"agent {type(built).__name__} has no {member}(...); the contract is in clbench.interfaces.Agent")
    return built


def _teach(built: Agent, stream: TaskStream, units: int, *, column: int = 0, seed: int = 1) -> None:
    experience = stream.tasks[column].experience(seeding.integer(seed, "check", column))
    experience.meter.grant(units)
    with guards.seeded_global_generators(seed):
        Session.spend(built, experience, f"a grant of {units} {experience.unit}")


def _learns(agent: AgentSpec, stream: TaskStream) -> None:
    built = _build(agent, stream.info(0))
    built.begin_task(stream.info(0))
    _teach(built, stream, 16)
    built.end_task(stream.info(0))


def _spends_exactly(agent: AgentSpec, stream: TaskStream) -> None:
    """`learn` spends every grant, also one that no batch divides, and asks for no more. Worlds of B environments grant whole steps."""
    built = _build(agent, stream.info(0))
    built.begin_task(stream.info(0))
    experience = stream.tasks[0].experience(0)
    whole = len(experience.observation) if isinstance(experience, Interaction) else 1
    for units in ODD_BUDGETS:
        _teach(built, stream, units * whole)


def _events(agent: AgentSpec, stream: TaskStream, seed: int = 3) -> list[str]:
    sink = MemorySink()
    with guards.seeded_global_generators(seed):
        Session(agent.build, stream, seed, EventLog(sink)).run()
    return _determined(sink)


def _determined(*sinks: MemorySink) -> list[str]:
    lines = [line for sink in sinks for line in sink.lines]
    return determined(parse_events("".join(f"{line}\n" for line in lines).encode(), "check"))


def _same_seed_same_numbers(agent: AgentSpec, stream: TaskStream) -> None:
    """Two runs with one seed have equal events."""
    _compare(
        _events(agent, stream), _events(agent, stream), "two runs with the same seed differ; draw only from generators made from the seed"
    )


def _compare(expected: Sequence[str], found: Sequence[str], what: str) -> None:
    for number, (left, right) in enumerate(zip(expected, found, strict=False)):
        if left != right:
            raise ContractError(f"{what}: event {number} is {right[:160]}, expected {left[:160]}")
    if len(expected) != len(found):
        raise ContractError(f"{what}: {len(found)} events, expected {len(expected)}")


def _frozen(state: Any) -> bytes:
    """A state as bytes, to tell whether it changed."""
    import torch

    buffer = io.BytesIO()
    torch.save(checkpoint.encode(state, "state_dict()"), buffer)
    return buffer.getvalue()


def _evaluation_leaves_agent(agent: AgentSpec, stream: TaskStream) -> None:
    """Evaluating a policy leaves `state_dict()` as it was."""
    built = _taught(agent, stream)
    with guards.unchanged(built):
        for task in stream.tasks:
            task.evaluate(guards.CheckedPolicy(built.policy(task.info), task.info, task.name), stream.seed("evaluation", task))


def _taught(agent: AgentSpec, stream: TaskStream, units: int = 64) -> Agent:
    built = _build(agent, stream.info(0))
    built.begin_task(stream.info(0))
    _teach(built, stream, units)
    return built


def _policy_is_a_snapshot(agent: AgentSpec, stream: TaskStream) -> None:
    """What the agent learns later does not change a policy handed out before."""
    built = _taught(agent, stream)
    task = stream.tasks[0]
    policy = built.policy(task.info)
    before = _answers(policy, stream)
    _teach(built, stream, 64, column=len(stream.tasks) - 1, seed=2)
    if not _equal(before, _answers(policy, stream)):
        raise ContractError("a policy changed when its agent learned more; policy(task) must return a copy")


def _probe(stream: TaskStream, batch: int = 8) -> Any:
    info = stream.tasks[0].info
    draws = seeding.generator(5, "check", "probe")
    if info.experience == "text":
        return draws.integers(0, info.input_size, size=(batch, 6))
    return draws.uniform(-1, 1, size=(batch, info.input_size)).astype(np.float32)


def _answers(policy: Any, stream: TaskStream, probe: Any = None, steps: int = 3) -> list[Any]:
    """What a policy answers to a probe, three steps in a row (text: one call)."""
    probe = _probe(stream) if probe is None else probe
    info = stream.tasks[0].info
    checked = guards.CheckedPolicy(policy, info, "probe")
    state = checked.initial_state(len(probe))
    if info.experience == "text":
        return [checked.logits(probe, state)[0]]
    answers = []
    for _ in range(steps):
        action, state = checked.act(probe, state)
        answers.append(action)
    return answers


def _equal(left: Sequence[Any], right: Sequence[Any], tolerance: float = 0.0) -> bool:
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(left, right, strict=True))


def _save_and_load(agent: AgentSpec, stream: TaskStream) -> None:
    """A state that was saved, read back and loaded into a fresh agent answers and learns on alike."""
    import torch

    built = _taught(agent, stream)
    buffer = io.BytesIO(_frozen(built.state_dict()))
    fresh = _build(agent, stream.info(0))
    fresh.load_state_dict(checkpoint.decode(torch.load(buffer, weights_only=True)))
    task = stream.tasks[0].info
    if not _equal(_answers(built.policy(task), stream), _answers(fresh.policy(task), stream)):
        raise ContractError("after load_state_dict(state_dict()) a fresh agent answers differently; state_dict lacks something")
    for one in (built, fresh):
        _teach(one, stream, 64, seed=2)
    if not _equal(_answers(built.policy(task), stream), _answers(fresh.policy(task), stream)):
        raise ContractError(
            "after load_state_dict(state_dict()) a fresh agent learns differently; state_dict lacks optimizer, buffer or generator"
        )


def _kill_and_resume(agent: AgentSpec, stream: TaskStream) -> None:
    """A run that is killed between any two moments and continued has the events of an uninterrupted one."""
    import torch

    sink, saved = MemorySink(), []

    def keep(state: dict[str, Any]) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        saved.append((buffer.getvalue(), len(sink.lines)))
        return {"file": "memory", "bytes": len(buffer.getvalue())}

    with guards.seeded_global_generators(3):
        session = Session(agent.build, stream, 3, EventLog(sink))
        session.run(keep, seconds_between_saves=0.0)
    expected = _determined(sink)
    for data, lines in saved:
        first, second = MemorySink(), MemorySink()
        first.lines = sink.lines[: lines + 2]
        with guards.seeded_global_generators(99):
            again = Session(agent.build, stream, 3, EventLog(second, attempt=1))
            again.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
            again.run()
        _compare(expected, _determined(first, second), "a run continued from a checkpoint differs from an uninterrupted one")


def _batch_of_one(agent: AgentSpec, stream: TaskStream) -> None:
    """Eight in one batch are answered as eight batches of one (to 1e-4)."""
    policy = _taught(agent, stream).policy(stream.tasks[0].info)
    probe = _probe(stream)
    together = _answers(policy, stream, probe)
    for row in range(len(probe)):
        alone = _answers(policy, stream, probe[row : row + 1])
        if not _equal([answer[row : row + 1] for answer in together], alone, tolerance=1e-4):
            raise ContractError(
                f"row {row} of a batch of {len(probe)} is answered differently when it comes alone; rows must not touch one another"
            )


def _answers_in_bounds(agent: AgentSpec, stream: TaskStream) -> None:
    """Actions are finite and in [-1, 1]; logits are no NaN."""
    built = _taught(agent, stream)
    answers = _answers(built.policy(stream.tasks[0].info), stream)
    if stream.tasks[0].info.experience != "text":
        worst = max(float(np.abs(answer).max()) for answer in answers)
        if worst > 1.0 + 1e-6:
            raise ContractError(f"actions must be in [-1, 1], got {worst:.3f}; clip them in act")


def _arguments_untouched(agent: AgentSpec, stream: TaskStream) -> None:
    """A policy changes neither what it is shown nor the state it is given."""
    policy: Any = _taught(agent, stream).policy(stream.tasks[0].info)
    probe = _probe(stream)
    shown = probe.copy()
    state = policy.initial_state(len(probe))
    member: Any = policy.logits if stream.tasks[0].info.experience == "text" else policy.act
    first, _ = member(shown, state)
    first = np.array(first)
    if not np.array_equal(shown, probe):
        raise ContractError("the policy changed the array it was shown; copy it first")
    second, _ = member(shown, state)
    if not _equal([first], [np.asarray(second)]):
        raise ContractError(
            "the same input and state gave another answer; a policy must return a new state and leave the old one as it was"
        )


def _hidden_boundaries(agent: AgentSpec, stream: TaskStream) -> None:
    """A stream that never calls begin_task and end_task runs through."""
    _events(agent, replace(stream, boundaries=False))


CLAUSES: dict[str, Callable[[AgentSpec, TaskStream], None]] = {
    "spends every grant exactly": _spends_exactly,
    "same seed, same numbers": _same_seed_same_numbers,
    "evaluation leaves the agent unchanged": _evaluation_leaves_agent,
    "a policy is a snapshot": _policy_is_a_snapshot,
    "state can be saved and loaded": _save_and_load,
    "killed and continued = uninterrupted": _kill_and_resume,
    "batch of 1 = batch of 8": _batch_of_one,
    "answers are finite and in bounds": _answers_in_bounds,
    "arguments are left untouched": _arguments_untouched,
    "works with hidden boundaries": _hidden_boundaries,
}
