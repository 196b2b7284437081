"""The metrics as data: name, label, unit, direction, source and function. No other place knows which way is better.

`METRICS` is the suite's own set, in the order of its tables. `FAMILIES` are the published ones, computed exactly as their authors do,
defects included; no family enters the suite's ranking. Sorting, axis direction, bold marks and signs come from `Metric.better`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Literal

from ..errors import unknown_name
from ..matrix import EvaluationMatrix
from . import avalanche, chaudhry, ckl, coom, cw, gem, headline, libero
from .costs import Costs, retained_growth
from .shots import FewShotCurve, few_shot, few_shot_area, few_shot_gain
from .windows import Vector, Window, missing_cell

METRIC_VERSION = 2
"""2: columns that no phase trains (probes) count for what a run ends with, and not for what is about learning, which they had made NaN."""
SHOTS = (0, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Metric:
    """One row of the table. `function` takes `inputs`, in their order; they are fields of `Measurements` (families: `runs`, `references`).

    `needs_reference`: whether the stream's reference set is needed. `windows` lists what is read from the matrix, to explain a NaN; a
    function that has it also takes `window=`.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    needs_reference: bool
    function: Callable[..., float]
    source: str
    inputs: tuple[str, ...] = ("matrix",)
    windows: Callable[[EvaluationMatrix, int], Sequence[Window]] | None = field(default=None, repr=False)

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is, 0 for neither: a difference times this is an improvement."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.better]


@dataclass(frozen=True, eq=False)
class Measurements:
    """All that is known of one run; None is what was not measured.

    `reference` (N,): r_n of the stream's reference set. `own_single_runs`: the same agent on each task alone. `fresh_curve`: the few-shot
    curve of the same agent untrained; `scratch_curve`: that of the stream's reference agent from scratch.
    """

    matrix: EvaluationMatrix
    window: int = 1
    reference: Vector | None = None
    own_single_runs: Sequence[EvaluationMatrix] | None = None
    curve: FewShotCurve | None = None
    fresh_curve: FewShotCurve | None = None
    scratch_curve: FewShotCurve | None = None
    costs: Costs | None = None


def measure(name: str, run: Measurements) -> float:
    """The value of one of `METRICS` for a run; NaN where an input was not measured."""
    metric = headline_metric(name)
    inputs = [getattr(run, field_name) for field_name in metric.inputs]
    if any(value is None for value in inputs):
        return float("nan")
    return metric.function(*inputs, window=run.window) if metric.windows else metric.function(*inputs)


def measure_all(run: Measurements) -> dict[str, float]:
    """All of `METRICS` for a run, in the order of the table."""
    return {name: measure(name, run) for name in METRICS}


def explain_missing(metric_name: str, matrix: EvaluationMatrix, window: int = 1) -> str | None:
    """Which cell of the matrix a metric lacks, in one line; None where it lacks none or reads no cells."""
    metric = headline_metric(metric_name)
    needed = metric.windows(matrix, window) if metric.windows else ()
    if metric.windows and not needed:
        return f"{metric_name}: no column of this stream counts for it"
    explained = (missing_cell(matrix, cells) for cells in needed)
    return next((f"{metric_name} needs {text}" for text in explained if text), None)


def headline_metric(name: str) -> Metric:
    """The entry of `METRICS`; an unknown name is refused with the nearest ones."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS, "clbench list metrics")
    return METRICS[name]


def _by_name(metrics: Sequence[Metric]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


_SUITE = "clbench"
_CURVE = ("matrix", "reference")
_SINGLE = ("matrix", "own_single_runs")


def _few_shot_metric(shots: int) -> Metric:
    label = f"Few-shot score, {shots} shots" if shots else "Zero-shot score, held-out tasks"
    return Metric(f"few_shot({shots})", label, "score", "higher", False, partial(few_shot, shots=shots), _SUITE, ("curve",))


def _cost(name: str, label: str, unit: str, better: Literal["lower", "neither"] = "lower") -> Metric:
    return Metric(name, label, unit, better, False, attrgetter(name), _SUITE, ("costs",))


METRICS: dict[str, Metric] = _by_name(
    [
        Metric("performance", "Performance", "score", "higher", False, headline.performance, _SUITE, windows=headline.final_windows),
        Metric("worst_task", "Worst task", "score", "higher", False, headline.worst_task, _SUITE, windows=headline.final_windows),
        Metric("forgetting", "Forgetting", "score", "lower", False, headline.forgetting, _SUITE, windows=headline.forgetting_windows),
        Metric(
            "backward_transfer",
            "Backward transfer",
            "score",
            "higher",
            False,
            headline.backward_transfer,
            _SUITE,
            windows=headline.forgetting_windows,
        ),
        Metric("learning_auc", "Learning curve", "score", "higher", False, headline.learning_auc, _SUITE, windows=headline.curve_windows),
        Metric(
            "forward_transfer",
            "Forward transfer",
            "share of headroom",
            "higher",
            True,
            headline.forward_transfer,
            f"{_SUITE}; arXiv:2105.10919",
            _CURVE,
            headline.curve_windows,
        ),
        Metric(
            "forward_transfer_raw",
            "Forward transfer, raw",
            "score",
            "higher",
            True,
            headline.forward_transfer_raw,
            _SUITE,
            _CURVE,
            headline.curve_windows,
        ),
        Metric(
            "zero_shot_transfer",
            "Zero-shot transfer",
            "score",
            "higher",
            False,
            headline.zero_shot_transfer,
            _SUITE,
            windows=headline.zero_shot_windows,
        ),
        *(_few_shot_metric(shots) for shots in SHOTS),
        Metric("few_shot_area", "Few-shot area", "score", "higher", False, few_shot_area, _SUITE, ("curve",)),
        Metric("few_shot_gain", "Few-shot gain", "score", "higher", False, few_shot_gain, _SUITE, ("curve", "fresh_curve")),
        Metric(
            "few_shot_gain_over_scratch",
            "Few-shot gain over scratch",
            "score",
            "higher",
            True,
            few_shot_gain,
            _SUITE,
            ("curve", "scratch_curve"),
        ),
        Metric("plasticity", "Plasticity", "score", "higher", False, headline.plasticity, _SUITE, _SINGLE, headline.plasticity_windows),
        Metric(
            "plasticity_trend",
            "Plasticity trend",
            "score per position",
            "higher",
            False,
            headline.plasticity_trend,
            _SUITE,
            _SINGLE,
            headline.plasticity_windows,
        ),
        _cost("retained_bytes", "Retained memory", "bytes"),
        Metric("retained_growth", "Growth of retained memory", "bytes", "lower", False, retained_growth, _SUITE, ("costs",)),
        _cost("parameters", "Parameters", "numbers"),
        _cost("steps", "Experience", "units", "neither"),
        _cost("gradient_steps", "Gradient steps", "updates", "neither"),
        _cost("train_seconds", "Training time", "s"),
        _cost("evaluate_seconds", "Evaluation time", "s"),
        _cost("peak_rss_bytes", "Peak memory", "bytes"),
        _cost("peak_device_bytes", "Peak device memory", "bytes"),
        _cost("memory_bytes", "Sequence memory, one stream", "bytes"),
        _cost("memory_writes", "Entries written to memory", "entries", "neither"),
        _cost("memory_reads", "Entries read from memory", "entries", "neither"),
    ]
)

_CW, _GEM, _GEM_CODE = "arXiv:2105.10919", "arXiv:1706.08840", "facebookresearch/GradientEpisodicMemory metrics/metrics.py"
_AVALANCHE, _CHAUDHRY, _LIBERO = "arXiv:2104.00405", "arXiv:1801.10112", "arXiv:2306.03310"
_CKL = "arXiv:2110.03215"
_COOM = "TTomilin/COOM results/common.py"

FAMILIES: dict[str, Metric] = _by_name(
    [
        Metric("cw.performance", "CW performance", "score", "higher", False, cw.performance, _CW),
        Metric("cw.forgetting", "CW forgetting", "score", "lower", False, cw.forgetting, _CW),
        Metric("cw.backward_transfer", "CW backward transfer", "score", "higher", False, cw.backward_transfer, f"{_CW} (unverified)"),
        Metric(
            "cw.forward_transfer",
            "CW forward transfer",
            "share of headroom",
            "higher",
            True,
            cw.forward_transfer,
            _CW,
            ("runs", "references"),
        ),
        Metric("gem.acc", "GEM ACC", "score", "higher", False, gem.acc, _GEM),
        Metric("gem.bwt", "GEM BWT", "score", "higher", False, gem.bwt, _GEM),
        Metric("gem.fwt", "GEM FWT", "score", "higher", False, gem.fwt, _GEM),
        Metric("gem_code.bwt", "GEM BWT, as released", "score", "higher", False, gem.code_bwt, _GEM_CODE),
        Metric("gem_code.fwt", "GEM FWT, as released", "score", "higher", False, gem.code_fwt, _GEM_CODE),
        Metric("avalanche.forgetting", "Avalanche forgetting", "score", "lower", False, avalanche.forgetting, _AVALANCHE),
        Metric("avalanche.bwt", "Avalanche BWT", "score", "higher", False, avalanche.bwt, _AVALANCHE),
        Metric("avalanche.fwt", "Avalanche FWT", "score", "higher", False, avalanche.fwt, _AVALANCHE),
        Metric("chaudhry.forgetting", "Chaudhry forgetting", "score", "lower", False, chaudhry.forgetting, _CHAUDHRY),
        Metric("libero.fwt", "LIBERO FWT", "score", "higher", False, libero.fwt, _LIBERO),
        Metric("libero.nbt", "LIBERO NBT", "score", "lower", False, libero.nbt, _LIBERO),
        Metric("libero.auc", "LIBERO AUC", "score", "higher", False, libero.auc, _LIBERO),
        Metric("ckl.fuar", "CKL FUAR", "ratio", "lower", False, ckl.fuar, _CKL),
        Metric("coom.performance", "COOM performance", "score", "higher", False, coom.performance, _COOM, ("runs",)),
        Metric("coom.forgetting", "COOM forgetting", "score", "lower", False, coom.forgetting, _COOM, ("runs",)),
        Metric("coom.forward_transfer", "COOM forward transfer", "share of headroom", "higher", True, coom.forward_transfer, _COOM, _CURVE),
    ]
)
