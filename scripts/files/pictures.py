"""PNG pictures: one size, one way to write them, equal bytes for equal figures."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot is imported: a machine without a screen has no other backend
from matplotlib import pyplot as plt  # noqa: E402

from files.safe_files import replace_when_done  # noqa: E402

WIDTH_INCHES, DOTS_PER_INCH = 10.0, 120


def save_picture(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG and close it. matplotlib's version is left out, so that equal figures give equal bytes."""
    with replace_when_done(path) as partial:
        figure.savefig(partial, dpi=DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure)
