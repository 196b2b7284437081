"""Memorizing Transformer and Focused Transformer: some layers also read the keys and values of all earlier segments, kept as they are.

Wu et al. 2022, arXiv:2203.08913, section 3 (MT); Tworkowski et al. 2023, arXiv:2307.03170, sections 3.1 and 3.2 (FoT). In a memory layer a
query q reads o_c from the open segment, causally, and o_m from the `topk` entries of its head's memory with the largest q k (0: from all):

    gate      o = g o_m + (1 - g) o_c     g = sigmoid(b), one b for each head; g = 0 while the memory is empty      (MT, published)
    concat    o = softmax over both                                                                (MT as submitted; FoT, LongLLaMA)

A segment's keys and values are written when it ends, so that it never reads its own; a full memory forgets its oldest entries. Queries and
keys of these layers have unit length times a temperature that each head learns, so that keys written by older weights still compare.

    differentiable    False: what is written has no gradient (MT). True: within a call it has (FoT), and with it `context`, FoT's
                      crossbatch: row i reads the memories of the rows context[i] (B, d) as one, its own first, then d - 1 distractors.
    distances         in a segment. bias: a number that each head of each layer learns for each distance, as in T5 (MT). rotary: FoT.
                      Biases begin with heads that read the token before, the one before that and so on, half of the heads in all;
                      without them nothing that a key and the value behind it say was recalled within thousands of updates.
    positions         in memory layers. local: `distances` in the segment, none towards the memory (MT). none: none at all (FoT).
                      first: rotary in the segment, and every memory as if it stood at the segment's first place (LongLLaMA).

    prepared          True: heads begin able to read, with these biases and, half of them, with queries like keys (`segment_transformer`).
                      False: all begin as PyTorch draws them, and biases at 0.
    temperature       factor: what a head learns is the factor of its scores, which an update moves by about the learning rate. logarithm:
                      its logarithm (as in CLIP, Radford et al. 2021), so that it can rise as fast as more entries must be told apart.
                      FoT divides by what it learns. All begin at sqrt(D/H).
    store             where the memory lies and how its nearest entries are found, see `stores.choice`; auto: by size and device
    memory_bytes      0: as many entries as `memory_size` says. Otherwise at most as many as fit a stream's share of these bytes.
    shared            True: while it learns, all streams write into one memory and read it, which lasts for a task or a lifetime (`scope`);
                      a policy begins with that memory, and each of its episodes goes on with a copy of its own.

MT and FoT differ in the first three only. Departures: no XL cache, the local context is the open segment; FoT's contexts are memories, as
long as they may be, and not one previous window.
Shape letters: B batch, T time, L segment length, M memory size, H heads, D width, d contexts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from clbench.errors import UserError, unknown_name

from ..stores import streaming
from ..stores.account import capacity_within, reads
from ..stores.choice import StoreName, choose, named
from ..stores.faiss_store import FaissStore
from ..stores.shared import Together
from ..stores.store import Attended, MemoryStore, concat, gate
from . import state as states
from .backbone import Backbone, MemorySpec, Output, State
from .pieces import Piece, put, read_in_pieces
from .segment_transformer import Block, SegmentTransformer, rotary, rotate

INTEGRATIONS = ("gate", "concat")
DISTANCES = ("bias", "rotary")
POSITIONS = ("local", "none", "first")
TEMPERATURES = ("factor", "logarithm")

BUCKETS, EXACT, FARTHEST = 32, 16, 128  # of a bias: one for each distance below EXACT, then geometrically wider up to FARTHEST
PREFERENCE = 6.0  # of a head for one distance when it begins: 400 times what it gives another one


class _Call(NamedTuple):
    """What all pieces of a call share."""

    context: Tensor | None  # (B, d)
    notes: list[dict[str, Tensor]]  # of each reading and writing


class _Place(NamedTuple):
    """Where the tokens of a piece stand in their segments, and how rows are turned there."""

    start: int | None  # the first one's place, where all streams agree
    slots: Tensor  # (T,), or (B, T) with L for a token that is not there
    bucket: Tensor  # (T, S) or (B, T, L), of the distance to each token of the segment; -1: not to be seen
    turn: Tensor | None  # (L + 1, D/2H, 2) at every slot; None: no layer turns rows

    @property
    def there(self) -> Tensor | None:
        """Which tokens are there (B, T); None: all."""
        return None if self.start is not None else self.slots < self.bucket.shape[-1]

    @property
    def visible(self) -> Tensor:
        """What each may see of the segment: (T, S) or (B, 1, T, L)."""
        return self.bucket >= 0 if self.start is not None else (self.bucket >= 0)[:, None]

    def turned(self, q: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, D/H) at their slots, and keys (B, H, S, D/H) of the segment so far."""
        assert self.turn is not None
        at = self.turn[self.slots]
        return rotate(q, at if self.start is not None else at[:, None]), rotate(keys, self.turn[: keys.shape[2]])

    def seen(self, kept: Tensor, new: Tensor, length: int) -> Tensor:
        """Rows (B, H, S, D/H) of the segment so far: kept (B, H, L-1, D/H) and new (B, H, T, D/H)."""
        if self.start is not None:
            return torch.cat([kept[:, :, : self.start].to(new.dtype), new], dim=2) if self.start else new
        return put(kept, new, self.slots, length + 1)[:, :, :length]


class MemorizingTransformer(Backbone):
    """State: open.keys.n and open.values.n (B, H, L-1, D/H); seg_pos (B,) of L; and for a memory layer n memory.n.* of `stores.ring`."""

    reads_context = True
    buckets: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 4,
        segment_length: int = 32,
        memory_size: int = 512,
        memory_layers: Sequence[int] = (-1,),
        topk: int = 32,
        integration: Literal["gate", "concat"] = "gate",
        differentiable: bool = False,
        distances: Literal["bias", "rotary"] = "bias",
        positions: Literal["local", "none", "first"] = "local",
        prepared: bool = True,
        temperature: Literal["factor", "logarithm"] = "factor",
        store: StoreName = "auto",
        memory_bytes: int = 0,
        shared: bool = False,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if segment_length < 1 or min(memory_size, memory_bytes, topk) < 0:
            raise UserError(
                "memorizing-transformer: segment_length must be at least 1, memory_size, memory_bytes and topk at least 0, "
                f"got {segment_length}, {memory_size}, {memory_bytes}, {topk}"
            )
        if temperature not in TEMPERATURES:
            raise unknown_name("temperature", temperature, TEMPERATURES, "agents/backbones/memorizing_transformer.py")
        if integration not in INTEGRATIONS:
            raise unknown_name("integration", integration, INTEGRATIONS, "agents/backbones/memorizing_transformer.py")
        if distances not in DISTANCES:
            raise unknown_name("distances", distances, DISTANCES, "agents/backbones/memorizing_transformer.py")
        if distances == "bias" and positions == "first":
            raise UserError("memorizing-transformer: positions=first turns keys and needs distances=rotary, got distances=bias")
        if positions not in POSITIONS:
            raise unknown_name("positions", positions, POSITIONS, "agents/backbones/memorizing_transformer.py")
        if any(not -layers <= layer < layers for layer in memory_layers):
            raise UserError(f"memorizing-transformer: memory_layers must lie in [-{layers}, {layers}), got {list(memory_layers)}")
        self.trunk = SegmentTransformer(
            input_size,
            width=width,
            layers=layers,
            heads=heads,
            feedforward=feedforward,
            dropout=dropout,
            post_norm=post_norm,
            alike=prepared,
        )
        self.memory_layers = tuple(sorted({layer % layers for layer in memory_layers})) if memory_size else ()
        self.logarithm = temperature == "logarithm"
        begins = math.log(math.sqrt(width // heads)) if self.logarithm else math.sqrt(width // heads)
        self.temperatures = nn.ParameterDict({str(n): nn.Parameter(torch.full((heads, 1, 1), begins)) for n in self.memory_layers})
        placed = [n for n in range(layers) if n not in self.memory_layers or positions != "none"]  # layers that know distances
        self.turning = frozenset(placed) if distances == "rotary" else frozenset()
        self.biases = nn.ParameterDict({str(n): nn.Parameter(first_bias(heads, prepared)) for n in placed if distances == "bias"})
        gated = self.memory_layers if integration == "gate" else ()
        self.gates = nn.ParameterDict({str(n): nn.Parameter(torch.zeros(heads, 1, 1)) for n in gated})  # b
        slot = torch.arange(segment_length + 1)  # the last one is that of tokens that are not there
        self.register_buffer("buckets", bucket(slot[:, None] - slot[:-1]), persistent=False)  # (L + 1, L)
        self.by_device, self._apart = store == "auto", {n: named(store) for n in self.memory_layers}
        self.shared, self._together = shared, {n: Together(kind) for n, kind in self._apart.items()}
        for kind in list(self._apart.values())[:1] if memory_bytes else []:
            share = memory_bytes // len(self.memory_layers)
            memory_size = min(memory_size, capacity_within(kind, share, heads, width // heads, width // heads))
        self.input_size, self.output_size, self.heads = input_size, width, heads
        self.segment_length, self.memory_size, self.topk = segment_length, memory_size, topk or None
        self.differentiable, self.positions = differentiable, positions
        self.spec = MemorySpec(
            "memorizing-transformer", width, layers, segment_length, capacity=memory_size, memory_layers=self.memory_layers
        )

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        weight = self.trunk.blocks[0].project_in.weight
        device, dtype, width = device or weight.device, dtype or weight.dtype, self.output_size // self.heads
        names = [f"open.{kind}.{n}" for n in range(len(self.trunk.blocks)) for kind in ("keys", "values")]
        state = {name: torch.zeros(batch, self.heads, self.segment_length - 1, width, device=device, dtype=dtype) for name in names}
        for n in self.memory_layers:
            shape = (batch, self.heads, self.memory_size, width, width)
            store = choose(*shape, device=device, dtype=dtype) if self.by_device else self._apart[n]
            memory = store.empty(*shape, device=device, dtype=dtype)
            state |= {f"memory.{n}.{name}": leaf for name, leaf in memory.items()}
        return {**state, "seg_pos": torch.zeros(batch, device=device, dtype=torch.int32)}

    def advance(
        self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool, *, context: Tensor | None = None
    ) -> Output:
        call = _Call(context, [])
        hidden, state = read_in_pieces(
            partial(self._read, call),
            x,
            state,
            partial(self.initial_state, len(x), device=x.device, dtype=state["open.keys.0"].dtype),
            segment_length=self.segment_length,
            reset=reset,
            pad=pad,
            write=write,
        )
        return Output(hidden, state, x.new_zeros(()), self._diagnostics(call.notes, state))

    def _read(self, call: _Call, piece: Piece, state: State) -> tuple[Tensor, State]:
        L, T = self.segment_length, piece.x.shape[1]
        place = self._place(piece, state["seg_pos"])
        used = int(state[f"memory.{self.memory_layers[0]}.fill"].max()) if self.memory_layers else 0
        seg_pos = state["seg_pos"] + (T if piece.length is None else piece.length.to(torch.int32))
        closes = seg_pos == L
        ends = piece.clock is None or piece.clock + T == L  # in some stream
        after: State = {"seg_pos": seg_pos.masked_fill(closes, 0)}
        h = self.trunk.embed(piece.x)  # (B, T, D)
        for n, block in enumerate(self.trunk.blocks):
            q, k, v = self._project(n, block, h)
            keys, values = (place.seen(state[f"open.{kind}.{n}"], new, L) for kind, new in (("keys", k), ("values", v)))
            memory = self._memory(state, n)
            joined, recalled = self._attend(n, (q, keys, values), place, self._readable(n, memory, used), call)
            h = block.finish(h, joined)
            if not piece.kept:
                continue
            if recalled is not None and call.context is None:
                memory = self.stores[n].noted(memory, recalled, place.there)
                after |= _of_layer(n, memory)
            if ends and n in self.memory_layers:
                written = (keys, values) if self.differentiable else (keys.detach(), values.detach())
                valid = None if piece.clock is not None else closes[:, None].expand(-1, L)
                after |= _of_layer(n, self.stores[n].append(memory, *written, valid))
            after |= {f"open.{kind}.{n}": self._open(rows, closes) for kind, rows in (("keys", keys), ("values", values))}
        if ends and piece.kept:
            call.notes.append({"memory_writes": closes.sum() * (L * len(self.memory_layers))})
        return self.trunk.norm(h), state | after

    @property
    def stores(self) -> Mapping[int, MemoryStore]:
        """Of each memory layer the store that it writes and reads now."""
        return self._together if self.shared and self.training else self._apart

    @property
    def _width(self) -> int:
        return self.output_size // self.heads

    def _place(self, piece: Piece, seg_pos: Tensor) -> _Place:
        L, T, device = self.segment_length, piece.x.shape[1], piece.x.device
        token = torch.arange(T, device=device)
        turn = None
        if self.turning:
            turn = rotary(torch.arange(L + 1, device=device, dtype=torch.promote_types(piece.x.dtype, torch.float32)), self._width)
        if piece.clock is not None:
            end = piece.clock + T
            return _Place(piece.clock, piece.clock + token, self.buckets[piece.clock : end, :end], turn)
        assert piece.length is not None
        slots = torch.where(token < piece.length[:, None], seg_pos[:, None].long() + token, L)  # (B, T)
        return _Place(None, slots, self.buckets[slots], turn)

    def _project(self, n: int, block: Block, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries that carry the scale of their scores, keys and values, each (B, H, T, D/H), not yet turned."""
        q, k, v = block.project(h)
        if n not in self.memory_layers:
            return q / math.sqrt(self._width), k, v
        learned = self.temperatures[str(n)]
        scale = learned.exp() if self.logarithm else learned
        return functional.normalize(q, dim=-1) * scale, functional.normalize(k, dim=-1), v

    def _attend(
        self, n: int, rows: tuple[Tensor, Tensor, Tensor], place: _Place, memory: State, call: _Call
    ) -> tuple[Tensor, Attended | None]:
        """What queries q (B, H, T, D/H) read from the segment so far (B, H, S, D/H) and, in a memory layer, from the memory."""
        q, keys, values = rows
        asked = q
        if n in self.turning:
            q, keys = place.turned(q, keys)
        mask = self._mask(n, place)
        local = partial(scaled_dot_product_attention, q, keys, values, attn_mask=mask, is_causal=mask is None, scale=1.0)
        if not memory:
            return local(), None
        attended = self._recall(n, memory, q if self.positions == "first" else asked, call)
        call.notes.append({"memory_reads": reads(attended, place.there)})
        if str(n) in self.gates:
            return gate(self.gates[str(n)].sigmoid(), local(), attended.output, attended.lse), attended
        both = streaming.attend_masked(q, keys, values, place.visible if mask is None else mask, 1.0)
        return concat(*both, attended.output, attended.lse)[0], attended

    def _mask(self, n: int, place: _Place) -> Tensor | None:
        """What is added to local scores, -inf where nothing may be seen, or a mask of what may; None: all up to itself."""
        if str(n) not in self.biases:
            return None if place.start == 0 else place.visible
        bias = self.biases[str(n)][:, place.bucket].movedim(0, -3)  # (H, T, S) or (B, H, T, L)
        return bias.masked_fill(~place.visible, -torch.inf)

    def _recall(self, n: int, memory: State, q: Tensor, call: _Call) -> Attended:
        """What q (B, H, T, D/H) reads from its own memory, or from those of the rows context (B, d) as if they were one."""
        if call.context is None:
            return self.stores[n].attend(memory, q, self.topk)
        B, d = call.context.shape
        apart = self.stores[n].attend(states.select(memory, call.context.flatten()), q.repeat_interleave(d, dim=0))
        output, lse = apart.output.unflatten(0, (B, d)), apart.lse.unflatten(0, (B, d))  # (B, d, H, T, D/H), (B, d, H, T)
        share, together = streaming.softmax(lse.movedim(1, -1))  # (B, H, T, d), (B, H, T)
        call.notes.append({"positive_share": share[..., 0].detach().mean()})  # r_d, FoT's measure of distraction
        of_all = apart.diagnostics["reads"].unflatten(0, (B, d)).sum(1)
        return Attended((share.movedim(-1, 1)[..., None] * output).sum(1), together, {"reads": of_all})

    def _memory(self, state: State, n: int) -> State:
        """The memory of layer n; {} where it has none."""
        prefix = f"memory.{n}."
        return {name.removeprefix(prefix): leaf for name, leaf in state.items() if name.startswith(prefix)}

    def _readable(self, n: int, memory: State, used: int) -> State:
        """What is read of a memory: its first `used` slots, or all where the store numbers them; {} where reading would change nothing."""
        if not memory or not (used or self.stores[n].notes):
            return {}
        if isinstance(self._apart[n], FaissStore):
            return memory
        used = max(used, 1)
        return {**memory, **{name: memory[name][:, :, :used] for name in ("keys", "values")}}

    def _open(self, rows: Tensor, closes: Tensor) -> Tensor:
        """What the open segment keeps of rows (B, H, S, D/H): (B, H, L-1, D/H)."""
        L, S = self.segment_length, rows.shape[2]
        rows = functional.pad(rows, (0, 0, 0, L - 1 - S)) if S < L else rows[:, :, : L - 1]
        return rows.masked_fill(closes[:, None, None, None], 0)

    def _diagnostics(self, notes: Sequence[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """The account of the call, the mean gate, and the mean r_d."""
        found: dict[str, Tensor] = {}
        for name in ("memory_writes", "memory_reads", "positive_share"):
            values = [note[name] for note in notes if name in note]
            if values:
                found[name] = torch.stack(values).float().mean() if name == "positive_share" else torch.stack(values).sum()
        if self.memory_layers:
            held = {name: leaf for name, leaf in state.items() if name.startswith("memory.")}
            size = states.bytes(states.select(held, slice(1)) if self.stores is self._together else held)
            found["memory_bytes"] = torch.tensor(size, device=state["seg_pos"].device)
        if self.gates:
            found["gate"] = torch.stack([bias.detach().sigmoid().mean() for bias in self.gates.values()]).mean()
        return found


def _of_layer(n: int, memory: State) -> State:
    return {f"memory.{n}.{name}": leaf for name, leaf in memory.items()}


def first_bias(heads: int, prepared: bool = True) -> Tensor:
    """With what a bias (H, 32) begins: of the heads that do not read their own kind, the first reads the token before, and so on."""
    bias = torch.zeros(heads, BUCKETS)
    if not prepared:
        return bias
    others = range((heads + 1) // 2, min(heads, (heads + 1) // 2 + EXACT - 1))
    for back, head in enumerate(others, start=1):
        bias[head, back] = PREFERENCE
    return bias


def bucket(distance: Tensor) -> Tensor:
    """The entry of a bias for a distance back, as T5 has it (Raffel et al. 2020, arXiv:1910.10683); -1 where it is negative."""
    scale = (BUCKETS - EXACT) / math.log(FARTHEST / EXACT)
    far = EXACT + ((distance.clamp(min=EXACT) / EXACT).log() * scale).long()
    return torch.where(distance < EXACT, distance, far).clamp(-1, BUCKETS - 1)
