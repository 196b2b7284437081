"""The view reads events and nothing else: it never writes, it survives torn lines and kills, its times follow from the records."""

import json
from types import SimpleNamespace

import pytest

from clbench import progress
from clbench.output import Output
from clbench.progress import Pace, RunProgress, Tail, View

SPEC = {
    "tasks": [{"name": "push", "scale": [0, 1]}, {"name": "pull", "scale": [0, 2]}],
    "phases": [{"columns": [0], "units": 100, "points": 2}, {"columns": [1], "units": 100, "points": 2}],
    "few_shot": {"tasks": ["x"], "shots": [0, 1, 4], "draws": 3, "after": [-1, 1]},
    "role": "stream",
}


def event(kind, t, seq=None, attempt=0, **payload):
    return json.dumps({"kind": kind, "t": t, "seq": seq, "attempt": attempt, **payload}) + "\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"stream": {"spec": SPEC}}))
    return tmp_path


def write(folder, *lines):
    with open(folder / "events.jsonl", "a") as log:
        log.write("".join(lines))


START = [
    event("run_start", 0.0, 0),
    event("eval", 1.0, 1, phase=-1, step=0, task=0, score=[0, 0]),
    event("eval", 1.0, 2, phase=-1, step=0, task=1, score=[2, 0]),
]


def test_one_line_for_each_evaluation_and_scores_are_scaled(folder):
    run = RunProgress(folder, "ewc s0")
    write(folder, *START)
    assert run.poll() == []  # the row may not be complete yet
    write(folder, event("task_start", 1.0, 3, phase=0))
    assert run.poll() == ["ewc s0  untrained  step 0/200  score 0.00 0.50  1 s"]
    write(folder, event("train", 3.0, phase=0, step=50), event("eval", 4.0, 4, phase=0, step=50, task=0, score=[1, 1]), event("x", 4.0))
    (line,) = run.poll()
    assert line.startswith("ewc s0  phase 1/2 push  step 50/200  score 1.00 0.50  4 s, about ")


def test_a_torn_line_waits_and_garbage_is_left_out(tmp_path):
    tail = Tail(tmp_path / "events.jsonl")
    assert tail.records() == []
    (tmp_path / "events.jsonl").write_text('{"kind": "a"}\ngarbage\n{"kind"')
    assert [r["kind"] for r in tail.records()] == ["a"]
    with open(tmp_path / "events.jsonl", "a") as log:
        log.write(': "b"}\n')
    assert [r["kind"] for r in tail.records()] == ["b"]
    assert tail.records() == []


def test_the_whole_of_a_run_is_counted_from_its_stream(folder):
    # cells: 2 untrained, each phase 1 in the middle and 2 at its end; adaptations: (1 + 3 + 3) copies of 1 task, twice
    assert RunProgress(folder, "").totals == {"learn": 200, "eval": 2 + 2 * (1 + 2), "adapt": 14}


def test_time_left_is_what_remains_of_each_kind_of_work_at_its_own_pace():
    pace = Pace()
    assert pace.left({"learn": 10, "eval": 1, "adapt": 1}) is None
    pace.add("train", 20.0, 50)  # 0.4 s a unit
    pace.add("eval", 3.0, 1)
    pace.add("eval", 0.0, 1)  # 1.5 s a cell
    # 150 units and 6 cells are left; adaptations have not been seen and count nothing
    assert pace.left({"learn": 200, "eval": 8, "adapt": 14}) == pytest.approx(150 * 0.4 + 6 * 1.5)


def test_a_continued_run_does_not_count_its_repeated_work_twice(folder):
    write(folder, *START, event("train", 11.0, phase=0, step=50), event("interrupted", 11.0))
    write(folder, event("attempt_start", 1.0, attempt=1), *[line.replace('"attempt": 0', '"attempt": 1') for line in START[1:]])
    run = RunProgress(folder, "")
    run.poll()
    assert run._pace.count["eval"] == 2
    assert run.state == "evaluating" and not run.ended


@pytest.mark.parametrize("kind, state", [("run_end", "done"), ("interrupted", "interrupted"), ("error", "failed")])
def test_ends_are_seen(folder, kind, state):
    run = RunProgress(folder, "")
    write(folder, *START, event(kind, 9.0, 9 if kind == "run_end" else None))
    run.poll()
    assert run.state == state and run.ended and run.left is None and run.elapsed == 9.0


def test_many_scores_become_their_mean(folder):
    run = RunProgress(folder, "")
    run.scores = {n: n / 10 for n in range(10)}
    assert run.score_text() == "mean 0.45 of 10 tasks"


def test_a_waiting_run_shows_without_any_file(tmp_path):
    run = RunProgress(tmp_path / "nowhere", "ewc s0")
    assert run.poll() == [] and run.share == 0.0 and run.left is None and run.where() == ""
    view = View(Output())
    view.watch(tmp_path / "nowhere", "ewc s0")
    assert view.table().row_count == 1


def test_the_view_writes_no_file_and_shows_plain_lines(folder, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    write(folder, *START, event("run_end", 2.0, 3))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with View(Output()) as view:
        view.watch(folder, "ewc s0")
    assert capsys.readouterr().out == "ewc s0  untrained  step 0/200  score 0.00 0.50  2 s\n".replace("2 s", "1 s")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_quiet_starts_no_view(folder, capsys):
    write(folder, *START, event("run_end", 2.0, 3))
    with View(Output(quiet=True)) as view:
        view.watch(folder, "ewc s0")
    assert capsys.readouterr().out == ""


def test_more_runs_than_rows_are_summed_up(tmp_path):
    view = View(Output())
    for number in range(progress.LIVE_ROWS + 5):
        view.watch(tmp_path / str(number), str(number))
    view.ended(tmp_path / "3", "failed")
    table = view.table()
    assert table.row_count == 2  # the failed one, and the count of the others


@pytest.mark.parametrize("environment, live", [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "CI": "1"}, False)])
def test_the_live_view_is_for_a_person_at_a_terminal(environment, live, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert Output().terminal is live
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False))
    assert Output().terminal is False
