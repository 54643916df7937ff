"""The picture of a comparison: scores and paired differences with their intervals."""

from pathlib import Path

from files.display import BLUE
from files.pictures import WIDTH_INCHES, plt, save_picture

LINE_INCHES, AXIS_INCHES = 0.5, 1.0  # of a model or pair; of a panel's frame and its axis


def draw_scores(result: dict, path: Path) -> None:
    """Draw the scores and the paired differences of scores.json, in points, with their 95% intervals."""
    bars = [
        [(row["name"], row["score"], row["interval"]) for row in result["rows"]],
        [(f"{p['model']}\nless {p['reference']}", p["difference"], p["difference_interval"]) for p in result["pairs"]],
    ]
    names = ["Patched score, %" if result["patched"] else "Raw score, %", "Paired difference, points"]
    panels = 2 if result["pairs"] else 1
    heights = [AXIS_INCHES + LINE_INCHES * len(entries) for entries in bars[:panels]]
    # Below each other: beside each other, long names would leave the intervals no room.
    figure, axes = plt.subplots(
        panels, 1, figsize=(WIDTH_INCHES, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, entries, name in zip(axes[:, 0], bars, names):
        for place, (_, value, (low, high)) in enumerate(entries):
            axis.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2)
            axis.plot(100 * value, place, "o", color=BLUE)
        axis.set_yticks(range(len(entries)), [label for label, *_ in entries])
        axis.set_ylim(max(len(entries), 1) - 0.5, -0.5)  # upside down: the first model on top, as in the table
        axis.set_xlabel(f"{name} (95% interval)")
    if result["pairs"]:
        axes[1][0].axvline(0, color="0.6", linewidth=1)
    save_picture(figure, path)
