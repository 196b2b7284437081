"""The leaderboard follows from the committed submissions alone, and a changed byte is found."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from clbench import derived
from clbench.errors import UserError, ValidationError
from clbench.report import formats, leaderboard
from clbench.submissions import pack, pack_reference

from .synthetic import stream, write_run

TWO = stream(("a", "b"), points=2, shots=False)
WORDS = {"date": "2026-11-01", "tuning": "none"}


def level(value):
    return lambda phase, step, column: value


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    results = root / "results"

    def submit(lived, agent, values, **words):
        runs = [write_run(root / "runs" / words["team"], lived, agent, seed, level(value)) for seed, value in enumerate(values)]
        pack(runs, results / "submissions", **{**WORDS, "notes": "", **words})

    spread = (0.5, 0.52, 0.54, 0.56, 0.58)
    submit(TWO, "ewc", spread, team="lab-a", notes="<script>alert(1)</script>")
    submit(TWO, "ewc", [value + 0.2 for value in spread], team="lab-b")  # the same agent, another team: another row
    submit(TWO, "random", [0.1] * 5, team="lab-a")
    submit(stream(("a", "b"), points=2, shots=False, role="joint"), "ewc", [0.9] * 5, team="lab-a")
    submit(TWO, "hasty", [0.9, 0.8], team="lab-a")
    singles = [
        write_run(root / "singles", stream(("a", "b"), role="single", only=n, points=2, shots=False), "ewc", seed, level(0.5))
        for n in range(2)
        for seed in range(2)
    ]
    pack_reference(singles, results / "references", name="ewc", date="2026-11-01")
    return results


@pytest.fixture
def board(results, tmp_path):
    file = tmp_path / "leaderboard.md"
    file.write_text("# Results\n\nWords before.\n\n<!-- clbench:begin -->\nold\n<!-- clbench:end -->\n\nWords after.\n")
    (results / "leaderboard.csv").unlink(missing_ok=True)
    leaderboard.generate(results, file)
    return file


def rows_of(text):
    text = re.sub(r"\nFewer than 5 runs.*?(?=\n## |<!-- clbench:end)", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def test_a_row_is_a_submission_with_numbers_derived_by_hand(board):
    rows = rows_of(board.read_text())
    assert [(row["Rank"], row["Agent"], row["Team"]) for row in rows] == [
        ("1", "ewc", "lab-b"),
        ("2", "ewc", "lab-a"),
        ("3", "random", "lab-a"),
        ("joint", "ewc", "lab-a"),
    ]
    # lab-a: mean 0.54, sd 0.02 sqrt(2.5) = 0.031623, half width 2.7764 x 0.031623 / sqrt(5) = 0.039265
    assert rows[1]["Performance ↑"] == "0.540 [0.501, 0.579]"
    assert rows[0]["Performance ↑"] == "**0.740** [0.701, 0.779]"
    # a flat run forgets nothing; the learning curve is the level; reference 0.5, so raw 0.04, per headroom 0.08
    assert rows[1]["Forgetting ↓"] == "0.000 [0.000, 0.000]"  # all are equal, so none is bold
    assert rows[1]["Forward transfer ↑"] == "0.080 [0.001, 0.159]<br>raw 0.040 [0.001, 0.079]"
    assert rows[3]["Forward transfer ↑"] == "–"  # trained jointly: missing, not 0
    assert rows[3]["Performance ↑"] == "0.900 [0.900, 0.900]"
    assert rows[0]["Tier"] == "self-reported" and rows[0]["Runs"] == "5"
    assert rows[0]["Hours per run (hardware)"] == "45 s (Example CPU 2000)"
    assert rows[0]["Versions"] == "clbench 0.1.0, metaworld 3.1.1, mujoco 3.3.0, torch 2.13.0"


def test_the_head_says_what_the_numbers_are(board):
    text = board.read_text()
    for part in (
        "Window: 1 row",
        "50 episodes per cell",
        "reference set ewc (hash ",
        "2 runs per task, minimum headroom 0.500",
        "Alone each task ends at (lowest run of the reference set): a 0.500, b 0.500.",
        "95 % Student t",
        "Holm",
    ):
        assert part in text
    assert re.search(r"IQM: middle half of runs x tasks; .*percentile bootstrap, whole runs.*seed 0", text)


def test_what_a_task_alone_ends_at_is_the_lowest_last_score_of_the_runs_that_trained_it(tmp_path):
    def rising(top):  # of a: half as much halfway; b is not trained and stays at .3
        return lambda phase, step, column: 0.3 if column else top * step / 1000

    def alone(only):
        return stream(("a", "b"), role="single", only=only, points=2, shots=False)

    singles = [write_run(tmp_path / "singles", alone(0), "ewc", seed, rising(top)) for seed, top in enumerate((0.9, 0.6, 0.8))]
    pack_reference(singles, tmp_path / "results" / "references", name="ewc", date="2026-11-01")
    assert derived.find_reference(manifest_of(singles[0]), tmp_path / "results").lowest == {"a": pytest.approx(0.6)}


def test_a_column_that_nothing_trains_shows_its_best_end_of_a_phase(tmp_path):
    whole = stream(("a", "b", "c"), points=2, shots=False)
    lived = replace(whole, phases=whole.phases[:2])
    score = {(0, 1000, 2): 0.7, (1, 500, 2): 0.9, (1, 1000, 2): 0.4}
    run = write_run(tmp_path / "runs", lived, "ewc", 0, lambda phase, step, column: score.get((phase, step, column), 0.1))
    pack([run], tmp_path / "results" / "submissions", team="lab", notes="", **WORDS)
    leaderboard.generate(tmp_path / "results", tmp_path / "leaderboard.md")
    heads, _, row = [line for line in (tmp_path / "leaderboard.md").read_text().splitlines() if line.startswith("|")]
    cells = dict(zip(heads.split(" | "), row.split(" | "), strict=True))
    assert cells["c (never trained) at the best end of a phase ↑"] == "0.700"
    assert cells["a at the end of its phase ↑"] == "0.100"


def test_a_table_of_an_earlier_version_says_where_new_rows_go(tmp_path):
    for version in (1, 2):
        lived = stream(("a", "b"), points=2, shots=False, version=version)
        runs = [write_run(tmp_path / f"runs{version}", lived, "ewc", 0, level(0.5))]
        pack(runs, tmp_path / "results" / "submissions", team="lab", notes="", **WORDS)
    file = tmp_path / "leaderboard.md"
    leaderboard.generate(tmp_path / "results", file)
    earlier, present = file.read_text().split("## ")[1:]
    assert earlier.startswith("steps@1, budget smoke\n\n- An earlier version of the stream; new rows are those of steps@2.\n- Stream")
    assert present.startswith("steps@2, budget smoke\n\n- Stream")


def manifest_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_fewer_than_five_runs_stand_below_without_a_rank(board):
    ranked, _, few = board.read_text().partition("Fewer than 5 runs: not ranked")
    assert "| hasty |" not in ranked
    (row,) = [line for line in few.splitlines() if line.startswith("| hasty |")]
    heads = next(line for line in few.splitlines() if line.startswith("| Agent"))
    assert dict(zip(heads.split(" | "), row.split(" | "), strict=True))["Runs"] == "2"
    assert "at the end of its phase" in heads and "Rank" not in heads


def test_words_outside_the_markers_are_kept_and_links_lead_to_files(board, results):
    text = board.read_text()
    assert text.startswith("# Results\n\nWords before.\n") and text.endswith("\n\nWords after.\n") and "\nold\n" not in text
    for row in rows_of(text):
        link = re.search(r"\]\((.*)\)", row["Files"])[1]
        assert (board.parent / link / "SHA256SUMS").is_file()


def test_the_spreadsheet_holds_everything_at_full_precision(board, results):
    rows = list(csv.DictReader(io.StringIO((results / "leaderboard.csv").read_text())))
    assert [row["agent"] for row in rows] == ["hasty", "ewc", "ewc", "random", "ewc"]
    assert float(rows[2]["performance"]) == pytest.approx(0.54, abs=1e-12)
    assert rows[-1]["forgetting"] == "" and rows[0]["performance_low"] == ""  # missing is empty


def test_generating_again_changes_nothing_and_check_agrees(board, results):
    assert leaderboard.generate(results, board) == []
    assert leaderboard.generate(results, board, check=True) == []


def test_check_finds_one_changed_byte_and_writes_nothing(board, results):
    text = board.read_text()
    changed = text.replace("0.540", "0.541", 1)
    board.write_text(changed)
    with pytest.raises(
        ValidationError, match=r"leaderboard\.md: line \d+: expected .*0\.540.*, found .*0\.541.*Rebuild with: clbench"
    ) as error:
        leaderboard.generate(results, board, check=True)
    assert "\n" not in str(error.value) and "leaderboard.csv" not in str(error.value)
    assert board.read_text() == changed
    board.write_text(text)
    sheet = results / "leaderboard.csv"
    sheet.write_bytes(sheet.read_bytes().replace(b"0.54", b"0.55", 1))
    with pytest.raises(ValidationError, match=r"leaderboard\.csv: line 4"):
        leaderboard.generate(results, board, check=True)


def test_words_outside_the_markers_may_change(board, results):
    board.write_text(board.read_text().replace("Words after", "Other words"))
    assert leaderboard.generate(results, board, check=True) == []


def test_markers_that_are_gone_are_missed(board, results):
    board.write_text("# Results\n")
    with pytest.raises(UserError, match="expected the lines <!-- clbench:begin -->"):
        leaderboard.generate(results, board)


def test_without_submissions_there_is_a_page_that_says_so(tmp_path):
    written = leaderboard.generate(tmp_path / "results", tmp_path / "leaderboard.md")
    assert [path.name for path in written] == ["leaderboard.md", "leaderboard.csv"]
    assert "No submissions yet" in (tmp_path / "leaderboard.md").read_text()
    assert leaderboard.generate(tmp_path / "results", tmp_path / "leaderboard.md", check=True) == []


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("`x` [y](z) *w* _v_", r"\`x\` \[y\](z) \*w\* \_v\_"),
        ("two\nlines\u202e", "two?lines?"),
        ("ewc-2.1 (x)", "ewc-2.1 (x)"),
    ],
)
def test_markdown_cells_are_escaped(text, written):
    assert leaderboard.escape(text) == written


def test_a_cell_that_a_spreadsheet_would_compute_is_text(board):
    text = formats.as_csv([{"a": "=1+1", "b": "-x", "c": -0.5, "d": None, "e": "@me", "f": 3, "g": "plain"}])
    assert text == "a,b,c,d,e,f,g\n'=1+1,'-x,-0.5,,'@me,3,plain\n"


def test_strings_of_a_submission_are_escaped(results, board):
    (file,) = (results / "submissions").glob("steps@1/smoke/random/*/submission.json")
    original = file.read_bytes()
    try:
        file.write_text(json.dumps({**json.loads(original), "team": "<img src=x>|`evil`"}))
        leaderboard.generate(results, board)
        assert r"&lt;img src=x&gt;\|\`evil\`" in board.read_text()
        assert "<img" not in board.read_text()
    finally:
        file.write_bytes(original)
