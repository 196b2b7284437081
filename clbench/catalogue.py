"""What is there to choose from: the YAML files of every `clbench.configs` package, our own first so that nobody shadows it.

Light on purpose: names and descriptions come from files and package metadata, nothing is imported but folders of YAML.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from . import registry
from .errors import UserError, unknown_name

OWN = "clbench.configs"
GROUPS = ("agent", "stream", "budget", "experiment", "learner", "backbone", "method")
BUILDERS = {"agent": "agents", "stream": "streams"}
"""Which entry-point group the `kind` of a file belongs to."""


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of a group: its name, where it lies, and the distribution it came with (None: a path that was typed)."""

    group: str
    name: str
    path: Path
    provider: str | None

    def read(self) -> dict[str, Any]:
        """The mapping in it, read by the safe loader."""
        return read_yaml(self.path)

    def describe(self) -> str:
        """Its `description` in one line; empty where it has none."""
        return str(self.read().get("description") or "").strip().split("\n")[0]


def packages() -> dict[str, str]:
    """Packages of configuration files with the distribution of each, `clbench.configs` first."""
    points = registry.providers("configs").values()
    return {OWN: "clbench", **{point.value: _distribution(point) for point in sorted(points, key=lambda p: p.name)}}


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


@cache
def files(group: str) -> Mapping[str, ConfigFile]:
    """The files of a group by name, `folder/name` where they lie in one; of two with one name the first package's stands."""
    found: dict[str, ConfigFile] = {}
    for package, provider in packages().items():
        for name, path in _yaml_files(package, provider, group):
            found.setdefault(name, ConfigFile(group, name, path, provider))
    return dict(sorted(found.items()))


def _yaml_files(package: str, provider: str, group: str) -> Iterator[tuple[str, Path]]:
    try:
        folder = Path(str(resources.files(package))) / group
    except (ImportError, TypeError) as error:
        sys.stderr.write(f"clbench: configurations of {provider} cannot be read and are left out: {error}\n")
        return
    yield from ((path.relative_to(folder).with_suffix("").as_posix(), path) for path in sorted(folder.rglob("*.yaml")))


def find(group: str, choice: str) -> ConfigFile:
    """The file that a name or a path (`./reach4.yaml`) stands for."""
    known = files(group)
    if is_path(choice) and choice not in known:
        path = Path(choice)
        if not path.is_file():
            raise UserError(f"no file '{choice}' (named by {group}={choice}); give the path of a YAML file, or see: clbench list {group}s")
        return ConfigFile(group, path.stem, path, None)
    if choice not in known:
        raise unknown_name(group, choice, known, f"clbench list {group}s")
    return known[choice]


def is_path(choice: str) -> bool:
    """Whether a choice is the path of a YAML file and no name."""
    return choice.endswith((".yaml", ".yml")) or "/" in choice


def is_class(choice: str) -> bool:
    """Whether a choice is a class of the user's, `./mine.py:Mine` or `package.module:Mine`, or the file that it stands in, and no name."""
    return ":" in choice or choice.endswith(".py")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; only the safe loader is used, and what is wrong is said with its line."""
    import yaml

    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected YAML in UTF-8, got other bytes ({error.reason})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise UserError(f"{path}{line}: expected YAML, got something else: {problem}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: expected a mapping (key: value), got {type(value).__name__}")
    return value


@cache
def _loader() -> type:
    """The safe loader, with `1e-4` read as a number and a key that stands twice refused."""
    import re

    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' stands twice", key.start_mark)
                seen.add(key.value if isinstance(key.value, str) else id(key))
            return super().construct_mapping(node, deep=deep)

    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


def summary_line(group: str, point: EntryPoint) -> str:
    """What a part is in one line, read from its source without importing it; empty where it cannot be read.

    It is the first line of the module's docstring, or of the class's where a module holds several parts.
    """
    import ast
    from importlib.util import find_spec

    try:
        spec = find_spec(point.module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    alone = sum(other.module == point.module for other in registry.providers(group).values()) == 1
    defined = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr]
    text = ast.get_docstring(tree) if alone else ast.get_docstring(defined[0]) if defined else None
    return (text or "").split("\n")[0]


def comments(path: Path) -> dict[str, str]:
    """What the file says behind `key: value` about each key of its first level."""
    import re

    pattern = re.compile(r"^([A-Za-z_][\w-]*):.*?\s#\s+(.*\S)\s*$")
    return {match[1]: match[2] for line in path.read_text(encoding="utf-8").splitlines() if (match := pattern.match(line))}
