"""ARMT: a recurrent memory transformer whose layers each keep a matrix that its memory tokens write and all rows of later segments read.

Rodkin, Kuratov, Bulatov, Burtsev 2024, arXiv:2407.04841, section 2, and their code (RodkinIvan/associative-recurrent-memory-transformer).
With phi = DPFP of `rolls` shifts, A and z a layer's matrix and normaliser after the segments before, m its output at the M write rows:

    read    h += phi(W_q h) A / (z phi(W_q h))            before the layer, all rows
    write   k = phi(W_k m), v = W_v m, beta = sigmoid(W_b m), v_old = k A / (z k), gamma = max(0, 1 - z k / |k|^2) without its gradient
            A += sum beta k (v - v_old)^T      z += sum gamma k

W_v begins at 0, so that the model begins as a transformer that knows its segment alone. No row is carried from segment to segment: the
memory rows are learned and always the same, what is remembered is in A.

Departures: rows h and m are normed before these maps (the authors' are not), because layers that write what they have read make the matrix
grow over segments, with large W_v to infinity; rows stand in front of the segment as well, as in our RMT (the authors' only behind it);
A and z are part of the state, in single precision at least (the authors' are attributes of the module and in no checkpoint).
Shape letters: B batch, R rows, M memory tokens, F features, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from clbench.errors import UserError

from .backbone import State
from .delta_rule import features, recall, write_at_once
from .recurrent_memory import RecurrentMemoryTransformer


class AssociativeMemoryTransformer(RecurrentMemoryTransformer):
    """State: matrix.n (B, F, D) and normaliser.n (B, F) of F = 2 * key_width * rolls features; the rest as RMT's, without its memory."""

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
        key_width: int = 16,
        rolls: int = 3,
        bptt_segments: int = 0,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        if key_width < 1 or rolls < 1:
            raise UserError(f"armt: key_width and rolls must be at least 1, got {key_width} and {rolls}")
        super().__init__(
            input_size,
            width=width,
            layers=layers,
            heads=heads,
            feedforward=feedforward,
            segment_length=segment_length,
            memory_tokens=memory_tokens,
            bptt_segments=bptt_segments,
            dropout=dropout,
            post_norm=post_norm,
        )
        self.features, self.rolls = 2 * key_width * rolls, rolls
        self.associations = nn.ModuleList(_Association(width, key_width) for _ in range(layers))
        self.spec = replace(self.spec, kind="armt", capacity=self.features, memory_layers=tuple(range(layers)))

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        state = super().initial_state(batch, device=device, dtype=dtype)
        memory = state.pop("memory")
        nothing = memory.new_zeros(batch, self.features, self.output_size + 1, dtype=torch.promote_types(memory.dtype, torch.float32))
        for n in range(len(self.associations)):
            state[f"matrix.{n}"], state[f"normaliser.{n}"] = nothing[..., 1:].clone(), nothing[..., 0].clone()
        return state

    def rows(self, state: State) -> Tensor:
        return self.memory.expand(len(state["seg_pos"]), -1, -1)

    def before_layer(self, layer: int, h: Tensor, state: State) -> Tensor:
        matrix = state[f"matrix.{layer}"]
        maps = self.associations[layer]
        asked = features(maps.queries(maps.norm(h)).to(matrix.dtype), self.rolls)  # (B, R, F)
        return h + recall(matrix, state[f"normaliser.{layer}"], asked).to(h.dtype)

    def after_layer(self, layer: int, written: Tensor, state: State) -> State:
        matrix, normaliser, maps = state[f"matrix.{layer}"], state[f"normaliser.{layer}"], self.associations[layer]
        written = maps.norm(written)
        k, v, strength = (part.to(matrix.dtype) for part in (maps.keys(written), maps.values(written), maps.strength(written).sigmoid()))
        matrix, normaliser = write_at_once(matrix, normaliser, features(k, self.rolls), v, strength)
        return {f"matrix.{layer}": matrix, f"normaliser.{layer}": normaliser}

    def after_segment(self, written: Tensor) -> State:
        return {}


class _Association(nn.Module):
    """The maps of one layer."""

    def __init__(self, width: int, key_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.queries, self.keys = nn.Linear(width, key_width, bias=False), nn.Linear(width, key_width, bias=False)
        self.values, self.strength = nn.Linear(width, width, bias=False), nn.Linear(width, 1)
        nn.init.zeros_(self.values.weight)
