"""The picture of measure_quality.py: size against loss, every file named, labels placed where they cover least."""

from pathlib import Path

from files.display import KIND_COLORS
from files.pictures import DOTS_PER_INCH, SMALLEST_POINTS, WIDTH_INCHES, in_plain_digits, plt, save_picture
from files.safe_files import GIB
from losses.quality_conclusions import CONTRIB, PADDED, TARGET, Measured, line_of
from losses.quality_record import LOSSES, STANDARD

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, NullLocator

MARKERS = {STANDARD: "o", CONTRIB: "D", TARGET: "^", PADDED: "s"}
# Height of a panel, growing with the names that it holds. They stand below each other: beside each other, names of a
# size that can be read on a card would find no room.
LEAST_PANEL_INCHES, NAME_INCHES, MOST_PANEL_INCHES = 3.5, 0.12, 7.0
LINE_STEP_PIXELS = 6.0
MARKER_PIXELS, CROWD_PIXELS = 5.0, 60.0  # half of a marker's width; points nearer than this crowd each other
LABEL_REACHES = (8, 16, 28, 44, 64, 90, 120)  # pixels from a point to its label's edge
LABEL_TURNS = 16  # directions in which a label is tried


def draw_loss(axes: plt.Axes, measured: list[Measured], loss: str) -> None:
    """Draw size against one loss: the line of the standard quants, and every file with its error, by kind."""
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
    # Plain numbers in even steps: on its own matplotlib names hardly anything between 10 and 20.
    axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.set_yscale("log" if shown else "linear")  # F16 alone has no quantisation loss, and nothing to show
    axes.set(xlabel="size, GiB", ylabel="mean KLD, nats per token", title=f"{loss.capitalize()} loss")
    axes.grid(which="both", linewidth=0.3)
    axes.set_axisbelow(True)


def overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Return the area that a box shares with others; box: [left, bottom, right, top], others: [boxes, 4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.prod(np.maximum(sides, 0), axis=1).sum())


def candidate_boxes(point: np.ndarray, size: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Return the boxes to try for one label, each with its distance from the point, in pixels.

    point: [2]; size: [2] (width, height); a box: [left, bottom, right, top].
    """
    # The first of equally good places wins, so a free label goes to the upper right of its point, where it is expected.
    boxes = []
    for reach in LABEL_REACHES:
        for turn in np.linspace(0.25 * np.pi, 2.25 * np.pi, LABEL_TURNS, endpoint=False):
            # By half of the label more than the reach: a wide label beside its point needs more way than one above it.
            middle = point + np.array([np.cos(turn), np.sin(turn)]) * (reach + size / 2)
            boxes.append((float(reach), np.hstack([middle - size / 2, middle + size / 2])))
    return boxes


def label_places(points: np.ndarray, sizes: np.ndarray, bars: np.ndarray, frame: np.ndarray) -> list[np.ndarray]:
    """Return where the middle of each label goes, [2] each.

    points: [labels, 2], sizes: [labels, 2] (width, height), bars: [bars, 4] and frame: [4] (left, bottom, right, top),
    all in pixels.
    """
    half = np.full(2, MARKER_PIXELS)
    taken = np.vstack([np.hstack([points - half, points + half]), bars])
    places = [np.zeros(2)] * len(points)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    neighbours = (distances < CROWD_PIXELS).sum(axis=1)
    # The crowded labels go last. A label without neighbours has a free place close by and takes room from nobody; one
    # in a crowd must evade anyway, and can do so only around what is already placed. The sort is stable, for equal
    # bytes.
    for number in np.argsort(neighbours, kind="stable"):
        area = float(np.prod(sizes[number]))
        costs, boxes = [], []
        for reach, box in candidate_boxes(points[number], sizes[number]):
            # A place costs the pixels that it covers of markers, bars and labels, those that lie outside of the frame,
            # and one per pixel of distance. So a label goes far before it covers text, but never far for a few pixels.
            outside = area - overlap(box, frame[None])
            costs.append(overlap(box, taken) + outside + reach)
            boxes.append(box)
        best = boxes[int(np.argmin(costs))]
        places[number] = (best[:2] + best[2:]) / 2
        taken = np.vstack([taken, best])
    return places


def error_bars(axes: plt.Axes, shown: list[Measured], loss: str, frame: np.ndarray) -> np.ndarray:
    """Return the boxes of the error bars in pixels, [files, 4] (left, bottom, right, top)."""
    boxes = []
    for entry in shown:
        value, error = entry.losses[loss]["kld"]
        left = axes.transData.transform((entry.size / GIB, value))[0]
        # An error as large as the value reaches below every number that a log axis has: that bar ends on the frame.
        low, high = (
            axes.transData.transform((entry.size / GIB, end))[1] if end > 0 else frame[1]
            for end in (value - error, value + error)
        )
        boxes.append([left - 1, low, left + 1, high])
    return np.array(boxes)


def line_boxes(points: np.ndarray) -> np.ndarray:
    """Return small boxes along a line through points [points, 2], in pixels: [boxes, 4] (left, bottom, right, top)."""
    steps = [np.zeros((0, 2))]
    for start, end in zip(points, points[1:]):
        count = int(np.linalg.norm(end - start) / LINE_STEP_PIXELS) + 1
        steps.append(start + np.linspace(0, 1, count)[:, None] * (end - start))
    middles = np.vstack(steps)
    return np.hstack([middles - LINE_STEP_PIXELS / 3, middles + LINE_STEP_PIXELS / 3])


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
            fontsize=SMALLEST_POINTS,
            ha="center",
            va="center",
            color=KIND_COLORS[entry.kind],
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "gray"},
        )
        for entry, point in zip(shown, points)
    ]
    # Text's own method: that of Annotation would measure the line to the point as well.
    sizes = np.array([Text.get_window_extent(text).size for text in texts])
    frame = np.array(axes.get_window_extent().extents)
    line = [(entry.size / GIB, entry.kld(loss)) for entry in line_of(measured, loss)]
    lines = line_boxes(axes.transData.transform(line) if line else np.zeros((0, 2)))
    places = label_places(points, sizes, np.vstack([error_bars(axes, shown, loss, frame), lines]), frame)
    for text, (x, y) in zip(texts, places):
        text.set_position((x, y))


def draw_quality(name: str, measured: list[Measured], path: Path) -> None:
    """Write the picture: size against total and against quantisation loss; equal bytes for equal results."""
    height = min(MOST_PANEL_INCHES, LEAST_PANEL_INCHES + NAME_INCHES * len(measured))
    size = (WIDTH_INCHES, height * len(LOSSES))
    figure, panels = plt.subplots(len(LOSSES), 1, figsize=size, layout="constrained")
    for axes, loss in zip(panels, LOSSES):
        draw_loss(axes, measured, loss)
    if pruning := measured[0].losses["pruning"]["kld"][0]:
        panels[0].axhline(pruning, color="black", linewidth=0.6, linestyle=":", label="pruning loss")
    panels[0].legend(frameon=False)
    figure.suptitle(f"{name}: size against loss (bars: ± 1 standard error)")
    # Labels are placed in pixels, so the figure is laid out first, at the resolution that it is saved in, and stays so.
    figure.set_dpi(DOTS_PER_INCH)
    in_plain_digits(figure)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for axes, loss in zip(panels, LOSSES):
        write_labels(axes, measured, loss)
    save_picture(figure, path)
