"""A claim is met by the packs of its own runs and by nothing else; what fails stays on the page."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from clbench import reproductions, runs, submissions
from clbench.configuration import resolve
from clbench.errors import UserError, ValidationError

CLAIM = """
name: remembering
description: neighbours keep what a random policy never has
budget: smoke
claim:
  statement: Neighbours keep the first task.
  source: nobody
  published: nothing
  departure: a toy
  tuning: none
  bars:
    - {arm: kept, task: TASK, at_least: 0.5}
    - {arm: lost, task: TASK, at_most: 0.5}
    - {arm: lost, task: TASK, at_least: 0.99}
    - {arm: unseen, task: TASK, at_least: 0.5}
runs:
  - {arm: kept, agents: [nearest-neighbour], streams: [toy], seeds: [0, 1]}
  - {arm: lost, agents: [random], streams: [toy], seeds: [0, 1]}
  - {arm: unseen, agents: [ewc], streams: [toy], seeds: [0]}
"""


@pytest.fixture(scope="module")
def task():
    return resolve(["stream=toy", "agent=random"]).request.stream.tasks[0].name


@pytest.fixture(scope="module")
def claim(task, tmp_path_factory):
    file = tmp_path_factory.mktemp("claim") / "remembering.yaml"
    file.write_text(CLAIM.replace("TASK", task))
    return reproductions.claim(str(file))


@pytest.fixture(scope="module")
def results(claim, tmp_path_factory):
    root = tmp_path_factory.mktemp("reproductions")
    words = [words for arm in ("kept", "lost") for words in claim.experiment.arms[arm]]
    others = [["stream=toy", "agent=nearest-neighbour", "seed=0", "agent.neighbours=1"]]  # the same agent under another option
    for command in [*words, *others]:
        runs.execute(resolve(command).request, root / "runs")
    made = reproductions.pack(claim, root / "runs", root / "results", "2026-11-01")
    assert len(made) == 2
    return root / "results"


def rows(page):
    bars = page[page.index("| Arm") :]  # behind the table of all claims
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bars.splitlines() if line.startswith("| ")]
    return [dict(zip(("arm", "task", "runs", "accuracy", "worst", "bar", "verdict"), row, strict=True)) for row in cells[1:]]


def test_bars_are_judged_by_the_worst_seed_and_failures_stay(claim, results):
    page = reproductions.page([claim], results)
    found = rows(page)
    assert [row["verdict"] for row in found] == ["met", "met", "failed", "not run"]
    assert [row["runs"] for row in found] == ["2", "2", "2", "0"]
    assert "## remembering: 2 met, 1 failed, 1 not run" in page
    assert "| [remembering](#remembering-2-met-1-failed-1-not-run) | 2 met, 1 failed, 1 not run |" in page
    for row in found[:3]:
        mean, low, high = (float(number) for number in re.findall(r"\d\.\d{3}", row["accuracy"]))
        assert low <= mean <= high
        assert float(row["worst"]) == (high if row["bar"].startswith("≤") else low)


def test_what_was_found_about_a_failed_bar_is_said(claim, results, tmp_path):
    assert "- Found:" not in reproductions.page([claim], results)
    file = tmp_path / "remembering.yaml"
    file.write_text(CLAIM.replace("TASK", "a").replace("  tuning: none\n", "  tuning: none\n  found: Nothing is kept by chance.\n"))
    assert "- Found: Nothing is kept by chance.\n" in reproductions.page([reproductions.claim(str(file))], tmp_path)


def test_packs_are_submissions_that_can_be_checked(claim, results):
    packs = sorted(path.parent for path in results.rglob("SHA256SUMS"))
    assert [path.relative_to(results).parts[:3] for path in packs] == [("reproductions", "remembering", arm) for arm in ("kept", "lost")]
    assert not [finding for path in packs for finding in submissions.findings(path)]
    assert [len(list(path.glob("runs/*"))) for path in packs] == [2, 2]


def test_packing_again_makes_nothing_new(claim, results):
    assert reproductions.pack(claim, results.parent / "runs", results, "2026-11-02") == []


def test_a_run_under_other_options_does_not_count(claim, results, tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    moved = copy / "reproductions" / "remembering"
    (moved / "lost").rename(moved / "unseen")  # runs of the random policy in the place of those of EWC
    assert [row["verdict"] for row in rows(reproductions.page([claim], copy))] == ["met", "not run", "not run", "not run"]


def test_a_page_that_is_not_what_the_packs_say_is_found(claim, tmp_path):
    assert reproductions.generate(tmp_path, shown=[claim])
    assert not reproductions.generate(tmp_path, shown=[claim])
    page = tmp_path / "reproductions.md"
    page.write_text(page.read_text().replace("not run", "met", 1))
    with pytest.raises(ValidationError, match=r"reproductions.md is not what the packs say. Rebuild with: clbench reproductions"):
        reproductions.generate(tmp_path, check=True, shown=[claim])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  source: nobody\n", "", "claim: expected a mapping with statement, source, published"),
        ("at_most: 0.5", "at_most: 0.5, at_least: 0.1", r"bars\[1\]: expected arm, task .or hours. and one of at_least, at_most"),
        (
            "at_most: 0.5",
            "at_most: 0.5, time: kept",
            r"bars\[1\]: expected arm, task .or hours. and one of at_least, at_most, and times",
        ),
        ("at_most: 0.5", "at_most: 0.5, hours: paper", r"bars\[1\]: expected arm, task .or hours. and one of at_least, at_most"),
        (
            "at_most: 0.5",
            "at_most: 0.5, times: kept, minus: lost",
            r"bars\[1\]: expected arm, task .or hours. and one of at_least, at_most",
        ),
        ("at_most: 0.5", "at_most: 0.5, minus: keep", r"claim.bars\[1\]: no arm 'keep'; arms are kept, lost, unseen"),
        ("at_most: 0.5", "at_most: 0.5, curve: 1", r"claim.bars\[1\]: curve: expected true, false or a share .* got 1"),
        ("at_most: 0.5", "at_most: 0.5, curve: 1.5", r"claim.bars\[1\]: curve: expected true, false or a share .* got 1.5"),
        ("at_most: 0.5", "at_most: 0.5, of: steps", r"claim.bars\[1\]: of: expected the names of two facts"),
        ("at_most: 0.5", "at_most: 0.5, times: keep", r"claim.bars\[1\]: no arm 'keep'; arms are kept, lost, unseen"),
        ("{arm: unseen, task", "{arm: unsaid, task", r"claim.bars\[3\]: no arm 'unsaid'; arms are kept, lost, unseen"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(tmp_path, old, new, message):
    file = tmp_path / "claim.yaml"
    file.write_text(CLAIM.replace(old, new))
    with pytest.raises(UserError, match=message):
        reproductions.claim(str(file))


def test_the_claims_of_clbench_can_be_judged():
    found = reproductions.claims()
    assert [claim.name for claim in found] == sorted(claim.name for claim in found)
    for claim in found:
        assert claim.bars
        assert all(claim.text(key) for key in reproductions.KEYS if key != "bars")
        columns = {arm: {task.name for request in requests for task in request.stream.tasks} for arm, requests in claim.requests.items()}
        commands = [words for arm in claim.experiment.arms.values() for words in arm]
        requests = [request for arm in claim.requests.values() for request in arm]
        assert len(commands) == len(requests) and requests[-1].run_key == resolve(commands[-1]).request.run_key
        for bar in (bar for bar in claim.bars if not bar.hours):
            assert set(bar.task.split("+")) <= set().union(*(columns[arm] for arm in bar.arm.split("+")))


def manifest_of(words, **left_out):
    """The manifest of a run that was made before the options `left_out` (part: names) existed."""
    manifest = json.loads(json.dumps(resolve(words).request.manifest()))
    for part, names in left_out.items():
        for name in names:
            del manifest["agent"]["config"]["text"][part][name]
    return manifest


def test_an_option_that_came_later_counts_as_what_it_is_by_default(tmp_path):
    file = tmp_path / "claim.yaml"
    file.write_text(
        CLAIM.replace("TASK", "recall")
        .replace("agents: [nearest-neighbour], streams: [toy]", "agents: [rmt], streams: [alg]")
        .replace("seeds: [0]}", "seeds: [0], overrides: [agent.demonstrations.learner.lanes=32]}")
    )
    claim = reproductions.claim(str(file))
    words = ["stream=alg", "agent=rmt", "seed=1"]
    assert claim.asks_for(manifest_of(words))
    assert claim.asks_for(manifest_of(words, learner=["contexts", "weight_decay"], backbone=["dropout"]))
    assert not claim.asks_for(manifest_of([*words, "agent.text.learner.weight_decay=0.5"]))
    assert not claim.asks_for(manifest_of(words, backbone=["segment_length"]))  # the agent sets it, and not to its default
    assert not claim.asks_for(manifest_of(["stream=alg", "agent=rmt", "seed=2"]))
    extra = manifest_of(words)
    extra["agent"]["config"]["text"]["learner"]["an_option_that_is_gone"] = 1
    assert not claim.asks_for(extra)


def judged_by(file, bars):
    """The claim with other bars."""
    head, _, tail = CLAIM.partition("  bars:\n")
    file.write_text(head + "  bars:\n" + "".join(f"    - {bar}\n" for bar in bars) + tail[tail.index("runs:") :])
    return reproductions.claim(str(file))


def _arms(claim, results):
    folder = results / "reproductions" / "remembering"
    return {arm: reproductions._runs_of(folder / arm, asked) for arm, asked in claim.requests.items()}


def test_a_bar_on_a_ratio_pairs_runs_by_seed(claim, results, tmp_path, task):
    """The scores of both arms, seed by seed; a seed that one of them lacks has no ratio."""
    file = tmp_path / "ratio.yaml"
    bars = [
        f"{{arm: lost, task: {task}, at_most: 0.5, times: kept}}",
        f"{{arm: lost, task: {task}, at_least: 0.99, times: kept}}",
        f"{{arm: unseen, task: {task}, at_least: 0.5, times: kept}}",
        f"{{arm: kept, task: {task}, at_least: 1.0, times: kept}}",
    ]
    ratio = judged_by(file, bars)
    shutil.copytree(results / "reproductions" / "remembering", tmp_path / "reproductions" / "remembering")
    shutil.rmtree(next((tmp_path / "reproductions" / "remembering" / "lost").rglob("runs/s001-*")))
    arms = _arms(ratio, tmp_path)
    kept, lost = (reproductions.scores(arms[arm])[task] for arm in ("kept", "lost"))
    assert set(kept) == {0, 1} and set(lost) == {0}
    assert ratio.bars[0].values(arms) == [lost[0] / kept[0]]
    found = rows(reproductions.page([ratio], tmp_path))
    assert [row["arm"] for row in found] == ["lost / kept", "lost / kept", "unseen / kept", "kept / kept"]
    assert [row["runs"] for row in found] == ["1", "1", "0", "2"]
    assert [row["verdict"] for row in found] == ["met", "failed", "not run", "met"]
    assert [row["bar"] for row in found] == ["≤ 0.50 ×", "≥ 0.99 ×", "≥ 0.50 ×", "≥ 1.00 ×"]


def test_what_an_agent_would_do_elsewhere_does_not_make_its_packs_strangers():
    request = resolve(["stream=toy", "stream.experience=text", "agent=rmt"]).request
    manifest = {
        "schema": reproductions.SCHEMA,
        "protocol_version": reproductions.PROTOCOL_VERSION,
        "order_id": 0,
        "seed": request.seed,
        "stream": {"hash": request.stream.hash()},
        "agent": {"name": "rmt", "config": json.loads(json.dumps(reproductions.plain(request.agent.options)))},
    }
    assert reproductions._same_run(request, manifest)
    config = manifest["agent"]["config"]
    del config["interaction"]
    config["demonstrations"]["learner"]["window"] = 99
    assert reproductions._same_run(request, manifest)
    config["text"]["learner"]["batch_size"] = 99
    assert not reproductions._same_run(request, manifest)


def test_a_bar_on_facts_sums_them_over_the_last_episodes(claim, results, tmp_path, task):
    """Of the toy: its length, six steps an episode, over its score."""
    file = tmp_path / "facts.yaml"
    file.write_text(
        CLAIM.replace("arm: kept, task: TASK, at_least: 0.5", "arm: kept, task: TASK, at_least: 6, of: [length, score]").replace(
            "TASK", task
        )
    )
    facts = reproductions.claim(str(file))
    arms = {arm: reproductions._runs_of(results / "reproductions" / "remembering" / arm, asked) for arm, asked in facts.requests.items()}
    found = reproductions.scores(arms["kept"])[task]
    assert facts.bars[0].values(arms) == pytest.approx([6 / found[seed] for seed in (0, 1)])
    assert rows(reproductions.page([facts], results))[0]["task"] == f"{task}, length / score"
    file.write_text(file.read_text().replace("[length, score]", "[length, wins]"))
    with pytest.raises(ValidationError, match="has no fact 'wins' that a bar asks for"):
        reproductions.claim(str(file)).bars[0].values(arms)


def test_a_bar_on_a_difference_pairs_runs_by_seed_and_one_on_a_curve_takes_the_scores_of_training(claim, results, tmp_path, task):
    file = tmp_path / "difference.yaml"
    others = sorted({name for runs in _arms(claim, results).values() for run in runs for name in reproductions.scores([run])} - {task})
    both = f"{task}+{others[0]}"
    bars = [
        f"{{arm: kept, task: {task}, at_least: 0.5, minus: lost}}",
        f"{{arm: kept, task: {both}, at_least: 0.0, minus: lost}}",
        f"{{arm: kept, task: {task}, at_least: 0.0, curve: true}}",
        f"{{arm: kept, task: {both}, at_most: 1.0, curve: true, minus: kept}}",
        f"{{arm: kept, task: {task}, at_least: 0.0, curve: 0.5}}",
        f"{{arm: kept, task: {task}, at_least: 0.0, curve: 0.01}}",
    ]
    made = judged_by(file, bars)
    arms = _arms(made, results)
    kept, lost = reproductions.scores(arms["kept"]), reproductions.scores(arms["lost"])
    assert made.bars[0].values(arms) == [kept[task][seed] - lost[task][seed] for seed in kept[task] if seed in lost[task]]
    means = [sum(found[name][seed] for name in (task, others[0])) / 2 for found in (kept, lost) for seed in (0,)]
    assert made.bars[1].values(arms)[0] == pytest.approx(means[0] - means[1])
    (run, *_) = arms["kept"]
    column = next(number for number, each in enumerate(run.manifest["stream"]["spec"]["tasks"]) if each["name"] == task)
    trained = [n for n, phase in enumerate(run.manifest["stream"]["spec"]["phases"]) if column in phase["columns"]]
    seen = [e["score"] for e in run.events if e["kind"] == "eval" and e["task"] == column and e["phase"] in trained]
    assert made.bars[2].values(arms)[0] == pytest.approx(sum(sum(scores) / len(scores) for scores in seen) / len(seen))
    assert set(made.bars[3].values(arms)) == {0.0}
    early = seen[: max(1, round(len(seen) / 2))]
    assert len(trained) == 1 and made.bars[4].values(arms)[0] == pytest.approx(sum(sum(s) / len(s) for s in early) / len(early))
    assert made.bars[5].values(arms)[0] == pytest.approx(sum(seen[0]) / len(seen[0]))
    page = reproductions.page([made], results)
    assert "kept - lost" in page and "(while trained)" in page and "(the first 50% of training)" in page and f"{task}, {others[0]}" in page


def test_more_seeds_of_the_same_day_are_another_pack_and_an_interval_needs_five(tmp_path, task):
    bars = [
        f"{{arm: kept, task: {task}, at_least: 0.0, interval: true}}",
        f"{{arm: kept, task: {task}, at_least: 0.999, interval: true}}",
        f"{{arm: kept, task: {task}, at_most: 0.1, interval: true}}",
        f"{{arm: kept+held, task: {task}+elsewhere, at_least: 0.0, curve: true, interval: true}}",
    ]
    arms = ["{arm: kept, agents: [nearest-neighbour], streams: [toy], seeds: [0, 1, 2, 3, 4]}"]
    arms += ["{arm: held, agents: [random], streams: [toy], seeds: [0, 1]}"]
    file = tmp_path / "five.yaml"
    head, _, _ = CLAIM.partition("  bars:")
    file.write_text("\n".join([f"{head}  bars:", *(f"    - {bar}" for bar in bars), "runs:", *(f"  - {arm}" for arm in arms), ""]))
    made, results = reproductions.claim(str(file)), tmp_path / "results"
    for words in made.experiment.arms["kept"][:2]:
        runs.execute(resolve(words).request, tmp_path / "runs")
    (first,) = reproductions.pack(made, tmp_path / "runs", results, "2026-11-01")
    assert [row["verdict"] for row in rows(reproductions.page([made], results))] == ["not run"] * 4
    for words in made.experiment.arms["kept"][2:]:
        runs.execute(resolve(words).request, tmp_path / "runs")
    (second,) = reproductions.pack(made, tmp_path / "runs", results, "2026-11-01")
    assert (first.name, second.name) == ("2026-11-01-clbench", "2026-11-01-clbench-2") and not list(submissions.findings(second))
    found = list(reproductions.scores(_arms(made, results)["kept"])[task].values())
    low, high = stats.t.interval(0.95, 4, np.mean(found), np.std(found, ddof=1) / np.sqrt(5))
    judged = [bar.decisive(bar.values(_arms(made, results))) for bar in made.bars[:3]]
    assert judged == pytest.approx([low, low, high]) and len(found) == 5
    shown = [row["verdict"] for row in rows(reproductions.page([made], results))]
    assert shown == ["met" if low >= 0 else "failed", "met" if low >= 0.999 else "failed", "failed", "not run"]


def test_arms_that_stand_together_are_measured_as_one(claim, results, tmp_path, task):
    others = sorted({name for runs in _arms(claim, results).values() for run in runs for name in reproductions.scores([run])} - {task})
    made = judged_by(tmp_path / "joined.yaml", [f"{{arm: kept+unseen, task: {task}+{others[0]}, at_least: 0.0, minus: lost+unseen}}"])
    alone = judged_by(tmp_path / "alone.yaml", [f"{{arm: kept, task: {task}+{others[0]}, at_least: 0.0, minus: lost}}"])
    arms = _arms(made, results)
    assert made.bars[0].values(arms) == alone.bars[0].values(arms) != []  # of unseen there are no runs
    assert "kept, unseen - lost, unseen" in reproductions.page([made], results)
    with pytest.raises(UserError, match="no arm 'gone'; arms are kept, lost, unseen"):
        judged_by(tmp_path / "gone.yaml", [f"{{arm: kept+gone, task: {task}, at_least: 0.0}}"])
    with pytest.raises(UserError, match="interval: expected true or false, got 5"):
        judged_by(tmp_path / "five.yaml", [f"{{arm: kept, task: {task}, at_least: 0.0, interval: 5}}"])
