"""A causal transformer over a sliding window: each token sees itself and the `context` tokens before it.

Vaswani et al. 2017, arXiv:1706.03762, decoder only, with rotary positions (Su et al. 2021, arXiv:2104.09864). The state holds
keys before rotation; they are turned by their place in the window, so that a stream's length never enters an angle. A window
that slides by single tokens makes any cut of a sequence into calls exact; over n layers it reaches n * context tokens back.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State
from .pieces import Piece, read_in_pieces
from .segment_transformer import SegmentTransformer, rotary, rotate


class Transformer(Backbone):
    """State: keys.n and values.n (B, H, C, D/H), newest last, and `fill` (B,), how many of the C = context rows are written."""

    def __init__(
        self,
        input_size: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        feedforward: int = 4,
        context: int = 256,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        if context < 0:
            raise UserError(f"transformer: context must be at least 0, got {context}")
        self.trunk = SegmentTransformer(
            input_size, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, post_norm=post_norm
        )
        self.input_size, self.output_size, self.heads, self.context = input_size, width, heads, context
        self.spec = MemorySpec("transformer", width, layers, segment_length=0, capacity=context, memory_layers=tuple(range(layers)))

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        weight = self.trunk.blocks[0].project_in.weight
        shape = (batch, self.heads, self.context, self.output_size // self.heads)  # (B, H, C, D/H)
        device, dtype = device or weight.device, dtype or weight.dtype
        names = [f"{kind}.{n}" for n in range(len(self.trunk.blocks)) for kind in ("keys", "values")]
        nothing = torch.zeros((), device=device, dtype=dtype).expand(shape)  # takes no room until something is written
        state = {name: nothing for name in names}
        return {**state, "fill": torch.zeros(batch, device=device, dtype=torch.int32)}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        fresh = partial(self.initial_state, len(x), device=x.device, dtype=state["keys.0"].dtype)
        hidden, state = read_in_pieces(self._read, x, state, fresh, segment_length=0, reset=reset, pad=pad, write=write)
        return Output(hidden, state, x.new_zeros(()))

    def _read(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        T, C = piece.x.shape[1], self.context
        least, used = torch.stack(torch.aminmax(state["fill"])).tolist()
        mask = self._mask(T, used, None if least == used else state["fill"], piece.x.device)
        precision = torch.promote_types(piece.x.dtype, torch.float32)
        turn = rotary(torch.arange(used + T, device=piece.x.device, dtype=precision), self.output_size // self.heads)
        after: State = {}
        h = self.trunk.embed(piece.x)  # (B, T, D)
        for n, block in enumerate(self.trunk.blocks):
            q, k, v = block.project(h)  # (B, H, T, D/H)
            keys, values = state[f"keys.{n}"].to(k.dtype), state[f"values.{n}"].to(v.dtype)
            seen_k = torch.cat([keys[:, :, C - used :], k], dim=2) if used else k  # (B, H, used + T, D/H)
            seen_v = torch.cat([values[:, :, C - used :], v], dim=2) if used else v
            attended = scaled_dot_product_attention(
                rotate(q, turn[used:]), rotate(seen_k, turn), seen_v, attn_mask=mask, is_causal=mask is None
            )
            h = block.finish(h, attended)
            if piece.kept:
                after[f"keys.{n}"] = _append(keys, k, piece.length)
                after[f"values.{n}"] = _append(values, v, piece.length)
        grown = state["fill"] + (T if piece.length is None else piece.length)
        after["fill"] = grown.clamp(max=C).to(torch.int32)
        return self.trunk.norm(h), after

    def _mask(self, T: int, used: int, fill: Tensor | None, device: torch.device) -> Tensor | None:
        """What each of T queries may see of `used` old and T new keys; None where that is plainly causal."""
        if not used and self.context >= T - 1:
            return None
        key = torch.arange(used + T, device=device)
        distance = torch.arange(used, used + T, device=device)[:, None] - key  # (T, used + T)
        mask = (distance >= 0) & (distance <= self.context)
        if fill is None:
            return mask
        return mask & (key >= used - fill[:, None, None, None])  # (B, 1, T, used + T)


def _append(kept: Tensor, new: Tensor, length: Tensor | None) -> Tensor:
    """The last C of kept (B, H, C, D/H) and new (B, H, T, D/H), of which the first `length` (B,) count."""
    C, T = kept.shape[2], new.shape[2]
    if length is None:
        return new[:, :, T - C :] if T >= C else torch.cat([kept[:, :, T:], new], dim=2)
    both = torch.cat([kept, new], dim=2)
    index = torch.arange(C, device=new.device) + length[:, None]  # (B, C)
    return both.gather(2, index[:, None, :, None].expand(-1, both.shape[1], -1, both.shape[3]))
