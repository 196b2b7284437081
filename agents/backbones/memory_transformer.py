"""The memory transformer: learned rows beside the sequence, read and updated inside one window and never carried to the next.

Burtsev, Kuratov, Peganov, Sapunov 2020, arXiv:2006.11527; the equations as memory.md, 5.1, has them from others' notes, not checked
against the paper's text. With memory X^mem (M rows) and X^ms = [X^mem ; X^seq]:

    memory              A = LN(X^ms + MHA(X^ms, X^ms, X^ms))                  H = LN(A + FF(A))
    controller          A^mem = LN(X^mem + MHA_mem(X^mem, X^ms, X^ms))        H^mem = LN(A^mem + FF_mem(A^mem)), and alike for seq
    shared-controller   as controller, with one MHA_mem and FF_mem for all layers
    bottleneck          H^mem as controller, then A^seq = LN(X^seq + MHA_seq(X^seq, H^mem, H^mem)): tokens do not read tokens

`MemoryEncoder` is exactly this. `MemoryTransformer` is what becomes of it where no token may know of a later one. In the first three
forms the memory is a prefix of every segment: its rows read each other and no token, tokens read it and their own past. It is then the
same for all streams and all times, and a controller's own parameters are all that a form can change; nobody reads what the memory becomes
in the last layer, so that two layers have one controller, shared or not. Memory that sees no token would leave the bottleneck without any
way from token to token; there, and only there, it sees the past: every token t has a copy of the M rows that in each layer reads the rows
of this copy and the tokens of the segment up to t, and token t reads the copy and nothing else. That costs M rows for every token.

Memory rows have no positions in encoder or causal form (those of RMT have), so that only their values tell them apart: they are drawn
apart, with entries of unit size. A copy of the bottleneck stands as a whole where its token stands, a prefix at 0, with the first token.
Departures: rotary positions in a segment of the causal form, as in its siblings, and norms before the sublayers unless `post_norm`; no
biases in attention. Not here: the decoder that reads all rows of the encoder; an experiment on translation.
Shape letters: B batch, T time, L segment length, M memory tokens, S rows that can be read, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State
from .pieces import Piece, put, read_in_pieces
from .segment_transformer import Block, SegmentTransformer, rotary, rotate

FormName = Literal["memory", "controller", "shared-controller", "bottleneck"]
Heads = tuple[Tensor, Tensor]  # keys and values


class MemoryTransformer(Backbone):
    """State: keys.n, values.n (B, H, L-1, D/H) of the open segment's tokens and seg_pos (B,), how many there are.

    The memory is not part of it: it is learned, read, and never written. Gradients reach it from every segment. Keys and values are what
    a token's readers need: later tokens, or the memory of later tokens in the bottleneck.
    """

    visible: Tensor
    turn: Tensor

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        segment_length: int = 16,
        memory_tokens: int = 4,
        form: FormName = "memory",
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if segment_length < 1:
            raise UserError(f"memory-transformer: segment_length must be at least 1, got {segment_length}")
        kind = _form(form, memory_tokens)
        options = {"width": width, "heads": heads, "feedforward": feedforward, "dropout": dropout, "post_norm": post_norm}
        self.trunk = SegmentTransformer(input_size, layers=layers, **options)
        blocks = kind.controllers(layers - kind.causal.unread_layers)
        self.memory = kind.causal(memory_tokens, width, (Block(**options) for _ in range(blocks)))
        self.input_size, self.output_size, self.heads, self.segment_length = input_size, width, heads, segment_length
        self.spec = MemorySpec("memory-transformer", width, layers, segment_length, capacity=0)
        rows = torch.ones(segment_length + 1, segment_length + 1, dtype=torch.bool)  # the last slot is that of tokens that are not there
        self.register_buffer("visible", self.memory.widen(rows.tril()), persistent=False)  # (L+1, M+L+1) or (L+1, L+1)
        self.register_buffer("turn", rotary(torch.arange(segment_length + 1.0), width // heads), persistent=False)  # (L+1, D/2H, 2)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        device, dtype = device or self.memory.rows.device, dtype or self.memory.rows.dtype
        shape = (batch, self.heads, self.segment_length - 1, self.output_size // self.heads)  # (B, H, L-1, D/H)
        names = [f"{kind}.{n}" for n in range(len(self.trunk.blocks)) for kind in ("keys", "values")]
        state = {name: torch.zeros(shape, device=device, dtype=dtype) for name in names}
        return {"seg_pos": torch.zeros(batch, device=device, dtype=torch.int32), **state}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        read = partial(self._read, self.memory.begin(self.trunk.blocks))
        L, T = self.segment_length, x.shape[1]
        whole = T - T % L if reset is None and pad is None and T >= 2 * L and not state["seg_pos"].any() else 0
        parts = []
        if whole:  # nothing passes from segment to segment, so that they are read side by side
            segments = x[:, :whole].reshape(-1, L, x.shape[2])  # (B * T / L, L, D)
            parts.append(read(Piece(segments, clock=0), state)[0].view(len(x), whole, -1))
        if whole < T:
            fresh = partial(self.initial_state, len(x), device=x.device, dtype=state["keys.0"].dtype)
            hidden, state = read_in_pieces(read, x[:, whole:], state, fresh, segment_length=L, reset=reset, pad=pad, write=write)
            parts.append(hidden)
        return Output(torch.cat(parts, dim=1), state, x.new_zeros(()))

    def _read(self, memory: object, piece: Piece, state: State) -> tuple[Tensor, State]:
        place = self._beginning(piece) if piece.clock == 0 else self._part(piece, state)
        h = self.trunk.embed(piece.x)
        for n, block in enumerate(self.trunk.blocks):
            h, memory = self.memory.layer(n, block, h, memory, place)
        return self.trunk.norm(h), self._close(place, piece, state)

    def _beginning(self, piece: Piece) -> Place:
        """A segment from its beginning in all streams: nothing is looked up."""
        T = piece.x.shape[1]
        return Place(self.visible[:T, : self.visible.shape[1] - self.segment_length - 1 + T], self.turn[:T], lambda n, new: new, {})

    def _part(self, piece: Piece, state: State) -> Place:
        """Part of a segment, each stream at its own place: rows are put at their slots among those kept."""
        L, token = self.segment_length, torch.arange(piece.x.shape[1], device=piece.x.device)
        slots = state["seg_pos"][:, None] + token if piece.clock is None else piece.clock + token[None]  # (B or 1, T)
        if piece.length is not None:
            slots = torch.where(token < piece.length[:, None], slots, L)

        def kept_and(n: int, new: Heads) -> Heads:
            k, v = (put(state[f"{kind}.{n}"], rows, slots, L + 1) for kind, rows in zip(("keys", "values"), new, strict=True))
            return k, v  # (B, H, L+1, D/H) each

        return Place(self.visible[slots][:, None], self.turn[slots][:, None], kept_and, {})

    def _close(self, place: Place, piece: Piece, state: State) -> State:
        """The state after a piece; that of a stream whose segment is full is a fresh one."""
        L, T = self.segment_length, piece.x.shape[1]
        if not piece.kept or (piece.clock == 0 and T == L):
            return state
        seg_pos = state["seg_pos"] + (T if piece.length is None else piece.length.to(torch.int32))
        closes = seg_pos == L
        after = {"seg_pos": seg_pos.masked_fill(closes, 0)}
        for n, heads in place.kept.items():
            for kind, rows in zip(("keys", "values"), heads, strict=True):
                kept = functional.pad(rows, (0, 0, 0, L - 1 - rows.shape[2]))  # (B, H, L-1, D/H)
                after[f"{kind}.{n}"] = kept.masked_fill(closes[:, None, None, None], 0)
        return after


class Place(NamedTuple):
    """Where the tokens of a piece stand in their segment."""

    mask: Tensor  # (B or 1, 1, T, S) or (T, S): the rows that a token sees, of the memory's prefix if there is one and of the segment
    turn: Tensor  # (B or 1, 1, T, D/2H, 2) or (T, D/2H, 2)
    put: Callable[[int, Heads], Heads]
    kept: dict[int, Heads]

    def see(self, layer: int, k: Tensor, v: Tensor) -> Heads:
        """Keys and values (B, H, S, D/H) of the segment so far, with those of the piece, (B, H, T, D/H), at their places."""
        self.kept[layer] = self.put(layer, (rotate(k, self.turn), v))
        return self.kept[layer]


class Prefix(nn.Module):
    """Memory in front of every segment: its rows read each other and nothing else."""

    fewest_tokens, unread_layers = 0, 1  # nobody reads what the memory becomes in the last layer

    def __init__(self, tokens: int, width: int, controllers: Iterable[Block]) -> None:
        super().__init__()
        self.rows, self.controllers = nn.Parameter(torch.randn(tokens, width)), nn.ModuleList(controllers)  # (M, D)

    def widen(self, visible: Tensor) -> Tensor:
        """Every token sees every row of the memory."""
        return functional.pad(visible, (len(self.rows), 0), value=True)

    def begin(self, blocks: nn.ModuleList) -> list[Heads]:
        """Keys and values (1, H, M, D/H) of the memory in each layer: the same for all streams."""
        h, seen = self.rows[None], []
        for n, block in enumerate(blocks):
            seen.append(block.keys_values(h))
            if n < len(blocks) - 1:
                h = attend(_controller(self.controllers, n, block), h, h)
        return seen

    def layer(self, n: int, block: Block, h: Tensor, memory: list[Heads], place: Place) -> tuple[Tensor, list[Heads]]:
        """Tokens h (B, T, D) read the memory and the segment so far."""
        q, k, v = block.project(h)  # (B, H, T, D/H)
        pairs = zip(memory[n], place.see(n, k, v), strict=True)
        k, v = (torch.cat([prefix.expand(len(h), -1, -1, -1), rows], dim=2) for prefix, rows in pairs)  # (B, H, M + S, D/H)
        return block.finish(h, scaled_dot_product_attention(rotate(q, place.turn), k, v, attn_mask=place.mask)), memory


class Bottleneck(nn.Module):
    """Memory of every token: it reads itself and the segment up to that token, which reads nothing else."""

    fewest_tokens, unread_layers = 1, 0

    def __init__(self, tokens: int, width: int, controllers: Iterable[Block]) -> None:
        super().__init__()
        self.rows, self.controllers = nn.Parameter(torch.randn(tokens, width)), nn.ModuleList(controllers)  # (M, D)

    def widen(self, visible: Tensor) -> Tensor:
        """There is no prefix."""
        return visible

    def begin(self, blocks: nn.ModuleList) -> Tensor:
        """The memory (1, 1, M, D) of each token before the first layer."""
        return self.rows[None, None]

    def layer(self, n: int, block: Block, h: Tensor, memory: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """First the memory (B, T, M, D) is updated by its controller, then tokens h (B, T, D) read it."""
        B, T, D = h.shape
        M, controller = len(self.rows), self.controllers[n]
        rows = memory.expand(B, T, M, D).reshape(B, T * M, D)
        q, own_k, own_v = (part.unflatten(2, (T, M)) for part in controller.project(rows))  # (B, H, T, M, D/H)
        k, v = place.see(n, *controller.keys_values(h))  # (B, H, S, D/H)
        turned = rotate(q.flatten(2, 3), place.turn.repeat_interleave(M, dim=-3))  # (B, H, T * M, D/H)
        past = (turned @ k.transpose(2, 3)).unflatten(2, (T, M)).masked_fill(~place.mask[..., None, :], -torch.inf)  # (B, H, T, M, S)
        scores = torch.cat([past, q @ own_k.transpose(3, 4)], dim=-1) * q.shape[-1] ** -0.5
        weight = scores.softmax(-1, dtype=torch.promote_types(h.dtype, torch.float32)).to(h.dtype)  # (B, H, T, M, S + M)
        of_past, of_own = weight.split([k.shape[2], M], dim=-1)
        memory = controller.finish(rows, of_past.flatten(2, 3) @ v + (of_own @ own_v).flatten(2, 3))  # (B, T * M, D)
        k, v = (part.unflatten(2, (T, M)) for part in block.keys_values(memory))  # (B, H, T, M, D/H)
        read = scaled_dot_product_attention(block.queries(h)[..., None, :], k, v)  # (B, H, T, 1, D/H)
        return block.finish(h, read.squeeze(3)), memory.unflatten(1, (T, M))


class MemoryEncoder(nn.Module):
    """Maps x (B, T, D) to (B, T, D), not causally; sinusoidal positions are added to the sequence and to nothing else."""

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        memory_tokens: int = 4,
        form: FormName = "memory",
        dropout: float = 0.0,
        post_norm: bool = True,
    ) -> None:
        super().__init__()
        self.form = _form(form, memory_tokens)
        options = {"width": width, "heads": heads, "feedforward": feedforward, "dropout": dropout, "post_norm": post_norm}
        self.trunk = SegmentTransformer(width, layers=layers, **options)
        self.memory = nn.Parameter(torch.randn(memory_tokens, width))  # (M, D)
        self.controllers = nn.ModuleList(Block(**options) for _ in range(self.form.controllers(layers)))

    def forward(self, x: Tensor, pad: Tensor | None = None) -> Tensor:
        """The sequence's rows of `encode`."""
        return self.encode(x, pad)[:, len(self.memory) :]

    def encode(self, x: Tensor, pad: Tensor | None = None) -> Tensor:
        """Memory, then sequence: (B, M + T, D).

        pad: bool (B, T), True = not there: neither memory nor another token reads it, and the output at that place means nothing.
        """
        (B, T, D), M = x.shape, len(self.memory)
        h = torch.cat([self.memory.expand(B, M, D), self.trunk.embed(x + sinusoids(T, D).to(x))], dim=1)  # (B, M + T, D)
        mask = None
        if pad is not None:
            itself = torch.eye(M + T, dtype=torch.bool, device=x.device)
            mask = (~functional.pad(pad, (M, 0))[:, None] | itself)[:, None]  # (B, 1, M + T, M + T)
        for n, block in enumerate(self.trunk.blocks):
            h = self.form.layer(block, _controller(self.controllers, n, block), h, M, mask)
        return self.trunk.norm(h)


def sinusoids(length: int, width: int) -> Tensor:
    """Positions 0 ... length - 1 as (length, width). Vaswani et al. 2017, section 3.5, sines before cosines."""
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def attend(block: Block, h: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
    """What `block` makes of rows h (B, R, D) that read rows seen (B, S, D)."""
    k, v = block.keys_values(seen)
    return block.finish(h, scaled_dot_product_attention(block.queries(h), k, v, attn_mask=mask))


def _together(block: Block, controller: Block, h: Tensor, M: int, mask: Tensor | None) -> Tensor:
    return attend(block, h, h, mask)


def _controlled(block: Block, controller: Block, h: Tensor, M: int, mask: Tensor | None) -> Tensor:
    memory_mask, mask = (None, None) if mask is None else (mask[:, :, :M], mask[:, :, M:])
    return torch.cat([attend(controller, h[:, :M], h, memory_mask), attend(block, h[:, M:], h, mask)], dim=1)


def _through_memory(block: Block, controller: Block, h: Tensor, M: int, mask: Tensor | None) -> Tensor:
    memory = attend(controller, h[:, :M], h, None if mask is None else mask[:, :, :M])
    return torch.cat([memory, attend(block, h[:, M:], memory)], dim=1)


class Form(NamedTuple):
    """One way in which memory and sequence meet."""

    controllers: Callable[[int], int]  # how many blocks of the memory's own update it n times; 0: those of the sequence do
    layer: Callable[[Block, Block, Tensor, int, Tensor | None], Tensor]  # of the encoder
    causal: type[Prefix] | type[Bottleneck]


FORMS: dict[str, Form] = {
    "memory": Form(lambda updates: 0, _together, Prefix),
    "controller": Form(lambda updates: updates, _controlled, Prefix),
    "shared-controller": Form(lambda updates: min(1, updates), _controlled, Prefix),
    "bottleneck": Form(lambda updates: updates, _through_memory, Bottleneck),
}


def _form(name: str, memory_tokens: int) -> Form:
    if name not in FORMS:
        raise UserError(f"memory-transformer: form must be one of {', '.join(FORMS)}, got '{name}'")
    form = FORMS[name]
    if memory_tokens < form.causal.fewest_tokens:
        raise UserError(
            f"memory-transformer: memory_tokens must be at least {form.causal.fewest_tokens} in the form {name}, got {memory_tokens}"
        )
    return form


def _controller(controllers: nn.ModuleList, layer: int, block: Block) -> Block:
    """The block that updates the memory in `layer`: one of its own, in turn, or the sequence's where it has none."""
    return controllers[layer % len(controllers)] if len(controllers) else block
