"""What a run of a whole budget would take, from the times of a shorter run of the same stream and agent.

Learning (acting, updates, simulation) grows with the units of the phases; evaluation with the times that tasks are scored, the first of
which is before any training; preparing a phase takes what it took; all else (saving, above all) grows as learning does. What a
longer run does otherwise is not in it: a buffer that outgrows the caches, a machine that others share by then.
"""

from __future__ import annotations

from typing import NamedTuple

from . import catalogue
from .derived import Record
from .errors import ValidationError
from .loading import LoadedRun


class Hours(NamedTuple):
    """Of one run, by what they go into."""

    acting: float  # and updates
    simulation: float
    evaluation: float
    other: float


def measured(run: LoadedRun) -> Hours | None:
    """What the run itself took, over all its attempts; None where it does not say it."""
    last = _spent(run)
    if "world_s" not in last or not last.get("total_s"):
        return None
    learn, world, evaluate, total = (float(last[f"{name}_s"]) / 3600 for name in ("learn", "world", "evaluate", "total"))
    return Hours(learn - world, world, evaluate, max(0.0, total - learn - evaluate))


def _spent(run: LoadedRun) -> Record:
    """The last record of what the run took; empty where there is none."""
    return next((record for record in reversed(run.events) if record["kind"] == "resources"), {})


def at_budget(run: LoadedRun, budget: str) -> Hours:
    """What a run of the same stream would take at `budget`, as the stream's own configuration has it."""
    found, file = measured(run), catalogue.files("stream").get(run.spec["family"])
    whole = (file.read().get("budgets") or {}).get(budget, {}) if file else {}
    if found is None or not {"units", "points"} <= whole.keys():
        raise ValidationError(
            f"{run.origin}: expected a run that says what its time went into, of a stream with a budget '{budget}' of units and points, "
            f"got one of {run.family}"
        )
    phases = run.spec["phases"]
    units = whole["units"] * sum(len(phase["columns"]) for phase in phases) / sum(phase["units"] for phase in phases)
    scored = (1 + whole["points"] * len(phases)) / (1 + sum(phase["points"] for phase in phases))
    prepared = float(_spent(run).get("prepare_s") or 0.0) / 3600
    rest = max(0.0, found.other - prepared) * units + prepared
    return Hours(found.acting * units, found.simulation * units, found.evaluation * scored, rest)
