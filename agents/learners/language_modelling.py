"""Language modelling: each scored token is predicted from all before it in its example; the loss is its cross-entropy.

The embedding is also the head (Press and Wolf 2017, arXiv:1608.05859) where `tied` holds. Every example is read from a first token of its
own (index V), so that position t of the networks predicts token t from the tokens before t; a `Predictor` puts the same token in front.
The optimiser is the pilot's (language.md, 7.10) at half its rate and batch; with a quarter of its clipping norm and a longer warm-up
associative recall takes off on more seeds.
Shape letters: B rows, T time, V vocabulary, D width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from clbench.errors import UserError
from clbench.experience import Text
from clbench.interfaces import TaskInfo

from ..backbones import state as states
from ..backbones.backbone import Backbone, Output, TokenRows
from ..backbones.scope import forgetting, scoped
from ..backbones.state import State
from .batch import Batch, whole_items
from .batch_learner import BatchLearner, Judged
from .learner import BuildBackbone, OptimizerSettings

Float = NDArray[np.floating[Any]]
Integer = NDArray[np.integer[Any]]


class LanguageModelling(BatchLearner):
    """Reads `batch_size` examples at once, in windows of `window` tokens; 0 = as long as the longest example.

    With 0 a batch holds whole examples, and gradients flow through all of an example: a backbone with segments cuts it up by itself. With a
    shorter window its memory is carried from window to window and gradients end at a window's beginning; a window in which nothing is to be
    predicted then moves the memory on and makes no step of the optimiser.
    `contexts` d > 1: in training each example reads the memories of d examples of its batch as if they were one, its own and those of the
    next d - 1 (crossbatch, Tworkowski et al. 2023, section 3.2); from the optimiser's update `contexts_from` on, as they begin with few.
    `scope`: how long the memory lasts, see `backbones.scope`; task and never need a window.
    `evaluated_reset`: the ablation of a memory that was learned with; a policy's begins anew with each segment, the learner's does not.
    """

    def __init__(
        self,
        task: TaskInfo,
        build_backbone: BuildBackbone,
        seed: int,
        device: torch.device,
        *,
        batch_size: int = 16,
        window: int = 0,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        warmup: int = 400,
        anneal: int = 0,
        anneal_from: int = 0,
        gradient_clip: float = 0.25,
        reset_optimizer: bool = True,
        contexts: int = 1,
        contexts_from: int = 0,
        tied: bool = True,
        scope: str = "episode",
        evaluated_reset: bool = False,
    ) -> None:
        first, second = betas
        settings = OptimizerSettings(
            learning_rate, (first, second), weight_decay, warmup, gradient_clip, reset_optimizer, anneal, anneal_from
        )
        super().__init__(seed, device, settings, scope)
        if batch_size < 1 or window < 0:
            raise UserError(f"language-modelling: batch_size must be at least 1 and window at least 0, got {batch_size} and {window}")
        self.batch_size, self.window, self.vocabulary = batch_size, window, task.input_size
        if contexts < 1 or contexts_from < 0:
            raise UserError(
                f"language-modelling: contexts must be at least 1 and contexts_from at least 0, got {contexts}, {contexts_from}"
            )
        self.contexts, self.contexts_from = contexts, contexts_from
        with self.randomness.lent():
            width = build_backbone(1).output_size  # embedding and head are tied, so that both have the width that comes out
            backbone = build_backbone(width)
            rows = backbone.token_rows(task.tokens, task.input_size)
            backbone = scoped(backbone, scope, carried=window > 0, otherwise="give a window > 0, which carries it")
            networks = TokenModel(backbone, task.input_size, tied=tied, rows=rows)
        if contexts > 1 and not networks.backbone.reads_context:
            raise UserError(
                f"language-modelling: contexts={contexts} needs a backbone that reads the memories of other rows: memorizing-transformer"
            )
        self.evaluated_reset = evaluated_reset
        if evaluated_reset:
            forgetting(networks.backbone, "evaluated_reset=true")  # refused where there is nothing to forget
        self.install(networks)
        self._last = np.zeros(0, dtype=np.int32)  # (B,), the token before the next window of each lane

    def draw(self, experience: Text) -> Batch:
        tokens, scored, starts = experience.windows(self.batch_size, self.window or experience.longest)
        tokens = tokens.astype(np.int32)  # (B, T)
        before = np.where(starts, self.vocabulary, self._last if len(self._last) == len(starts) else self.vocabulary).astype(np.int32)
        inputs = np.concatenate([before[:, None], tokens[:, :-1]], axis=1)  # (B, T)
        if self.window:
            self._last = tokens[:, -1]
            return Batch(inputs, tokens, scored, starts, False, len(tokens))
        rows = scored.any(axis=1)  # lanes for which no example was left are padding
        length = int(np.flatnonzero(scored.any(axis=0))[-1]) + 1 if rows.any() else 1  # nothing behind the last target matters
        return whole_items(inputs[rows, :length], tokens[rows, :length], scored[rows, :length])

    def judge(self, batch: Batch, state: State, reset: Tensor | None) -> Judged:
        output = self.networks(
            self.tensor(batch.inputs), state, reset, self._scored(batch), write=not batch.whole, context=self._context(len(batch.inputs))
        )
        total = functional.cross_entropy(output.logits, self._targets(batch), reduction="sum")
        return Judged(total / max(1, len(output.logits)) + output.auxiliary_loss, output.state, output.diagnostics)

    def _context(self, rows: int) -> Tensor | None:
        """The rows (B, d) whose memories each row reads; None: its own."""
        if self.contexts == 1 or self._optimizer_steps < self.contexts_from:
            return None
        own = torch.arange(rows, device=self.device)
        return (own[:, None] + torch.arange(min(self.contexts, rows), device=self.device)) % rows

    def _scored(self, batch: Batch) -> Tensor:
        return self.tensor(np.flatnonzero(batch.scored))  # (n,), found on the host, where the mask is

    def _targets(self, batch: Batch) -> Tensor:
        return self.tensor(batch.targets[batch.scored].astype(np.int64))  # (n,)

    def information(self, item: Batch, generator: np.random.Generator) -> Tensor:
        """One scalar (K = 1): the log-likelihood of tokens drawn from the model itself, over sqrt(n) for n scored positions.

        The Fisher information is the expectation of its squared gradient; with the data's own tokens it would be the "empirical" one
        (Kunstner et al. 2019, arXiv:1905.12558).
        """
        logits = self._logits(item)  # (n, V)
        cumulative = logits.detach().softmax(-1).cumsum(-1)
        uniform = self.tensor(generator.random((len(logits), 1), dtype=np.float32))
        drawn = (cumulative < uniform * cumulative[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)  # (n,)
        return -functional.cross_entropy(logits, drawn, reduction="sum")[None] / math.sqrt(len(logits))

    def output_norm(self, item: Batch) -> Tensor:
        """Sum of the squared logits (Aljundi et al. 2018, equation 3, with the logits as the function's output)."""
        return self._logits(item).square().sum(-1).mean()

    def answers(self, batch: Batch) -> Tensor:
        """Logarithms of the probabilities, (B, T, V)."""
        tokens = self.tensor(batch.inputs)
        return self.networks(tokens, self._fresh_memory(batch), None, None, write=False).logits.log_softmax(-1)

    def divergence(self, answers: Tensor, batch: Batch) -> Tensor:
        before, now = answers[self.tensor(batch.scored)], self._logits(batch).log_softmax(-1)  # (n, V)
        return (before.exp() * (before - now)).sum(-1).mean()

    def _logits(self, item: Batch) -> Tensor:
        return self.networks(self.tensor(item.inputs), self._fresh_memory(item), None, self._scored(item), write=False).logits

    def snapshot(self, networks: nn.Module) -> TokenPredictor:
        if self.evaluated_reset:
            for model in [module for module in networks.modules() if isinstance(module, TokenModel)]:  # a method may have put it in another
                model.backbone = forgetting(model.backbone, "evaluated_reset=true")
        return TokenPredictor(networks, self.vocabulary, self.device, self.lasting_memory)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "last": self._last.copy()}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self._last = np.array(state["last"], dtype=np.int32)


class Prediction(NamedTuple):
    """Scores for the chosen positions, or for all."""

    logits: Tensor  # (n, V) or (B, T, V)
    state: State
    auxiliary_loss: Tensor  # ()
    diagnostics: dict[str, Tensor] | None


class TokenModel(nn.Module):
    """Embedding of V tokens and the first one, backbone, and the embedding again as head, or a linear head of its own.

    Tied, what goes in is multiplied by sqrt(D) (Vaswani et al. 2017, arXiv:1706.03762, section 3.4), so that entries of unit size meet a
    head whose logits begin small: with tied weights alone, tasks that bind a key to a value took off late or not at all.
    `rows`: those of a model that was trained before, which then stand as they are, and say themselves whether one set serves both.
    """

    def __init__(self, backbone: Backbone, vocabulary: int, *, tied: bool = True, rows: TokenRows | None = None) -> None:
        super().__init__()
        self.backbone, self.vocabulary = backbone, vocabulary
        if rows is not None:
            self.input_scale, self.head = 1.0, None
            self.embedding = nn.Embedding.from_pretrained(torch.cat([rows.read, rows.first[None]]), freeze=not rows.learned)
            if rows.spoken is not None:
                self.head = nn.Linear(backbone.output_size, vocabulary, bias=False, dtype=rows.spoken.dtype)
                self.head.weight = nn.Parameter(rows.spoken, requires_grad=rows.learned)
            return
        self.input_scale = math.sqrt(backbone.output_size) if tied else 1.0
        self.embedding = nn.Embedding(vocabulary + 1, backbone.output_size)
        nn.init.normal_(self.embedding.weight, std=1.0 / self.input_scale)
        self.head = None if tied else nn.Linear(backbone.output_size, vocabulary)

    def initial_state(self, batch: int) -> State:
        """The backbone's memory before `batch` examples."""
        return self.backbone.initial_state(batch)

    def forward(
        self,
        tokens: Tensor,
        state: State,
        reset: Tensor | None = None,
        positions: Tensor | None = None,
        *,
        write: bool = True,
        context: Tensor | None = None,
    ) -> Prediction:
        """Tokens (B, T); `positions` (n,) count through (B T)."""
        hidden, state, auxiliary_loss, diagnostics = self.read(tokens, state, reset, write=write, context=context)
        if positions is not None:
            hidden = hidden.reshape(-1, hidden.shape[-1])[positions]  # (n, D)
        logits = self.scores(hidden)
        return Prediction(logits, state, auxiliary_loss, diagnostics)

    def read(
        self, tokens: Tensor, state: State, reset: Tensor | None = None, *, write: bool = True, context: Tensor | None = None
    ) -> Output:
        """What the backbone makes of tokens (B, T): outputs (B, T, D), its memory behind them, a loss of its own, diagnostics."""
        x = self.embedding(tokens) * self.input_scale
        return self.backbone(x, state, reset=reset, write=write, context=context)

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of outputs (..., D)."""
        return functional.linear(hidden, self.embedding.weight[: self.vocabulary]) if self.head is None else self.head(hidden)


class TokenPredictor:
    """Plays a `TokenModel` that nobody else holds. Its state is the backbone's memory, or None before the first token."""

    def __init__(self, networks: nn.Module, first: int, device: torch.device, lasting: State | None = None) -> None:
        self._networks, self._first, self._device = networks.eval().requires_grad_(False), first, device
        self._lasting = lasting

    def initial_state(self, batch: int) -> State | None:
        """No memory yet."""
        return None

    def logits(self, tokens: Integer, state: State | None) -> tuple[Float, State]:
        """Scores (B, T, V) of the token that follows each of tokens (B, T)."""
        tokens = np.asarray(tokens, dtype=np.int64)
        with torch.inference_mode():
            begins = state is None
            if state is None:
                state = states.begun(self._networks.initial_state, len(tokens), self._lasting)  # type: ignore[arg-type]
                tokens = np.concatenate([np.full((len(tokens), 1), self._first), tokens], axis=1)
            output = self._networks(torch.from_numpy(tokens).to(self._device), state)
            return output.logits[:, 1 if begins else 0 :].float().cpu().numpy(), output.state
