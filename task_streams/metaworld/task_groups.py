"""The environments of one Meta-World task, stepped together: as arrays on threads where the task allows it, else one after another.

What is in memory: each thread has one compiled model (20 MB) and one simulator (a megabyte) for each task, an environment only its state
(two kilobytes), which is put into the simulator of whichever thread steps it. So a simulator stays in the processor's cache from one
environment to the next, and no thread waits while another has more to do. Shape letters: n environments, O = 39, A = 4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from . import native
from .fast_env import ACTION_SIZE, OBSERVATION_SIZE, PHYSICS, FastSawyer, Live, Shared, make_env
from .vector_tasks import COMMON, VECTOR_TASKS, Moment, Scene, VectorTask, length

Array = NDArray[np.float64]
Integer = NDArray[np.integer[Any]]
Bool = NDArray[np.bool_]

SUBSTEPS = 5
_WIDTHS = {"xpos": 3, "site_xpos": 3, "geom_xpos": 3, "xquat": 4, "xmat": 9, "geom_xmat": 9, "qpos": 1}
_KINDS = {
    "xpos": mujoco.mjtObj.mjOBJ_BODY,
    "xquat": mujoco.mjtObj.mjOBJ_BODY,
    "xmat": mujoco.mjtObj.mjOBJ_BODY,
    "site_xpos": mujoco.mjtObj.mjOBJ_SITE,
    "geom_xpos": mujoco.mjtObj.mjOBJ_GEOM,
    "geom_xmat": mujoco.mjtObj.mjOBJ_GEOM,
    "qpos": mujoco.mjtObj.mjOBJ_JOINT,
}


def on_threads(pool: ThreadPoolExecutor | None, threads: int, share: Callable[[int], None]) -> None:
    """Call share(thread) for every thread, of which this is the first, and wait for all, also where one fails or is interrupted."""
    running = [] if pool is None else [pool.submit(share, thread) for thread in range(1, threads)]
    try:
        share(0)
        for one in running:
            one.result()
    finally:
        wait(running)


class Group:
    """The environments `rows` of one task."""

    def __init__(self, name: str, rows: Integer) -> None:
        self.name, self.rows = name, rows
        self.observation = np.zeros((len(rows), OBSERVATION_SIZE))

    def begin(self, n: int, position: Array) -> None:
        """Put environment n at the beginning of an episode at `position` (3 to 6 numbers)."""
        raise NotImplementedError

    def prepare(self, actions: NDArray[np.floating[Any]], active: Bool | None = None) -> None:
        """Hand over the next actions; environments that `active` (n,) leaves out stand still, in sight and in what is to come."""
        raise NotImplementedError

    def simulate(self, thread: int) -> None:
        """What `thread` does of a step: it takes one environment after another that no other has taken."""
        raise NotImplementedError

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        """Rewards and success after the step, and `observation`; of those that stood still the first two say nothing."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any], positions: Sequence[Array]) -> None:
        raise NotImplementedError


class Beginning:
    """How episodes at one position begin."""

    def __init__(self, env: FastSawyer, position: Array, constants: Sequence[str], number: int) -> None:
        self.number = number
        self.observation = env.reset_to(position)
        start = env.shared.starts[np.ascontiguousarray(position).tobytes()]
        self.physics, self.body_pos, self.site_pos = start.physics, start.body_pos, start.site_pos
        self.constants = {name: start.attributes[name] for name in constants}
        if moving := [name for name, value in self.constants.items() if isinstance(value, Live)]:
            raise AssertionError(f"{env.task_name}: {moving[0]} moves with the simulator and is no constant of an episode")
        self.previous = np.array(start.attributes["_prev_obs"])  # (18,)


class Arrays(Group):
    """Stepped by threads, observed and rewarded as arrays."""

    def __init__(self, name: str, rows: Integer, mode: str, threads: int, *, helper: bool, settling: FastSawyer | None = None) -> None:
        super().__init__(name, rows)
        self._task: VectorTask = VECTOR_TASKS[name]
        self._exact = mode == "exact"
        self.settling = make_env(name, Shared()) if settling is None else settling  # knows how episodes begin
        model = self.settling.model
        self._low, self._high = self.settling._observation_bounds
        self._mocap_low, self._mocap_high = self.settling.mocap_low, self.settling.mocap_high
        self._scale = self.settling.action_scale
        count = len(rows)
        self._models = [copy.copy(model) for _ in range(min(threads, count))]
        self._data = [mujoco.MjData(model) for model in self._models]
        self._views = [(m.body_pos, m.site_pos, d.mocap_pos, d.ctrl) for m, d in zip(self._models, self._data, strict=True)]
        self._states = np.zeros((count, mujoco.mj_stateSize(model, PHYSICS)))
        self._beginnings: dict[bytes, Beginning] = {}
        self._open: list[Beginning | None] = [None] * count
        self._active: Bool | None = None
        self._waiting: Iterator[int] = iter(())  # threads share it; numbers come out of it once, as Python's lock is held meanwhile
        self._mocap, self._grip = np.zeros((count, 3)), np.zeros((count, 2))
        self._previous = np.zeros((count, 18))
        self._constants = {constant: np.zeros((count, 3)) for constant in self._task.constants}
        self._gather(model)
        self._stepper = self._native() if helper else None

    def _native(self) -> native.Stepper:
        """The compiled helper over this group's simulators."""
        pieces = [[piece for source, numbers in row for piece in _rows_of(source, numbers)] for row in self._sources]
        return native.Stepper(
            self._models, self._data, pieces, self._states, self._gathered, what=PHYSICS, exact=self._exact, substeps=SUBSTEPS
        )

    def _gather(self, model: mujoco.MjModel) -> None:
        """Lay out one row of numbers for each environment, array by array of the simulator, and where each name stands in it."""
        quantities = {**COMMON, **self._task.quantities}
        arrays = list(dict.fromkeys(quantity.array for quantity in quantities.values()))
        columns: dict[str, slice] = {}
        pieces: list[tuple[str, Integer, slice]] = []
        end = 0
        for array in arrays:
            named = [(name, quantity.row) for name, quantity in quantities.items() if quantity.array == array]
            numbers = [mujoco.mj_name2id(model, _KINDS[array], row) for _, row in named]
            assert min(numbers) >= 0, (self.name, array, named)
            if array == "qpos":
                numbers = [int(model.jnt_qposadr[number]) for number in numbers]
            first, width = end, _WIDTHS[array]
            for name, _ in named:
                columns[name] = slice(end, end + width)
                end += width
            pieces.append((array, np.array(numbers), slice(first, end)))
        self._gathered = np.zeros((len(self.rows), end))
        self._scene = Scene({name: self._gathered[:, columns[name]] for name in columns})
        self._sources = [[(getattr(data, array), numbers) for array, numbers, _ in pieces] for data in self._data]
        self._places = [
            [row[place] if array == "qpos" else row[place].reshape(len(numbers), -1) for array, numbers, place in pieces]
            for row in self._gathered
        ]

    def begin(self, n: int, position: Array) -> None:
        beginning = self._begin_at(position)
        self._open[n] = beginning
        if self._stepper is not None:
            self._stepper.place(n, beginning.number, beginning.body_pos, beginning.site_pos)
        self._put(n, beginning.physics)
        self._previous[n] = beginning.previous
        for name, values in self._constants.items():
            values[n] = beginning.constants[name]
        self.observation[n] = beginning.observation

    def _put(self, n: int, physics: Array) -> None:
        """Environment n is in the state `physics`."""
        self._states[n] = physics
        mujoco.mj_setState(self._models[0], self._data[0], self._states[n], PHYSICS)
        self._mocap[n] = self._data[0].mocap_pos[0]

    def _begin_at(self, position: Array) -> Beginning:
        key = position.tobytes()
        beginning = self._beginnings.get(key)
        if beginning is None:
            beginning = Beginning(self.settling, position, self._task.constants, len(self._beginnings))
            self._beginnings[key] = beginning
        return beginning

    def prepare(self, actions: NDArray[np.floating[Any]], active: Bool | None = None) -> None:
        move = np.minimum(np.maximum(actions[:, :3], -1), 1) * self._scale  # in the precision of the actions, as the reference has it
        moved = np.minimum(np.maximum(self._mocap + move, self._mocap_low), self._mocap_high)
        self._mocap = moved if active is None else np.where(active[:, None], moved, self._mocap)
        self._active = active
        self._grip[:, 0], self._grip[:, 1] = actions[:, 3], -actions[:, 3]
        if self._stepper is not None:
            self._stepper.prepare()
        else:
            self._waiting = iter(range(len(self.rows)) if active is None else np.flatnonzero(active).tolist())

    def simulate(self, thread: int) -> None:
        if thread >= len(self._models):
            return
        if self._stepper is not None:
            self._stepper.step(thread, self._mocap, self._grip, self._active)
        else:
            self._steps(thread)

    def _steps(self, thread: int) -> None:
        """What the compiled helper does."""
        model, data, (body_pos, site_pos, hand, control) = self._models[thread], self._data[thread], self._views[thread]
        settle = mujoco.mj_forward if self._exact else mujoco.mj_kinematics  # the former changes the solver's warm start: the last bits
        sources, mocap, grip = self._sources[thread], self._mocap, self._grip
        placed = None
        for n in self._waiting:
            beginning, state = self._open[n], self._states[n]
            if beginning is not placed:
                assert beginning is not None
                body_pos[:], site_pos[:] = beginning.body_pos, beginning.site_pos
                placed = beginning
            mujoco.mj_setState(model, data, state, PHYSICS)
            hand[0] = mocap[n]
            control[:] = grip[n]
            mujoco.mj_step(model, data, SUBSTEPS)
            settle(model, data)
            mujoco.mj_getState(model, data, state, PHYSICS)
            for (source, numbers), place in zip(sources, self._places[n], strict=True):
                source.take(numbers, 0, place, "clip")

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        scene = self._scene
        current = np.empty((len(self.rows), 18))
        current[:, :3] = scene["hand"]
        current[:, 3] = np.minimum(np.maximum(length(scene["right_claw"] - scene["left_claw"]) / 0.1, 0.0), 1.0)
        current[:, 4:] = self._task.objects(scene)
        whole = np.concatenate([current, self._previous, self._constants["_target_pos"]], axis=1)
        seen = np.minimum(np.maximum(whole, self._low), self._high)
        if self._active is not None:
            current = np.where(self._active[:, None], current, self._previous)
            seen = np.where(self._active[:, None], seen, self.observation)
        self._previous, self.observation = current, seen
        return self._task.outcome(Moment(scene, self._constants, self.observation, actions[:, 3]))

    def state_dict(self) -> dict[str, Any]:
        return {"physics": self._states.copy(), "previous": self._previous.copy(), "observation": self.observation.copy()}

    def load_state_dict(self, state: Mapping[str, Any], positions: Sequence[Array]) -> None:
        for n, position in enumerate(positions):
            self.begin(n, position)
            self._put(n, state["physics"][n])
        self._previous, self.observation = np.array(state["previous"]), np.array(state["observation"])


def _rows_of(source: Array, numbers: Integer) -> list[Array]:
    """The rows `numbers` of an array of a simulator, as views that are contiguous."""
    return [source[number : number + 1].reshape(-1) for number in numbers.tolist()]


class Singles(Group):
    """Stepped one after another by `fast_env`, all by the first thread: their Python holds the lock."""

    def __init__(self, name: str, rows: Integer) -> None:
        super().__init__(name, rows)
        shared = Shared()
        self._envs = [make_env(name, shared) for _ in rows]
        self._reward, self._success = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        self._actions: NDArray[np.floating[Any]] = np.zeros((len(rows), ACTION_SIZE))
        self._active: Bool = np.ones(len(rows), dtype=bool)

    def begin(self, n: int, position: Array) -> None:
        self.observation[n] = self._envs[n].reset_to(position)

    def prepare(self, actions: NDArray[np.floating[Any]], active: Bool | None = None) -> None:
        self._actions, self._active = actions, np.ones(len(self.rows), dtype=bool) if active is None else active

    def simulate(self, thread: int) -> None:
        if thread:
            return
        for n in np.flatnonzero(self._active).tolist():
            env = self._envs[n]
            self.observation[n], self._reward[n], _, _, info = env.step(self._actions[n])
            self._success[n] = info["success"] > 0

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        return self._reward.copy(), self._success.copy()

    def state_dict(self) -> dict[str, Any]:
        return {"envs": [env.saved() for env in self._envs], "observation": self.observation.copy()}

    def load_state_dict(self, state: Mapping[str, Any], positions: Sequence[Array]) -> None:
        for n, position in enumerate(positions):
            self.begin(n, position)
            self._envs[n].restore(state["envs"][n])
        self.observation = np.array(state["observation"])
