"""Any of the 50 Meta-World tasks as a faster single environment with the same numbers, and resets that are remembered.

The task's own class is subclassed on the fly. Observations equal the reference bit for bit; rewards agree to 1e-12 for float64 actions.
What is saved, for every task and with no task named here: looking up bodies and geoms by name at every step, array functions on single
numbers, the generic rotation class for one 3 x 3 matrix, a Python loop over contact objects, and 100 control steps of settling at each
reset. Source of the list: profiles of metaworld 3.1.1 with mujoco 3.3.0 (`python -m clbench.task_streams.metaworld.benchmark`).

Task code reads its helpers (`np`, `reward_utils`, `Rotation`) from the globals of its module. `_rebound` makes a twin of a function that
reads quicker ones instead; the task's module stays untouched, so that the reference can run next to it in the same process.
Not here: many episodes at once (`evaluation`), where the positions come from (`goals`).
"""

from __future__ import annotations

import math
import pickle
import types
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import metaworld
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from clbench.errors import UserError, unknown_name

Array = NDArray[np.float64]

OBSERVATION_SIZE = 39
ACTION_SIZE = 4
MAX_STEPS = 500
"""Steps after which Meta-World ends an episode."""

_SUFFIX = "-v3"
PHYSICS = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_MOCAP_QUATERNION = np.array([1.0, 0.0, 1.0, 0.0])


def task_names() -> list[str]:
    """The 50 names, sorted, without version suffix."""
    return sorted(name.removesuffix(_SUFFIX) for name in ALL_V3_ENVIRONMENTS)


def reference_name(task_name: str) -> str:
    """The name under which metaworld keeps `task_name`; `push` and `push-v3` are the same task."""
    name = task_name.removesuffix(_SUFFIX)
    if name + _SUFFIX not in ALL_V3_ENVIRONMENTS:
        raise unknown_name("Meta-World task", task_name, task_names(), "https://metaworld.farama.org/benchmark/task_descriptions")
    return name + _SUFFIX


# Quicker twins of what task code calls, for single numbers and single vectors.


def tolerance(
    x: Any, bounds: tuple[float, float] = (0.0, 0.0), margin: float = 0.0, sigmoid: str = "gaussian", value_at_margin: float = 0.1
) -> Any:
    """1 within `bounds`, falling to `value_at_margin` at distance `margin`: `reward_utils.tolerance` for one float64 number.

    Arrays, other precisions, other shapes of the fall and arguments out of range go to the original.
    """
    plain = type(x) is float or type(x) is np.float64
    lower, upper = bounds
    if not (plain and lower <= upper and margin >= 0 and sigmoid in ("long_tail", "gaussian") and 0 < value_at_margin < 1):
        return reward_utils.tolerance(x, bounds=bounds, margin=margin, sigmoid=sigmoid, value_at_margin=value_at_margin)
    if lower <= x <= upper:
        return 1.0
    if margin == 0:
        return 0.0
    distance = float((lower - x if x < lower else x - upper) / margin)
    if sigmoid == "long_tail":
        return 1 / ((distance * math.sqrt(1 / value_at_margin - 1)) ** 2 + 1)
    return math.exp(-0.5 * (distance * math.sqrt(-2 * math.log(value_at_margin))) ** 2)


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Euclidean length of one float64 vector or number, as `numpy.linalg.norm` computes it; everything else goes there."""
    if axis is None and not keepdims and (ord is None or ord == 2):
        # np.float64 and not float: task code divides by it, and 0 / 0 must not raise
        if type(x) is np.ndarray and x.ndim == 1 and x.dtype == np.float64:
            return np.float64(math.sqrt(x.dot(x)))
        if type(x) is np.float64 and ord is None:
            return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, ord=ord, axis=axis, keepdims=keepdims)


def _reference_quaternion(matrix: Array) -> Array:
    return Rotation.from_matrix(matrix).as_quat()


def _scalar_quaternion(matrix: Array) -> Array:
    """(x, y, z, w) of an orthonormal matrix (3, 3) by the largest of the three diagonal entries and the trace.

    Shepperd 1978, in the order of operations of scipy's `Rotation.from_matrix`.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    skew = max(abs(a * d + b * e + c * f), abs(a * g + b * h + c * i), abs(d * g + e * h + f * i))
    scale = max(abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1), abs(g * g + h * h + i * i - 1))
    if not (skew < 1e-13 and scale < 1e-9):  # scipy orthonormalises from 1e-12 on: leave that to scipy
        return _reference_quaternion(matrix)
    trace = a + e + i
    if trace >= a and trace >= e and trace >= i:
        x, y, z, w = h - f, c - g, d - b, 1 + trace
    elif a >= e and a >= i:
        x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
    elif e >= i:
        x, y, z, w = b + d, 1 - trace + 2 * e, h + f, c - g
    else:
        x, y, z, w = c + g, f + h, 1 - trace + 2 * i, d - b
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return np.array([x / length, y / length, z / length, w / length])


@cache
def quaternion() -> Callable[[Array], Array]:
    """The scalar formula if it agrees bit for bit with the installed scipy on rotations of every branch, else scipy's."""
    turns = Rotation.from_quat(np.random.Generator(np.random.PCG64(0)).normal(size=(256, 4))).as_matrix()
    same = all(np.array_equal(_scalar_quaternion(turn), _reference_quaternion(turn)) for turn in turns)
    return _scalar_quaternion if same else _reference_quaternion


class _OneRotation:
    """The two calls that tasks make of scipy's `Rotation`: `from_matrix(matrix).as_quat()`."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix

    @classmethod
    def from_matrix(cls, matrix: Array) -> _OneRotation:
        return cls(matrix)

    def as_quat(self) -> Array:
        return quaternion()(self._matrix)


@cache
def _replacements() -> dict[str, Any]:
    """What twins of task functions find under these global names."""
    linalg = types.SimpleNamespace(**{**vars(np.linalg), "norm": norm})
    numpy = types.SimpleNamespace(**{**vars(np), "linalg": linalg})
    rewards = types.SimpleNamespace(**{**vars(reward_utils), "tolerance": tolerance})
    return {"np": numpy, "reward_utils": rewards, "tolerance": tolerance, "Rotation": _OneRotation}


def _bare(function: Any) -> Any:
    """The function under a metaworld decorator that only checks (`assert_task_is_set`, `assert_fully_parsed`)."""
    code = function.__code__
    if code.co_name == "inner" and "func" in code.co_freevars:
        return function.__closure__[code.co_freevars.index("func")].cell_contents
    return function


def _rebound(function: Any, replacements: Mapping[str, Any]) -> Any:
    """A twin of `function` that sees `replacements` for those of its module's globals that have these names."""
    function = _bare(function)
    present = {name: value for name, value in replacements.items() if name in function.__globals__}
    twin = types.FunctionType(
        function.__code__, {**function.__globals__, **present}, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


def rebound_methods(cls: type, replacements: Mapping[str, Any]) -> dict[str, Any]:
    """Twins of the functions, static functions and read-only properties that `cls` itself defines, constructors left out."""
    twins: dict[str, Any] = {}
    for name, member in vars(cls).items():
        if name.startswith("__"):
            continue
        if isinstance(member, types.FunctionType):
            twins[name] = _rebound(member, replacements)
        elif isinstance(member, staticmethod):
            twins[name] = staticmethod(_rebound(member.__func__, replacements))
        elif isinstance(member, property) and member.fget is not None and member.fset is None:
            twins[name] = property(_rebound(member.fget, replacements))
    return twins


class NamedData(mujoco.MjData):
    """Simulator data that looks up each name once, as long as `environment` lives; the views it returns stay valid as long as it lives.

    A view holds on to its data where no collector of garbage sees it: data that remembered its views for good would never be freed, nor
    would the model (20 MB) behind it.
    """

    def __init__(self, model: mujoco.MjModel, environment: object) -> None:
        super().__init__(model)
        weakref.finalize(environment, self.__dict__.clear).atexit = False
        lookup = super()
        self.body = cache(lookup.body)
        self.geom = cache(lookup.geom)
        self.site = cache(lookup.site)


def physics_of(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """All that later steps of a simulator depend on, as one vector; `mj_setState` with PHYSICS puts it back."""
    physics = np.empty(mujoco.mj_stateSize(model, PHYSICS))
    mujoco.mj_getState(model, data, physics, PHYSICS)
    return physics


@dataclass(frozen=True)
class Live:
    """An attribute that is a window into simulator memory and moves with it (`init_left_pad`, the target of basketball)."""

    owner: str  # "data" or "model"
    array: str
    offset: int
    shape: tuple[int, ...]


_WINDOWS = {
    "data": (
        "xpos",
        "xmat",
        "xquat",
        "xipos",
        "geom_xpos",
        "geom_xmat",
        "site_xpos",
        "site_xmat",
        "qpos",
        "qvel",
        "mocap_pos",
        "mocap_quat",
    ),
    "model": ("body_pos", "body_quat", "site_pos", "geom_pos", "qpos0"),
}


@dataclass(frozen=True)
class _Start:
    """Everything in which one episode's begin differs from another's."""

    physics: Array
    body_pos: Array  # (bodies, 3)
    site_pos: Array  # (sites, 3)
    attributes: dict[str, Any]
    observation: Array  # (39,)


@dataclass
class Shared:
    """What the environments of one task in one process have in common: the compiled model (20 MB) and the remembered starts.

    Positions of bodies and sites are the only entries of a model that Meta-World changes. Each environment keeps its own and puts them in
    place when its turn comes; `holder` is the one whose positions are in the model now.
    """

    model: mujoco.MjModel | None = None
    body_pos: Array | None = None  # as compiled
    site_pos: Array | None = None
    holder: Any = None
    starts: dict[bytes, _Start] = field(default_factory=dict)


class FastSawyer(SawyerXYZEnv):
    """Overrides that hold for every task; `fast_class` puts them in front of the task's class."""

    shared: Shared
    _asked: int
    _body_pos: Array
    _site_pos: Array
    _pristine: dict[str, Any]

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        shared = self.shared
        if shared.model is None:
            shared.model = mujoco.MjModel.from_xml_path(self.fullpath)
            shared.body_pos, shared.site_pos = shared.model.body_pos.copy(), shared.model.site_pos.copy()
        shared.model.body_pos[:], shared.model.site_pos[:] = shared.body_pos, shared.site_pos
        shared.holder = self
        self._body_pos, self._site_pos = shared.body_pos.copy(), shared.site_pos.copy()
        return shared.model, NamedData(shared.model, self)

    def _take_model(self) -> None:
        """Put this environment's own positions into the shared model."""
        shared = self.shared
        if shared.holder is not self:
            self.model.body_pos[:] = self._body_pos
            self.model.site_pos[:] = self._site_pos
            shared.holder = self

    # One step.

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Observation (39,), reward, False, whether the 500th step was taken, info; as metaworld's `step`."""
        if self.curr_path_length >= MAX_STEPS:
            raise UserError(f"{self.task_name}: step {self.curr_path_length + 1} of an episode of {MAX_STEPS}; call reset_to first")
        self._take_model()
        model, data = self.model, self.data
        move = np.minimum(np.maximum(action[:3], -1), 1) * self.action_scale  # in the precision of the action, as the reference does
        position = data.mocap_pos
        position[0] = np.minimum(np.maximum(position[0] + move, self.mocap_low), self.mocap_high)
        data.mocap_quat[0] = _MOCAP_QUATERNION
        grip = action[-1]
        control = data.ctrl
        control[0], control[1] = grip, -grip
        mujoco.mj_step(model, data, self.frame_skip)
        mujoco.mj_forward(model, data)  # changes the solver's warm start: needed for equal bits in the next step
        self.curr_path_length += 1
        low, high = self._observation_bounds
        observation = np.minimum(np.maximum(self._get_obs(), low), high)
        reward, info = self.evaluate_state(observation, action)
        return observation, reward, False, self.curr_path_length == MAX_STEPS, info

    @cached_property
    def _observation_bounds(self) -> tuple[Array, Array]:
        space = self.sawyer_observation_space
        return space.low, space.high

    def _get_obs(self) -> Array:
        current = self._get_curr_obs_combined_no_goal()
        observation = np.empty(OBSERVATION_SIZE)
        observation[:18] = current
        observation[18:36] = self._prev_obs
        observation[36:] = 0.0 if self._partially_observable else self._get_pos_goal()
        self._prev_obs = current
        return observation

    def _get_curr_obs_combined_no_goal(self) -> Array:
        """(18,): hand, opening of the gripper, then position and quaternion of each object, padded with zeros."""
        data = self.data
        observation = np.zeros(4 + self._obs_obj_max_len)
        observation[:3] = data.body("hand").xpos
        gap = data.body("rightclaw").xpos - data.body("leftclaw").xpos
        observation[3] = min(max(math.sqrt(gap.dot(gap)) / 0.1, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for n in range(len(positions) // 3):
            observation[4 + 7 * n : 7 + 7 * n] = positions[3 * n : 3 * n + 3]
            observation[7 + 7 * n : 11 + 7 * n] = quaternions[4 * n : 4 * n + 4]
        return observation

    @property
    def tcp_center(self) -> Array:
        return (self.data.site("rightEndEffector").xpos + self.data.site("leftEndEffector").xpos) / 2.0

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on the geom."""
        data = self.data
        left, right = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        left_force = right_force = 0.0
        for contact, pair in enumerate(data.contact.geom.tolist()):
            if object_geom_id in pair:
                if left in pair:
                    left_force += data.efc_force[data.contact.efc_address[contact]]
                if right in pair:
                    right_force += data.efc_force[data.contact.efc_address[contact]]
        return bool(left_force > 0 and right_force > 0)

    def _step_mujoco_simulation(self, ctrl: Any, n_frames: int) -> None:
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, n_frames)

    # One reset.

    def _get_state_rand_vec(self) -> Array:
        """The position vector of this episode; a task that rejects it would ask for it for ever."""
        self._asked += 1
        if self._asked > 1:
            raise UserError(f"{self.task_name}: the position vector {self._last_rand_vec} violates the task's own distances; draw another")
        return np.array(self._last_rand_vec)

    def reset_to(self, position: Array) -> Array:
        """The first observation (39,) of an episode with the objects and the goal at `position` (3 to 6 numbers in metres).

        The first time the reference's own reset is run; after that its outcome is put back. Nothing depends on earlier episodes.
        """
        position = np.ascontiguousarray(position, dtype=np.float64)
        key = position.tobytes()
        start = self.shared.starts.get(key)
        if start is None:
            start = self.shared.starts[key] = self._settle(position)
        self._put_back(start)
        return start.observation.copy()

    def _settle(self, position: Array) -> _Start:
        space = self._random_reset_space
        if position.shape != space.shape:
            raise UserError(f"{self.task_name}: expected a position vector of shape {space.shape}, got {position.shape}")
        shared = self.shared
        self._body_pos[:], self._site_pos[:] = shared.body_pos, shared.site_pos
        shared.holder = None
        self._take_model()
        mujoco.mj_resetData(self.model, self.data)
        self._put_attributes(self._pristine)
        self._last_rand_vec = position.copy()
        observation, _ = self.reset()
        attributes = self._attributes()
        return _Start(physics_of(self.model, self.data), self.model.body_pos.copy(), self.model.site_pos.copy(), attributes, observation)

    def _put_back(self, start: _Start) -> None:
        self._body_pos[:], self._site_pos[:] = start.body_pos, start.site_pos
        self.shared.holder = None
        self._take_model()
        mujoco.mj_resetData(self.model, self.data)
        self._put_physics(start.physics)
        self._put_attributes(start.attributes)

    def _put_physics(self, physics: Array) -> None:
        mujoco.mj_setState(self.model, self.data, physics, PHYSICS)
        mujoco.mj_forward(self.model, self.data)  # fills in what is derived, and changes the warm start
        mujoco.mj_setState(self.model, self.data, physics, PHYSICS)

    def saved(self) -> dict[str, Any]:
        """What the rest of an open episode depends on beside the position that it began at; a copy."""
        attributes = {name: value for name, value in self._attributes().items() if not isinstance(value, Live)}
        return {"physics": physics_of(self.model, self.data), "attributes": attributes}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` was taken, in an episode that began at the same position."""
        self._take_model()
        self._put_physics(np.array(saved["physics"]))
        self._put_attributes(saved["attributes"])

    def _attributes(self) -> dict[str, Any]:
        """Copies of the plain values in this object, windows into simulator memory as their place there."""
        saved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name in ("_body_pos", "_site_pos"):
                continue
            if isinstance(value, np.ndarray):
                saved[name] = self._window(value) or value.copy()
            elif value is None or isinstance(value, bool | int | float | str | np.generic):
                saved[name] = value
        return saved

    def _window(self, value: Array) -> Live | None:
        for owner, arrays in _WINDOWS.items():
            for array in arrays:
                memory = getattr(getattr(self, owner), array)
                if memory.size and np.may_share_memory(value, memory):
                    offset = (value.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // memory.itemsize
                    return Live(owner, array, offset, value.shape)
        return None

    def _put_attributes(self, saved: Mapping[str, Any]) -> None:
        for name, value in saved.items():
            if isinstance(value, Live):
                memory = getattr(getattr(self, value.owner), value.array).reshape(-1)
                setattr(self, name, memory[value.offset : value.offset + math.prod(value.shape)].reshape(value.shape))
            else:
                setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)


@cache
def fast_class(task_name: str) -> type[FastSawyer]:
    """The subclass for one task: twins of its functions, then the general overrides, then the class itself."""
    task_class = ALL_V3_ENVIRONMENTS[reference_name(task_name)]
    replacements = _replacements()
    twins = rebound_methods(task_class, replacements)
    reset_model = twins.pop("reset_model")

    def counted_reset(self: FastSawyer) -> Array:
        self._asked = 0
        return reset_model(self)

    inherited = {"_gripper_caging_reward": _rebound(SawyerXYZEnv._gripper_caging_reward, replacements)}
    return type("Fast" + task_class.__name__, (FastSawyer, task_class), {**inherited, **twins, "reset_model": counted_reset})


def make_env(task_name: str, shared: Shared | None = None) -> FastSawyer:
    """One environment of the task with visible goal; call `reset_to(position)` before `step`.

    Environments made with the same `shared` use one compiled model and one set of remembered starts, in one thread.
    """
    cls = fast_class(task_name)
    env = cls.__new__(cls)
    env.shared = Shared() if shared is None else shared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium tells of casts of the bounds of spaces
        env.__init__()
        space = env._random_reset_space
        task = {"rand_vec": np.zeros(space.shape), "env_cls": cls.__mro__[2], "partially_observable": False}
        env.set_task(metaworld.Task(env_name=reference_name(task_name), data=pickle.dumps(task)))
    env._pristine = env._attributes()
    return env
