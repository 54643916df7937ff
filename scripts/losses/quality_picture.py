"""The picture of measure_quality.py: size against loss, every file named, labels placed where they cover least."""

from pathlib import Path

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from files.display import KIND_COLORS
from files.pictures import DOTS_PER_INCH, plt, save_picture
from files.safe_files import GIB
from losses.quality_conclusions import CONTRIB, STANDARD, TARGET, Measured, line_of
from losses.quality_record import LOSSES

MARKERS = {STANDARD: "o", CONTRIB: "D", TARGET: "^"}
WIDE_INCHES, HEIGHT_INCHES = 18.0, 8.0
MARKER_PIXELS, CROWD_PIXELS = 5.0, 60.0  # half a marker's width; points nearer than this crowd each other
LABEL_REACHES = (8, 16, 28, 44, 64, 90, 120)  # pixels from a point to its label's edge


def draw_loss(axes: plt.Axes, measured: list[Measured], loss: str) -> None:
    """Draw size against one loss: kinds of files apart, the line, every file's name."""
    line = line_of(measured, loss)
    axes.plot(
        [entry.size / GIB for entry in line],
        [entry.kld(loss) for entry in line],
        "-",
        color=KIND_COLORS[STANDARD],
        linewidth=0.8,
        label="line of the standard quants",
    )
    shown = [entry for entry in measured if entry.kld(loss) > 0]
    for kind, marker in MARKERS.items():
        if own := [entry for entry in shown if entry.kind == kind]:
            axes.errorbar(
                [entry.size / GIB for entry in own],
                [entry.kld(loss) for entry in own],
                [entry.losses[loss]["kld"][1] for entry in own],
                fmt=marker,
                color=KIND_COLORS[kind],
                markersize=5,
                capsize=2,
                linewidth=0.8,
                label=kind,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_formatter("{x:.3g}")
    axes.set_yscale("log" if shown else "linear")
    axes.set(xlabel="size, GiB", title=f"{loss} loss")
    axes.grid(which="both", linewidth=0.3)
    axes.set_axisbelow(True)


def overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Return the area that a box shares with others; box: [left, bottom, right, top], others: [boxes, 4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(sides, 0), axis=1).sum())


def label_places(points: np.ndarray, sizes: np.ndarray, bars: np.ndarray, frame: np.ndarray) -> list[np.ndarray]:
    """Return where each label's middle goes, placed in turn, the crowded ones last.

    A place costs the pixels that it covers of other labels, points and bars or has outside of the frame, and one for each pixel
    of distance to its point. points: [labels, 2], sizes: [labels, 2] (width, height), bars: [bars, 4] and frame: [4] (left,
    bottom, right, top), all in pixels.
    """
    half = np.full(2, MARKER_PIXELS)
    taken, places = np.vstack([np.hstack([points - half, points + half]), bars]), [np.zeros(2)] * len(points)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    for number in np.argsort((distances < CROWD_PIXELS).sum(axis=1), kind="stable"):
        costs, boxes = [], []
        for reach in LABEL_REACHES:
            for turn in np.linspace(0.25 * np.pi, 2.25 * np.pi, 16, endpoint=False):
                middle = points[number] + np.array([np.cos(turn), np.sin(turn)]) * (reach + sizes[number] / 2)
                boxes.append(np.hstack([middle - sizes[number] / 2, middle + sizes[number] / 2]))
                outside = np.prod(sizes[number]) - overlap(boxes[-1], frame[None])
                costs.append(overlap(boxes[-1], taken) + outside + reach)
        box = boxes[int(np.argmin(costs))]
        places[number], taken = (box[:2] + box[2:]) / 2, np.vstack([taken, box])
    return places


def write_labels(axes: plt.Axes, measured: list[Measured], loss: str) -> None:
    """Write every file's name beside its point, with a thin line to it; the layout of the figure must be settled."""
    shown = sorted((entry for entry in measured if entry.kld(loss) > 0), key=lambda entry: entry.size)
    if not shown:
        return
    points = axes.transData.transform([(entry.size / GIB, entry.kld(loss)) for entry in shown])
    texts = [
        axes.annotate(
            entry.label,
            (entry.size / GIB, entry.kld(loss)),
            point,
            textcoords="figure pixels",
            fontsize=6.5,
            ha="center",
            va="center",
            color=KIND_COLORS[entry.kind],
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "gray"},
        )
        for entry, point in zip(shown, points)
    ]
    sizes = np.array(
        [Text.get_window_extent(text).size for text in texts]
    )  # an Annotation's own would hold its line, too
    frame = axes.get_window_extent().extents
    ends = [entry.kld(loss) + side * entry.losses[loss]["kld"][1] for entry in shown for side in (-1, 1)]
    heights = [axes.transData.transform((shown[0].size / GIB, end))[1] if end > 0 else frame[1] for end in ends]
    bars = np.column_stack([points[:, 0] - 1, heights[::2], points[:, 0] + 1, heights[1::2]])
    for text, place in zip(texts, label_places(points, sizes, bars, frame)):
        text.set_position(place)


def draw_quality(measured: list[Measured], path: Path) -> None:
    """Write the picture: size against total and against quantisation loss; equal bytes for equal results."""
    figure, panels = plt.subplots(1, len(LOSSES), figsize=(WIDE_INCHES, HEIGHT_INCHES), layout="constrained")
    for axes, loss in zip(panels, LOSSES):
        draw_loss(axes, measured, loss)
    if pruning := measured[0].losses["pruning"]["kld"][0]:
        panels[0].axhline(pruning, color="black", linewidth=0.6, linestyle=":", label="pruning loss")
    panels[0].set_ylabel("mean KL divergence, nats a token (bar: ± 1 standard error)")
    panels[0].legend(frameon=False)
    figure.set_dpi(DOTS_PER_INCH)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # settled: labels do not move it
    for axes, loss in zip(panels, LOSSES):
        write_labels(axes, measured, loss)
    save_picture(figure, path)
