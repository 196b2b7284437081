"""Tables show numbers that were derived by hand; figures and pages are the same bytes every time; strangers' strings stay text."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from clbench import metrics
from clbench.loading import find_runs
from clbench.report import curves, figures, formats, palette, site, tables
from clbench.statistics import Interval
from clbench.submissions import pack, pack_reference

from .synthetic import stream, write_grid, write_run

TWO = stream(("a", "b"), points=2)
HOSTILE = ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(2)> & a|b`c`")


def steady(seed):
    """Untrained 0.1; the own phase ends at 0.8 and 0.7; at the end a = 0.5 + 0.02 seed and b = 0.7."""

    def score(phase, step, column):
        if phase == -1:
            return 0.1
        if phase == 0:
            return (0.4 if step == 500 else 0.8) if column == 0 else 0.2
        return 0.5 + 0.02 * seed if column == 0 else (0.3 if step == 1500 else 0.7)

    return score


def level(value):
    return lambda phase, step, column: value


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five runs of two agents, two of a third, five joint runs, single runs and an unfinished one."""
    root = tmp_path_factory.mktemp("results")
    for seed in range(5):
        write_run(root / "runs", TWO, "steady", seed, steady(seed), lambda phase, task, shots: 0.2 + 0.2 * (phase + 1) * (shots > 0))
        write_run(root / "runs", TWO, "flat", seed, level(0.1))
        write_run(root / "runs", stream(("a", "b"), role="joint", points=2), "steady", seed, level(0.9))
    for seed, value in enumerate((0.2, 0.4)):
        write_run(root / "runs", TWO, "few", seed, level(value))
    write_run(root / "runs", TWO, "steady", 7, steady(7), done=False)
    singles = [
        write_run(root / "singles", stream(("a", "b"), role="single", only=n, points=2), "steady", seed, level([0.5, 0.4][n]))
        for n in range(2)
        for seed in range(2)
    ]
    pack_reference(singles, root / "references", name="steady", date="2026-11-01")
    return root


@pytest.fixture(scope="module")
def table(root):
    (one,) = tables.comparison_tables([*find_runs(root / "runs"), *find_runs(root / "singles")], root)
    return one


def row(table, label):
    return next(row for row in table.rows if row.label == label and not row.joint)


# -- tables --------------------------------------------------------------------------------------------------------------


def test_numbers_are_the_ones_derived_by_hand(table):
    entries = row(table, "steady").entries
    # performance of seed s: (0.5 + 0.02 s + 0.7) / 2 = 0.6 + 0.01 s; mean 0.62; sd 0.01 sqrt(2.5); t(0.975, 4) = 2.7764
    # half width: 2.7764 x 0.0158114 / sqrt(5) = 0.019632
    assert entries["performance"].points == pytest.approx([0.60, 0.61, 0.62, 0.63, 0.64])
    assert formats.text(entries["performance"]) == "0.620 [0.600, 0.640]"
    assert entries["performance"].interval.low == pytest.approx(0.62 - 0.019632, abs=1e-6)
    # worst task: a in every run, 0.5 + 0.02 s, so the mean 0.54 and twice the width
    assert formats.text(entries["worst_task"]) == "0.540 [0.501, 0.579]"
    # forgetting: only a can be forgotten, 0.8 - (0.5 + 0.02 s), mean 0.26
    assert formats.text(entries["forgetting"]) == "0.260 [0.221, 0.299]"
    # zero-shot: b had 0.2 before its phase and 0.1 untrained; all runs equal, so zero width
    assert formats.text(entries["zero_shot_transfer"]) == "0.100 [0.100, 0.100]"
    # learning curve: a (0.4 + 0.8) / 2 = 0.6, b (0.3 + 0.7) / 2 = 0.5
    assert entries["learning_auc"].value == pytest.approx(0.55)
    # reference 0.5 and 0.4: raw 0.1 and 0.1; per headroom 0.1 / 0.5 = 0.2 and 0.1 / 0.6 = 1/6
    assert entries["forward_transfer_raw"].value == pytest.approx(0.1)
    assert entries["forward_transfer"].value == pytest.approx((0.2 + 1 / 6) / 2)
    # 36 s of learning and 9 s of evaluation
    assert entries["hours"].value == pytest.approx(45 / 3600)
    assert (entries["parameters"].value, entries["retained_bytes"].value, entries["memory_bytes"].value) == (1234, 5000, 4096)


def test_few_shot_columns_are_the_ones_derived_by_hand(table):
    entries = row(table, "steady").entries
    # last phase: K = 0 gives 0.2, every other K gives 0.6; untrained 0.2 throughout. x = log2(1 + K) = 0, 1, 1.585, 2.585
    # area: first trapezoid (0.2 + 0.6) / 2 = 0.4, then 0.6 x 1.585; divided by 2.585
    x = np.log2([1, 2, 3, 6])
    area = (0.4 + 0.6 * (x[3] - 1)) / x[3]
    assert entries["few_shot_area"].value == pytest.approx(area)
    assert entries["few_shot_gain"].value == pytest.approx(area - 0.2)


def test_fewer_than_five_runs_have_points_and_no_interval_and_no_rank(table):
    few = row(table, "few")
    assert formats.text(few.entries["performance"]) == "0.300 (0.200 .. 0.400)"
    assert formats.rank_text(few) == "–"
    assert not few.entries["performance"].has_interval
    assert "Rows with fewer than 5 runs have no interval" in " ".join(formats.statements(table))


def test_order_ranks_and_bold_marks(table):
    assert [(r.label, r.joint) for r in table.rows] == [("steady", False), ("few", False), ("flat", False), ("steady", True)]
    assert [formats.rank_text(r) for r in table.rows] == ["1", "–", "2", "–"]
    best = {name: [r.label for r in table.rows if r.entries[name].best] for name in ("performance", "forgetting", "parameters")}
    # forgetting is better when lower: flat forgets nothing, and few neither, but of two runs; the joint row has 0.9 and takes no part;
    # parameters are all equal
    assert best == {"performance": ["steady"], "forgetting": ["flat"], "parameters": []}


def test_equal_agents_share_their_ranks(tmp_path):
    for agent, shift in (("one", 0.0), ("two", 0.02), ("bad", -0.4)):
        for seed in range(5):
            noise = [0.0, 0.04, -0.04, 0.02, -0.02][(seed * (2 if agent == "two" else 1)) % 5]
            write_run(tmp_path, TWO, agent, seed, level(0.6 + shift + noise))
    (table,) = tables.comparison_tables(find_runs(tmp_path))
    assert {r.label: formats.rank_text(r) for r in table.rows} == {"one": "1-2", "two": "1-2", "bad": "3"}


def test_single_runs_are_no_rows_and_joint_runs_have_no_rank(table):
    bound = table.rows[-1]
    assert bound.joint and bound.entries["performance"].value == pytest.approx(0.9)
    assert {run.role for r in table.rows for run in r.runs} == {"stream", "joint"}
    assert formats.text(bound.entries["forgetting"]) == "–"  # trained jointly: missing, not 0


def test_a_missing_value_is_a_dash_in_eyes_and_empty_in_data_and_never_zero(root):
    runs = [run for run in find_runs(root / "runs") if run.role == "stream"]
    (table,) = tables.comparison_tables(runs, root / "no" / "where")
    assert [formats.text(r.entries["forward_transfer"]) for r in table.rows] == ["–"] * 3
    assert {record["forward_transfer"] for record in formats.data(table)} == {None}
    assert "forward_transfer" not in table.columns
    assert "no reference set" in " ".join(formats.statements(table))
    assert not re.search(r"\bnan\b", formats.latex(table).lower())


@pytest.mark.parametrize(
    ("interval", "points", "written"),
    [
        (Interval(float("nan"), float("nan"), float("nan"), "points only", 2), (0.1, float("nan")), "–"),
        (Interval(0.0, 0.0, 0.0, "all runs equal", 5), (0.0,) * 5, "0.000 [0.000, 0.000]"),
        (Interval(-0.0004, float("nan"), float("nan"), "points only", 1), (-0.0004,), "0.000"),
        (Interval(-0.25, -0.5, 0.0, "Student t", 5), (), "-0.250 [-0.500, 0.000]"),
    ],
)
def test_how_intervals_are_written(interval, points, written):
    assert formats.interval_text(interval, points) == written


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (float("nan"), "bytes", "–"),
        (0, "bytes", "0 B"),
        (999_999, "bytes", "1 MB"),
        (1234, "numbers", "1.23 k"),
        (2.5, "h", "2.5 h"),
        (0.05, "h", "3.0 min"),
        (1 / 3600, "h", "1 s"),
    ],
)
def test_how_costs_are_written(value, unit, written):
    assert formats.amount(value, unit) == written


def test_statements_say_window_reference_episodes_and_runs(table):
    text = "\n".join(formats.statements(table))
    for part in (
        "Window: 1 row",
        "50 episodes per cell; 2 to 5 runs per row",
        "reference set steady",
        "2 runs per task",
        "minimum headroom 0.500",
    ):
        assert part in text
    assert "1 unfinished run left out" in text


def test_different_streams_versions_and_budgets_never_share_a_table(tmp_path):
    write_run(tmp_path, TWO, "a", 0, level(0.5))
    write_run(tmp_path, stream(("a", "b"), points=2, version=2), "a", 0, level(0.5))
    write_run(tmp_path, stream(("a", "c"), points=2), "a", 0, level(0.5))  # the same name, another hash
    found = tables.comparison_tables(find_runs(tmp_path))
    assert sorted((t.stream, len(t.rows)) for t in found) == [("steps@1", 1), ("steps@1", 1), ("steps@2", 1)]
    assert len({t.slug for t in found}) == 3


def test_one_name_with_two_configurations_is_two_rows(tmp_path):
    for strength in (1, 2):
        write_run(tmp_path, TWO, "ewc", 0, level(0.5), config={"strength": strength})
    (table,) = tables.comparison_tables(find_runs(tmp_path))
    assert len(table.rows) == 2
    assert all(re.fullmatch(r"ewc #[0-9a-f]{6}", r.label) for r in table.rows)


def test_a_run_and_its_packed_copy_count_once_but_a_repeated_seed_is_said(tmp_path):
    folder = write_run(tmp_path / "runs", TWO, "ewc", 0, level(0.5))
    pack([folder], tmp_path / "packed", team="lab", date="2026-11-01", tuning="none", notes="")
    (table,) = tables.comparison_tables(find_runs(tmp_path))
    assert len(table.rows[0].runs) == 1
    assert "1 copy of a run counted once." in table.remarks
    write_run(tmp_path / "again", TWO, "ewc", 0, level(0.3))
    (table,) = tables.comparison_tables(find_runs(tmp_path))
    assert len(table.rows[0].runs) == 2
    assert any("seed 0 occurs more than once" in remark for remark in table.remarks)


def test_adding_an_agent_changes_no_other_number(root, table):
    runs = [run for run in find_runs(root / "runs") if run.agent != "flat"]
    (without,) = tables.comparison_tables(runs, root)
    for name in tables.HEADLINE:
        assert formats.text(row(without, "steady").entries[name]) == formats.text(row(table, "steady").entries[name])


def test_latex_escapes_and_marks_the_best(table):
    text = formats.latex(table)
    assert r"steady & 5 & \textbf{0.620} [0.600, 0.640]" in text
    assert r"steady (joint)" in text and r"\toprule" in text
    assert formats.escape_latex("50 % of a_b & c\\d") == r"50 \% of a\_b \& c\textbackslash{}d"


def test_every_column_comes_from_the_table_of_metrics():
    assert set(tables.HEADLINE) < set(metrics.METRICS)
    assert formats.arrow("performance") == "↑" and formats.arrow("forgetting") == "↓" and formats.arrow("hours") == "↓"


# -- figures -------------------------------------------------------------------------------------------------------------


def test_curves_are_means_over_runs_at_the_steps_that_were_evaluated(table):
    curve = curves.along_stream(row(table, "steady"), 0)
    assert curve.x.tolist() == [0, 500, 1000, 2000]  # a is not evaluated within the phase of b
    assert curve.value == pytest.approx([0.1, 0.4, 0.8, 0.54])
    mean = curves.along_stream(row(table, "steady"), None)
    assert mean.x.tolist() == [0, 1000, 2000]
    assert mean.value == pytest.approx([0.1, 0.5, 0.62])
    few = curves.along_stream(row(table, "few"), 0)
    assert (few.low[0], few.high[0], few.method) == (pytest.approx(0.2), pytest.approx(0.4), "range of runs")


def test_boundary_scores_begin_with_the_untrained_agent(table):
    assert curves.boundary_scores(row(table, "steady")) == pytest.approx(np.array([[0.1, 0.1], [0.8, 0.2], [0.54, 0.7]]))


def test_an_agent_has_one_look_and_two_agents_never_the_same():
    names = [f"agent-{n}" for n in range(40)]
    assigned = palette.looks(names)
    assert len(set(assigned.values())) == 40
    assert palette.looks(["ewc"])["ewc"] == palette.looks(["ewc"])["ewc"]
    assert len({look.colour for look in palette.looks(names[:11]).values()}) == 11
    assert palette.looks(reversed(names)) == assigned


@pytest.fixture(scope="module")
def drawn(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return {name: figures.save(draw(table), folder / name, (".svg",))[0] for name, draw in figures.FIGURES.items()}


def test_every_figure_can_be_drawn(drawn):
    assert set(drawn) == {"headline", "performance", "success-over-time", "matrices", "forgetting", "few-shot", "differences"}


@pytest.mark.parametrize("name", ["success-over-time", "matrices", "headline"])
def test_svg_is_the_same_bytes_every_time_and_has_no_date(table, drawn, tmp_path, name):
    again = figures.save(figures.FIGURES[name](table), tmp_path / name, (".svg",))[0].read_bytes()
    assert again == drawn[name].read_bytes()
    assert b"<dc:date>" not in again


def test_widths_are_those_of_one_and_two_columns(table):
    assert figures.forgetting(table).get_figwidth() == 3.25
    assert figures.success_over_time(table).get_figwidth() == 6.75


def test_drawing_leaves_the_settings_of_matplotlib_alone(table):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.performance(table)
    assert dict(matplotlib.rcParams) == before


def test_a_cell_that_was_not_evaluated_is_hatched(tmp_path):
    write_run(tmp_path, stream(("a", "b"), role="single", only=0, points=2, shots=False), "alone", 0, level(0.5))
    (run,) = find_runs(tmp_path)
    assert np.isnan(curves.run_boundary_scores(run)[1, 1])  # a single run is evaluated on its own task only
    scores = tables.Row("alone", (run,), (), {}, Interval(0, 0, 0, "", 1), False)
    spec = {**run.spec, "phases": [{"columns": [0], "units": 1000, "points": 2}]}
    table = tables.Table("s@1", "s@1", "smoke", "0" * 64, spec, (scores,), None, "steps", agents=("alone",))
    figure = figures.matrices(table)
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 1


# -- site ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory):
    """A site of runs whose task names and hardware are hostile."""
    root = tmp_path_factory.mktemp("site")
    lived = stream(HOSTILE, points=2)
    for agent, value in (("ewc", 0.5), ("replay", 0.7)):
        for seed in range(2):
            write_run(root / "runs", lived, agent, seed, level(value), provenance={"cpu_model": HOSTILE[0], "packages": []})
    return root, site.build([root / "runs"], root / "site")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("href", "src")]


def parsed(file):
    tags = Tags()
    tags.feed(file.read_text())
    return tags


def test_the_site_has_the_documented_parts(hostile_site):
    root, files = hostile_site
    names = {file.relative_to(root / "site").as_posix() for file in files}
    assert files[0] == root / "site" / "index.html"
    assert {"index.html", "assets/plotly.min.js", "assets/tables.js", "assets/style.css", "agents/ewc.html", "agents/replay.html"} <= names
    assert sum(name.startswith("runs/") for name in names) == 4
    assert {name.rpartition("-")[2] for name in names if name.startswith("data/")} == {"table.csv", "table.tex", "evals.csv", "shot.csv"}
    assert all(file.stat().st_size for file in files)


def test_strings_of_strangers_stay_text(hostile_site):
    _, files = hostile_site
    for file in files:
        if file.suffix == ".html":
            tags = parsed(file)
            assert not [a for tag, a in tags.seen if tag == "img" and a.get("src") == "x"], file
            assert not [a for _, a in tags.seen if "onerror" in a], file
            assert "<script>alert" not in file.read_text(), file


def test_every_link_leads_to_a_file_and_none_leaves_the_site(hostile_site):
    _, files = hostile_site
    for file in files:
        if file.suffix == ".html":
            for link in parsed(file).links:
                assert "://" not in link and not link.startswith("/"), (file, link)
                assert (file.parent / link).is_file(), (file, link)


def test_under_each_figure_stand_runs_seeds_and_method(hostile_site):
    _, files = hostile_site
    page = next(file for file in files if file.parent.name == "streams").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    assert len(captions) == len(re.findall("<figure ", page)) >= 6
    assert all("2 runs per agent (seeds 0-1)" in caption for caption in captions)


def test_plotly_is_loaded_once_and_not_written_into_pages(hostile_site):
    _, files = hostile_site
    page = next(file for file in files if file.parent.name == "streams")
    assert page.stat().st_size < 400_000
    assert [link for link in parsed(page).links if "plotly" in link] == ["../assets/plotly.min.js"]


def test_the_same_runs_give_the_same_pages(hostile_site, tmp_path, monkeypatch):
    root, files = hostile_site
    monkeypatch.setattr(figures, "SUFFIXES", (".svg",))
    again = {file.relative_to(tmp_path).as_posix(): file for file in site.build([root / "runs"], tmp_path)}
    for file in files:
        if file.suffix in (".html", ".csv", ".tex", ".svg"):
            name = file.relative_to(root / "site").as_posix()
            if not name.startswith("streams/"):  # they link to PNG and PDF, which were not drawn again
                assert again[name].read_bytes() == file.read_bytes(), name


def test_runs_given_one_by_one_make_the_same_table(tmp_path):
    folders = write_grid(tmp_path, stream(("a", "b"), points=2, shots=False), ["ewc"], [0, 1])
    found = [run for folder in folders for run in find_runs(folder)]
    (table,) = tables.comparison_tables(found)
    assert table.rows[0].seeds == (0, 1)
