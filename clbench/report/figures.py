"""The figures of a comparison table, for papers: matplotlib, one style file, 3.25 or 6.75 inches wide, the same bytes every time.

Every function takes a `Table` and returns a `Figure`, or None where the runs hold nothing to draw; `save` writes it as PNG, SVG and PDF.
Interactive versions are in `interactive`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import statistics
from ..statistics import RUNS_FOR_INTERVAL
from . import curves
from .formats import arrow
from .palette import JOINT_LOOK, Look, looks
from .tables import Entry, Row, Table, metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN, TWO_COLUMNS = 3.25, 6.75  # inches
SUFFIXES = (".png", ".svg", ".pdf")
PHASE_COLOUR = "#ececec"
INK = "#404040"
DASHED, DOTTED = (0, (3, 2)), (0, (1.5, 1.5))
LETTERS_PER_INCH = 16.0  # of 7 pt DejaVu Sans, on the safe side

Draw = Callable[[Table], "Figure | None"]


@contextmanager
def style() -> Generator[None]:
    """Within it matplotlib draws and saves in the house style."""
    import matplotlib

    with resources.as_file(resources.files("clbench.report") / "clbench.mplstyle") as file:
        parameters = matplotlib.rc_params_from_file(file, use_default_template=True)
    with matplotlib.rc_context():
        matplotlib.rcParams.update({key: value for key, value in parameters.items() if key not in _KEPT})
        yield


_KEPT = {"backend", "backend_fallback", "interactive", "toolbar", "timezone", "date.epoch"}


def _styled(draw: Draw) -> Draw:
    @wraps(draw)
    def wrapped(table: Table) -> Figure | None:
        with style():
            return draw(table)

    return wrapped


def save(figure: Figure, stem: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files written: `stem` with each suffix; no date and no version in them, so that equal figures are equal files."""
    metadata: dict[str, dict[str, Any]] = {
        ".svg": {"Date": None, "Creator": "clbench"},
        ".pdf": {"CreationDate": None, "Creator": "clbench", "Producer": "clbench"},
        ".png": {"Software": None},
    }
    files = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, the same in every format
        for file, suffix in zip(files, suffixes, strict=True):
            figure.savefig(file, metadata=metadata[suffix])
    return files


def table_looks(table: Table) -> list[Look]:
    """One look per row of the table; joint rows are black."""
    assigned = looks(table.agents)
    return [JOINT_LOOK if row.joint else assigned[row.label] for row in table.rows]


def name_of(row: Row) -> str:
    """The row's name in a legend."""
    return f"{row.label} (joint)" if row.joint else row.label


def interval_method(table: Table) -> str:
    """What whiskers and bands are, for a caption."""
    if all(len(row.runs) < RUNS_FOR_INTERVAL for row in table.rows):
        return f"no intervals (fewer than {RUNS_FOR_INTERVAL} runs)"
    return "95 % Student t intervals over runs"


# -- numbers of the table ------------------------------------------------------------------------------------------------


@_styled
def headline(table: Table) -> Figure | None:
    """Performance, forgetting, transfer and few-shot gain side by side: mean, interval and every run."""
    wanted = ("performance", "forgetting", "forward_transfer", "few_shot_gain")
    names = [name for name in wanted if any(not math.isnan(row.entries[name].value) for row in table.rows)]
    if not names:
        return None
    figure = _figure(TWO_COLUMNS, 0.62 + 0.2 * len(table.rows))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.06})[0]
    for axis, name in zip(axes, names, strict=True):
        _strip(axis, table, name)
        axis.set_title(f"{metric(name).label} {arrow(name)}", loc="left")
    return figure


@_styled
def performance(table: Table) -> Figure | None:
    """Final performance per agent: mean, interval and every run."""
    return _single_strip(table, "performance")


@_styled
def forgetting(table: Table) -> Figure | None:
    """Forgetting per agent: a bar from zero, interval and every run; to the left of zero tasks improved later."""
    return _single_strip(table, "forgetting", bars=True)


def _single_strip(table: Table, name: str, *, bars: bool = False) -> Figure | None:
    if all(math.isnan(row.entries[name].value) for row in table.rows):
        return None
    rows = [row for row in table.rows if not (bars and math.isnan(row.entries[name].value))]
    figure = _figure(ONE_COLUMN, 0.62 + 0.2 * len(rows))
    axis = figure.subplots()
    _strip(axis, table, name, bars=bars)
    axis.set_xlabel(f"{metric(name).label} {arrow(name)}")
    return figure


def _strip(axis: Axes, table: Table, name: str, *, bars: bool = False) -> None:
    """One line per agent, best on top: runs as faint points, the mean as a marker or bar, the interval as a whisker."""
    shown = [
        (row, look) for row, look in zip(table.rows, table_looks(table), strict=True) if not (bars and math.isnan(row.entries[name].value))
    ]
    for place, (row, look) in enumerate(shown):
        if bars:
            axis.barh(place, row.entries[name].value, height=0.62, color=look.colour, alpha=0.35, linewidth=0)
        _summary_mark(axis, place, row.entries[name], look)
    _agents_as_lines(axis, [row for row, _ in shown])
    _limits(axis, [row.entries[name] for row, _ in shown], name)


def _summary_mark(axis: Axes, place: int, entry: Entry, look: Look) -> None:
    """Runs as faint points, the interval as a whisker, the mean as a marker."""
    values = np.array([value for value in entry.points if not math.isnan(value)])
    if len(values) > 1:
        spread = 0.24 * (np.arange(len(values)) % 3 - 1)  # by run, so that equal scores do not hide each other
        axis.plot(values, place + spread, ".", color=look.colour, alpha=0.5, markersize=3.2, markeredgewidth=0, zorder=2)
    if entry.has_interval:
        ends = [[entry.value - entry.interval.low], [entry.interval.high - entry.value]]
        axis.errorbar(entry.value, place, xerr=ends, color=look.colour, capsize=2.8, linewidth=1.1, capthick=1.0, zorder=3, fmt="none")
    axis.plot(
        entry.value, place, color=look.colour, marker=look.marker, markeredgecolor="white", markeredgewidth=0.4, markersize=4.4, zorder=4
    )


def _agents_as_lines(axis: Axes, rows: Sequence[Row]) -> None:
    axis.set_yticks(range(len(rows)), [name_of(row) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def _limits(axis: Axes, entries: Sequence[Entry], name: str) -> None:
    """The axis from 0 to 1 for scores that are shares; signed scores get a line at 0 and the room they need."""
    if name in ("performance", "worst_task", "learning_auc", "few_shot_area"):
        axis.set_xlim(-0.02, 1.02)
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        return
    ends = [end for e in entries for end in (*e.points, e.interval.low, e.interval.high, 0.0) if not math.isnan(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.06 * (high - low or 1.0)
    axis.set_xlim(low - margin, high + margin)
    axis.locator_params(axis="x", nbins=4, steps=[1, 2, 2.5, 4, 5, 10], min_n_ticks=3)
    axis.axvline(0, color=INK, linewidth=0.6, zorder=1)


# -- scores along the stream ---------------------------------------------------------------------------------------------


@_styled
def success_over_time(table: Table) -> Figure | None:
    """The score on each task along the stream, one panel per task; the grey band is where the stream trains it.

    The first panel is the mean over all tasks, known where all were evaluated. Lines are means over runs; the coloured band is pointwise.
    """
    panels: list[int | None] = [None, *range(len(table.tasks))]
    columns = 2 if len(panels) <= 8 else 3 if len(panels) <= 18 else 4
    lines = math.ceil(len(panels) / columns)
    figure = _figure(TWO_COLUMNS, 0.55 + 0.95 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    scale, unit = curves.unit_scale(table)
    for axis, column in zip(grid, panels, strict=False):
        _phase_band(axis, table, column, scale)
        for row, look in zip(table.rows, table_looks(table), strict=True):
            _curve(axis, curves.along_stream(row, column), look, scale, dashed=row.joint)
        axis.set_title(
            "mean over all tasks" if column is None else f"{column + 1}. {_short(table.tasks[column], TWO_COLUMNS / columns)}", loc="left"
        )
    grid[0].set_ylim(-0.03, 1.03)
    grid[0].set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    grid[0].set_xlim(0, max(curves.boundaries(table)) / scale)
    _outer_labels(grid, len(panels), columns, unit, "score")
    spare = grid[len(panels) :]
    _legend(figure, table, within=(spare[0], TWO_COLUMNS / columns) if len(spare) else None)
    return figure


def _outer_labels(grid: Any, used: int, columns: int, below: str, beside: str) -> None:
    """Labels at the outer axes of a grid of which the first `used` panels are filled; the others are blank."""
    last = len(grid) - columns
    for axis in grid[last:used]:
        axis.set_xlabel(below)
    for axis in grid[used - columns : last]:
        _labels_without_room(axis, below)
    for axis in grid[:used:columns]:
        axis.set_ylabel(beside)
    for axis in grid[used:]:
        axis.set_axis_off()


def _labels_without_room(axis: Axes, label: str) -> None:
    """Labels below an axis with nothing under it, without moving the other panels apart."""
    for tick, written in zip(axis.get_xticks(), axis.xaxis.get_major_formatter().format_ticks(list(axis.get_xticks())), strict=True):
        if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]:
            axis.annotate(
                written,
                (tick, 0),
                (0, -5),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if tick == axis.get_xlim()[1] else "center",
                va="top",
                fontsize=7,
                color=INK,
                in_layout=False,
            )
    axis.annotate(label, (0.5, 0), (0, -15), xycoords="axes fraction", textcoords="offset points", ha="center", va="top", in_layout=False)


def _phase_band(axis: Axes, table: Table, column: int | None, scale: float) -> None:
    ends = curves.boundaries(table)
    for number, phase in enumerate(table.spec["phases"]):
        if column is not None and column in phase["columns"]:
            axis.axvspan(ends[number] / scale, ends[number + 1] / scale, color=PHASE_COLOUR, linewidth=0, zorder=0)
        if column is None and number:
            axis.axvline(ends[number] / scale, color="#d0d0d0", linewidth=0.6, zorder=0)


def _curve(axis: Axes, curve: curves.Curve | None, look: Look, scale: float, *, dashed: bool = False) -> None:
    if curve is None:
        return
    x = curve.x / scale
    axis.fill_between(x, curve.low, curve.high, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
    axis.plot(x, curve.value, color=look.colour, linestyle=DASHED if dashed else "-", linewidth=1.1, zorder=3)
    axis.plot(x[-1:], curve.value[-1:], color=look.colour, marker=look.marker, markersize=3.5, clip_on=False, zorder=4)


@_styled
def matrices(table: Table) -> Figure | None:
    """The evaluation matrix of each agent: after which phase (top: untrained), on which task; hatched = not evaluated.

    Frames mark the task that the phase trained. Mean over runs.
    """
    rows = [row for row in table.rows if not row.joint] or list(table.rows)
    tasks = len(table.tasks)
    most = 3 if tasks <= 12 else 2
    columns = min(most, len(rows))
    lines = math.ceil(len(rows) / columns)
    cell = min(0.42, (TWO_COLUMNS / most - 0.5) / tasks)
    height = min(2.6, max(0.9, 0.75 * cell * (len(table.spec["phases"]) + 1)))
    figure = _figure(TWO_COLUMNS * columns / most, 0.4 + (height + 0.3) * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    image = None
    for axis, row in zip(grid, rows, strict=False):
        image = _heat_map(axis, table, row, cell)
        axis.set_title(name_of(row), loc="left")
    _outer_labels(grid, len(rows), columns, "task", "after phase")
    assert image is not None
    bar = figure.colorbar(image, ax=list(grid[: len(rows)]), fraction=0.025, pad=0.015, aspect=30)
    bar.set_label("score")
    bar.outline.set_visible(False)
    return figure


def _heat_map(axis: Axes, table: Table, row: Row, cell: float) -> Any:
    from matplotlib.patches import Rectangle

    values = curves.boundary_scores(row)  # (P + 1, N)
    axis.set_facecolor("white")
    missing = np.argwhere(np.isnan(values))
    for place, column in missing:
        axis.add_patch(Rectangle((column - 0.5, place - 0.5), 1, 1, facecolor="white", edgecolor="#b0b0b0", hatch="//////", linewidth=0))
    image = axis.imshow(np.ma.masked_invalid(values), vmin=0, vmax=1, cmap="Blues", aspect="auto", interpolation="nearest")
    for number, phase in enumerate(table.spec["phases"]):
        for column in phase["columns"]:
            axis.add_patch(
                Rectangle((column - 0.5, number + 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.0, zorder=3, clip_on=False)
            )
    if cell >= 0.16:
        for (place, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                written = f"{100 * value:.0f}"
                axis.text(column, place, written, ha="center", va="center", fontsize=6, color="white" if value > 0.6 else INK)
    tasks, phases = values.shape[1], values.shape[0] - 1
    step = math.ceil(tasks / 12)
    axis.set_xticks(range(0, tasks, step), [str(n + 1) for n in range(0, tasks, step)])
    step = math.ceil(phases / 12)
    axis.set_yticks([0, *range(1, phases + 1, step)], ["–", *(str(p) for p in range(1, phases + 1, step))])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


# -- few shots -----------------------------------------------------------------------------------------------------------


@_styled
def few_shot(table: Table) -> Figure | None:
    """The score on held-out tasks over the number of shots, at the end of the stream; dotted: the same agent untrained."""
    drawn = [(row, look) for row, look in zip(table.rows, table_looks(table), strict=True) if curves.few_shot(row) is not None]
    if not drawn:
        return None
    shots = table.spec["few_shot"]["shots"]
    beside = len(drawn) > 7
    legend_rows = math.ceil((len(drawn) + 1) / _legend_columns(ONE_COLUMN, [name_of(row) for row, _ in drawn]))
    figure = _figure(TWO_COLUMNS, 2.4) if beside else _figure(ONE_COLUMN, 1.85 + 0.135 * legend_rows)
    axis = figure.subplots()
    for row, look in drawn:
        untrained = curves.few_shot(row, untrained=True)
        if untrained is not None:
            axis.plot(untrained.x, untrained.value, color=look.colour, linestyle=DOTTED, linewidth=0.9, alpha=0.9, zorder=2)
        curve = curves.few_shot(row)
        assert curve is not None
        axis.fill_between(curve.x, curve.low, curve.high, color=look.colour, alpha=0.16, linewidth=0, zorder=2)
        axis.plot(
            curve.x,
            curve.value,
            color=look.colour,
            marker=look.marker,
            linestyle=DASHED if row.joint else "-",
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
    axis.set_xticks(np.log2(1 + np.array(shots)), [str(k) for k in shots])
    axis.set_xlabel(f"{table.spec['few_shot'].get('shot_unit', 'shots')} per held-out task")
    axis.set_ylabel("score")
    axis.set_ylim(-0.03, 1.03)
    _legend(figure, table, rows=[row for row, _ in drawn], untrained=True, beside=beside)
    return figure


# -- paired differences --------------------------------------------------------------------------------------------------


@_styled
def differences(table: Table) -> Figure | None:
    """Performance of each agent minus that of the best, run by run over equal seeds: mean difference, interval and every difference."""
    rows = [row for row in table.ranked if not math.isnan(row.entries["performance"].value)]
    pairs = [row for row in rows[1:] if row.seeds == rows[0].seeds]
    if not pairs or len(rows[0].runs) < 2:
        return None
    best = np.array(rows[0].entries["performance"].points)
    assigned = looks(table.agents)
    figure = _figure(ONE_COLUMN, 0.62 + 0.2 * len(pairs))
    axis = figure.subplots()
    entries = []
    for place, row in enumerate(pairs):
        apart = np.array(row.entries["performance"].points) - best
        entry = Entry("difference", statistics.mean_interval(apart), tuple(float(value) for value in apart))
        entries.append(entry)
        _summary_mark(axis, place, entry, assigned[row.label])
    _agents_as_lines(axis, pairs)
    _limits(axis, entries, "difference")
    axis.set_xlabel(f"Performance minus that of {rows[0].label}")
    return figure


FIGURES: dict[str, Draw] = {
    "headline": headline,
    "performance": performance,
    "success-over-time": success_over_time,
    "matrices": matrices,
    "forgetting": forgetting,
    "few-shot": few_shot,
    "differences": differences,
}


def draw_all(table: Table, folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, list[Path]]:
    """The files of every figure that the table's runs can fill, by the figure's name."""
    drawn = {name: draw(table) for name, draw in FIGURES.items()}
    return {name: save(figure, folder / f"{table.slug}-{name}", suffixes) for name, figure in drawn.items() if figure is not None}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(
    figure: Figure,
    table: Table,
    *,
    rows: Sequence[Row] | None = None,
    within: tuple[Axes, float] | None = None,
    untrained: bool = False,
    beside: bool = False,
) -> None:
    """One legend: `beside` the axes, `within` a free panel of so many inches where it fits, else below everything."""
    from matplotlib.lines import Line2D

    shown = [(row, look) for row, look in zip(table.rows, table_looks(table), strict=True) if rows is None or row in rows]
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=DASHED if row.joint else "-", label=name_of(row))
        for row, look in shown
    ]
    if untrained:
        handles.append(Line2D([], [], color="#808080", linestyle=DOTTED, linewidth=0.9, label="untrained"))
    names = [name_of(row) for row, _ in shown]
    if beside:
        figure.legend(handles=handles, loc="outside right upper")
    elif within is not None and len(handles) <= 4 * (fitting := _legend_columns(within[1], names)):
        within[0].legend(handles=handles, loc="lower center", ncols=min(fitting, math.ceil(len(handles) / 4)))
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(figure.get_figwidth(), names))


def _legend_columns(inches: float, names: Sequence[str]) -> int:
    return max(1, int(inches / (0.42 + max(map(len, names)) / LETTERS_PER_INCH)))


def _short(name: str, inches: float) -> str:
    """A name that fits into so many inches."""
    letters = max(8, int(inches * LETTERS_PER_INCH) - 8)
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
