"""The only loop: an agent lives through a stream, and everything that happens is an event.

A stream is laid out as a list of moments, each small enough to be repeated after a kill. Between two moments the run can be saved;
a continued run's numbered events equal those of an uninterrupted one, because every draw comes from a named generator.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from . import checkpoint, guards, seeding
from .errors import ContractError, Interrupted, UserError
from .experience import Experience, Text
from .in_context import Behind, support_text
from .interfaces import Agent, Episodes, HoldsWeights, Task, TaskInfo
from .store import EventLog
from .stream import TaskStream

TRAIN_RECORDS_PER_PHASE = 50
CHECKPOINT_SECONDS = 10.0
SAVING_SHARE = 0.05
"""Of the time, at most, that goes into saving between phases: what takes long to save is saved less often."""
RESERVED = {"kind", "seq", "attempt", "utc", "t", "phase", "step", "task", "task_id", "seed_set", "shots", "draw", "score"}

BuildAgent = Callable[[TaskInfo, int], Agent]
Save = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Evaluate:
    """Score the agent on `columns` at the end of a stretch, or untrained (phase -1)."""

    phase: int
    step: int
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Adapt:
    """Few-shot adaptation of copies to held-out task `task` after `phase`."""

    phase: int
    task: int


@dataclass(frozen=True)
class Begin:
    """A phase begins."""

    phase: int


@dataclass(frozen=True)
class Learn:
    """The agent learns until the phase has consumed `until` units."""

    phase: int
    until: int


@dataclass(frozen=True)
class End:
    """The agent is told that the phase is over."""

    phase: int


Moment = Evaluate | Adapt | Begin | Learn | End


def moments(stream: TaskStream) -> list[Moment]:
    """The whole run in order. The row at a boundary comes after `end_task` and belongs to the phase that just ended.

    A boundary asks about all tasks, and so do the last `stream.window` rows of the run; in the reference run of a single task, about that.
    """
    everything = stream.phases[0].columns if stream.role == "single" else tuple(range(len(stream.tasks)))
    few = stream.few_shot
    plan: list[Moment] = [Evaluate(-1, 0, everything), *_adaptations(stream, -1)]
    step = 0
    for number, phase in enumerate(stream.phases):
        plan.append(Begin(number))
        ends_run = number == len(stream.phases) - 1
        for left, until in zip(range(phase.points - 1, -1, -1), phase.stretches(), strict=True):
            plan.append(Learn(number, until))
            plan += [End(number)] if left == 0 else []
            whole = left == 0 or (ends_run and left < stream.window)
            plan.append(Evaluate(number, step + until, everything if whole else phase.columns))
        step += phase.units
        plan += _adaptations(stream, number) if few else []
    return plan


def _adaptations(stream: TaskStream, phase: int) -> list[Moment]:
    few = stream.few_shot
    return [Adapt(phase, task) for task in range(len(few.tasks))] if few and phase in few.after else []


@dataclass
class Clock:
    """Seconds spent by purpose, summed over attempts; `world` is the part of `learn` in which a world stepped."""

    seconds: dict[str, float] = field(
        default_factory=lambda: {"prepare": 0.0, "learn": 0.0, "world": 0.0, "evaluate": 0.0, "adapt": 0.0, "save": 0.0}
    )

    @contextmanager
    def measure(self, purpose: str) -> Generator[None]:
        """Add the time spent inside to `purpose`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] += time.perf_counter() - begin


class Session:
    """One run in progress: the agent, the open experience, and where in the list of moments it stands."""

    def __init__(
        self,
        build: BuildAgent,
        stream: TaskStream,
        seed: int,
        log: EventLog,
        *,
        run_key: str = "",
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._build, self._stream, self._seed, self._log = build, stream, seed, log
        self._run_key, self._should_stop = run_key, should_stop
        self._plan = moments(stream)
        self._position = 0
        self._experience: Experience | None = None
        self._clock = Clock()
        self._agent_seed = seeding.integer(seed, "agent")
        self.agent = self._new_agent()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, save: Save | None = None, *, seconds_between_saves: float = CHECKPOINT_SECONDS) -> None:
        """Live through what is left of the stream, saving between moments: after each phase, and when the last save is long ago."""
        if self._position == 0 and self._log.seq == 0:
            self._log.numbered("run_start", run_key=self._run_key)
        saved, pause = time.monotonic(), seconds_between_saves
        while self._position < len(self._plan):
            moment = self._plan[self._position]
            self._live(moment)
            self._position += 1
            if self._should_stop():
                self._save(save)
                raise Interrupted("interrupted; everything is saved, type the same command again to continue")
            if save is not None and (isinstance(moment, End) or time.monotonic() - saved > pause):
                began = time.monotonic()
                self._save(save)
                saved = time.monotonic()
                pause = seconds_between_saves and max(seconds_between_saves, (saved - began) / SAVING_SHARE)  # 0: after every moment
        self._log.numbered("run_end", units=sum(phase.units for phase in self._stream.phases), phases=len(self._stream.phases))

    def _live(self, moment: Moment) -> None:
        if isinstance(moment, Evaluate):
            self._evaluate(moment)
        elif isinstance(moment, Adapt):
            self._adapt(moment)
        elif isinstance(moment, Begin):
            self._begin(moment)
        elif isinstance(moment, Learn):
            self._learn(moment)
        else:
            self._end(moment)

    # -- learning ---------------------------------------------------------------------------------------------------

    def _begin(self, moment: Begin) -> None:
        phase = self._stream.phases[moment.phase]
        tasks = [self._stream.tasks[column] for column in phase.columns]
        with self._clock.measure("prepare"):
            self._experience = self._open_experience(moment.phase)
        self._log.numbered(
            "task_start", phase=moment.phase, tasks=list(phase.columns), task_ids=[t.name for t in tasks], unit=self._experience.unit
        )
        if self._stream.boundaries:
            self.agent.begin_task(self._stream.info(moment.phase))

    def _open_experience(self, number: int) -> Experience:
        """Fresh experience for a phase, running into its neighbours' where the stream blurs its boundaries."""
        units, blur = self._stream.phases[number].units, self._stream.blur
        experience = self._experience_of(number)
        if blur:
            edges = [
                (cast(Text, self._experience_of(other)), self._stream.phases[other].units)
                if 0 <= other < len(self._stream.phases)
                else None
                for other in (number - 1, number + 1)
            ]
            seed = seeding.integer(self._seed, "experience", "blur", number)
            experience = cast(Text, experience).blurred(*edges, units=units, blur=blur, seed=seed)
        experience.meter.planned = units
        experience.meter.listeners.append(self._progress(number))
        return experience

    def _experience_of(self, number: int) -> Experience:
        """What the tasks of a phase hand out. Seeds name task and visit, so that a task alone gets the same as within the stream."""
        phase = self._stream.phases[number]
        visits = [sum(column in earlier.columns for earlier in self._stream.phases[:number]) for column in phase.columns]
        parts = [
            self._stream.tasks[column].experience(seeding.integer(self._seed, "experience", self._stream.tasks[column].name, visit))
            for column, visit in zip(phase.columns, visits, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return type(parts[0]).joint(parts, seeding.integer(self._seed, "experience", "joint", number))

    def _progress(self, number: int) -> Callable[[int, int], None]:
        """Writes one train record each time the phase crosses another share of its units, and listens for a request to stop."""
        units = self._stream.phases[number].units
        earlier = sum(phase.units for phase in self._stream.phases[:number])
        every = max(1, units // TRAIN_RECORDS_PER_PHASE)

        def heard(before: int, after: int) -> None:
            if self._should_stop():
                raise Interrupted("interrupted; type the same command again to continue from the last checkpoint")
            if after // every > before // every:
                self._log.train(phase=number, step=earlier + after // every * every)

        return heard

    def _learn(self, moment: Learn) -> None:
        experience = self._experience
        assert experience is not None
        experience.meter.grant(moment.until - experience.meter.granted)
        before = experience.seconds
        with self._clock.measure("learn"):
            self.spend(self.agent, experience, f"phase {moment.phase}")
        self._clock.seconds["world"] += experience.seconds - before

    @staticmethod
    def spend(agent: Agent, experience: Experience, where: str) -> None:
        """Let `agent` learn from what was granted; it must spend all of it and no more."""
        granted = experience.meter.granted
        try:
            agent.learn(experience)
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        if experience.meter.granted != granted:
            raise ContractError(f"{where}: the agent changed its own grant from {granted} to {experience.meter.granted} {experience.unit}")
        if experience.remaining > 0:
            raise ContractError(
                f"{where}: underspent: learn returned with {experience.remaining} of {granted} {experience.unit} unspent; "
                "return only when experience.remaining == 0"
            )

    def _end(self, moment: End) -> None:
        phase = self._stream.phases[moment.phase]
        assert self._experience is not None
        if self._stream.boundaries:
            self.agent.end_task(self._stream.info(moment.phase))
        self._log.numbered(
            "task_end",
            phase=moment.phase,
            tasks=list(phase.columns),
            units=self._experience.meter.consumed,
            unit=self._experience.unit,
            gradient_steps=guards.read_number(self.agent, "gradient_steps"),
            parameters=guards.read_number(self.agent, "parameters"),
            state_bytes=checkpoint.size_in_bytes(checkpoint.encode(self.agent.state_dict(), "state_dict()")),
            scalars=guards.read_diagnostics(self.agent),
        )
        self._log.note("resources", phase=moment.phase, **self._resources())
        self._experience = None

    def _resources(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        torch = sys.modules.get("torch")
        device = int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_available() else None
        seconds = {f"{purpose}_s": round(value, 3) for purpose, value in self._clock.seconds.items()}
        return {**seconds, "total_s": round(self._log.seconds, 3), "peak_rss_bytes": peak, "peak_device_bytes": device}

    # -- measuring --------------------------------------------------------------------------------------------------

    def _evaluate(self, moment: Evaluate) -> None:
        results = []
        with self._clock.measure("evaluate"), guards.unchanged(self.agent):
            for column in moment.columns:
                task = self._stream.tasks[column]
                results.append((column, task, self._score(self.agent, task, self._stream.seed("evaluation", task))))
        for column, task, episodes in results:
            self._log.numbered(
                "eval",
                phase=moment.phase,
                step=moment.step,
                task=column,
                task_id=task.name,
                seed_set=self._seed_set(),
                **_payload(episodes),
            )

    def _seed_set(self) -> str:
        return f"{self._stream.family}@{self._stream.version}"

    def _score(self, agent: Agent, task: Task, seed: int, *, behind: Any = None) -> Episodes:
        """Episodes of a snapshot, of text `behind` other text; neither the agent nor a global generator is moved by it."""
        with guards.seeded_global_generators(seed):
            policy: Any = guards.CheckedPolicy(agent.policy(task.info), task.info, task.name)
            return task.evaluate(policy if behind is None else Behind(policy, behind), seed)

    def _adapt(self, moment: Adapt) -> None:
        few = self._stream.few_shot
        assert few is not None
        task = few.tasks[moment.task]
        with self._clock.measure("adapt"):
            state = checkpoint.encode(self.agent.state_dict(), "state_dict()")
            scored = [
                (shots, draw, self._adapted(task, state, shots, draw)) for shots in few.shots for draw in range(few.draws if shots else 1)
            ]
        for shots, draw, episodes in scored:
            self._log.numbered(
                "adapt",
                phase=moment.phase,
                task=moment.task,
                task_id=task.name,
                shots=shots,
                draw=draw,
                seed_set=self._seed_set(),
                **_payload(episodes),
            )

    def _adapted(self, task: Task, state: Any, shots: int, draw: int) -> Episodes:
        """A copy of the agent is granted `shots` examples of a held-out task, is scored and is thrown away."""
        few = self._stream.few_shot
        assert few is not None
        support = seeding.integer(self._stream.seed("adaptation", task), "draw", draw)
        with guards.seeded_global_generators(support):
            copy = self._new_agent()
            copy.load_state_dict(_independent(state))
            if self._stream.boundaries:
                copy.begin_task(task.info)
            text = None
            if shots and few.reading == "context":
                text = support_text(cast(Text, task.experience(support, shots=shots)), shots)
            elif shots:
                experience = task.experience(support, shots=shots)
                units = few.units * (shots if few.each else 1)
                if few.reading == "memory":
                    cast(HoldsWeights, copy).hold_weights()
                    units = cast(Text, experience).distinct or shots
                experience.meter.grant(units)
                self.spend(copy, experience, f"adaptation to '{task.name}' with {shots} {few.shot_unit}")
        return self._score(copy, task, self._stream.seed("evaluation", task), behind=text)

    # -- saving -----------------------------------------------------------------------------------------------------

    def _new_agent(self) -> Agent:
        with guards.seeded_global_generators(self._agent_seed):
            agent = self._build(self._stream.info(0), self._agent_seed)
        missing = [
            m
            for m in ("begin_task", "learn", "end_task", "policy", "state_dict", "load_state_dict")
            if not callable(getattr(agent, m, None))
        ]
        if missing:
            raise ContractError(f"agent {type(agent).__name__} has no {missing[0]}(...); the contract is in clbench.interfaces.Agent")
        few = self._stream.few_shot
        if few is not None and few.reading == "memory" and not isinstance(agent, HoldsWeights):
            raise UserError(
                f"agent {type(agent).__name__} has no hold_weights(), which few shots that only a memory may keep need "
                "(clbench.interfaces.HoldsWeights); leave stream.reading at gradient, or use context"
            )
        return agent

    def _save(self, save: Save | None) -> None:
        if save is None:
            return
        with self._clock.measure("save"):
            recorded = save(self.state_dict())
            self._log.note("checkpoint", **recorded, seq_at_save=self._log.seq - 1)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from between two moments."""
        return {
            "position": self._position,
            "seq": self._log.seq,
            "train_seq": self._log.train_seq,
            "seconds": self._log.seconds,
            "log": self._log.digest,
            "clock": dict(self._clock.seconds),
            "agent": checkpoint.encode(self.agent.state_dict(), "state_dict()"),
            "experience": None if self._experience is None else checkpoint.encode(self._experience.state_dict(), "experience"),
            "phase": self._open_phase(),
            "generators": checkpoint.encode(guards.global_generators(), "generators"),
        }

    def _open_phase(self) -> int:
        return next((m.phase for m in reversed(self._plan[: self._position]) if isinstance(m, Begin)), -1)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        if state["position"] > len(self._plan):
            raise UserError("the checkpoint belongs to a longer stream; type the command again with --fresh")
        self._position = state["position"]
        self._log.continue_from(state["seq"], state["train_seq"], state["seconds"], state.get("log"))
        self._clock.seconds.update(state["clock"])
        self.agent.load_state_dict(checkpoint.decode(state["agent"]))
        if state["experience"] is not None:
            self._experience = self._open_experience(state["phase"])
            self._experience.load_state_dict(checkpoint.decode(state["experience"]))
        guards.restore_global_generators(checkpoint.decode(state["generators"]))


def _independent(state: Any) -> Any:
    """A decoded copy of an encoded state that shares no memory with it."""
    import copy

    return checkpoint.decode(copy.deepcopy(state))


def _payload(episodes: Episodes) -> dict[str, list[float | None]]:
    """Per-episode arrays as JSON lists; a fact that is NaN is null."""
    score = np.asarray(episodes.score, dtype=np.float64)
    if score.ndim != 1 or len(score) == 0 or not np.all(np.isfinite(score)):
        raise ContractError(f"evaluate: expected finite scores (n,), got {score.shape}")
    clash = RESERVED & set(episodes.facts)
    if clash:
        raise ContractError(f"evaluate: a fact must not be called '{min(clash)}'")
    return {"score": _numbers(score), **{name: _numbers(np.asarray(fact)) for name, fact in sorted(episodes.facts.items())}}


def _numbers(values: Any) -> list[float | None]:
    """JSON numbers: whole ones as integers, NaN as null."""
    return [None if math.isnan(v) else int(v) if v.is_integer() else v for v in np.asarray(values, dtype=np.float64).tolist()]
