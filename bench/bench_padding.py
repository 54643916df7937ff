#!/usr/bin/env python3
"""Measure what padding costs in speed, and that it changes no result, on two generated layers of the 26B's sizes.

Inputs:  any GGUF file with a tokenizer, such as the demo's F16; the layer sizes of data/shapes.
Output:  a Markdown table: the file's size, the processor time of llama-server for prompt and for generation, and the
         time of the padded file by that of the other one, median over rounds; before it, the largest difference of
         the F16 logits.
Example: .venv/bin/python bench/bench_padding.py --tokenizer build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --work build/bench/padding

Both servers of a pair run side by side and are asked in turn, so that both meet the same load; processor time, and not
that of the wall, counts. One thread. The layers have 8 experts in place of 128; a token uses 8 in either case.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import quantize_gguf
from files.display import markdown_table
from files.json_records import read_json
from files.option_types import command_parser, positive
from files.safe_files import in_unit, run
from ggufs.gguf_header import aligned, empty_header, header_bytes, key_value, read_header, tensor_bytes
from ggufs.gguf_padding import changes_of, padding_widths, write_padded
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp, find_llama_cpp
from losses.gguf_logits import GgufLogits
from quants.sparse_gguf import from_config

import numpy as np
from gguf import GGMLQuantizationType as Kind

SHAPE = Path(__file__).resolve().parents[1] / "data/shapes/gemma-4-26b-a4b.json"
LAYERS = ["sliding_attention", "full_attention"]  # llama.cpp wants one with a window
EXPERTS, PROMPT_TOKENS, ANSWER_TOKENS, IDS = 8, 128, 24, list(range(5, 69))
ROPES = (("", "global_"), ("_swa", ""))  # ending of a key in the header, begin of one in the config
PAIRS = (("F16", "F16, padded"), ("Q2_K", "PAD-Q2_K"), ("IQ2_XXS", "PAD-IQ2_XXS"))


def write_layer(vocabulary: Path, output: Path) -> Path:
    """Write the F16 GGUF of two generated layers with another model's tokenizer."""
    words = read_header(vocabulary)
    few = {"num_hidden_layers": 2, "layer_types": LAYERS, "num_experts": EXPERTS}
    config = {**read_json(SHAPE), **few, "vocab_size": words.vocabulary}
    empty = from_config(SHAPE, config, "layer", output)
    pairs = [pair.raw for pair in empty.key_values]
    pairs += [key_value(f"gemma4.rope.dimension_count{end}", config[f"{name}head_dim"]) for end, name in ROPES]
    pairs += [pair.raw for pair in words.key_values if pair.key.startswith("tokenizer.")]
    plan, generator = [(tensor.name, tensor.dims, tensor.kind) for tensor in empty.tensors], np.random.default_rng(0)
    with open(output, "wb") as file:
        file.write(header_bytes(empty_header(output), pairs, plan))
        for _, dims, kind in plan:
            values = np.ones(dims[::-1], np.float32)  # norms and scales
            if len(dims) > 1:
                values = generator.standard_normal(dims[::-1], np.float32) / np.float32(dims[0] ** 0.5)
            file.write(values.astype("<f2" if kind == Kind.F16 else "<f4").tobytes())
            size = tensor_bytes(dims, kind)
            file.write(bytes(aligned(size, empty.alignment) - size))
    return output


def write_even_imatrix(model: Path, output: Path) -> Path:
    """Write an imatrix that counts all inputs alike: speed does not depend on it."""
    arrays = []
    for tensor in read_header(model).tensors:
        if tensor.kind == Kind.F16 and tensor.name != "token_embd.weight":
            experts = tensor.dims[2] if len(tensor.dims) > 2 else 1
            arrays.append((f"{tensor.name}.in_sum2", (tensor.dims[0], experts)))
            arrays.append((f"{tensor.name}.counts", (1, experts)))
    pairs = {"general.type": "imatrix", "imatrix.datasets": ["none"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 1}
    header = empty_header(output)
    plan = [(name, dims, Kind.F32) for name, dims in arrays]
    with open(output, "wb") as file:
        file.write(header_bytes(header, [key_value(*pair) for pair in pairs.items()], plan))
        for _, dims in arrays:
            size = 4 * dims[0] * dims[1]
            file.write(np.ones(dims, "<f4").tobytes() + bytes(aligned(size, header.alignment) - size))
    return output


def largest_difference(one: Path, other: Path, tools: LlamaCpp) -> float:
    """Return the largest difference of two models' logits, by the largest logit."""
    found = []
    for path in (one, other):
        with GgufLogits(path, tools, context=len(IDS), threads=1) as model:
            found.append(model.logits(IDS))
    return float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())


def used(server: LlamaServer) -> float:
    """Return the processor time of a server so far, in seconds."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def times(server: LlamaServer, seed: int) -> tuple[float, float]:
    """Return the processor seconds of a prompt of PROMPT_TOKENS and of an answer of ANSWER_TOKENS."""
    prompt = [int(token) for token in np.random.default_rng(seed).integers(300, 2900, PROMPT_TOKENS)]
    begin = used(server)
    server.request("/completion", {"prompt": prompt, "n_predict": 1, "cache_prompt": False})
    middle = used(server)
    body = {"prompt": prompt[:8], "n_predict": ANSWER_TOKENS, "cache_prompt": False, "ignore_eos": True}
    server.request("/completion", body)
    return middle - begin, used(server) - middle


def pair_row(tools: LlamaCpp, files: dict[str, Path], pair: tuple[str, str], rounds: int, log: Path) -> list[str]:
    """Return the row of a pair of files."""
    commands = {
        name: server_command(
            tools.tool("llama-server"), files[name], "layer", 0, ["-c", "512", "-t", "1", "-tb", "1", "-np", "1"]
        )
        for name in pair
    }
    with (
        LlamaServer(commands[pair[0]], files[pair[0]], log.with_name("plain.log")) as plain,
        LlamaServer(commands[pair[1]], files[pair[1]], log.with_name("padded.log")) as padded,
    ):
        times(plain, 0), times(padded, 0)  # the first requests map the file into memory
        found = np.array([[times(plain, n), times(padded, n)] for n in range(1, rounds + 1)])  # [rounds, file, part]
    ratios = found[:, 1] / found[:, 0]
    middle, low, high = (np.quantile(ratios, q, axis=0) for q in (0.5, 0.25, 0.75))
    sizes = " / ".join(in_unit(files[name].stat().st_size, 1 << 20) for name in pair)
    shown = [f"{middle[part]:.3f} ({low[part]:.3f} to {high[part]:.3f})" for part in (0, 1)]
    return [pair[1], pair[0], sizes, *shown]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and work").add_argument
    add("--tokenizer", type=Path, required=True, help="GGUF file whose tokenizer the layer gets")
    add("--work", type=Path, required=True, help="directory for the files, about 1 GB; they stay")
    add("--rounds", type=positive, default=10, help="times that each pair is asked")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    tools, work = find_llama_cpp(None), args.work
    files = {"F16": write_layer(args.tokenizer, work / "F16.gguf"), "F16, padded": work / "padded.gguf"}
    header = read_header(files["F16"])
    widths = padding_widths(header)
    files["F16, padded"].unlink(missing_ok=True)
    write_padded(header, widths, changes_of(header, widths), files["F16, padded"])
    imatrix = write_even_imatrix(files["F16"], work / "imatrix.gguf")
    difference = largest_difference(*files.values(), tools)
    print(f"Largest difference of the F16 logits: {difference:.1e} of the largest logit.\n", flush=True)
    rows = []
    for pair in PAIRS:
        for name in (name for name in pair if name not in files):
            files[name] = work / f"{name}.gguf"
            flags = {"input": files["F16"], "imatrix": imatrix, "type": name, "output": files[name], "threads": 1}
            quantize_gguf.main([str(part) for key, value in flags.items() for part in (f"--{key}", value)])
        rows.append(pair_row(tools, files, pair, args.rounds, work / "server.log"))
        print(*rows[-1], file=sys.stderr, flush=True)
    heads = ["padded", "against", "MiB, not padded / padded", "prompt: time, padded by not", "generation: likewise"]
    print(markdown_table(heads, rows, left=2))


if __name__ == "__main__":
    run(main)
