"""From what was typed to a run: names become configuration, configuration becomes objects.

A name, a path or a class is looked up (`choose_*`), composed with what was typed (`composition`), checked once more and constructed; a
`kind` is looked up in the registry, no object is named by a free string. Not here: which files there are (`catalogue`), running (`runs`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from . import catalogue, registry
from .composition import compose, compose_alone
from .errors import ContractError, UserError
from .interfaces import Agent
from .overrides import Typed, quoted, split
from .runs import AgentSpec, Request
from .schemas import OWN_FIELDS, PARTS, near, node
from .stream import TaskStream

CONTRACT = ("begin_task", "learn", "end_task", "policy", "state_dict", "load_state_dict")
T = TypeVar("T")
SEED = re.compile(r"seed=(0|[1-9]\d*)")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Resolved:
    """A run as asked for, the folder for results, and `tree`, the composed configuration in plain types (what `config.yaml` holds)."""

    request: Request
    results_dir: Path
    tree: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.request.folder(self.results_dir)


def resolve(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> Resolved:
    """The run that `overrides` ask for; `given` is a resolved configuration (`RUN/config.yaml`) to start from."""
    return _resolved(overrides, given or {}, None)


def resolve_each(commands: Iterable[Sequence[str]], given: Mapping[str, Any] | None = None) -> Iterator[Resolved]:
    """`resolve` of each; an agent or a stream of which the same is said is composed and built once."""
    known: dict[Hashable, Any] = {}
    for words in commands:
        yield _resolved(words, given or {}, known)


def _resolved(overrides: Sequence[str], given: Mapping[str, Any], known: dict[Hashable, Any] | None) -> Resolved:
    """`known` holds what the runs of one plan share; None: there is but one."""
    typed = split(overrides)
    agent, stream = (typed.literal.get(group) or given.get(group) for group in ("agent", "stream"))
    for group, choice in (("stream", stream), ("agent", agent)):
        if choice is None:
            raise UserError(f"{group} is missing; type {group}=NAME (see: clbench list {group}s)")
    assert agent is not None and stream is not None
    words = [word for word in typed.others if not word.startswith("budget=")]
    words = [f"{key}={given[key]}" for key in ("seed", "threads") if key in given and given[key] is not None] + words
    budget = _budget(typed, given)
    of_stream, of_agent = (repr(stream), budget), repr(agent)
    choices = {
        "stream": _once(known, ("stream", of_stream), lambda: choose_stream(stream, budget)),
        "agent": _once(known, ("agent", of_agent), lambda: choose_agent(agent)),
    }
    tree = _tree(choices, words, budget, known)
    device = typed.literal.get("device", str(given.get("device", tree["device"])))
    tree: dict[str, Any] = {
        **tree,
        "device": device,
        "results_dir": typed.literal.get("results_dir", str(given.get("results_dir", tree["results_dir"]))),
    }
    said = ("built", of_stream, repr(tree["stream"]))
    task_stream = _once(known, said, lambda: build_stream(choices["stream"], tree["stream"]))
    spec = build_agent(choices["agent"], tree["agent"], checked_device(device))
    return Resolved(Request(spec, task_stream, tree["seed"], tree["threads"]), Path(tree["results_dir"]).expanduser(), tree)


def _tree(choices: Mapping[str, Choice], words: Sequence[str], budget: str, known: dict[Hashable, Any] | None) -> dict[str, Any]:
    """The composed configuration; of a plan, agent and stream are composed apart where neither looks at the other or at the seed."""
    nodes = {group: choice.node for group, choice in choices.items()}
    if known is not None:
        said: dict[str, list[str]] = {"stream": [], "agent": [], "seed": []}
        for word in words:
            place = word.partition("=")[0].lstrip("+").rpartition("@")[2].partition(".")[0]
            said["seed" if SEED.fullmatch(word) else place if place in nodes else "stream"].append(word)
        stream, agent = (
            _once(
                known,
                (group, choices[group].where, repr(node), tuple(said[group]), budget),
                lambda group=group, node=node: compose_alone({group: node}, said[group], budget),
            )
            for group, node in nodes.items()
        )
        if stream is not None and agent is not None:
            tree = {"stream": stream["stream"], "agent": agent["agent"], **stream}
            return {**tree, "seed": int(said["seed"][-1].partition("=")[2])} if said["seed"] else tree
    return compose(nodes, words, budget)


def _once(known: dict[Hashable, Any] | None, key: Hashable, make: Callable[[], T]) -> T:
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    return known[key]


def _budget(typed: Typed, given: Mapping[str, Any]) -> str:
    typed_budget = [word.partition("=")[2] for word in typed.others if word.startswith("budget=")]
    before = given.get("budget")
    before = before.get("name") if isinstance(before, Mapping) else before
    name = typed_budget[-1] if typed_budget else str(before or default_budget())
    if not registry.NAME.fullmatch(name):
        raise UserError(f"budget must be a name like smoke, got '{name}'")
    return name


@cache
def default_budget() -> str:
    """The budget that `config.yaml` names."""
    values = read_package_yaml("config.yaml")
    return next(str(entry["budget"]) for entry in values["defaults"] if isinstance(entry, Mapping) and "budget" in entry)


def read_package_yaml(name: str) -> dict[str, Any]:
    """A YAML file of our own package of configurations."""
    return catalogue.read_yaml(Path(str(resources.files(catalogue.OWN))) / name)


def build_stream(choice: Choice, tree: Mapping[str, Any]) -> TaskStream:
    """The task stream of a composed node."""
    accepted = registry.options_of(choice.constructor)
    options = {key: value for key, value in tree.items() if key in accepted}
    registry.check_options(choice.constructor, options, "stream")
    stream = choice.constructor(**options)
    if not isinstance(stream, TaskStream):
        raise ContractError(f"{choice.where}: kind '{tree['kind']}' must return a clbench.TaskStream, got {type(stream).__name__}")
    return replace(stream, kind=stream.kind or tree["kind"], description=tree["description"] or stream.description)


def build_agent(choice: Choice, tree: Mapping[str, Any], device: str) -> AgentSpec:
    """The specification of the agent of a composed node."""
    options = {key: value for key, value in tree.items() if key not in OWN_FIELDS["agent"]}
    identity = checked_parts(options)
    return AgentSpec(tree["name"], choice.constructor, options, device, identity)


def checked_parts(options: Mapping[str, Any], where: str = "agent") -> dict[str, Any]:
    """Check the options of every part (a mapping with a `kind`) against its constructor, once more than Hydra does.

    Returned is what the agent is known by: the same options, but those of a part whose class has `identify(options)` as that says.
    """
    identity = dict(options)
    for key, value in options.items():
        if not isinstance(value, Mapping):
            continue
        group = "methods" if where.endswith("methods") else PARTS.get(str(key))
        if "kind" in value and group is not None:
            rest = {name: option for name, option in value.items() if name != "kind"}
            constructor = registry.load(group, value["kind"])
            registry.check_options(constructor, rest, f"{where}.{key}")
            identify: Callable[[Mapping[str, Any]], Mapping[str, Any]] = getattr(constructor, "identify", dict)
            identity[key] = {"kind": value["kind"], **identify(rest)}
        else:
            identity[key] = checked_parts(value, f"{where}.{key}")
    return identity


def checked_device(name: str) -> str:
    """`name` where it is a device that torch can use here."""
    if not DEVICE.fullmatch(name):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    if name.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"device={name}: torch finds no CUDA device here; use device=cpu or device=auto")
        count = torch.cuda.device_count()
        if ":" in name and int(name.partition(":")[2]) >= count:
            raise UserError(f"device={name}: there are {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
    return name


# -- choices: a name, a path or a mapping becomes a node ----------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The chosen agent or stream: its constructor, its node, and where it came from (for messages)."""

    constructor: Callable[..., Any]
    node: DictConfig
    where: str


def choose_agent(choice: str | Mapping[str, Any]) -> Choice:
    """The agent that a name, `./mine.yaml`, `./mine.py:Mine` or the `agent` part of a resolved configuration stands for."""
    if isinstance(choice, str) and catalogue.is_class(choice):
        constructor = registry.load_path(choice)
        _check_agent(constructor, choice)
        return Choice(
            constructor, node("agent", {"name": registry.kebab(constructor.__name__), "kind": choice}, constructor, choice), choice
        )
    values, where = _values("agent", choice)
    constructor = _constructor("agent", values, where)
    return Choice(constructor, node("agent", values, constructor, where), where)


def choose_stream(choice: str | Mapping[str, Any], budget: str) -> Choice:
    """The stream that a name, `./reach4.yaml` or the `stream` part of a resolved configuration stands for, with its `budget`."""
    values, where = _values("stream", choice)
    if "defaults" in values:
        raise UserError(f"{where}: a stream stands in one file and has no 'defaults'; copy the keys you need")
    constructor = _constructor("stream", values, where)
    budgets = values.pop("budgets", None)
    if budgets is not None:
        if not isinstance(budgets, dict) or not all(isinstance(section, dict | None) for section in budgets.values()):
            raise UserError(f"{where}: budgets: expected a mapping of names to options, got {budgets!r}")
        if budget not in budgets:
            hint = near(budget, budgets).replace("did", "Did")
            raise UserError(f"stream '{values['name']}' has no budget '{budget}'. {hint}Known: {', '.join(budgets)}")
        values = {**values, **(budgets[budget] or {})}
    return Choice(constructor, node("stream", {**values, "budget": budget}, constructor, where), where)


def _values(group: str, choice: str | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if not isinstance(choice, str):
        return dict(choice), f"{group} of the configuration"
    file = catalogue.find(group, choice)
    values = {"name": file.name, **file.read()}
    return values, choice if file.provider is None else f"{group}/{file.path.name}"


def _constructor(group: str, values: Mapping[str, Any], where: str) -> Callable[..., Any]:
    kind = values.get("kind")
    if not isinstance(kind, str):
        known = ", ".join(sorted(registry.providers(catalogue.BUILDERS[group])))
        raise UserError(f"{where}: expected the key 'kind', one of {known}; it says what builds this {group}")
    constructor = registry.load_path(kind) if catalogue.is_class(kind) else _load(group, kind, where)
    if group == "agent":
        _check_agent(constructor, where)
    return constructor


def _load(group: str, kind: str, where: str) -> Callable[..., Any]:
    entry_points = catalogue.BUILDERS[group]
    known = registry.providers(entry_points)
    if kind not in known:
        raise UserError(f"{where}: unknown kind '{kind}'; {near(kind, known)}known: {', '.join(sorted(known))}")
    return registry.load(entry_points, kind)


def _check_agent(constructor: Any, where: str) -> None:
    """Refuse what cannot be an agent before anything is written."""
    name = getattr(constructor, "__name__", type(constructor).__name__)
    if not callable(constructor):
        raise ContractError(f"{where}: expected a class, got {type(constructor).__name__}; the contract is in clbench.interfaces.Agent")
    missing = [member for member in CONTRACT if not callable(getattr(constructor, member, None))] if inspect.isclass(constructor) else []
    if missing:
        raise ContractError(f"{where}: {name} has no {missing[0]}(...); the contract is in clbench.interfaces.Agent")
    options = registry.options_of(constructor)
    try:
        inspect.signature(constructor).bind(object(), 0, **dict.fromkeys(options))
    except TypeError as error:
        raise ContractError(f"{where}: the constructor must be {name}(task, seed, *, options...), but {error}") from error


# -- from Python ------------------------------------------------------------------------------------------------------


def agent_spec(agent: str | type | AgentSpec, options: Mapping[str, Any] | None = None, device: str = "auto") -> AgentSpec:
    """The agent that a name, a path or a class stands for, with `options` by dotted path (`{"methods.ewc.strength": 5}`)."""
    if isinstance(agent, AgentSpec):
        return agent
    return agent_from_words(agent, [*_as_words("agent", options), f"device={device}"])


def agent_from_words(agent: str | type, words: Sequence[str]) -> AgentSpec:
    """The agent that a name, a path or a class stands for, under overrides as they are typed."""
    typed = split(words)
    choice = choose_agent(agent) if isinstance(agent, str) else _choose_class(agent)
    tree = compose({"agent": choice.node}, typed.others, default_budget())
    return build_agent(choice, tree["agent"], checked_device(typed.literal.get("device", tree["device"])))


def _choose_class(agent: type) -> Choice:
    where = f"{agent.__module__}:{agent.__qualname__}"
    _check_agent(agent, where)
    return Choice(agent, node("agent", {"name": registry.kebab(agent.__name__), "kind": where}, agent, where), where)


def stream_named(stream: str | TaskStream, budget: str | None = None, options: Mapping[str, Any] | None = None) -> TaskStream:
    """The stream that a name or a path stands for, with `options` (`{"identity": "hidden"}`)."""
    if isinstance(stream, TaskStream):
        return stream
    return stream_of(stream, budget, _as_words("stream", options))


def stream_of(name: str, budget: str | None, words: Sequence[str]) -> TaskStream:
    """The stream that a name or a path stands for, with the overrides `words` (`stream.identity=hidden`)."""
    budget = budget or default_budget()
    choice = choose_stream(name, budget)
    return build_stream(choice, compose({"stream": choice.node}, words, budget)["stream"])


def request(
    agent: str | type[Agent] | AgentSpec,
    stream: str | TaskStream,
    *,
    seed: int = 0,
    budget: str | None = None,
    device: str = "auto",
    threads: int = 1,
    agent_options: Mapping[str, Any] | None = None,
    stream_options: Mapping[str, Any] | None = None,
) -> Request:
    """The run that `clbench.run` is asked for; the same run has the same key here and on the command line."""
    return Request(agent_spec(agent, agent_options, device), stream_named(stream, budget, stream_options), seed, threads)


def _as_words(group: str, options: Mapping[str, Any] | None) -> list[str]:
    return [f"{group}.{key}={quoted(value)}" for key, value in (options or {}).items()]
