"""The picture of measure_findings.py: topics against shuffled labels, cosines by layer, bf16, and other maps."""

from pathlib import Path
from typing import Any

from files.display import BLUE, GREY, ORANGE, VERMILION
from files.pictures import SMALLEST_POINTS, WIDTH_INCHES, plt, save_picture

import numpy as np
from matplotlib.ticker import MaxNLocator

HEIGHT_INCHES = 9.0
# Three entries must find room beside each other in half of the width.
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALLEST_POINTS, "columnspacing": 0.8, "handletextpad": 0.2}


def whiskers(values: list[list[float]]) -> np.ndarray:
    """Return the lengths of whiskers below and above, [2, n]; values: [value, low, high] each."""
    value, low, high = np.array(values).T
    return np.maximum(np.array([value - low, high - value]), 0)


def draw_topics(axes: plt.Axes, found: dict | None) -> None:
    """Draw the domains' divergence by layer, and what shuffled labels give."""
    axes.set_title("Topics: divergence of the domains")
    if found is None:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    numbers = [layer["layer"] for layer in found["layers"]]
    distances = [layer["distance"] for layer in found["layers"]]
    axes.plot(numbers, [each["value"] for each in distances], "o", color=BLUE, label="domains")
    chance = [[each["chance"], *each["chance_interval"]] for each in distances]
    axes.errorbar(numbers, [each[0] for each in chance], whiskers(chance), fmt="_", color=GREY, label="shuffled, 95%")
    axes.set(xlabel="layer", ylabel="bits", ylim=(0, 1.3 * max(each["value"] for each in distances)))
    axes.legend(**LEGEND, ncols=2, loc="upper right")


def draw_weights(axes: plt.Axes, weights: list[dict]) -> None:
    """Draw the largest cosine between experts' weights by layer and matrix."""
    for matrix, color, marker in zip(dict.fromkeys(entry["matrix"] for entry in weights), (BLUE, ORANGE), "os"):
        own = [entry for entry in weights if entry["matrix"] == matrix]
        numbers = [entry["layer"] for entry in own]
        axes.plot(numbers, [abs(entry["largest"]) for entry in own], marker, color=color, label=matrix)
    axes.axhline(0.05, color="black", linewidth=1, linestyle="--", label="0.05")
    most = max(abs(entry["largest"]) for entry in weights)
    axes.set(xlabel="layer", ylabel="largest |cosine|", title="Weights of two experts", ylim=(0, 1.4 * max(most, 0.05)))
    axes.legend(**LEGEND, ncols=3, loc="upper right")


def draw_outputs(axes: plt.Axes, outputs: list[dict]) -> None:
    """Draw the cosines between outputs by layer."""
    kinds = {
        "mean": ("all pairs", BLUE, "o"),
        "chosen": ("chosen together", ORANGE, "s"),
        "largest": ("most alike", VERMILION, "^"),
    }
    for key, (label, color, marker) in kinds.items():
        own = [entry for entry in outputs if entry[key]]
        values = [entry[key] for entry in own]
        if values:
            numbers = [entry["layer"] for entry in own]
            axes.errorbar(numbers, [each[0] for each in values], whiskers(values), fmt=marker, color=color, label=label)
    axes.axhline(0, color="black", linewidth=0.6)
    top = max(entry["largest"][2] for entry in outputs)
    axes.set(xlabel="layer", ylabel="cosine", title="Outputs on the same tokens")
    axes.set_ylim(top=top + 0.3 * abs(top))
    axes.legend(**LEGEND, ncols=3, loc="upper right")


def draw_bf16(axes: plt.Axes, bf16: dict) -> None:
    """Draw the share of the protected experts that bf16 changes, by layer."""
    kinds = {"protected_differ": ("norms", BLUE, "o"), "sums_protected_differ": ("norms and sums", VERMILION, "^")}
    numbers = [layer["layer"] for layer in bf16["layers"]]
    for key, (label, color, marker) in kinds.items():
        values = [[100 * value for value in layer[key]] for layer in bf16["layers"]]
        axes.errorbar(numbers, [each[0] for each in values], whiskers(values), fmt=marker, color=color, label=label)
    axes.set(xlabel="layer", ylabel=f"% of the top {bf16['top']} that change", title="Norms in bf16")
    axes.set_ylim(bottom=0, top=1.4 * max(axes.get_ylim()[1], 0.1))
    axes.legend(**LEGEND, ncols=2, loc="upper right")


def draw_maps(axes: plt.Axes, maps: list[dict]) -> None:
    """Draw the share of the dropped experts that differ from the run's map, and what chance gives."""
    places = np.arange(len(maps))
    axes.barh(
        places, [100 * pair["dropped"]["differ"] for pair in maps], color=BLUE, label="dropped experts that differ"
    )
    chance = [
        [100 * pair["dropped"]["chance"], *(100 * end for end in pair["dropped"]["chance_interval"])] for pair in maps
    ]
    axes.errorbar(
        [each[0] for each in chance], places, xerr=whiskers(chance), fmt="|", color=GREY, label="by chance, 95%"
    )
    axes.set_yticks(places, [f"{pair['name']} ({pair['keep_count']} kept)" for pair in maps])
    axes.invert_yaxis()
    axes.set(xlabel="per cent", title="Other maps against the run's own", xlim=(0, 105), ylim=(len(maps) - 0.4, -1.2))
    axes.legend(**LEGEND, ncols=2, loc="upper left")


def draw_findings(name: str, content: dict, path: Path) -> None:
    """Write the picture; content: the record's. Equal findings give equal bytes."""
    figure = plt.figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES + 0.3 * len(content["maps"])), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=[3, 3, 1.2 + 0.3 * len(content["maps"])])
    draw_topics(figure.add_subplot(grid[0, 0]), content["specialisation"])
    draw_weights(figure.add_subplot(grid[0, 1]), content["weights"])
    draw_outputs(figure.add_subplot(grid[1, 0]), content["outputs"])
    draw_bf16(figure.add_subplot(grid[1, 1]), content["bf16"])
    draw_maps(figure.add_subplot(grid[2, :]), content["maps"])
    for axes in figure.axes[:4]:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(name)
    save_picture(figure, path)
