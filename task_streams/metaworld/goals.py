"""Frozen position vectors of all 50 Meta-World tasks, in four splits that share none.

A position vector (Meta-World's `rand_vec`, 3 to 6 numbers in metres) fixes where the objects and the goal of an episode are. They are drawn
uniformly from the task's own reset space, as Meta-World's MT and ML benchmarks draw theirs; 21 tasks reject vectors whose object is too
near its goal, and so does `draw`: a rejected vector that is frozen all the same would make the reference ask for it for ever.
`goals.npz` holds them, so that no number of an evaluation depends on a version of numpy or Meta-World;
`python -m clbench.task_streams.metaworld.goals` writes it anew. A change of the file is a new version of every stream over it.
"""

from __future__ import annotations

import io
import os
import sys
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clbench import seeding
from clbench.errors import UserError, unknown_name

Array = NDArray[np.float64]

SPLITS = {"train": 60, "evaluation": 60, "few-shot": 40, "validation": 60}
"""How many vectors each split holds. An evaluation uses the first 25 or 50; few-shot holds 20 to learn from and 20 spare; tuning is
scored on validation."""

_SEED = 0


def goals(task_name: str, split: str) -> Array:
    """The frozen position vectors (n, 3 to 6) of a split, in their fixed order; a copy."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS, "clbench.task_streams.metaworld.goals.SPLITS")
    frozen = _frozen()
    name = task_name.removesuffix("-v3")
    if f"{name}/{split}" not in frozen:
        tasks = sorted({key.split("/")[0] for key in frozen})
        raise unknown_name("Meta-World task", task_name, tasks, "https://metaworld.farama.org/benchmark/task_descriptions")
    return frozen[f"{name}/{split}"].copy()


def scored_goals(task_name: str, split: str, episodes: int) -> Array:
    """The first `episodes` vectors (n, 3 to 6) of a split, which episodes of an evaluation begin at."""
    vectors = goals(task_name, split)
    if not 1 <= episodes <= len(vectors):
        raise UserError(f"task '{task_name}': episodes must be in 1..{len(vectors)}, got {episodes}")
    return vectors[:episodes]


@cache
def _frozen() -> dict[str, Array]:
    content = resources.files(__package__).joinpath("goals.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def draw(task_name: str) -> dict[str, Array]:
    """Position vectors (n, 3 to 6) for every split of one task, from the generators that (task, split) own."""
    from .fast_env import make_env

    env = make_env(task_name)
    env.do_simulation = lambda *_: None  # whether a vector is rejected depends on the vector alone
    space = env._random_reset_space

    def accepted(vector: Array) -> bool:
        env._last_rand_vec = vector
        try:
            env.reset_model()
        except UserError:
            return False
        return True

    drawn = {}
    for split, count in SPLITS.items():
        generator = seeding.generator(_SEED, "metaworld", "goals", task_name, split)
        vectors: list[Array] = []
        while len(vectors) < count:
            vector = generator.uniform(space.low, space.high)
            if accepted(vector):
                vectors.append(vector)
        drawn[split] = np.array(vectors)
    return drawn


def main() -> None:
    """Draw all vectors and replace `goals.npz` next to this file."""
    from .fast_env import task_names

    arrays = {f"{task}/{split}": vectors for task in task_names() for split, vectors in draw(task).items()}
    path = Path(__file__).with_name("goals.npz")
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".tmp"), path)
    sys.stdout.write(f"{path}: {len(arrays)} arrays, {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
