"""Many Meta-World environments in lock-step in one process, on threads: observations, rewards and resets as arrays.

`VectorMetaWorld` is a `gymnasium.vector.VectorEnv` with the goal in sight. The tasks of `vector_tasks` are simulated by threads (the
simulator releases Python's lock) and observed and rewarded as arrays; the other tasks of Meta-World are stepped by `fast_env`, one
environment after another, behind the same interface. Observations equal the reference bit for bit, rewards to 1e-12.

What is in memory: each thread has one compiled model for each task (20 MB), an environment only its simulator's data and the positions
that tasks change. An episode begins from a remembered state, so that a reset costs no simulation; the first one at a position does.
Source: metaworld 3.1.1, `sawyer_xyz_env.py`; specification fast_metaworld.md, sections 2 and 6.
Shape letters: B environments, O = 39, A = 4.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError

from . import native
from .fast_env import ACTION_SIZE, MAX_STEPS, OBSERVATION_SIZE, PHYSICS, FastSawyer, Live, Shared, make_env, physics_of, reference_name
from .goals import goals as frozen_goals
from .simulation import cores
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


class VectorMetaWorld(gymnasium.vector.VectorEnv[Array, Array, Array]):
    """Environments of one task, or of as many as `tasks` names, one for each.

    positions: by task the position vectors (n, 3 to 6) that episodes begin at; without it the frozen ones of the training split. Each
    environment draws its next one from a generator of its own, which `seed` and its number determine.
    mode "exact": as the reference, bit for bit. "fast": what only changes the solver's warm start is left out; episodes differ in the last
    digits, which contacts amplify, and are statistically the same.
    An episode ends after `horizon` steps (truncated), is begun anew in the same step (SAME_STEP), and never terminates before.
    threads 0: as many as this process may use, 16 at most. helper "auto": threads step through the compiled helper where it was built (see
    `native`), "off": through Python; the numbers are the same.
    """

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012  gymnasium's own attribute

    def __init__(
        self,
        tasks: str | Sequence[str],
        num_envs: int | None = None,
        *,
        positions: Mapping[str, Array] | None = None,
        horizon: int = 200,
        mode: Literal["exact", "fast"] = "exact",
        threads: int = 0,
        helper: Literal["auto", "off"] = "auto",
        seed: int = 0,
    ) -> None:
        names = [tasks] * (1 if num_envs is None else num_envs) if isinstance(tasks, str) else list(tasks)
        names = [reference_name(name).removesuffix("-v3") for name in names]
        if not names or (num_envs is not None and num_envs != len(names)):
            raise UserError(f"VectorMetaWorld: expected one task, or one for each of num_envs={num_envs} environments, got {len(names)}")
        if not 1 <= horizon <= MAX_STEPS:
            raise UserError(f"VectorMetaWorld: horizon must be in 1..{MAX_STEPS}, got {horizon}")
        if mode not in ("exact", "fast"):
            raise UserError(f"VectorMetaWorld: mode must be exact or fast, got '{mode}'")
        if helper not in ("auto", "off"):
            raise UserError(f"VectorMetaWorld: helper must be auto or off, got '{helper}'")
        self.tasks, self.num_envs, self.horizon, self.mode = tuple(names), len(names), horizon, mode
        self.threads = threads or cores()
        self._pool = ThreadPoolExecutor(self.threads, "clbench-metaworld") if self.threads > 1 else None
        given = {} if positions is None else positions
        self._groups: list[_Group] = []
        for name in dict.fromkeys(names):
            rows = np.flatnonzero([other == name for other in names])
            at = np.asarray(given[name] if name in given else frozen_goals(name, "train"), dtype=np.float64)
            if name in VECTOR_TASKS:
                self._groups.append(_Arrays(name, rows, at, mode, self.threads, helper=helper == "auto" and native.available()))
            else:
                self._groups.append(_Singles(name, rows, at, mode, self.threads))
        low = np.full(OBSERVATION_SIZE, -np.inf)
        self.single_observation_space = gymnasium.spaces.Box(low, -low, dtype=np.float64)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators = self._drawn(seed)
        self._steps = np.full(self.num_envs, -1)  # of the open episode; -1: none is open
        self._at = np.zeros(self.num_envs, dtype=np.int64)  # its position's number

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment, or in those that `options["mask"]` (B,) marks; observations (B, O) of all.

        options["positions"]: numbers (B,) of the positions to begin at. seed: begin the environments' generators anew.
        """
        options = options or {}
        if unknown := set(options) - {"mask", "positions"}:
            raise UserError(f"reset: expected the options mask and positions, got '{sorted(unknown)[0]}'")
        if seed is not None:
            self._generators = self._drawn(seed)
        mask = np.asarray(options.get("mask", np.ones(self.num_envs)), dtype=bool)
        if mask.shape != (self.num_envs,) or (self._steps[~mask] < 0).any():
            raise UserError(f"reset: expected a mask ({self.num_envs},) that marks every environment without an open episode")
        self._begin(np.flatnonzero(mask), options.get("positions"))
        return self._observed(), {"position": self._at.copy()}

    def step(self, actions: Array) -> tuple[Array, Array, Bool, Bool, dict[str, Any]]:
        """Advance all by actions (B, A), clipped where the reference clips them: observations, rewards, terminated, truncated, info.

        info: success (B,), whether this step left the task solved; position (B,), the number of the open episode's position. Where episodes
        ended also final_obs (B, O), their last observation, and final_info with their success and position; `_final_obs` marks them.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, ACTION_SIZE):
            raise UserError(f"step: expected actions ({self.num_envs}, {ACTION_SIZE}), got {actions.shape}")
        if (self._steps < 0).any():
            raise UserError("step: no episode is open; call reset first")
        if not np.issubdtype(actions.dtype, np.floating):
            actions = actions.astype(np.float64)
        self._simulate(actions)
        reward, success = np.empty(self.num_envs), np.empty(self.num_envs, dtype=bool)
        for group in self._groups:
            reward[group.rows], success[group.rows] = group.observe(actions[group.rows])
        observation = self._observed()
        self._steps += 1
        truncated = self._steps >= self.horizon
        info: dict[str, Any] = {"success": success, "position": self._at.copy()}
        if truncated.any():
            marks = {"_final_obs": truncated.copy(), "_final_info": truncated.copy()}
            info = {"success": success, "final_obs": observation, "final_info": info, **marks}
            self._begin(np.flatnonzero(truncated))
            info["position"] = self._at.copy()
            observation = self._observed()
        return observation, reward, np.zeros(self.num_envs, dtype=bool), truncated, info

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on; a copy."""
        return {
            "tasks": list(self.tasks),
            "steps": self._steps.copy(),
            "at": self._at.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
            "groups": [group.state_dict() for group in self._groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, by environments of the same tasks and positions."""
        if list(state["tasks"]) != list(self.tasks):
            raise UserError(f"VectorMetaWorld: the state is of {len(state['tasks'])} other environments; build them with the same tasks")
        self._steps, self._at = np.array(state["steps"]), np.array(state["at"])
        for generator, kept in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = kept
        for group, kept in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(kept, self._at[group.rows])

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _observed(self) -> Array:
        observation = np.empty((self.num_envs, OBSERVATION_SIZE))
        for group in self._groups:
            observation[group.rows] = group.observation
        return observation

    def _drawn(self, seed: int) -> list[np.random.Generator]:
        return [seeding.generator(seed, "metaworld", "episodes", number) for number in range(self.num_envs)]

    def _begin(self, rows: Integer, positions: Integer | None = None) -> None:
        """Open an episode in the environments `rows`; the observations of these are then those of its beginning."""
        chosen = set(rows.tolist())
        for group in self._groups:
            mine = [n for n, row in enumerate(group.rows.tolist()) if row in chosen]
            for n in mine:
                row = int(group.rows[n])
                drawn = self._generators[row].integers(len(group.positions)) if positions is None else int(positions[row])
                if not 0 <= drawn < len(group.positions):
                    raise UserError(f"reset: {group.name}: expected a position 0..{len(group.positions) - 1}, got {drawn}")
                self._at[row] = drawn
                group.begin(n, int(drawn))
        self._steps[rows] = 0

    def _simulate(self, actions: Array) -> None:
        """Let all threads step their share of every group."""
        for group in self._groups:
            group.prepare(actions[group.rows])
        if self._pool is None:
            self._share(0)
        else:
            for done in [self._pool.submit(self._share, thread) for thread in range(self.threads)]:
                done.result()

    def _share(self, thread: int) -> None:
        for group in self._groups:
            group.simulate(thread)


class _Group:
    """The environments `rows` of one task."""

    def __init__(self, name: str, rows: Integer, positions: Array, mode: str, threads: int) -> None:
        self.name, self.rows, self.positions, self.mode = name, rows, positions, mode
        self.observation = np.zeros((len(rows), OBSERVATION_SIZE))
        self.shares = [range(thread, len(rows), threads) for thread in range(threads)]

    def begin(self, n: int, position: int) -> None:
        """Put environment n at the beginning of an episode."""
        raise NotImplementedError

    def prepare(self, actions: NDArray[np.floating[Any]]) -> None:
        """Hand over the next actions."""
        raise NotImplementedError

    def simulate(self, thread: int) -> None:
        """Step the share of a thread."""
        raise NotImplementedError

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        """Rewards and success after the step, and `observation`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any], positions: Integer) -> None:
        raise NotImplementedError


class _Beginning:
    """How episodes at one position begin."""

    def __init__(self, env: FastSawyer, position: Array, constants: Sequence[str]) -> None:
        self.observation = env.reset_to(position)
        start = env.shared.starts[np.ascontiguousarray(position).tobytes()]
        self.physics, self.body_pos, self.site_pos = start.physics, start.body_pos, start.site_pos
        self.constants = {name: start.attributes[name] for name in constants}
        if moving := [name for name, value in self.constants.items() if isinstance(value, Live)]:
            raise AssertionError(f"{env.task_name}: {moving[0]} moves with the simulator and is no constant of an episode")
        self.previous = np.array(start.attributes["_prev_obs"])  # (18,)


class _Arrays(_Group):
    """Stepped by threads, observed and rewarded as arrays."""

    def __init__(self, name: str, rows: Integer, positions: Array, mode: str, threads: int, *, helper: bool) -> None:
        super().__init__(name, rows, positions, mode, threads)
        self._task: VectorTask = VECTOR_TASKS[name]
        self._settling = make_env(name, Shared())
        model = self._settling.model
        self._low, self._high = self._settling._observation_bounds
        self._mocap_low, self._mocap_high = self._settling.mocap_low, self._settling.mocap_high
        self._scale = self._settling.action_scale
        self._models = [copy.copy(model) for share in self.shares if share]
        self._model_views = [(m.body_pos, m.site_pos) for m in self._models]
        count = len(rows)
        self._data = [mujoco.MjData(self._models[n % threads]) for n in range(count)]
        self._control = [(data.mocap_pos, data.ctrl) for data in self._data]
        self._beginnings: dict[int, _Beginning] = {}
        self._open: list[_Beginning | None] = [None] * count
        self._mocap, self._grip = np.zeros((count, 3)), np.zeros((count, 2))
        self._previous = np.zeros((count, 18))
        self._constants = {constant: np.zeros((count, 3)) for constant in self._task.constants}
        self._gather(model)
        self._stepper = self._native() if helper else None

    def _native(self) -> native.Stepper:
        """The compiled helper over this group's simulators."""
        pieces = [[piece for source, numbers, _ in row for piece in _rows_of(source, numbers)] for row in self._sources]
        return native.Stepper(self._models, self._data, pieces, self._gathered, exact=self.mode == "exact", substeps=SUBSTEPS)

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
        self._sources = []
        for n, data in enumerate(self._data):
            row = self._gathered[n]
            self._sources.append(
                [
                    (getattr(data, array), numbers, row[place] if array == "qpos" else row[place].reshape(len(numbers), -1))
                    for array, numbers, place in pieces
                ]
            )

    def begin(self, n: int, position: int) -> None:
        beginning = self._begin_at(position)
        data = self._data[n]
        mujoco.mj_setState(self._models[n % len(self.shares)], data, beginning.physics, PHYSICS)
        self._open[n] = beginning
        if self._stepper is not None:
            self._stepper.place(n, position, beginning.body_pos, beginning.site_pos)
        self._mocap[n] = data.mocap_pos[0]
        self._previous[n] = beginning.previous
        for name, values in self._constants.items():
            values[n] = beginning.constants[name]
        self.observation[n] = beginning.observation

    def _begin_at(self, position: int) -> _Beginning:
        beginning = self._beginnings.get(position)
        if beginning is None:
            beginning = self._beginnings[position] = _Beginning(self._settling, self.positions[position], self._task.constants)
        return beginning

    def prepare(self, actions: NDArray[np.floating[Any]]) -> None:
        move = np.minimum(np.maximum(actions[:, :3], -1), 1) * self._scale  # in the precision of the actions, as the reference has it
        self._mocap = np.minimum(np.maximum(self._mocap + move, self._mocap_low), self._mocap_high)
        self._grip[:, 0], self._grip[:, 1] = actions[:, 3], -actions[:, 3]

    def simulate(self, thread: int) -> None:
        if not self.shares[thread]:
            return
        if self._stepper is not None:
            self._stepper.step(thread, self._mocap, self._grip)
            return
        model, (body_pos, site_pos) = self._models[thread], self._model_views[thread]
        exact, mocap, grip = self.mode == "exact", self._mocap, self._grip
        placed = None
        for n in self.shares[thread]:
            data, beginning, (hand, control) = self._data[n], self._open[n], self._control[n]
            if beginning is not placed:
                assert beginning is not None
                body_pos[:], site_pos[:] = beginning.body_pos, beginning.site_pos
                placed = beginning
            hand[0] = mocap[n]
            control[:] = grip[n]
            mujoco.mj_step(model, data, SUBSTEPS)
            if exact:
                mujoco.mj_forward(model, data)  # changes the solver's warm start, and so the last bits of the next step
            else:
                mujoco.mj_kinematics(model, data)
            for source, numbers, out in self._sources[n]:
                source.take(numbers, 0, out, "clip")

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        scene = self._scene
        current = np.empty((len(self.rows), 18))
        current[:, :3] = scene["hand"]
        current[:, 3] = np.minimum(np.maximum(length(scene["right_claw"] - scene["left_claw"]) / 0.1, 0.0), 1.0)
        current[:, 4:] = self._task.objects(scene)
        whole = np.concatenate([current, self._previous, self._constants["_target_pos"]], axis=1)
        self._previous = current
        self.observation = np.minimum(np.maximum(whole, self._low), self._high)
        return self._task.outcome(Moment(scene, self._constants, self.observation, actions[:, 3]))

    def state_dict(self) -> dict[str, Any]:
        physics = [physics_of(self._models[n % len(self.shares)], data) for n, data in enumerate(self._data)]
        return {"physics": np.array(physics), "previous": self._previous.copy(), "observation": self.observation.copy()}

    def load_state_dict(self, state: Mapping[str, Any], positions: Integer) -> None:
        for n, position in enumerate(positions.tolist()):
            self.begin(n, position)
            mujoco.mj_setState(self._models[n % len(self.shares)], self._data[n], np.array(state["physics"][n]), PHYSICS)
            self._mocap[n] = self._data[n].mocap_pos[0]
        self._previous, self.observation = np.array(state["previous"]), np.array(state["observation"])


def _rows_of(source: Array, numbers: Integer) -> list[Array]:
    """The rows `numbers` of an array of a simulator, as views that are contiguous."""
    return [source[number : number + 1].reshape(-1) for number in numbers.tolist()]


class _Singles(_Group):
    """Stepped one after another by `fast_env`, all by the first thread: their Python holds the lock."""

    def __init__(self, name: str, rows: Integer, positions: Array, mode: str, threads: int) -> None:
        super().__init__(name, rows, positions, mode, threads)
        shared = Shared()
        self._envs = [make_env(name, shared) for _ in rows]
        self._reward, self._success = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        self._actions: NDArray[np.floating[Any]] = np.zeros((len(rows), ACTION_SIZE))

    def begin(self, n: int, position: int) -> None:
        self.observation[n] = self._envs[n].reset_to(self.positions[position])

    def prepare(self, actions: NDArray[np.floating[Any]]) -> None:
        self._actions = actions

    def simulate(self, thread: int) -> None:
        if thread:
            return
        for n, env in enumerate(self._envs):
            self.observation[n], self._reward[n], _, _, info = env.step(self._actions[n])
            self._success[n] = info["success"] > 0

    def observe(self, actions: NDArray[np.floating[Any]]) -> tuple[Array, Bool]:
        return self._reward.copy(), self._success.copy()

    def state_dict(self) -> dict[str, Any]:
        return {"envs": [env.saved() for env in self._envs], "observation": self.observation.copy()}

    def load_state_dict(self, state: Mapping[str, Any], positions: Integer) -> None:
        for n, position in enumerate(positions.tolist()):
            self.begin(n, position)
            self._envs[n].restore(state["envs"][n])
        self.observation = np.array(state["observation"])
