#!/usr/bin/env python3
"""Search for the experts to keep by the measured loss itself: how far is the best criterion from the best map?

Inputs:  a Gemma 4 checkpoint that fits into memory in fp32 (the demo); statistics with an order by reconstruction; the
         questions that choose, and others to measure on, which the search never sees.
Output:  a line per step that was taken; after every 100 steps the loss on the held-out chats, in the file from which
         bench_choices.py prints its page.
Example: .venv/bin/python bench/search_masks.py --model data/demo/model --stats STATS.safetensors --keep 96 \
             --choosing data/demo/calibration_questions.csv --measuring data/demo/eval_questions.csv \
             --output build/bench/choices.jsonl

It begins with the order of the statistics. Each step swaps a dropped expert for a kept one in one layer, both drawn by
chance among those next to the edge of the order. A step is taken when the KL divergence on the choosing chats falls.
A better map than the one it ends with may exist.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from choice.criteria import RANK  # noqa: E402
from choice.expert_stats import read_stats  # noqa: E402
from files.option_types import command_parser, positive  # noqa: E402
from files.safe_files import run  # noqa: E402

from masked_model import MaskedModel, Masks, read_chats  # noqa: E402

NEAREST = 24  # experts next to the edge of the order, on either side, among which swaps are drawn
REPORT_EVERY = 100  # steps
REPLY = 2  # column of the counts over replies


def mean(found: np.ndarray, column: int = 0) -> float:
    """Return the KL divergence in nats per token."""
    return float(found[:, column + 1].sum() / found[:, column].sum())


def search(
    model: MaskedModel, ranks: np.ndarray, keep: int, steps: int, column: int, seed: int
) -> Iterator[tuple[int, Masks]]:
    """Yield the steps so far and the masks of `keep` experts per layer; ranks: [layers, experts]."""
    generator = np.random.Generator(np.random.PCG64(seed))
    experts = ranks.shape[1]
    masks: Masks = [row >= experts - keep for row in ranks]
    least = mean(model.losses(masks), column)
    print(f"start: {least * 1e3:.3f} on the choosing chats", flush=True)
    for step in range(1, steps + 1):
        layer = int(generator.integers(len(masks)))
        rank, mask = ranks[layer], masks[layer]
        edge = np.abs(rank - (experts - keep - 0.5)) < NEAREST
        back, gone = (int(generator.choice(np.flatnonzero(edge & side))) for side in (~mask, mask))
        trial = [each.copy() for each in masks]
        trial[layer][back], trial[layer][gone] = True, False
        found = mean(model.losses(trial), column)
        if found < least:
            masks, least = trial, found
            print(f"step {step}: layer {layer}, {back} for {gone}, {least * 1e3:.3f}", flush=True)
        if step % REPORT_EVERY == 0:
            yield step, masks


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    add("--stats", type=Path, required=True, help="statistics with an order by reconstruction")
    add("--choosing", type=Path, required=True, help="questions that choose")
    add("--measuring", type=Path, required=True, help="questions to measure on")
    add("--keep", type=positive, required=True, help="experts kept in every layer")
    add("--steps", type=positive, default=600, help="swaps that are tried")
    add("--chats", type=positive, default=96, help="choosing chats whose loss decides")
    add("--tokens", choices=("all", "reply"), default="all", help="tokens whose loss decides")
    add("--seed", type=positive, default=1, help="seed of the swaps")
    add("--output", type=Path, required=True, help="file of results per chat, to which lines are added")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    ranks = read_stats(args.stats)[0][RANK]
    chooser = MaskedModel(args.model, read_chats(args.model, args.choosing)[: args.chats])
    judge = MaskedModel(args.model, read_chats(args.model, args.measuring))
    column = REPLY if args.tokens == "reply" else 0
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for step, masks in search(chooser, ranks, args.keep, args.steps, column, args.seed):
        found = judge.losses(masks)
        name = f"search by {args.tokens} tokens, {step} steps"
        with open(args.output, "a", encoding="utf-8") as file:
            file.write(json.dumps({"label": name, "keep": args.keep, "chats": found.tolist()}) + "\n")
        print(f"{name}, {args.keep} kept: {mean(found) * 1e3:.2f}, replies {mean(found, REPLY) * 1e3:.3f}", flush=True)


if __name__ == "__main__":
    run(main)
