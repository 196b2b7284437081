"""Figures to point at and zoom into: plotly, as parts of a page that loads `plotly.min.js` once. The numbers are those of `figures`."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from . import curves, figures
from .figures import name_of
from .palette import Look
from .tables import Row, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "p": "pentagon"} | {
    "<": "triangle-left",
    ">": "triangle-right",
    "*": "star",
}
PANEL_PIXELS = 150
BLUES = [[0, "#f7fbff"], [0.25, "#c6dbef"], [0.5, "#6baed6"], [0.75, "#2171b5"], [1, "#08306b"]]


def success_over_time(table: Table) -> str:
    """The score on each task along the stream, one panel per task; a click on an agent in the legend hides it everywhere."""
    panels: list[int | None] = [None, *range(len(table.tasks))]
    titles = ["mean over all tasks", *(f"{n + 1}. {html.escape(task)}" for n, task in enumerate(table.tasks))]
    figure, places = _grid(titles, 2 if len(panels) <= 8 else 3)
    ends = curves.boundaries(table)
    for panel, (line, column) in zip(panels, places, strict=False):
        for number, phase in enumerate(table.spec["phases"]):
            if panel is not None and panel in phase["columns"]:
                figure.add_vrect(
                    ends[number],
                    ends[number + 1],
                    fillcolor="#808080",
                    opacity=0.18,
                    line_width=0,
                    row=line,
                    col=column,
                    exclude_empty_subplots=False,
                )
        for row, look in zip(table.rows, _looks(table), strict=True):
            curve = curves.along_stream(row, panel)
            if curve is not None:
                _add_curve(figure, curve, row, look, {"row": line, "col": column}, legend=panel is None)
    figure.update_yaxes(range=[-0.03, 1.03], tickvals=[0, 0.5, 1])
    figure.update_xaxes(range=[0, ends[-1]], nticks=6)
    return _part(figure, f"{table.slug}-success-over-time", bottom=80)


def _add_curve(figure: Any, curve: curves.Curve, row: Row, look: Look, place: dict[str, int], *, legend: bool) -> None:
    import plotly.graph_objects as go

    name = html.escape(name_of(row))
    group = {"legendgroup": name, "name": name}
    around = [*curve.x.tolist(), *curve.x[::-1].tolist()], [*curve.high.tolist(), *curve.low[::-1].tolist()]
    figure.add_trace(
        go.Scatter(
            x=around[0],
            y=around[1],
            fill="toself",
            fillcolor=look.colour,
            opacity=0.15,
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
            **group,
        ),
        **place,
    )
    figure.add_trace(
        go.Scatter(
            x=curve.x.tolist(),
            y=curve.value.tolist(),
            mode="lines+markers",
            line={"color": look.colour, "width": 1.8, "dash": "dash" if row.joint else "solid"},
            marker={"symbol": MARKERS[look.marker], "size": 5},
            showlegend=legend,
            hovertemplate="%{y:.3f} at %{x:,}<extra>" + name + "</extra>",
            **group,
        ),
        **place,
    )


def matrices(table: Table) -> str:
    """The evaluation matrix of each agent; a cell that was not evaluated is blank."""
    import plotly.graph_objects as go

    rows = [row for row in table.rows if not row.joint] or list(table.rows)
    phases = len(table.spec["phases"])
    figure, places = _grid([html.escape(name_of(row)) for row in rows], 3 if len(table.tasks) <= 12 else 2, 60 + 20 * phases)
    tasks = [f"{n + 1}. {html.escape(task)}" for n, task in enumerate(table.tasks)]
    for row, (line, column) in zip(rows, places, strict=False):
        scores = curves.boundary_scores(row)
        after = ["untrained", *(f"phase {p + 1}" for p in range(len(scores) - 1))]
        cells = [[None if math.isnan(value) else float(value) for value in scores_of_phase] for scores_of_phase in scores]
        figure.add_trace(
            go.Heatmap(
                z=cells,
                x=list(range(1, len(tasks) + 1)),
                y=list(range(len(cells))),
                customdata=[[[where, task] for task in tasks] for where in after[: len(cells)]],
                coloraxis="coloraxis",
                hovertemplate="%{customdata[1]}<br>after %{customdata[0]}: %{z:.3f}<extra></extra>",
                xgap=1,
                ygap=1,
            ),
            row=line,
            col=column,
        )
    figure.update_yaxes(autorange="reversed", showgrid=False, tickvals=[0, phases], ticktext=["untrained", f"after {phases}"])
    figure.update_xaxes(showgrid=False, dtick=1 if len(tasks) <= 12 else 5, zeroline=False)
    figure.update_layout(coloraxis={"colorscale": BLUES, "cmin": 0, "cmax": 1, "colorbar": {"title": "score", "thickness": 12}})
    return _part(figure, f"{table.slug}-matrices", legend=False)


def cost(table: Table) -> str:
    """Performance against hours per run, one point per run and one mean per agent; empty where no time is known."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for row, look in zip(table.rows, _looks(table), strict=True):
        hours, scores = row.entries["hours"], row.entries["performance"]
        if math.isnan(hours.value) or math.isnan(scores.value):
            continue
        name = html.escape(name_of(row))
        seconds = [3600 * value for value in hours.points]
        whisker = (
            {"type": "data", "array": [scores.interval.high - scores.value], "visible": True, "thickness": 1.2}
            if scores.has_interval
            else None
        )
        figure.add_trace(
            go.Scatter(
                x=seconds,
                y=list(scores.points),
                mode="markers",
                marker={"color": look.colour, "size": 5, "opacity": 0.35},
                legendgroup=name,
                showlegend=False,
                hovertemplate="%{y:.3f}, %{x:.1f} s<extra>" + name + ", one run</extra>",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[sum(seconds) / len(seconds)],
                y=[scores.value],
                error_y=whisker,
                mode="markers",
                marker={"color": look.colour, "symbol": MARKERS[look.marker], "size": 10, "line": {"width": 1, "color": "white"}},
                name=name,
                legendgroup=name,
                hovertemplate="%{y:.3f}, %{x:.1f} s<extra>" + name + "</extra>",
            )
        )
    if not figure.data:
        return ""
    _time_axis(figure, [value for row in table.rows for value in row.entries["hours"].points if value > 0])
    figure.update_yaxes(title="performance", range=[-0.03, 1.03])
    figure.update_layout(height=420)
    return _part(figure, f"{table.slug}-cost", bottom=100)


def _time_axis(figure: Any, hours: list[float]) -> None:
    """Linear from 0, or logarithmic where the slowest run took more than 30 times as long as the fastest."""
    figure.update_xaxes(title="seconds per run (training and evaluation)", rangemode="tozero")
    if hours and max(hours) > 30 * min(hours):
        figure.update_xaxes(type="log", dtick=1)


def _looks(table: Table) -> list[Look]:
    """Those of `figures`; what is black on paper is grey here, so that it is seen on a dark page too."""
    return [
        look._replace(colour="#888888") if row.joint else look for row, look in zip(table.rows, figures.table_looks(table), strict=True)
    ]


def _grid(titles: list[str], columns: int, panel_pixels: int = PANEL_PIXELS) -> tuple[Any, list[tuple[int, int]]]:
    """An empty figure with one titled panel each, and the (row, column) of each."""
    from plotly.subplots import make_subplots

    columns = min(columns, len(titles))
    lines = math.ceil(len(titles) / columns)
    height = 40 + (panel_pixels + 50) * lines
    figure = make_subplots(
        lines,
        columns,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.0 if lines == 1 else min(46 / height, 1 / (lines - 1)),
    )
    figure.update_layout(height=height)
    for note in figure.layout.annotations:
        note.update(font={"size": 12}, xanchor="left", x=figure.layout[f"xaxis{_suffix(figure, note)}"].domain[0])
    return figure, [(n // columns + 1, n % columns + 1) for n in range(len(titles))]


def _suffix(figure: Any, note: Any) -> str:
    """Which axis a panel's title stands over."""
    index = list(figure.layout.annotations).index(note)
    return "" if index == 0 else str(index + 1)


def _part(figure: go.Figure, name: str, *, bottom: int = 40, legend: bool = True) -> str:
    """The figure as a `<div>` and its script; colours of text and grid are set by the page, which knows light from dark."""
    figure.update_layout(
        template="none",
        font={"size": 12, "family": "system-ui, sans-serif"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 20, "t": 30, "b": bottom if legend else 40},
        showlegend=legend,
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hovermode="closest",
        autosize=True,
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"responsive": True, "displaylogo": False, "displayModeBar": False}
    )
