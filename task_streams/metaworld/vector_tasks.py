"""Observations and rewards of many environments of one task at once: the ten tasks of Continual World, with the second reward version.

Each function restates one of metaworld 3.1.1 (`envs/sawyer_<task>_v3.py`, `sawyer_xyz_env.py`, `utils/reward_utils.py`) for arrays: in the
same order of operations, so that observations equal the reference bit for bit and rewards to 1e-12. `tests/metaworld/test_vector_env.py`
holds them together. What else the reference computes (whether the object is touched) moves neither and is left out.
Shape letters: B environments. Lengths are metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .fast_env import quaternion

Array = NDArray[np.float64]
Constants = Mapping[str, Array]  # of the episode: obj_init_pos (B, 3), _target_pos (B, 3), init_tcp (B, 3), ...
_X_Z = [0, 2]


class Quantity(NamedTuple):
    """Where the simulator keeps a number: an array of `mjData` and the name of its row."""

    array: str  # xpos, xquat, xmat of a body; geom_xpos, geom_xmat; site_xpos; qpos of a joint with one coordinate
    row: str


COMMON = {
    "hand": Quantity("xpos", "hand"),
    "right_claw": Quantity("xpos", "rightclaw"),
    "left_claw": Quantity("xpos", "leftclaw"),
    "left_pad": Quantity("xpos", "leftpad"),
    "right_pad": Quantity("xpos", "rightpad"),
    "right_finger": Quantity("site_xpos", "rightEndEffector"),
    "left_finger": Quantity("site_xpos", "leftEndEffector"),
}


class Scene:
    """What was gathered from the simulators, by name (B, k)."""

    def __init__(self, gathered: Mapping[str, Array]) -> None:
        self._gathered = gathered

    def __getitem__(self, name: str) -> Array:
        return self._gathered[name]

    @property
    def tcp(self) -> Array:
        """The middle between the fingers (B, 3)."""
        return (self["right_finger"] + self["left_finger"]) / 2.0


class Moment(NamedTuple):
    """All that a reward depends on."""

    scene: Scene
    constants: Constants
    observation: Array  # (B, 39), clipped
    grip: NDArray[np.floating]  # (B,), the last entry of the action, in its own precision

    @property
    def object(self) -> Array:
        """The first object (B, 3) as it is observed."""
        return self.observation[:, 4:7]

    @property
    def opened(self) -> Array:
        """How far the gripper is open (B,)."""
        return self.observation[:, 3]

    @property
    def target(self) -> Array:
        """The goal (B, 3)."""
        return self.constants["_target_pos"]


Outcome = tuple[Array, NDArray[np.bool_]]  # reward (B,) and success (B,)


@dataclass(frozen=True)
class VectorTask:
    """One task. `objects` gives entries 4 to 18 of an observation (B, 14); `constants` are attributes of the reference after a reset."""

    quantities: Mapping[str, Quantity]
    constants: tuple[str, ...]
    objects: Callable[[Scene], Array]
    rewards: Callable[[Moment], Outcome]

    def outcome(self, moment: Moment) -> Outcome:
        """Rewards and success; what the formulas divide by 0 is replaced by them afterwards."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.rewards(moment)


# ---- reward_utils


def length(v: Array) -> Array:
    """Euclidean length of each row (B,), as `numpy.linalg.norm` computes that of one vector."""
    return np.sqrt(np.vecdot(v, v))


def tolerance(x: Array, lower: float, upper: float, margin: Array | float, shape: str = "long_tail") -> Array:
    """1 within the bounds, falling to .1 at distance `margin`; 0 outside where that is 0. It divides by 0: see `VectorTask.outcome`."""
    beyond = np.maximum(lower - x, x - upper)
    distance = beyond / margin  # infinite where the margin is 0: both shapes are 0 there
    if shape == "long_tail":
        value = 1 / ((distance * math.sqrt(1 / 0.1 - 1)) ** 2 + 1)
    else:
        value = np.exp(-0.5 * (distance * math.sqrt(-2 * math.log(0.1))) ** 2)
    return np.where(beyond <= 0, 1.0, value)


def hamacher(a: Array, b: Array) -> Array:
    """A b / (a + b - a b), 0 where both are 0. It divides by 0: see `VectorTask.outcome`."""
    above = a * b
    below = a + b - above
    return np.where(below > 0, above / below, 0.0)


def caging(
    moment: Moment, at: Array, *, radius: float, pad_threshold: float, x_z: float, effort: float = 1.0, high_density: bool = True
) -> Array:
    """How well the gripper holds what is at (B, 3): `SawyerXYZEnv._gripper_caging_reward`."""
    scene, start, hand = moment.scene, moment.constants["obj_init_pos"], moment.constants["init_tcp"]
    pads = np.stack([scene["left_pad"][:, 1], scene["right_pad"][:, 1]])  # (2, B)
    margins = np.abs(np.abs(pads - start[:, 1]) - pad_threshold)
    left, right = tolerance(np.abs(pads - at[:, 1]), radius, pad_threshold, margins)
    margin = length((start - hand)[:, _X_Z]) - x_z
    flat = tolerance(length((scene.tcp - at)[:, _X_Z]), 0, x_z, margin)
    cage = hamacher(hamacher(left, right), flat)
    closed = np.minimum(np.maximum(moment.grip, 0), effort) / effort
    held = hamacher(cage, np.where(cage > 0.97, closed, 0.0))
    return (held + cage) / 2 if high_density else held


# ---- observations


_BY_LARGEST = np.array([[0, 1, 2, 3], [4, 7, 8, 0], [7, 5, 9, 1], [8, 9, 6, 2]])
"""Where x, y, z and w stand among the ten terms of `quaternions`, by which of trace and diagonal is the largest (the first of them)."""


def quaternions(matrix: Array) -> Array:
    """(x, y, z, w) of rotations (B, 9), as scipy's `Rotation.from_matrix` gives them: `fast_env`'s formula for arrays."""
    entries = np.ascontiguousarray(matrix.T)  # (9, B), row after row of each rotation
    diagonal = entries[::4]
    trace = diagonal[0] + diagonal[1] + diagonal[2]
    terms = np.concatenate(
        [
            entries[[7, 2, 3]] - entries[[5, 6, 1]],
            (1 + trace)[None],
            1 - trace + 2 * diagonal,
            entries[[1, 2, 5]] + entries[[3, 6, 7]],
        ]
    )  # (10, B)
    largest = np.concatenate([trace[None], diagonal]).argmax(0)
    found = terms[_BY_LARGEST[largest], np.arange(len(matrix))[:, None]]
    squares = found * found
    found /= np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2] + squares[:, 3])[:, None]
    rows = entries.reshape(3, 3, -1)
    products = rows[[0, 0, 1, 0, 1, 2]] * rows[[1, 2, 2, 0, 1, 2]]  # (6, 3, B): of each two rows, and of each with itself
    products = products[:, 0] + products[:, 1] + products[:, 2]
    orthonormal = (np.abs(products[:3]).max(0) < 1e-13) & (np.abs(products[3:] - 1).max(0) < 1e-9)
    for row in np.flatnonzero(~orthonormal):  # scipy makes these orthonormal first
        found[row] = quaternion()(matrix[row].reshape(3, 3))
    return found


def _one(position: Array, quaternion: Array | None = None) -> Array:
    """Entries for one object; without a quaternion its place holds zeros."""
    entries = np.zeros((len(position), 14))
    entries[:, :3] = position
    if quaternion is not None:
        entries[:, 3:7] = quaternion
    return entries


def _two(first: Array, quaternion: Array, second: Array, other: Array | None = None) -> Array:
    entries = _one(first, quaternion)
    entries[:, 7:10] = second
    if other is not None:
        entries[:, 10:14] = other
    return entries


def _geom(scene: Scene) -> Array:
    return _one(scene["geom"], quaternions(scene["geom_turn"]))


def _body(scene: Scene) -> Array:
    return _one(scene["body"], quaternions(scene["geom_turn"]))


# ---- the tasks


def _hammer(moment: Moment) -> Outcome:
    at = moment.object.copy()
    near = np.abs(at[:, 0] - moment.observation[:, 0]) < 0.14 / 2.0
    at[:, 0] = np.where(near, moment.observation[:, 0], at[:, 0])
    straight = np.maximum(1.0 - length(moment.observation[:, 7:11] - np.array([1.0, 0.0, 0.0, 0.0])) / 0.4, 0.0)
    held = caging(moment, at, radius=0.015, pad_threshold=0.02, x_z=0.01)
    head = moment.object + np.array([0.16, 0.06, 0.0])
    placed = 0.1 * (head[:, 2] > 0.02) + 0.9 * tolerance(length(moment.target - head), 0, 0.02, 0.2)
    reward = (2.0 * held + 6.0 * placed) * straight
    success = moment.scene["nail"][:, 0] > 0.09
    return np.where(success & (reward > 5.0), 10.0, reward), success


def _push_wall(moment: Moment) -> Outcome:
    at, target, start = moment.object, moment.target, moment.constants["obj_init_pos"]
    middle = np.stack([np.full(len(at), -0.05), np.full(len(at), 0.77), at[:, 2]], axis=1)
    scaling = np.array([3.0, 1.0, 1.0])
    to_middle = tolerance(length((at - middle) * scaling), 0, 0.05, length((start - middle) * scaling))
    distance = length(at - target)
    placed = tolerance(distance, 0, 0.05, length(start - target))
    held = caging(moment, at, radius=0.015, pad_threshold=0.05, x_z=0.005)
    grasped = (length(at - moment.scene.tcp) < 0.02) & (moment.opened > 0)
    beyond = 2 * held + 1.0 + 4.0 + 3.0 * placed
    reward = np.where(grasped, np.where(at[:, 1] > 0.75, beyond, 2.0 * held + 1.0 + 4.0 * to_middle), 2 * held)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.07


def _faucet_close(moment: Moment) -> Outcome:
    at, target, start, tcp = moment.object, moment.target, moment.constants["obj_init_pos"], moment.scene.tcp
    distance = length(at - target)
    placed = tolerance(distance, 0, 0.07, np.abs(length(start - target) - 0.07))
    reach = tolerance(length(at - tcp), 0, 0.01, np.abs(length(start - moment.constants["init_tcp"]) - 0.01), "gaussian")
    reward = (2 * reach + 3 * placed) * 2
    return np.where(distance <= 0.07, 10.0, reward), distance <= 0.07


def _push_back(moment: Moment) -> Outcome:
    scene, at, target, start = moment.scene, moment.object, moment.target, moment.constants["obj_init_pos"]
    distance = length(at - target)
    from_start = length(start - target)
    placed = tolerance(distance, 0, 0.05, from_start)
    left, right = scene["left_pad"][:, 1], scene["right_pad"][:, 1]  # init_left_pad and init_right_pad are windows onto these
    sides = {"right": (at[:, 1] - right, right), "left": (left - at[:, 1], left)}
    margins = {side: np.abs(np.abs(at[:, 1] - pad) - 0.05) for side, (_, pad) in sides.items()}
    cage = hamacher(*(tolerance(gap, 0.007, 0.05, margins[side]) for side, (gap, _) in sides.items()))
    grip = hamacher(*(tolerance(gap, 0.007, 0.007 + 0.003, margins[side]) for side, (gap, _) in sides.items()))
    flat = np.array([1.0, 0.0, 1.0])
    tcp = scene.tcp
    margin = length((start - moment.constants["init_tcp"]) * flat) - 0.01
    cage = hamacher(cage, tolerance(length((tcp - at) * flat), 0, 0.01, margin))
    held = (cage + np.where(cage > 0.95, grip, 0.0)) / 2
    reward = hamacher(held, placed)
    grasped = (length(at - tcp) < 0.01) & (moment.opened > 0) & (moment.opened < 0.55) & (from_start - distance > 0.01)
    reward = np.where(grasped, reward + (1.0 + 5.0 * placed), reward)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.07


def _stick_pull(moment: Moment) -> Outcome:
    stick, handle, target, tcp = moment.object, moment.observation[:, 11:14], moment.target, moment.scene.tcp
    start, stick_start, end = moment.constants["obj_init_pos"], moment.constants["stick_init_pos"], moment.scene["stick_end"]
    offset, scaling = np.array([0.05, 0.0, 0.0]), np.array([1.0, 1.0, 2.0])
    container = handle + offset
    placed = tolerance(length((stick - container) * scaling), 0, 0.05, length((stick_start - (start + offset)) * scaling))
    stick_placed = tolerance(length(stick - target), 0, 0.05, length(stick_start - target))
    container_placed = tolerance(length(container - target), 0, 0.05, length(start - target))
    held = caging(moment, stick, radius=0.014, pad_threshold=0.05, x_z=0.01)
    grasped = (length(stick - tcp) < 0.02) & (moment.opened > 0) & (stick[:, 2] - 0.01 > stick_start[:, 2])
    both = hamacher(np.where(grasped, 1.0, held), placed)
    inserted = (end[:, 0] >= handle[:, 0]) & (np.abs(end[:, 1] - handle[:, 1]) <= 0.040) & (np.abs(end[:, 2] - handle[:, 2]) <= 0.060)
    near = length(handle - target) <= 0.12
    pulled = np.where(near, 10.0, 1.0 + both + 5.0 + 2.0 * stick_placed + 1.0 * container_placed)
    reward = np.where(grasped, np.where(inserted, pulled, 1.0 + both + 5.0 * placed), both)
    return reward, near & inserted


def _handle_press_side(moment: Moment) -> Outcome:
    at, target, start, tcp = moment.scene["handle"], moment.target, moment.constants["_handle_init_pos"], moment.scene.tcp
    distance = np.abs(at[:, 2] - target[:, 2])
    placed = tolerance(distance, 0, 0.02, np.abs(np.abs(start[:, 2] - target[:, 2]) - 0.02))
    reach = tolerance(length(at - tcp), 0, 0.02, np.abs(length(start - moment.constants["init_tcp"]) - 0.02))
    return np.where(distance <= 0.02, 1.0, hamacher(reach, placed)) * 10, distance <= 0.02


def _push(moment: Moment) -> Outcome:
    at, target = moment.object, moment.target
    distance = length(at - target)
    placed = tolerance(distance, 0, 0.05, length(moment.constants["obj_init_pos"] - target))
    reward = 2 * caging(moment, at, radius=0.015, pad_threshold=0.05, x_z=0.005)
    grasped = (length(at - moment.scene.tcp) < 0.02) & (moment.opened > 0)
    reward = np.where(grasped, reward + (1.0 + reward + 5.0 * placed), reward)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.05


def _shelf_place(moment: Moment) -> Outcome:
    at, target, start = moment.object, moment.target, moment.constants["obj_init_pos"]
    distance = length(at - target)
    placed = tolerance(distance, 0, 0.05, length(start - target))
    held = caging(moment, at, radius=0.02, pad_threshold=0.05, x_z=0.01, high_density=False)
    reward = hamacher(held, placed)
    below = (at[:, 2] > 0.0) & (at[:, 2] < 0.24) & (target[:, 0] - 0.15 < at[:, 0]) & (at[:, 0] < target[:, 0] + 0.15)
    front = target[:, 1] - 3 * 0.05
    before = below & (front < at[:, 1]) & (at[:, 1] < target[:, 1])
    loss = hamacher((at[:, 1] - front) / (3 * 0.05), (0.24 - at[:, 2]) / 0.24)
    placed = np.where(before, np.clip(placed - loss, 0.0, 1.0), placed)
    placed = np.where(below & (at[:, 1] > target[:, 1]), 0.0, placed)
    lifted = (length(at - moment.scene.tcp) < 0.025) & (moment.opened > 0) & (at[:, 2] - 0.01 > start[:, 2])
    reward = np.where(lifted, reward + (1.0 + 5.0 * placed), reward)
    return np.where(distance < 0.05, 10.0, reward), distance <= 0.07


def _window_close(moment: Moment) -> Outcome:
    at, target, start = moment.scene["handle"], moment.target, moment.constants["window_handle_pos_init"]
    distance = np.abs(at[:, 0] - target[:, 0])
    placed = tolerance(distance, 0, 0.05, np.abs(np.abs(start[:, 0] - target[:, 0]) - 0.05))
    margin = np.abs(length(start - moment.constants["init_tcp"]) - 0.02)
    reach = tolerance(length(at - moment.scene.tcp), 0, 0.02, margin, "gaussian")
    return 10 * hamacher(reach, placed), distance <= 0.05


def _peg_unplug_side(moment: Moment) -> Outcome:
    at, target, start = moment.object, moment.target, moment.constants["obj_init_pos"]
    distance = length(at - target)
    held = caging(moment, at, radius=0.025, pad_threshold=0.05, x_z=0.005, effort=0.8)
    placed = tolerance(distance, 0, 0.05, length(start - target))
    grasped = (moment.opened > 0.5) & (at[:, 0] - start[:, 0] > 0.015) & (length(at - moment.scene.tcp) < 0.035)
    reward = np.where(grasped, 1 + 2 * held + 5 * placed, 2 * held)
    return np.where(distance <= 0.05, 10.0, reward), distance <= 0.07


_GEOM = {"geom": Quantity("geom_xpos", "objGeom"), "geom_turn": Quantity("geom_xmat", "objGeom")}
_BODY = {"body": Quantity("xpos", "obj"), "geom_turn": Quantity("geom_xmat", "objGeom")}
_START = ("obj_init_pos", "_target_pos", "init_tcp")

VECTOR_TASKS: dict[str, VectorTask] = {
    "hammer": VectorTask(
        {
            "body": Quantity("xpos", "hammer"),
            "turn": Quantity("xquat", "hammer"),
            "nail_body": Quantity("xpos", "nail_link"),
            "nail_turn": Quantity("xquat", "nail_link"),
            "nail": Quantity("qpos", "NailSlideJoint"),
        },
        _START,
        lambda scene: _two(scene["body"], scene["turn"], scene["nail_body"], scene["nail_turn"]),
        _hammer,
    ),
    "push-wall": VectorTask(_GEOM, _START, _geom, _push_wall),
    "faucet-close": VectorTask(
        {"handle": Quantity("site_xpos", "handleStartClose"), "turn": Quantity("xquat", "faucetBase")},
        _START,
        lambda scene: _one(scene["handle"] + np.array([0.0, 0.0, -0.01]), scene["turn"]),
        _faucet_close,
    ),
    "push-back": VectorTask(_GEOM, _START, _geom, _push_back),
    "stick-pull": VectorTask(
        {
            "body": Quantity("xpos", "stick"),
            "body_turn": Quantity("xmat", "stick"),
            "insertion": Quantity("site_xpos", "insertion"),
            "stick_end": Quantity("site_xpos", "stick_end"),
        },
        (*_START, "stick_init_pos"),
        lambda scene: _two(scene["body"], quaternions(scene["body_turn"]), scene["insertion"]),
        _stick_pull,
    ),
    "handle-press-side": VectorTask(
        {"handle": Quantity("site_xpos", "handleStart")},
        ("_target_pos", "init_tcp", "_handle_init_pos"),
        lambda scene: _one(scene["handle"]),
        _handle_press_side,
    ),
    "push": VectorTask(_BODY, _START, _body, _push),
    "shelf-place": VectorTask(_BODY, _START, _body, _shelf_place),
    "window-close": VectorTask(
        {"handle": Quantity("site_xpos", "handleCloseStart")},
        ("_target_pos", "init_tcp", "window_handle_pos_init"),
        lambda scene: _one(scene["handle"]),
        _window_close,
    ),
    "peg-unplug-side": VectorTask(
        {"end": Quantity("site_xpos", "pegEnd"), "turn": Quantity("xquat", "plug1")},
        _START,
        lambda scene: _one(scene["end"], scene["turn"]),
        _peg_unplug_side,
    ),
}
"""By name the tasks that are stepped as arrays; all others as `fast_env` steps them."""
