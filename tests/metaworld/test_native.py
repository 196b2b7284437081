"""The compiled helper: built on demand, the same numbers, and nothing lost without it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from clbench.errors import UserError
from clbench.task_streams.metaworld import native
from clbench.task_streams.metaworld.benchmark import CW10
from clbench.task_streams.metaworld.evaluation import evaluate
from clbench.task_streams.metaworld.expert import expert_policy
from clbench.task_streams.metaworld.goals import goals
from clbench.task_streams.metaworld.simulation import close_workers
from clbench.task_streams.metaworld.vector_env import VectorMetaWorld

compiled = pytest.mark.skipif(not any(shutil.which(name) for name in native.COMPILERS), reason="no C compiler here")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    native._loaded.cache_clear()
    yield tmp_path
    native._loaded.cache_clear()


def played(env, steps, seed=0):
    """Everything that `steps` random actions bring, over the ends of episodes."""
    draws = np.random.default_rng(seed)
    found = [env.reset(seed=3)[0]]
    for _ in range(steps):
        observation, reward, _, _, info = env.step(draws.uniform(-1, 1, (env.num_envs, 4)).astype(np.float32))
        found += [observation, reward, info["success"]]
    return found


@compiled
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_helper_gives_the_numbers_of_python(mode):
    native.build()
    assert native.available()
    tasks = [*CW10, *CW10, "reach"]  # two of each, and one that stands behind the same interface
    envs = [VectorMetaWorld(tasks, horizon=12, mode=mode, threads=threads, helper=helper) for threads, helper in ((2, "auto"), (3, "off"))]
    assert envs[0]._groups[0]._stepper is not None and envs[1]._groups[0]._stepper is None
    assert all(np.array_equal(one, other) for one, other in zip(*(played(env, 27) for env in envs), strict=True))


@compiled
def test_evaluations_give_the_same_numbers_with_it():
    positions = goals("window-close", "evaluation")[:5]
    found = []
    for built in (False, True):
        if built:
            native.build()
        close_workers()
        found.append(evaluate("window-close", positions, expert_policy("window-close"), 120))
    close_workers()
    assert len(set(found[0].facts["length"])) > 1 and found[0].score.all()
    assert all(np.array_equal(found[0].facts[fact], found[1].facts[fact]) for fact in ("length", "return"))


@compiled
def test_saved_within_an_episode_either_way_goes_on_the_other(own_cache):
    native.build()
    one, other = (VectorMetaWorld("push", 4, horizon=15, threads=2, helper=helper) for helper in ("auto", "off"))
    played(one, 20)
    other.reset()
    other.load_state_dict(one.state_dict())
    draws = np.random.default_rng(1)
    for _ in range(20):
        actions = draws.uniform(-1, 1, (4, 4))
        assert all(np.array_equal(a, b) for a, b in zip(one.step(actions)[:2], other.step(actions)[:2], strict=True))


@compiled
def test_it_is_built_whole_under_a_name_that_its_source_makes(own_cache, monkeypatch):
    path = native.build()
    assert path.is_file() and path.parent == own_cache / "native" and [file.name for file in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(native, "source", lambda: "int another;")
    native._loaded.cache_clear()
    assert native.library() != path and not native.available()


def test_without_it_or_with_a_broken_one_python_steps(own_cache):
    assert not native.available()
    plain = played(VectorMetaWorld("window-close", 2, horizon=5), 7)
    native.library().parent.mkdir()
    native.library().write_bytes(b"nothing that can be loaded")
    native._loaded.cache_clear()
    assert not native.available()
    assert all(np.array_equal(a, b) for a, b in zip(plain, played(VectorMetaWorld("window-close", 2, horizon=5), 7), strict=True))


def test_what_cannot_be_built_is_one_line_and_leaves_nothing(own_cache, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"no C compiler found \(cc, gcc, clang\); set CC to one, or go on without"):
        native.build()
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(UserError, match="'/nowhere/cc' cannot be started"):
        native.build()
    script = own_cache / "refuses"
    script.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.raises(SystemExit) as left:
        native.main()
    assert left.value.code == 2 and "says 'no such thing'; set CC to a C compiler" in capsys.readouterr().err
    assert list((own_cache / "native").iterdir()) == []
    with pytest.raises(UserError, match="helper must be auto or off, got 'on'"):
        VectorMetaWorld("push", 1, helper="on")  # type: ignore[arg-type]


def test_its_source_is_in_the_package():
    assert "clbench_step" in native.source() and (Path(native.__file__).parent / "step.c").is_file()
