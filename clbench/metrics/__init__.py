"""Metrics: pure functions of one run's evaluation matrix, and the table that says what they are.

The suite's own set stands here without a prefix; published families are modules (`cw`, `gem`, `avalanche`, `chaudhry`, `libero`, `ckl`,
`cora`, `coom`) and are computed as their authors do. Intervals over runs are in `clbench.statistics`.
"""

from __future__ import annotations

from . import avalanche, chaudhry, ckl, coom, cora, cw, gem, libero
from .costs import Costs, retained_growth
from .headline import (
    LOW_HEADROOM,
    backward_transfer,
    backward_transfer_per_task,
    forgetting,
    forgetting_per_task,
    forward_transfer,
    forward_transfer_per_task,
    forward_transfer_raw,
    forward_transfer_raw_per_task,
    headroom,
    learning_auc,
    learning_auc_per_task,
    performance,
    performance_per_task,
    plasticity,
    plasticity_per_task,
    plasticity_trend,
    reference_curve_means,
    worst_task,
    zero_shot_transfer,
    zero_shot_transfer_per_task,
)
from .shots import FewShotCurve, few_shot, few_shot_area, few_shot_gain
from .table import FAMILIES, METRIC_VERSION, METRICS, Measurements, Metric, explain_missing, measure, measure_all
from .windows import boundary_matrix, trained_columns

__all__ = [
    "FAMILIES",
    "LOW_HEADROOM",
    "METRICS",
    "METRIC_VERSION",
    "Costs",
    "FewShotCurve",
    "Measurements",
    "Metric",
    "avalanche",
    "backward_transfer",
    "backward_transfer_per_task",
    "boundary_matrix",
    "chaudhry",
    "ckl",
    "coom",
    "cora",
    "cw",
    "explain_missing",
    "few_shot",
    "few_shot_area",
    "few_shot_gain",
    "forgetting",
    "forgetting_per_task",
    "forward_transfer",
    "forward_transfer_per_task",
    "forward_transfer_raw",
    "forward_transfer_raw_per_task",
    "gem",
    "headroom",
    "learning_auc",
    "learning_auc_per_task",
    "libero",
    "measure",
    "measure_all",
    "performance",
    "performance_per_task",
    "plasticity",
    "plasticity_per_task",
    "plasticity_trend",
    "reference_curve_means",
    "retained_growth",
    "trained_columns",
    "worst_task",
    "zero_shot_transfer",
    "zero_shot_transfer_per_task",
]
