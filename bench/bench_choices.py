#!/usr/bin/env python3
"""Measure what choices of experts cost on held-out chats: criteria, orders by reconstruction, chance, search.

Inputs:  a Gemma 4 checkpoint that fits into memory in fp32 (the demo), or a Mixtral one for the first two parts;
         statistics with an order by reconstruction (make analyze CRITERION=reconstruction); the questions that chose,
         and others to measure on.
Output:  tables as Markdown; every result per chat in OUTPUT.jsonl, from which a killed run goes on, and to which
         search_masks.py adds its own.
Example: .venv/bin/python bench/bench_choices.py --model data/demo/model --stats STATS.safetensors \
             --choosing data/demo/calibration_questions.csv --measuring data/demo/eval_questions.csv \
             --output build/bench/choices.md

Parts: criteria, all of them, from the statistics; random, by chance; bootstrap, the whole choice made again from
questions and tokens drawn anew; objectives, orders by reconstruction for replies, of few and many tokens, and by errors
without the norm; variants, with swaps after the elimination, and with the inputs that the drops in the layers below
leave. The last three make their orders in fp32.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.sampled_tokens import TokenSample, draw_tokens
from chats.chat_sequences import Sequence
from choice.criteria import BY_ORDER, CRITERIA
from choice.elimination import Elimination, LayerTokens, eliminate
from choice.expert_stats import read_stats
from files.display import markdown_table, with_error
from files.option_types import command_parser, positive
from files.safe_files import replace_when_done, run

from chat_results import (
    ALL,
    KEEPS,
    REPLIES,
    Order,
    Results,
    add_inputs,
    add_result,
    by_criterion,
    comparisons,
    kept_of,
    loss,
    read_results,
)
from masked_model import MaskedModel, Masks, read_chats

TOP_K, DRAWS, EVERY = 8, 5, 1_000_000
OBJECTIVES = (("all", 3000), ("all", 800), ("all", EVERY), ("reply", 3000), ("0.5", 3000))
PARTS = ("criteria", "random", "bootstrap", "objectives", "variants")
Ranked = tuple[str, Callable[[], Order]]
Choice = tuple[str, int, Callable[[], Masks]]  # label, experts kept, and how its masks come about


class Swaps(Elimination):
    """Swaps after an elimination: an expert comes back, and the one goes whose loss then costs least."""

    def restore(self, expert: int) -> None:
        """Take an expert back; the tokens that rank it among their first route again."""
        last = np.take_along_axis(self.layer.scores, self.best[:, self.top_k :], axis=1)[:, 0]
        self.alive[expert] = True
        self._route(np.flatnonzero(self.layer.scores[:, expert] >= last))

    def until_none_helps(self, rank: np.ndarray, keep: int) -> np.ndarray:
        """Drop all but `keep` experts, and swap as long as the error falls; return the mask."""
        for expert in np.argsort(rank)[: len(rank) - keep].tolist():
            self.drop(expert)
        least, taken = self.error.sum(), 1
        while taken:
            taken = 0
            for expert in np.flatnonzero(~self.alive).tolist():
                self.restore(expert)
                gone = int(self.costs().argmin())
                self.drop(gone)
                if self.error.sum() < least * (1 - 1e-9):
                    least, taken = self.error.sum(), taken + 1
                else:  # as it was
                    self.restore(gone)
                    self.drop(expert)
        return self.alive


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

    def swapped(self, sample: TokenSample, keep: int) -> Masks:
        """Return the masks after swaps within each layer."""
        return [Swaps(layer, TOP_K).until_none_helps(eliminate(layer, TOP_K)[0], keep) for layer in self.layers(sample)]

    def with_own_inputs(self, sample: TokenSample, keep: int) -> Masks:
        """Return the masks when each layer sees the inputs that the drops below leave it."""
        masks: Masks = []
        for layer in range(len(self.model.layers)):
            above = [np.ones(self.model.experts, bool)] * (len(self.model.layers) - layer)
            with self.model.choosing(masks + above):
                found = self.model.sampled(self.chats, sample)
            rank = eliminate(self.model.tokens(layer, found, sample.weights), TOP_K)[0]
            masks.append(rank >= len(rank) - keep)
        return masks

    def again(self, objective: str, count: int, seed: int = 1, times: np.ndarray | None = None) -> Order:
        """Draw tokens as `sample` does, and return the ranks."""
        return self.of(self.sample(objective, count, seed, times))


def drawn(args: argparse.Namespace) -> str:
    """Return what a label says of the draw of the tokens: nothing of the first."""
    return f", seed {args.seed}" if args.seed > 1 else ""


def ranked(args: argparse.Namespace, arrays: dict[str, np.ndarray], orders: Orders) -> Iterator[Ranked]:
    """Yield the choices of which one order serves every keep count, of the parts that are asked for."""
    questions = len(arrays["token_count"])
    criterion = partial(by_criterion, arrays, top=args.protect_top)
    if "criteria" in args.parts:
        yield from ((name, partial(criterion, name)) for name in CRITERIA)
    if "random" in args.parts:
        for seed in range(1, args.seeds + 1):
            yield f"random:{seed}", partial(criterion, f"random:{seed}")
    if "bootstrap" in args.parts:
        for draw in range(1, DRAWS + 1):
            rows = np.random.Generator(np.random.PCG64(draw)).integers(questions, size=questions)
            times = np.bincount(rows, minlength=questions)
            yield f"{BY_ORDER}, draw {draw}", partial(orders.again, "all", 3000, draw, times)
            yield f"coverage, draw {draw}", partial(criterion, "coverage", rows)
    if "objectives" in args.parts:
        for objective, count in OBJECTIVES:
            tokens = "every token" if count == EVERY else f"{count:,} tokens{drawn(args)}"
            yield f"fp32: {objective}, {tokens}", partial(orders.again, objective, count, args.seed)
        sample = orders.sample("all", 3000, args.seed)
        yield f"fp32: without the norm{drawn(args)}", lambda: orders.of(sample, normed=False)


def choices(args: argparse.Namespace, arrays: dict[str, np.ndarray], orders: Orders) -> Iterator[Choice]:
    """Yield all choices, those of one order after the other."""
    for label, make in ranked(args, arrays, orders):
        made = cache(make)  # not before one of its results is missing
        yield from ((label, keep, partial(lambda made, keep: kept_of(made(), keep), made, keep)) for keep in args.keep)
    if "variants" in args.parts:
        sample, order = orders.sample("all", 3000, args.seed), f"fp32: all, 3,000 tokens{drawn(args)}"
        for keep in args.keep:
            yield f"{order}, swaps after it", keep, partial(orders.swapped, sample, keep)
            yield f"{order}, the layer's own inputs", keep, partial(orders.with_own_inputs, sample, keep)


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
    draws = any(", draw " in label for label, _ in results)
    for (title, tables), column in zip(
        comparisons(results, keeps, (None, "coverage", BY_ORDER)).items(), (ALL, REPLIES)
    ):
        lines += tables
        if draws:
            what = "mean and standard deviation of choices from questions and tokens drawn anew"
            lines += [f"## {title}: {what}", "", draws_table(results, keeps, column), ""]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_inputs(parser, KEEPS)
    add = parser.add_argument_group("measurement").add_argument
    add("--seeds", type=positive, default=20, help="random choices")
    add("--seed", type=positive, default=1, help="seed of the draw of tokens, of the parts objectives and variants")
    add("--chats", type=positive, help="chats that are measured, the first so many (all)")
    add("--every", type=positive, default=1, help="take each so many-th chat, from the first on, and of them --chats")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    add("--output", type=Path, required=True, help="Markdown file to write; .jsonl goes beside it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    arrays, _ = read_stats(args.stats)
    kept = args.output.with_suffix(".jsonl")
    results = read_results(kept)
    model = MaskedModel(args.model, read_chats(args.model, args.measuring)[:: args.every][: args.chats])
    for label, keep, masks in choices(args, arrays, Orders(model, read_chats(args.model, args.choosing))):
        if (label, keep) in results:
            continue
        results[label, keep] = model.losses(masks())
        add_result(kept, label, keep, results[label, keep])
    with replace_when_done(args.output) as new:
        new.write_text(page(results, args.keep), encoding="utf-8")


if __name__ == "__main__":
    run(main)
