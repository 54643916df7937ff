"""The page of a build of the reference case's size, and what tests look at in it."""

import io
import re
from pathlib import Path

from build_report import main
from calls import made_once
from choice.expert_stats import protected, read_stats
from files.json_records import read_json
from makers.shared_ggufs import shared_folder
from makers.synthetic_build import options, write_build

import numpy as np
import pytest
from PIL import Image

QUESTIONS, LAYERS, EXPERTS, KEEP = 198, 30, 128, 109
GRID = '[data-grid="grid-experts"]'


def shared_page(factory) -> Path:
    """Return the page of a build of 198 questions, 30 layers and 128 experts: made once, beside its records."""
    folder = shared_folder(factory, "report-page")
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            write_build(folder, QUESTIONS, LAYERS, EXPERTS, KEEP)
            main([*options(folder), "--output", str(folder / "report.html")])
    return folder / "report.html"


def ranked(build: Path, layer: int) -> list[int]:
    """The experts of a layer by rank, the kept ones first, computed from the records one by one."""
    entry = read_json(build / "drop_map.json")["layers"][str(layer)]
    norms = read_stats(build / "expert_stats.safetensors")[0]["weighted_norm_sum"][:, layer].sum(axis=0)
    return sorted(
        range(EXPERTS), key=lambda expert: (expert in entry["drop"], -entry["score"][expert], -norms[expert], expert)
    )


def figures_of(text: str) -> tuple[float, int, int, str]:
    """The weighted norm, tokens, coverage and fate in the sentence of an expert."""
    figures = r"weighted norm (\S+); (\d+) tokens; coverage (\d+) of 198 questions; (kept|dropped)(?:, a coin toss)?"
    match = re.fullmatch(rf"Layer \d+, expert \d+: rank \d+ of 128; {figures}", text)
    assert match, text
    return float(match[1]), int(match[2]), int(match[3]), match[4]


def check_figures(text: str, build: Path, layer: int, expert: int) -> None:
    """Hold an expert's sentence against the statistics file and the drop map."""
    arrays, _ = read_stats(build / "expert_stats.safetensors")
    norm, tokens, coverage, fate = figures_of(text)
    assert text.startswith(f"Layer {layer}, expert {expert}: rank {ranked(build, layer).index(expert) + 1} of 128;")
    entry = read_json(build / "drop_map.json")["layers"][str(layer)]
    assert text.endswith("a coin toss") == (expert in entry["coin_toss"])
    assert norm == pytest.approx(arrays["weighted_norm_sum"][:, layer, expert].sum(), rel=1e-5)
    assert tokens == arrays["token_count"][:, layer, expert].sum()
    assert coverage == protected(arrays["weighted_norm_sum"], 16)[:, layer, expert].sum()
    assert fate == ("dropped" if expert in entry["drop"] else "kept")


def centre(page, grid: str, row: int, column: int) -> tuple[float, float]:
    """Where a cell's centre is in the window, after it was scrolled there."""
    page.locator(f"#{grid}").scroll_into_view_if_needed()
    return tuple(
        page.evaluate(
            """([grid, row, column]) => {
        const {view} = charts.get(grid), box = view.el.getBoundingClientRect();
        return [box.left + view.frame.x_scale.compute(column), box.top + view.frame.y_scale.compute(row)];
    }""",
            [grid, row, column],
        )
    )


def settle(page) -> None:
    """Wait until the page has painted what was asked for: some frames, however long a busy machine takes for one."""
    page.evaluate("async () => { for (let i = 0; i < 15; i++) await new Promise(requestAnimationFrame); }")


def pixels(page, selector: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)
