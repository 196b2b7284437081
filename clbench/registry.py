"""Names to constructors: entry points are the only door, keyword parameters the only schema.

Groups: agents, learners, backbones, methods, streams, configs, benchmarks, data (entry points `clbench.<group>`). Built-ins and strangers
come in the same way; a name given by two distributions is an error that names both. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError, unknown_name

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@cache
def providers(group: str) -> dict[str, EntryPoint]:
    """The entry points of `clbench.<group>` by name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"clbench.{group}"):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise UserError(
                f"two distributions provide {group} '{point.name}': {_origin(other)} and {_origin(point)}; uninstall one of them"
            )
        found[point.name] = point
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def provider(group: str, name: str) -> str:
    """The distribution and version that provide `name`."""
    return _origin(find(group, name))


def find(group: str, name: str) -> EntryPoint:
    """The entry point called `name`; an unknown name lists the nearest."""
    known = providers(group)
    if name not in known:
        raise unknown_name(group.removesuffix("s"), str(name), known, f"clbench list {group}")
    return known[name]


def load(group: str, name: str) -> Callable[..., Any]:
    """The constructor called `name`."""
    point = find(group, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{group} '{name}' of {_origin(point)} cannot be loaded: {error}") from error


def load_path(reference: str) -> Callable[..., Any]:
    """The class that `./file.py:Name` names, imported once as `clbench_user.<stem>`."""
    file, _, name = reference.rpartition(":")
    if not file or not name.isidentifier():
        raise UserError(f"expected FILE.py:Name, got '{reference}'; for example agent=./mine.py:Mine")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"no file '{file}' (named by agent={reference}); give the path of a Python file, as in ./mine.py:Mine")
    module = _import_file(path.resolve())
    if not hasattr(module, name):
        classes = sorted(n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__)
        near = get_close_matches(name, classes, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UserError(f"'{file}' has no '{name}'. {hint}It defines: {', '.join(classes) or 'no class'}")
    return getattr(module, name)


def _import_file(path: Path) -> ModuleType:
    module_name = f"clbench_user.{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if "clbench_user" not in sys.modules:
        sys.modules["clbench_user"] = ModuleType("clbench_user")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path.name}' is not a Python file; expected FILE.py:Name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent))  # a one-file agent may import its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception):
            line = error.__traceback__
            while line is not None and line.tb_next is not None:
                line = line.tb_next
            where = f" at line {error.lineno}" if isinstance(error, SyntaxError) else (f" at line {line.tb_lineno}" if line else "")
            raise UserError(f"importing '{path.name}' failed{where}: {type(error).__name__}: {error}") from error
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def kebab(name: str) -> str:
    """A class name as the name of an agent: `MyAgent` -> `my-agent`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower().replace("_", "-").strip("-.") or "agent"


def options_of(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of `constructor`: its configuration schema."""
    parameters = inspect.signature(constructor).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def types_of(constructor: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the keyword parameters, resolved."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    try:
        return get_type_hints(function)
    except NameError:
        return {}


def check_options(constructor: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Refuse unknown, missing and wrongly typed options, naming the nearest key."""
    known, types = options_of(constructor), types_of(constructor)
    for key in options:
        if key not in known:
            near = get_close_matches(str(key), known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise UserError(f"{where}: unknown option '{key}'; {hint}known: {', '.join(sorted(known)) or 'none'}")
    missing = [name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty and name not in options]
    if missing:
        raise UserError(f"{where}: option '{missing[0]}' is required; add {where}.{missing[0]}=VALUE")
    for key, value in options.items():
        if key in types and not fits(value, types[key]):
            raise UserError(f"{where}.{key}: expected {describe_type(types[key])}, got {value!r}")


def describe_type(kind: Any) -> str:
    """A type as a person writes it."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else re.sub(r"\b(?:typing|collections\.abc)\.", "", str(kind))


def fits(value: Any, kind: Any) -> bool:
    """Whether a configuration value (numbers, strings, lists, dicts, None) can stand for `kind`; types not known here admit anything."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if kind in (None, NoneType):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return not isinstance(origin, type) or _fits_container(value, origin, arguments)


def _fits_container(value: Any, origin: type, arguments: tuple[Any, ...]) -> bool:
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and (not arguments or all(fits(item, arguments[1]) for item in value.values()))
    if issubclass(origin, Sequence):
        members = [argument for argument in arguments if argument is not ...]
        return isinstance(value, list | tuple) and (not members or all(any(fits(item, member) for member in members) for item in value))
    return True


def build(group: str, kind: str, options: Mapping[str, Any], *positional: Any, where: str | None = None, **fixed: Any) -> Any:
    """Construct the part called `kind` with checked `options`; `fixed` are keyword arguments that are no configuration."""
    constructor = load(group, kind)
    check_options(constructor, {**options, **fixed}, where or f"{group.removesuffix('s')} '{kind}'")
    return constructor(*positional, **options, **fixed)
