"""Logs of Continual World become runs whose numbers are those of its own formulas; broken and mixed logs are refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clbench import cli, continual_world
from clbench.loading import find_runs

TASKS = ("hammer-v1", "push-wall-v1", "hammer-v1")  # a second visit is a position of its own
STEPS, ROWS = 1000, 10  # of a task


def header(tasks, kind):
    names = ["epoch"]
    for position, task in enumerate(tasks):
        prefix = f"test/stochastic/{position}/{task}/"
        names += [prefix + "success", prefix + "return/avg", prefix + "return/std", prefix + "ep_length"]
        names += [f"test/deterministic/{position}/{task}/success"]
    return [
        *names,
        "test/stochastic/average_success",
        "total_env_steps",
        *(["train/active_env"] if kind == "continual" else []),
        "walltime",
    ]


def write(folder, config, names, rows):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, separators=(",", ":\t")))
    (folder / "progress.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in [names, *rows]))


def row(draws, epoch, tasks, step, active=None):
    cells = [epoch]
    for _ in tasks:
        cells += [draws.integers(0, 11) / 10, draws.normal(), abs(draws.normal()), 200.0, float(draws.integers(0, 2))]
    return [*cells, 0.5, step, *([] if active is None else [float(active)]), 1.5 * epoch]


def continual(folder, draws, method, seed, tasks=TASKS, **config):
    rows = [
        row(draws, 1 + phase * ROWS + n, tasks, phase * STEPS + (n + 1) * STEPS // ROWS, phase)
        for phase in range(len(tasks))
        for n in range(ROWS)
    ]
    said = {"cl_method": method, "steps_per_task": STEPS, "tasks": None, "task_list": list(tasks), "seed": seed, "lr": 0.001, **config}
    write(folder, said, header(tasks, "continual"), rows)


def multi_task(folder, draws, popart, seed, steps=1_000_000):
    rows = [row(draws, n + 1, TASKS[:2], (n + 1) * steps) for n in range(20)]
    write(folder, {"use_popart": popart, "steps_per_task": 10 * steps, "seed": seed}, header(TASKS[:2], "multi-task"), rows)


def reference(folder, draws, task, seed):
    rows = [row(draws, n + 1, (task,), (n + 1) * 100) for n in range(10)]
    write(folder, {"task": task, "steps": 1000, "seed": seed}, header((task,), "reference"), rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four runs each of three methods, both multi-task ones, and references: four of one task, three of the other."""
    draws = np.random.default_rng(7)
    root = tmp_path_factory.mktemp("made")
    for seed in range(4):
        continual(root / "cl" / "deep" / f"a{seed}", draws, None, seed)
        continual(root / "cl" / f"run{seed}-ewc", draws, "ewc", seed)
        continual(root / "cl" / f"b{10 - seed}", draws, None, seed, buffer_type="reservoir")
        reference(root / "single" / f"h{seed}", draws, "hammer-v1", seed)
    for seed in range(3):
        multi_task(root / "mt" / f"plain{seed}", draws, False, seed)
        multi_task(root / "mt" / f"popart{seed}", draws, True, seed)
        reference(root / "single" / f"p{seed}", draws, "push-wall-v1", seed)
    return root


@pytest.fixture
def logs(made, tmp_path):
    """All of them, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "logs"))


@pytest.fixture
def few(made, tmp_path):
    """Three of them, to be changed."""
    for name in ("deep/a0", "run0-ewc", "run1-ewc"):
        shutil.copytree(made / "cl" / name, tmp_path / "logs" / "cl" / name)
    return tmp_path / "logs"


def run(*words, capsys):
    code = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


# The formulas of `continualworld/results_processing/tables.py`, stated again on the files themselves.


def read(root, which):
    """Run id -> (tasks, table), for the runs that `which` chooses by their configuration."""
    found = {}
    for file in sorted(root.rglob("progress.tsv"), key=lambda path: path.parent.name):
        if which(json.loads((file.parent / "config.json").read_text())):
            table = pd.read_csv(file, sep="\t")
            columns = [c for c in table.columns if c.startswith("test/stochastic/") and c.endswith("/success")]
            found[file.parent.name] = [c.split("/")[3] for c in columns], table, columns
    return dict(sorted(found.items()))


def interval(x, y, statistic):
    random = np.random.RandomState(0)
    ii, jj = random.choice(len(x), (4000, len(x))), random.choice(len(y), (4000, len(y)))
    samples = statistic(x[ii], y[jj])
    return statistic(x[None], y[None])[0], np.quantile(samples, 0.05, method="midpoint"), np.quantile(samples, 0.95, method="midpoint")


def per_run(runs, value):
    return interval(np.array([value(*run) for run in runs.values()]), np.zeros(1), lambda a, _: a.mean(1))


def performance(_tasks, table, columns):
    return np.mean([table[c].tail(5).mean() for c in columns])


def forgetting(_tasks, table, columns):
    own = [table[table["train/active_env"] == n][c].tail(5).mean() for n, c in enumerate(columns)]
    return np.mean(np.array(own) - [table[c].tail(5).mean() for c in columns])


def transfer(runs, alone):
    x = np.array([[t[t["train/active_env"] == n][c].mean() for n, c in enumerate(columns)] for _, t, columns in runs.values()])
    by_task = {}
    for tasks, table, columns in alone.values():
        by_task.setdefault(tasks[0], []).append(table[columns[0]].mean())
    fewest = min(map(len, by_task.values()))
    y = np.array([by_task[task][:fewest] for task in next(iter(runs.values()))[0]]).T
    return interval(x, y, lambda a, b: np.mean((a.mean(1) - b.mean(1)) / (1 - b.mean(1)), axis=-1))


@pytest.mark.filterwarnings("ignore:cw.forward_transfer")
def test_imported_runs_have_the_numbers_of_the_original_to_twelve_digits(logs, tmp_path, capsys):
    assert run("import", "continual-world", logs, "--out", tmp_path / "runs", capsys=capsys)[0] == 0
    code, out, _ = run("metrics", tmp_path / "runs", "--family", "cw", "--json", capsys=capsys)
    assert code == 0
    found = json.loads(out)
    alone = read(logs, lambda c: "task" in c)
    methods = {
        "ewc": lambda c: c.get("cl_method") == "ewc",
        "finetuning": lambda c: c.get("cl_method", 0) is None and "buffer_type" not in c,
        "reservoir": lambda c: c.get("buffer_type") == "reservoir",
    }
    expected = {}
    for name, which in methods.items():
        runs = read(logs, which)
        assert len(runs) == 4
        values = per_run(runs, performance), per_run(runs, forgetting), transfer(runs, alone)
        expected[name] = dict(zip(("cw.performance", "cw.forgetting", "cw.forward_transfer"), values, strict=True))
    for name, popart in (("mtl", False), ("mtl_popart", True)):
        runs = read(logs, lambda c, popart=popart: c.get("use_popart", 0) is popart)
        cut = {key: (tasks, table[table["total_env_steps"] <= 10_000_000], columns) for key, (tasks, table, columns) in runs.items()}
        for row_name, kept in ((name, runs), (f"{name}@10M", cut)):
            expected[row_name] = {"cw.performance": per_run(kept, performance), "cw.forgetting": None, "cw.forward_transfer": None}
    assert list(found) == ["ewc", "finetuning", "reservoir", "mtl", "mtl_popart", "mtl@10M", "mtl_popart@10M"]
    for name, values in expected.items():
        assert found[name].keys() == values.keys()
        for metric, triple in values.items():
            if triple is None:
                assert found[name][metric] is None
            else:
                assert [found[name][metric][key] for key in ("value", "lo", "hi")] == pytest.approx(triple, rel=0, abs=1e-12), (
                    name,
                    metric,
                )
    assert len({json.dumps(values) for values in found.values()}) == len(found)


def test_what_was_imported_is_a_run_like_any_other(logs, tmp_path, capsys):
    target = tmp_path / "runs"
    run("import", "continual-world", logs, "--out", target, capsys=capsys)
    runs = find_runs(target)
    assert len(runs) == 25 and all(loaded.finished and loaded.episodes == (10,) for loaded in runs)
    first = next(loaded for loaded in runs if loaded.manifest["imported"]["run_id"] == "a2")
    assert (first.agent, first.seed, first.tasks, first.spec["role"]) == ("finetuning", 2, TASKS, "stream")
    assert first.manifest["agent"]["config"] == {"lr": 0.001}
    table = pd.read_csv(logs / "cl" / "deep" / "a2" / "progress.tsv", sep="\t")
    columns = [f"test/stochastic/{n}/{task}/success" for n, task in enumerate(TASKS)]
    assert (first.matrix.score == table[columns].to_numpy()).all() and (first.matrix.step == table["total_env_steps"]).all()
    assert (first.matrix.phase == table["train/active_env"]).all()
    folder = next(path.parent for path in target.rglob("run.json") if json.loads(path.read_text())["run_key"] == first.run_key)
    evals = pd.read_csv(folder / "evals.csv")
    assert len(evals) == 3 * 3 * ROWS and set(evals["episodes"]) == {10}
    assert evals["return_std"].iloc[1] == table["test/stochastic/1/push-wall-v1/return/std"].iloc[0]
    apart = pd.read_csv(folder / "deterministic.csv")
    assert (apart[apart["task"] == 1]["score"].to_numpy() == table["test/deterministic/1/push-wall-v1/success"].to_numpy()).all()
    finals = json.loads((folder / "summary.json").read_text())["final_per_task"]
    assert finals.keys() == {"hammer-v1", "push-wall-v1", "hammer-v1 (2)"}  # a second visit has a line of its own
    assert finals["hammer-v1 (2)"] == pytest.approx(table[columns[2]].tail(5).mean())


def test_importing_again_writes_nothing_and_goes_on_where_it_was_killed(logs, tmp_path, capsys):
    target = tmp_path / "runs"
    run("import", "continual-world", logs, "--out", target, capsys=capsys)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.rglob("*") if path.is_file()}
    done = sorted(target.rglob("DONE"))
    code, out, _ = run("import", "continual-world", logs, "--out", target, capsys=capsys)
    assert code == 0 and "0 written" in out and "25 were there before" in out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.rglob("*") if path.is_file()} == before
    for path in done[:3]:  # killed at three moments: behind the events, within them, and before they began
        path.unlink()
    (done[1].parent / "events.jsonl").write_text("{")
    (done[2].parent / "events.jsonl").unlink()
    code, out, _ = run("import", "continual-world", logs, "--out", target, capsys=capsys)
    assert code == 0 and "3 written" in out
    after = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert after == {path: content for path, (content, _) in before.items()}


def test_the_published_orders_have_names(tmp_path):
    draws = np.random.default_rng(0)
    continual(tmp_path / "one" / "a", draws, "l2", 0, tasks=continual_world.CW10 * 2)
    continual(tmp_path / "two" / "a", draws, "l2", 0, tasks=continual_world.CW10)
    continual(tmp_path / "three" / "a", draws, "l2", 0, tasks=continual_world.CW10[::-1])
    names = [continual_world.family(continual_world.find_logs(tmp_path / part)) for part in ("one", "two", "three")]
    assert names[:2] == ["cw20-metaworld-v1", "cw10-metaworld-v1"] and names[2] not in names[:2]


def lines_of(folder):
    return (folder / "progress.tsv").read_text().splitlines()


def rewrite(folder, lines, end="\n"):
    (folder / "progress.tsv").write_text("\n".join(lines) + end)


def changed(name, text, number=4):
    """Put `text` into column `name` of a line."""

    def change(folder):
        lines = lines_of(folder)
        names = lines[0].split("\t")
        index = next(n for n, other in enumerate(names) if other.endswith(name))
        cells = lines[number - 1].split("\t")
        cells[index] = text
        lines[number - 1] = "\t".join(cells)
        rewrite(folder, lines)

    return change


def configured(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        for key, value in values.items():
            config.pop(key) if value is ... else config.update({key: value})
        (folder / "config.json").write_text(json.dumps(config))

    return change


def renamed(old, new):
    def change(folder):
        lines = lines_of(folder)
        rewrite(folder, [lines[0].replace(old, new), *lines[1:]])

    return change


def doubled(folder):
    lines = lines_of(folder)
    rewrite(folder, [*lines, lines[-1]])


def shortened(folder):
    rewrite(folder, lines_of(folder)[: 1 + 2 * ROWS])


def cut_in_the_middle(folder):
    lines = lines_of(folder)
    lines[5] = lines[5][: len(lines[5]) // 2]
    rewrite(folder, lines)


BROKEN = {  # what was done to the run `run1-ewc`, and what the line says
    "no configuration": (lambda folder: (folder / "config.json").unlink(), ["no file", "config.json"]),
    "configuration is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "expected one JSON object"]),
    "configuration is a list": (lambda folder: (folder / "config.json").write_text("[1]"), ["config.json", "got list"]),
    "configuration with NaN": (lambda folder: (folder / "config.json").write_text('{"cl_method": NaN}'), ["config.json", "NaN is no JSON"]),
    "no method": (configured(cl_method=...), ["config.json", "no 'cl_method'"]),
    "a method that is no name": (configured(cl_method="../x"), ["cl_method", "'../x'"]),
    "a method that is a number": (configured(cl_method=3), ["cl_method", "got 3"]),
    "no budget": (configured(steps_per_task=...), ["no 'steps_per_task'"]),
    "a budget of words": (configured(steps_per_task="1M"), ["steps_per_task", "'1M'"]),
    "another budget": (configured(steps_per_task=2000), ["differ in steps_per_task", "1000", "2000"]),
    "no kind": (renamed("train/active_env", "train/other"), ["expected a continual run", "use_popart", "reference"]),
    "no steps": (renamed("total_env_steps", "steps"), ["no column 'total_env_steps'"]),
    "no scores": (renamed("/success", "/failure"), ["no column 'test/stochastic/<position>/<task>/success'"]),
    "a position is missing": (renamed("test/stochastic/1/", "test/stochastic/5/"), ["test/stochastic/1/<task>/success", "position 5"]),
    "a position twice": (renamed("test/stochastic/2/hammer-v1", "test/stochastic/1/hammer-v1"), ["position 1 has two tasks"]),
    "a column twice": (renamed("epoch", "walltime"), ["column 'walltime' occurs more than once"]),
    "words for a score": (changed("/0/hammer-v1/success", "good"), ["progress.tsv:4", "/success", "'good'"]),
    "a score beyond one": (changed("/0/hammer-v1/success", "1.5"), ["progress.tsv:4", "share in [0, 1]", "'1.5'"]),
    "an infinite score": (changed("/0/hammer-v1/success", "inf"), ["progress.tsv:4", "share in [0, 1]", "'inf'"]),
    "steps are nan": (changed("total_env_steps", "nan"), ["progress.tsv:4", "total_env_steps", "whole number"]),
    "half a step": (changed("total_env_steps", "10.5"), ["progress.tsv:4", "'10.5'"]),
    "endless steps": (changed("total_env_steps", "inf"), ["progress.tsv:4", "'inf'"]),
    "a position that is not there": (changed("active_env", "7"), ["progress.tsv:4", "expected a position 0..2, got 7"]),
    "no position": (changed("active_env", ""), ["progress.tsv:4", "train/active_env"]),
    "positions fall": (changed("active_env", "0", number=15), ["train/active_env falls from 1 to 0"]),
    "a line twice": (doubled, ["two lines have total_env_steps = 3000"]),
    "a torn line in the middle": (cut_in_the_middle, ["progress.tsv:6", "expected 20 cells"]),
    "an empty file": (lambda folder: (folder / "progress.tsv").write_text(""), ["progress.tsv"]),
    "a header alone": (lambda folder: rewrite(folder, lines_of(folder)[:1]), ["at least one line"]),
    "not text": (lambda folder: (folder / "progress.tsv").write_bytes(b"\xff\xfe\x00"), ["progress.tsv", "tab-separated text"]),
    "stopped before its last task": (shortened, ["position 2", "is trained", "2000 of 3000"]),
    "another order of tasks": (renamed("/0/hammer-v1/", "/0/push-v1/"), ["'run1-ewc'", "position 0"]),
    "a name twice": (
        lambda folder: shutil.copytree(folder, folder.parent.parent / "other" / folder.name),
        ["two continual runs", "run1-ewc"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_logs_that_are_broken_or_do_not_belong_together_are_refused_in_one_line(case, few, tmp_path, capsys):
    change, fragments = BROKEN[case]
    change(few / "cl" / "run1-ewc")
    code, _, line = run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)
    assert code == 2 and line.count("\n") == 1 and line.startswith("clbench: ")
    for fragment in fragments:
        assert fragment.strip("'") in line, line
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_a_torn_last_line_is_left_out_and_said(keep, few, tmp_path, capsys):
    folder = few / "cl" / "run1-ewc"
    lines = lines_of(folder)
    rewrite(folder, [*lines[:-1], lines[-1][: int(keep * len(lines[-1]))]], end="")
    code, out, err = run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)
    assert code == 0 and "3 written" in out
    assert f"progress.tsv:{len(lines)}: the last line is torn and was left out" in err
    loaded = next(r for r in find_runs(tmp_path / "runs") if r.manifest["imported"]["run_id"] == "run1-ewc")
    assert len(loaded.matrix.step) == 3 * ROWS - 1 and loaded.finished


def test_a_last_line_without_its_end_counts_where_no_score_can_be_torn(few, tmp_path, capsys):
    folder = few / "cl" / "run1-ewc"
    rewrite(folder, lines_of(folder), end="")  # the last cell is the time
    code, _, err = run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)
    assert code == 0 and "torn" not in err
    loaded = next(r for r in find_runs(tmp_path / "runs") if r.manifest["imported"]["run_id"] == "run1-ewc")
    assert len(loaded.matrix.step) == 3 * ROWS


@pytest.mark.parametrize("text", ["", "nan"])
def test_a_cell_without_a_score_is_missing_and_never_zero(text, few, tmp_path, capsys):
    changed("/1/push-wall-v1/success", text)(few / "cl" / "run1-ewc")
    assert run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)[0] == 0
    loaded = next(r for r in find_runs(tmp_path / "runs") if r.manifest["imported"]["run_id"] == "run1-ewc")
    assert np.argwhere(np.isnan(loaded.matrix.score)).tolist() == [[2, 1]]


def test_lines_come_in_the_order_of_their_steps(few, tmp_path, capsys):
    folder = few / "cl" / "run1-ewc"
    lines = lines_of(folder)
    rewrite(folder, [lines[0], *reversed(lines[1:])])
    assert run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)[0] == 0
    loaded = next(r for r in find_runs(tmp_path / "runs") if r.manifest["imported"]["run_id"] == "run1-ewc")
    assert (np.diff(loaded.matrix.step) > 0).all()


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["import", "continual-world", "nowhere", "--out", "runs"], ["no folder 'nowhere'"]),
        (["import", "continual-world", "empty", "--out", "runs"], ["no progress.tsv", "empty"]),
        (["import", "continual-wrold", "empty", "--out", "runs"], ["Did you mean continual-world"]),
        (["import", "continual-world", "empty"], ["--out"]),
        (["import", "continual-world", "logs", "--out", "file"], ["--out file", "expected a folder"]),
    ],
)
def test_a_mistyped_import_is_one_line(words, fragments, few, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("")
    code, _, line = run(*words, capsys=capsys)
    assert code == 2 and line.count("\n") == 1
    for fragment in fragments:
        assert fragment in line


def test_imported_runs_cannot_be_submitted(few, tmp_path, capsys):
    run("import", "continual-world", few, "--out", tmp_path / "runs", capsys=capsys)
    folders = [path.parent for path in (tmp_path / "runs").rglob("ewc/*/run.json")]
    words = ["--out", tmp_path / "packs", "--team", "me", "--date", "2026-11-28", "--tuning", "none"]
    code, _, line = run("submit", *folders, *words, capsys=capsys)
    assert code == 2 and "was imported" in line and not (tmp_path / "packs").exists()
