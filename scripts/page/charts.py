"""The report's charts, as Bokeh figures in JSON: size against loss, scores and differences with their intervals.

The page sets the colours of its theme, the places of labels and the ring around a chosen mark (page.js); it finds these
models by their names. Equal records give equal JSON: Bokeh's ids are numbered anew.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from files.safe_files import GIB

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    CustomJS,
    FixedTicker,
    HoverTool,
    LogTicker,
    PrintfTickFormatter,
    Range1d,
    WheelZoomTool,
)
from bokeh.models.renderers import GlyphRenderer
from bokeh.plotting import figure

KIND_MARKERS = {"standard": "circle", "ContribDynamic": "diamond", "target size": "triangle", "padded": "square"}
CHART_PIXELS = 460


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


def add_zoom(plot: figure) -> None:
    """Let a drag choose what to see larger, and the wheel with Ctrl; the page has buttons that do the same."""
    # The wheel alone goes on scrolling the page.
    plot.add_tools(BoxZoomTool(), WheelZoomTool(modifiers={"ctrl": True}))


def add_chosen(plot: figure) -> None:
    """Add the ring that the page puts around a mark whose row of the table is chosen."""
    ring = ColumnDataSource({"x": [], "y": []}, name="chosen")
    plot.scatter("x", "y", source=ring, size=22, fill_color=None, line_width=3, name="chosen-ring")


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
    # Cut at the axis: a whisker that ends at 0 or below has no place on a log scale.
    points = Points(sizes, values, np.maximum(values - errors, bottom), values + errors)
    plot = empty_figure(
        f"loss-{loss}",
        CHART_PIXELS,
        x_axis_type="log",
        y_axis_type="log",
        x_axis_label="size, GiB",
        y_axis_label="mean KLD, nats per token",
        x_range=Range1d(start=left, end=right, bounds="auto"),
        y_range=Range1d(start=bottom, end=top, bounds="auto"),
    )
    add_zoom(plot)
    if pruning:
        # Beyond the outermost points, since the axis reaches beyond them, too.
        plot.line([sizes.min() / 2, sizes.max() * 2], [pruning] * 2, line_dash="dotted", name="pruning")
    by_label = {entry["label"]: place for place, entry in enumerate(files)}
    on_line = [by_label[label] for label in line]
    plot.line(sizes[on_line].tolist(), values[on_line].tolist(), name="line")
    places = {kind: [place for place, entry in enumerate(files) if entry["kind"] == kind] for kind in KIND_MARKERS}
    add_hover(plot, [add_kind(plot, kind, own, files, points) for kind, own in places.items() if own])
    add_labels(plot, files, points)
    add_chosen(plot)
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
            "link": [files[place]["label"] for place in own],
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


@dataclass(frozen=True)
class Interval:
    """One line of a chart of intervals: name, value and ends, its sentence, and the row of the table it belongs to."""

    name: str
    value: float
    low: float
    high: float
    text: str
    link: str


def interval_figure(key: str, lines: list[Interval], label: str, limits: tuple[float, float]) -> figure:
    """Return values with their 95% intervals, the first on top; limits: what the values lie between at all."""
    places = list(range(len(lines)))
    low, high = min(line.low for line in lines), max(line.high for line in lines)
    signed = limits[0] < 0  # differences: then zero is shown, too
    low, high = (min(low, 0), max(high, 0)) if signed else (low, high)
    room = 0.15 * max(high - low, 1)
    plot = empty_figure(
        key,
        70 + 46 * len(lines),
        x_range=Range1d(start=max(limits[0], low - room), end=min(limits[1], high + room), bounds="auto"),
        y_range=Range1d(start=len(lines) - 0.4, end=-0.6, bounds="auto"),
        x_axis_label=label,
    )
    source = ColumnDataSource(
        {"place": places} | {part: [getattr(line, part) for line in lines] for part in Interval.__annotations__}
    )
    if signed:
        plot.line([0, 0], [-0.6, len(lines) - 0.4], line_dash="dotted", name="zero")
    plot.segment("low", "place", "high", "place", source=source, name="error-standard", line_width=1.5)
    for end in ("low", "high"):
        plot.scatter(end, "place", source=source, marker="dash", angle=np.pi / 2, size=12, name="error-standard")
    add_hover(plot, [plot.scatter("value", "place", source=source, size=12, name="kind-standard")])
    add_chosen(plot)
    plot.yaxis.ticker, plot.xaxis.ticker = FixedTicker(ticks=places), BasicTicker(desired_num_ticks=5)
    plot.yaxis.major_label_overrides = {place: line.name for place, line in enumerate(lines)}
    plot.ygrid.visible = False
    return plot
