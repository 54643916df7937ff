"""PNG pictures: one size, one way to write them, equal bytes for equal figures.

A card or a page shows them 760 pixels wide, so no text is smaller than SMALLEST_POINTS: that leaves it 10 pixels high.
"""

from pathlib import Path

from files.safe_files import replace_when_done

import matplotlib

matplotlib.use("Agg")  # before pyplot is imported, which else looks for a screen; a server has none
from matplotlib import pyplot as plt  # noqa: E402

WIDTH_INCHES, DOTS_PER_INCH = 10.0, 120
SHOWN_PIXELS = 760
SMALLEST_POINTS, TEXT_POINTS = 9.5, 11.5
# Every size but the title's follows from this one; ticks keep the size of the text, where matplotlib's own are smaller.
plt.rcParams.update({"font.size": TEXT_POINTS, "axes.titlesize": "medium", "figure.titlesize": "large"})


def save_picture(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    with replace_when_done(path) as partial:
        # matplotlib writes its version into the file. Without it equal figures have equal bytes.
        figure.savefig(partial, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)  # pyplot keeps every figure in memory until then
