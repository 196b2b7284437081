"""What people and disks do wrong: every mistake gets one line that says what, where and what to do next, and costs nobody a run."""

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest

from clbench import cli, store

SMALL = ["stream=toy", "stream.units=64", "stream.points=1", "stream.tasks=2", "stream.held_out=0", "results_dir=out"]

AGENTS = '''
import numpy as np

class Policy:
    def __init__(self, task):
        self.task = task
    def initial_state(self, batch):
        return None
    def act(self, observation, state):
        return np.zeros((len(observation), self.task.output_size)), state

class Good:
    """Takes what it is granted and stands still."""
    def __init__(self, task, seed, *, chunk: int = 16, names: list[str] | None = None):
        self.chunk, self.taken = chunk, 0
    def begin_task(self, task): pass
    def learn(self, experience):
        while experience.remaining:
            experience.steps(min(self.chunk, experience.remaining))
            self.taken += 1
    def end_task(self, task): pass
    def policy(self, task): return Policy(task)
    def state_dict(self): return {"taken": self.taken}
    def load_state_dict(self, state): self.taken = state["taken"]

class Overspends(Good):
    def learn(self, experience): experience.steps(experience.remaining + 1)
class Underspends(Good):
    def learn(self, experience): experience.steps(experience.remaining - 1)
class Crashes(Good):
    def learn(self, experience): raise ZeroDivisionError("the loss went away")
class Secretive(Good):
    def state_dict(self): return {"function": lambda x: x}
class NoPolicy(Good):
    def policy(self, task): return None
class NoLoad(Good):
    load_state_dict = None
class NotAnAgent:
    pass
class NoSeed(Good):
    def __init__(self, task): pass
class NaN(Good):
    def policy(self, task):
        policy = Policy(task)
        policy.act = lambda o, s: (np.full((len(o), task.output_size), np.nan), s)
        return policy
class WrongShape(Good):
    def policy(self, task):
        policy = Policy(task)
        policy.act = lambda o, s: (np.zeros(task.output_size), s)
        return policy
class NoState(Good):
    def policy(self, task):
        policy = Policy(task)
        policy.act = lambda o, s: np.zeros((len(o), task.output_size))
        return policy
value = 3
'''

TOY = "name: mine\nkind: toy\nversion: 1\nbudgets:\n  smoke: {tasks: 2, held_out: 0, units: 64, points: 1}\n"

FILES = {
    "mine.py": AGENTS,
    "syntax.py": "def broken(:\n",
    "imports.py": "import nothing_of_this_name\n",
    "text.txt": "hello",
    "good.yaml": TOY,
    "invalid.yaml": "name: mine\nkind: [toy\n",
    "twice.yaml": TOY + "name: again\n",
    "listed.yaml": "- a\n- b\n",
    "binary.yaml": "\x00\x01",
    "nokind.yaml": "name: mine\n",
    "badkind.yaml": TOY.replace("kind: toy", "kind: toi"),
    "badkey.yaml": TOY + "bondaries: true\n",
    "badtype.yaml": TOY + "boundaries: 7\n",
    "zero.yaml": TOY.replace("tasks: 2", "tasks: 0"),
    "shots.yaml": TOY.replace("held_out: 0", "held_out: 1, shots: [4, 1]"),
    "nounits.yaml": TOY.replace("units: 64", "units: 0"),
    "budgets.yaml": "name: mine\nkind: toy\nbudgets: smoke\n",
    "defaults.yaml": TOY + "defaults: [toy]\n",
    "listdefaults.yaml": "defaults:\n  - ewc\n  - [mlp]\nname: mine\nkind: composed\n",
    "tag.yaml": "name: mine\nkind: !!python/object/apply:os.system ['true']\n",
    "plan.yaml": "name: plan\nruns:\n  - {agents: [ewk], streams: [toy], seeds: [0]}\n",
    "plankey.yaml": "name: plan\nruns:\n  - {agent: [ewc], streams: [toy]}\n",
    "noplan.yaml": "name: plan\nruns: []\n",
    "empty": None,
}


def run(*words):
    return ["run", *SMALL, "agent=./mine.py:Good", *words]


def agent(name):
    return ["run", *SMALL, f"agent=./mine.py:{name}"]


BEFORE = {  # mistakes that are found before anything is written: argv, exit code, what the line says
    "unknown command": (["rnu"], 2, ["Unknown command 'rnu'", "run", "clbench --help"]),
    "unknown flag": (run("--fersh"), 2, ["--fersh", "clbench run --help"]),
    "unknown kind of name": (["list", "agnets"], 2, ["'agnets'", "agents"]),
    "unknown name": (["describe", "ewk"], 2, ["'ewk'", "ewc", "clbench list"]),
    "unknown stream": (["run", "stream=toi", "agent=random"], 2, ["Unknown stream 'toi'", "toy", "clbench list streams"]),
    "unknown agent": (["run", "stream=toy", "agent=ewk"], 2, ["Unknown agent 'ewk'", "ewc", "clbench list agents"]),
    "defaults that are no names": (["run", *SMALL, "agent=./listdefaults.yaml"], 2, ["the defaults of the agent's file", "[ewc, _self_]"]),
    "a name that is too long": (["metrics", "x" * 300], 2, ["'xxx", "name too long"]),
    "unknown experiment": (["run", "experiment=quikstart"], 2, ["Unknown experiment 'quikstart'", "quickstart"]),
    "unknown budget": (run("budget=smok"), 2, ["no budget 'smok'", "smoke", "standard"]),
    "misspelt key of a mapping": (["run", "stream=alg", "agent=random", "stream.units={recal: 5}"], 2, ["'recal'", "Did you mean recall?"]),
    "wrong value in a mapping": (["run", "stream=alg", "agent=random", "stream.units={recall: x}"], 2, ["stream.units", "expected", "int"]),
    "unknown key": (run("sed=3"), 2, ["unknown key 'sed'", "Did you mean seed?"]),
    "unknown key of the stream": (run("stream.boundares=false"), 2, ["unknown key 'stream.boundares'", "stream.boundaries"]),
    "misspelt nested key": (
        ["run", "stream=toy", "agent=ewc", "agent.methods.ewc.strenght=5"],
        2,
        ["agent.methods.ewc.strenght", "Did you mean agent.methods.ewc.strength?"],
    ),
    "key one level too high": (["run", "stream=toy", "agent=ewc", "agent.strength=5"], 2, ["agent.methods.ewc.strength"]),
    "key below a value": (["run", "stream=toy", "agent=ewc", "agent.methods.ewc.strength.x=5"], 2, ["is a value and has no keys"]),
    "added key": (run("+agent.chunkk=5"), 2, ["unknown key 'agent.chunkk'", "agent.chunk"]),
    "twice added key": (run("++agent.chunkk=5"), 2, ["unknown key 'agent.chunkk'", "agent.chunk"]),
    "removed key": (run("~agent.chunk"), 2, ["expected key=value", "~agent.chunk"]),
    "device among the options": (run("agent.device=cpu"), 2, ["device=VALUE"]),
    "wrong type": (["run", "stream=toy", "agent=ewc", "agent.methods.ewc.strength=abc"], 2, ["expected float", "'abc'"]),
    "wrong type of one's own": (run("agent.chunk=many"), 2, ["agent.chunk", "expected int", "'many'"]),
    "wrong type of the stream": (run("stream.boundaries=7.5"), 2, ["stream.boundaries", "expected bool"]),
    "unknown part": (["run", "stream=toy", "agent=ewc", "agent.text.backbone=rtm"], 2, ["Unknown backbone 'rtm'", "rmt"]),
    "unknown method": (["run", "stream=toy", "agent=ewc", "agent.methods.x=raplay"], 2, ["Unknown method 'raplay'", "replay"]),
    "no equals sign": (run("seed"), 2, ["expected key=value, got 'seed'"]),
    "unreadable value": (run("agent.chunk=((3"), 2, ["agent.chunk=((3", "quotes"]),
    "missing stream": (["run", "agent=random"], 2, ["stream is missing", "clbench list streams"]),
    "missing agent": (["run", "stream=toy"], 2, ["agent is missing", "clbench list agents"]),
    "empty agent": (["run", "stream=toy", "agent="], 2, ["agent", "="]),
    "missing file": (["run", "stream=toy", "agent=./yours.py:Mine"], 2, ["no file './yours.py'", "./mine.py:Mine"]),
    "not a Python file": (["run", "stream=toy", "agent=./text.txt:Mine"], 2, ["text.txt", "not a Python file"]),
    "class missing": (agent("Goof"), 2, ["has no 'Goof'", "Did you mean Good?"]),
    "class not named": (["run", "stream=toy", "agent=./mine.py"], 2, ["FILE.py:Name"]),
    "syntax error": (["run", "stream=toy", "agent=./syntax.py:Mine"], 2, ["syntax.py", "line 1", "SyntaxError"]),
    "import error": (["run", "stream=toy", "agent=./imports.py:Mine"], 2, ["imports.py", "line 1", "nothing_of_this_name"]),
    "not an agent class": (agent("NotAnAgent"), 3, ["NotAnAgent has no begin_task", "clbench.interfaces.Agent"]),
    "half an agent class": (agent("NoLoad"), 3, ["NoLoad has no load_state_dict"]),
    "not a class at all": (agent("value"), 3, ["expected a class, got int"]),
    "wrong constructor": (agent("NoSeed"), 3, ["NoSeed(task, seed, *, options...)"]),
    "seed no integer": (run("seed=x"), 2, ["seed must be an integer", "'x'"]),
    "seed half": (run("seed=1.5"), 2, ["seed must be an integer", "1.5"]),
    "seed negative": (run("seed=-1"), 2, ["seed must be an integer", "-1"]),
    "seed too large": (run("seed=99999999999"), 2, ["seed must be an integer", "4294967295"]),
    "threads zero": (run("threads=0"), 2, ["threads must be an integer >= 1"]),
    "jobs zero": (run("--jobs", "0"), 2, ["--jobs must be at least 1"]),
    "unknown device": (run("device=gpu"), 2, ["device", "cpu", "'gpu'"]),
    "empty grid": (run("seed=range(3,0)"), 2, ["selects nothing", "range(0,5)"]),
    "grid with a hole": (["run", "stream=toy", "agent=random,,ewc"], 2, ["commas"]),
    "mistake in the last run of a grid": (["run", "stream=toy", "agent=random,ewk", "results_dir=out"], 2, ["Unknown agent 'ewk'"]),
    "missing stream file": (["run", "stream=./none.yaml", "agent=random"], 2, ["no file './none.yaml'"]),
    "invalid YAML": (["run", "stream=./invalid.yaml", "agent=random"], 2, ["invalid.yaml:", "YAML"]),
    "key twice": (["run", "stream=./twice.yaml", "agent=random"], 2, ["twice.yaml:6", "'name' stands twice"]),
    "YAML that runs code": (["run", "stream=./tag.yaml", "agent=random"], 2, ["tag.yaml", "YAML"]),
    "YAML list": (["run", "stream=./listed.yaml", "agent=random"], 2, ["expected a mapping", "list"]),
    "binary YAML": (["run", "stream=./binary.yaml", "agent=random"], 2, ["binary.yaml"]),
    "no kind": (["run", "stream=./nokind.yaml", "agent=random"], 2, ["'kind'", "toy"]),
    "unknown kind": (["run", "stream=./badkind.yaml", "agent=random"], 2, ["unknown kind 'toi'", "did you mean toy"]),
    "unknown key in YAML": (["run", "stream=./badkey.yaml", "agent=random"], 2, ["unknown key 'bondaries'", "did you mean boundaries?"]),
    "wrong type in YAML": (["run", "stream=./badtype.yaml", "agent=random"], 2, ["boundaries", "expected bool", "7"]),
    "budgets no mapping": (["run", "stream=./budgets.yaml", "agent=random"], 2, ["budgets", "expected a mapping"]),
    "stream with defaults": (["run", "stream=./defaults.yaml", "agent=random"], 2, ["no 'defaults'"]),
    "zero tasks": (["run", "stream=./zero.yaml", "agent=random"], 2, ["at least one task"]),
    "shots not rising": (["run", "stream=./shots.yaml", "agent=random"], 2, ["shots", "rising"]),
    "no units": (["run", "stream=./nounits.yaml", "agent=random"], 2, ["units must be > 0"]),
    "joint and only": (run("stream.joint=true", "stream.only=0"), 2, ["joint and only exclude each other"]),
    "identity misspelt": (run("stream.identity=hiden"), 2, ["identity", "hidden", "'hiden'"]),
    "agent in an experiment's plan": (["run", "experiment=./plan.yaml"], 2, ["Unknown agent 'ewk'"]),
    "key in an experiment's plan": (["run", "experiment=./plankey.yaml"], 2, ["unknown key 'agent'", "agents"]),
    "experiment without runs": (["run", "experiment=./noplan.yaml"], 2, ["runs: expected a list"]),
    "agent beside an experiment": (["run", "experiment=quickstart", "agent=ewc"], 2, ["agent=ewc", "experiment="]),
    "config missing": (["run", "--config", "none.yaml"], 2, ["no file 'none.yaml'", "config.yaml"]),
    "metrics of nothing": (["metrics", "nowhere"], 2, ["no folder 'nowhere'"]),
    "metrics on an empty folder": (["metrics", "empty"], 2, ["no run in 'empty'", "run.json"]),
    "unknown family": (["metrics", "--family", "cv"], 2, ["Unknown family 'cv'", "cw"]),
    "report on an empty folder": (["report", "empty", "-o", "out"], 2, ["no run in 'empty'"]),
    "leaderboard without results": (["leaderboard", "--results", "nowhere"], 2, ["no folder 'nowhere'", "--results DIR"]),
    "submit without team": (["submit", "empty"], 2, ["no run in 'empty'"]),
    "check of an unknown agent": (["check", "ewk"], 2, ["Unknown agent 'ewk'"]),
    "check with another key": (["check", "random", "seed=3"], 2, ["agent.OPTION=value", "seed=3"]),
    "unknown benchmark": (["benchmark", "evalution"], 2, ["'evalution'", "evaluation"]),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with all files of the table, as working directory."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).mkdir() if content is None else Path(name).write_text(content)
    return tmp_path


def typed(words, capsys):
    """Exit code and the only line on stderr."""
    code = cli.main(words)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    lines = said.err.splitlines()
    assert len(lines) == (code != 0), said.err
    if lines:
        assert lines[0].startswith("clbench: ")
    return code, said.err


@pytest.mark.parametrize("case", BEFORE)
def test_a_mistake_is_one_line_and_nothing_is_written(case, here, capsys):
    words, expected, fragments = BEFORE[case]
    before = sorted(p for p in here.rglob("*") if "__pycache__" not in p.parts)
    code, line = typed(words, capsys)
    assert code == expected, line
    for fragment in fragments:
        assert fragment in line
    assert sorted(p for p in here.rglob("*") if "__pycache__" not in p.parts) == before


DURING = {  # what shows only when the run is on: the class, exit code, what the line says
    "Overspends": (3, ["overspent", "65", "64"]),
    "Underspends": (3, ["underspent", "phase 0", "1 of 64"]),
    "NaN": (3, ["toy-0", "not finite"]),
    "WrongShape": (3, ["toy-0", "expected action of shape (8, 2)", "(2,)"]),
    "NoState": (3, ["act must return (action, state)"]),
    "NoPolicy": (3, ["policy(task) must return", "NoneType"]),
    "Secretive": (3, ["state_dict()", "function"]),
    "Crashes": (1, ["ZeroDivisionError: the loss went away", "mine.py", "stdout.log"]),
}


@pytest.mark.parametrize("name", DURING)
def test_an_agent_that_breaks_the_contract_is_told_so_and_leaves_no_finished_run(name, here, capsys):
    expected, fragments = DURING[name]
    code, line = typed(agent(name), capsys)
    assert code == expected, line
    for fragment in fragments:
        assert fragment in line
    assert not list(here.rglob("DONE")) and not list(here.rglob("summary.json"))


def test_an_agent_that_refuses_its_options_leaves_no_folder(here, capsys):
    words = ["run", "stream=toy", "agent=fine-tuning", "results_dir=out"]
    code, line = typed([*words, "agent.demonstrations.learner.learning_rate=-1"], capsys)
    assert code == 2 and "learning_rate must be > 0" in line
    assert not list(Path("out").rglob("*"))
    assert typed(run(), capsys)[0] == 0
    others = sorted(Path("out").rglob("*"))
    assert typed([*words, "agent.demonstrations.learner.learning_rate=-1"], capsys)[0] == 2
    assert sorted(Path("out").rglob("*")) == others


def finished(capsys):
    """The folder of a finished run of Good."""
    assert typed(run(), capsys)[0] == 0
    return next(Path("out").rglob("run.json")).parent


@pytest.fixture
def stopped(here, capsys, monkeypatch):
    """The folder of a run that was stopped after its first phase, with a checkpoint."""
    monkeypatch.setattr("clbench.runs._StopFlag.is_set", lambda self: bool(list(Path("out").rglob("last.pt"))))
    assert typed(run(), capsys)[0] == 75
    monkeypatch.undo()
    monkeypatch.chdir(here)
    return next(Path("out").rglob("run.json")).parent


def test_a_finished_run_is_not_run_again(here, capsys):
    folder = finished(capsys)
    before = (folder / "events.jsonl").read_bytes()
    code = cli.main(run())
    assert code == 0 and "was done before" in capsys.readouterr().out
    assert (folder / "events.jsonl").read_bytes() == before


def test_fresh_runs_beside_and_overwrites_nothing(here, capsys):
    folder = finished(capsys)
    assert typed(run("--fresh"), capsys)[0] == 0
    assert (folder.parent / f"{folder.name}-r2" / "DONE").exists() and (folder / "DONE").exists()


def test_a_stopped_run_continues_to_the_same_events(stopped, capsys):
    assert typed(run(), capsys)[0] == 0
    continued = store.determined(store.read_events(stopped / "events.jsonl"))
    assert typed(run("--fresh"), capsys)[0] == 0
    fresh = stopped.parent / f"{stopped.name}-r2"
    assert store.determined(store.read_events(fresh / "events.jsonl")) == continued


def test_a_torn_last_line_is_cut_and_the_run_continues(stopped, capsys):
    with open(stopped / "events.jsonl", "ab") as log:
        log.write(b'{"kind": "eval", "seq": 9')
    assert typed(run(), capsys)[0] == 0
    assert b'"seq": 9' not in (stopped / "events.jsonl").read_bytes()


def test_a_corrupt_middle_line_is_named_with_its_number(here, capsys):
    folder = finished(capsys)
    lines = (folder / "events.jsonl").read_bytes().split(b"\n")
    lines[2] = b"garbage"
    (folder / "events.jsonl").write_bytes(b"\n".join(lines))
    code, line = typed(["metrics", "out"], capsys)
    assert code == 3 and "events.jsonl:3" in line and "garbage" in line


def test_a_corrupt_manifest_is_named(stopped, capsys):
    (stopped / "run.json").write_text('{"schema": 1')
    code, line = typed(run(), capsys)
    assert code == 3 and "run.json" in line and "expected JSON" in line
    assert (stopped / "checkpoints" / "last.pt").exists()


def test_a_manifest_whose_stream_was_changed_is_refused_before_anything_is_run(stopped, capsys):
    manifest = json.loads((stopped / "run.json").read_text())
    manifest["stream"]["spec"]["tasks"][0]["scale"][0] -= 0.1
    (stopped / "run.json").write_text(json.dumps(manifest))
    before = (stopped / "events.jsonl").read_bytes()
    code, line = typed(run(), capsys)
    assert code == 3 and "run.json: stream.hash: expected" in line
    assert (stopped / "events.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, capsys):
    last = stopped / "checkpoints" / "last.pt"
    (stopped / "checkpoints" / "last.prev.pt").write_bytes(last.read_bytes())
    last.write_bytes(last.read_bytes()[:100])
    assert typed(run(), capsys)[0] == 0
    assert any(event.get("code") == "checkpoint-damaged" for event in store.read_events(stopped / "events.jsonl"))


def test_a_changed_bit_in_a_checkpoint_is_damage(stopped, capsys):
    last = stopped / "checkpoints" / "last.pt"
    (stopped / "checkpoints" / "last.prev.pt").write_bytes(last.read_bytes())
    with zipfile.ZipFile(last) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
        content = archive.read(member)
    data = bytearray(last.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    last.write_bytes(data)
    assert typed(run(), capsys)[0] == 0
    assert any(event.get("code") == "checkpoint-damaged" for event in store.read_events(stopped / "events.jsonl"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [],
        lambda lines: lines[:3],
        lambda lines: [*lines[:1], *lines[2:]],
        lambda lines: [line.replace('"score":[', '"score":[1,') for line in lines],
    ],
    ids=["all lost", "the end lost", "one lost", "one changed"],
)
def test_a_log_that_lost_what_its_checkpoint_was_taken_behind_is_refused(stopped, capsys, damage):
    log, last = stopped / "events.jsonl", stopped / "checkpoints" / "last.pt"
    numbered = [line for line in log.read_text().splitlines() if '"seq":null' not in line]
    log.write_text("".join(f"{line}\n" for line in damage(numbered)))
    kept, state = log.read_bytes(), last.read_bytes()
    code, line = typed(run(), capsys)
    assert code == 2 and "events.jsonl' has not the" in line and "--fresh" in line
    assert log.read_bytes().startswith(kept) and last.read_bytes() == state and not (stopped / "DONE").exists()


def test_two_damaged_checkpoints_change_nothing_and_say_fresh(stopped, capsys):
    for name in ("last.pt", "last.prev.pt"):
        (stopped / "checkpoints" / name).write_bytes(b"PK broken")
    before = (stopped / "run.json").read_bytes()
    code, line = typed(run(), capsys)
    assert code == 2 and "--fresh" in line and "last.prev.pt" in line
    assert (stopped / "run.json").read_bytes() == before


def test_changed_source_is_refused_with_the_way_out(stopped, capsys):
    Path("mine.py").write_text(AGENTS + "\n# another thought\n")
    code, line = typed(run(), capsys)
    assert code == 2 and "agent.hash" in line and "--fresh" in line


def test_results_dir_that_is_a_file(here, capsys):
    Path("out").write_text("in the way")
    code, line = typed(run(), capsys)
    assert code == 2 and "cannot write" in line and "results_dir=DIR" in line
    assert Path("out").read_text() == "in the way"


def test_read_only_disk_says_where_else_to_go(here, capsys, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EROFS, os.strerror(errno.EROFS))))
    code, line = typed(run(), capsys)
    assert code == 2 and "Read-only" in line and "results_dir=DIR" in line


@pytest.mark.parametrize("writes", [0, 1, 4, 9, 15])
def test_a_full_disk_ends_in_one_line_and_the_run_continues(writes, here, capsys, monkeypatch):
    real, count = os.write, iter(range(10_000))

    def full(descriptor, data):
        if next(count) >= writes and data.startswith(b"{"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    code, line = typed(run(), capsys)
    assert code == 2 and "No space left" in line and "same command again" in line
    monkeypatch.setattr(os, "write", real)
    folder = next(Path("out").rglob("run.json")).parent
    store.read_events(folder / "events.jsonl")  # every line is whole
    assert typed(run(), capsys)[0] == 0
    assert (folder / "DONE").exists()


def test_a_run_at_work_elsewhere_is_left_alone(stopped, capsys):
    import fcntl

    with open(stopped / "lock", "r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code = cli.main(run())
    said = capsys.readouterr().err
    assert code == 0 and "another process is at work" in said


def test_a_grid_goes_on_after_a_failure_and_counts_it(here, capsys):
    code = cli.main(["run", *SMALL, "agent=./mine.py:Crashes,./mine.py:Good", "--jobs", "2"])
    said = capsys.readouterr()
    assert code == 4
    assert "ZeroDivisionError: the loss went away" in said.err and "1 of 2 runs failed" in said.err
    assert len(list(here.rglob("DONE"))) == 1


def test_config_of_a_run_runs_it_again(here, capsys):
    folder = finished(capsys)
    code = cli.main(["run", "--config", str(folder / "config.yaml")])
    assert code == 0 and "was done before" in capsys.readouterr().out
    assert cli.main(["run", "--config", str(folder / "config.yaml"), "seed=1", "--quiet"]) == 0
    other = Path(capsys.readouterr().out.strip())
    assert other.parent.resolve() == folder.parent.resolve() and json.loads((other / "run.json").read_text())["seed"] == 1
