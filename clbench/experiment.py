"""An experiment is data: agents x streams x seeds under a budget. What it unfolds into are commands, one for each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from . import catalogue
from .errors import UserError

KEYS = ("name", "description", "budget", "report", "claim", "runs")
BLOCK_KEYS = ("arm", "agents", "streams", "seeds", "overrides")
REPLACED = ("seed", "budget")
APPENDED = ("results_dir", "device", "threads")


@dataclass(frozen=True)
class Experiment:
    """Its name, the words of every run (as typed after `clbench run`), and whether a report follows.

    `arms`: the same words by the name that their block has as an arm of a claim; `claim`: what the experiment is to show.
    """

    name: str
    description: str
    report: bool
    commands: tuple[tuple[str, ...], ...]
    arms: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    claim: Mapping[str, Any] | None = None


def load(choice: str, typed: Sequence[str] = ()) -> Experiment:
    """The experiment that a name or a path stands for; `typed` may replace seeds and budget and add results_dir, device, threads."""
    file = catalogue.find("experiment", choice)
    values, where = file.read(), f"experiment/{file.path.name}" if file.provider else str(file.path)
    _known(values, KEYS, where)
    replaced = _typed(typed)
    blocks = values.get("runs")
    if not isinstance(blocks, list) or not blocks:
        raise UserError(f"{where}: runs: expected a list of blocks with agents, streams and seeds, got {blocks!r}")
    budget = replaced.get("budget", [f"budget={values.get('budget', 'smoke')}"])
    rest = [word for key in APPENDED for word in replaced.get(key, [])]
    unfolded = [_block(block, f"{where}: runs[{n}]", replaced.get("seed"), budget, rest) for n, block in enumerate(blocks)]
    commands = [command for words in unfolded for command in words]
    return Experiment(
        name=str(values.get("name", file.name)),
        description=str(values.get("description", "")),
        report=values.get("report", False) is True,
        commands=tuple(dict.fromkeys(commands)),
        arms={str(block["arm"]): tuple(words) for block, words in zip(blocks, unfolded, strict=True) if "arm" in block},
        claim=values.get("claim"),
    )


def _typed(words: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in (*REPLACED, *APPENDED) or not equals or not value:
            raise UserError(
                f"'{word}' does not go with experiment=: an experiment names its own agents and streams; "
                f"it takes {', '.join((*REPLACED, *APPENDED))}. Copy its YAML file to change more"
            )
        found[key] = [word]
    return found


def _known(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{where}: unknown key '{key}'; {hint}known: {', '.join(known)}")


def _block(block: Any, where: str, seed: list[str] | None, budget: list[str], rest: list[str]) -> list[tuple[str, ...]]:
    from .overrides import grid

    if not isinstance(block, Mapping):
        raise UserError(f"{where}: expected agents, streams and seeds, got {block!r}")
    _known(block, BLOCK_KEYS, where)
    agents, streams, seeds = (_listed(block, key, where) for key in ("agents", "streams", "seeds"))
    overrides = [str(word) for word in block.get("overrides") or []]
    seed = seed or [f"seed={','.join(map(str, seeds))}" if len(seeds) > 1 else f"seed={seeds[0]}"]
    words = [f"stream={','.join(streams)}", f"agent={','.join(agents)}", *seed, *budget, *overrides, *rest]
    return [tuple(command) for command in grid(words)]


def _listed(block: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = block.get(key, [0] if key == "seeds" else None)
    values = [values] if isinstance(values, str | int) else values
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {key}: expected a list of {'integers' if key == 'seeds' else 'names'}, got {values!r}")
    return [str(value) for value in values]
