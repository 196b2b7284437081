"""A long short-term memory (LSTM) that is told the task; its weights are shared by all tasks or, factorised, scaled by one vector of each.

Hochreiter & Schmidhuber 1997. Factorised as in Sorokin & Burtsev 2019 and their code (griver/pytorch-paac, `factorized_rnn.py`):

    W_ih(task) = W1 diag(e_task) W2,   W_hh(task) = U1 diag(e_task) U2,   biases shared

Their baselines are `SingleLSTM`, which reads the task among its inputs, and `FactorizedSingleLSTM`. The state lives as long as an episode.

How the task is found: the last `tasks` entries of x are its one-hot, as in the Taxi world; `tasks` 0: there is one task.
Departures: a linear layer and a ReLU read the observation instead of two convolutions, since no backbone knows what is an image;
the forget gates begin open (bias 1).
Shape letters: B batch, T time, N tasks, E rank, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State

SHORTEST = 4
"""Steps from which torch's loop over time is worth its preparations."""


class Factorised(nn.Module):
    """x (..., inputs) to W1 diag(e) W2 x (..., outputs); e (..., E)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)  # W2
        self.up = nn.Linear(rank, outputs, bias=False)  # W1

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.up(self.down(x) * e)


class Shared(nn.Linear):
    """The same map for every task."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        return super().forward(x)


class Cells(nn.Module):
    """D cells: `read` takes x (B, T, inputs) to h (B, T, D). `rank` 0: weights shared by all tasks, and every e is None."""

    def __init__(self, inputs: int, width: int, rank: int = 0) -> None:
        super().__init__()
        self.read_input = Factorised(inputs, 4 * width, rank) if rank else Shared(inputs, 4 * width)
        self.read_hidden = Factorised(width, 4 * width, rank) if rank else Shared(width, 4 * width)
        bias = torch.zeros(4 * width)
        bias[width : 2 * width] = 1.0  # the forget gates
        self.bias = nn.Parameter(bias)

    def read(
        self, x: Tensor, e: Tensor | None, h: Tensor, c: Tensor, *, begins: Tensor | None = None, pad: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (B, T, D), and the last h and c (B, D); zeroed where `begins` (B, T), before that token, and kept over pads (B, T)."""
        starts = self._starts(x, e, begins, pad)
        if starts is not None:
            return self._in_stretches(x, h, c, starts, begins)
        gates = self.read_input(x, e) + self.bias  # (B, T, 4D)
        keeps = None if begins is None else (~begins).to(x.dtype)[..., None]  # (B, T, 1)
        outputs = []
        for t in range(x.shape[1]):
            if keeps is not None:
                h, c = h * keeps[:, t], c * keeps[:, t]
            i, f, g, o = (gates[:, t] + self.read_hidden(h, None if e is None else e[:, t])).chunk(4, dim=-1)
            after = f.sigmoid() * c + i.sigmoid() * g.tanh()  # (B, D)
            out = o.sigmoid() * after.tanh()
            outputs.append(out)
            h = out if pad is None else torch.where(pad[:, t, None], h, out)
            c = after if pad is None else torch.where(pad[:, t, None], c, after)
        return torch.stack(outputs, dim=1), h, c

    def _starts(self, x: Tensor, e: Tensor | None, begins: Tensor | None, pad: Tensor | None) -> list[int] | None:
        """Where stretches begin in which no row begins anew; None: these are too short, or there are pads, or factors."""
        length = x.shape[1]
        if e is not None or length < SHORTEST or (pad is not None and bool(pad.any())):
            return None
        starts = [] if begins is None else begins.any(0).nonzero()[:, 0].tolist()
        starts = starts if starts and starts[0] == 0 else [0, *starts]
        return starts if len(starts) * SHORTEST <= length else None

    def _in_stretches(self, x: Tensor, h: Tensor, c: Tensor, starts: list[int], begins: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same by torch's own loop over time, stretch by stretch; two to four times as fast on a CPU."""
        into, over = self.read_input, self.read_hidden
        assert isinstance(into, Shared) and isinstance(over, Shared)
        weights: list[Tensor] = [into.weight, over.weight, self.bias, torch.zeros_like(self.bias)]
        outputs = []
        for first, past in zip(starts, [*starts[1:], x.shape[1]], strict=True):
            if begins is not None:
                keep = (~begins[:, first]).to(x.dtype)[:, None]
                h, c = h * keep, c * keep
            out, last_h, last_c = torch.lstm(x[:, first:past], (h[None], c[None]), weights, True, 1, 0.0, self.training, False, True)
            outputs.append(out)
            h, c = last_h[0], last_c[0]
        return torch.cat(outputs, dim=1), h, c


class Embedding(nn.Module):
    """A vector e (B, T, E) for the task at each time."""

    def __init__(self, tasks: int, rank: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(1 + 0.5 * torch.randn(max(tasks, 1), rank))  # (N, E); around one, where all tasks are alike

    def forward(self, task: Tensor) -> Tensor:
        return self.vectors[task]


def task_at(x: Tensor, tasks: int) -> Tensor:
    """Which of the one-hot's entries, the last `tasks` of x (B, T, O), is the largest (B, T); 0 where there are no tasks."""
    return x[..., -tasks:].argmax(-1) if tasks else torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device)


class LSTM(Backbone):
    """State: h, c (B, D). `rank` E > 0: the weights are factorised by the task, which the input layer is then not told."""

    def __init__(self, input_size: int, *, width: int = 64, tasks: int = 0, rank: int = 0) -> None:
        super().__init__()
        if width < 1 or rank < 0 or not 0 <= tasks < input_size:
            raise UserError(
                "lstm: width must be at least 1, rank at least 0, tasks at least 0 and below the input's size "
                f"{input_size}, got {width}, {rank}, {tasks}"
            )
        self.input_size, self.output_size, self.tasks = input_size, width, tasks
        self.told = input_size - tasks if rank else input_size
        self.embed = nn.Linear(self.told, width)
        self.cells = Cells(width, width, rank)
        self.embedding = Embedding(tasks, rank) if rank else None
        self.spec = MemorySpec("lstm", width, layers=1, segment_length=0, capacity=2)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        like = self.cells.bias
        zeros = torch.zeros(batch, self.output_size, device=device or like.device, dtype=dtype or like.dtype)  # (B, D)
        return {"h": zeros, "c": zeros.clone()}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        e = None if self.embedding is None else self.embedding(task_at(x, self.tasks))  # (B, T, E)
        seen = self.embed(x[..., : self.told]).relu()
        hidden, h, c = self.cells.read(seen, e, state["h"], state["c"], begins=reset, pad=pad)
        return Output(hidden, {"h": h, "c": c}, x.new_zeros(()))
