"""From what was typed to a run: names become configuration, configuration becomes objects.

Hydra composes (defaults lists, overrides, types); what it composes comes from constructors: the keyword parameters of a part are its
schema, held nowhere else. Nothing is instantiated by Hydra: a `kind` is looked up in the registry and its constructor called.
Not here: which files there are (`catalogue`), running (`runs`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from difflib import get_close_matches
from enum import Enum
from functools import cache
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import catalogue, registry
from .errors import ContractError, UserError, unknown_name
from .interfaces import Agent
from .runs import AgentSpec, Request
from .stream import TaskStream

PARTS = {"learner": "learners", "backbone": "backbones", "method": "methods"}
"""Groups of parts, and the entry points their constructors come from."""
CHOSEN = "__chosen__"
OWN_FIELDS = {"agent": ("name", "kind", "description"), "stream": ("name", "version", "kind", "description", "budget")}
CONTRACT = ("begin_task", "learn", "end_task", "policy", "state_dict", "load_state_dict")
LITERAL_KEYS = ("agent", "stream", "results_dir", "device")  # taken as they were typed: paths need no quoting
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


# -- overrides --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """What was typed as `key=value`: the last value of each literal key, and everything else in order."""

    literal: Mapping[str, str]
    others: tuple[str, ...]


def split(overrides: Iterable[str]) -> Typed:
    """Sort `overrides` into literal keys and those that Hydra reads."""
    literal: dict[str, str] = {}
    others: list[str] = []
    for word in overrides:
        key, equals, value = word.partition("=")
        if word.startswith("~") or not equals or not key.strip("+ "):
            raise UserError(f"expected key=value, got '{word}'; for example seed=1 or agent.methods.ewc.strength=5")
        if key in LITERAL_KEYS:
            if not value.strip():
                raise UserError(f"{key}= is empty; type {key}=VALUE")
            literal[key] = value.strip()
        else:
            others.append(word)
    return Typed(literal, tuple(others))


def grid(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of `agent=a,b`, `seed=range(0,5)` and `key=1,2`; one where nothing is varied."""
    choices: list[list[str]] = []
    for word in overrides:
        key, _, value = word.partition("=")
        if key in ("agent", "stream"):
            names = [name.strip() for name in value.split(",")]
            if not all(names):
                raise UserError(f"{word}: expected names with commas between them, for example {key}={names[0] or 'a'},b")
            choices.append([f"{key}={name}" for name in names])
        elif key in LITERAL_KEYS:
            choices.append([word])
        else:
            choices.append(_variations(word))
    return [list(combination) for combination in product(*choices)]


def _variations(word: str) -> list[str]:
    if word.startswith(("+", "~")) or "=" not in word:
        return [word]
    parsed = _parse(word)
    if not parsed.is_sweep_override():
        return [word]
    words = [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
    if not words:
        raise UserError(f"{word}: this selects nothing; for example seed=range(0,5) is 0 1 2 3 4")
    return words


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        key, _, value = word.partition("=")
        raise UserError(f"cannot read '{word}': the value '{value}' needs quotes, as in {key}=\"'{value}'\"") from error


# -- schemas: constructors as nodes -----------------------------------------------------------------------------------


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
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (int, float, bool, str, NoneType) or (isinstance(hint, type) and issubclass(hint, Enum)):
        return hint
    if origin is Literal and all(isinstance(a, str) for a in arguments):
        return str
    if origin in (Union, UnionType):
        members = [_omega_type(a) for a in arguments]
        return Union[tuple(members)] if Any not in members else Any  # noqa: UP007  built from a list
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return dict[str, Any]
        if issubclass(origin, Sequence) and not issubclass(origin, str):
            members = [a for a in arguments if a is not ...]
            inner = _omega_type(members[0]) if len(set(members)) == 1 else Any
            return list[inner if inner in (int, float, bool, str) else Any]
    return Any


@cache
def _broken_parts() -> dict[tuple[str, str], UserError]:
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
            node = make_dataclass(_class_name(name), [("kind", str, field(default=name)), *fields])
            store.store(group=group, name=name, node=node, provider="clbench")
    return broken


def _class_name(name: str) -> str:
    return re.sub(r"\W", "_", name.title()) or "Part"


def _node(group: str, values: Mapping[str, Any], constructor: Callable[..., Any], where: str) -> DictConfig:
    """The typed node of the chosen agent or stream: the constructor's parameters, with `values` from its file."""
    own = OWN_FIELDS[group]
    composed = _targets(values.get("defaults", []))
    fields = [("name", str, field(default=MISSING)), ("kind", str, field(default=MISSING)), ("description", str, field(default=""))]
    if group == "stream":
        fields += [("version", int, field(default=1)), ("budget", str, field(default=MISSING))]
    fields += schema(constructor, {*own, "device", *(composed - set(values))} if group == "agent" else own)
    known = [name for name, *_ in fields]
    if composed:
        fields.insert(0, ("defaults", list[Any], field(default_factory=lambda: list(values["defaults"]))))
    node = OmegaConf.structured(make_dataclass(_class_name(group), fields))
    for key, value in values.items():
        if key == "defaults":
            continue
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'; {_near(key, known)}known: {', '.join(sorted(known))}")
        try:
            node = OmegaConf.merge(node, {key: value})
        except OmegaConfBaseException as error:
            raise UserError(f"{where}: {key}: expected {_expected(constructor, key)}, got {value!r}") from error
    return node


def _targets(defaults: Any) -> set[str]:
    """The options that a defaults list fills: `{/method@methods.ewc: ewc}` fills `methods`."""
    keys = [key for entry in defaults if isinstance(entry, Mapping) for key in entry]
    return {str(key).partition("@")[2].partition(".")[0] for key in keys if "@" in str(key)}


def _near(key: str, known: Iterable[str]) -> str:
    near = get_close_matches(key, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}? " if near else ""


def _expected(constructor: Callable[..., Any], key: str) -> str:
    hint = {"name": str, "kind": str, "description": str, "version": int, "budget": str}.get(key)
    return registry.describe_type(hint or registry.types_of(constructor).get(key, Any))


# -- choices: a name, a path or a mapping becomes a node ----------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The chosen agent or stream: its constructor, its node, and where it came from (for messages)."""

    constructor: Callable[..., Any]
    node: DictConfig
    where: str


def choose_agent(choice: str | Mapping[str, Any]) -> Choice:
    """The agent that a name, `./mine.yaml`, `./mine.py:Mine` or the `agent` part of a resolved configuration stands for."""
    if isinstance(choice, str) and _is_python(choice):
        constructor = registry.load_path(choice)
        _check_agent(constructor, choice)
        return Choice(
            constructor, _node("agent", {"name": registry.kebab(constructor.__name__), "kind": choice}, constructor, choice), choice
        )
    values, where = _values("agent", choice)
    constructor = _constructor("agent", values, where)
    return Choice(constructor, _node("agent", values, constructor, where), where)


def choose_stream(choice: str | Mapping[str, Any], budget: str) -> Choice:
    """The stream that a name, `./reach4.yaml` or the `stream` part of a resolved configuration stands for, with its section for `budget`."""
    values, where = _values("stream", choice)
    if "defaults" in values:
        raise UserError(f"{where}: a stream stands in one file and has no 'defaults'; copy the keys you need")
    constructor = _constructor("stream", values, where)
    budgets = values.pop("budgets", None)
    if budgets is not None:
        if not isinstance(budgets, dict) or not all(isinstance(section, dict | None) for section in budgets.values()):
            raise UserError(f"{where}: budgets: expected a mapping of names to options, got {budgets!r}")
        if budget not in budgets:
            near = _near(budget, budgets).replace("did", "Did")
            raise UserError(f"stream '{values['name']}' has no budget '{budget}'. {near}Known: {', '.join(budgets)}")
        values = {**values, **(budgets[budget] or {})}
    return Choice(constructor, _node("stream", {**values, "budget": budget}, constructor, where), where)


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
    constructor = registry.load_path(kind) if _is_python(kind) else _load(group, kind, where)
    if group == "agent":
        _check_agent(constructor, where)
    return constructor


def _load(group: str, kind: str, where: str) -> Callable[..., Any]:
    entry_points = catalogue.BUILDERS[group]
    known = registry.providers(entry_points)
    if kind not in known:
        raise UserError(f"{where}: unknown kind '{kind}'; {_near(kind, known)}known: {', '.join(sorted(known))}")
    return registry.load(entry_points, kind)


def _is_python(choice: str) -> bool:
    return ":" in choice or choice.endswith(".py")


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


# -- composing --------------------------------------------------------------------------------------------------------


def _compose(overrides: Sequence[str]) -> DictConfig:
    search = [f"pkg://{package}" for package in catalogue.packages() if package != catalogue.OWN]
    extra = [f"hydra.searchpath=[{','.join(search)}]"] if search else []
    with initialize_config_module(version_base="1.3", config_module=catalogue.OWN):
        return compose("config", overrides=[*overrides, *extra])


def compose_tree(choices: Mapping[str, Choice], words: Sequence[str], budget: str) -> dict[str, Any]:
    """The composed configuration of the chosen agent and stream (either may be missing) under the overrides `words`, in plain types."""
    _broken_parts()
    store = ConfigStore.instance()
    selected = [f"{group}={CHOSEN}" if group in choices else f"~{group}" for group in ("stream", "agent")]
    for group, choice in choices.items():
        store.store(group=group, name=CHOSEN, node=choice.node, provider="clbench")
    if budget not in catalogue.files("budget"):
        store.store(group="budget", name=budget, node={"name": budget}, provider="clbench")
    selected.append(f"budget={budget}")
    written = [_part_choice(word, choices) for word in words]
    try:
        config = _compose([*selected, *written])
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, selected, written) from error
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    assert isinstance(tree, dict)
    _refuse_missing(tree)
    return {str(key): _named_first(value) for key, value in tree.items()}


def _named_first(value: Any) -> Any:
    """A mapping with its name, version, kind and description in front, for eyes."""
    if not isinstance(value, Mapping):
        return value
    front = {key: value[key] for key in OWN_FIELDS["stream"] if key in value}
    return {**front, **{key: item for key, item in value.items() if key not in front}}


def _part_choice(word: str, choices: Mapping[str, Choice]) -> str:
    """`agent.text.backbone=rmt` and `agent.methods.replay=replay` as the choice of a part; other words without `+`, which adds any key."""
    word = word.lstrip("+")
    key, _, value = word.partition("=")
    path = key.split(".")
    if path[0] != "agent" or "agent" not in choices or value.startswith(("{", "[")):
        return word
    if len(path) == 3 and path[2] in ("learner", "backbone"):
        return f"{path[2]}@{key}={_part_name(path[2], value)}"
    if len(path) == 3 and path[1] == "methods":
        defaults = OmegaConf.select(choices["agent"].node, "defaults") or []
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
        _parse(word)
    try:
        config = _compose([*selected, *(word for word in words if "@" in word.partition("=")[0])])
    except MissingConfigException as missing:
        return _missing_file(missing)
    except (HydraException, OmegaConfBaseException) as deeper:
        return UserError(_first_line(deeper))
    for word in words:
        if "@" not in word.partition("=")[0] and (problem := _problem(config, _parse(word))):
            return UserError(problem)
    return UserError(_first_line(error))


def _missing_file(error: MissingConfigException) -> UserError:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    if (broken := _broken_parts().get((group, name))) is not None:
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
            node = node._get_node(key) if OmegaConf.is_missing(node, key) else node[key]
    value = override.value()
    try:
        trial = config.copy()
        OmegaConf.update(trial, ".".join(path), value, merge=True)
    except OmegaConfBaseException:
        hint = node._get_node(path[-1])._metadata.ref_type
        return f"{'.'.join(path)}: expected {registry.describe_type(hint)}, got {value!r}"
    return None


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


# -- from the tree to objects -----------------------------------------------------------------------------------------


def resolve(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> Resolved:
    """The run that `overrides` ask for; `given` is a resolved configuration (`RUN/config.yaml`) to start from."""
    given = given or {}
    typed = split(overrides)
    agent, stream = (typed.literal.get(group) or given.get(group) for group in ("agent", "stream"))
    for group, choice in (("stream", stream), ("agent", agent)):
        if choice is None:
            raise UserError(f"{group} is missing; type {group}=NAME (see: clbench list {group}s)")
    assert agent is not None and stream is not None
    words = [word for word in typed.others if not word.startswith("budget=")]
    words = [f"{key}={given[key]}" for key in ("seed", "threads") if key in given and given[key] is not None] + words
    budget = _budget(typed, given)
    choices = {"stream": choose_stream(stream, budget), "agent": choose_agent(agent)}
    tree = compose_tree(choices, words, budget)
    device = typed.literal.get("device", str(given.get("device", tree["device"])))
    tree = {**tree, "device": device, "results_dir": typed.literal.get("results_dir", str(tree["results_dir"]))}
    task_stream = build_stream(choices["stream"], tree["stream"])
    spec = build_agent(choices["agent"], tree["agent"], checked_device(device))
    return Resolved(Request(spec, task_stream, tree["seed"], tree["threads"]), Path(tree["results_dir"]).expanduser(), tree)


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
    from importlib import resources

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
    check_parts(options)
    return AgentSpec(tree["name"], choice.constructor, options, device)


def check_parts(options: Mapping[str, Any], where: str = "agent") -> None:
    """Check the options of every part (a mapping with a `kind`) against its constructor, once more than Hydra does."""
    for key, value in options.items():
        if not isinstance(value, Mapping):
            continue
        group = "methods" if where.endswith("methods") else PARTS.get(str(key))
        if "kind" in value and group is not None:
            rest = {name: option for name, option in value.items() if name != "kind"}
            registry.check_options(registry.load(group, value["kind"]), rest, f"{where}.{key}")
        else:
            check_parts(value, f"{where}.{key}")


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
    tree = compose_tree({"agent": choice}, typed.others, default_budget())
    return build_agent(choice, tree["agent"], checked_device(typed.literal.get("device", tree["device"])))


def _choose_class(agent: type) -> Choice:
    where = f"{agent.__module__}:{agent.__qualname__}"
    _check_agent(agent, where)
    return Choice(agent, _node("agent", {"name": registry.kebab(agent.__name__), "kind": where}, agent, where), where)


def stream_named(stream: str | TaskStream, budget: str | None = None, options: Mapping[str, Any] | None = None) -> TaskStream:
    """The stream that a name or a path stands for, with `options` (`{"identity": "hidden"}`)."""
    if isinstance(stream, TaskStream):
        return stream
    budget = budget or default_budget()
    choice = choose_stream(stream, budget)
    tree = compose_tree({"stream": choice}, _as_words("stream", options), budget)
    return build_stream(choice, tree["stream"])


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
    return [f"{group}.{key}={_quoted(value)}" for key, value in (options or {}).items()]


def _quoted(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_quoted(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return value if registry.NAME.fullmatch(value) else f"'{escaped}'"
    return repr(value)
