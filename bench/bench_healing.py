#!/usr/bin/env python3
"""Measure what healing in closed form gains after a drop, and merging instead of dropping, on held-out chats.

Inputs:  a Gemma 4 or Mixtral checkpoint that fits into memory in fp32; statistics with an order by reconstruction; the
         questions that chose, on which everything is fitted, and others to measure on.
Output:  tables as Markdown; every result per chat in OUTPUT.jsonl, from which a killed run goes on.
Example: .venv/bin/python bench/bench_healing.py --model data/demo/model --stats STATS.safetensors \
             --choosing data/demo/calibration_questions.csv --measuring data/demo/eval_questions.csv \
             --output build/bench/healing.md

From the lowest layer up, each layer is fitted (layer_fits.py) to what the full model's puts out, with the inputs that
it has once the layers below are fitted. All tokens count the same. Merging is that of REAM,
https://arxiv.org/abs/2604.04356, in its main points: groups around the experts that stay, neurons matched, weights
averaged by routing weight.
"""

import argparse
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from choice.criteria import BY_ORDER
from choice.expert_stats import read_stats
from files.option_types import command_parser, positive
from files.safe_files import replace_when_done, run

from chat_results import add_inputs, add_result, by_criterion, comparisons, kept_of, read_results
from layer_fits import (
    FOLDS,
    Fit,
    Passed,
    fit_layer_scalar,
    fit_norm,
    fit_rows,
    fit_scales,
    fold_outputs,
    merge,
    normed_of,
)
from masked_model import MaskedModel, Masks, Parts, read_chats

HALVINGS = 5  # of a step of the router's rows, which changes what is routed where, until the error falls; then it is 0
WAYS: dict[str, list[Fit]] = {
    "dropped": [],
    "scale of each expert": [fit_scales],
    "scale of each router row": [fit_rows],
    "weight of the norm": [fit_norm],
    "layer_scalar": [fit_layer_scalar],
    "all four": [fit_scales, fit_rows, fit_norm, fit_layer_scalar],
    "merged": [merge],
    "merged, neurons not matched": [partial(merge, matched=False)],
    "folded by least squares": [fold_outputs],
}


def far(layer: Parts, mine: Passed, full: Passed) -> float:
    """Return the squared distance of the normed expert outputs."""
    return float((normed_of(layer, mine, full) - normed_of(layer, full, full)).square().sum())


def step_back(module: torch.nn.Module, before: dict[str, torch.Tensor], share: float) -> None:
    """Leave a share of how a layer has changed."""
    now = module.state_dict()
    module.load_state_dict({name: old + share * (now[name] - old) for name, old in before.items()})


class Enough(Exception):
    """A layer has run, and the layers above it need not."""


def passed(model: MaskedModel, known: list[torch.Tensor], masks: Masks | None) -> Passed:
    """Return what the lowest layer did with the chats whose output is not known."""
    seen: dict[str, torch.Tensor] = {}
    layer, real = model.parts[len(known)], model.there.reshape(-1).bool()

    def experts(_: object, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen.update(hidden=given[0], chosen=given[1], given=given[2], out=out)

    def scores(_: object, __: object, out: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        seen["scores"] = out[0] if isinstance(out, tuple) else out

    def keep(name: str, _: object, __: object, out: torch.Tensor) -> None:
        seen[name] = out
        if name == "after":
            raise Enough

    hooks = [
        layer.experts.register_forward_hook(experts),
        layer.router.register_forward_hook(scores),
        (layer.experts if layer.norm is None else layer.norm).register_forward_hook(partial(keep, "normed")),
        layer.module.register_forward_hook(partial(keep, "after")),
    ]
    with model.choosing(masks, known), suppress(Enough):
        model.states()
    for hook in hooks:
        hook.remove()
    seen["scores"] = seen["scores"].gather(1, seen["chosen"])
    known.append(seen["after"])
    return Passed(**{name: values.reshape(-1, values.shape[-1])[real] for name, values in seen.items()})


class Healing:
    """The model on the choosing chats, where it is fitted, and on the others, where it is measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Load both, and run the full model."""
        self.chooser = MaskedModel(args.model, read_chats(args.model, args.choosing, args.chats))
        self.judge = MaskedModel(args.model, read_chats(args.model, args.measuring, args.chats))
        known: list[torch.Tensor] = []
        self.full = [passed(self.chooser, known, None) for _ in self.chooser.layers]
        # A chat lies in one fold as a whole: its tokens are alike.
        lengths = torch.tensor([len(chat.ids) for chat in self.chooser.chats])
        self.folds = torch.repeat_interleave(torch.arange(len(lengths)) % FOLDS, lengths)
        self.before = {name: values.clone() for name, values in self.chooser.model.state_dict().items()}

    def measure(self, masks: Masks, fits: list[Fit]) -> np.ndarray:
        """Fit, measure, and put all parameters back; return the losses per chat."""
        known: list[torch.Tensor] = []
        for layer, mask, full in zip(self.chooser.parts, masks, self.full):
            mine = passed(self.chooser, known, masks)
            for fit in fits:
                before = {name: values.clone() for name, values in layer.module.state_dict().items()}
                error = far(layer, mine, full)
                fit(layer, torch.from_numpy(mask), mine, full, self.folds)
                known.pop()  # it is not the layer's output any more
                mine = passed(self.chooser, known, masks)
                for halving in range(1, HALVINGS + 1 if fit is fit_rows else 0):
                    if far(layer, mine, full) < error:
                        break
                    step_back(layer.module, before, 0.5 if halving < HALVINGS else 0.0)
                    known.pop()
                    mine = passed(self.chooser, known, masks)
        self.judge.model.load_state_dict(self.chooser.model.state_dict())
        found = self.judge.losses(masks)
        self.chooser.model.load_state_dict(self.before)
        self.judge.model.load_state_dict(self.before)
        return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_inputs(parser, [109, 96, 64])
    add = parser.add_argument_group("measurement").add_argument
    add("--criterion", nargs="+", default=["coverage", BY_ORDER], help="criteria by which experts are dropped")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is fitted")
    add("--chats", type=positive, help="first so many chats of both question files (all)")
    add("--output", type=Path, required=True, help="Markdown file to write; .jsonl goes beside it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    arrays, kept = read_stats(args.stats)[0], args.output.with_suffix(".jsonl")
    results, healing = read_results(kept), Healing(args)
    orders = {name: by_criterion(arrays, name, top=args.protect_top) for name in args.criterion}
    for name, order in orders.items():
        for way in args.ways:
            for keep in args.keep:
                label = f"{name}, {way}"
                if (label, keep) not in results:
                    masks = kept_of(order, keep)
                    results[label, keep] = healing.measure(masks, WAYS[way])
                    add_result(kept, label, keep, results[label, keep])
    lines: list[str] = []
    for name in args.criterion:
        own = {key: found for key, found in results.items() if key[0].startswith(f"{name}, ")}
        lines += sum(comparisons(own, args.keep, (None, f"{name}, dropped")).values(), [])
    with replace_when_done(args.output) as new:
        new.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    run(main)
