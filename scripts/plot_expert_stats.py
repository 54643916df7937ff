#!/usr/bin/env python3
"""Draw what the analysis found and what the drop map makes of it.

Inputs:  a statistics file of teacher_force_analysis.py, and a drop map chosen from it or one that a user brought.
Output:  three PNG files: PREFIX-heatmap.png (each expert's share of its layer's weighted norm, dropped experts marked),
         PREFIX-coverage.png (in how many questions an expert is protected, kept and dropped ones apart) and
         PREFIX-layers.png (what each layer's experts contribute, and the dropped experts' share of it).
Use:     scripts/plot_expert_stats.py --stats STATS --drop-map DROP_MAP.json --output-prefix build/experts
"""

import argparse
from pathlib import Path

from choice.drop_map import Shape, read_drop_map, rows_that_chose
from choice.expert_stats import protected, read_stats
from files.display import DROPPED, KEPT
from files.option_types import command_parser
from files.pictures import WIDTH_INCHES, plt, save_picture
from files.safe_files import run, sha256_file

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

SHOWN_TOP = 16  # of the coverage picture, where the map protects nothing; the model card's number


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


def draw_heatmap(shares: np.ndarray, dropped: np.ndarray, layers: list[int]) -> plt.Figure:
    """Draw layers x experts, coloured by share of the layer's weighted norm on a log scale.

    shares: [layers, experts]; dropped: booleans of that shape.
    """
    rows, experts = shares.shape
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 1.7 + 0.17 * max(rows, 6)), layout="constrained")
    positive = shares[shares > 0]
    image = axes.imshow(
        np.where(shares > 0, shares, np.nan),
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        # Four decades at most: one hardly used expert would leave all the others the same colour.
        norm=LogNorm(max(positive.min(), positive.max() * 1e-4), positive.max()),
    )
    row, column = np.nonzero(dropped)
    axes.plot(column, row, "x", color=DROPPED, markersize=3.5, markeredgewidth=1.1)
    axes.set(
        xlabel="expert",
        ylabel="layer",
        title="Each expert's share of its layer's weighted norm (x: dropped; white: never used)",
    )
    labelled = range(0, rows, max(1, rows // 15))
    axes.set_yticks(labelled, [str(layers[i]) for i in labelled])
    axes.set_xticks(range(0, experts, max(1, experts // 16)))
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("share")
    return figure


def draw_coverage(marked: np.ndarray, dropped: np.ndarray, top: int) -> plt.Figure:
    """Draw how many experts (over all layers) are among the `top` ones of their layer in how many questions.

    marked: booleans [questions, layers, experts], from `protected`; dropped: booleans [layers, experts].
    """
    questions, coverage = len(marked), marked.sum(axis=0)
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 4), layout="constrained")
    edges = np.linspace(-0.5, questions + 0.5, min(questions + 1, 50) + 1)  # a count lies in the middle of its bar
    axes.hist(
        [coverage[~dropped], coverage[dropped]],
        bins=edges.tolist(),
        stacked=True,
        color=[KEPT, DROPPED],
        label=[f"kept ({(~dropped).sum()})", f"dropped ({dropped.sum()})"],
    )
    axes.set(
        xlabel=f"coverage: questions (of {questions}) with the expert in its layer's top {top}",
        ylabel="experts, all layers",
        title="Coverage of the experts",
        yscale="symlog",  # so that a bar of one expert shows beside one of hundreds
    )
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def draw_layers(
    norm_per_token: np.ndarray, dropped_share: np.ndarray, dropped_part: float, layers: list[int]
) -> plt.Figure:
    """Draw, per layer, the mean norm of the experts' mixed output and the dropped experts' share of weighted norm.

    norm_per_token, dropped_share: [layers]; dropped_part: the dropped experts' share of the number of experts.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH_INCHES, 5.5), sharex=True, layout="constrained")
    above.bar(layers, norm_per_token, color=KEPT)
    above.set(ylabel="mean norm per token", title="What the experts of each layer add")
    below.bar(layers, 100 * dropped_share, color=DROPPED)
    below.axhline(100 * dropped_part, color="black", linewidth=1, linestyle="--", label="their share of the experts")
    below.set(xlabel="layer", ylabel="per cent", title="Share of the weighted norm that belongs to dropped experts")
    below.legend(frameon=False)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--stats", type=Path, required=True, help="statistics file of teacher_force_analysis.py")
    parser.add_argument("--drop-map", type=Path, required=True, help="drop map chosen from it")
    parser.add_argument("--output-prefix", type=Path, required=True, help="start of the three paths")
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
    marked = protected(arrays["weighted_norm_sum"][rows], top)
    norms = arrays["moe_output_norm_sum"].sum(axis=0) / np.maximum(arrays["tokens"].sum(axis=0), 1)
    figures = {
        "heatmap": draw_heatmap(shares, dropped, layers),
        "coverage": draw_coverage(marked, dropped, top),
        "layers": draw_layers(norms, (shares * dropped).sum(axis=1), dropped.mean(), layers),
    }
    for name, figure in figures.items():
        save_picture(figure, args.output_prefix.with_name(f"{args.output_prefix.name}-{name}.png"))
    print(f"{args.output_prefix}-{{{','.join(figures)}}}.png: {len(layers)} layers, {shares.shape[1]} experts")


if __name__ == "__main__":
    run(main)
