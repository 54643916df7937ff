"""Losses per chat of many choices: the options that make them, the file that keeps them, and their tables."""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from choice.criteria import BY_ORDER, PROTECTING, RANK
from choice.expert_stats import protected
from choice.ranking import ranks_of
from files.display import markdown_table, with_error
from files.option_types import positive
from scoring.paired_statistics import mean_and_error

from masked_model import COLUMNS, Masks

PROTECT_TOP = 16
KEEPS = [109, 96, 80, 64]
Order = np.ndarray  # [layers, experts], rank: how many went before
Results = dict[tuple[str, int], np.ndarray]  # by label and experts kept: [chats, 4], COLUMNS
ALL, REPLIES = COLUMNS.index("tokens"), COLUMNS.index("reply_tokens")


def add_inputs(parser: argparse.ArgumentParser, keeps: list[int]) -> None:
    """Add the options that all measurements of choices share."""
    add = parser.add_argument_group("inputs").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    add("--stats", type=Path, required=True, help="statistics of all questions of --choosing, with an order")
    add("--choosing", type=Path, required=True, help="questions that choose")
    add("--measuring", type=Path, required=True, help="questions to measure on")
    add("--keep", type=positive, nargs="+", default=keeps, help="keep counts")
    add("--protect-top", type=positive, default=PROTECT_TOP, help="experts that criteria protect per question, layer")


def kept_of(rank: Order, keep: int) -> Masks:
    """Return the masks of the `keep` experts of highest rank in each layer."""
    return [row >= len(row) - keep for row in rank]


def by_criterion(
    arrays: dict[str, np.ndarray], name: str, rows: np.ndarray | None = None, top: int = PROTECT_TOP
) -> Order:
    """Return the ranks by a criterion of the statistics, chosen by some rows (questions) of them, or by all."""
    if name == BY_ORDER:
        return arrays[RANK]
    chosen = {key: values if rows is None else values[rows] for key, values in arrays.items() if values.ndim == 3}
    top = top if name in PROTECTING else 0
    order = ranks_of(chosen | {"protected": protected(chosen["weighted_norm_sum"], top)}, name)[2]
    return np.argsort(order[:, ::-1], axis=1)


def read_results(path: Path) -> Results:
    """Return the results so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return {(entry["label"], entry["keep"]): np.array(entry["chats"]) for entry in entries}


def add_result(path: Path, label: str, keep: int, found: np.ndarray) -> None:
    """Add a line to the results, and print it."""
    entry = {"label": label, "keep": keep, "chats": found.tolist()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    print(f"{label}, {keep} kept: {loss(found, ALL):.2f}, replies {loss(found, REPLIES):.3f}", flush=True)


def loss(found: np.ndarray, column: int) -> float:
    """Return the KL divergence in 10^-3 nats per token."""
    return float(found[:, column + 1].sum() / found[:, column].sum() * 1e3)


def cell(found: np.ndarray | None, base: np.ndarray | None, column: int) -> str:
    """Return a mean in 10^-3 nats with its error over chats, less that of `base`; empty where one is missing."""
    if found is None or base is None:
        return ""
    return with_error(*mean_and_error((found[:, column + 1] - base[:, column + 1]) * 1e3, found[:, column]))


def chance(results: Results, keeps: list[int], column: int) -> Results:
    """Return the mean of the random maps, and the one of them that costs least on the very chats it is measured on."""
    found: Results = {}
    for keep in keeps:
        maps = [each for (label, kept), each in results.items() if label.startswith("random:") and kept == keep]
        if maps:
            found[f"{len(maps)} random maps, mean", keep] = np.mean(maps, axis=0)
            found[f"{len(maps)} random maps, best", keep] = min(maps, key=lambda each: loss(each, column))
    return found


def comparison(results: Results, keeps: list[int], column: int, against: str | None) -> str:
    """Return the table of all choices that are made once, as differences from `against`, paired by chat, if given."""
    single = {key: each for key, each in results.items() if not re.search(r"^random:|, draw \d+$", key[0])}
    single |= chance(results, keeps, column)
    rows = []
    for label in dict.fromkeys(label for label, _ in single if label != against):
        bases = [np.zeros((1, 4)) if against is None else single.get((against, keep)) for keep in keeps]
        rows.append([label, *(cell(single.get((label, keep)), base, column) for keep, base in zip(keeps, bases))])
    return markdown_table(["choice", *(f"{keep} kept" for keep in keeps)], rows)


def comparisons(results: Results, keeps: list[int], bases: tuple[str | None, ...]) -> dict[str, list[str]]:
    """Return lines of tables by title: of all tokens and replies, as they are (None) and less each of `bases`."""
    pages: dict[str, list[str]] = {}
    for words, column in (("all tokens", ALL), ("replies", REPLIES)):
        title = f"KL divergence over {words}, 10^-3 nats per token"
        pages[title] = []
        for against in bases:
            what = f", less that of {against} (paired by chat)" if against else ""
            pages[title] += [f"## {title}{what}", "", comparison(results, keeps, column, against), ""]
    return pages
