"""Steps of environments that are kept, and drawn again as transitions over one or several of them.

Shape letters: B rows, O observation, A action, C capacity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .batch import Batch, whole_items

ROOM = 16_384  # places at first
CHUNK = 10_000  # transitions that are handed out at once where all are


class Steps(NamedTuple):
    """One step each of B environments, in the order of the environments."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    reward: Tensor  # (B,)
    terminated: Tensor  # (B,) 1: nothing follows
    over: Tensor  # (B,) 1: the episode ended, also where only the clock cut it
    following: Tensor  # (B, O), the last one of its episode where it ended


class Transitions(NamedTuple):
    """What was seen and done, what it brought over n steps, and what the observation after these is worth."""

    observation: Tensor  # (B, O)
    action: Tensor  # (B, A)
    reward: Tensor  # (B,) discounted sum over the n steps
    discount: Tensor  # (B,) discount ** n; 0 where nothing follows
    following: Tensor  # (B, O)

    def to_batch(self, *, kept: bool) -> Batch:
        """As items of one step each: inputs are the observations, targets (B, 1, A + 2 + O) the rest."""
        rest = torch.cat([self.action, self.reward[:, None], self.discount[:, None], self.following], dim=1)
        inputs, targets = self.observation[:, None].cpu().numpy(), rest[:, None].cpu().numpy()
        return whole_items(inputs, targets, np.ones(targets.shape[:2], dtype=bool))._replace(kept=kept)

    @classmethod
    def of(cls, batch: Batch, actions: int, device: torch.device) -> Transitions:
        """The inverse of `to_batch`."""
        seen, rest = (torch.from_numpy(array[:, 0]).to(device) for array in (batch.inputs, batch.targets))
        action, reward, discount, following = rest.split([actions, 1, 1, seen.shape[1]], dim=1)
        return cls(seen, action, reward[:, 0], discount[:, 0], following)


class TransitionBuffer:
    """The last `capacity` steps. A transition covers up to `n_step` of them, and fewer where its episode or the buffer ends.

    Steps of one environment lie as many places apart as there are environments; their number stays as it is until the buffer is cleared.
    """

    def __init__(self, capacity: int, n_step: int, discount: float, device: torch.device) -> None:
        self.capacity, self.n_step, self.discount, self.device = capacity, n_step, discount, device
        self.columns: Steps | None = None  # (C, ...) of which the first `filled` hold something; another object when room is taken
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.filled = self._next = self._lanes = 0

    def keep(self, new: Steps) -> None:
        """Put steps in the place of the oldest."""
        self._lanes = rows = len(new.reward)
        self._make_room(new, min(self.capacity, self.filled + rows))
        slots = (self._next + torch.arange(rows, device=self.device)) % self.capacity
        for kept, fresh in zip(self.columns, new, strict=True):
            kept[slots] = fresh
        self._next = (self._next + rows) % self.capacity
        self.filled = min(self.capacity, self.filled + rows)

    def _make_room(self, like: Steps, needed: int) -> None:
        """Room is taken as it is needed, doubling up to the capacity."""
        have = 0 if self.columns is None else len(self.columns.reward)
        if needed <= have:
            return
        more = min(self.capacity, max(needed, 2 * have, ROOM)) - have
        fresh = (torch.zeros(more, *rows.shape[1:], device=self.device) for rows in like)
        self.columns = Steps(*fresh) if self.columns is None else Steps(*map(torch.cat, zip(self.columns, fresh, strict=True)))

    def cut(self) -> None:
        """The episodes of the last steps go on no more, although nothing said that they were over: another world follows."""
        if self.columns is not None and self.filled:
            last = (self.newest - torch.arange(self._lanes, device=self.device)) % self.capacity
            self.columns.over[last] = 1.0

    def draw(self, number: int) -> Transitions:
        """`number` transitions with replacement."""
        return self.at(self.places(number))

    @property
    def newest(self) -> int:
        """The place of the last step."""
        return (self._next - 1) % self.capacity

    def places(self, number: int) -> Tensor:
        """Places (number,) of transitions, drawn with replacement."""
        return torch.randint(self.filled, (number,), device=self.device)

    def at(self, index: Tensor, newest: Tensor | None = None) -> Transitions:
        """The transitions that begin in the places `index` (B,); `newest` (): what else is asked of the host, on the device."""
        assert self.columns is not None
        seen, action, reward, terminated, over, following = self.columns
        last, total, discount = index, reward[index], torch.full_like(reward[index], self.discount)
        if self.n_step > 1:
            later = ((self.newest if newest is None else newest) - index) % self.capacity  # steps that were kept after this one
            going = torch.ones_like(index, dtype=torch.bool)
            for n in range(1, self.n_step):
                going = going & (over[last] == 0) & (later >= n * self._lanes)
                last = torch.where(going, (index + n * self._lanes) % self.capacity, last)
                total = torch.where(going, total + discount * reward[last], total)
                discount = torch.where(going, discount * self.discount, discount)
        return Transitions(seen[index], action[index], total, discount * (1 - terminated[last]), following[last])

    def everything(self) -> Iterator[Transitions]:
        """All transitions in the order in which they came, in portions."""
        first = self._next if self.filled == self.capacity else 0
        for begin in range(0, self.filled, CHUNK):
            places = torch.arange(begin, min(begin + CHUNK, self.filled), device=self.device)
            yield self.at((first + places) % self.capacity)

    def state_dict(self) -> dict[str, Any]:
        """A copy."""
        columns = None if self.columns is None else [rows[: self.filled].clone() for rows in self.columns]
        return {"columns": columns, "filled": self.filled, "next": self._next, "lanes": self._lanes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; it is not kept."""
        self.filled, self._next, self._lanes = (int(state[name]) for name in ("filled", "next", "lanes"))
        self.columns = None
        if state["columns"] is not None:
            self.columns = Steps(*(part.to(self.device).clone() for part in state["columns"]))
