"""PNG pictures: one size, one way to write them, equal bytes for equal figures.

A card or a page shows them SHOWN_PIXELS wide. No text is smaller than SMALLEST_POINTS, which leaves it 10 pixels high.
"""

import importlib.util
import os
from math import ceil
from pathlib import Path

from files.safe_files import replace_when_done

# Before the import: a user's own settings would draw other pictures, or end it.
if found := importlib.util.find_spec("matplotlib"):
    os.environ["MATPLOTLIBRC"] = str(Path(str(found.origin)).parent / "mpl-data/matplotlibrc")

import matplotlib  # noqa: E402

matplotlib.rcdefaults()  # one in the working directory comes first
matplotlib.use("Agg")  # before pyplot is imported, which else looks for a screen; a server has none
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import LogFormatter, LogFormatterMathtext  # noqa: E402

WIDTH_INCHES, DOTS_PER_INCH = 10.0, 120
SHOWN_PIXELS, LEAST_PIXELS = 760, 10
POINTS_PER_INCH = 72
SMALLEST_POINTS = ceil(2 * LEAST_PIXELS * WIDTH_INCHES * POINTS_PER_INCH / SHOWN_PIXELS) / 2  # to half a point: 9.5
TEXT_POINTS = 11.5
# Every size but the title's follows from this one; ticks keep the size of the text, where matplotlib's own are smaller.
plt.rcParams.update({"font.size": TEXT_POINTS, "axes.titlesize": "medium", "figure.titlesize": "large"})
plt.rcParams["text.parse_math"] = False  # a name with two dollar signs is no formula


def in_plain_digits(figure: plt.Figure) -> None:
    """Write the numbers of logarithmic axes as 1e-05: matplotlib's own are formulas, which nothing here reads.

    `save_picture` does so, too; earlier it is for who looks where the axes lie.
    """
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
            axis.set_major_formatter(LogFormatter())
        if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
            axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def save_picture(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    in_plain_digits(figure)
    with replace_when_done(path) as partial:
        # matplotlib writes its version into the file. Without it equal figures have equal bytes.
        figure.savefig(partial, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)  # pyplot keeps every figure in memory until then
