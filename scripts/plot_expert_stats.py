#!/usr/bin/env python3
"""Draw what the analysis found and what the drop map makes of it.

Inputs:  a statistics file of teacher_force_analysis.py, and a drop map chosen from it or one that a user brought.
Output:  three PNG files: PREFIX-coverage.png (each layer's experts by rank, in how many questions each of them is among
         the most important ones, the cut between kept and dropped, and the experts that are a coin toss),
         PREFIX-heatmap.png (each expert's share of its layer's weighted norm, by rank) and PREFIX-layers.png (what each
         layer's experts contribute, and the dropped experts' share of it).
Example: .venv/bin/python scripts/plot_expert_stats.py --name gemma-4-demo-109e \\
             --stats build/gemma-4-demo/full/statistics/calibration_questions/expert_stats.safetensors \\
             --drop-map build/gemma-4-demo/109e/drop_map.json --output-prefix build/try/experts
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choice.drop_map import Shape, read_drop_map, rows_that_chose, values_by_layer
from choice.expert_stats import SHOWN_TOP, kept_first, protected, read_stats
from files.display import DROPPED, GREY, KEPT
from files.input_errors import sha256_file
from files.json_records import read_json
from files.option_types import command_parser, named_path
from files.pictures import WIDTH_INCHES, plt, save_picture
from files.safe_files import check_apart, run

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

PANEL_COLUMNS, PANEL_INCHES = 5, 1.35  # of the coverage picture: panels beside each other, height of one
TOSS: dict[str, Any] = {"color": GREY, "alpha": 0.45}


@dataclass(frozen=True)
class Ranked:
    """The experts of every layer by rank, the kept ones first: arrays [layers, experts].

    name: of the model. layers: their numbers. coverage: int, shares: fp64, of the layer's weighted norm; dropped and
    tosses (experts that are a coin toss): bool.
    """

    name: str
    layers: list[int]
    coverage: np.ndarray
    shares: np.ndarray
    dropped: np.ndarray
    tosses: np.ndarray

    @property
    def kept(self) -> int:
        """Kept experts of every layer."""
        return int((~self.dropped[0]).sum())


def layer_shares(weighted_norm_sum: np.ndarray) -> np.ndarray:
    """Return each expert's share of its layer's weighted norm over all questions.

    weighted_norm_sum: [questions, layers, experts] fp64. Returns [layers, experts], rows that add up to 1.
    """
    total = weighted_norm_sum.sum(axis=0)
    return total / total.sum(axis=1, keepdims=True)


def dropped_mask(drop: dict[int, list[int]], layers: list[int], experts: int) -> np.ndarray:
    """Return a boolean [layers, experts], true where an expert is dropped; drop: ids by layer."""
    mask = np.zeros((len(layers), experts), bool)
    for row, layer in enumerate(layers):
        mask[row, drop[layer]] = True
    return mask


def coin_toss_mask(drop_map: dict, layers: list[int], experts: int) -> np.ndarray:
    """Return a boolean [layers, experts], true where other questions might as well have decided otherwise."""
    mask = np.zeros((len(layers), experts), bool)
    for row, ids in enumerate(values_by_layer(drop_map, layers, "coin_toss") or []):
        mask[row, ids] = True
    return mask


def ranked_experts(
    name: str, layers: list[int], drop_map: dict, coverage: np.ndarray, shares: np.ndarray, dropped: np.ndarray
) -> Ranked:
    """Return the experts by rank: by the map's own scores, or by coverage where it has none."""
    own = values_by_layer(drop_map, layers, "score")
    order = kept_first(dropped, coverage if own is None else np.array(own), shares)
    tosses = coin_toss_mask(drop_map, layers, dropped.shape[1])
    return Ranked(
        name, layers, *(np.take_along_axis(values, order, axis=1) for values in (coverage, shares, dropped, tosses))
    )


def draw_heatmap(ranked: Ranked) -> plt.Figure:
    """Draw layers x ranks, coloured by share of the layer's weighted norm on a log scale, and the cut."""
    shares, (rows, experts) = ranked.shares, ranked.shares.shape
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 1.9 + 0.17 * max(rows, 6)), layout="constrained")
    positive = shares[shares > 0]
    image = axes.imshow(
        np.where(shares > 0, shares, np.nan),
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        extent=(0.5, experts + 0.5, rows - 0.5, -0.5),  # the best expert has rank 1
        # Four decades at most: one hardly used expert would leave all the others the same colour.
        norm=LogNorm(max(positive.min(), positive.max() * 1e-4), positive.max()),
    )
    for color, width in (("white", 4.0), ("black", 1.6)):  # black on white: it shows on every colour
        axes.axvline(ranked.kept + 0.5, color=color, linewidth=width)
    axes.set(
        xlabel="rank of the expert in its layer (left of the line: kept; right: dropped; white: never used)",
        ylabel="layer",
        title=f"{ranked.name}: each expert's share of its layer's weighted norm",
    )
    labelled = range(0, rows, max(1, rows // 10))
    axes.set_yticks(labelled, [str(ranked.layers[i]) for i in labelled])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axes, pad=0.01).set_label("share")
    return figure


def draw_panel(axes: plt.Axes, ranked: Ranked, row: int) -> None:
    """Draw one layer: coverage over rank, the cut, and a grey band where experts are a coin toss."""
    coverage, dropped = ranked.coverage[row], ranked.dropped[row]
    ranks = np.arange(1, coverage.size + 1)
    for rank in ranks[ranked.tosses[row]]:
        axes.axvspan(rank - 0.5, rank + 0.5, **TOSS, linewidth=0, zorder=0)
    for mask, color in ((~dropped, KEPT), (dropped, DROPPED)):
        axes.bar(ranks[mask], coverage[mask], width=1, color=color)
    # Dropped experts may have no coverage at all, so that no bar would show where they are.
    axes.axvspan(ranked.kept + 0.5, coverage.size + 0.5, color=DROPPED, alpha=0.18, linewidth=0, zorder=-1)
    axes.axvline(ranked.kept + 0.5, color="black", linewidth=1.2)
    axes.set_title(f"layer {ranked.layers[row]}", loc="left", pad=2)
    axes.set_xlim(0.5, coverage.size + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def add_title_and_legend(figure: plt.Figure, ranked: Ranked) -> None:
    """Write above the panels what they show and what the colours mean."""
    whole, tosses = ranked.dropped.shape[1], int(ranked.tosses.sum())
    handles: list[Artist] = [
        Patch(color=KEPT, label=f"kept: {ranked.kept} of {whole} in each layer"),
        Patch(color=DROPPED, label=f"dropped: {whole - ranked.kept}"),
    ]
    if tosses:
        handles.append(Patch(**TOSS, label=f"a coin toss: {tosses} in all"))
    handles.append(Line2D([], [], color="black", linewidth=1.2, label="the cut"))
    # The title is the legend's: the layout keeps no room for both a legend and a title of the figure.
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        columnspacing=1.2,
        title=f"{ranked.name}: each layer's experts by rank",
        title_fontsize="large",
    )


def draw_coverage(ranked: Ranked, questions: int, top: int) -> plt.Figure:
    """Draw a panel per layer: its experts by rank, with the cut and the band of coin tosses.

    The coverage is counted over `questions` questions, by the `top` experts of a layer.
    """
    columns = min(PANEL_COLUMNS, len(ranked.layers))
    rows = -(-len(ranked.layers) // columns)
    size = (WIDTH_INCHES, 1.4 + PANEL_INCHES * max(rows, 2))
    figure, panels = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for row, axes in enumerate(panels.flat):
        if row < len(ranked.layers):
            draw_panel(axes, ranked, row)
        else:  # the last row of panels may be short
            axes.set_axis_off()
    add_title_and_legend(figure, ranked)
    words = f"coverage, the questions (of {questions}) with it in its layer's top {top}"
    figure.supxlabel(f"rank of the expert in its layer; height: {words}", fontsize="medium")
    return figure


def draw_layers(
    name: str, norm_per_token: np.ndarray, dropped_share: np.ndarray, dropped_part: float, layers: list[int]
) -> plt.Figure:
    """Draw, per layer, the mean norm of the experts' mixed output and the dropped experts' share of weighted norm.

    norm_per_token, dropped_share: [layers]; dropped_part: the dropped experts' share of the number of experts.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH_INCHES, 6), sharex=True, layout="constrained")
    above.bar(layers, norm_per_token, color=KEPT)
    above.set(ylabel="mean norm per token", title="What the experts of each layer add")
    below.bar(layers, 100 * dropped_share, color=DROPPED)
    below.axhline(100 * dropped_part, color="black", linewidth=1, linestyle="--", label="their share of the experts")
    below.set(xlabel="layer", ylabel="per cent", title="Share of the weighted norm that belongs to dropped experts")
    # Above the bars, which would lie under it in a layer where they are high.
    below.set_ylim(top=1.3 * 100 * max(dropped_part, dropped_share.max()))
    below.legend(frameon=False, loc="upper right")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(name)
    return figure


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--stats", type=Path, required=True, help="statistics file of teacher_force_analysis.py")
    inputs.add_argument("--drop-map", type=Path, required=True, help="drop map chosen from it")
    output = parser.add_argument_group("output")
    output.add_argument("--name", help="name of the model in the pictures (default: the start of the paths)")
    output.add_argument("--output-prefix", type=named_path, required=True, help="start of the three paths")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    arrays, metadata = read_stats(args.stats)
    layers = arrays["layer_numbers"].tolist()
    shares = layer_shares(arrays["weighted_norm_sum"])
    drop_map = read_drop_map(args.drop_map, Shape(shares.shape[1], metadata["top_k"], tuple(layers)))
    dropped = dropped_mask(drop_map.drop, layers, shares.shape[1])
    ids = [question["id"] for question in metadata["questions"]]
    rows = rows_that_chose(args.drop_map, drop_map.details, args.stats, sha256_file(args.stats), ids)
    # Counted here and not taken from the map: its scores are those of its criterion, which need not be coverage.
    top = drop_map.details.get("protect_top") or min(SHOWN_TOP, shares.shape[1])
    coverage = protected(arrays["weighted_norm_sum"][rows], top).sum(axis=0)
    norms = arrays["moe_output_norm_sum"].sum(axis=0) / np.maximum(arrays["tokens"].sum(axis=0), 1)
    name = args.name or args.output_prefix.name
    ranked = ranked_experts(name, layers, read_json(args.drop_map), coverage, shares, dropped)
    figures = {
        "coverage": draw_coverage(ranked, len(rows), top),
        "heatmap": draw_heatmap(ranked),
        "layers": draw_layers(name, norms, (shares * dropped).sum(axis=1), dropped.mean(), layers),
    }
    paths = [args.output_prefix.with_name(f"{args.output_prefix.name}-{ending}.png") for ending in figures]
    check_apart([args.stats, args.drop_map], paths)
    for path, figure in zip(paths, figures.values()):
        save_picture(figure, path)
    print(f"{args.output_prefix}-{{{','.join(figures)}}}.png: {len(layers)} layers, {shares.shape[1]} experts")


if __name__ == "__main__":
    run(main)
