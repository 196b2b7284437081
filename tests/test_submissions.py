"""A pack is the same bytes for the same runs, and whatever is changed in it is found and named."""

import gzip
import json
import shutil

import pytest

from clbench import derived, submissions
from clbench.errors import UserError, ValidationError

from .synthetic import PROVENANCE, stream, write_grid, write_run

TWO = stream(("a", "b"), points=2)
WORDS = {"team": "lab", "date": "2026-11-01", "tuning": {"search_space": "none", "trials": 0}, "notes": "made up"}


def half(phase, step, column):
    return 0.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("runs"), TWO, ["ewc"], [1, 0])


@pytest.fixture(scope="module")
def good(runs, tmp_path_factory):
    return submissions.pack(runs, tmp_path_factory.mktemp("packed"), **WORDS)


@pytest.fixture
def packed(good, tmp_path):
    return shutil.copytree(good, tmp_path / good.name)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_layout_is_the_documented_one(good):
    assert good.parts[-4:] == ("steps@1", "smoke", "ewc", "2026-11-01-lab")
    names = list(contents(good))
    runs = sorted({name.split("/")[1] for name in names if name.startswith("runs/")})
    assert [name[:5] for name in runs] == ["s000-", "s001-"]
    top = ["SHA256SUMS", "environment.txt", "evals.csv", "submission.json"]
    assert sorted(names) == sorted(
        [*top, *(f"runs/{run}/{file}" for run in runs for file in ("attempts.json", "events.jsonl.gz", "run.json"))]
    )
    assert submissions.findings(good) == []


def test_packing_twice_gives_the_same_bytes_whatever_the_order_of_the_runs(runs, good, tmp_path):
    again = submissions.pack(list(reversed(runs)), tmp_path, **WORDS)
    assert contents(again) == contents(good)
    assert contents(good)["runs/" + runs[0].name + "/events.jsonl.gz"][4:8] == bytes(4)  # gzip's time


def test_events_are_numbered_records_and_resources_without_train(good, runs):
    lines = gzip.decompress(contents(good)[f"runs/{runs[0].name}/events.jsonl.gz"]).decode().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert "train" not in kinds
    assert kinds[:2] == ["run_start", "eval"] and kinds[-1] == "run_end"
    assert [kinds[n - 1] for n, kind in enumerate(kinds) if kind == "resources"] == ["task_end", "task_end"]


def test_claims_are_means_over_runs(tmp_path):
    runs = [write_run(tmp_path, TWO, "ewc", seed, lambda phase, step, column, s=seed: [0.2, 0.6][s]) for seed in (0, 1)]
    packed = submissions.pack(runs, tmp_path / "out", **WORDS)
    claims = json.loads((packed / "submission.json").read_text())["claims"]
    assert claims["performance"] == pytest.approx(0.4, abs=1e-12)  # (0.2 + 0.6) / 2
    assert claims["forgetting"] == pytest.approx(0.0, abs=1e-12)  # the same score at every time
    assert "forward_transfer" not in claims  # it needs a reference set


def test_environment_lists_what_all_runs_had(tmp_path):
    other = {**PROVENANCE, "packages": ["numpy==2.2.0", "torch==2.14.0"]}
    runs = [write_run(tmp_path, TWO, "ewc", 0, half), write_run(tmp_path, TWO, "ewc", 1, half, provenance=other)]
    packed = submissions.pack(runs, tmp_path / "out", **WORDS)
    assert (packed / "environment.txt").read_text() == "numpy==2.2.0\n"


def test_a_reference_set_has_its_own_place(tmp_path):
    runs = [
        write_run(tmp_path, stream(("a", "b"), role="single", only=n, points=2), "finetuning", seed, half)
        for n in (0, 1)
        for seed in (0, 1)
    ]
    packed = submissions.pack_reference(runs, tmp_path / "references", name="finetuning", date="2026-11-01")
    assert packed == tmp_path / "references" / "steps@1" / "smoke" / "finetuning"
    assert submissions.findings(packed) == []
    with pytest.raises(UserError, match="a reference set holds single-task runs, got 'steps@1'"):
        submissions.pack_reference([write_run(tmp_path, TWO, "finetuning", 0, half)], tmp_path / "x", name="x", date="2026-11-01")


def test_what_cannot_be_packed_is_refused_in_one_line(runs, tmp_path):
    def refused(message, folders, kind=UserError, **words):
        with pytest.raises(kind, match=message) as error:
            submissions.pack(folders, tmp_path / "out", **{**WORDS, **words})
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.json"))

    one = runs[0]
    refused("no runs to pack", [])
    refused("is no run", [tmp_path])
    refused("not finished: no DONE", [write_run(tmp_path / "a", TWO, "ewc", 0, half, done=False)])
    refused("runs differ in agent.name", [one, write_run(tmp_path / "b", TWO, "replay", 7, half)])
    refused("runs differ in agent.config", [one, write_run(tmp_path / "c", TWO, "ewc", 7, half, config={"strength": 2})])
    refused("runs differ in stream.hash", [one, write_run(tmp_path / "d", stream(("a", "c"), points=2), "ewc", 7, half)])
    refused("given more than once", [one, one])
    refused("tuning: say how", [one], tuning={})
    refused("team: expected a name", [one], team="The Lab")
    refused("date: expected YYYY-MM-DD", [one], date="yesterday")
    secret = {**PROVENANCE, "argv": ["clbench", "cache=/home/ada/cache"]}
    refused(
        r"attempts\[0\].argv\[1\]: expected no absolute path",
        [write_run(tmp_path / "e", TWO, "ewc", 0, half, provenance=secret)],
        ValidationError,
    )


def test_a_pack_is_never_overwritten(runs, good):
    with pytest.raises(UserError, match="is there already"):
        submissions.pack(runs, good.parents[3], **WORDS)


def rewrite(folder, name, change):
    """Change a file of the pack, and its sum, as somebody would who knows the rules."""
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    sums = {n: c for n, c in contents(folder).items() if n != "SHA256SUMS"}
    (folder / "SHA256SUMS").write_text(submissions.sums_of(sums))


def as_json(change):
    def changed(data):
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return changed


def in_events(change):
    def changed(data):
        records = [json.loads(line) for line in gzip.decompress(data).decode().splitlines()]
        records = change(records) or records
        return submissions.compressed("".join(json.dumps(r) + "\n" for r in records))

    return changed


def set_in(position, **values):
    return in_events(lambda records: records[position].update(values))


FIRST_EVAL, LAST = 1, -1
TAMPERED = {
    "a better score": ("events", set_in(FIRST_EVAL, score=[1] * 50), r"evals.csv:2: content: expected .*,1.0,.*found"),
    "a score that is no number": ("events", set_in(FIRST_EVAL, score=[None] * 50), "seq 1: score: expected a list of finite numbers"),
    "NaN as score": ("events", set_in(FIRST_EVAL, score=[float("nan")] * 50), "events.jsonl.gz:2: expected one JSON record"),
    "arrays of different lengths": ("events", set_in(FIRST_EVAL, length=[1]), "seq 1: length: expected 50 values, as score has, found 1"),
    "a record left out": ("events", in_events(lambda r: r[:1] + r[2:]), "events.jsonl.gz: seq: expected 1, found 2"),
    "a row nobody scheduled": ("events", set_in(FIRST_EVAL, step=7), "seq 1: eval.step: expected 0, found 7"),
    "other evaluation seeds": ("events", set_in(FIRST_EVAL, seed_set="easy@1"), "seq 1: eval.seed_set: expected steps@1, found easy@1"),
    "the end cut off": ("events", in_events(lambda r: r[:-1]), "records: expected .* numbered ones"),
    "progress records": (
        "events",
        in_events(lambda r: [*r, {"kind": "train", "seq": None}]),
        "kind: expected numbered records and resources only",
    ),
    "too few units": (
        "events",
        in_events(lambda r: [{**x, "units": 999} if x["kind"] == "task_end" else x for x in r]),
        "task_end.units: expected 1000, found 999",
    ),
    "a file that is no gzip": ("events", lambda data: b"no", "expected a gzip file of events"),
    "another seed": ("run", as_json(lambda m: m.update(seed=9)), "run.json: run_key: expected .{12}, found .{12}"),
    "a shorter phase": ("run", as_json(lambda m: m["stream"]["spec"]["phases"][0].update(units=1)), "run.json: stream.hash: expected"),
    "another budget": ("run", as_json(lambda m: m.update(budget="paper")), "run.json: budget: expected smoke, found paper"),
    "a hostile name": ("run", as_json(lambda m: m["agent"].update(name="<script>")), "agent.name: expected a name matching"),
    "a path of a machine": (
        "attempts.json",
        as_json(lambda a: a[0].update(os="/home/ada/x")),
        "expected no absolute path, found /home/ada/x",
    ),
    "a better claim": (
        "submission.json",
        as_json(lambda s: s["claims"].update(performance=0.99)),
        "claims.performance: expected 0.*, found 0.99",
    ),
    "a claim out of nothing": ("submission.json", as_json(lambda s: s["claims"].update(wisdom=1)), "claims.wisdom: expected None, found 1"),
    "fewer seeds": ("submission.json", as_json(lambda s: s.update(seeds=[0])), r"seeds: expected \[0, 1\], found \[0\]"),
    "no tuning": ("submission.json", as_json(lambda s: s.pop("tuning")), "tuning: expected a declaration"),
    "an agent of another name": ("submission.json", as_json(lambda s: s["agent"].update(name="x")), "agent.name: expected ewc, found x"),
    "no JSON": ("submission.json", lambda data: b"{", "submission.json: expected JSON"),
    "a deep hole": ("submission.json", lambda data: b"[" * 100_000, "submission.json: expected JSON"),
    "a nicer table": ("evals.csv", lambda data: data.replace(b"0.0", b"0.9", 1), "evals.csv:"),
    "other packages": (
        "environment.txt",
        lambda data: data + b"magic==1.0\n",
        "environment.txt:6: content: expected its end, found magic==1.0",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_whatever_is_changed_is_found_and_named(packed, case):
    where, change, message = TAMPERED[case]
    run = sorted((packed / "runs").iterdir())[0].relative_to(packed).as_posix()
    name = {"events": f"{run}/events.jsonl.gz", "run": f"{run}/run.json", "attempts.json": f"{run}/attempts.json"}.get(where, where)
    rewrite(packed, name, change)
    with pytest.raises(ValidationError, match=message) as error:
        submissions.verify(packed)
    assert "\n" not in str(error.value)


def test_one_changed_byte_breaks_a_sum(packed):
    file = packed / "evals.csv"
    file.write_bytes(file.read_bytes()[:-2] + b"2\n")
    assert str(submissions.findings(packed)[0]).startswith("evals.csv: SHA256SUMS: expected")


def test_files_beyond_the_list_links_and_missing_ones_are_refused(packed):
    (packed / "run.py").write_text("print('hello')")
    (packed / "runs" / "link").symlink_to(packed)
    (packed / "evals.csv").unlink()
    lines = [str(finding) for finding in submissions.findings(packed)]
    assert "evals.csv: presence: expected a file, found nothing" in lines
    assert "run.py: name: expected a file of the layout, found run.py" in lines
    assert "runs/link: type: expected a plain file or folder, found a link or device" in lines


def test_a_bomb_is_not_unpacked(packed, monkeypatch):
    monkeypatch.setattr(derived, "MAX_UNPACKED", 1000)
    assert "expected at most 1000 bytes unpacked in all, found more" in str(submissions.findings(packed)[0])
