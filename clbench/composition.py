"""Hydra at work: defaults lists, overrides and types in, one plain tree out; its refusals in our words.

Compose API only: no output folder, no logging, no working directory is touched, and nothing is instantiated. Our own package is searched
first, so that nobody shadows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import catalogue, registry
from .errors import UserError, unknown_name
from .overrides import parse
from .schemas import OWN_FIELDS, PARTS, broken_parts

CHOSEN = "__chosen__"
"""The name under which the chosen agent and stream are composed, whatever they are called and wherever they come from."""

_UNUSED = [f"~hydra/{group}" for group in ("env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper")]
"""Hydra's own settings, for an application of its kind: without them composing takes three quarters of the time."""


def _composed(overrides: Sequence[str]) -> DictConfig:
    search = [f"pkg://{package}" for package in catalogue.packages() if package != catalogue.OWN]
    extra = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    with hydra.initialize_config_module(version_base="1.3", config_module=catalogue.OWN):
        return hydra.compose("config", overrides=[*overrides, *extra, *_UNUSED])


def compose(nodes: Mapping[str, DictConfig], words: Sequence[str], budget: str) -> dict[str, Any]:
    """The composed configuration of the chosen agent and stream (either may be missing) under the overrides `words`, in plain types."""
    written = [_part_choice(word, nodes) for word in words]
    try:
        config = _of_chosen(nodes, budget, written)
    except RecursionError as error:
        raise UserError(
            "the defaults of the agent's file lead back to itself; name another agent there, as in defaults: [ewc, _self_]"
        ) from error
    except ValueError as error:  # what stands in a defaults list
        raise UserError(f"the defaults of the agent's file: {_first_line(error)}; expected names, as in defaults: [ewc, _self_]") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, _selected(nodes, budget), written) from error
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    return _plain(tree)


def compose_alone(nodes: Mapping[str, DictConfig], words: Sequence[str], budget: str) -> dict[str, Any] | None:
    """As `compose`, of a part of what belongs together; None where that cannot be said of a part: what is refused, or looks elsewhere."""
    try:
        config = _of_chosen(nodes, budget, [_part_choice(word, nodes) for word in words])
        tree = OmegaConf.to_container(config, resolve=False)
        return None if "${" in repr(tree) else _plain(tree)
    except (RecursionError, ValueError, HydraException, OmegaConfBaseException, UserError):
        return None


def _selected(nodes: Mapping[str, DictConfig], budget: str) -> list[str]:
    return [f"{group}={CHOSEN}" if group in nodes else f"~{group}" for group in ("stream", "agent")] + [f"budget={budget}"]


def _of_chosen(nodes: Mapping[str, DictConfig], budget: str, written: Sequence[str]) -> DictConfig:
    store = ConfigStore.instance()
    for group, node in nodes.items():
        store.store(group=group, name=CHOSEN, node=node, provider="clbench")
    if budget not in catalogue.files("budget"):
        store.store(group="budget", name=budget, node={"name": budget}, provider="clbench")
    if _of_parts(nodes) or any("@" in word.partition("=")[0] for word in written):
        broken_parts()  # the parts' schemas; who is made of none need not wait until torch is imported for them
    return _composed([*_selected(nodes, budget), *written])


def _plain(tree: Any) -> dict[str, Any]:
    plain = {str(key): _named_first(value) for key, value in tree.items()}
    _refuse_missing(plain)
    return plain


def _named_first(value: Any) -> Any:
    """A mapping with its name, version, kind and description in front, for eyes."""
    if not isinstance(value, Mapping):
        return value
    front = {key: value[key] for key in OWN_FIELDS["stream"] if key in value}
    return {**front, **{key: item for key, item in value.items() if key not in front}}


def _of_parts(nodes: Mapping[str, DictConfig]) -> bool:
    return "defaults" in nodes.get("agent", {})


def _part_choice(word: str, nodes: Mapping[str, DictConfig]) -> str:
    """`agent.text.backbone=rmt` and `agent.methods.replay=replay` as the choice of a part, where the agent is made of parts.

    Other words come back without `+`, which adds any key.
    """
    word = word.lstrip("+")
    key, _, typed = word.partition("=")
    value, path = typed.strip("'\""), key.split(".")
    if path[0] != "agent" or not _of_parts(nodes) or value.startswith(("{", "[")):
        return word
    if len(path) == 3 and path[2] in ("learner", "backbone"):
        return f"{path[2]}@{key}={_part_name(path[2], value)}"
    if len(path) == 3 and path[1] == "methods":
        defaults = OmegaConf.select(nodes["agent"], "defaults") or []
        there = any(f"/method@methods.{path[2]}" in entry for entry in defaults if isinstance(entry, Mapping | DictConfig))
        return f"{'' if there else '+'}method@{key}={_part_name('method', value)}"
    return word


def _part_name(group: str, name: str) -> str:
    known = {*registry.providers(PARTS[group]), *catalogue.files(group)}
    if name not in known:
        raise unknown_name(group, name, known, f"clbench list {group}s")
    return name


def _refuse_missing(tree: Mapping[str, Any], where: str = "") -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _refuse_missing(value, f"{where}{key}.")
        elif value == MISSING:
            raise UserError(f"{where}{key} is required and has no value; add {where}{key}=VALUE")


def _explained(error: Exception, selected: Sequence[str], words: Sequence[str]) -> UserError:
    """Our message for what Hydra refused: the key, the nearest key, the type that was expected."""
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    for word in words:
        parse(word)
    try:
        config = _composed([*selected, *(word for word in words if "@" in word.partition("=")[0])])
    except MissingConfigException as missing:
        return _missing_file(missing)
    except (HydraException, OmegaConfBaseException) as deeper:
        return UserError(_first_line(deeper))
    for word in words:
        if "@" not in word.partition("=")[0] and (problem := _problem(config, parse(word))):
            return UserError(problem)
    return UserError(_first_line(error))


def _missing_file(error: MissingConfigException) -> UserError:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    if (broken := broken_parts().get((group, name))) is not None:
        return broken
    return unknown_name(group or "configuration", name, [o for o in error.options or () if o != CHOSEN], f"clbench list {group}s")


def _problem(config: DictConfig, override: Override) -> str | None:
    """What is wrong with one override of a value, or None."""
    node: Any = config
    path = str(override.get_key_element()).split(".")
    for depth, key in enumerate(path):
        known = [str(k) for k in node] if isinstance(node, DictConfig) else []
        if key not in known:
            return _unknown_key(path[:depth], key, known, config)
        if depth < len(path) - 1:
            node = node._get_node(key) if OmegaConf.is_missing(node, key) else node[key]  # pyright: ignore[reportPrivateUsage]
    value = override.value()
    try:
        trial = config.copy()
        OmegaConf.update(trial, ".".join(path), value, merge=True)
    except OmegaConfBaseException:
        hint = _type_of(node, path[-1])
        return f"{'.'.join(path)}: expected {registry.describe_type(hint)}, got {value!r}"
    return None


def _type_of(node: DictConfig, key: str) -> Any:
    field = node._get_node(key)  # pyright: ignore[reportPrivateUsage]  OmegaConf has no public way to a field's type
    return Any if field is None or isinstance(field, list) else field._metadata.ref_type  # pyright: ignore[reportPrivateUsage]


def _unknown_key(above: Sequence[str], key: str, known: Sequence[str], config: DictConfig) -> str:
    where = ".".join([*above, key])
    if not known:
        return f"unknown key '{where}': {'.'.join(above)} is a value and has no keys; type {'.'.join(above)}=VALUE"
    deeper = _deeper(OmegaConf.select(config, ".".join(above)) if above else config, key)
    near = deeper or get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join('.'.join([*above, n]) for n in near)}? " if near else ""
    device = "The device is no option of an agent: type device=VALUE. " if key == "device" else ""
    return f"unknown key '{where}'. {device}{hint}Known here: {', '.join(sorted(known))}"


def _deeper(node: Any, key: str) -> list[str]:
    """Paths below `node` that end in `key` or nearly so: what was meant by `agent.strength=5`."""
    paths: dict[str, str] = {}

    def visit(part: Any, path: list[str]) -> None:
        if isinstance(part, Mapping):
            for name, value in part.items():
                paths.setdefault(".".join([*path, str(name)]), str(name))
                visit(value, [*path, str(name)])

    visit(OmegaConf.to_container(node) if isinstance(node, DictConfig) else {}, [])
    names = get_close_matches(key, sorted(set(paths.values())), n=1, cutoff=0.8)
    return [path for path, name in paths.items() if name in names][:3]


def _first_line(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().split("\n")[0]
