"""Made-up runs that look like real ones: folders written through the store's own classes, scores by a small formula.

`write_run` takes the score of every cell, so that a test can derive what a table must show by hand; `write_grid` draws plausible ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from clbench import derived
from clbench.interfaces import TaskInfo
from clbench.store import SCHEMA, EventLog, MemorySink
from clbench.stream import PROTOCOL_VERSION, FewShot, Phase, TaskStream, digest, plain

EPISODES = 50
PROVENANCE = {
    "started_utc": "2026-11-01T00:00:00Z",
    "host_hash": "0123456789ab",
    "os": "Linux 6.1",
    "python": "3.11.7",
    "cpu_model": "Example CPU 2000",
    "cpu_count_allowed": 2,
    "ram_mb": 8000,
    "gpus": [],
    "packages": ["clbench==0.1.0", "metaworld==3.1.1", "mujoco==3.3.0", "numpy==2.2.0", "torch==2.13.0"],
    "env": {"OMP_NUM_THREADS": "1"},
    "argv": ["clbench", "run", "stream=steps"],
}


@dataclass(frozen=True)
class NamedTask:
    """Only what a stream's description needs of a task."""

    name: str
    info: TaskInfo
    scale: tuple[float, float] = (0.0, 1.0)


def tasks(names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(NamedTask(name, TaskInfo(i, len(names), "demonstrations", 4, 2)) for i, name in enumerate(names))


def stream(
    names: Sequence[str] = ("reach", "push", "drawer"),
    *,
    role: str = "stream",
    only: int = 0,
    points: int = 4,
    version: int = 1,
    shots: bool = True,
) -> TaskStream:
    """Three tasks of 1,000 units each, or the joint or single variant of it."""
    columns = tasks(names)
    if role == "joint":
        phases: tuple[Phase, ...] = (Phase(tuple(range(len(names))), 1000 * len(names), len(names)),)
    elif role == "single":
        phases = (Phase((only,), 1000, points),)
    else:
        phases = tuple(Phase((n,), 1000, points) for n in range(len(names)))
    suffix = {"stream": "", "joint": "-joint", "single": f"-only-{only}"}[role]
    after = {"stream": (-1, *range(len(names))), "joint": (-1, 0), "single": (-1,)}[role]
    few = FewShot(tasks(("button", "window")), (0, 1, 2, 5), 2, 200, after) if shots else None
    return TaskStream(
        name=f"steps{suffix}",
        version=version,
        budget="smoke",
        tasks=columns,
        phases=phases,
        few_shot=few,
        family="steps",
        role=role,
        kind="steps",
    )


Score = Callable[[int, int, int], float | Sequence[float]]  # phase, step, column -> mean of the episodes, or the episodes
Adapted = Callable[[int, int, int], float]  # phase, held-out task, shots -> mean


def episodes(value: float | Sequence[float], count: int) -> list[int | float]:
    """A mean as that many successes and failures; exact where value * count is whole."""
    if isinstance(value, Sequence):
        return list(value)
    wins = round(value * count)
    return [1] * wins + [0] * (count - wins)


def write_run(
    root: Path,
    lived: TaskStream,
    agent: str,
    seed: int,
    score: Score,
    adapted: Adapted = lambda phase, task, shots: 0.5,
    *,
    config: dict[str, Any] | None = None,
    count: int = EPISODES,
    seconds: float = 36.0,
    world: float | None = None,
    state_bytes: int = 4000,
    done: bool = True,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """A run's folder below `root`, complete down to `DONE`."""
    manifest = manifest_of(lived, agent, seed, config or {})
    sink = MemorySink()
    log = EventLog(sink)
    seeds = f"{lived.family}@{lived.version}"
    few = lived.few_shot
    log.numbered("run_start", run_key=manifest["run_key"])

    def evaluate(phase: int, step: int, columns: Sequence[int]) -> None:
        for column in columns:
            values = episodes(score(phase, step, column), count)
            log.numbered(
                "eval",
                phase=phase,
                step=step,
                task=column,
                task_id=lived.tasks[column].name,
                seed_set=seeds,
                score=values,
                length=[100] * len(values),
            )

    def adapt(phase: int) -> None:
        if few is None or phase not in few.after:
            return
        for task in range(len(few.tasks)):
            for shots in few.shots:
                for draw in range(few.draws if shots else 1):
                    values = episodes(adapted(phase, task, shots), count)
                    log.numbered(
                        "adapt", phase=phase, task=task, task_id=few.tasks[task].name, shots=shots, draw=draw, seed_set=seeds, score=values
                    )

    everything = range(len(lived.tasks))
    evaluate(-1, 0, everything)
    adapt(-1)
    step = 0
    for number, phase in enumerate(lived.phases):
        names = [lived.tasks[n].name for n in phase.columns]
        log.numbered("task_start", phase=number, tasks=list(phase.columns), task_ids=names, unit="demonstration steps")
        ends_run = number == len(lived.phases) - 1
        for left, until in zip(range(phase.points - 1, -1, -1), phase.stretches(), strict=True):
            log.train(phase=number, step=step + until)
            whole = left == 0 or (ends_run and left < lived.window)
            if left == 0:
                log.numbered(
                    "task_end",
                    phase=number,
                    tasks=list(phase.columns),
                    units=phase.units,
                    unit="demonstration steps",
                    gradient_steps=500 * (number + 1),
                    parameters=1234,
                    state_bytes=state_bytes + 1000 * number,
                    scalars={"loss": 0.1, "memory_bytes_per_stream": 4096.0, "memory_writes": 10.0 * (number + 1)},
                )
                share = (number + 1) / len(lived.phases)
                log.note(
                    "resources",
                    phase=number,
                    learn_s=seconds * share,
                    **({} if world is None else {"world_s": world * share}),
                    evaluate_s=seconds * share / 4,
                    adapt_s=0.0,
                    save_s=0.0,
                    total_s=seconds * share * 1.5,
                    peak_rss_bytes=200_000_000,
                    peak_device_bytes=None,
                )
            evaluate(number, step + until, everything if whole and lived.role != "single" else phase.columns)
        step += phase.units
        adapt(number)
    if done:
        log.numbered("run_end", units=step, phases=len(lived.phases))
    folder = root / lived.identity / lived.budget / agent / f"s{seed:03d}-{manifest['run_key']}"
    (folder / "attempts").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in sink.lines))
    (folder / "attempts" / "0.json").write_text(json.dumps(provenance or PROVENANCE, indent=1, sort_keys=True) + "\n")
    if done:
        (folder / "evals.csv").write_text(derived.evals_csv(manifest, [json.loads(line) for line in sink.lines]))
        (folder / "DONE").write_text("")
    return folder


def manifest_of(lived: TaskStream, agent: str, seed: int, config: dict[str, Any]) -> dict[str, Any]:
    """`run.json`, as `clbench.runs.Request` writes it."""
    identity = {
        "schema": SCHEMA,
        "protocol_version": PROTOCOL_VERSION,
        "stream_hash": lived.hash(),
        "order_id": 0,
        "agent": agent,
        "agent_config": config,
        "seed": seed,
    }
    return {
        "schema": SCHEMA,
        "run_key": digest(identity)[:12],
        "created_utc": "2026-11-01T00:00:00Z",
        "stream": {"name": lived.name, "version": lived.version, "hash": lived.hash(), "spec": plain(lived.spec())},
        "budget": lived.budget,
        "agent": {
            "name": agent,
            "module": f"example.{agent.replace('-', '_')}",
            "distribution": "example 1.0",
            "config": config,
            "hash": sha256(agent.encode()).hexdigest(),
        },
        "seed": seed,
        "order_id": 0,
        "protocol_version": PROTOCOL_VERSION,
        "track": {"task_identity": True, "boundaries": True},
        "determinism": {"threads": 1},
        "clbench": {"version": "0.1.0", "git_sha": "a" * 40, "dirty": False},
    }


HABITS = {  # speed of learning, share kept per later task, share given to tasks not seen yet, gain per shot
    "finetuning": (3.0, 0.35, 0.05, 0.10),
    "ewc": (2.4, 0.70, 0.06, 0.13),
    "replay": (2.7, 0.88, 0.12, 0.20),
    "packnet": (2.0, 0.98, 0.04, 0.08),
    "reset": (2.6, 0.10, 0.00, 0.05),
    "random": (0.0, 1.00, 0.00, 0.01),
}


def write_grid(root: Path, lived: TaskStream, agents: Sequence[str], seeds: Sequence[int]) -> list[Path]:
    """Plausible runs of `agents` on `lived`; the same every time."""
    folders = []
    for agent in agents:
        speed, kept, given, per_shot = HABITS.get(agent, HABITS["ewc"])
        for seed in seeds:
            rng = np.random.default_rng([seed, *agent.encode()])
            ceiling = np.clip(rng.normal(np.linspace(0.95, 0.7, len(lived.tasks)), 0.06), 0.05, 1.0)  # (N,)

            def score(
                phase: int, step: int, column: int, rng: Any = rng, ceiling: Any = ceiling, habit: Any = (speed, kept, given)
            ) -> float:
                pace, keep, give = habit
                mine = next((p for p, ph in enumerate(lived.phases) if column in ph.columns), len(lived.phases))
                if phase < mine:
                    return float(np.clip(rng.normal(0.05 + give * (phase + 1), 0.03), 0, 1))
                units = lived.phases[mine].units
                begun = sum(ph.units for ph in lived.phases[:mine])
                progress = min(1.0, (step - begun) / units)
                learnt = ceiling[column] * (1 - np.exp(-pace * progress)) * keep ** (phase - mine)
                return float(np.clip(rng.normal(learnt, 0.03), 0, 1))

            def adapted(phase: int, task: int, shots: int, rng: Any = rng, habit: Any = (given, per_shot)) -> float:
                give, gain = habit
                return float(np.clip(rng.normal(0.05 + give * (phase + 1) + gain * np.log2(1 + shots) * (1 + 0.2 * phase), 0.03), 0, 1))

            folders.append(write_run(root, lived, agent, seed, score, adapted, seconds=30.0 + 5 * len(agent)))
    return folders
