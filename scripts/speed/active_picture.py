"""The picture of measure_active_experts.py: loss and speed by the number of active experts."""

from pathlib import Path

from files.display import BLUE, VERMILION
from files.pictures import WIDTH_INCHES, plt, save_picture
from speed.round_speeds import factor_and_error

from matplotlib.ticker import MaxNLocator

HEIGHT_INCHES = 4.0


def draw_active(results: dict, path: Path) -> None:
    """Draw the KLD and the speed of each number of active experts, with standard errors; write a PNG."""
    rows, own = results["rows"], results["rows"][0]
    numbers = [row["experts"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    figure.suptitle(f"{results['name']}: fewer active experts")
    losses = [row["kld"] for row in rows]
    speeds = [factor_and_error(row["speeds"], own["speeds"]) for row in rows]
    drawn = ((left, losses, VERMILION, "KLD, nats per token"), (right, speeds, BLUE, "times as fast"))
    for axes, values, color, label in drawn:
        bars = [error or 0 for _, error in values]
        axes.errorbar(numbers, [value for value, _ in values], bars, color=color, marker="o", capsize=3)
        axes.set(xlabel="active experts per token", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    # Room below 0: the reference has no loss, and half of its point would be cut off.
    left.set_ylim(bottom=-0.04 * left.get_ylim()[1])
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    save_picture(figure, path)
