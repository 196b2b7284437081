"""The public surface is small, importable, and light."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import clbench
from clbench import configuration
from clbench.errors import UserError


def test_every_public_name_can_be_imported_and_the_list_is_sorted():
    assert clbench.__all__ == sorted(clbench.__all__)
    for name in clbench.__all__:
        assert getattr(clbench, name) is not None


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'EvaluationMatrx'; public names: Agent, "):
        clbench.EvaluationMatrx  # noqa: B018


@pytest.mark.parametrize("module", ["clbench", "clbench.cli", "clbench.metrics", "clbench.protocol", "clbench.store", "clbench.runs"])
def test_importing_loads_neither_torch_nor_mujoco(module):
    code = (
        f"import {module}, sys; print([m for m in ('torch', 'mujoco', 'metaworld', 'hydra', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_report_imports_neither_torch_nor_the_wings():
    code = (
        "import clbench.report.site, clbench.report.leaderboard, clbench.loading, sys;"
        "print([m for m in sys.modules if m in ('torch', 'mujoco') or m.startswith(('clbench.agents', 'clbench.task_streams'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_run_hands_over_the_agent_that_it_scored(tmp_path):
    stream = replace(configuration.stream_named("toy"), few_shot=None)
    last = stream.tasks[-1]
    for where in (None, tmp_path, tmp_path):  # in memory, in a folder, found finished there
        run = clbench.run("fine-tuning", stream, seed=1, results_dir=where)
        again = last.evaluate(run.agent.policy(last.info), stream.seed("evaluation", last))
        assert again.score.mean() == pytest.approx(run.matrix.score[-1, -1], abs=1e-12)
    assert isinstance(run.folder, Path)
    (run.folder / "checkpoints" / "last.pt").unlink()
    found = clbench.run("fine-tuning", stream, seed=1, results_dir=tmp_path)
    assert found.metrics() == run.metrics()  # results need no agent
    with pytest.raises(UserError, match="is finished and holds no checkpoint of its agent"):
        found.agent  # noqa: B018
