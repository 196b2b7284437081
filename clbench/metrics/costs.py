"""What a run cost; a number nobody reported is NaN and never guessed.

Source: the suite's own definitions. Who measures them is the protocol's business.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """`retained_bytes`: every array in `state_dict()` after the last `end_task`; `first_retained_bytes`: the same after the first.

    `steps`: experience consumed, in `unit`. `gradient_steps`: as reported by the agent. Seconds are wall time summed over attempts;
    training excludes evaluation. Peaks are those of the process and of the device. `memory_bytes`: what the sequence memory of one stream
    occupies, as reported by the agent after the last task, like `memory_writes` and `memory_reads`, entries of an external memory over all.
    """

    retained_bytes: float = float("nan")
    first_retained_bytes: float = float("nan")
    parameters: float = float("nan")
    steps: float = float("nan")
    unit: str = ""
    gradient_steps: float = float("nan")
    train_seconds: float = float("nan")
    evaluate_seconds: float = float("nan")
    peak_rss_bytes: float = float("nan")
    peak_device_bytes: float = float("nan")
    memory_bytes: float = float("nan")
    memory_writes: float = float("nan")
    memory_reads: float = float("nan")


def retained_growth(costs: Costs) -> float:
    """Bytes that accumulate: `retained_bytes` after the last task minus after the first."""
    return costs.retained_bytes - costs.first_retained_bytes
