"""Episodes that are kept, and read again in windows, with what stood before a window to bring a memory to where it was.

A window begins at a multiple of its length since its episode began, so that the segments of a memory fall where they fell. What comes
before it in its episode, up to `burn_in` steps, is its prefix (burn-in: Kapturowski et al. 2019, R2D2, section 3).
Shape letters: B windows, P steps of a prefix, W of a window, O observation, A action, R rows that are kept, E environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Lived(NamedTuple):
    """One step of E environments."""

    observation: Tensor  # (E, O)
    previous: Tensor  # (E, A) the action before it; 0 at the beginning of an episode
    action: Tensor  # (E, A)
    reward: Tensor  # (E,)
    terminated: Tensor  # (E,) 1: nothing follows
    over: Tensor  # (E,) 1: the episode ended, also where only the clock cut it
    following: Tensor  # (E, O), the last one of its episode where it ended
    clock: Tensor  # (E,) steps of the episode before this one


class Windows(NamedTuple):
    """B windows with their prefixes; `missing` marks what is not there."""

    prefix: Tensor  # (B, P, O + A) observations and the actions before them
    prefix_missing: Tensor  # (B, P) bool; what is there stands at the end
    observation: Tensor  # (B, W, O)
    previous: Tensor  # (B, W, A)
    action: Tensor  # (B, W, A)
    reward: Tensor  # (B, W)
    terminated: Tensor  # (B, W)
    over: Tensor  # (B, W)
    following: Tensor  # (B, W, O)
    missing: Tensor  # (B, W) bool; what is there stands at the beginning


class EpisodeBuffer:
    """The last `capacity` steps, row by row of all environments, whose number stays as it is until the buffer is cleared."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._rows: Lived | None = None  # (R, E, ...)
        self.filled = self._next = 0

    def __len__(self) -> int:
        """Steps that are kept."""
        return 0 if self._rows is None else self.filled * self._rows.reward.shape[1]

    def keep(self, new: Lived) -> None:
        """Put a step of all environments in the place of the oldest."""
        if self._rows is None:
            rows = max(1, self.capacity // len(new.reward))
            self._rows = Lived(*(torch.zeros(rows, *column.shape, dtype=column.dtype, device=self.device) for column in new))
        for kept, fresh in zip(self._rows, new, strict=True):
            kept[self._next] = fresh
        room = len(self._rows.reward)
        self._next = (self._next + 1) % room
        self.filled = min(room, self.filled + 1)

    def draw(self, number: int, window: int, burn_in: int) -> Windows:
        """`number` windows, each around a step that is drawn from all that are kept. burn_in < 0: all of the episode that stands before."""
        assert self._rows is not None
        room, environments = self._rows.reward.shape
        lane = torch.randint(environments, (number,), device=self.device)
        age = torch.randint(self.filled, (number,), device=self.device)  # 0: the newest
        clock = self._rows.clock[(self._next - 1 - age) % room, lane]
        return self.at(lane, age + clock % window, clock - clock % window, window, burn_in)

    def at(self, lane: Tensor, age: Tensor, clock: Tensor, window: int, burn_in: int) -> Windows:
        """The windows whose first steps are `age` (B,) rows old, in environments `lane`, `clock` steps after their episodes began.

        A beginning that is older than all that is kept is missing, and so is what comes after the newest.
        """
        assert self._rows is not None
        before = int(clock.max()) if burn_in < 0 else min(burn_in, int(clock.max()))
        steps = torch.arange(-before, window, device=self.device)  # from the beginning of the window
        ages = age[:, None] - steps
        index = (self._next - 1 - ages) % len(self._rows.reward)  # (B, P + W)
        found = Lived(*(column[index, lane[:, None]] for column in self._rows))
        there = (ages >= 0) & (ages < self.filled) & (found.clock == clock[:, None] + steps)
        first = torch.cat([found.observation, found.previous], dim=-1)[:, :before]
        inside = Lived(*(column[:, before:] for column in found))
        return Windows(first, ~there[:, :before], *inside[:7], ~there[:, before:])

    def state_dict(self) -> dict[str, Any]:
        """A copy."""
        rows = None if self._rows is None else [column[: self.filled].clone() for column in self._rows]
        room = 0 if self._rows is None else len(self._rows.reward)
        return {"rows": rows, "room": room, "filled": self.filled, "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self.filled, self._next = int(state["filled"]), int(state["next"])
        self._rows = None
        if state["rows"] is not None:
            parts = [part.to(self.device) for part in state["rows"]]
            whole = [torch.zeros(int(state["room"]), *part.shape[1:], dtype=part.dtype, device=self.device) for part in parts]
            for rows, part in zip(whole, parts, strict=True):
                rows[: len(part)] = part
            self._rows = Lived(*whole)
