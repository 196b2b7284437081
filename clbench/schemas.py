"""Schemas of configuration, made from constructors: keyword parameters become typed fields, their defaults stand there alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, make_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import registry
from .errors import UserError

PARTS = {"learner": "learners", "backbone": "backbones", "method": "methods"}
"""Groups of parts, and the entry points their constructors come from."""
OWN_FIELDS = {"agent": ("name", "kind", "description"), "stream": ("name", "version", "kind", "description", "budget")}
"""What a file says beside the options of its constructor."""


def schema(constructor: Callable[..., Any], leave_out: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """The keyword parameters of `constructor` as dataclass fields."""
    types = registry.types_of(constructor)
    return [
        (name, _omega_type(types.get(name, Any)), _default(parameter.default))
        for name, parameter in registry.options_of(constructor).items()
        if name not in leave_out
    ]


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return field(default=MISSING)
    if isinstance(value, list | tuple | Mapping | set):
        plain = dict(value) if isinstance(value, Mapping) else list(value)
        return field(default_factory=lambda: plain.copy())
    return field(default=value)


def _omega_type(hint: Any) -> Any:
    """The nearest type that OmegaConf checks; what it does not know is checked by the registry alone."""
    origin: Any = get_origin(hint)
    arguments = get_args(hint)
    if hint in (int, float, bool, str, NoneType) or (inspect.isclass(hint) and issubclass(hint, Enum)):
        return hint
    if origin is Literal and all(isinstance(a, str) for a in arguments):
        return str
    if origin in (Union, UnionType):
        members = [_omega_type(a) for a in arguments]
        several = sum(member is not NoneType for member in members) > 1
        if Any in members or dict[str, Any] in members or (several and any(get_origin(member) is list for member in members)):
            return Any  # OmegaConf cannot put a mapping where a typed one is None, and knows no unions of lists
        return Union[tuple(members)]  # noqa: UP007  built from a list
    if inspect.isclass(origin):
        if issubclass(origin, Mapping):  # type: ignore[arg-type]
            return dict[str, Any]
        if issubclass(origin, Sequence):  # type: ignore[arg-type]
            members = [a for a in arguments if a is not ...]
            inner = _omega_type(members[0]) if len(set(members)) == 1 else Any
            return list[inner if inner in (int, float, bool, str) else Any]
    return Any


@cache
def broken_parts() -> dict[tuple[str, str], UserError]:
    """Store a node for every learner, backbone and method; those that cannot be imported are remembered and refused when chosen."""
    broken: dict[tuple[str, str], UserError] = {}
    store = ConfigStore.instance()
    for group, entry_points in PARTS.items():
        for name in registry.providers(entry_points):
            try:
                fields = schema(registry.load(entry_points, name))
            except UserError as error:
                broken[group, name] = error
                continue
            part = make_dataclass(_class_name(name), [("kind", str, field(default=name)), *fields])
            store.store(group=group, name=name, node=part, provider="clbench")
    return broken


def _class_name(name: str) -> str:
    return re.sub(r"\W", "_", name.title()) or "Part"


def node(group: str, values: Mapping[str, Any], constructor: Callable[..., Any], where: str) -> DictConfig:
    """The typed node of the chosen agent or stream: the constructor's parameters, with `values` from its file."""
    own = OWN_FIELDS[group]
    defaults = values.get("defaults", [])
    composed = targets(defaults)
    fields: list[tuple[str, Any, Any]] = [
        ("name", str, field(default=MISSING)),
        ("kind", str, field(default=MISSING)),
        ("description", str, field(default="")),
    ]
    if group == "stream":
        fields += [("version", int, field(default=1)), ("budget", str, field(default=MISSING))]
    options = schema(constructor, {*own, "device"} if group == "agent" else own)
    known = [name for name, *_ in [*fields, *options]]
    inherits = any(isinstance(entry, str) and entry != "_self_" for entry in defaults)
    fields += [option for option in options if option[0] in values or not (inherits or option[0] in composed)]
    if defaults:
        fields.insert(0, ("defaults", list[Any], field(default_factory=lambda: list(defaults))))
    made: Any = OmegaConf.structured(make_dataclass(_class_name(group), fields))
    for key, value in values.items():
        if key == "defaults":
            continue
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; {near(key, known)}known: {', '.join(sorted(known))}")
        hint = _hint(constructor, key)
        try:
            if not registry.fits(value, hint):  # OmegaConf takes 7 for true
                raise OmegaConfBaseException
            made.merge_with({key: value})
        except OmegaConfBaseException as error:
            raise UserError(f"{where}: {key}: expected {registry.describe_type(hint)}, got {value!r}") from error
    return made


def targets(defaults: Any) -> set[str]:
    """The options that a defaults list fills: `{/method@methods.ewc: ewc}` fills `methods`."""
    keys = [key for entry in defaults if isinstance(entry, Mapping) for key in entry]
    return {str(key).partition("@")[2].partition(".")[0] for key in keys if "@" in str(key)}


def near(key: str, known: Iterable[str]) -> str:
    names = get_close_matches(key, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(names)}? " if names else ""


def _hint(constructor: Callable[..., Any], key: str) -> Any:
    own = {"name": str, "kind": str, "description": str, "version": int, "budget": str}
    return own.get(key) or registry.types_of(constructor).get(key, Any)
