#!/usr/bin/env python3
"""Measure what an order by reconstruction costs on one layer of the 26B's sizes: seconds and peak memory.

Output:  a table, and the same figures as JSON.
Example: .venv/bin/python bench/bench_reconstruction.py --tokens 800 --output build/bench/reconstruction.json

The layer is random: 128 experts of width 704 over hidden size 2816 in bf16, top-8 (sizes: generate_checkpoint.py). Its
tokens are random, too, so the order means nothing; what it costs does not depend on that. Peak memory is the process's
largest resident set, libraries included.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.reconstruction import products_of
from choice.elimination import LayerTokens, eliminate
from files.option_types import command_parser, positive
from files.safe_files import GIB, run
from files.written_records import write_json

from bench_table import row, table

HIDDEN, WIDTH, EXPERTS, TOP_K = 2816, 704, 128, 8


def layer_of_experts() -> Any:
    """Return random experts as transformers' interface describes them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)

    def gated(both: torch.Tensor) -> torch.Tensor:
        gate, up = both.chunk(2, dim=-1)
        return torch.nn.functional.gelu(gate, approximate="tanh") * up

    return SimpleNamespace(
        num_experts=EXPERTS,
        has_gate=True,
        has_bias=False,
        has_post_expert_norm=False,
        is_transposed=False,
        gate_up_proj=random(EXPERTS, 2 * WIDTH, HIDDEN),
        down_proj=random(EXPERTS, HIDDEN, WIDTH),
        _apply_gate=gated,
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--tokens", type=positive, default=800, help="sampled tokens")
    add("--output", type=Path, required=True, help="figures as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    experts, generator = layer_of_experts(), torch.Generator().manual_seed(1)
    hidden = torch.empty((args.tokens, HIDDEN), dtype=torch.bfloat16).normal_(generator=generator)
    scores = torch.empty((args.tokens, EXPERTS), dtype=torch.float64).normal_(generator=generator).numpy()
    before = time.process_time(), time.monotonic()
    plain, normed = products_of(experts, hidden, torch.ones(HIDDEN))
    between = time.process_time(), time.monotonic()
    weights = np.full(args.tokens, 1 / args.tokens)
    eliminate(LayerTokens(scores, np.ones(EXPERTS), True, plain, normed, HIDDEN, 1e-6, weights), TOP_K)
    after = time.process_time(), time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [
        row("outputs of all experts and their products, processor", between[0] - before[0], "s"),
        row("the same, by the clock", between[1] - before[1], "s"),
        row("elimination from 128 to 8 experts, processor", after[0] - between[0], "s"),
        row("the same, by the clock", after[1] - between[1], "s"),
        row("peak memory, the layer included", peak / GIB, "GiB"),
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, {"tokens": args.tokens, "rows": rows})
    print(f"{args.tokens} tokens, {torch.get_num_threads()} threads\n\n{table(rows)}")


if __name__ == "__main__":
    run(main)
