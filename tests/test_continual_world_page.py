"""The page of Continual World: our runs by its formulas, what a task alone takes, published figures as they were printed."""

import shutil
from dataclasses import replace

import pytest

from clbench import foretelling
from clbench.errors import ValidationError
from clbench.loading import find_runs
from clbench.report.continual_world import KIND, PAGE, PUBLISHED, generate, page
from clbench.submissions import pack, pack_reference

from .synthetic import stream, write_run

OPTIONS = {"environments": 8, "horizon": 200, "rewards": "v2", "metaworld": "3.1.1", "mujoco": "3.3.0", "episodes": 50}
WORDS = {"team": "lab", "date": "2026-11-01", "tuning": "none", "notes": ""}


def acting(**changes):
    return replace(stream(("reach", "push"), points=5, shots=False, **changes), kind=KIND, options=OPTIONS)


def score(phase, step, column):
    """Reach: 0.5 and then all; at once 0.2 when push is learned, of which 0.9 is learned. Push: 0 before."""
    if column == 0:
        return {-1: 0.0, 0: 0.5 if step < 600 else 1.0, 1: 0.2}[phase]
    return 0.9 if phase == 1 else 0.0


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    results = root / "results"
    runs = [write_run(root / "runs", acting(), "ewc", seed, score) for seed in range(3)]
    pack(runs, results / "submissions", **WORDS)
    other = [write_run(root / "runs", stream(shots=False), "random", seed, lambda *_: 0.5) for seed in range(3)]
    pack(other, results / "submissions", **WORDS)  # not learned by acting: no business of this page
    alone = [
        write_run(root / "alone", acting(role="single", only=only), "fine-tuning", seed, level, seconds=120.0)
        for only, level in enumerate((score, lambda phase, step, column: 0.6 if phase == 0 else 0.0))
        for seed in range(3)
    ]
    pack_reference(alone, results / "references", name="fine-tuning", date="2026-11-01")
    (results / "published").mkdir()
    figures = [
        ("paper", "CW10", "A", "20", "cw.performance", "0.2", "0.1", "0.3", "90%", "yes"),
        ("paper", "CW10", "B", "20", "cw.performance", "0.25", "0.1", "0.3", "90%", "yes"),
        ("paper", "CW10", "A", "20", "cw.forgetting", "-0.001", "", "", "none", "yes"),
        ("paper", "CW10", "A", "1", '"cw.performance, seed 1"', "0.3", "", "", "none", "yes"),
        ("paper", "CW10", "A", "20", '"final success, hammer"', "0.8", "", "", "none", "yes"),
        ("blog", "CW20", "A", "", "cw.performance", "0.5", "", "", "none", "no"),
    ]
    lines = [",".join(PUBLISHED), *(",".join([source, stream, "v1", *rest]) for source, stream, *rest in figures)]
    (results / "published" / "paper.csv").write_text("\n".join(lines) + "\n")
    return results


def test_our_runs_stand_under_their_conditions_and_others_do_not(results):
    text = page(results)
    assert "### steps@1, budget smoke" in text and "reach, push" in text and "1,000 environment steps a task in 8 environments" in text
    assert "| ewc | 3 |" in text and "drawer" not in text


def test_the_last_rows_of_all_tasks_make_the_numbers(results, tmp_path):
    """Performance (0.2 + 0.9) / 2; reach had 0.5, 0.5, 1, 1, 1 in its window: forgetting (0.8 - 0.2) / 2; transfer against 0.8 and 0.6."""
    wide = replace(acting(), window=5)
    runs = [write_run(tmp_path / "runs", wide, "ewc", seed, score, world=9.0) for seed in range(3)]
    pack(runs, tmp_path / "results" / "submissions", **WORDS)
    row = next(line for line in page(tmp_path / "results").splitlines() if line.startswith("| ewc"))
    assert row.split(" | ")[2:5] == ["0.550 [0.550, 0.550]", "0.300 [0.300, 0.300]", "–"]
    # 36 s of learning, 9 of them in the world, and 9 of evaluating, of 54 in all
    assert "45 s<br>50 % updates and acting, 17 % simulation, 17 % evaluation, 17 % all else |" in row


def test_references_of_some_tasks_only_give_no_transfer(results, tmp_path):
    wide = replace(acting(), window=5)
    pack([write_run(tmp_path / "runs", wide, "ewc", seed, score) for seed in range(3)], tmp_path / "results" / "submissions", **WORDS)
    found = []
    for tasks in ((0,), (0, 1)):
        alone = [write_run(tmp_path / f"alone{len(tasks)}", acting(role="single", only=n), "fine-tuning", 0, score) for n in tasks]
        pack_reference(alone, tmp_path / "results" / "references", name=f"only-{len(tasks)}", date="2026-11-01")
        row = next(line for line in page(tmp_path / "results").splitlines() if line.startswith("| ewc"))
        found.append(row.split(" | ")[4])
        shutil.rmtree(tmp_path / "results" / "references")
    assert found[0] == "–" and found[1] != "–"


def test_what_a_task_alone_takes_is_told_run_by_run(results):
    text = page(results)
    assert "| reach | 8 environments | 3 | 3 of 3 | 600, 600, 600 | 0.800, 0.800, 0.800 | 1.000, 1.000, 1.000 | 2.5, 2.5, 2.5 |" in text
    assert "| push | 8 environments | 3 | 0 of 3 | never (best 0.600), never (best 0.600), never (best 0.600) |" in text


def test_settings_stand_beside_each_other_task_by_task(tmp_path):
    fast = {"learner": {"updates": 16, "update_every": 64, "batch_size": 128}, "backbone": {"depth": 2, "width": 128}}
    slow = {"learner": {"updates": 50, "update_every": 50, "batch_size": 128}, "backbone": {"depth": 4, "width": 256}}
    target = tmp_path / "results" / "reproductions" / "sample-efficiency"
    for name, control, environments, level in (("fast", fast, 8, score), ("slow", slow, 1, lambda *_: 0.4)):
        lived = replace(acting(role="single"), options={**OPTIONS, "environments": environments})
        runs = [write_run(tmp_path / name, lived, "fine-tuning", seed, level, config={"control": control}) for seed in range(2)]
        pack(runs, target / name, **WORDS)
    text = page(tmp_path / "results")
    assert text.count("### steps@1, budget smoke: fine-tuning") == 1 and "1,000 environment steps a task in 1 or 8 environments" in text
    assert "| reach | 8 environments, 0.25 updates of 128 a step, 2 x 128 | 2 | 2 of 2 | 600, 600 | 0.800, 0.800 | 1.000, 1.000 |" in text
    alone = "never (best 0.400), never (best 0.400) | 0.400, 0.400 | 0.400, 0.400 |"
    assert f"| reach | 1 environment, 1 update of 128 a step, 4 x 256 | 2 | 0 of 2 | {alone}" in text


def test_a_run_of_all_tasks_at_once_has_the_steps_of_each(tmp_path):
    pack([write_run(tmp_path / "runs", acting(role="joint"), "ewc", 0, score)], tmp_path / "results" / "submissions", **WORDS)
    assert "- 1,000 environment steps a task in 8 environments" in page(tmp_path / "results")


def test_published_figures_stand_as_they_were_printed(results):
    text = page(results)
    assert "### CW10, Meta-World v1 (published)" in text and "- Source: paper\n" in text
    assert "| A | 20 | 0.20 [0.10, 0.30] | 0.00 |" in text and "| B | 20 | 0.25 [0.10, 0.30] | – |" in text
    assert "| A | 20 | 0.80 |" in text and "1 figures of single runs stand in [published/paper.csv]" in text
    assert "- Source: blog; second-hand, not checked against it" in text


def test_a_page_that_differs_is_found_and_one_that_does_not_is_left_alone(results, tmp_path):
    assert generate(results) and not generate(results) and not generate(results, check=True)
    (results / PAGE).write_text((results / PAGE).read_text().replace("0.20", "0.21"))
    with pytest.raises(ValidationError, match=r"continual_world\.md is not what its files say; rebuild it with: clbench continual-world"):
        generate(results, check=True)
    assert "0.21" in (results / PAGE).read_text()
    assert generate(results)


def test_a_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "x.csv").write_text("method,value\nA,0.5\n")
    with pytest.raises(ValidationError, match=r"x\.csv: expected the columns source, stream, .*, found method, value"):
        page(tmp_path)
    (tmp_path / "published" / "x.csv").unlink()
    assert "No runs yet." in page(tmp_path)


def test_hours_of_a_whole_run_are_foretold_from_the_parts_of_a_short_one(tmp_path):
    """Of 54 s 27 are acting, 9 simulation, 9 evaluation, 9 all else; a million steps a task are a thousand times as many, and 101 scores of
    each task are 101 / 11 as many. Of cw10's own tasks there are ten: the toy has two."""
    short = replace(acting(), name="cw10", family="cw10", budget="paper")
    run = write_run(tmp_path / "runs", short, "ewc", 0, score, world=9.0)
    pack([run], tmp_path / "results" / "reproductions" / "published-hours", **WORDS)
    (loaded,) = find_runs(tmp_path / "results")
    expected = [7.5, 2.5, 9 * 101 / 11 / 3600, 2.5]
    assert list(foretelling.at_budget(loaded, "paper")) == pytest.approx(expected, rel=1e-12)
    row = next(line for line in page(tmp_path / "results").splitlines() if line.startswith("| cw10"))
    assert row.split(" | ")[2:] == ["1", "2,000 in 54 s", "**12.5 h**", "7.5 h", "2.5 h", "1.4 min", "2.5 h |"]


def test_a_run_that_does_not_say_what_its_time_went_into_foretells_nothing(tmp_path):
    run = write_run(tmp_path / "runs", replace(acting(), name="cw10", family="cw10", budget="paper"), "ewc", 0, score)
    pack([run], tmp_path / "results" / "reproductions" / "published-hours", **WORDS)
    with pytest.raises(ValidationError, match="expected a run that says what its time went into"):
        page(tmp_path / "results")
    with pytest.raises(ValidationError, match="got one of steps@1"):
        elsewhere = write_run(tmp_path / "other", acting(), "ewc", 0, score, world=9.0)
        foretelling.at_budget(find_runs(elsewhere.parent)[0], "paper")
