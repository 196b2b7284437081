"""What is installed: one top-level name, every folder, every data file, an entry point and a configuration for every agent and stream."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

from clbench import catalogue, registry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
WINGS = {"clbench": "clbench", "agents": "clbench.agents", "task_streams": "clbench.task_streams", "configs": "clbench.configs"}
ENTRY_POINTS = {
    group.removeprefix("clbench."): points for group, points in PROJECT["project"]["entry-points"].items() if group.startswith("clbench.")
}


def folders():
    for wing, package in WINGS.items():
        for folder in sorted({file.parent for file in (ROOT / wing).rglob("*.py") if "__pycache__" not in file.parts}):
            yield ".".join([package, *folder.relative_to(ROOT / wing).parts])


def test_every_folder_is_a_package_and_every_package_a_folder():
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders())


def test_every_kind_of_data_file_is_packed():
    patterns = SETUPTOOLS["package-data"]["*"]
    files = [f for wing in WINGS for f in (ROOT / wing).rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
    assert [f for f in files if not any(f.match(pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("group", sorted(ENTRY_POINTS))
def test_every_entry_point_loads(group):
    for name, value in ENTRY_POINTS[group].items():
        assert registry.NAME.fullmatch(name), name
        module, _, attribute = value.partition(":")
        loaded = import_module(module)
        assert not attribute or callable(getattr(loaded, attribute)), name


def files(folder):
    return {f"clbench.{f.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}" for f in (ROOT / folder).glob("*.py")}


def modules(group):
    return {value.partition(":")[0] for value in ENTRY_POINTS[group].values()}


@pytest.mark.parametrize("group, name", [(g, n) for g in ("agents", "streams") for n in ENTRY_POINTS.get(g, ())])
def test_every_agent_and_stream_kind_has_a_configuration(group, name):
    kinds = {file.read().get("kind") for file in catalogue.files(group.removesuffix("s")).values()}
    assert name in kinds


@pytest.mark.parametrize("group", ["methods", "backbones"])
def test_every_part_is_reached_from_a_configuration(group):
    text = " ".join(file.path.read_text() for file in catalogue.files("agent").values())
    unused = [name for name in ENTRY_POINTS[group] if f"/{group.removesuffix('s')}@" not in text or f": {name} " not in text]
    assert unused == []


def test_every_agent_file_has_an_entry_point():
    helpers = {"clbench.agents.__init__"}
    assert files("agents") - helpers - modules("agents") == set()


@pytest.mark.parametrize("wing", ["clbench", "agents", "task_streams"])
def test_types_are_declared(wing):
    assert (ROOT / wing / "py.typed").is_file()


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda f: f.relative_to(ROOT / "configs").as_posix())
def test_every_configuration_is_commented_and_describes_itself(file):
    values = yaml.safe_load(file.read_text())
    lines = file.read_text().splitlines()
    explained = ("description:", "defaults:", "name:", "kind:", "version:", "budgets:")
    bare = [line for above, line in zip(["", *lines], lines, strict=False) if line[:1].isalpha() and "#" not in line and above[:1] != "#"]
    assert [line for line in bare if not line.startswith(explained) and len(line) < 100] == []
    if file.parent.name in ("agent", "stream", "experiment", "budget", "reproduce"):
        assert values["name"] == file.stem
        assert len(values["description"]) > 10


def test_installed_entry_points_are_those_of_the_project():
    """An editable install keeps its own list: install again after a change (pip install -e . --no-deps)."""
    installed = {(p.group, p.name, p.value) for p in distribution("clbench").entry_points if p.group.startswith("clbench.")}
    declared = {(f"clbench.{group}", name, value) for group, points in ENTRY_POINTS.items() for name, value in points.items()}
    assert declared == installed


def test_the_wheel_has_one_top_level_name_and_all_files(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for wing in WINGS:
        shutil.copytree(ROOT / wing, source / wing, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"clbench"}
    for wing, package in WINGS.items():
        for file in (ROOT / wing).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"{package.replace('.', '/')}/{file.relative_to(ROOT / wing).as_posix()}" in names
