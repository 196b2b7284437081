"""Any call is read in pieces that cross neither the end of a segment nor a reset, and that hold no pads.

A stream's place in its open segment is `state["seg_pos"]` (B,). Where all streams stand at the same place and the call has no
masks, pieces are slices; elsewhere every stream's next piece is gathered, so that one loop serves all streams and the number of
rounds is that of the stream with most pieces. Spec: memory.md 3.3, rules "State carries its own clock" and X1 to X3 of section 12.
Shape letters: B batch, T time, R rounds, n tokens of a piece, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import state as states
from .state import State


class Piece(NamedTuple):
    """What one call of a `Read` gets: every stream's next tokens, all of one segment and of one episode."""

    x: Tensor  # (B, n, D)
    length: Tensor | None = None  # (B,) tokens that are there, from the left; None: all n in every stream
    clock: int | None = None  # tokens before this piece in the open segment, where all streams agree
    fresh: Tensor | None = None  # (B,) the piece is the first of a new episode; None: in no stream
    kept: bool = True  # False: nobody reads the state after it, so that any may be returned


class _Call(NamedTuple):
    pieces: list[Piece]
    target: Tensor | None  # (B, T) where each token's output lies in those of the pieces, joined; None: in order
    ends_fresh: Tensor | None  # (B,) a reset came after the last token; None: in no stream


Read = Callable[[Piece, State], tuple[Tensor, State]]


def read_in_pieces(
    read: Read,
    x: Tensor,
    state: State,
    initial_state: Callable[[], State],
    *,
    segment_length: int,
    reset: Tensor | None,
    pad: Tensor | None,
    write: bool = True,
    bptt_segments: int = 0,
) -> tuple[Tensor, State]:
    """Outputs (B, T, D) and the last state of `read`, applied to one piece after the other; without `write` that state means nothing.

    segment_length 0: there are no segments, and only resets cut. bptt_segments k > 0: the state is detached so that the loss at
    the end of the call reaches the inputs of its last k pieces (Bulatov et al.'s k2, with the actual number of segments).
    """
    pieces, target, ends_fresh = _cut(x, state, segment_length, reset, pad)
    fresh = {} if reset is None else initial_state()
    outputs = []
    for number, piece in enumerate(pieces):
        if bptt_segments and 0 < number <= len(pieces) - bptt_segments:
            state = states.detach(state)
        if piece.fresh is not None:
            state = states.reset(state, fresh, piece.fresh)
        last = number == len(pieces) - 1
        hidden, state = read(piece._replace(kept=write or not last), state)
        outputs.append(hidden)
    if ends_fresh is not None:
        state = states.reset(state, fresh, ends_fresh)
    if target is None:
        return torch.cat(outputs, dim=1), state
    hidden = torch.cat([*outputs, torch.zeros_like(outputs[0][:, :1])], dim=1)  # (B, R * n + 1, D); the last one is a pad's
    return hidden.gather(1, target[..., None].expand(-1, -1, hidden.shape[-1])), state


def _cut(x: Tensor, state: State, segment_length: int, reset: Tensor | None, pad: Tensor | None) -> _Call:
    if reset is None and pad is None:
        low, high = _bounds(state["seg_pos"]) if segment_length else (0, 0)
        if low == high:
            tokens = x.shape[1]
            cuts = [0, *range(segment_length - low, tokens, segment_length), tokens] if segment_length else [0, tokens]
            pieces = [Piece(x[:, start:end], clock=0 if start else low) for start, end in pairwise(cuts)]
            return _Call(pieces, None, None)
    return _gather(x, state.get("seg_pos"), segment_length, reset, pad)


def positions(clock: Tensor, reset: Tensor | None, pad: Tensor | None, tokens: int) -> Tensor:
    """Tokens (B, T) before each of `tokens` in its episode, or behind the beginning of the segment in which the call began."""
    real = torch.ones(len(clock), tokens, dtype=torch.int64, device=clock.device) if pad is None else (~pad).long()
    return _positions(real.cumsum(1) - real, clock.long(), reset)


def _positions(before: Tensor, clock: Tensor, reset: Tensor | None) -> Tensor:
    begins = torch.zeros_like(before, dtype=torch.bool) if reset is None else reset
    origin = torch.where(begins, before, -clock[:, None]).cummax(1).values  # (B, T) `before` where the episode or open segment began
    return before - origin


def _bounds(clock: Tensor) -> tuple[int, int]:
    """Lowest and highest entry of clock (B,): the one transfer to the host that a call without masks needs."""
    low, high = torch.stack(torch.aminmax(clock)).tolist()
    return low, high


def _gather(x: Tensor, clock: Tensor | None, segment_length: int, reset: Tensor | None, pad: Tensor | None) -> _Call:
    """Each stream's tokens cut at its own boundaries and resets, its pads left out: round r holds the r-th piece of every stream."""
    B, T, D = x.shape
    clock = x.new_zeros(B, dtype=torch.int64) if clock is None else clock.long()
    real = x.new_ones(B, T, dtype=torch.bool) if pad is None else ~pad
    before = real.cumsum(1) - real.long()  # (B, T) tokens of the call before t
    position = _positions(before, clock, reset)
    boundary = position % segment_length == 0 if segment_length else position == 0
    starts = real & (boundary | (position == 0) | (before == 0))
    number = starts.cumsum(1) - 1  # (B, T) of the piece
    column = before - torch.where(starts, before, 0).cummax(1).values  # (B, T) in the piece
    rounds, width = torch.stack([number.amax() + 1, torch.where(real, column, 0).amax() + 1]).tolist()
    rounds = max(rounds, 1)  # a call of pads alone still has one, empty, piece
    nowhere = rounds * width
    target = torch.where(real, number * width + column, nowhere)
    source = torch.zeros(B, nowhere + 1, dtype=torch.int64, device=x.device)
    source = source.scatter(1, target, torch.arange(T, device=x.device).expand(B, T))[:, :-1]  # (B, R * n)
    tokens = x.gather(1, source[..., None].expand(-1, -1, D)).view(B, rounds, width, D)
    none = torch.zeros(B, rounds + 1, dtype=torch.int64, device=x.device)
    place = torch.where(real, number, rounds)
    length = none.scatter_add(1, place, real.long())  # (B, R + 1)
    if reset is None:
        return _Call([Piece(tokens[:, r], length[:, r]) for r in range(rounds)], target, None)
    episode = reset.cumsum(1)
    fresh = none.scatter_add(1, place, (starts & (position == 0) & (episode > 0)).long()) > 0  # (B, R + 1)
    ends_fresh = episode[:, -1] > torch.where(real, episode, 0).amax(1)
    return _Call([Piece(tokens[:, r], length[:, r], fresh=fresh[:, r]) for r in range(rounds)], target, ends_fresh)


def put(kept: Tensor, new: Tensor, slots: Tensor, count: int) -> Tensor:
    """Kept rows (B, H, S, D/H), extended to `count` of them, with new (B, H, R, D/H) at slots (B or 1, R)."""
    B, H, S, _ = kept.shape
    room = torch.cat([kept.to(new.dtype), new.new_zeros(B, H, count - S, new.shape[-1])], dim=2)
    return room.scatter(2, slots[:, None, :, None].expand(new.shape), new)


def slots_of(piece: Piece, seg_pos: Tensor, memory_tokens: int, segment_length: int) -> tuple[Tensor, int, int]:
    """The slot of every row of a segment that is read in parts, and how many rows read and write the memory.

    M slots to read, L tokens, M to write, and one that nobody sees; (B, R), or (1, R) where all streams are at one place `seg_pos` (B,).
    """
    M, L, T, device = memory_tokens, segment_length, piece.x.shape[1], piece.x.device
    if piece.clock is not None:
        start = 0 if piece.clock == 0 else M + piece.clock
        end = M + piece.clock + T
        end = end + M if end == M + L else end
        return torch.arange(start, end, device=device)[None], M if start == 0 else 0, M if end > M + L else 0
    nobody = 2 * M + L
    token = torch.arange(T, device=device)
    assert piece.length is not None
    opens = (seg_pos == 0) & (piece.length > 0)
    read = torch.where(opens[:, None], torch.arange(M, device=device), nobody)  # (B, M)
    tokens = torch.where(token < piece.length[:, None], M + seg_pos[:, None] + token, nobody)  # (B, T)
    write = torch.arange(M + L, M + L + M, device=device).expand(len(seg_pos), M)
    return torch.cat([read, tokens, write], dim=1), M, M
