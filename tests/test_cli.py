"""The command line as a newcomer meets it: quick, light, plain where nobody looks on, and with an exit code for each outcome."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clbench import cli
from clbench.commands.describe import shortened
from clbench.output import Output, duration, said
from clbench.pool import Job, Pool

TINY = ["stream=toy", "stream.units=64", "stream.points=1", "stream.tasks=2", "stream.held_out=0"]
HEAVY = ("torch", "mujoco", "hydra", "omegaconf", "pandas", "scipy", "metaworld", "rich", "matplotlib")

SLEEPER = """
import time
import numpy as np
class Sleeper:
    def __init__(self, task, seed, *, pause: float = 0.05): self.pause, self.seen = pause, 0
    def begin_task(self, task): pass
    def learn(self, experience):
        while experience.remaining:
            experience.steps(min(8, experience.remaining)); time.sleep(self.pause); self.seen += 1
    def end_task(self, task): pass
    def policy(self, task):
        class Policy:
            def initial_state(self, batch): return None
            def act(self, o, s): return np.zeros((len(o), task.output_size)), s
        return Policy()
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen = state["seen"]
"""


def call(*words):
    return cli.main([str(word) for word in words])


def shell(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "clbench", *map(str, words)], capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )


@pytest.mark.parametrize("words", [["list"], ["list", "agents"], ["--help"], ["run", "--help"], ["list", "runs"]])
def test_listing_and_help_import_nothing_heavy(words):
    code = f"import sys; from clbench import cli; cli.main({words!r}); print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "kind", ["agents", "streams", "configs", "experiments", "methods", "backbones", "learners", "metrics", "benchmarks"]
)
def test_every_listing_is_json_with_names_and_descriptions(kind, capsys):
    assert call("list", kind, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(row["name"] and row["provider"] for row in rows)
    assert [row["name"] for row in rows if not row["description"]] == []


def test_runs_are_listed_with_their_state(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("list", "runs") == 0
    assert "no runs" in capsys.readouterr().out
    assert call("run", *TINY, "agent=random", "--quiet") == 0
    folder = capsys.readouterr().out.strip()
    assert call("list", "runs", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"name": "random", "stream": "toy@1", "budget": "smoke", "seed": 0, "state": "done", "folder": folder}


@pytest.mark.parametrize("name", ["ewc", "toy", "rmt", "performance", "cw.performance", "quickstart", "behaviour-cloning", "random"])
def test_everything_listed_can_be_described(name, capsys):
    assert call("describe", name) == 0
    text = capsys.readouterr().out
    assert name in text.split("\n")[0]
    assert call("describe", name, "--json") == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["taxi-text", "needles"])
def test_of_long_examples_what_is_scored_is_shown(name, capsys):
    assert call("describe", name, "stream.fillers=[200]" if name == "needles" else "stream.steps=60", "--json") == 0
    examples = json.loads(capsys.readouterr().out)["examples"]
    assert all(len(text) < 450 and "[" in text for text in examples) and any(" .. " in text for text in examples)


def test_examples_are_shortened_between_words_where_there_are_some():
    numbers = " ".join(map(str, range(1000, 1400)))
    for text in (f"{numbers} [yes] {numbers}", f"{numbers} [yes]"):
        head, around = shortened(text).split(" .. ")
        assert numbers.startswith(head) and "[yes]" in around
        assert all(len(word) == 4 for word in [*head.split(), *around.replace("[yes]", "").replace(" ..", "").split()])
    assert shortened("x" * 2000) == "x" * 400 + " .."
    assert shortened("x" * 1000 + "[yes]" + "x" * 1000) == "x" * 200 + " .. " + "x" * 100 + "[yes]" + "x" * 95 + " .."
    assert shortened("[yes] " + "x" * 500) == "[yes] .." and shortened("short [yes]") == "short [yes]"


@pytest.mark.parametrize(
    ("name", "of"), [("world-qa", ["where-person: op:where-is", "list-held: "]), ("know", ["news-2: op:ask the", "news-0: op:memorize ["])]
)
def test_a_text_stream_is_described_by_ten_examples(name, of, capsys):
    assert call("describe", name, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert len(described["examples"]) == 10 and all(
        "[" in example and example.count("[") == example.count("]") for example in described["examples"]
    )
    assert all(any(example.startswith(begin) for example in described["examples"]) for begin in of)
    assert [row["task"] for row in described["scores"]] == described["tasks"]
    assert all(20 < row["tokens"] < 100 and int(row["drawn a second"].replace(",", "")) > 0 for row in described["scores"])


def test_a_variant_is_described_as_it_would_be_run(capsys):
    assert call("describe", "world-qa", "stream.rendering=text", "stream.people=5", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["with"] == ["stream.rendering=text", "stream.people=5"] and "went to the" in " ".join(described["examples"])
    assert [row["budget"] for row in described["budgets"]] == ["smoke"]
    assert ["stream.people", 5] in [option[:2] for option in described["options"]]
    assert call("describe", "world-qa", "budget=standard", "--json") == 0
    assert [row["budget"] for row in json.loads(capsys.readouterr().out)["budgets"]] == ["standard"]
    assert call("describe", "ewc", "agent.methods.ewc.strength=5") == 0
    text = capsys.readouterr().out
    assert re.search(r"^  with +agent\.methods\.ewc\.strength=5$", text, re.M) and re.search(r"^option +value", text, re.M)
    assert re.search(r"^agent\.methods\.ewc\.strength +5\b", text, re.M)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["world-qa", "rendering=text"], "expected stream.OPTION=VALUE, agent.OPTION=VALUE or budget=NAME, got 'rendering=text'"),
        (["world-qa", "stream.rendering=verse"], "Unknown rendering 'verse'. Known: pronouns, symbolic, text. See: stream.rendering"),
        (
            ["world-qa", "stream.people=5", "agent.name=x"],
            "expected options of a stream or of an agent, got both: stream.people=5 agent.name=x",
        ),
        (["performance", "stream.people=5"], "Unknown stream 'performance'"),
        (["world-qa", "agent.name=x"], "Unknown agent 'world-qa'"),
        (["world-qa", "budget=huge"], "stream 'world-qa' has no budget 'huge'"),
    ],
)
def test_options_of_what_has_none_are_refused(words, said, capsys):
    assert call("describe", *words) == 2
    assert said in capsys.readouterr().err


def test_a_run_is_described_and_measured_from_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("run", *TINY, "agent=random", "--quiet") == 0
    folder = Path(capsys.readouterr().out.strip())
    before = {name: (folder / name).read_bytes() for name in ("evals.csv", "summary.json")}
    assert call("describe", folder) == 0
    assert "toy@1, budget smoke" in capsys.readouterr().out
    assert call("describe", folder, "stream.repeats=2") == 2
    assert "is a run, which has the options it was made with; leave out stream.repeats=2" in capsys.readouterr().err
    for name in before:
        (folder / name).unlink()
    assert call("metrics", tmp_path) == 0
    assert "performance" in capsys.readouterr().out
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert call("metrics", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["agent"] == "random"


def test_metrics_without_runs_are_definitions(capsys):
    assert call("metrics") == 0
    text = capsys.readouterr().out
    assert "forgetting" in text and "Score lost since the end of each task's own phase" in text


def test_a_run_says_what_it_measured_and_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("run", *TINY, "agent=random") == 0
    text = capsys.readouterr().out
    assert "random toy s0  phase 1/2 toy-0  step 64/128" in text
    assert "Performance" in text and "higher is better" in text
    assert "results/runs/toy@1/smoke/random/s000-" in text and "summary.json" in text
    folder = next(Path("results").rglob("config.yaml")).parent
    assert {f.name for f in folder.iterdir()} >= {"run.json", "config.yaml", "events.jsonl", "evals.csv", "summary.json", "DONE"}
    attempt = json.loads((folder / "attempts" / "0.json").read_text())
    assert "/" not in json.dumps(attempt["argv"][:1])
    assert attempt["device"] == "auto"


def test_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("run", *TINY, "agent=random,ewc", "seed=range(0,2)", "--dry-run") == 0
    text = capsys.readouterr().out
    assert text.count(" new ") == 4
    assert not list(tmp_path.iterdir())


def test_words_and_flags_may_be_mixed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("run", "stream=toy", "--dry-run", "agent=random", "--json", "seed=2") == 0
    assert json.loads(capsys.readouterr().out)[0]["seed"] == 2


def test_check_prints_clauses_and_its_exit_code_is_3_on_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sleeper.py").write_text(SLEEPER.replace("0.05", "0.0"))
    assert call("check", "./sleeper.py:Sleeper") == 0, capsys.readouterr()
    text = capsys.readouterr().out
    assert "ok    demonstrations" in text and "keeps the contract" in text and "does not take it" in text
    Path("lazy.py").write_text(SLEEPER.replace("0.05", "0.0").replace("while experience.remaining:", "while experience.remaining > 3:"))
    assert call("check", "./lazy.py:Sleeper") == 3
    said_there = capsys.readouterr()
    assert "FAIL  demonstrations" in said_there.out and "clauses do not hold" in said_there.err


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys):
    assert call("run", "stream=toi", "agent=random", "--debug") == 2
    text = capsys.readouterr().err
    assert "Traceback" in text and text.strip().endswith("See: clbench list streams")


def test_our_own_bug_is_one_line_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr("clbench.catalogue.files", lambda group: 1 / 0)
    assert call("list", "agents") == 1
    text = capsys.readouterr().err
    assert text.startswith("clbench: ZeroDivisionError") and len(text.splitlines()) == 1


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(f"{sys.executable} -m clbench list | head -1", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("agents") and done.stderr == ""


def test_plain_output_has_no_escape_codes(tmp_path):
    done = shell("run", *TINY, "agent=random", f"results_dir={tmp_path}")
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr


def test_quiet_run_says_its_folder_alone(tmp_path):
    done = shell("run", *TINY, "agent=random", f"results_dir={tmp_path}", "--quiet")
    assert done.stderr == "" and (Path(done.stdout.strip()) / "DONE").exists()


def wait_for(path, runs=1, seconds=60, event=""):
    end = time.monotonic() + seconds
    while sum(event in file.read_text() for file in path.rglob("events.jsonl")) < runs:
        assert time.monotonic() < end, "the run did not begin"
        time.sleep(0.05)


@pytest.mark.parametrize(("jobs", "event"), [([], ""), ([], '"eval"'), (["--jobs", "2"], "")], ids=["at once", "living", "workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_75_and_the_same_command_continues(tmp_path, number, jobs, event):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    words = ["run", *TINY, f"agent={tmp_path}/sleeper.py:Sleeper", f"results_dir={tmp_path}/out", *jobs]
    words += ["seed=0,1"] if jobs else []
    process = subprocess.Popen([sys.executable, "-m", "clbench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "out", event=event)
    process.send_signal(number)
    _, said_there = process.communicate(timeout=60)
    assert process.returncode == 75, said_there
    assert "same command again" in said_there and "Traceback" not in said_there
    assert not list((tmp_path / "out").rglob("DONE"))
    done = shell(*words, "agent.pause=0.05")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("DONE"))) == (2 if jobs else 1)


def test_a_second_interrupt_ends_workers_at_once_and_they_are_called_interrupted(tmp_path):
    mark = "open(f'{__file__}.{__import__(\"os\").getpid()}', 'w').close()"  # asleep: before that it can be asked to stop
    (tmp_path / "sleeper.py").write_text(SLEEPER.replace("time.sleep(self.pause)", f"{mark}; time.sleep(self.pause)"))
    words = ["run", *TINY, f"agent={tmp_path}/sleeper.py:Sleeper", "agent.pause=600", "seed=0,1", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clbench", *words, f"results_dir={tmp_path}/out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("sleeper.py.*"))) < 2:
        assert time.monotonic() < end, "the runs did not begin"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    process.send_signal(signal.SIGINT)
    said_here, said_there = process.communicate(timeout=60)
    assert process.returncode == 75, said_there
    assert "2 interrupted" in said_here and "last checkpoint" in said_there and "everything is saved" not in said_there


def test_an_interrupt_on_the_way_out_changes_nothing():
    late = (
        "import atexit, os, signal, sys; atexit.register(os.kill, os.getpid(), signal.SIGINT); from clbench.cli import program; program()"
    )
    done = subprocess.run([sys.executable, "-c", late, "list", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_an_experiment_runs_reports_and_does_nothing_the_second_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        "name: tiny\nreport: false\nruns:\n  - {agents: [random], streams: [toy], seeds: [0, 1], "
        "overrides: [stream.units=64, stream.points=1, stream.tasks=2, stream.held_out=0]}\n"
    )
    first = shell("run", "experiment=./tiny.yaml", "--jobs", "2")
    assert first.returncode == 0, first.stderr
    assert "2 runs, 2 at once" in first.stdout and "2 done" in first.stdout and "Performance" in first.stdout
    second = shell("run", "experiment=./tiny.yaml")
    assert second.returncode == 0 and "2 of 2 runs are done already" in second.stdout and "at once" not in second.stdout


def test_workers_share_the_cores():
    assert Pool(1)._environment(0, 1)["OMP_NUM_THREADS"] == "1"
    assert int(Pool(64)._environment(0, 2)["CLBENCH_WORKERS"]) == 1


def test_every_job_is_collected_and_a_death_without_words_is_named(tmp_path):
    jobs = [Job((f"stream=none{n}", "agent=random"), tmp_path, f"job {n}") for n in range(3)]
    heard = []
    outcomes = Pool(2).run(jobs, heard.append)
    assert [o.job.title for o in outcomes] == ["job 0", "job 1", "job 2"] and len(heard) == 3
    assert all(o.state == "failed" and "Unknown stream" in o.message for o in outcomes)


@pytest.mark.parametrize("moment", ["before it is there", "before it listens"])
def test_a_worker_that_a_signal_finds_at_its_beginning_is_interrupted(tmp_path, monkeypatch, moment):
    """It began after the word was passed on, or has no handler yet and dies of the signal."""
    pool, begin = Pool(1), subprocess.Popen

    def popen(*arguments, **options):
        if moment == "before it is there":
            pool._heard(signal.SIGTERM, None)
            return begin(*arguments, **options)
        process = begin(*arguments, **options)
        process.send_signal(signal.SIGTERM)
        pool.stopping.set()
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    words = (*TINY, "agent=random", f"results_dir={tmp_path}")
    outcomes = pool.run([Job(words, tmp_path, f"job {n}") for n in range(2)], lambda _: None)
    assert [outcome.state for outcome in outcomes] == ["interrupted", "interrupted"]
    assert not list(tmp_path.rglob("DONE"))


def test_tables_align_numbers_right(capsys):
    Output().table(("name", "value"), [("a", 1.5), ("long name", None), ("b", "1,200")])
    assert capsys.readouterr().out == "name       value\na          1.500\nlong name      -\nb          1,200\n"


@pytest.mark.parametrize(
    "seconds, text", [(0.42, "0.4 s"), (9.4, "9 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (None, "-"), (0, "0 s")]
)
def test_durations_are_for_readers(seconds, text):
    assert duration(seconds) == text


def test_an_exception_is_said_with_its_place():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        assert said(error).startswith("ValueError: two") and "test_cli.py:" in said(error)
