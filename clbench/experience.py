"""What a task hands out. It counts what is taken, so that no agent can learn from more than it was granted.

`remaining` is what was granted and not yet consumed, in the declared `unit`. The referee grants through `meter`, the agent only takes.
Shape letters: B batch or lanes, T time, O observation, A action, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import seeding
from .errors import ContractError

Float = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]
Integer = NDArray[np.integer[Any]]


@dataclass
class Meter:
    """Counts one experience: `granted` and `consumed` so far; `listeners` hear the totals before and after every draw.

    A phase of `planned` units is granted in stretches, one for each evaluation point.
    """

    unit: str
    granted: int = 0
    consumed: int = 0
    planned: int = 0
    listeners: list[Callable[[int, int], None]] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Granted and not yet consumed."""
        return max(0, self.granted - self.consumed)

    def grant(self, units: int) -> None:
        """Allow `units` more."""
        self.granted += units
        self.planned = max(self.planned, self.granted)

    def spend(self, units: int, request: str) -> None:
        """Count `units`; refuses what was not granted, before anything is handed out."""
        if units < 1:
            raise ContractError(f"{request}: expected at least 1 of each, got {units} {self.unit}")
        if units > self.remaining:
            raise ContractError(
                f"overspent: {request} asks for {units} {self.unit}, {self.remaining} of {self.granted} remain; "
                f"take at most experience.remaining and return from learn when it is 0"
            )
        self.count(units)

    def count(self, units: int) -> None:
        """Count `units` that were handed out."""
        before, self.consumed = self.consumed, self.consumed + units
        for listener in self.listeners:
            listener(before, self.consumed)


class Experience:
    """Base of the three kinds: a meter and a state that can be saved in the middle."""

    unit: ClassVar[str] = "units"

    def __init__(self) -> None:
        self.meter = Meter(self.unit)
        self.seconds = 0.0  # that a world took to step, of the time in which an agent learns from it

    @property
    def remaining(self) -> int:
        """Units granted and not yet consumed; `learn` returns when it is 0."""
        return self.meter.remaining

    def state_dict(self) -> dict[str, Any]:
        """What is needed to hand out the same things from here on."""
        return {"granted": self.meter.granted, "consumed": self.meter.consumed, "planned": self.meter.planned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.meter.granted, self.meter.consumed = int(state["granted"]), int(state["consumed"])
        self.meter.planned = int(state["planned"])

    @classmethod
    def joint(cls, parts: Sequence[Any], seed: int) -> Experience:
        """One experience that mixes `parts` in equal shares, for phases that train several tasks at once."""
        raise ContractError(f"{cls.__name__} cannot be mixed into a joint phase")


class Transition(NamedTuple):
    """One step of B environments. `final_observation` differs from `next_observation` where an episode ended and began anew."""

    reward: Float  # (B,)
    terminated: Bool  # (B,)
    truncated: Bool  # (B,)
    next_observation: Float  # (B, O)
    final_observation: Float  # (B, O)


class World(Protocol):
    """B environments in lock-step, with automatic reset in the same step."""

    @property
    def observation(self) -> Float: ...  # (B, O)

    def step(self, action: Float) -> Transition: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Interaction(Experience):
    """Environment steps: act on `observation` (B, O), pay B steps for each call of `step`."""

    unit = "environment steps"

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def observation(self) -> Float:
        """(B, O), what the environments show now; a copy."""
        return np.array(self._world.observation)

    def step(self, action: Float) -> Transition:
        """Advance all B environments by `action` (B, A); spends B steps."""
        batch = len(self._world.observation)
        action = np.asarray(action)
        if action.ndim != 2 or len(action) != batch:
            raise ContractError(f"step: expected actions ({batch}, A), got {action.shape}")
        if not np.all(np.isfinite(action)):
            raise ContractError("step: the agent's action is not finite (NaN or infinite)")
        self.meter.spend(batch, f"step of {batch} environments")
        began = time.perf_counter()
        transition = self._world.step(action)
        self.seconds += time.perf_counter() - began
        return transition

    @classmethod
    def joint(cls, parts: Sequence[Any], seed: int) -> Interaction:
        return Interaction(SideBySide([part._world for part in parts]))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "world": self._world.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._world.load_state_dict(state["world"])


class SideBySide:
    """The environments of several worlds as those of one."""

    def __init__(self, worlds: Sequence[World]) -> None:
        self._worlds = list(worlds)
        self._ends = np.cumsum([len(world.observation) for world in worlds])[:-1]

    @property
    def observation(self) -> Float:
        """(B, O), the environments of each world behind those of the one before."""
        return np.concatenate([world.observation for world in self._worlds])

    def step(self, action: Float) -> Transition:
        """Advance all by `action` (B, A)."""
        steps = [world.step(part) for world, part in zip(self._worlds, np.split(action, self._ends), strict=True)]
        return Transition(*(np.concatenate(column) for column in zip(*steps, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Of each world."""
        return {"worlds": [world.state_dict() for world in self._worlds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        for world, kept in zip(self._worlds, state["worlds"], strict=True):
            world.load_state_dict(kept)


class Demonstrations(Experience):
    """Expert (observation, action) pairs from a fixed set of episodes; the stream decides how many episodes exist.

    `episodes`: pairs of observations (L, O) and actions (L, A), L may differ. `groups`: which task each episode belongs to; draws give
    every group the same share.
    """

    unit = "demonstration steps"

    def __init__(self, episodes: Sequence[tuple[Float, Float]], seed: int, *, groups: Sequence[int] | None = None) -> None:
        super().__init__()
        if not episodes:
            raise ContractError("demonstrations: expected at least one episode, got none")
        groups = [0] * len(episodes) if groups is None else list(groups)
        order = sorted(range(len(episodes)), key=lambda e: groups[e])  # stable: episodes of one group lie together
        self._episodes = [episodes[e] for e in order]
        self._groups = np.array([groups[e] for e in order])
        lengths = np.array([len(actions) for _, actions in self._episodes])
        self._length = lengths
        self._begin = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._observations = np.concatenate([np.asarray(o, dtype=np.float32) for o, _ in self._episodes])  # (S, O)
        self._actions = np.concatenate([np.asarray(a, dtype=np.float32) for _, a in self._episodes])  # (S, A)
        labels = np.unique(self._groups)
        self._group_episodes = np.array([[np.argmax(self._groups == g), np.sum(self._groups == g)] for g in labels])  # first, count
        self._group_steps = np.array([[self._begin[first], lengths[first : first + count].sum()] for first, count in self._group_episodes])
        self._draws = seeding.generator(seed, "demonstrations", "steps")
        self._lane_draws = seeding.generator(seed, "demonstrations", "lanes")
        self._lane_episode = np.zeros(0, dtype=np.int64)
        self._lane_offset = np.zeros(0, dtype=np.int64)  # -1: the lane begins a new episode next

    @property
    def num_episodes(self) -> int:
        """How many demonstrations exist."""
        return len(self._episodes)

    def steps(self, size: int) -> tuple[Float, Float]:
        """Independent draws with replacement: observations (B, O), actions (B, A) as float32; spends B = size steps."""
        self.meter.spend(int(size), f"steps({size})")
        index = self._uniform(self._draws, self._group_steps, int(size))
        return self._observations[index], self._actions[index]

    def windows(self, lanes: int, length: int) -> tuple[Float, Float, Bool]:
        """Stretches of episodes: observations (B, T, O), actions (B, T, A), starts (B,); spends B T steps.

        Each lane goes on where it stopped. An episode begins at the first position of a window (`starts` is True there) and is filled up
        to whole windows by repeating its last pair. Another number of lanes than before begins every lane anew.
        """
        lanes, length = int(lanes), int(length)
        self.meter.spend(max(0, lanes) * max(0, length), f"windows({lanes}, {length})")
        if lanes != len(self._lane_offset):
            self._lane_episode = np.zeros(lanes, dtype=np.int64)
            self._lane_offset = np.full(lanes, -1, dtype=np.int64)
        starts = self._lane_offset < 0
        if starts.any():
            self._lane_episode[starts] = self._uniform(self._lane_draws, self._group_episodes, int(starts.sum()))
            self._lane_offset[starts] = 0
        last = self._length[self._lane_episode] - 1  # (B,)
        offset = np.minimum(self._lane_offset[:, None] + np.arange(length), last[:, None])  # (B, T)
        index = self._begin[self._lane_episode][:, None] + offset
        self._lane_offset = np.where(self._lane_offset + length > last, -1, self._lane_offset + length)
        return self._observations[index], self._actions[index], starts

    @staticmethod
    def _uniform(draws: np.random.Generator, spans: Integer, size: int) -> Integer:
        """Indices (size,) with every span (first, count) equally likely, and every member of a span as well."""
        span = spans[draws.integers(len(spans), size=size)]  # (size, 2)
        return span[:, 0] + np.floor(draws.random(size) * span[:, 1]).astype(np.int64)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "draws": self._draws.bit_generator.state,
            "lane_draws": self._lane_draws.bit_generator.state,
            "lane_episode": self._lane_episode.copy(),
            "lane_offset": self._lane_offset.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._draws.bit_generator.state = state["draws"]
        self._lane_draws.bit_generator.state = state["lane_draws"]
        self._lane_episode = np.array(state["lane_episode"], dtype=np.int64)
        self._lane_offset = np.array(state["lane_offset"], dtype=np.int64)

    @classmethod
    def joint(cls, parts: Sequence[Any], seed: int) -> Demonstrations:
        episodes = [episode for part in parts for episode in part._episodes]
        groups = [number for number, part in enumerate(parts) for _ in part._episodes]
        return Demonstrations(episodes, seed, groups=groups)


_AHEAD, _AHEAD_TOKENS = 512, 1 << 20
"""How many examples of text are made ahead, and in how many tokens at most."""


class TextSource(Protocol):
    """Numbered examples: a pure function of their index, so that any example can be made alone.

    `longest` is the number of tokens of the longest example, `pad` the token that fills up.
    """

    longest: int
    pad: int

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,) of the examples `index` (n,)."""
        ...


class Text(Experience):
    """Examples as windows of tokens. An example counts as consumed when its last window has been handed out.

    Examples of one call may end together, so that a stretch ends at its evaluation point or just after; the phase ends exactly.
    Windows do not depend on where the evaluation points lie: how often an agent is evaluated cannot change what it learns from.
    `count`: how many distinct examples exist (few shots), repeated in a new order each time round; None = as many as are granted.
    """

    unit = "examples"

    def __init__(self, source: TextSource, seed: int, *, count: int | None = None) -> None:
        super().__init__()
        self._source, self._seed, self._count = source, int(seed), count
        self._begun = 0
        self._tokens = np.zeros((0, source.longest), dtype=np.int64)  # (B, longest), the open example of each lane
        self._mask = np.zeros((0, source.longest), dtype=bool)
        self._left = np.zeros(0, dtype=np.int64)  # tokens of the open example not yet handed out; 0 = none open
        self._offset = np.zeros(0, dtype=np.int64)
        self._ahead: tuple[int, tuple[Integer, Bool, Integer]] | None = None  # which example comes first, and some from there on

    @property
    def longest(self) -> int:
        """Tokens of the longest example: windows of this length hold any example whole."""
        return self._source.longest

    def windows(self, lanes: int, length: int) -> tuple[Integer, Bool, Bool]:
        """Tokens (B, T), loss mask (B, T), starts (B,). The mask marks tokens to be predicted from all before them in their example.

        Each lane goes on where it stopped; an example begins at the first position of a window (`starts` is True there) and is padded to
        whole windows with mask False. A lane for which no granted example is left is padding and starts. Asking when nothing remains, or
        changing the number of lanes while an example is open, is an error.
        """
        lanes, length = int(lanes), int(length)
        if lanes < 1 or length < 1:
            raise ContractError(f"windows({lanes}, {length}): expected at least 1 lane and 1 token")
        if self.remaining == 0:
            raise ContractError(
                f"overspent: windows({lanes}, {length}) when 0 of {self.meter.granted} {self.unit} remain; "
                "return from learn when experience.remaining is 0"
            )
        if lanes != len(self._left):
            self._resize(lanes)
        starts = self._left == 0
        self._open(np.flatnonzero(starts)[: self.meter.planned - self._begun])
        position = self._offset[:, None] + np.arange(length)  # (B, T)
        inside = np.arange(length) < self._left[:, None]
        position = np.where(inside, position, 0)
        rows = np.arange(lanes)[:, None]
        tokens = np.where(inside, self._tokens[rows, position], self._source.pad)
        mask = inside & self._mask[rows, position]
        finished = (self._left > 0) & (self._left <= length)
        self._offset = self._offset + length
        self._left = np.maximum(self._left - length, 0)
        if finished.any():
            self.meter.count(int(finished.sum()))
        return tokens, mask, starts

    @property
    def distinct(self) -> int | None:
        """How many different examples there are; None: as many as are granted."""
        return len(self._source) if isinstance(self._source, Sized) else self._count

    def whole(self, count: int) -> tuple[Integer, Integer]:
        """The next `count` examples: tokens (count, longest) and lengths (count,); spends them. Not while an example is open."""
        self._resize(count)
        self._open(np.arange(min(count, self.remaining)))
        lengths = self._left.copy()
        self._left = np.zeros(count, dtype=np.int64)
        self.meter.spend(int((lengths > 0).sum()), f"whole({count})")
        return self._tokens.copy(), lengths

    def _resize(self, lanes: int) -> None:
        if self._left.any():
            raise ContractError(f"windows: {len(self._left)} lanes are in the middle of an example; expected the same number, got {lanes}")
        self._tokens = np.full((lanes, self._source.longest), self._source.pad, dtype=np.int64)
        self._mask = np.zeros((lanes, self._source.longest), dtype=bool)
        self._left = np.zeros(lanes, dtype=np.int64)
        self._offset = np.zeros(lanes, dtype=np.int64)

    def _open(self, rows: Integer) -> None:
        """Begin the next examples in lanes `rows`."""
        if len(rows) == 0:
            return
        self._tokens[rows], self._mask[rows], self._left[rows] = self._next(len(rows))
        self._offset[rows] = 0
        self._begun += len(rows)

    def _next(self, count: int) -> list[NDArray[Any]]:
        """The next `count` examples as a source gives them. They are made ahead, as to make few takes as long as to make hundreds."""
        if self._ahead is None or self._begun + count > self._ahead[0] + len(self._ahead[1][2]):
            most = min(_AHEAD, _AHEAD_TOKENS // self._source.longest, self.meter.planned - self._begun)
            order = np.arange(self._begun, self._begun + max(count, most))
            self._ahead = self._begun, self._source.examples(self._numbers(order))
        first, made = self._ahead
        return [part[self._begun - first : self._begun - first + count] for part in made]

    def _numbers(self, order: Integer) -> Integer:
        """Which example is the i-th to be handed out; a fresh permutation for each time round a finite set."""
        count = self._count
        if count is None:
            return order
        permuted = {
            turn: seeding.generator(self._seed, "text", "turn", turn).permutation(count) for turn in np.unique(order // count).tolist()
        }
        return np.array([permuted[i // count][i % count] for i in order.tolist()])

    def state_dict(self) -> dict[str, Any]:
        arrays = {"tokens": self._tokens, "mask": self._mask, "left": self._left, "offset": self._offset}
        return {**super().state_dict(), "begun": self._begun, **{name: array.copy() for name, array in arrays.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._begun, self._ahead = int(state["begun"]), None
        self._tokens, self._mask = np.array(state["tokens"]), np.array(state["mask"])
        self._left, self._offset = np.array(state["left"]), np.array(state["offset"])

    @classmethod
    def joint(cls, parts: Sequence[Any], seed: int) -> Text:
        return Text(JointSource([part._source for part in parts]), seed)

    def blurred(self, before: tuple[Text, int] | None, after: tuple[Text, int] | None, *, units: int, blur: float, seed: int) -> Text:
        """The same for a phase of `units` examples that runs into those before and after, which hand out so many themselves."""
        edges = [None if edge is None else Neighbour(edge[0]._source, edge[1]) for edge in (before, after)]
        return Text(BlurredSource(self._source, *edges, units=units, blur=blur, seed=seed), seed)


class JointSource:
    """Examples of several sources in turn: example i is example i // n of source i % n."""

    def __init__(self, sources: Sequence[TextSource]) -> None:
        self._sources = list(sources)
        self.longest = max(source.longest for source in sources)
        self.pad = sources[0].pad

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,)."""
        index = np.asarray(index)
        tokens = np.full((len(index), self.longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(index), self.longest), dtype=bool)
        lengths = np.zeros(len(index), dtype=np.int64)
        for number, source in enumerate(self._sources):
            rows = np.flatnonzero(index % len(self._sources) == number)
            if len(rows):
                part, part_mask, lengths[rows] = source.examples(index[rows] // len(self._sources))
                tokens[rows, : source.longest], mask[rows, : source.longest] = part, part_mask
        return tokens, mask, lengths


@dataclass(frozen=True)
class Neighbour:
    """What a phase shares its edge with: the examples of another phase, from the first that this one does not hand out itself."""

    source: TextSource
    first: int


class BlurredSource:
    """Examples of `own`, of which those near the edges of a phase of `units` are the more likely its neighbours' the nearer they are.

    At an edge one in two is, half of `blur` (a share of the phase) away none; spec language.md 2.4, "boundary-free".
    """

    def __init__(self, own: TextSource, before: Neighbour | None, after: Neighbour | None, *, units: int, blur: float, seed: int) -> None:
        self._own, self._edges = own, (before, after)
        place = (np.arange(units) + 0.5) / units
        drawn = seeding.generator(seed, "blur").random(units)
        near = [np.clip(0.5 - distance / blur, 0.0, 0.5) for distance in (place, 1 - place)]
        chosen = [drawn < near[0], drawn > 1 - near[1]]
        self._which = np.where(chosen[0] & (before is not None), 1, np.where(chosen[1] & (after is not None), 2, 0))  # (units,)
        everything = [own, *(edge.source for edge in self._edges if edge is not None)]
        self.longest, self.pad = max(source.longest for source in everything), own.pad

    def examples(self, index: Integer) -> tuple[Integer, Bool, Integer]:
        """Tokens (n, longest), loss mask (n, longest) and lengths (n,)."""
        index = np.asarray(index)
        tokens = np.full((len(index), self.longest), self.pad, dtype=np.int64)
        mask = np.zeros((len(index), self.longest), dtype=bool)
        lengths = np.zeros(len(index), dtype=np.int64)
        for number, edge in enumerate((None, *self._edges)):
            rows = np.flatnonzero(self._which[index] == number)
            if len(rows):
                source, first = (self._own, 0) if edge is None else (edge.source, edge.first)
                part, part_mask, lengths[rows] = source.examples(first + index[rows])
                tokens[rows, : source.longest], mask[rows, : source.longest] = part, part_mask
        return tokens, mask, lengths
