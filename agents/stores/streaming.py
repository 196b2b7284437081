"""Exact attention over a memory of any size: scores are made for one chunk of slots at a time, and nothing as large as (T, M) is kept.

The k best of a row are found chunk by chunk. In a chunk, columns are dealt into blocks; the k best entries lie in the k blocks with the
largest maxima, so that one pass of maxima and two small selections replace a selection over the whole chunk. The result is exact.
Among entries of equal score the youngest win, whatever the chunks and wherever the ring began. Keys and values may lie in host memory
while queries are on a device: chunks travel, and so do the selected rows.
Spec: memory.md 3.4 and 3.5, tests A2 and A9. Shape letters as in `store`; C slots of a chunk, k selected entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..backbones.state import State
from .store import Attended, concat

SCORES = 1 << 23  # of one chunk, over all rows; on a CPU fewer take longer and more save nothing
SCORES_ON_DEVICE = 1 << 26
TRAVELLING = 1 << 24  # numbers of one chunk of keys that come from host memory
SMALLEST_CHUNK = 512
ABOVE_ALL_YOUTH = 1 << 40


def attend_all(state: State, q: Tensor, scale: float) -> Attended:
    """Softmax over every entry; with gradients, each chunk's scores are made again in the backward pass instead of being kept."""
    chunks = list(_chunks(state, q))
    again = len(chunks) > 1 and torch.is_grad_enabled()
    parts: list[tuple[Tensor, Tensor]] = []
    for start, stop in chunks:
        k, v = (state[name][:, :, start:stop].to(q.device) for name in ("keys", "values"))
        arguments = (q, k, v, _written(state, start, stop, q.device), scale)
        part = checkpoint(attend_masked, *arguments, use_reentrant=False) if again else attend_masked(*arguments)
        parts = [concat(*parts[0], *part)] if parts else [part]
    output, lse = parts[0]
    reads = (state["fill"].to(q.device).long() * q.shape[1])[:, None].expand(-1, q.shape[2])  # (B, T)
    return Attended(output, lse, {"reads": reads})


def attend_nearest(state: State, q: Tensor, topk: int, scale: float) -> Attended:
    """Softmax over the `topk` < M entries of largest scale * q k for each query and head."""
    return attend_selected(state, q, nearest(state, q * scale, topk), scale)


def attend_selected(state: State, q: Tensor, selected: Tensor, scale: float) -> Attended:
    """Softmax over the entries in slots selected (B, H, T, k); a slot that holds nothing, or is -1, is not read."""
    B, H, T, k = selected.shape
    home = state["keys"].device
    slots = selected.clamp(min=0).to(home).view(B, H, T * k, 1)
    keys, values = (
        rows.gather(2, slots.expand(-1, -1, -1, rows.shape[3])).to(q.device).view(B, H, T, k, -1)
        for rows in (state["keys"], state["values"])
    )
    there = (selected >= 0) & (selected < state["fill"].to(q.device)[:, None, None, None])
    scores = _wide(torch.einsum("bhtd,bhtkd->bhtk", q, keys.to(q.dtype)) * scale).masked_fill(~there, -torch.inf)
    weights, lse = softmax(scores)
    output = torch.einsum("bhtk,bhtkd->bhtd", weights.to(q.dtype), values.to(q.dtype))
    return Attended(output, lse, {"reads": there.sum((1, 3)), "selected": selected, "weights": weights.detach()})


@torch.no_grad()
def nearest(state: State, q: Tensor, topk: int) -> Tensor:
    """Slots (B, H, T, topk < M) of the entries with the largest q k, best first; slots that hold nothing where there are too few.

    Whether scores are equal where the selection ends is asked of the device once, which waits for it.
    """
    scores, slots = _best_of_all(state, q, topk + 1)
    last, next_best = scores[..., topk - 1], scores[..., topk]
    if ((last == next_best) & ~last.isneginf()).any():
        return _youngest_of_equals(state, q, topk, last[..., None])
    return slots[..., :topk]


def best(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest entries of rows (..., C) and their columns, largest first; exact, and faster than `topk` for long rows."""
    C = rows.shape[-1]
    size = math.isqrt(C // count)  # entries of a block: blocks and the entries looked at then number about sqrt(C count) each
    if size < 4:
        return rows.topk(min(count, C), dim=-1)
    blocks = C // size  # block j holds columns j, j + blocks, j + 2 blocks, ...
    dealt, rest = rows[..., : blocks * size].unflatten(-1, (size, blocks)), rows[..., blocks * size :]
    chosen = dealt.amax(-2).topk(count, dim=-1, sorted=False).indices  # (..., count)
    columns = (chosen[..., None] + blocks * torch.arange(size, device=rows.device)).flatten(-2)  # (..., count * size)
    if rest.shape[-1]:
        tail = torch.arange(blocks * size, C, device=rows.device)
        columns = torch.cat([columns, tail.expand(*columns.shape[:-1], -1)], dim=-1)
    values, index = rows.gather(-1, columns).topk(count, dim=-1)
    return values, columns.gather(-1, index)


def _best_of_all(state: State, q: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest scores of every query and their slots, chunk by chunk."""
    running: tuple[Tensor, Tensor] | None = None
    for start, scores in _score_chunks(state, q):
        values, slots = best(scores, count)
        running = (values, slots + start) if running is None else _better(running, (values, slots + start), count)
    assert running is not None
    return running


def _youngest_of_equals(state: State, q: Tensor, topk: int, least: Tensor) -> Tensor:
    """Slots of all entries that score more than least (B, H, T, 1), and of the youngest that score just that: `topk` in all."""
    youth = _youth(state).to(q.device)[:, None, None]  # (B, 1, 1, M)
    running: tuple[Tensor, Tensor] | None = None
    for start, scores in _score_chunks(state, q):
        rank = youth[..., start : start + scores.shape[-1]] + torch.where(scores > least, ABOVE_ALL_YOUTH, 0)
        values, slots = best(rank.masked_fill(scores < least, -1), topk)
        running = (values, slots + start) if running is None else _better(running, (values, slots + start), topk)
    assert running is not None
    return running[1]


def _youth(state: State) -> Tensor:
    """Numbers (B, M) int64 that are larger for entries written later."""
    if "written" in state:
        return state["written"].long()
    slot = torch.arange(state["keys"].shape[2], device=state["ptr"].device)
    return (slot - state["ptr"].long()[:, None]) % len(slot)  # 0: the oldest of a full ring


def _better(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    values, slots = torch.cat([left[0], right[0]], dim=-1), torch.cat([left[1], right[1]], dim=-1)
    values, index = values.topk(min(count, values.shape[-1]), dim=-1)
    return values, slots.gather(-1, index)


def _score_chunks(state: State, q: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first slot of every chunk and q k (B, H, T, C) there; -inf where a slot holds nothing. The next chunk overwrites it."""
    room: Tensor | None = None
    for start, stop in _chunks(state, q):
        k = state["keys"][:, :, start:stop].to(q.device, q.dtype).transpose(2, 3)  # (B, H, dk, C)
        if room is None or room.shape[3] != k.shape[3]:
            room = q @ k
        else:
            torch.matmul(q, k, out=room)  # fresh memory for each chunk costs more than its scores
        scores, written = _wide(room), _written(state, start, stop, q.device)
        if q.is_cuda or not written.all():  # a device is not asked, as that would wait for it
            scores.masked_fill_(~written, -torch.inf)
        yield start, scores


def _chunks(state: State, q: Tensor) -> Iterator[tuple[int, int]]:
    keys, capacity = state["keys"], state["keys"].shape[2]
    size = (SCORES_ON_DEVICE if q.is_cuda else SCORES) // max(1, math.prod(q.shape[:3]))
    if keys.device != q.device:
        size = min(size, TRAVELLING // max(1, keys[:, :, 0].numel()))
    size = max(size, SMALLEST_CHUNK)
    for start in range(0, capacity, size):
        yield start, min(start + size, capacity)


def _written(state: State, start: int, stop: int, device: torch.device) -> Tensor:
    return (torch.arange(start, stop, device=device) < state["fill"].to(device)[:, None])[:, None, None]  # (B, 1, 1, C)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, dv) and lse (B, H, T) of a softmax over the keys (B, H, C, dk).

    mask (..., T or 1, C): True where a key may be read, or numbers that are added to the scores.
    """
    scores = _wide(q @ k.to(q.dtype).transpose(2, 3) * scale)  # (B, H, T, C)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights, lse = softmax(scores)
    return weights.to(q.dtype) @ v.to(q.dtype), lse


def softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension and its log-sum-exp; a row of nothing but -inf has weights 0 and lse -inf."""
    top = scores.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top.isneginf(), 0)
    parts = (scores - top).exp()
    total = parts.sum(-1, keepdim=True)
    empty = total == 0
    total = total.masked_fill(empty, 1)
    lse = torch.where(empty, -torch.inf, total.log() + top)
    return parts / total, lse[..., 0]


def _wide(scores: Tensor) -> Tensor:
    """Scores and their sums in float32 at least, whatever the type of the memory."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
