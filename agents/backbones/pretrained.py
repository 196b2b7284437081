"""A causal language model that was trained before, read from a local folder, alone or with memory tokens around its segments.

Its layers are Hugging Face's (`local_model`); what goes in are vectors (`inputs_embeds`), so that a stream may have a vocabulary of its own
and a policy may read observations. The sequence is cut into segments; of each the layers see

    h_0 = [m_s ; x_s ; m_s]        [.. ; hidden ; m_s+1] = layers(h_0)

as the recurrent memory transformer has it around models that were trained before (Bulatov, Kuratov, Burtsev 2022, arXiv:2207.06881; 2023,
arXiv:2304.11062, section 3); without memory tokens a segment is the model's context, and nothing passes to the next.
Departure from `recurrent_memory`: every row sees the rows before it and no other, memory rows too, as the model is used to.
Shape letters: B batch, T time, L segment length, M memory tokens, R rows, S keys, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError, unknown_name

from . import state as states
from .backbone import Backbone, MemorySpec, Output, State, TokenRows
from .local_model import PRECISIONS, LocalModel, adapted, fingerprint, imported, load
from .pieces import Piece, put, read_in_pieces, slots_of

_PROBED = 5  # tokens by which it is seen whether a model can be cut
_CLOSE = 1e-2  # of the outputs' size, in the least precise type


class Pretrained(Backbone):
    """State: memory (B, M, D), seg_pos (B,) tokens in the open segment, and that segment's keys.n, values.n (B, H, M+L-1, D/H).

    `folder`: config, weights and tokenizer as `save_pretrained` leaves them. `lora_rank` > 0: only adapters of that rank learn, and what
    stands outside of the model (memory, a map of observations); `lora_alpha` 0 = twice the rank; `lora_targets` () = the model's usual
    maps. `tokens` "held": the rows of tokens do not learn. `bptt_segments` as in `recurrent_memory`. Dropout is the folder's.
    """

    def __init__(
        self,
        input_size: int,
        *,
        folder: str | None = None,
        segment_length: int = 128,
        memory_tokens: int = 0,
        bptt_segments: int = 0,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        lora_dropout: float = 0.0,
        lora_targets: tuple[str, ...] = (),
        tokens: str = "learned",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if segment_length < 1 or memory_tokens < 0 or bptt_segments < 0 or lora_rank < 0 or lora_alpha < 0 or not 0 <= lora_dropout < 1:
            raise UserError(
                "pretrained: segment_length must be at least 1, lora_dropout in [0, 1), and memory_tokens, bptt_segments, lora_rank and "
                f"lora_alpha at least 0, got {segment_length}, {lora_dropout}, {memory_tokens}, {bptt_segments}, {lora_rank}, {lora_alpha}"
            )
        if tokens not in ("learned", "held"):
            raise unknown_name("tokens", tokens, ("learned", "held"), "agent.text.backbone.tokens")
        model = load(folder, precision)
        self.segment_length, self.memory_tokens, self.bptt_segments = segment_length, memory_tokens, bptt_segments
        _check_room(model, segment_length + 2 * memory_tokens)
        if lora_rank:
            adapted(model, rank=lora_rank, alpha=lora_alpha or 2.0 * lora_rank, dropout=lora_dropout, targets=lora_targets)
        self.body, self._keyword = model.body, model.cache_keyword
        self._rows = model.rows
        self._learns_rows = tokens == "learned"
        self._cache: Any = imported("transformers").DynamicCache
        self.input_size, self.output_size = input_size, model.width
        deviation, number = model.deviation, PRECISIONS[precision]
        self.memory = nn.Parameter(deviation * torch.randn(memory_tokens, self.output_size, dtype=number))  # (M, D)
        self.embed = nn.Identity() if input_size == self.output_size else _map(input_size, self.output_size, deviation, number)
        self._shapes = self._probed(str(folder))  # by layer the heads and width of its keys
        digest = f"pretrained {model.config.model_type}, keys {sorted(set(self._shapes))}"
        self.spec = MemorySpec(digest, self.output_size, len(self._shapes), segment_length, capacity=memory_tokens)

    @staticmethod
    def identify(options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with what lies in the folder in place of the folder: runs of one model are the same wherever it lies."""
        folder = options.get("folder")
        return {**options, "folder": fingerprint(folder)} if folder is not None else dict(options)

    def token_rows(self, written: tuple[str, ...], size: int) -> TokenRows | None:
        return self._rows(written, size, self._learns_rows)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        device, dtype = device or self.memory.device, dtype or self.memory.dtype
        nothing = torch.zeros((), device=device, dtype=dtype)  # takes no room until something is written
        state: State = {}
        for n, (heads, width) in enumerate(self._shapes):
            shape = (batch, heads, self.memory_tokens + self.segment_length - 1, width)  # (B, H, M+L-1, D/H)
            state |= {f"keys.{n}": nothing.expand(shape), f"values.{n}": nothing.expand(shape)}
        memory = self.memory.to(device=device, dtype=dtype).repeat(batch, 1, 1)  # (B, M, D)
        return {"memory": memory, "seg_pos": torch.zeros(batch, device=device, dtype=torch.int32), **state}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        hidden, state = read_in_pieces(
            self._read,
            x,
            state,
            partial(self.initial_state, len(x), device=x.device, dtype=state["keys.0"].dtype),
            segment_length=self.segment_length,
            reset=reset,
            pad=pad,
            write=write,
            bptt_segments=self.bptt_segments,
        )
        return Output(hidden, state, x.new_zeros(()))

    def _read(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        return self._read_beginning(piece, state) if piece.clock == 0 else self._read_part(piece, state)

    def _read_beginning(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        """A segment from its beginning in all streams."""
        M, L, T = self.memory_tokens, self.segment_length, piece.x.shape[1]
        memory, x = state["memory"], self._embedded(piece.x)
        writes = M if T == L else 0
        h = torch.cat([memory.to(x.dtype), x, memory[:, :writes].to(x.dtype)], dim=1)  # (B, R, D)
        R = h.shape[1]
        cache = self._cache() if T < L and piece.kept else None
        h = self._layers(h, torch.arange(R, device=h.device)[None], None, cache)
        if T == L:
            return h[:, M : M + T], state | {"memory": h[:, M + L :]}
        after: State = {"seg_pos": torch.full_like(state["seg_pos"], T)}
        for n in range(len(self._shapes) if cache is not None else 0):
            keys, values = _kept(cache, n)
            after |= {f"{kind}.{n}": functional.pad(new, (0, 0, 0, M + L - 1 - R)) for kind, new in (("keys", keys), ("values", values))}
        return h[:, M : M + T], state | after

    def _read_part(self, piece: Piece, state: State) -> tuple[Tensor, State]:
        """Part of a segment: rows stand behind those that are kept, and see of them what their own stream has read."""
        M, L, T = self.memory_tokens, self.segment_length, piece.x.shape[1]
        place, reads, writes = slots_of(piece, state["seg_pos"], M, L)  # (B or 1, R)
        memory, x = state["memory"], self._embedded(piece.x)
        h = torch.cat([memory[:, :reads].to(x.dtype), x, memory[:, :writes].to(x.dtype)], dim=1)  # (B, R, D)
        fill = torch.where(state["seg_pos"] > 0, state["seg_pos"] + M, 0)  # (B,) rows that are kept
        used = M + piece.clock if piece.clock is not None else int(fill.max())
        cache = self._cache()
        if used:
            for n in range(len(self._shapes)):
                cache.update(*(state[f"{kind}.{n}"][:, :, :used].to(h.dtype) for kind in ("keys", "values")), n)
        nobody = 2 * M + L
        old = torch.arange(used, device=h.device) < fill[:, None, None]  # (B, 1, used)
        new = (place[:, None, :] <= place[:, :, None]) & (place != nobody)[:, None, :]  # (B or 1, R, R)
        B, R = len(h), h.shape[1]
        visible = torch.cat([old.expand(B, R, used), new.expand(B, R, R)], dim=2)[:, None]  # (B, 1, R, S)
        mask = torch.zeros(visible.shape, dtype=h.dtype, device=h.device).masked_fill(~visible, torch.finfo(h.dtype).min)
        h = self._layers(h, place.clamp(max=nobody - 1).expand(B, R), mask, cache)
        seg_pos = state["seg_pos"] + (T if piece.length is None else piece.length.to(torch.int32))
        closes = seg_pos == L
        after: State = {"seg_pos": seg_pos.masked_fill(closes, 0)}
        for n in range(len(self._shapes)):
            for kind, rows in zip(("keys", "values"), _kept(cache, n), strict=True):
                kept = put(state[f"{kind}.{n}"], rows[:, :, used:], place, nobody + 1)[:, :, : M + L - 1]
                after[f"{kind}.{n}"] = kept.masked_fill(closes[:, None, None, None], 0)
        if writes:
            after |= states.where(closes, {"memory": h[:, reads + T :]}, state)
        return h[:, reads : reads + T], state | after

    def _embedded(self, x: Tensor) -> Tensor:
        """What the layers read for x (B, T, input_size), in their precision."""
        return self.embed(x.to(self.memory.dtype))

    def _layers(self, h: Tensor, position: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """Rows h (B, R, D) behind all layers and the last norm; a cache takes their keys and values up."""
        said = self.body(inputs_embeds=h, position_ids=position, attention_mask=mask, use_cache=cache is not None, **{self._keyword: cache})
        return said.last_hidden_state

    def _probed(self, folder: str) -> tuple[tuple[int, int], ...]:
        """Heads and width of each layer's keys; refuses a model that does not read on from a cut as it reads the whole."""
        training = self.body.training
        self.body.eval()
        h = torch.randn(1, _PROBED, self.output_size, dtype=self.memory.dtype, generator=torch.Generator().manual_seed(0))
        position = torch.arange(_PROBED)[None]
        causal = torch.ones(_PROBED, _PROBED).tril()[None, None].to(h.dtype)
        mask = (1 - causal) * torch.finfo(h.dtype).min
        try:
            with torch.no_grad():
                whole = self._layers(h, position, None, None)
                cache = self._cache()
                parts = [self._layers(h[:, :2], position[:, :2], mask[:, :, :2, :2], cache)]
                parts.append(self._layers(h[:, 2:], position[:, 2:], mask[:, :, 2:], cache))
                shapes = tuple((keys.shape[1], keys.shape[3]) for keys, _ in (_kept(cache, n) for n in range(len(cache))))
            close = (torch.cat(parts, dim=1) - whole).abs().max() <= _CLOSE * whole.abs().max()
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            close, shapes = torch.tensor(False), ()
        self.body.train(training)
        if not close:
            raise UserError(
                "pretrained: expected a causal transformer that reads vectors at given positions behind its own keys and values, as GPT-2 "
                f"and Llama do; the model in '{folder}' ({self.body.config.model_type}) does not"
            )
        return shapes


def _kept(cache: Any, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, S, D/H) that a cache holds of a layer."""
    return cache.layers[layer].keys, cache.layers[layer].values


def _map(input_size: int, width: int, deviation: float, dtype: torch.dtype) -> nn.Linear:
    """A map of observations whose outputs are about as large as the rows of tokens."""
    layer = nn.Linear(input_size, width, dtype=dtype)
    nn.init.normal_(layer.weight, std=deviation / input_size**0.5)
    nn.init.zeros_(layer.bias)
    return layer


def _check_room(model: LocalModel, rows: int) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    window = getattr(model.config, "sliding_window", None)
    limit = min((size for size in (most, window) if size), default=rows)
    if rows > limit:
        raise UserError(
            f"pretrained: the model in '{model.folder}' reads {limit} tokens at once, and segment_length with memory_tokens on both sides "
            f"is {rows}; give a smaller agent.text.backbone.segment_length"
        )
