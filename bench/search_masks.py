#!/usr/bin/env python3
"""Search for the experts to keep by the measured loss itself: how far is the best criterion from the best map?

Inputs:  a Gemma 4 checkpoint that fits into memory in fp32 (the demo); statistics with an order by reconstruction; the
         questions that choose, and others to measure on, which the search never sees.
Output:  a line for each round; at the end the loss on the held-out chats, in the file from which bench_choices.py
         prints its page. The experts that are dropped so far lie beside it, and a killed search goes on from them.
Example: .venv/bin/python bench/search_masks.py --model data/demo/model --stats STATS.safetensors --keep 96 \
             --choosing data/demo/calibration_questions.csv --measuring data/demo/eval_questions.csv \
             --output build/bench/choices.jsonl

It begins with the choice of a criterion. In each round gradients estimate what every swap of a dropped expert for a
kept one would cost (loss_slopes.py). The best are measured on the choosing chats, some at once, and taken when the
loss falls. A round in which none is taken ends the search. A better map, more than a swap away, may exist.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from choice.criteria import BY_ORDER
from choice.expert_stats import read_stats
from files.json_records import read_json
from files.option_types import command_parser, positive
from files.safe_files import run
from files.written_records import write_json

from chat_results import ALL, REPLIES, add_inputs, add_result, by_criterion, kept_of, loss
from loss_slopes import slopes_of, swap_costs
from masked_model import MaskedModel, Masks, read_chats

TOP_K = 8
TOGETHER = 4  # swaps that are measured at once
PER_EXPERT = 4  # swaps of one round in which an expert comes back or goes, so that one wrong estimate costs little
Swap = tuple[float, int, int, int]  # rise of the loss by estimate, layer, expert that comes back, one that goes


@dataclass
class Search:
    """A search: the model on the choosing chats, the masks so far, and what they cost."""

    model: MaskedModel
    column: int  # of the loss that decides
    masks: Masks
    least: float = np.inf
    worse: dict[tuple[int, int], float] = field(default_factory=dict)  # layer, expert gone: loss above its estimate
    taken: int = 0
    tried: int = 0

    def counted(self) -> torch.Tensor:
        """Return which scored positions decide."""
        if self.column == ALL:
            return torch.ones(int(self.model.scored.sum()), dtype=torch.bool)
        return torch.cat([torch.arange(len(chat.ids) - 1) >= chat.start - 1 for chat in self.model.chats])

    def begin(self) -> list[torch.Tensor]:
        """Measure the masks; return the layers' outputs."""
        self.least = self.model.losses(self.masks)[:, self.column + 1].sum()
        return self.model.outputs

    def proposals(self, count: int) -> list[Swap]:
        """Return the `count` best swaps by estimate."""
        found = []
        for layer, slopes in enumerate(slopes_of(self.model, self.masks, self.counted())):
            costs = swap_costs(slopes, self.masks[layer], TOP_K)
            for (number, gone), more in self.worse.items():
                if number == layer:
                    costs[:, gone] += more
            best = np.argsort(costs, axis=None)[: 50 * count]
            found += [(costs.flat[place], layer, *divmod(int(place), costs.shape[1])) for place in best.tolist()]
        uses: dict[tuple[int, int], int] = {}
        chosen = []
        for swap in sorted(found):
            pair = [(swap[1], swap[2]), (swap[1], swap[3])]
            if max(uses.get(each, 0) for each in pair) < PER_EXPERT and np.isfinite(swap[0]):
                chosen.append(swap)
                uses |= {each: uses.get(each, 0) + 1 for each in pair}
        return chosen[:count]

    def round(self, known: list[torch.Tensor], tries: int) -> tuple[list[torch.Tensor], int]:
        """Measure the best swaps, and take those that lower the loss; return the layers' outputs, and how many."""
        before, swaps = self.taken, self.proposals(tries)
        for first in range(0, len(swaps), TOGETHER):
            known = self.measure(known, swaps[first : first + TOGETHER])
        return known, self.taken - before

    def measure(self, known: list[torch.Tensor], swaps: list[Swap]) -> list[torch.Tensor]:
        """Take swaps together if that lowers the loss, else each half of them; return the layers' outputs."""
        trial = [mask.copy() for mask in self.masks]
        fitting = []  # another swap may have taken one of the two experts
        for swap in swaps:
            _, layer, back, gone = swap
            if trial[layer][gone] and not trial[layer][back]:
                trial[layer][back], trial[layer][gone] = True, False
                fitting.append(swap)
        if not fitting:
            return known
        found = self.model.losses(trial, known[: min(layer for _, layer, _, _ in fitting)])[:, self.column + 1].sum()
        self.tried += 1
        if found < self.least:
            self.masks, self.least, self.taken = trial, found, self.taken + len(fitting)
            return self.model.outputs
        if len(fitting) == 1:
            estimate, layer, _, gone = fitting[0]
            self.worse[layer, gone] = max(0.0, self.worse.get((layer, gone), 0.0) + found - self.least - estimate)
            return known
        half = len(fitting) // 2
        return self.measure(self.measure(known, fitting[:half]), fitting[half:])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_inputs(parser, [96])
    add = parser.add_argument_group("measurement").add_argument
    add("--start", default=BY_ORDER, help="criterion whose choice it begins with")
    add("--tries", type=positive, default=32, help="swaps that are measured in a round")
    add("--minutes", type=positive, default=15, help="processor time after which no round begins, per keep count")
    add("--chats", type=positive, help="choosing chats whose loss decides (all)")
    add("--tokens", choices=("all", "reply"), default="all", help="tokens whose loss decides")
    add("--seed", type=positive, default=1, help="seed of the draws that the estimates need")
    add("--output", type=Path, required=True, help="file of results per chat, to which lines are added")
    return parser.parse_args(argv)


def begin(args: argparse.Namespace, chooser: MaskedModel, keep: int, column: int) -> tuple[Search, Path]:
    """Return a search that starts where a killed one was, or with a criterion's choice; and the file of its state."""
    state = args.output.with_name(f"{args.output.stem}-{args.start}-{args.tokens}-{keep}.json")
    if state.exists():
        found = read_json(state)
        masks = [np.isin(np.arange(chooser.experts), dropped, invert=True) for dropped in found["dropped"]]
        return Search(chooser, column, masks, taken=found["taken"], tried=found["tried"]), state
    order = by_criterion(read_stats(args.stats)[0], args.start, top=args.protect_top)
    return Search(chooser, column, kept_of(order, keep)), state


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    chooser = MaskedModel(args.model, read_chats(args.model, args.choosing, args.chats))
    judge = MaskedModel(args.model, read_chats(args.model, args.measuring))
    column = REPLIES if args.tokens == "reply" else ALL
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for keep in args.keep:
        (search, state), begun, taken = begin(args, chooser, keep, column), time.process_time(), 1
        known = search.begin()
        while taken and time.process_time() - begun < args.minutes * 60:
            dropped = [np.flatnonzero(~mask).tolist() for mask in search.masks]
            write_json(state, {"dropped": dropped, "taken": search.taken, "tried": search.tried})
            own, found = search.least / int(search.counted().sum()), judge.losses(search.masks)
            losses = f"{own * 1e3:.3f} on the choosing chats, {loss(found, column):.3f} held out"
            print(f"{keep} kept, {search.taken} swaps taken in {search.tried} tries: {losses}", flush=True)
            known, taken = search.round(known, args.tries)
        end = "cut short" if taken else "ended"
        label = f"search by {args.tokens} tokens from {args.start}, {search.taken} swaps in {search.tried} tries, {end}"
        add_result(args.output, label, keep, judge.losses(search.masks))


if __name__ == "__main__":
    run(main)
