"""What the losses of measure_quality.py say: which files are dominated, which lie under the line of the standard ones.

The line: the standard files that no smaller standard file equals in KLD, joined by straight lines over size in the
picture, where KLD is logarithmic. A file of any size can be held against it: the ratio of its KLD to the line's. All of it is
said twice: of the total loss, and of the quantisation loss, which the pruning loss does not blur.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from losses.kld_statistics import PERCENT, TOLD_APART, digits, mean_and_error  # noqa: E402
from files.safe_files import GIB, replace_when_done  # noqa: E402

STANDARD, CONTRIB, WISH = "standard", "ContribDynamic", "size wish"
LOOKS = {STANDARD: ("o", "#3b6ea5"), CONTRIB: ("D", "#d1495b"), WISH: ("^", "#2a9d5c")}
LOSSES = ("total", "quantisation")
COLUMNS = {"kld": "mean KLD", "kld_median": "median", "kld_99": "99%", "kld_99.9": "99.9%", "same_top": "same top",
           "rms_delta_p": "RMS Δp", "kld_all_tokens": "mean KLD, prompts included"}
EXPERTS_ONLY = " (experts only)"
WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 18.0, 8.0, 120
MARKER_PIXELS, CROWD_PIXELS = 5.0, 60.0  # half a marker's width; points nearer than this crowd each other
LABEL_REACHES = (8, 16, 28, 44, 64, 90, 120)  # pixels from a point to its label's edge


@dataclass(frozen=True)
class Measured:
    """One file: name, kind, size in bytes, bits per weight, digest, KLD summed over each chat and summary, by loss."""

    label: str
    kind: str
    size: int
    bits_per_weight: float
    sha256: str
    sums: dict[str, np.ndarray]  # [chats]
    losses: dict[str, dict[str, list[float]]]

    def kld(self, loss: str) -> float:
        """Return the mean KLD of a loss, nats a token."""
        return self.losses[loss]["kld"][0]

    def described(self) -> dict:
        """Return all of it but the sums, as JSON."""
        return {"label": self.label, "kind": self.kind, "bytes": self.size, "bits_per_weight": self.bits_per_weight,
                "sha256": self.sha256, "losses": self.losses}


def kind_of(quant: str) -> str:
    """Return the kind of a quant by its name."""
    return CONTRIB if quant.startswith("CD-") else WISH if quant.startswith("AUTO-") else STANDARD


def better_and_smaller(entry: Measured, others: Iterable[Measured], loss: str) -> list[Measured]:
    """Return the files that dominate one: no larger, no worse, and one of the two by something; the best first."""
    own = (entry.size, entry.kld(loss))
    return sorted((other for other in others if other.size <= own[0] and other.kld(loss) <= own[1]
                   and (other.size, other.kld(loss)) != own), key=lambda other: (other.kld(loss), other.size))


def line_of(measured: list[Measured], loss: str) -> list[Measured]:
    """Return the standard files that no other standard file dominates, the smallest first; one without any loss aside."""
    standard = [entry for entry in measured if entry.kind == STANDARD and entry.kld(loss) > 0]
    return sorted((entry for entry in standard if not better_and_smaller(entry, standard, loss)), key=lambda entry: entry.size)


def weights_at(size: int, line: list[Measured]) -> list[tuple[Measured, float]]:
    """Return the points of the line around a size, with weights that sum to 1; [] for a size below its smallest file.

    Above its largest file that one alone counts: it costs least of all, in fewer bytes.
    """
    for low, high in zip(line, line[1:]):
        if low.size <= size <= high.size:
            share = (size - low.size) / (high.size - low.size)
            return [(low, 1 - share), (high, share)]
    return [(line[-1], 1.0)] if line and size >= line[-1].size else []


def influence(entry: Measured, around: list[tuple[Measured, float]], loss: str) -> np.ndarray:
    """Return per chat what moves log(KLD / line): sums over its tokens, each relative to its mean [chats]."""
    return entry.sums[loss] / entry.kld(loss) - sum(weight * point.sums[loss] / point.kld(loss) for point, weight in around)


def against_line(entry: Measured, line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return how one file lies to the line at its size, None for a size below its smallest.

    log_ratio: log of its mean KLD over the line's; its error is over chats, paired, linearised. counts: [chats].
    """
    around = weights_at(entry.size, line)
    if not around or entry.kld(loss) <= 0:
        return None
    there = float(np.exp(sum(weight * np.log(point.kld(loss)) for point, weight in around)))
    ratio, error = float(np.log(entry.kld(loss) / there)), mean_and_error(influence(entry, around, loss), counts)[1]
    return {"line": there, "between": [point.label for point, _ in around], "log_ratio": ratio, "log_ratio_error": error,
            "verdict": "not told apart" if abs(ratio) <= TOLD_APART * error else "under" if ratio < 0 else "over"}


def near_in_size(entry: Measured, measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return the standard file nearest in size and how much more, or less, this one costs than that."""
    near = min((other for other in measured if other.kind == STANDARD), key=lambda other: abs(other.size - entry.size))
    difference, error = mean_and_error(entry.sums[loss] - near.sums[loss], counts)
    return {"nearest": near.label, "nearest_bytes": near.size, "difference": difference, "difference_error": error}


def scopes(measured: list[Measured], line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return by how much ContribDynamic's scope `all` lies lower than `experts`, each type at its own size, and on average.

    Values are differences of log(KLD / line), [value, error]: below 0 where `all` is the better one. None where no type
    was built in both scopes.
    """
    by_label, found, moves = {entry.label: entry for entry in measured}, {}, []
    for label, entry in by_label.items():
        pair = (entry, by_label.get(f"{label}{EXPERTS_ONLY}"))
        both = [each and against_line(each, line, counts, loss) for each in pair]
        if None not in both:
            moves.append(np.subtract(*(influence(each, weights_at(each.size, line), loss) for each in pair)))
            found[label] = [both[0]["log_ratio"] - both[1]["log_ratio"], mean_and_error(moves[-1], counts)[1]]
    if not found:
        return None
    mean = float(np.mean([value for value, _ in found.values()]))
    return {"all_minus_experts": found, "mean": [mean, mean_and_error(np.mean(moves, axis=0), counts)[1]],
            "better": "all" if mean < 0 else "experts"}


def conclusion(measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return, of one loss, the line, the verdict on every file that is no standard one, the dominated files, the scopes."""
    line, verdicts, dominated = line_of(measured, loss), {}, {}
    for entry in measured:
        if entry.kind != STANDARD and line:
            verdicts[entry.label] = {**(against_line(entry, line, counts, loss) or {"verdict": "below the line's sizes"}),
                                     **near_in_size(entry, measured, counts, loss)}
        if stronger := better_and_smaller(entry, measured, loss):
            difference, error = mean_and_error(entry.sums[loss] - stronger[0].sums[loss], counts)
            dominated[entry.label] = {"by": stronger[0].label, "difference": difference, "difference_error": error,
                                      "told_apart": difference > TOLD_APART * error}
    return {"line": [entry.label for entry in line], "verdicts": verdicts, "dominated": dominated,
            "scopes": scopes(measured, line, counts, loss)}


def conclusions(measured: list[Measured], counts: np.ndarray) -> dict:
    """Return `conclusion` by loss; counts: scored tokens of each chat [chats]."""
    return {loss: conclusion(measured, counts, loss) for loss in LOSSES}


def gib(size: int) -> str:
    """Return bytes in GiB, with four digits."""
    return f"{size / GIB:#.4g}"


def cell(measure: str, pair: list[float]) -> str:
    """Return a value and its error as a table shows them."""
    if measure == "same_top":
        return f"{PERCENT * pair[0]:.2f}% ± {PERCENT * pair[1]:.2f}"
    return " ± ".join(digits(*pair))


def verdict_sentence(entry: Measured, found: dict) -> str:
    """Return what came out for one file that is no standard one, in words."""
    near = " ± ".join(digits(found["difference"], found["difference_error"]))
    nearest = (f"Against the standard file nearest in size, {found['nearest']} ({PERCENT * (found['nearest_bytes'] / entry.size - 1):+.1f}%): "
               f"{'' if near.startswith('-') else '+'}{near} nats.")
    if found["verdict"] == "below the line's sizes":
        return f"**{entry.label}**, {gib(entry.size)} GiB: no standard file is as small. {nearest}"
    ratio, error = np.exp(found["log_ratio"]), np.exp(found["log_ratio"]) * found["log_ratio_error"]
    words = {"under": "beats the standard files of its size", "over": "does NOT beat the standard files of its size, it is worse",
             "not told apart": "is not told apart from the standard files of its size"}[found["verdict"]]
    return (f"**{entry.label}**, {gib(entry.size)} GiB, {words}: {ratio:.2f} ± {error:.2f} times the line's KLD there "
            f"({' to '.join(found['between'])}). {nearest}")


def comparison(loss: str, found: dict, measured: list[Measured]) -> list[str]:
    """Return what one loss says against the standard files, as Markdown."""
    by_label = {entry.label: entry for entry in measured}
    lines = ["", f"### By {loss} loss", "", f"The line: {', '.join(found['line'])}.", ""]
    lines += [f"- {verdict_sentence(by_label[label], verdict)}" for label, verdict in found["verdicts"].items()] or ["No other files."]
    if not (scope := found["scopes"]):
        return lines
    rows = [f"| {label} | {value:+.3f} ± {error:.3f} |" for label, (value, error) in {**scope["all_minus_experts"], "mean": scope["mean"]}.items()]
    told = abs(scope["mean"][0]) > TOLD_APART * scope["mean"][1]
    return [*lines, "", "ContribDynamic's scopes, each file at its own size:", "", "| type | log(KLD / line), all minus experts |", "| --- | ---: |",
            *rows, "", f"On average `{scope['better']}` costs less{'' if told else ', by less than the error tells apart'}."]


def detail(loss: str, measured: list[Measured]) -> list[str]:
    """Return one loss in all its measures, as Markdown."""
    lines = ["", f"## {loss.capitalize()} loss in detail", "", f"| file | {' | '.join(COLUMNS.values())} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    return lines + [f"| {entry.label} | {' | '.join(cell(measure, entry.losses[loss][measure]) for measure in COLUMNS)} |" for entry in measured]


def introduction(content: dict, pruning: dict[str, list[float]]) -> list[str]:
    """Return what was measured, and the pruning loss."""
    of_all = "" if content["score"] == "all" else f" of {content['tokens']['all']}, those of the replies"
    return ["# What each quant costs", "",
            f"KL divergence in nats a token over {content['chats']} chats that neither calibration nor the choice of experts has seen "
            f"({content['left_out']} seen ones left out): {content['tokens'][content['score']]} tokens{of_all}. ± one standard error over "
            "chats. Pruning loss: pruned F16 against full F16; quantisation loss: quant against pruned F16; total: quant against full "
            "F16. Same top: share of positions with the same most likely token. RMS Δp: of the change in the next token's "
            "probability, in percentage points.", "", "Pruning loss, the same for every file: "
            + ", ".join(f"{name} {cell(measure, pruning[measure])}" for measure, name in COLUMNS.items()) + "."]


def markdown(content: dict, measured: list[Measured]) -> str:
    """Return the page."""
    found = content["conclusions"]
    lines = [*introduction(content, measured[0].losses["pruning"]), "",
             "| file | GiB | bits per weight | pruning loss | quantisation loss | total | dominated, by total |",
             "| --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for entry in measured:
        cells = [cell("kld", entry.losses[loss]["kld"]) for loss in ("pruning", "quantisation", "total")]
        by = found["total"]["dominated"].get(entry.label)
        lines.append(f"| {entry.label} | {gib(entry.size)} | {entry.bits_per_weight:.2f} | {' | '.join(cells)} | "
                     f"{'' if not by else 'by ' + by['by'] + ('' if by['told_apart'] else ', within the error')} |")
    alone = [label for label in found["quantisation"]["dominated"] if found["quantisation"]["dominated"][label]["told_apart"]]
    lines += ["", f"Dominated: another file is no larger and costs no more; within the error: by less than {TOLD_APART} standard errors, "
              f"paired by chat. By quantisation loss, beyond the error: {', '.join(alone) or 'none'}.",
              "", "## Against the standard files of the same size", "",
              "The line: the standard files that no standard file dominates, joined straight over size where KLD is logarithmic. "
              f"Told apart: by more than {TOLD_APART} standard errors, paired by chat."]
    parts = [comparison(loss, found[loss], measured) for loss in LOSSES] + [detail(loss, measured) for loss in LOSSES]
    return "\n".join(lines + sum(parts, [])) + "\n"


def draw_panel(axes: plt.Axes, measured: list[Measured], loss: str) -> None:
    """Draw size against one loss: kinds of files apart, the line, every file's name."""
    line = line_of(measured, loss)
    axes.plot([entry.size / GIB for entry in line], [entry.kld(loss) for entry in line], "-", color=LOOKS[STANDARD][1], linewidth=0.8,
              label="line of the standard files")
    shown = [entry for entry in measured if entry.kld(loss) > 0]
    for kind, (marker, color) in LOOKS.items():
        if own := [entry for entry in shown if entry.kind == kind]:
            axes.errorbar([entry.size / GIB for entry in own], [entry.kld(loss) for entry in own],
                          [entry.losses[loss]["kld"][1] for entry in own], fmt=marker, color=color, markersize=5, capsize=2, linewidth=0.8, label=kind)
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
    texts = [axes.annotate(entry.label, (entry.size / GIB, entry.kld(loss)), point, textcoords="figure pixels", fontsize=6.5, ha="center",
                           va="center", color=LOOKS[entry.kind][1], path_effects=[withStroke(linewidth=1.5, foreground="white")],
                           arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "gray"}) for entry, point in zip(shown, points)]
    sizes = np.array([Text.get_window_extent(text).size for text in texts])  # an Annotation's own would hold its line, too
    frame = axes.get_window_extent().extents
    ends = [entry.kld(loss) + side * entry.losses[loss]["kld"][1] for entry in shown for side in (-1, 1)]
    heights = [axes.transData.transform((shown[0].size / GIB, end))[1] if end > 0 else frame[1] for end in ends]
    bars = np.column_stack([points[:, 0] - 1, heights[::2], points[:, 0] + 1, heights[1::2]])
    for text, place in zip(texts, label_places(points, sizes, bars, frame)):
        text.set_position(place)


def draw(measured: list[Measured], path: Path) -> None:
    """Write the picture: size against total and against quantisation loss; equal bytes for equal results."""
    figure, panels = plt.subplots(1, len(LOSSES), figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    for axes, loss in zip(panels, LOSSES):
        draw_panel(axes, measured, loss)
    if pruning := measured[0].losses["pruning"]["kld"][0]:
        panels[0].axhline(pruning, color="black", linewidth=0.6, linestyle=":", label="pruning loss")
    panels[0].set_ylabel("mean KL divergence, nats a token (bar: ± 1 standard error)")
    panels[0].legend(frameon=False)
    figure.set_dpi(DOTS_PER_INCH)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # settled: labels do not move it
    for axes, loss in zip(panels, LOSSES):
        write_labels(axes, measured, loss)
    with replace_when_done(path) as partial:
        figure.savefig(partial, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)
