"""The report's charts, as Bokeh figures in JSON: grids of cells, size against loss, scores with intervals.

The page sets the colours of its theme, the measure that a grid shows, the cell cursor and the places of labels
(page.js); it finds these models by their names. Equal records give equal JSON: Bokeh's ids are numbered anew.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from files.display import GREY
from files.safe_files import GIB

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJS,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    LogColorMapper,
    LogTicker,
    PrintfTickFormatter,
    Range1d,
)
from bokeh.models.renderers import GlyphRenderer
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

CELL_PIXELS, FEW_ROWS, FEW_CELL_PIXELS, MARGIN_PIXELS = 15, 8, 32, 58
ROW_TICKS, COLUMN_TICKS, STOPS = 16, 8, 8
MARK_PIXELS, WIDE_MARK_PIXELS, WIDE_COLUMNS = 6, 8, 64
NOTHING = GREY  # a value of zero, which a log scale has no place for
KIND_MARKERS = {"standard": "circle", "ContribDynamic": "diamond", "target size": "triangle"}
CHART_PIXELS = 460


@dataclass(frozen=True)
class Measure:
    """One thing that a grid can show: values [rows, columns] on a log or linear scale, or numbers of classes.

    classes: colours by name; values then count them from 0.
    """

    key: str
    name: str
    values: np.ndarray
    log: bool = False
    classes: dict[str, str] = field(default_factory=dict)

    def limits(self) -> tuple[float, float]:
        """Return the least and the largest value of the scale; zero is not part of a log scale."""
        shown = self.values[self.values > 0] if self.log else self.values
        low, high = (float(shown.min()), float(shown.max())) if shown.size else (1.0, 1.0)
        return (low, high) if low < high else (low, low + 1)  # Bokeh draws no scale of no length

    def stops(self) -> list[str]:
        """Return colours of the scale, from its lower end to its upper one."""
        return [Viridis256[place * (len(Viridis256) - 1) // STOPS] for place in range(STOPS + 1)]

    def mapper(self) -> LinearColorMapper | LogColorMapper:
        """Return what turns values into colours."""
        if self.classes:
            return LinearColorMapper(palette=list(self.classes.values()), low=-0.5, high=len(self.classes) - 0.5)
        low, high = self.limits()
        kind = LogColorMapper if self.log else LinearColorMapper
        return kind(palette=Viridis256, low=low, high=high, low_color=NOTHING)


@dataclass(frozen=True)
class Grid:
    """Rows and columns of cells: their names, the measures to show, a sentence and a mark for every cell.

    texts, marks: row by row. A place with the text "" has no cell (the end of the last row). Marks are names of Bokeh's
    markers, "" for no mark.
    """

    key: str
    row_name: str
    column_name: str
    rows: list[str]
    columns: int
    measures: list[Measure]
    texts: list[str]
    marks: list[str]
    mark_name: str = ""
    first: int = 0  # number of the first column


def to_json(plot: figure) -> dict:
    """Return a figure as JSON for the page, its ids numbered in the order in which they occur."""
    # Bokeh counts ids up over the whole process, so a second report of one process would have other bytes.
    known: dict[str, str] = {}
    text = re.sub(
        r'"id": "(p\d+)"',
        lambda match: f'"id": "{known.setdefault(match[1], f"m{len(known)}")}"',
        json.dumps(json_item(plot)),
    )
    item = json.loads(text)
    return {"doc": item["doc"], "root_id": known[item["root_id"]], "target_id": plot.name}


def empty_figure(key: str, height: int, **options: Any) -> figure:
    """Return a figure of the page's width, without tools."""
    plot = figure(
        name=key, height=height, sizing_mode="stretch_width", min_width=1, toolbar_location=None, tools="", **options
    )
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    return plot


def add_hover(plot: figure, renderers: Sequence[GlyphRenderer]) -> None:
    """Let the page show the sentence of the cell or point under the pointer."""
    plot.add_tools(
        HoverTool(
            renderers=list(renderers),
            tooltips=None,
            point_policy="snap_to_data",
            callback=CustomJS(args={"plot": plot}, code="window.report.hover(plot, cb_data)"),
        )
    )


def cells_of(grid: Grid) -> ColumnDataSource:
    """Return the cells of a grid: place, sentence and the value of every measure."""
    there = [place for place, text in enumerate(grid.texts) if text]
    return ColumnDataSource(
        {
            "column": [place % grid.columns for place in there],
            "row": [place // grid.columns for place in there],
            "text": [grid.texts[place] for place in there],
            **{measure.key: measure.values.reshape(-1)[there].tolist() for measure in grid.measures},
        },
        name="cells",
    )


def grid_figure(grid: Grid) -> figure:
    """Return a grid of cells; the first measure is shown, the page can show the others."""
    rows, columns = len(grid.rows), grid.columns
    pixels = FEW_CELL_PIXELS if rows <= FEW_ROWS else CELL_PIXELS
    plot = empty_figure(
        f"grid-{grid.key}",
        MARGIN_PIXELS + pixels * rows,
        x_range=Range1d(start=-0.5, end=columns - 0.5),
        y_range=Range1d(start=rows - 0.5, end=-0.5),  # the first row on top
        x_axis_label=grid.column_name,
        y_axis_label=grid.row_name,
    )
    source = cells_of(grid)
    # A layer of cells per measure, of which one is visible: to switch is to show another layer, at once and without a
    # sum.
    renderers = [
        plot.rect(
            "column",
            "row",
            0.94,
            0.92,
            source=source,
            line_color=None,
            name=f"measure-{measure.key}",
            fill_color={"field": measure.key, "transform": measure.mapper()},
            visible=place == 0,
        )
        for place, measure in enumerate(grid.measures)
    ]
    add_marks(plot, grid)
    cursor = ColumnDataSource({"column": [], "row": []}, name="cursor")
    for color, width in (("#000000", 7), ("#ffffff", 3)):  # white on black, like the marks: it shows on every colour
        plot.rect("column", "row", 1, 1, source=cursor, fill_color=None, line_color=color, line_width=width)
    add_hover(plot, renderers)
    label_grid(plot, grid)
    return plot


def label_grid(plot: figure, grid: Grid) -> None:
    """Name rows and columns on the axes, so many that the names do not touch."""
    rows, columns = len(grid.rows), grid.columns
    plot.grid.visible = False
    plot.axis.major_tick_line_color = plot.axis.minor_tick_line_color = plot.axis.axis_line_color = None
    plot.yaxis.ticker = FixedTicker(ticks=list(range(0, rows, max(1, rows // ROW_TICKS))))
    plot.yaxis.major_label_overrides = dict(enumerate(grid.rows))
    plot.xaxis.ticker = FixedTicker(ticks=list(range(0, columns, max(1, columns // COLUMN_TICKS))))
    plot.xaxis.major_label_overrides = (
        {place: str(place + grid.first) for place in range(columns)} if grid.first else {}
    )


def add_marks(plot: figure, grid: Grid) -> None:
    """Mark cells in white on black, which shows on every colour of a cell."""
    marked = [place for place, mark in enumerate(grid.marks) if mark]
    source = ColumnDataSource(
        {
            "column": [place % grid.columns for place in marked],
            "row": [place // grid.columns for place in marked],
            "mark": [grid.marks[place] for place in marked],
        },
        name="marked",
    )
    size = WIDE_MARK_PIXELS if grid.columns < WIDE_COLUMNS else MARK_PIXELS
    for color, width in (("#000000", 4), ("#ffffff", 1.6)):
        plot.scatter(
            "column",
            "row",
            marker={"field": "mark"},
            source=source,
            size=size,
            line_color=color,
            line_width=width,
            name="marks",
        )


def log_limits(low: float, high: float, room: float) -> tuple[float, float]:
    """Return the range of a log axis, with a share `room` of its length free on both sides."""
    spread = max(np.log10(high / low), 0.05) * room
    return float(low / 10**spread), float(high * 10**spread)


@dataclass(frozen=True)
class Points:
    """The files of a chart of losses: sizes in GiB, mean KLD and the ends of its whiskers, each fp64 [files]."""

    sizes: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def loss_limits(values: np.ndarray, errors: np.ndarray, pruning: float) -> tuple[float, float]:
    """Return the range of the axis of losses; pruning: the pruning loss, 0 where it is not drawn."""
    # A whisker may reach to 0 and below, where a log axis has no end: it is shown down to a third of the least loss.
    least = float(values.min())
    low = min(least, pruning or least, max(least / 3, float((values - errors).min())))
    return log_limits(low, float((values + errors).max()), 0.06)


def loss_figure(files: list[dict], line: list[str], loss: str) -> figure:
    """Return size against one loss: files by kind, with one standard error, and the line of the standard quants.

    files: those of quality.json with a loss above 0, and a `sentence`; line: labels. The pruning loss is drawn in the
    chart of the total loss, which it is part of.
    """
    losses = np.array([entry["losses"][loss]["kld"] for entry in files])
    sizes, values, errors = np.array([entry["bytes"] for entry in files]) / GIB, losses[:, 0], losses[:, 1]
    pruning = files[0]["losses"]["pruning"]["kld"][0] if loss == "total" else 0
    bottom, top = loss_limits(values, errors, pruning)
    left, right = log_limits(sizes.min(), sizes.max(), 0.12)
    points = Points(sizes, values, np.maximum(values - errors, bottom), values + errors)
    plot = empty_figure(
        f"loss-{loss}",
        CHART_PIXELS,
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label="size, GiB",
        y_axis_label="mean KLD, nats per token",
        x_range=Range1d(start=left, end=right),
        y_range=Range1d(start=bottom, end=top),
    )
    if pruning:
        plot.line([sizes.min() / 2, sizes.max() * 2], [pruning] * 2, line_dash="dotted", name="pruning")
    by_label = {entry["label"]: place for place, entry in enumerate(files)}
    on_line = [by_label[label] for label in line]
    plot.line(sizes[on_line].tolist(), values[on_line].tolist(), name="line")
    places = {kind: [place for place, entry in enumerate(files) if entry["kind"] == kind] for kind in KIND_MARKERS}
    add_hover(plot, [add_kind(plot, kind, own, files, points) for kind, own in places.items() if own])
    add_labels(plot, files, points)
    plot.xaxis.formatter, plot.yaxis.formatter = PrintfTickFormatter(format="%.3g"), PrintfTickFormatter(format="%.1e")
    plot.xaxis.ticker = plot.xgrid.ticker = LogTicker(desired_num_ticks=5)
    return plot


def add_kind(plot: figure, kind: str, own: list[int], files: list[dict], points: Points) -> GlyphRenderer:
    """Draw the files of one kind, those at the places `own`; return the renderer of their points."""
    source = ColumnDataSource(
        {
            "size": points.sizes[own].tolist(),
            "kld": points.values[own].tolist(),
            "low": points.low[own].tolist(),
            "high": points.high[own].tolist(),
            "text": [files[place]["sentence"] for place in own],
        }
    )
    name = kind.replace(" ", "-")
    plot.segment("size", "low", "size", "high", source=source, name=f"error-{name}", line_width=1.5)
    for end in ("low", "high"):
        plot.scatter("size", end, source=source, marker="dash", size=8, name=f"error-{name}")
    marker = KIND_MARKERS[kind]
    return plot.scatter("size", "kld", source=source, marker=marker, size=10, line_width=1, name=f"kind-{name}")


def add_labels(plot: figure, files: list[dict], points: Points) -> None:
    """Add the files' names, and lines to the points of those that stand aside; the page finds places for them."""
    anchors = ColumnDataSource(
        {
            "size": points.sizes.tolist(),
            "kld": points.values.tolist(),
            "low": points.low.tolist(),
            "high": points.high.tolist(),
            "label": [entry["label"] for entry in files],
        },
        name="anchors",
    )
    # Both empty: where there is room depends on the width of the window, which only the page knows.
    plot.text(
        "x",
        "y",
        "label",
        source=ColumnDataSource({"x": [], "y": [], "label": []}, name="labels"),
        text_align="center",
        text_baseline="middle",
        text_font_size="11px",
        name="label-text",
    )
    plot.segment(
        "x0",
        "y0",
        "x1",
        "y1",
        source=ColumnDataSource({"x0": [], "y0": [], "x1": [], "y1": []}, name="leaders"),
        name="label-leaders",
        level="underlay",
    )
    # Invisible: a source that no glyph uses is not part of the JSON.
    plot.scatter("size", "kld", source=anchors, size=0, alpha=0, name="label-anchors")


def score_figure(rows: list[dict]) -> figure:
    """Return each model's score in per cent with its 95% interval; rows: those of scores.json, the first on top."""
    places, values = list(range(len(rows))), [100 * row["score"] for row in rows]
    low, high = ([100 * row["interval"][end] for row in rows] for end in (0, 1))
    room = 0.15 * max(max(high) - min(low), 1)
    plot = empty_figure(
        "score-intervals",
        70 + 46 * len(rows),
        x_range=Range1d(start=max(0, min(low) - room), end=min(100, max(high) + room)),
        y_range=Range1d(start=len(rows) - 0.4, end=-0.6),
        x_axis_label="score, %",
    )
    texts = [
        f"{row['name']}: {value:.2f}%, 95% interval {a:.1f}% to {b:.1f}%"
        for row, value, a, b in zip(rows, values, low, high)
    ]
    source = ColumnDataSource({"place": places, "score": values, "low": low, "high": high, "text": texts})
    plot.segment("low", "place", "high", "place", source=source, name="error-standard", line_width=1.5)
    for end in ("low", "high"):
        plot.scatter(end, "place", source=source, marker="dash", angle=np.pi / 2, size=12, name="error-standard")
    add_hover(plot, [plot.scatter("score", "place", source=source, size=12, name="kind-standard")])
    plot.yaxis.ticker, plot.xaxis.ticker = FixedTicker(ticks=places), BasicTicker(desired_num_ticks=5)
    plot.yaxis.major_label_overrides = {place: row["name"] for place, row in enumerate(rows)}
    plot.ygrid.visible = False
    return plot
