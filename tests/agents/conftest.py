"""Three tiny worlds: actions that follow from the observation, text in which a word is repeated with its symbols exchanged, and a point
to be named, for which an action is paid."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from clbench import checkpoint, seeding
from clbench.agents.composed import Composed
from clbench.experience import Demonstrations, Interaction, Text, Transition
from clbench.interfaces import TaskInfo

OBSERVATION, ACTION, TASKS = 5, 3, 2
SYMBOLS, WORD = 5, 4
BETWEEN, PAD = SYMBOLS, SYMBOLS + 1


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def control_task(index: int = 0) -> TaskInfo:
    return TaskInfo(index, TASKS, "demonstrations", OBSERVATION + TASKS, ACTION)


def text_task() -> TaskInfo:
    return TaskInfo(None, 1, "text", SYMBOLS + 2, SYMBOLS + 2)


def control_pairs(task: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations (count, O) ending in the one-hot of the task, and tanh of a linear map of their first part, another for each task."""
    draws = seeding.generator(seed, "pairs", task)
    seen = draws.normal(size=(count, OBSERVATION))
    teacher = seeding.generator(0, "teacher", task).normal(size=(OBSERVATION, ACTION)) / 2
    one_hot = np.tile(np.eye(TASKS)[task], (count, 1))
    return np.concatenate([seen, one_hot], axis=1).astype(np.float32), np.tanh(seen @ teacher).astype(np.float32)


def demonstrations(task: int = 0, units: int = 0, *, episodes: int = 20, length: int = 21) -> Demonstrations:
    experience = Demonstrations([control_pairs(task, length, seed) for seed in range(episodes)], seed=task)
    experience.meter.grant(units)
    return experience


class Echo:
    """A word of WORD symbols, a mark, and the word again with every symbol moved on by `shift`; the second word is to be predicted."""

    longest, pad = 2 * WORD + 1, PAD

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def examples(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        word = np.array([seeding.generator(self.shift, "word", int(i)).integers(SYMBOLS, size=WORD) for i in index]).reshape(-1, WORD)
        mark = np.full((len(word), 1), BETWEEN)
        tokens = np.concatenate([word, mark, (word + self.shift) % SYMBOLS], axis=1)
        mask = np.arange(self.longest) > WORD
        return tokens, np.tile(mask, (len(word), 1)), np.full(len(word), self.longest)


def text(shift: int = 0, units: int = 0) -> Text:
    experience = Text(Echo(shift), seed=0)
    experience.meter.grant(units)
    return experience


SIDE, HORIZON = 4, 5  # environments side by side, steps of an episode


class Aim:
    """An observation names a point; an action near it (task 1: near its reflection) pays. Episodes of HORIZON steps end by the clock.

    `cue`: the observation ends in the one-hot of the task. `masked`: the point is shown at the first step of an episode only.
    """

    def __init__(self, seed: int = 0, task: int = 0, *, cue: bool = False, masked: bool = False) -> None:
        self.masked = masked
        self.draws = np.random.default_rng(seed)
        self.sign = -1.0 if task == 1 else 1.0
        self.cue = np.tile(np.eye(TASKS)[task], (SIDE, 1)) if cue else np.zeros((SIDE, 0))
        self.clock = np.zeros(SIDE, dtype=int)
        self.point = self.draws.uniform(-0.7, 0.7, (SIDE, 2))
        self.actions: list[np.ndarray] = []

    @property
    def observation(self) -> np.ndarray:
        shown = np.where(self.clock[:, None] > 0, 0.0, self.point) if self.masked else self.point
        return np.concatenate([shown, self.clock[:, None] / HORIZON, self.cue], axis=1).astype(np.float32)

    def step(self, action: np.ndarray) -> Transition:
        self.actions.append(np.array(action))
        reward = -np.square(action - self.sign * self.point).sum(1)
        self.clock = self.clock + 1
        final, over = self.observation, self.clock == HORIZON
        self.clock = np.where(over, 0, self.clock)
        self.point = np.where(over[:, None], self.draws.uniform(-0.7, 0.7, (SIDE, 2)), self.point)
        return Transition(reward, np.zeros(SIDE, dtype=bool), over, self.observation, final)

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self.clock.copy(), "point": self.point.copy(), "draws": self.draws.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clock, self.point = np.array(state["clock"]), np.array(state["point"])
        self.draws.bit_generator.state = state["draws"]


def aim_task(index: int = 0) -> TaskInfo:
    return TaskInfo(index, TASKS, "interaction", 3 + TASKS, 2)


def aiming(index: int = 0, units: int = 0) -> Interaction:
    experience = Interaction(Aim(index, index, cue=True))
    experience.meter.grant(units)
    return experience


MLP = {"kind": "mlp", "width": 16, "depth": 1}
SMALL = {"width": 16, "layers": 1, "heads": 2}
AGENTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "cloning steps": ("demonstrations", {"kind": "behaviour-cloning", "batch_size": 32}, MLP),
    "cloning windows": (
        "demonstrations",
        {"kind": "behaviour-cloning", "lanes": 4, "window": 8},
        {"kind": "rmt", "segment_length": 4, "memory_tokens": 2, **SMALL},
    ),
    "whole examples": ("text", {"kind": "language-modelling", "batch_size": 8}, {"kind": "transformer", "context": 16, **SMALL}),
    "windows of text": (
        "text",
        {"kind": "language-modelling", "batch_size": 8, "window": 5},
        {"kind": "transformer-xl", "segment_length": 4, "memory_length": 4, **SMALL},
    ),
    "soft actor-critic": (
        "control",
        {
            "kind": "soft-actor-critic",
            "batch_size": 32,
            "capacity": 400,
            "start_steps": 16,
            "update_after": 16,
            "update_every": 8,
            "updates": 2,
            "n_step": 2,
        },
        {"kind": "mlp", "width": 16, "depth": 2},
    ),
    "memories of others": (
        "text",
        {"kind": "language-modelling", "batch_size": 8, "contexts": 3, "contexts_from": 2, "tied": False},
        {"kind": "memorizing-transformer", "segment_length": 4, "memory_size": 8, "topk": 2, "differentiable": True, **SMALL},
    ),
}
SLICES = {
    "cloning steps": 32,
    "cloning windows": 32,
    "soft actor-critic": 16,
    "whole examples": 8,
    "windows of text": 8,
    "memories of others": 8,
}


class World:
    """Agents and experience of one of the kinds in AGENTS."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind, self.learner, self.backbone = AGENTS[name]
        self.slice = SLICES[name]
        self.least = SIDE if self.kind == "control" else 1  # units that are spent at once

    def agent(
        self, methods: dict[str, Any] | None = None, seed: int = 0, backbone: dict[str, Any] | None = None, **learner: Any
    ) -> Composed:
        """`backbone`: options beside those of the world's own, or another kind with all of its options."""
        parts = dict(backbone or {})
        section = {"learner": {**self.learner, **learner}, "backbone": parts if "kind" in parts else {**self.backbone, **parts}}
        return Composed(self.task(0), seed, **{self.kind: section}, methods=methods, device="cpu")

    def task(self, index: int) -> TaskInfo:
        return {"text": lambda _: text_task(), "control": aim_task, "demonstrations": control_task}[self.kind](index)

    def experience(self, index: int, units: int = 0) -> Any:
        return {"text": text, "control": aiming, "demonstrations": demonstrations}[self.kind](index, units)

    def observations(self, count: int) -> np.ndarray:
        """(count, O) of task 0, where something is seen."""
        if self.kind == "demonstrations":
            return demonstrations(0, count).steps(count)[0]
        return np.concatenate([Aim(seed, cue=True).observation for seed in range(count)])[:count]

    def live(self, agent: Composed, units: list[int], *, first: int = 0) -> Composed:
        """One phase for each number of units; the two tasks take turns."""
        for phase, granted in enumerate(units, start=first):
            index = phase % TASKS
            agent.begin_task(self.task(index))
            agent.learn(self.experience(index, granted))
            agent.end_task(self.task(index))
        return agent

    def weights(self, agent: Composed) -> dict[str, torch.Tensor]:
        return agent.state_dict()["learner"]["networks"]

    def same(self, one: Composed, other: Composed) -> bool:
        pairs = zip(self.weights(one).items(), self.weights(other).items(), strict=True)
        return all(a == b and torch.equal(left, right) for (a, left), (b, right) in pairs)


@pytest.fixture(params=sorted(AGENTS))
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture
def world_of() -> Callable[[str], World]:
    return World


@pytest.fixture
def through_a_file() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A state as the harness brings it back: encoded, written by torch, read without executing anything, decoded."""

    def way(state: dict[str, Any]) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(checkpoint.encode(state, "state_dict()"), buffer)
        buffer.seek(0)
        return checkpoint.decode(torch.load(buffer, weights_only=True))

    return way


@pytest.fixture
def pairs() -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    return control_pairs


@pytest.fixture
def shown() -> Callable[..., Demonstrations]:
    return demonstrations


@pytest.fixture
def told() -> Callable[..., Text]:
    return text
