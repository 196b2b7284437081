"""Many Meta-World environments in lock-step in one process, on threads: observations, rewards and resets as arrays.

`VectorMetaWorld` is a `gymnasium.vector.VectorEnv` with the goal in sight. The tasks of `vector_tasks` are simulated by threads (the
simulator releases Python's lock) and observed and rewarded as arrays; the other tasks of Meta-World are stepped by `fast_env`, one
environment after another, behind the same interface. Observations equal the reference bit for bit, rewards to 1e-12.

What is in memory: each thread has one compiled model for each task (20 MB) and one simulator, an environment only its state (two
kilobytes), which goes into the simulator of whichever thread is free. An episode begins from a remembered state, so that a reset costs no
simulation; the first one at a position does.
Source: metaworld 3.1.1, `sawyer_xyz_env.py`; specification fast_metaworld.md, sections 2 and 6.
Shape letters: B environments, O = 39, A = 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError

from . import native
from .cores import cores
from .fast_env import ACTION_SIZE, MAX_STEPS, OBSERVATION_SIZE, reference_name
from .goals import goals as frozen_goals
from .task_groups import Arrays, Group, Singles, on_threads
from .vector_tasks import VECTOR_TASKS

Array = NDArray[np.float64]
Integer = NDArray[np.integer[Any]]
Bool = NDArray[np.bool_]


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
        self._pool = ThreadPoolExecutor(self.threads - 1, "clbench-metaworld") if self.threads > 1 else None
        given = {} if positions is None else positions
        self._groups: list[Group] = []
        self._positions: dict[str, Array] = {}
        for name in dict.fromkeys(names):
            rows = np.flatnonzero([other == name for other in names])
            self._positions[name] = np.asarray(given[name] if name in given else frozen_goals(name, "train"), dtype=np.float64)
            if name in VECTOR_TASKS:
                self._groups.append(Arrays(name, rows, mode, self.threads, helper=helper == "auto" and native.available()))
            else:
                self._groups.append(Singles(name, rows))
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
            group.load_state_dict(kept, [self._positions[group.name][at] for at in self._at[group.rows]])

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
            known = self._positions[group.name]
            mine = [n for n, row in enumerate(group.rows.tolist()) if row in chosen]
            for n in mine:
                row = int(group.rows[n])
                drawn = self._generators[row].integers(len(known)) if positions is None else int(positions[row])
                if not 0 <= drawn < len(known):
                    raise UserError(f"reset: {group.name}: expected a position 0..{len(known) - 1}, got {drawn}")
                self._at[row] = drawn
                group.begin(n, known[int(drawn)])
        self._steps[rows] = 0

    def _simulate(self, actions: Array) -> None:
        """Let all threads step every group, each the environments that it comes to first."""
        for group in self._groups:
            group.prepare(actions[group.rows])
        on_threads(self._pool, self.threads, self._steps_of)

    def _steps_of(self, thread: int) -> None:
        for group in self._groups:
            group.simulate(thread)
