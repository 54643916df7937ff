"""The picture of a comparison: scores and paired differences with their intervals."""

from pathlib import Path

from files.display import BLUE
from files.pictures import plt, save_picture


def draw_scores(result: dict, path: Path) -> None:
    """Draw the scores and the paired differences of scores.json, in points, with their 95% intervals."""
    bars = [
        [(row["name"], row["score"], row["interval"]) for row in result["rows"]],
        [(f"{p['model']}\n- {p['reference']}", p["difference"], p["difference_interval"]) for p in result["pairs"]],
    ]
    names = ["Patched score, %" if result["patched"] else "Raw score, %", "Paired difference, points"]
    count = max(map(len, bars))
    panels = 2 if result["pairs"] else 1
    size = (5.5 * panels, 1.5 + 0.6 * count)
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    for axis, entries, name in zip(axes[0], bars, names):
        for place, (_, value, (low, high)) in enumerate(entries):
            axis.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2)
            axis.plot(100 * value, place, "o", color=BLUE)
        axis.set_yticks(range(len(entries)), [label for label, *_ in entries])
        axis.set_ylim(max(len(entries), 1) - 0.5, -0.5)  # upside down: the first model on top, as in the table
        axis.set_xlabel(f"{name} (95% interval)")
    if result["pairs"]:
        axes[0][1].axvline(0, color="0.6", linewidth=1)
    save_picture(figure, path)
