#!/usr/bin/env python3
"""Say how well a calibration text reached the experts: tokens per expert in every layer, as a table and a picture.

Inputs:  an imatrix in GGUF form.
Output:  PREFIX.md (per layer: least, median and most tokens per expert, number of experts without any) and PREFIX.png.
Example: .venv/bin/python scripts/report_imatrix.py --imatrix build/gemma-4-demo/109e/gguf/imatrix.gguf \\
             --output-prefix build/try/imatrix-coverage

llama-quantize treats all inputs of an expert without tokens alike, so such experts gain nothing from an imatrix. Counts
are those of ffn_down_exps; gate and up see the same tokens.
"""

import argparse
from pathlib import Path

from files.display import BLUE, VERMILION, markdown_table
from files.input_errors import InputError
from files.option_types import command_parser, named_path, whole_number
from files.pictures import WIDTH_INCHES, plt, save_picture
from files.safe_files import check_apart, replace_when_done, run
from ggufs.imatrix import check_reached, read_imatrix

import numpy as np
from matplotlib.ticker import MaxNLocator

REACHED, NEVER = BLUE, VERMILION


def coverage_row(name: str, row: np.ndarray) -> list[str]:
    """Return the cells of one layer; row: tokens per expert [experts] int64."""
    never = int((row == 0).sum())
    return [
        name,
        str(row.size),
        f"{row.min():,}",
        f"{np.median(row):,.0f}",
        f"{row.max():,}",
        f"{never} ({never / row.size:.1%})",
    ]


def coverage_table(counts: dict[int, np.ndarray]) -> str:
    """Return the table, its last row that of all layers; counts: tokens per expert [experts] int64, by layer."""
    rows = [coverage_row(str(layer), row) for layer, row in counts.items()]
    heads = ["layer", "experts", "least tokens", "median", "most", "never reached"]
    return markdown_table(heads, [*rows, coverage_row("all", np.concatenate(list(counts.values())))], left=0) + "\n"


def draw_coverage_of(counts: dict[int, np.ndarray]) -> plt.Figure:
    """Draw the tokens of each expert and their median by layer, and below how many experts got none."""
    layers = list(counts)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(WIDTH_INCHES, 5.5), sharex=True, layout="constrained", gridspec_kw={"height_ratios": (3, 1)}
    )
    # Many experts lie on one spot: the more of them, the darker it is.
    for layer, row in counts.items():
        above.plot(np.full(row.size, layer), row, ".", color=REACHED, markersize=4, alpha=0.35, markeredgewidth=0)
    above.plot(layers, [np.median(row) for row in counts.values()], "_", color="black", markersize=14, label="median")
    # symlog and not log: experts without tokens must show, too.
    above.set(
        ylabel="tokens per expert",
        title="Calibration tokens that reached each expert",
        yscale="symlog",
        ylim=(-0.5, None),
    )
    above.yaxis.set_major_formatter("{x:.0f}")
    above.legend(frameon=False)
    never = [int((row == 0).sum()) for row in counts.values()]
    below.bar(layers, never, color=NEVER)
    below.set(xlabel="layer", ylabel="experts\nnever reached", ylim=(0, 1.05 * max(1, *never)))
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--imatrix", type=Path, required=True, help="imatrix in GGUF form")
    add("--output-prefix", type=named_path, required=True, help="path that .md and .png are put to")
    add = parser.add_argument_group("what is refused").add_argument
    least = "refuse an imatrix in which fewer tokens reached some expert"
    add("--min-expert-tokens", type=whole_number, default=0, metavar="N", help=least)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    picture, page = (args.output_prefix.with_name(f"{args.output_prefix.name}.{kind}") for kind in ("png", "md"))
    check_apart([args.imatrix], [picture, page])
    imatrix = read_imatrix(args.imatrix)
    reached = check_reached(imatrix, args.min_expert_tokens)
    counts = imatrix.expert_counts()
    if not counts:
        raise InputError(args.imatrix, "an imatrix of a mixture-of-experts model", "none of its weights has experts")
    figure = draw_coverage_of(counts)
    save_picture(figure, picture)
    with replace_when_done(page) as partial:
        partial.write_text(coverage_table(counts), encoding="utf-8")
    print(f"{page}: {reached}")


if __name__ == "__main__":
    run(main)
