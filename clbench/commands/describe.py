"""Everything about one name or one run: tasks, budgets, options with their defaults, hash, provider.

clbench describe ewc
clbench describe mw3-demo
clbench describe world-qa stream.rendering=text budget=standard
clbench describe local-text stream.folder=~/data/snips
clbench describe ./mine.py:Mine
clbench describe results/runs/toy@1/smoke/ewc/s000-...
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import catalogue, registry
from ..errors import UserError, unknown_name
from ..experience import Text
from ..output import Output
from ..overrides import budget_and_options
from .run_states import state

PARTS = ("methods", "backbones", "learners")
_EXAMPLES, _LONGEST = 10, 400
_MANY, _LANES, _MOMENT = 10**9, 256, 0.05  # texts granted, drawn together, and seconds for it
Description = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clbench describe`."""
    parser.add_argument("name", help="a name of `clbench list`, a path, or the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the stream or agent, and budget=NAME")
    parser.add_argument("--json", action="store_true", help="for another program")


def execute(arguments: argparse.Namespace, out: Output) -> int:
    """Write what is known of the name; one that several things share is described several times."""
    descriptions = [_with(arguments.name, arguments.overrides)] if arguments.overrides else describe(arguments.name)
    if arguments.json:
        out.json(descriptions if len(descriptions) > 1 else descriptions[0])
        return 0
    for number, description in enumerate(descriptions):
        if number:
            out.result()
        _write(description, out)
    return 0


def describe(name: str) -> list[Description]:
    """A description for each thing that `name` stands for."""
    if (Path(name) / "run.json").is_file():
        return [_run(Path(name))]
    if catalogue.is_class(name):
        return [_agent(name, None)]
    if catalogue.is_path(name) and name not in catalogue.files("experiment"):
        file = catalogue.find("stream", name)
        return [_agent(name, file) if file.read().get("kind") in registry.providers("agents") else _stream(name, file)]
    found = list(_named(name))
    if not found:
        known = [*(n for group in ("agent", "stream", "experiment") for n in catalogue.files(group))]
        known += [n for group in PARTS for n in registry.providers(group)]
        raise unknown_name("name", name, {*known, *_metrics()}, "clbench list")
    return found


def _with(name: str, words: Sequence[str]) -> Description:
    """The stream or agent `name` under the overrides `words`, whichever they are options of."""
    budgets, options = budget_and_options("describe", words, ("stream", "agent"))
    groups = {word.partition(".")[0] for word in options} | {"stream" for _ in budgets}
    if len(groups) > 1:
        raise UserError(f"describe: expected options of a stream or of an agent, got both: {' '.join(words)}")
    if (Path(name) / "run.json").is_file():
        raise UserError(f"describe: {name} is a run, which has the options it was made with; leave out {words[0]}")
    if groups == {"stream"}:
        return _stream(name, catalogue.find("stream", name), options, budgets)
    return _agent(name, None if catalogue.is_class(name) else catalogue.find("agent", name), options)


def _named(name: str) -> Iterator[Description]:
    if name in catalogue.files("agent"):
        yield _agent(name, catalogue.find("agent", name))
    if name in catalogue.files("stream"):
        yield _stream(name, catalogue.find("stream", name))
    if name in catalogue.files("experiment"):
        yield _experiment(name)
    for group in PARTS:
        if name in registry.providers(group):
            yield _part(group, name)
    if name in (metrics := _metrics()):
        yield _metric(metrics[name])


def _metrics() -> dict[str, Any]:
    from ..metrics import FAMILIES, METRICS

    return {**METRICS, **FAMILIES}


def _agent(choice: str, file: catalogue.ConfigFile | None, words: Sequence[str] = ()) -> Description:
    from .. import composition, configuration

    chosen = configuration.choose_agent(choice)
    tree = composition.compose({"agent": chosen.node}, words, configuration.default_budget())["agent"]
    spec = configuration.build_agent(chosen, tree, "auto").describe()
    notes = catalogue.comments(file.path) if file else {}
    options = {key: value for key, value in tree.items() if key not in ("name", "kind", "description")}
    return {
        "what": "agent",
        "name": tree["name"],
        "description": tree["description"] or (inspect.getdoc(chosen.constructor) or "").split("\n")[0],
        "with": list(words),
        "kind": tree["kind"],
        "provider": (file.provider if file else None) or spec["distribution"] or "a file of yours",
        "file": str(file.path) if file else choice,
        "hash": spec["hash"],
        "options": [(f"agent.{key}", value, notes.get(key, "")) for key, value in _flat(options)],
    }


def _flat(options: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _stream(choice: str, file: catalogue.ConfigFile, words: Sequence[str] = (), wanted: Sequence[str] = ()) -> Description:
    """At all its budgets, or at those `wanted`; under the overrides `words` at one."""
    from .. import composition, configuration, schemas

    values = file.read()
    notes = catalogue.comments(file.path)
    budgets = list(wanted) or list(values.get("budgets") or {}) or [configuration.default_budget()]
    if words and not wanted:
        budgets = budgets[:1]
    built = {}
    for budget in budgets:
        chosen = configuration.choose_stream(choice, budget)
        tree = composition.compose({"stream": chosen.node}, words, budget)["stream"]
        built[budget] = (configuration.build_stream(chosen, tree), tree)
    stream, tree = built[budgets[0]]
    own = schemas.OWN_FIELDS["stream"]
    return {
        "what": "stream",
        "name": stream.identity,
        "description": stream.description,
        "with": list(words),
        "kind": stream.kind,
        "provider": file.provider or "a file of yours",
        "file": str(file.path),
        "experience": stream.tasks[0].info.experience,
        "task identity": "shown" if any(task.info.index is not None for task in stream.tasks) else "hidden",
        "boundaries": "shown" if stream.boundaries else "hidden",
        "tasks": [task.name for task in stream.tasks],
        "held out": [task.name for task in stream.few_shot.tasks] if stream.few_shot else [],
        "budgets": [_budget(name, of) for name, (of, _) in built.items()],
        "scores": [_score(task) for task in stream.tasks],
        "examples": _examples(stream),
        "options": [(f"stream.{key}", value, notes.get(key, "")) for key, value in tree.items() if key not in own],
    }


def _budget(name: str, stream: Any) -> Description:
    units = [phase.units for phase in stream.phases]
    return {
        "budget": name,
        "tasks": len(stream.tasks),
        "phases": len(units),
        "units a phase": units[0] if len(set(units)) == 1 else f"{min(units)} to {max(units)}",
        "evaluations": sum(phase.points for phase in stream.phases) + 1,
        "shots": " ".join(map(str, stream.few_shot.shots)) if stream.few_shot else "-",
        "hash": stream.hash()[:12],
    }


def _score(task: Any) -> Description:
    floor, ceiling = task.scale
    return {"task": task.name, "score 0 is": _level(floor), "score 1 is": _level(ceiling), **_drawing(task)}


def _drawing(task: Any) -> Description:
    """How long texts are, and how many a core draws in a second, tried for a moment; nothing of what is no text."""
    if task.info.experience != "text":
        return {}
    experience: Text = task.experience(0)
    experience.meter.grant(_MANY)
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < _MOMENT:
        experience.windows(_LANES, experience.longest)
    pace = experience.meter.consumed / spent
    return {"tokens": experience.longest, "drawn a second": f"{round(pace, 1 - math.floor(math.log10(pace))):,.0f}"}


def _level(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _examples(stream: Any) -> list[str]:
    """Ten examples as a person reads them, of all tasks that can show some (`shown(count)`), what is scored in brackets."""
    tasks = [task for task in (*stream.tasks, *(stream.few_shot.tasks if stream.few_shot else ())) if hasattr(task, "shown")][:_EXAMPLES]
    texts = []
    for number, task in enumerate(tasks):
        count = _EXAMPLES // len(tasks) + (number < _EXAMPLES % len(tasks))
        texts += [f"{task.name}: {shortened(text)}" for text in task.shown(count)]
    return texts


def shortened(text: str) -> str:
    """A text of about `_LONGEST` characters: its beginning and, where the first bracket stands further back, what lies around that."""
    if len(text) <= _LONGEST:
        return text
    half, at = _LONGEST // 2, text.find("[")
    if at < _LONGEST - half // 2:
        return f"{_whole_words(text, 0, _LONGEST)} .."
    end = at + half // 2
    around = _whole_words(text, at - half // 2, end)
    return f"{_whole_words(text, 0, half)} .. {around}" + (" .." if end < len(text) else "")


def _whole_words(text: str, begin: int, end: int) -> str:
    """`text[begin:end]` without words that are cut, where it has others."""
    if begin and (space := text.find(" ", begin - 1, end)) >= 0:
        begin = space + 1
    if end < len(text) and (space := text.rfind(" ", begin, end + 1)) > begin:
        end = space
    return text[begin:end]


def _experiment(name: str) -> Description:
    from ..experiment import load

    file, loaded = catalogue.find("experiment", name), load(name)
    return {
        "what": "experiment",
        "name": loaded.name,
        "description": loaded.description,
        "provider": file.provider,
        "file": str(file.path),
        "report": "yes" if loaded.report else "no",
        "runs": [" ".join(words) for words in loaded.commands],
    }


def _part(group: str, name: str) -> Description:
    constructor = registry.load(group, name)
    types = registry.types_of(constructor)
    options = []
    for key, parameter in registry.options_of(constructor).items():
        default = "required" if parameter.default is inspect.Parameter.empty else parameter.default
        options.append((key, default, registry.describe_type(types.get(key, "")) if key in types else ""))
    module = inspect.getmodule(constructor)
    return {
        "what": group.removesuffix("s"),
        "name": name,
        "description": (inspect.getdoc(constructor) or "").split("\n")[0],
        "source": (inspect.getdoc(module) or "") if module else "",
        "provider": registry.provider(group, name),
        "options": options,
    }


def _metric(metric: Any) -> Description:
    return {
        "what": "metric",
        "name": metric.name,
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "source": metric.source,
        "needs": "the stream's reference runs" if metric.needs_reference else "nothing but the run",
        "definition": inspect.getdoc(metric.function) or "",
    }


def _run(folder: Path) -> Description:
    from ..store import RunFolder, read_json

    run = RunFolder(folder)
    manifest = run.manifest()
    stream, agent = manifest["stream"], manifest["agent"]
    summary = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    known = {name: value for name, value in summary.get("metrics", {}).items() if value is not None}
    return {
        "what": "run",
        "name": manifest["run_key"],
        "state": state(folder),
        "stream": f"{stream['name']}@{stream['version']}, budget {manifest['budget']}, hash {stream['hash'][:12]}",
        "agent": f"{agent['name']}, hash {agent['hash'][:12]}" + (f", {agent['distribution']}" if agent["distribution"] else ""),
        "seed": manifest["seed"],
        "begun": manifest["created_utc"],
        "attempts": run.next_attempt(),
        "clbench": manifest["clbench"]["version"],
        "tasks": [task["name"] for task in stream["spec"]["tasks"]],
        "folder": str(folder),
        "options": [(key, value, "") for key, value in _flat(agent["config"])],
        "metrics": [{"metric": name, "value": value} for name, value in known.items()],
    }


def _write(description: Description, out: Output) -> None:
    out.heading(f"{description['what']} {description['name']}")
    for key, value in description.items():
        if key in ("what", "name") or value in ("", [], None):
            continue
        if key == "options":
            out.result()
            out.table(
                ("option", "value" if description.get("with") or description["what"] == "run" else "default", ""),
                [(k, _short(v), note) for k, v, note in value],
            )
        elif isinstance(value, list) and isinstance(value[0], dict):
            out.result()
            out.table(tuple(value[0]), [tuple(row.values()) for row in value])
        else:
            if key == "examples":
                out.result()
            text = (
                ", ".join(value)
                if isinstance(value, list) and key not in ("runs", "examples")
                else "\n".join(value)
                if isinstance(value, list)
                else str(value)
            )
            first, *rest = text.split("\n")
            out.result(f"  {key:<14}{first}")
            for line in rest:
                out.result(f"  {'':<14}{line}".rstrip())


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)
