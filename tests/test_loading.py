"""Stored runs are read as they are, in both shapes, and nothing heavy is loaded for it."""

import gzip
import json
import shutil
import subprocess
import sys

import pytest

import clbench
from clbench import cli, submissions
from clbench.errors import UserError, ValidationError
from clbench.loading import find_runs, load_runs

from .synthetic import stream, write_run

TWO = stream(("a", "b"), points=2, shots=False)


def half(phase, step, column):
    return 0.5


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "runs", TWO, "ewc", 3, half)


def test_the_frame_has_the_columns_of_evals_csv_and_one_row_per_evaluated_cell(folder, tmp_path):
    frame = load_runs(tmp_path)
    header = (folder / "evals.csv").read_text().splitlines()[0].split(",")
    assert list(frame.columns) == [*header, "budget", "origin"]
    # untrained 2 tasks; phase 0: one task in the middle, both at the end; phase 1 alike: 2 + 3 + 3
    assert len(frame) == 8
    assert frame[["run_key", "stream", "agent", "seed", "budget"]].iloc[0].tolist() == [folder.name[5:], "steps@1", "ewc", 3, "smoke"]
    assert frame["score"].tolist() == [0.5] * 8
    assert frame["return_mean"].isna().all()  # no returns were recorded: missing, not 0
    assert frame["origin"].unique().tolist() == [f"runs/steps@1/smoke/ewc/{folder.name}"]


def test_load_runs_is_public(folder, tmp_path):
    assert clbench.load_runs is load_runs


def test_two_runs_with_one_folder_name_are_two_runs(folder, tmp_path):
    other = write_run(tmp_path / "elsewhere", TWO, "ewc", 3, lambda phase, step, column: 0.2)
    assert other.name == folder.name
    runs = find_runs(tmp_path)
    assert [run.matrix.score[0, 0] for run in runs] == [0.2, 0.5]  # sorted by where they lie
    assert len({run.origin for run in runs}) == 2
    assert len(load_runs(tmp_path)) == 16


def test_a_packed_run_reads_like_the_folder_it_was_packed_from(folder, tmp_path):
    packed = submissions.pack([folder], tmp_path / "submissions", team="lab", date="2026-11-01", tuning="none", notes="")
    (one,) = find_runs(tmp_path / "runs")
    (other,) = find_runs(packed)
    assert one.manifest == other.manifest
    assert one.numbered == other.numbered
    assert one.attempts == other.attempts
    assert one.matrix == other.matrix
    assert (other.hardware, other.package("mujoco"), other.package("jax")) == ("Example CPU 2000", "3.3.0", "")


@pytest.mark.parametrize(("device", "named"), [(None, True), ("auto", True), ("cuda:0", True), ("cpu", False)])
def test_a_device_that_was_there_and_not_asked_for_is_not_the_hardware_of_a_run(tmp_path, device, named):
    there = {"cpu_model": "Example CPU 2000", "gpus": [{"name": "Example GPU"}], "packages": []} | ({"device": device} if device else {})
    (run,) = find_runs(write_run(tmp_path, TWO, "ewc", 0, lambda phase, step, column: 0.5, provenance=there))
    assert run.hardware == ("Example GPU, Example CPU 2000" if named else "Example CPU 2000")


def test_a_run_that_is_given_itself_is_found(folder):
    (run,) = find_runs(folder)
    assert (run.agent, run.seed, run.stream, run.role) == ("ewc", 3, "steps@1", "stream")
    assert run.origin == f"steps@1/smoke/ewc/{folder.name}"


def test_an_unfinished_run_is_found_and_says_so(tmp_path):
    unfinished = write_run(tmp_path, TWO, "ewc", 0, half, done=False)
    assert [run.finished for run in find_runs(tmp_path)] == [False]
    (unfinished / "events.jsonl").unlink()  # begun, nothing written yet
    (run,) = find_runs(tmp_path)
    assert not run.finished and run.events == ()


def test_links_are_not_followed(folder, tmp_path):
    (tmp_path / "runs" / "linked").symlink_to(folder, target_is_directory=True)
    assert len(find_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize("name", ["nothing-here", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="expected a folder of runs"):
        find_runs(tmp_path / name)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"no runs below .*events\.jsonl"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("seed"), "seed: expected int, found None"),
        (lambda m: m.update(seed=True), "seed: expected int, found True"),
        (lambda m: m["agent"].update(name="../x"), "agent.name: expected a name matching"),
        (lambda m: m["stream"].update(name="<script>"), "stream.name: expected a name matching"),
        (lambda m: m.update(run_key="../../../up"), "run_key: expected 12 hexadecimal digits"),
        (lambda m: m["stream"]["spec"].pop("tasks"), "stream.spec.tasks: expected list, found None"),
        (lambda m: m["stream"]["spec"]["tasks"].append({}), r"stream.spec.tasks\[2\].name: expected str"),
        (lambda m: m.update(stream=[]), "stream.name: expected str, found None"),
        (lambda m: m["stream"]["spec"]["tasks"][1].update(scale=[1, 0]), r"stream.spec.tasks\[1\].scale: expected a floor and a ceiling"),
        (
            lambda m: m["stream"]["spec"]["phases"][0].update(columns=[7]),
            r"stream.spec.phases\[0\].columns: expected numbers of tasks below",
        ),
        (lambda m: m["stream"]["spec"]["phases"][0].pop("units"), r"stream.spec.phases\[0\].units: expected a whole number, found None"),
        (lambda m: m["stream"]["spec"].update(few_shot={"shots": "1"}), r"stream.spec.few_shot.shots: expected a list of whole numbers"),
    ],
)
def test_a_manifest_that_lies_about_itself_is_refused_by_field(folder, tmp_path, change, message):
    manifest = json.loads((folder / "run.json").read_text())
    change(manifest)
    (folder / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(ValidationError, match=message):
        find_runs(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("score"), "score: expected a list of numbers, found None"),
        (lambda e: e.update(score=["1"]), "score: expected a list of numbers, found \\['1'\\]"),
        (lambda e: e.update(task=9), "task: expected a number below 2, found 9"),
        (lambda e: e.update(task=-1), "task: expected a whole number, found -1"),
        (lambda e: e.update(phase="0"), "phase: expected a whole number, found '0'"),
        (lambda e: e.update(attempt="b"), "attempt: expected a whole number, found 'b'"),
        (lambda e: e.update(length={}), "length: expected a list of numbers or nothing, found {}"),
    ],
)
def test_a_record_without_what_is_read_of_it_is_refused_by_field(folder, tmp_path, capsys, change, message):
    log = folder / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    number = next(n for n, record in enumerate(lines) if record["kind"] == "eval")
    change(lines[number])
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValidationError, match=f"events.jsonl: record {number + 1} \\(eval\\): {message}"):
        find_runs(tmp_path)
    assert cli.main(["metrics", str(tmp_path)]) == 3
    assert f"record {number + 1} (eval)" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_a_number_that_is_none_is_no_record(folder, tmp_path, number):
    log = folder / "events.jsonl"
    log.write_text(log.read_text().replace('"score":[', f'"score":[{number},', 1))
    with pytest.raises(ValidationError, match=r"events.jsonl:\d+: expected one JSON record"):
        find_runs(tmp_path)


def test_an_archive_of_events_that_is_damaged_is_named(folder, tmp_path):
    packed = bytearray(gzip.compress((folder / "events.jsonl").read_bytes()))
    packed[30] ^= 255
    (folder / "events.jsonl.gz").write_bytes(packed)
    with pytest.raises(ValidationError, match=r"events\.jsonl\.gz: expected a gzip file of events"):
        find_runs(tmp_path)


def test_packed_runs_are_measured_and_left_as_they_are(folder, tmp_path, capsys):
    shutil.copytree(
        folder, tmp_path / "packed" / folder.name, ignore=shutil.ignore_patterns("events.jsonl", "*.csv", "summary.json", "DONE")
    )
    (tmp_path / "packed" / folder.name / "events.jsonl.gz").write_bytes(gzip.compress((folder / "events.jsonl").read_bytes()))
    before = sorted((tmp_path / "packed").rglob("*"))
    assert cli.main(["metrics", str(tmp_path / "packed"), "--json"]) == 0
    (packed,) = json.loads(capsys.readouterr().out)
    assert cli.main(["metrics", str(folder), "--json"]) == 0
    (other,) = json.loads(capsys.readouterr().out)
    assert cli.main(["list", "runs", str(tmp_path / "packed"), "--json"]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)] == ["packed"]
    assert packed | {"folder": ""} == other | {"folder": ""} and sorted((tmp_path / "packed").rglob("*")) == before


def test_nothing_heavy_is_imported_for_reports_and_checks():
    modules = "clbench.loading, clbench.submissions, clbench.report.site, clbench.report.leaderboard, clbench.report.figures"
    code = (
        f"import sys, {modules}\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in ('torch', 'mujoco', 'metaworld') "
        "or m.startswith(('clbench.agents', 'clbench.task_streams'))}\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_whole_report_imports_neither_torch_nor_mujoco(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy" / "runs" / folder.name)
    code = (
        "import sys; from pathlib import Path; from clbench.report import leaderboard, tables; from clbench.loading import find_runs\n"
        f"tables.comparison_tables(find_runs({str(tmp_path / 'copy')!r}))\n"
        f"leaderboard.generate(Path({str(tmp_path / 'none')!r}), Path({str(tmp_path / 'board.md')!r}))\n"
        "assert not {'torch', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
