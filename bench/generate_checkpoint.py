#!/usr/bin/env python3
"""Write a random bf16 Gemma 4 checkpoint with the 26B's layer sizes and few layers, to measure on.

Inputs:  a directory with a tokenizer (the demo model): its vocabulary keeps the embedding small.
Output:  OUTPUT/L for every L of --layers: a checkpoint of L layers, one shard per layer; the smaller ones link to the
         shards of the largest. A layer holds 128 experts of width 704 over hidden size 2816, top-8, as the 26B's.
Example: .venv/bin/python bench/generate_checkpoint.py --tokenizer data/demo/model --layers 2 4 6 \\
             --output build/bench/checkpoints

Sizes: the 26B's config.json, https://huggingface.co/google/gemma-4-26B-A4B-it
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.decoder import build_empty
from checkpoints.checkpoint import INDEX_NAME
from files.option_types import command_parser
from files.safe_files import directory_when_done, require_disk_space, run
from files.written_records import write_json

from random_shards import Shapes, bf16_noise, write_index, write_shard

SIZES = {
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 2,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 1024,
    "final_logit_softcapping": 30.0,
}
FULL_EVERY = 2  # the 26B has one full layer in six, the last; here the last of 2, 4 and 6 layers must be full
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def config_of(base: dict, layers: int) -> dict:
    """Return a text-only config with the 26B's sizes, `layers` layers and the vocabulary of `base`."""
    types = ["full_attention" if (i + 1) % FULL_EVERY == 0 else "sliding_attention" for i in range(layers)]
    return {**base, **SIZES, "num_hidden_layers": layers, "layer_types": types, "dtype": "bfloat16"}


def write_layers(directory: Path, config: dict, tokenizer: Path, linked: Path | None) -> None:
    """Write one checkpoint; shards of layers come from `linked` if that is given."""
    write_json(directory / "config.json", config)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, directory / name)
    state = build_empty(directory, torch.bfloat16, "eager").state_dict()
    shapes: dict[str, Shapes] = {}
    for name, tensor in state.items():
        if name != "lm_head.weight":
            layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
            shapes.setdefault(f"model-layer-{layer}.safetensors", {})[name] = tuple(tensor.shape)
    for number, (shard, tensors) in enumerate(shapes.items()):
        if linked is not None:
            os.link(linked / shard, directory / shard)
        else:
            write_shard(directory / shard, tensors, bf16_noise(number))
    write_index(directory, shapes)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--tokenizer", type=Path, required=True, help="model directory whose tokenizer and config are the base")
    add("--output", type=Path, required=True, help="directory to write the checkpoints into")
    add = parser.add_argument_group("what is generated").add_argument
    add("--layers", type=int, nargs="+", default=[2, 4, 6], help="layer counts, one checkpoint each")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    transformers.utils.logging.set_verbosity_error()
    base = json.loads((args.tokenizer / "config.json").read_text())
    linked = None
    for layers in sorted(args.layers, reverse=True):
        target = args.output / str(layers)
        if not (target / INDEX_NAME).exists():
            require_disk_space(args.output, 0 if linked else layers * 1_700_000_000)
            with directory_when_done(target, INDEX_NAME) as partial:
                write_layers(partial, config_of(base, layers), args.tokenizer, linked)
        linked = linked or target
        print(f"{target}: {layers} layers of the 26B's sizes")


if __name__ == "__main__":
    run(main)
