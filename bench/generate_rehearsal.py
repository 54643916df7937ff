#!/usr/bin/env python3
"""Write a random checkpoint of the 26B's real form with as many layers as are asked for, to rehearse a run on.

Inputs:  the shape (data/shapes), and a model directory whose tokenizer is extended: the demo's.
Output:  a checkpoint directory in the published layout (Gemma4ForConditionalGeneration, bf16): LAYERS layers of 128
         experts, the last full attention as the 26B's; its whole vision tower; 262,144 tokens of vocabulary with a
         tokenizer of that size. Weights are random, so its answers mean nothing.
Example: .venv/bin/python bench/generate_rehearsal.py --shape data/shapes/gemma-4-26b-a4b.json \\
             --tokenizer data/demo/model --layers 2 --output build/try/rehearsal

A layer has 1.6 GB, all else 2.6 GB. It is written shard by shard, so memory stays small.
"""

import argparse
import itertools
import json
import shutil
import string
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.decoder import build_empty
from checkpoints.checkpoint import INDEX_NAME
from files.input_errors import InputError
from files.json_records import read_json
from files.option_types import command_parser
from files.safe_files import directory_when_done, existing_parent, gib, require_disk_space, run
from files.written_records import write_json

from random_shards import Shapes, bf16_noise, write_index, write_shard

COPIED = ("tokenizer_config.json", "chat_template.jinja", "generation_config.json")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Pixels from 0 to 1, 280 tokens for each picture: what llama.cpp's converter and transformers' image processor read.
PROCESSOR = {
    "image_processor": {
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "do_normalize": False,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "max_soft_tokens": 280,
    }
}
CARD = """---
license: apache-2.0
---

Random weights of the shape of Gemma 4 26B-A4B, made to measure on. What it says means nothing.
"""
BYTES_PER_LAYER, BYTES_BESIDE = 1_650_000_000, 2_650_000_000
# At its fullest a rehearsal has the checkpoint, the full model's F16 file and one quant of it.
PEAK_PER_LAYER, PEAK_BESIDE, LEAST_LAYERS, MOST_LAYERS = 3_950_000_000, 6_500_000_000, 2, 30


def layers_that_fit(free: int) -> int:
    """Return how many layers a rehearsal fits into so many free bytes, by what LOW_DISK=yes has at once."""
    return min(MOST_LAYERS, max(LEAST_LAYERS, int((free - PEAK_BESIDE) / PEAK_PER_LAYER)))


def config_of(shape: dict, base: dict, layers: int) -> dict:
    """Return the multimodal config of the last `layers` layers of a shape; base: of what the shape does not say."""
    # llama.cpp wants a layer of each kind of attention.
    if not LEAST_LAYERS <= layers <= shape["num_hidden_layers"]:
        raise InputError("--layers", f"{LEAST_LAYERS} to {shape['num_hidden_layers']}", str(layers))
    text = {key: value for key, value in {**base, **shape}.items() if key not in ("architectures", "vision_config")}
    text |= {
        "num_hidden_layers": layers,
        "layer_types": shape["layer_types"][-layers:],
        "vocab_size_per_layer_input": shape["vocab_size"],
        "dtype": "bfloat16",
    }
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "text_config": text,
        "vision_config": shape["vision_config"],
        "audio_config": None,
        "tie_word_embeddings": True,
        **{key: base[key] for key in TOKEN_IDS},
    }


def extended_tokenizer(state: dict, size: int) -> dict:
    """Return a tokenizer's JSON with further tokens, `size` in all: words of two letters and more, a merge for each.

    Their merges come last, so they join what the tokenizer's own merges left apart.
    """
    vocabulary, merges = dict(state["model"]["vocab"]), list(state["model"]["merges"])
    letters = string.ascii_lowercase
    for length in itertools.count(2):
        for word in map("".join, itertools.product(letters, repeat=length)):
            if len(vocabulary) >= size:
                return {**state, "model": {**state["model"], "vocab": vocabulary, "merges": merges}}
            if word not in vocabulary:
                vocabulary[word] = len(vocabulary)
                merges.append([word[:-1], word[-1]])
    raise AssertionError("unreachable: there are words of any length")


def shards_of(directory: Path) -> dict[str, Shapes]:
    """Return the tensors of the model that a directory's config describes, a shard for each layer of text."""
    shards: dict[str, Shapes] = {}
    for name, tensor in build_empty(directory, torch.bfloat16, "eager").state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        text = name.removeprefix("model.language_model.layers.")
        part = f"layer-{int(text.split('.')[0]):02}" if text != name else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = tuple(tensor.shape)
    return shards


def write_checkpoint(directory: Path, config: dict, tokenizer: Path) -> None:
    """Write config, tokenizer and random weights into a directory."""
    write_json(directory / "config.json", config)
    write_json(directory / "processor_config.json", PROCESSOR)
    state = read_json(tokenizer / "tokenizer.json")
    size = config["text_config"]["vocab_size"]
    # Without indents: a line for each of 260,000 merges would take as long to read as the weights.
    (directory / "tokenizer.json").write_text(json.dumps(extended_tokenizer(state, size), ensure_ascii=False))
    (directory / "README.md").write_text(CARD)
    for name in COPIED:
        shutil.copyfile(tokenizer / name, directory / name)
    shards = shards_of(directory)
    for number, (shard, tensors) in enumerate(shards.items()):
        write_shard(directory / shard, tensors, bf16_noise(number))
    write_index(directory, shards)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--shape", type=Path, help="JSON file of the shape, such as one of data/shapes")
    add("--tokenizer", type=Path, help="model directory whose tokenizer and config are the base")
    add("--output", type=Path, help="checkpoint directory to write; one that is there is left as it is")
    add = parser.add_argument_group("what is generated").add_argument
    add("--layers", type=int, help="layers of text")
    how_many = "print how many layers a rehearsal fits on the disk of this folder, and generate nothing"
    add("--how-many", type=Path, metavar="FOLDER", help=how_many)
    args = parser.parse_args(argv)
    if not args.how_many and None in (args.shape, args.tokenizer, args.output, args.layers):
        parser.error("expected --shape, --tokenizer, --output and --layers, or --how-many")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.how_many:
        print(layers_that_fit(shutil.disk_usage(existing_parent(args.how_many)).free))
        return
    transformers.utils.logging.set_verbosity_error()
    config = config_of(read_json(args.shape), read_json(args.tokenizer / "config.json"), args.layers)
    # Told by its config: the weights may have gone since, as LOW_DISK=yes has it.
    known = args.output / "config.json"
    if not (known.exists() and (args.output / INDEX_NAME).exists() and read_json(known) == config):
        require_disk_space(args.output, args.layers * BYTES_PER_LAYER + BYTES_BESIDE)
        with directory_when_done(args.output, INDEX_NAME) as partial:
            write_checkpoint(partial, config, args.tokenizer)
    total = read_json(args.output / INDEX_NAME)["metadata"]["total_size"]
    print(f"{args.output}: {args.layers} layers of the 26B's form, {gib(total)} GiB")


if __name__ == "__main__":
    run(main)
