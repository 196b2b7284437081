"""Whether a run's stream is one that this version of clbench builds: what a table may compare, and what nobody can check.

The description in a run's manifest says which variant it claims to be; that variant is built anew here and the two are compared key by key.
Installed versions of the simulator are part of a description but not of this comparison: those must lie in the range that clbench asks for.
Of an earlier version of a stream nothing is compared: its packs are those that landed while it was the present one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import requires
from typing import Any

from . import catalogue, configuration
from .errors import UserError
from .stream import plain

SIMULATORS = ("metaworld", "mujoco")


def contradiction(spec: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Key, what this version has there and what `spec` has, for the first difference; None where `spec` is a stream of this version."""
    built = _built(spec)
    if built is None:
        return "stream", "a stream of this version, as clbench list streams names them", f"{spec.get('name')}@{spec.get('version')}"
    ours, theirs = dict(built), dict(plain(spec))
    ours["options"], theirs["options"] = dict(ours.get("options") or {}), dict(theirs.get("options") or {})
    for name in SIMULATORS:
        installed, found = ours["options"].pop(name, None), theirs["options"].pop(name, None)
        allowed = _range(name)
        if installed is not None and (not isinstance(found, str) or not _inside(found, allowed)):
            return f"stream.spec.options.{name}", allowed or "any version", str(found)
    for key in (*ours, *sorted(theirs.keys() - ours.keys())):
        if ours.get(key) != theirs.get(key):
            return f"stream.spec.{key}", str(ours.get(key)), str(theirs.get(key))
    return None


def is_earlier(spec: Mapping[str, Any]) -> bool:
    """Whether `spec` is of a version before this one's, which builds no such stream any more."""
    built, version = _built(spec), spec.get("version")
    return built is not None and type(version) is int and 0 < version < built["version"]


def _built(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of the stream that `spec` claims to be, as this version builds it; None where it has none of that name."""
    family = str(spec.get("family"))
    for base in sorted(catalogue.files("stream"), key=len, reverse=True):
        if family != base and not family.startswith(f"{base}-"):
            continue
        options: dict[str, Any] = {} if spec.get("boundaries") else {"boundaries": False}
        if family != base:
            options["identity"] = family.removeprefix(f"{base}-")
        if spec.get("role") == "joint":
            options["joint"] = True
        if spec.get("role") == "single":
            options["only"] = spec["phases"][0]["columns"][0]
        try:
            return _description(base, str(spec.get("budget")), tuple(options.items()))
        except UserError:
            return None
    return None


@cache
def _description(name: str, budget: str, options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Of a stream of this version; not to be changed, the runs of a pack share it."""
    return plain(configuration.stream_named(name, budget, dict(options)).spec())


@cache
def _range(distribution: str) -> str:
    """The versions of `distribution` that clbench asks for, as in `>=3.1,<4`; empty where it asks for none."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requires("clbench") or []]
    return next((str(each.specifier) for each in wanted if each.name == distribution and each.marker is None), "")


def _inside(version: str, allowed: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(allowed).contains(version, prereleases=True)
    except InvalidVersion:
        return False
