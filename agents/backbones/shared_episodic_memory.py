"""Shared Episodic Memory (SEM): a memory of the world that knows no task, and a memory of the task that reads it.

Sorokin & Burtsev 2019 and their code (griver/pytorch-paac, `networks/taxi_nets.py: FactorizedTaskEnv`); spec: memory.md 10.1.

    environment  (h_e, c_e) = LSTM(x, (h_e, c_e))                              begins anew with each episode (`reset`), never sees the task
    task         (h_t, c_t) = LSTM([x ; h_e], (h_t, c_t), weights of the task) begins anew with each episode and each task
    hidden       [h_t ; h_e]

The weights of the second are W1 diag(e_task) W2, biases shared; see `lstm`.

How the task and its beginning are found: the last `tasks` entries of x are the task's one-hot, as in the Taxi world, and a task begins
where it differs from the one before. `tasks` 0: there is one task, as long as the episode.
Departures: the same task drawn twice in a row goes on (the authors look at the status, which a backbone is not told); the input layer is
`lstm`'s; the termination head is left out, for nothing reads it. Their width is 208, the baseline's 256, for as many parameters.
Shape letters: B batch, T time, N tasks, E rank, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clbench.errors import UserError

from .backbone import Backbone, MemorySpec, Output, State
from .lstm import Cells, Embedding, task_at


class SharedEpisodicMemory(Backbone):
    """State: env.h, env.c, task.h, task.c (B, D) and task (B,), the last one, -1 before the first. Its output is 2 D wide.

    `clear`: the ablation; the memory of the world is wiped, too, where a task begins.
    """

    def __init__(self, input_size: int, *, width: int = 48, tasks: int = 0, rank: int = 64, clear: bool = False) -> None:
        super().__init__()
        if width < 1 or rank < 1 or not 0 <= tasks < input_size:
            raise UserError(
                "sem: width and rank must be at least 1, tasks at least 0 and below the input's size "
                f"{input_size}, got {width}, {rank}, {tasks}"
            )
        self.input_size, self.output_size, self.tasks, self.clear = input_size, 2 * width, tasks, clear
        self.embed = nn.Linear(input_size - tasks, width)
        self.environment = Cells(width, width)
        self.embedding = Embedding(tasks, rank)
        self.task = Cells(2 * width, width, rank)
        self.spec = MemorySpec("sem", width, layers=2, segment_length=0, capacity=2)

    def initial_state(self, batch: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        like = self.environment.bias
        device, dtype = device or like.device, dtype or like.dtype
        names = ("env.h", "env.c", "task.h", "task.c")
        state = {name: torch.zeros(batch, self.output_size // 2, device=device, dtype=dtype) for name in names}  # (B, D)
        return {**state, "task": torch.full((batch,), -1, device=device, dtype=torch.int32)}

    def advance(self, x: Tensor, state: State, reset: Tensor | None, pad: Tensor | None, write: bool) -> Output:
        task = task_at(x, self.tasks)  # (B, T)
        begins, last = _beginnings(task, state["task"], reset, pad)
        wiped = begins if self.clear else reset
        seen = self.embed(x[..., : self.input_size - self.tasks]).relu()  # (B, T, D)
        world, env_h, env_c = self.environment.read(seen, None, state["env.h"], state["env.c"], begins=wiped, pad=pad)
        both = torch.cat([seen, world], dim=-1)  # (B, T, 2D)
        hidden, task_h, task_c = self.task.read(both, self.embedding(task), state["task.h"], state["task.c"], begins=begins, pad=pad)
        after = {"env.h": env_h, "env.c": env_c, "task.h": task_h, "task.c": task_c, "task": last}
        return Output(torch.cat([hidden, world], dim=-1), after, x.new_zeros(()))


def _beginnings(task: Tensor, last: Tensor, reset: Tensor | None, pad: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where a task or an episode begins (B, T), and the task (B,) of the last token that is there; -1 after a reset without one."""
    task, begins = task.to(last.dtype), []
    for t in range(task.shape[1]):
        if reset is not None:
            last = last.masked_fill(reset[:, t], -1)
        begin, now = task[:, t] != last, task[:, t]
        if pad is not None:
            begin, now = begin & ~pad[:, t], torch.where(pad[:, t], last, now)
        begins.append(begin if reset is None else begin | reset[:, t])
        last = now
    return torch.stack(begins, dim=1), last
