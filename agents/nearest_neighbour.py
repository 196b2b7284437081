"""The agent that is nothing but memory: it keeps what it saw and answers as its nearest neighbours did.

k-nearest-neighbour regression (Cover and Hart 1967) with weights 1 / squared distance (Shepard 1968). For text a context is its last
tokens, each with a fixed random code, the recent ones longer: kNN-LM (Khandelwal et al. 2020, arXiv:1911.00172) without its language model.
Search is exact, by faiss where it is installed and by torch elsewhere. Not here: inverted lists, product quantisation.
Shape letters: B rows, T time, O observation, A action, V vocabulary, K neighbours, n stored, D width of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError
from clbench.experience import Demonstrations, Text
from clbench.interfaces import TaskInfo

from .learners.device import chosen_device

Float = NDArray[np.float32]
Integer = NDArray[np.integer[Any]]
Array = NDArray[Any]
CHUNK = 4096
NEAR = 1e-6  # a squared distance below this counts as this much

Search = Callable[[Float, int], Integer]  # queries (q, D), K -> places (q, K)


class NearestNeighbour:
    """Stores up to `capacity` different pairs (a uniform sample of all different ones once they are more) and asks `neighbours` of them.

    Control: a pair is an observation and the action taken there. Text: a pair is the last `suffix` tokens and the token that followed, for
    the tokens that a task asks for; `smoothing` votes are spread over the vocabulary.
    `index`: faiss, torch, or auto (faiss where it is installed). `device` is where torch searches; faiss stays on the processor.
    The same pair is kept once: demonstrations are drawn with replacement, and copies would be each other's neighbours.
    """

    def __init__(
        self,
        task: TaskInfo,
        seed: int,
        *,
        neighbours: int = 5,
        capacity: int = 20_000,
        suffix: int = 8,
        smoothing: float = 0.01,
        index: str = "auto",
        device: str = "cpu",
    ) -> None:
        if neighbours < 1 or capacity < 1 or suffix < 1 or smoothing <= 0:
            raise UserError(
                "nearest-neighbour: neighbours, capacity and suffix must be at least 1 and smoothing > 0, "
                f"got {neighbours}, {capacity}, {suffix}, {smoothing}"
            )
        if task.experience == "interaction":
            raise UserError(
                "nearest-neighbour copies what it was shown, and in a world to act in nobody shows it anything; take another agent"
            )
        searches = {"auto": FaissSearch if find_spec("faiss") else TorchSearch, "faiss": FaissSearch, "torch": TorchSearch}
        if index not in searches:
            raise UserError(f"nearest-neighbour: index: expected auto, faiss or torch, got '{index}'")
        if searches[index] is FaissSearch and not find_spec("faiss"):
            raise UserError("nearest-neighbour: index=faiss, but faiss is not installed; pip install 'clbench[cpu]', or index=torch")
        self._search, self._neighbours, self._smoothing, self._device = searches[index], neighbours, smoothing, chosen_device(device)
        self._suffix, self._vocabulary = suffix, task.input_size
        self._pairs = Pairs(capacity, seeding.generator(seed, "reservoir"))
        reads = task.experience == "text"
        self._take, self._answer = (self._read, self._predictor) if reads else (self._watch, self._player)
        self._codes = token_codes(task.input_size + 1, seed) if reads else np.zeros((0, 0), dtype=np.float32)
        self._snapshot: Any = None  # what `policy` returned since the last change

    def begin_task(self, task: TaskInfo) -> None:
        """Nothing: it needs no boundaries."""

    def hold_weights(self) -> None:
        """There are none."""

    def end_task(self, task: TaskInfo) -> None:
        """Nothing."""

    def learn(self, experience: Any) -> None:
        """Store what remains."""
        self._snapshot = None
        while experience.remaining > 0:
            self._pairs.offer(*self._take(experience))

    def _watch(self, experience: Demonstrations) -> tuple[Array, Array]:
        return experience.steps(min(CHUNK, experience.remaining))

    def _read(self, experience: Text) -> tuple[Array, Array]:
        tokens, scored, _ = experience.windows(64, experience.longest)  # whole examples, (B, T)
        before = np.full((len(tokens), self._suffix), self._vocabulary)
        contexts = suffixes(np.concatenate([before, tokens[:, :-1]], axis=1), self._suffix)  # (B, T, suffix)
        return contexts[scored].astype(np.int32), tokens[scored][:, None].astype(np.int32)

    def policy(self, task: TaskInfo) -> NeighbourPolicy | NeighbourPredictor:
        """What is stored by now, under its index."""
        if self._snapshot is None:
            self._snapshot = self._answer(self._pairs.keys.copy(), self._pairs.values.copy(), task)
        return self._snapshot

    def _player(self, keys: Array, values: Array, task: TaskInfo) -> NeighbourPolicy:
        return NeighbourPolicy(self._search(keys, self._device), keys, values, self._neighbours, task.output_size)

    def _predictor(self, contexts: Array, following: Array, task: TaskInfo) -> NeighbourPredictor:
        known = contexts if len(contexts) else np.zeros((0, self._suffix), dtype=np.int32)
        keys = embedded(known, self._codes)
        settings = {"neighbours": self._neighbours, "smoothing": self._smoothing, "suffix": self._suffix}
        return NeighbourPredictor(self._search(keys, self._device), keys, following, self._codes, **settings)

    def diagnostics(self) -> dict[str, float]:
        """How many pairs are stored."""
        return {"stored": float(len(self._pairs.keys))}

    def state_dict(self) -> dict[str, Any]:
        return self._pairs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pairs.load_state_dict(state)
        self._snapshot = None


class Pairs:
    """Up to `capacity` different rows (key, value): algorithm R of Vitter 1985 over those that are not stored already."""

    def __init__(self, capacity: int, generator: np.random.Generator) -> None:
        self._capacity, self._generator, self._offered = capacity, generator, 0
        self._keys = self._values = np.zeros((0, 0), dtype=np.float32)
        self._count = 0
        self._known: dict[bytes, None] = {}

    @property
    def keys(self) -> Array:
        """(n, ...)."""
        return self._keys[: self._count]

    @property
    def values(self) -> Array:
        """(n, ...)."""
        return self._values[: self._count]

    def offer(self, keys: Array, values: Array) -> None:
        """Offer rows one by one."""
        rows = _row_names(keys, values)
        for row, name in enumerate(rows):
            if name in self._known:
                continue
            self._offered += 1
            place = self._count if self._count < self._capacity else int(self._generator.random() * self._offered)
            if place < self._capacity:
                self._put(place, keys[row], values[row])
                self._known[name] = None

    def _put(self, place: int, key: Array, value: Array) -> None:
        if place < self._count:
            (gone,) = _row_names(self._keys[place : place + 1], self._values[place : place + 1])
            del self._known[gone]
        else:
            if place == len(self._keys):
                room = min(self._capacity, max(64, 2 * place))
                self._keys, self._values = _longer(self._keys, room, key), _longer(self._values, room, value)
            self._count += 1
        self._keys[place], self._values[place] = key, value

    def state_dict(self) -> dict[str, Any]:
        """A copy."""
        generator = self._generator.bit_generator.state
        return {"keys": self.keys.copy(), "values": self.values.copy(), "offered": self._offered, "generator": generator}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self._keys, self._values = np.array(state["keys"]), np.array(state["values"])
        self._count, self._offered = len(self._keys), int(state["offered"])
        self._generator.bit_generator.state = state["generator"]
        self._known = dict.fromkeys(_row_names(self._keys, self._values))


def _longer(array: Array, rows: int, example: Array) -> Array:
    longer = np.zeros((rows, *example.shape), dtype=example.dtype)
    if len(array):
        longer[: len(array)] = array
    return longer


def _row_names(keys: Array, values: Array) -> list[bytes]:
    """The bytes of each pair."""
    if not len(keys):
        return []
    joined = np.concatenate([np.ascontiguousarray(a).reshape(len(a), -1).view(np.uint8) for a in (keys, values)], axis=1)
    return [row.tobytes() for row in joined]


class FaissSearch:
    """Exact search by faiss. The index is built at the first question and is left behind by copies."""

    def __init__(self, keys: Float, device: torch.device) -> None:
        self._keys, self._index = keys, None

    def __call__(self, queries: Float, neighbours: int) -> Integer:
        if self._index is None:
            import faiss

            self._index = faiss.IndexFlatL2(self._keys.shape[1])
            self._index.add(np.ascontiguousarray(self._keys, dtype=np.float32))
        return self._index.search(np.ascontiguousarray(queries, dtype=np.float32), neighbours)[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_keys": self._keys, "_index": None}


class TorchSearch:
    """Exact search by one matrix product and `topk`."""

    def __init__(self, keys: Float, device: torch.device) -> None:
        self._keys = torch.from_numpy(keys).to(device)  # (n, D)
        self._squares = self._keys.square().sum(1)

    def __call__(self, queries: Float, neighbours: int) -> Integer:
        parts = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(self._keys.device).split(1024)
        found = [torch.addmm(self._squares, part, self._keys.T, alpha=-2.0).topk(neighbours, largest=False).indices for part in parts]
        return torch.cat(found).cpu().numpy()


def weighted(search: Search, keys: Float, queries: Float, neighbours: int) -> tuple[Integer, Float]:
    """Places (q, K) of the neighbours and their weights (q, K), which add up to 1.

    Distances are taken again from the keys themselves: both searches find them by a difference of large numbers.
    """
    places = search(queries, min(neighbours, len(keys)))
    squared = (keys[places] - queries[:, None]).astype(np.float64)
    weights = 1.0 / (np.square(squared).sum(-1) + NEAR)
    return places, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class NeighbourPolicy:
    """The weighted mean of the neighbours' actions; zeros before anything was seen."""

    def __init__(self, search: Search, keys: Float, actions: Float, neighbours: int, size: int) -> None:
        self._search, self._keys, self._actions, self._neighbours, self._size = search, keys, actions, neighbours, size

    def initial_state(self, batch: int) -> None:
        """None: each observation is answered alone."""

    def act(self, observation: Array, state: None) -> tuple[Float, None]:
        """Actions (B, A) in [-1, 1]."""
        if not len(self._keys):
            return np.zeros((len(observation), self._size), dtype=np.float32), None
        places, weights = weighted(self._search, self._keys, np.asarray(observation, dtype=np.float32), self._neighbours)
        return np.clip(np.einsum("bk,bka->ba", weights, self._actions[places]), -1.0, 1.0), None


class NeighbourPredictor:
    """Logarithms of the neighbours' weighted votes; its state is the last tokens of each document."""

    def __init__(
        self, search: Search, keys: Float, following: Integer, codes: Float, *, neighbours: int, smoothing: float, suffix: int
    ) -> None:
        self._search, self._keys, self._following, self._codes = search, keys, following, codes
        self._neighbours, self._smoothing, self._suffix = neighbours, smoothing, suffix

    def initial_state(self, batch: int) -> Integer:
        """(B, suffix): nothing before."""
        return np.full((batch, self._suffix), len(self._codes) - 1)

    def logits(self, tokens: Integer, state: Integer) -> tuple[Float, Integer]:
        """Scores (B, T, V) of the token that follows each of tokens (B, T)."""
        history = np.concatenate([state, tokens], axis=1)  # (B, suffix + T)
        contexts = suffixes(history[:, 1:], self._suffix).reshape(-1, self._suffix)  # (B T, suffix)
        different, back = np.unique(contexts, axis=0, return_inverse=True)
        votes = np.full((len(different), len(self._codes) - 1), self._smoothing / (len(self._codes) - 1), dtype=np.float32)
        if len(self._keys):
            places, weights = weighted(self._search, self._keys, embedded(different, self._codes), self._neighbours)
            np.add.at(votes, (np.arange(len(different))[:, None], self._following[places, 0]), weights)
        return np.log(votes)[back.reshape(tokens.shape)], history[:, -self._suffix :]


def suffixes(tokens: Integer, size: int) -> Integer:
    """The `size` tokens that end at each place from `size` - 1 on: tokens (B, size - 1 + T) -> (B, T, size)."""
    return np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1)


def token_codes(tokens: int, seed: int, width: int = 16) -> Float:
    """A random direction of length 1 for each token, (tokens, width); the last stands for "nothing before"."""
    codes = seeding.generator(seed, "codes").normal(size=(tokens, width))
    return (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float32)


def embedded(contexts: Integer, codes: Float) -> Float:
    """Keys (n, D): the codes of the tokens (n, suffix), each 0.8 times as long as that of the token behind it."""
    recency = np.power(np.float32(0.8), np.arange(contexts.shape[-1] - 1, -1, -1, dtype=np.float32))
    return (codes[contexts] * recency[:, None]).reshape(len(contexts), contexts.shape[-1] * codes.shape[1])
