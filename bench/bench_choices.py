#!/usr/bin/env python3
"""Measure what choices of experts cost on held-out chats: criteria, orders by reconstruction, chance, search.

Inputs:  a Gemma 4 checkpoint that fits into memory in fp32 (the demo); statistics with an order by reconstruction
         (make analyze CRITERION=reconstruction); the questions that chose, and others to measure on.
Output:  tables as Markdown; every result per chat in OUTPUT.jsonl, from which a killed run goes on, and to which
         search_masks.py adds its own.
Example: .venv/bin/python bench/bench_choices.py --model data/demo/model --stats STATS.safetensors \
             --choosing data/demo/calibration_questions.csv --measuring data/demo/eval_questions.csv \
             --output build/bench/choices.md

Parts: criteria, all of them, from the statistics; random, by chance; bootstrap, the whole choice made again from
questions and tokens drawn anew; objectives, orders by reconstruction for replies, of few and many tokens, and by errors
without the norm. The last two make their orders in fp32.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.sampled_tokens import TokenSample, draw_tokens  # noqa: E402
from chats.chat_sequences import Sequence  # noqa: E402
from choice.criteria import BY_ORDER, CRITERIA, PROTECTING, RANK  # noqa: E402
from choice.elimination import LayerTokens, eliminate  # noqa: E402
from choice.expert_stats import protected, read_stats  # noqa: E402
from choice.ranking import ranks_of  # noqa: E402
from files.display import markdown_table, with_error  # noqa: E402
from files.option_types import command_parser, positive  # noqa: E402
from files.safe_files import replace_when_done, run  # noqa: E402
from scoring.paired_statistics import mean_and_error  # noqa: E402

from masked_model import MaskedModel, Masks, read_chats  # noqa: E402

PROTECT_TOP, TOP_K, DRAWS = 16, 8, 5
OBJECTIVES = (("all", 3000), ("all", 800), ("all", 20000), ("reply", 3000), ("0.5", 3000))
PARTS = ("criteria", "random", "bootstrap", "objectives")
Order = np.ndarray  # [layers, experts], rank: how many went before

Ranked = tuple[str, Callable[[], Order]]
Results = dict[tuple[str, int], np.ndarray]  # by label and experts kept: [chats, 4], masked_model.COLUMNS
Choice = tuple[str, int, Callable[[], Masks]]  # label, experts kept, and how its masks come about


def kept_of(rank: Order, keep: int) -> Masks:
    """Return the masks of the `keep` experts of highest rank in each layer."""
    return [row >= len(row) - keep for row in rank]


def by_criterion(arrays: dict[str, np.ndarray], name: str, rows: np.ndarray) -> Order:
    """Return the ranks by a criterion of the statistics, chosen by some rows (questions) of them."""
    chosen = {key: values[rows] for key, values in arrays.items() if values.ndim == 3}
    top = PROTECT_TOP if name in PROTECTING else 0
    order = ranks_of(chosen | {"protected": protected(chosen["weighted_norm_sum"], top)}, name)[2]
    return np.argsort(order[:, ::-1], axis=1)


class Orders:
    """Orders by reconstruction over the questions that choose."""

    def __init__(self, model: MaskedModel, chats: list[Sequence]) -> None:
        """Take the model and the chats that choose."""
        self.model, self.chats = model, chats

    def sample(self, objective: str, count: int, seed: int = 1, times: np.ndarray | None = None) -> TokenSample:
        """Draw tokens; times: [chats], how often each is drawn in a bootstrap."""
        spans, replies = [(0, len(chat.ids)) for chat in self.chats], [chat.start for chat in self.chats]
        share = {"all": None, "reply": 1.0}.get(objective, objective)
        factors = np.ones(len(self.chats)) if times is None else times.astype(np.float64)
        return draw_tokens(spans, replies, None if share is None else float(share), count, factors, seed)

    def layers(self, sample: TokenSample) -> Iterator[LayerTokens]:
        """Yield the sampled tokens of each layer."""
        found = self.model.sampled(self.chats, sample)
        for layer in range(len(self.model.layers)):
            yield self.model.tokens(layer, found, sample.weights)

    def of(self, sample: TokenSample, normed: bool = True) -> Order:
        """Return the ranks of every layer."""
        layers = (layer if normed else replace(layer, normed=None) for layer in self.layers(sample))
        return np.array([eliminate(layer, TOP_K)[0] for layer in layers])

    def again(self, objective: str, count: int, seed: int = 1, times: np.ndarray | None = None) -> Order:
        """Draw tokens as `sample` does, and return the ranks."""
        return self.of(self.sample(objective, count, seed, times))


def ranked(args: argparse.Namespace, arrays: dict[str, np.ndarray], orders: Orders) -> Iterator[Ranked]:
    """Yield the choices of which one order serves every keep count, of the parts that are asked for."""
    every = np.arange(len(arrays["token_count"]))
    criterion = partial(by_criterion, arrays)
    if "criteria" in args.parts:
        yield from ((name, partial(criterion, name, every)) for name in CRITERIA if name != BY_ORDER)
        yield BY_ORDER, lambda: arrays[RANK]
    if "random" in args.parts:
        for seed in range(1, args.seeds + 1):
            yield f"random:{seed}", partial(criterion, f"random:{seed}", every)
    if "bootstrap" in args.parts:
        for draw in range(1, DRAWS + 1):
            rows = np.random.Generator(np.random.PCG64(draw)).integers(len(every), size=len(every))
            times = np.bincount(rows, minlength=len(every))
            yield f"{BY_ORDER}, draw {draw}", partial(orders.again, "all", 3000, draw, times)
            yield f"coverage, draw {draw}", partial(criterion, "coverage", rows)
    if "objectives" in args.parts:
        for objective, count in OBJECTIVES:
            yield f"fp32: {objective}, {count:,} tokens", partial(orders.again, objective, count)
        yield "fp32: without the norm", lambda: orders.of(orders.sample("all", 3000), normed=False)


def choices(args: argparse.Namespace, arrays: dict[str, np.ndarray], orders: Orders) -> Iterator[Choice]:
    """Yield all choices, those of one order after the other."""
    for label, make in ranked(args, arrays, orders):
        made = cache(make)  # not before one of its results is missing
        yield from ((label, keep, partial(lambda made, keep: kept_of(made(), keep), made, keep)) for keep in args.keep)


def read_results(path: Path) -> Results:
    """Return the results so far."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return {(entry["label"], entry["keep"]): np.array(entry["chats"]) for entry in entries}


def cell(found: np.ndarray | None, base: np.ndarray | None, column: int) -> str:
    """Return a mean in 10^-3 nats with its error over chats, less that of `base`; empty where one is missing."""
    if found is None or base is None:
        return ""
    return with_error(*mean_and_error((found[:, column + 1] - base[:, column + 1]) * 1e3, found[:, column]))


def loss(found: np.ndarray, column: int) -> float:
    """Return the KL divergence in 10^-3 nats per token."""
    return float(found[:, column + 1].sum() / found[:, column].sum() * 1e3)


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


def draws_table(results: Results, keeps: list[int], column: int) -> str:
    """Return mean and standard deviation over the draws, and the same of the differences within a draw."""
    rows: dict[str, list[str]] = {name: [] for name in ("coverage", BY_ORDER, f"{BY_ORDER} less coverage")}
    for keep in keeps:
        draws = [d for d in range(1, DRAWS + 1) if (f"coverage, draw {d}", keep) in results]
        one, other = (
            np.array([loss(results[f"{name}, draw {draw}", keep], column) for draw in draws])
            for name in ("coverage", BY_ORDER)
        )
        for cells, values in zip(rows.values(), (one, other, other - one)):
            enough = len(values) > 1
            cells.append(with_error(float(values.mean()), float(values.std(ddof=1))) if enough else "")
    return markdown_table(["choice", *(f"{keep} kept" for keep in keeps)], [[name, *row] for name, row in rows.items()])


def page(results: Results, keeps: list[int]) -> str:
    """Return the tables."""
    lines = []
    for words, column in (("all tokens", 0), ("replies", 2)):
        title = f"KL divergence over {words}, 10^-3 nats per token"
        for against in (None, "coverage", BY_ORDER):
            what = f", less that of {against} (paired by chat)" if against else ""
            lines += [f"## {title}{what}", "", comparison(results, keeps, column, against), ""]
        if any(", draw " in label for label, _ in results):
            what = "mean and standard deviation of choices from questions and tokens drawn anew"
            lines += [f"## {title}: {what}", "", draws_table(results, keeps, column), ""]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    add("--stats", type=Path, required=True, help="statistics of all questions of --choosing, with an order")
    add("--choosing", type=Path, required=True, help="questions that choose")
    add("--measuring", type=Path, required=True, help="questions to measure on")
    add("--keep", type=positive, nargs="+", default=[109, 96, 80, 64], help="keep counts")
    add("--seeds", type=positive, default=20, help="random choices")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    add("--output", type=Path, required=True, help="Markdown file to write; .jsonl goes beside it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    arrays, _ = read_stats(args.stats)
    kept = args.output.with_suffix(".jsonl")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    results = read_results(kept)
    model = MaskedModel(args.model, read_chats(args.model, args.measuring))
    for label, keep, masks in choices(args, arrays, Orders(model, read_chats(args.model, args.choosing))):
        if (label, keep) in results:
            continue
        results[label, keep] = model.losses(masks())
        with open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps({"label": label, "keep": keep, "chats": results[label, keep].tolist()}) + "\n")
        found = results[label, keep]
        print(f"{label}, {keep} kept: {loss(found, 0):.2f}, replies {loss(found, 2):.3f}", flush=True)
    with replace_when_done(args.output) as new:
        new.write_text(page(results, args.keep), encoding="utf-8")


if __name__ == "__main__":
    run(main)
