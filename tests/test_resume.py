"""Killed at any moment and continued, a run has the events of an uninterrupted one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import strangers

from clbench import runs
from clbench.errors import Interrupted, UserError
from clbench.store import RunFolder, determined, read_events
from clbench.task_streams.toy import toy_stream

from .kills import came_to_its_end, events_of, killed_and_continued

SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import strangers
from clbench import protocol, runs
from clbench.task_streams.toy import toy_stream

protocol.CHECKPOINT_SECONDS = 0.0

class Slow(strangers.Ridge):
    def learn(self, experience):
        while experience.remaining:
            time.sleep(0.004)
            x, y = experience.steps(min(16, experience.remaining))
            self.gram += np.pad(x.T @ x, (0, 1))
            self.cross += np.pad(x.T @ y, ((0, 1), (0, 0)))

import numpy as np
stream = toy_stream(name="toy", version=1, budget="smoke", points=3)
runs.execute(runs.Request(runs.AgentSpec("slow", Slow, {{}}), stream, 3), Path(sys.argv[1]))
"""


def script(tmp_path):
    path = tmp_path / "slow_run.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    return path


def test_a_run_killed_at_ten_random_moments_has_the_events_of_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, str(script(tmp_path))]
    begin = time.monotonic()
    assert came_to_its_end([*command, str(whole)])
    killed_and_continued([*command, str(killed)], killed, time.monotonic() - begin, earliest=0.3, latest=1.1)
    assert events_of(killed) == events_of(whole)
    assert next(killed.rglob("evals.csv")).read_text() == next(whole.rglob("evals.csv")).read_text()


def request(agent=strangers.Ridge, seed=0, **options):
    return runs.Request(runs.AgentSpec("ridge", agent, options), toy_stream(name="toy", version=1, budget="smoke"), seed)


def test_a_finished_run_is_returned_and_not_repeated(tmp_path):
    first = runs.execute(request(), tmp_path)
    before = (first.folder / "events.jsonl").read_bytes()
    second = runs.execute(request(), tmp_path)
    assert (first.folder / "events.jsonl").read_bytes() == before
    assert second.matrix == first.matrix


def test_fresh_opens_a_folder_beside(tmp_path):
    first = runs.execute(request(), tmp_path)
    second = runs.execute(request(), tmp_path, fresh=True)
    assert second.folder.name == first.folder.name + "-r2"
    assert second.matrix == first.matrix


def test_derived_files_are_rebuilt_byte_for_byte(tmp_path):
    folder = runs.execute(request(), tmp_path).folder
    before = {name: (folder / name).read_bytes() for name in ("evals.csv", "summary.json")}
    for name in before:
        (folder / name).unlink()
    runs.derive(folder, None)
    assert before == {name: (folder / name).read_bytes() for name in before}


class StopsItself(strangers.Ridge):
    """Sends itself a signal in its second phase, once."""

    sent = False

    def begin_task(self, task):
        if task.index == 1 and not StopsItself.sent:
            StopsItself.sent = True
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_saves_says_so_and_the_run_continues(tmp_path):
    StopsItself.sent = False
    with pytest.raises(Interrupted) as caught:
        runs.execute(request(StopsItself), tmp_path)
    assert caught.value.exit_code == 75
    (log,) = tmp_path.rglob("events.jsonl")
    assert [e["reason"] for e in read_events(log) if e["kind"] == "interrupted"] == ["SIGTERM"]
    continued = runs.execute(request(StopsItself), tmp_path)
    uninterrupted = runs.execute(request(StopsItself))
    assert determined(continued.events) == determined(uninterrupted.events)
    assert sum(e["kind"] == "attempt_start" for e in continued.events) == 1


def interrupted_folder(tmp_path):
    StopsItself.sent = False
    with pytest.raises(Interrupted):
        runs.execute(request(StopsItself), tmp_path)
    return next(tmp_path.rglob("run.json")).parent


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path):
    folder = interrupted_folder(tmp_path)
    data = (folder / "checkpoints" / "last.pt").read_bytes()
    (folder / "checkpoints" / "last.prev.pt").write_bytes(data)
    (folder / "checkpoints" / "last.pt").write_bytes(data[: len(data) // 2])
    continued = runs.execute(request(StopsItself), tmp_path)
    assert [e["code"] for e in continued.events if e["kind"] == "warning"] == ["checkpoint-damaged"]
    assert determined(continued.events) == determined(runs.execute(request(StopsItself)).events)


def test_two_damaged_checkpoints_end_with_one_line_and_nothing_is_changed(tmp_path):
    folder = interrupted_folder(tmp_path)
    for name in ("last.pt", "last.prev.pt"):
        (folder / "checkpoints" / name).write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read .*--fresh"):
        runs.execute(request(StopsItself), tmp_path)


def test_a_torn_last_line_is_cut_and_the_run_continues(tmp_path):
    folder = interrupted_folder(tmp_path)
    with open(folder / "events.jsonl", "ab") as log:
        log.write(b'{"kind":"eval","seq":9')
    continued = runs.execute(request(StopsItself), tmp_path)
    assert determined(continued.events) == determined(runs.execute(request(StopsItself)).events)


def test_another_source_of_the_agent_is_refused_on_resume(tmp_path):
    folder = interrupted_folder(tmp_path)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["agent"]["hash"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"agent.hash 000000000000 -> .*--fresh"):
        runs.execute(request(StopsItself), tmp_path)


def test_a_second_worker_leaves_a_live_run_alone(tmp_path):
    held = request()
    folder = RunFolder(held.folder(tmp_path))
    folder.open(held.manifest())
    try:
        code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import strangers
from pathlib import Path
from clbench import runs, store
from clbench.task_streams.toy import toy_stream
try:
    stream = toy_stream(name="toy", version=1, budget="smoke")
    runs.execute(runs.Request(runs.AgentSpec("ridge", strangers.Ridge, {{}}), stream, 0), Path({str(tmp_path)!r}))
except store.RunBusy as busy:
    sys.stdout.write(f"{{busy.exit_code}} {{busy}}")
"""
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    finally:
        folder.close()
    assert out.startswith("0 another process is at work on")


def test_the_manifest_names_no_host_and_no_path(tmp_path):
    import socket

    folder = runs.execute(request(), tmp_path).folder
    text = (folder / "run.json").read_text() + (folder / "attempts" / "0.json").read_text()
    assert socket.gethostname() not in text.replace("localhost", "")
    assert str(tmp_path) not in text


def test_numpy_bool_and_nested_states_survive_a_checkpoint(tmp_path):
    import torch

    from clbench import checkpoint

    state = {
        "a": np.arange(3),
        "b": [True, None, (1, "x")],
        "c": {"d": np.array([True, False])},
        "big": 2**100,
        "t": torch.ones(2),
        "raw": b"\x00\x01",
    }
    checkpoint.save(tmp_path / "last.pt", checkpoint.encode(state, "state"))
    loaded = checkpoint.decode(checkpoint.load(tmp_path / "last.pt"))
    assert loaded["a"].tolist() == [0, 1, 2] and loaded["c"]["d"].dtype == bool
    assert loaded["b"] == [True, None, (1, "x")] and loaded["big"] == 2**100 and loaded["raw"] == b"\x00\x01"
    assert torch.equal(loaded["t"], state["t"])
