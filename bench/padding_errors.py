#!/usr/bin/env python3
"""Measure what each type does to `down` of the 26B's experts: padded to 768 columns against its fallback at 704.

Inputs:  none but the pinned ggml. Layers are generated, with real-like weights: inputs of RMS 1 whose channels differ
         (log-normal), Gaussian gate and up with rows of different norms, h = gelu(gate x) * up x, and `down` of
         Student's t with 5 degrees of freedom whose rows and columns differ in norm.
Output:  a Markdown table: bits per weight of the model with the padding paid for, and the error of a layer's output,
         |(Q - W) h|^2 / |W h|^2, over inputs that the imatrix was not made from, mean and standard error over experts.
Example: .venv/bin/python bench/padding_errors.py --experts 4
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.display import markdown_table, with_error
from files.option_types import command_parser, positive, whole_number
from files.safe_files import run
from llama.ggml_types import TYPES, GgmlTypes
from llama.llama_tools import find_llama_cpp
from scoring.paired_statistics import mean_and_error

import numpy as np

HIDDEN, WIDTH, PADDED = 2816, 704, 768
ROWS, TOKENS = 128, 512  # of a layer's 2816 rows so many; of inputs so many for the imatrix, and as many to test
FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # of llama-quantize
I_FALLBACK = "IQ4_NL"


def varied(generator: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Return log-normal factors around 1, [count]."""
    return np.exp(spread * generator.standard_normal(count)).astype(np.float32)


def expert(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a generated `down` [ROWS, WIDTH] and what it is given, h [2 * TOKENS, WIDTH]."""
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((2 * TOKENS, HIDDEN), np.float32) * varied(generator, HIDDEN, 0.5)
    gate, up = (generator.standard_normal((HIDDEN, WIDTH), np.float32) / HIDDEN**0.5 for _ in range(2))
    gates, ups = (inputs @ (matrix * varied(generator, WIDTH, 0.3)) for matrix in (gate, up))
    gelu = gates / (1 + np.exp(-1.702 * gates))
    down = generator.standard_t(5, (ROWS, WIDTH)).astype(np.float32) / WIDTH**0.5
    return down * varied(generator, ROWS, 0.2)[:, None] * varied(generator, WIDTH, 0.3), gelu * ups


def output_error(ggml: GgmlTypes, name: str, down: np.ndarray, inner: np.ndarray, width: int, tokens: int) -> float:
    """Return the relative squared error of the output with `down` in a type, padded to `width` columns.

    tokens: that the imatrix counts; of 0 llama-quantize takes all columns for alike.
    """
    padding = ((0, 0), (0, width - WIDTH))
    measured = (inner[:tokens] ** 2).mean(0) if tokens else np.ones(WIDTH, np.float32)
    importance = np.pad(measured, padding[1])
    found = ggml.through(name, np.pad(down, padding), importance)[:, :WIDTH]
    right, test = down @ inner[TOKENS:].T, inner[TOKENS:].T
    return float((((found - down) @ test) ** 2).sum() / (right**2).sum())


def rows_of(ggml: GgmlTypes, experts: int, tokens: int, names: list[str]) -> list[list[str]]:
    """Return the table's rows, by bits."""
    made = [expert(seed) for seed in range(experts)]
    found = []
    for name in names:
        block, size = ggml.block(name)
        fits = WIDTH % block == 0
        width = WIDTH if fits else PADDED
        errors = [output_error(ggml, name, down, inner, width, tokens) for down, inner in made]
        mean, error = mean_and_error(np.array(errors), np.ones(experts))
        other = "" if fits else FALLBACK.get(name, I_FALLBACK)
        bits = 8 * size / block * width / WIDTH
        found.append((bits, [name, "no" if fits else "yes", f"{bits:.2f}", with_error(100 * mean, 100 * error), other]))
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("measurement").add_argument
    add("--experts", type=positive, default=4, help="generated experts")
    few = f"tokens that the imatrix counts, at most {TOKENS}; 0: an expert that none reached"
    add("--tokens", type=whole_number, default=TOKENS, help=few)
    add("--types", nargs="+", choices=TYPES, default=list(TYPES), help="types (default: all)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    ggml = GgmlTypes(find_llama_cpp(None).directory)
    heads = ["type", "padded", "bits per weight of 704", "error of the output, %", "without padding it becomes"]
    print(markdown_table(heads, rows_of(ggml, args.experts, args.tokens, args.types), left=2, last_words=1))


if __name__ == "__main__":
    run(main)
