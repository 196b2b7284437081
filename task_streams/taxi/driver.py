"""A taxi driver who knows what was told on the way and nothing else: where there are walls, stands, a passenger, a destination.

What is told is the size of the map and, at every step, the sub-task, the place, and what is to be seen in the own cell, or in those up,
down, left and right of it too (`told`). A cell that was not seen yet counts as free. Who knows no stand where the passenger or the
destination can still be drives to the nearest unseen cell where it can. Ways are shortest ones; of two the one whose first step comes first
in `world.ACTIONS` is taken.
Sets of cells are bits of one number for each ride: cell (row, column) is bit 8 row + column, and the eighth column is never a cell.
Shape letters: B rides.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .world import CONVEY, DROPOFF, FIND, LARGEST, OTHER, PICK, PICKUP, SIDE, Bool, Integer, TaxiWorld

Bits = NDArray[np.uint64]


class Cell(IntEnum):
    """What a cell is told to be."""

    EMPTY = 0
    WALL = 1
    OUTSIDE = 2
    STAND = 3
    PASSENGER = 4
    DESTINATION = 5
    UNTOLD = 6


AROUND = np.array([-SIDE, SIDE, -1, 1, 0])  # the cells that can be told, in the order of `world.ACTIONS`, then the own one
TOLD = 3 + len(AROUND)  # numbers a step: sub-task, row, column, cells
_ROW, _ONE = np.uint64(8), np.uint64(1)
_NOTHING = np.uint64(0)


def _cells(rows: int, columns: int) -> int:
    return sum(1 << (8 * row + column) for row in range(rows) for column in range(columns))


_MAPS = np.array([[_cells(rows, columns) for columns in range(LARGEST + 1)] for rows in range(LARGEST + 1)], dtype=np.uint64)


def told(world: TaxiWorld, around: bool = True) -> Integer:
    """What is told now in every environment (B, TOLD): sub-task, row and column from 0, the `Cell` of each of AROUND, or of the own one."""
    seen = world.cells[np.arange(world.environments)[:, None], world.position[:, None] + AROUND]  # (B, 5, C) as in world.CHANNELS
    outside, wall, stand, passenger, destination = np.moveaxis(seen > 0, 2, 0)
    cell = np.select(
        [passenger, destination, stand, wall, outside], [Cell.PASSENGER, Cell.DESTINATION, Cell.STAND, Cell.WALL, Cell.OUTSIDE], Cell.EMPTY
    )
    if not around:
        cell[:, :-1] = Cell.UNTOLD
    row, column = np.divmod(world.position, SIDE)
    return np.column_stack([world.task, row - 1, column - 1, cell])


class Driver:
    """Drives B rides over maps of `size` (B, 2) rows and columns by what `told` says of them."""

    def __init__(self, size: Integer) -> None:
        self._map = _MAPS[size[:, 0], size[:, 1]]
        self._walls, self._looked, self._stands = (np.zeros_like(self._map) for _ in range(3))  # cells known to be so
        self._waits, self._goes = self._map.copy(), self._map.copy()  # cells where the passenger can be, and the destination
        self._carries = np.zeros(len(size), dtype=np.bool_)

    def forget(self, rides: Bool) -> None:
        """Forget all that was told on the way in `rides` (B,)."""
        for known in (self._walls, self._looked, self._stands):
            known[rides] = _NOTHING
        for possible in (self._waits, self._goes):
            possible[rides] = self._map[rides]

    def act(self, now: Integer) -> Integer:
        """The actions (B,) after what is told now (B, TOLD)."""
        task, row, column, cells = now[:, 0], now[:, 1], now[:, 2], now[:, 3:]
        here = _ONE << (8 * row + column).astype(np.uint64)
        around = np.stack([here >> _ROW, here << _ROW, here >> _ONE, here << _ONE, here]) & self._map  # (5, B); none beyond an edge
        carries = task >= CONVEY
        alone = self._carries & ~carries  # a passenger got off here, the next one waits elsewhere
        self._waits = np.where(alone, self._map & ~here, self._waits)
        self._goes = np.where(alone, self._map, self._goes)
        self._carries = carries
        self._look(around, cells)
        move = _first_step(self._wanted(task), around[:4], self._map & ~self._walls)
        there = (task == CONVEY) & (cells[:, 4] == Cell.DESTINATION)
        return np.where(task == PICK, PICKUP, np.where(there, DROPOFF, move))

    def _look(self, around: Bits, cells: Integer) -> None:
        """Take in what the cells `around` (5, B) are told to be (B, 5)."""
        for number, kind in enumerate(cells.T):
            cell = np.where(kind == Cell.UNTOLD, _NOTHING, around[number])
            self._looked = self._looked | cell
            self._walls = self._walls | np.where(kind == Cell.WALL, cell, _NOTHING)
            stand = np.isin(kind, (Cell.STAND, Cell.PASSENGER, Cell.DESTINATION))
            self._stands = self._stands | np.where(stand, cell, _NOTHING)
            self._waits = np.where(kind == Cell.PASSENGER, cell, self._waits & ~cell)
            self._goes = np.where(kind == Cell.DESTINATION, cell, self._goes & ~cell)

    def _wanted(self, task: Integer) -> Bits:
        """The cells (B,) to drive to: stands that can be what is asked for, or unseen cells that can."""
        possible = np.where(task == FIND, self._waits, np.where(task == OTHER, ~self._goes, self._goes))
        stands = possible & self._stands
        return np.where(stands != 0, stands, np.where(task == OTHER, self._map, possible) & ~self._looked)


def _first_step(wanted: Bits, moves: Bits, free: Bits) -> Integer:
    """Which of the cells `moves` (4, B) lies nearest to a cell of `wanted` over `free` cells, (B,); 0 where there is no way."""
    reached = wanted & free
    step = np.full(len(wanted), -1)
    while True:
        near = (moves & reached) != 0  # (4, B)
        step = np.where((step < 0) & near.any(axis=0), near.argmax(axis=0), step)
        wider = (reached | reached << _ONE | reached >> _ONE | reached << _ROW | reached >> _ROW) & free
        if (step >= 0).all() or np.array_equal(wider, reached):
            return np.maximum(step, 0)
        reached = wider
