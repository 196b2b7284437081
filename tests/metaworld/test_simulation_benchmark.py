"""What the benchmark of simulation says of rates that are known."""

import math

from rich.console import Console

from clbench.output import Output
from clbench.task_streams.metaworld.simulation_benchmark import Row, Simulation


def text(found: Simulation) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(found.table())
    return capture.get()


def test_means_are_geometric_and_bars_are_about_exact_mode() -> None:
    """Ratios 4 and 2.25 have the mean 3; shares .5 and .9 have the mean sqrt(.45) = .67."""
    found = Simulation((Row("a", 400.0, 500.0, 100.0, 800.0), Row("b", 900.0, 900.0, 400.0, 1000.0)), 2)
    assert math.isclose(found.mean(lambda row: row.exact / row.reference), 3.0)
    assert found.fulfilled and "3.00" in text(found) and "0.67" in text(found) and "envpool" not in text(found)
    assert not Simulation((Row("a", 200.0, 500.0, 100.0, 300.0),), 2).fulfilled  # twice, where it must be 2.5 times
    assert not Simulation((Row("a", 400.0, 500.0, 100.0, 1000.0),), 2).fulfilled


def test_envpool_stands_below_where_it_was_measured() -> None:
    """Exact over EnvPool: 2 and 8, geometric mean 4; a task without it counts for nothing."""
    rows = (Row("a", 400.0, 1.0, 1.0, 500.0, 200.0), Row("b", 800.0, 1.0, 1.0, 900.0, 100.0), Row("c", 1.0, 1.0, 1.0, 1.0))
    said = " ".join(text(Simulation(rows, 2)).split())
    assert "helper" not in said
    assert "exact over envpool, which draws its own positions: 4.00 (a 2.00, b 8.00)" in said


def test_where_nobody_looks_on_the_lines_below_the_table_are_written_too(capsys) -> None:
    """They were left out of redirected output."""
    Output(quiet=True).measured(Simulation((Row("a", 400.0, 500.0, 100.0, 500.0, 200.0, 450.0),), 2).table())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("simulation: 64 environments on 2 threads") and lines[1].startswith("task")
    assert lines[-4] == "with the helper, of physics (at least 0.75): 0.90 (a 0.90)"
    assert lines[-1] == "with the helper, over envpool: 2.25 (a 2.25)"


def test_the_compiled_helper_has_a_bar_of_its_own() -> None:
    rows = (Row("a", 400.0, 1.0, 100.0, 500.0, None, 450.0), Row("b", 400.0, 1.0, 100.0, 500.0, None, 450.0))
    assert Simulation(rows, 2).fulfilled
    said = " ".join(text(Simulation(rows, 2)).split())
    assert "with the helper, of physics (at least 0.75): 0.90 (a 0.90, b 0.90)" in said
    assert not Simulation(tuple(Row(row.task, 400.0, 1.0, 100.0, 500.0, None, 350.0) for row in rows), 2).fulfilled
