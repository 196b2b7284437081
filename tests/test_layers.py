"""Who may know whom, read from the syntax trees: imports point down, the wings do not know each other, heavy libraries stay inside."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"clbench": ROOT / "clbench", "clbench.agents": ROOT / "agents", "clbench.task_streams": ROOT / "task_streams"}
HEAVY = (
    "torch",
    "mujoco",
    "metaworld",
    "gymnasium",
    "pandas",
    "scipy",
    "matplotlib",
    "plotly",
    "hydra",
    "omegaconf",
    "rich",
    "itables",
    "jinja2",
)


@cache
def modules():
    """Module name -> its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name, *, top_level=False):
    """Every module that `name` imports, as written out in full; `top_level`: only what importing it imports."""
    file = modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree) if not top_level else _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [parent, node.module or ""]))
            yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base for alias in node.names)


def _executed(tree):
    """The nodes of a module that run when it is imported: not those of functions and of `if TYPE_CHECKING`."""
    for node in tree.body if isinstance(tree, ast.Module) else ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _executed(node)


def within(package):
    return [name for name in modules() if name == package or name.startswith(f"{package}.")]


def is_in(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


REFEREE = [name for name in modules() if not is_in(name, "clbench.agents", "clbench.task_streams")]


@pytest.mark.parametrize("name", REFEREE)
def test_the_referee_knows_neither_agents_nor_courses(name):
    assert not [i for i in imports(name) if is_in(i, "clbench.agents", "clbench.task_streams", "agents", "task_streams", "configs")]


@pytest.mark.parametrize("wing, other", [("agents", "task_streams"), ("task_streams", "agents")])
def test_the_wings_do_not_know_each_other(wing, other):
    for name in within(f"clbench.{wing}"):
        assert not [i for i in imports(name) if is_in(i, f"clbench.{other}", other, wing)], name


@pytest.mark.parametrize("name", within("clbench.agents") + within("clbench.task_streams"))
def test_the_wings_know_what_a_stranger_may_know(name):
    referee = {i for i in imports(name) if is_in(i, "clbench") and not is_in(i, "clbench.agents", "clbench.task_streams")}
    private = (
        "clbench.protocol",
        "clbench.runs",
        "clbench.store",
        "clbench.commands",
        "clbench.cli",
        "clbench.configuration",
        "clbench.report",
    )
    assert not [i for i in referee if is_in(i, *private)]


def test_imports_point_one_way():
    graph = {name: {i for i in imports(name) if i in modules() and i != name} for name in REFEREE if name != "clbench"}
    graph["clbench"] = set()  # its lazy names come from everywhere
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def allowed(package, *below):
    for name in within(package):
        for imported in imports(name):
            if is_in(imported, "clbench") and not is_in(imported, package):
                yield name, imported, is_in(imported, *below)


@pytest.mark.parametrize(
    "package, below",
    [
        ("clbench.metrics", ["clbench.errors", "clbench.matrix"]),
        ("clbench.statistics", ["clbench.errors"]),
        ("clbench.interfaces", ["clbench.experience"]),
        ("clbench.progress", ["clbench.output"]),
        ("clbench.catalogue", ["clbench.registry", "clbench.errors"]),
    ],
)
def test_layers_know_only_those_below(package, below):
    assert [(name, imported) for name, imported, fine in allowed(package, *below) if not fine] == []


def test_the_report_runs_nothing():
    for name in within("clbench.report"):
        forbidden = ("clbench.runs", "clbench.protocol", "clbench.registry", "clbench.configuration", "clbench.commands")
        assert not [i for i in imports(name) if is_in(i, *forbidden, "torch", "mujoco")], name


def test_commands_are_known_by_the_command_line_alone():
    for name in REFEREE:
        known = {i for i in imports(name) if is_in(i, "clbench.commands")}
        shared = {"clbench.commands.run_states"} if is_in(name, "clbench.commands") else set()
        assert known <= shared, name


@pytest.mark.parametrize("name", REFEREE)
def test_heavy_libraries_are_imported_where_they_are_used(name):
    hydra = {"clbench.overrides", "clbench.schemas", "clbench.composition", "clbench.configuration"}
    fine = (
        {"hydra", "omegaconf"} if name in hydra else {"scipy", "matplotlib", "plotly", "itables", "jinja2"} if "report" in name else set()
    )
    fine |= {"scipy"} if name == "clbench.statistics" else set()
    heavy = {i.partition(".")[0] for i in imports(name, top_level=True)} & set(HEAVY) - fine
    assert not heavy
