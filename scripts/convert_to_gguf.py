#!/usr/bin/env python3
"""Convert a checkpoint to a GGUF file with llama.cpp's own converter, and check what came out.

Inputs:  a checkpoint directory; the name to write into the header.
Output:  one GGUF file (F16 unless --outtype says otherwise) and, beside it, FILE.json: size, sha256, tool version.
         With --mmproj the file is that of the vision tower, and of the audio tower where there is one
         (quants/mmproj_conversion.py); of a text-only checkpoint nothing is made.
Example: .venv/bin/python scripts/convert_to_gguf.py --model data/demo/model --name gemma-4-demo \\
             --output build/try/gemma-4-demo-F16.gguf

Checked: experts and layers are the config's, there is a token for every row of the embedding, and a model with
per-expert router scales has them as ffn_down_exps.scale (llama.cpp loads a file without them in silence and computes
something else). Then llama.cpp's own loader must take the file, and compute from it what transformers computes from the
checkpoint (losses/conversion_loss.py; one layer of it is in memory at a time). A file that fails is not kept. An output
whose record names the same checkpoint, name, type and tools is left as it is.
"""

import argparse
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.decoder import build_empty, check_complete
from analysis.known_weights import check_known_weights
from checkpoints.checkpoint import (
    TensorRange,
    hold_checkpoint,
    read_checkpoint,
    read_config,
    source_digest,
    weights_digest,
)
from checkpoints.computed_alike import check_computed_alike
from checkpoints.moe_families import Family, family_of, shape_of, text_config
from choice.drop_map import Shape
from files.input_errors import InputError
from files.json_records import read_json
from files.option_types import command_parser, named_path
from files.safe_files import gib, replace_when_done, require_disk_space, run
from files.written_records import write_record
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.vouched_keys import unvouched
from llama.config_reading import check_config_read_alike
from llama.llama_tools import LlamaCpp, convert_streamed, find_llama_cpp
from llama.serve_check import check_loads
from losses.conversion_loss import conversion_loss, reference_of
from quants.mmproj_conversion import make_mmproj
from quants.quant_record import ConversionRecord, is_made_of, record_path

import torch
import transformers

BYTES_PER_WEIGHT = {"f16": 2, "bf16": 2, "f32": 4}
OUTTYPES = [*BYTES_PER_WEIGHT, "q8_0"]
COMPARED = "against_transformers"  # in a record; older ones have none
READ_AS_JSON = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def check_converted(
    named: Path, header: GgufHeader, layers: int, family: Family, shape: Shape, tensor_names: list[str]
) -> None:
    """Raise InputError when the GGUF lacks layers, experts or per-expert scales that the checkpoint has.

    named: the file, in messages; layers: of the config; tensor_names: of the checkpoint.
    """
    if strange := unvouched(header):  # of a converter that takes them from elsewhere than llama/vouched_header.py knows
        raise InputError(named, "no general key that this project does not vouch for", strange[0])
    if header.experts != shape.experts:
        raise InputError(named, f"{shape.experts} experts, as the checkpoint has", str(header.experts))
    count, names = header.value(f"{header.architecture}.block_count"), {tensor.name for tensor in header.tensors}
    if count != layers:
        raise InputError(named, f"{layers} layers, as the checkpoint has", repr(count))
    for layer in shape.layers:
        if not any(name.startswith(f"blk.{layer}.ffn_") and "_exps." in name for name in names):
            raise InputError(named, f"experts in layer {layer}, as the checkpoint has", "none")
    if any(name.endswith(".per_expert_scale") for name in tensor_names):
        missing = [layer for layer in shape.layers if f"blk.{layer}.ffn_down_exps.scale" not in names]
        if missing:
            raise InputError(named, f"blk.{missing[0]}.ffn_down_exps.scale of {family.name}", "no such tensor")


def check_vocabulary(model: Path, header: GgufHeader) -> None:
    """Raise InputError when the tokenizer has another number of tokens than the embedding has rows."""
    tokens = header.array("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens) != header.vocabulary:
        raise InputError(
            model,
            f"{header.vocabulary} tokens in its tokenizer, one for every row of the embedding",
            str(len(tokens)),
            "give it the tokenizer that the model was trained with",
        )


def convert(
    args: argparse.Namespace,
    partial: Path,
    config: dict,
    llama_cpp: LlamaCpp,
    family: Family,
    shape: Shape,
    tensors: dict[str, TensorRange],
) -> dict:
    """Convert, check, load and compare; partial: the output, as yet under another name; return what its record says."""
    reference = reference_of(args.model, config, tensors)
    sha256 = convert_streamed(llama_cpp, args.model, args.name, partial, args.outtype)
    # Under its final name a later step would take the file for a good one.
    header, layers = read_header(partial), text_config(config)["num_hidden_layers"]
    check_converted(args.output, header, layers, family, shape, list(tensors))
    check_vocabulary(args.model, header)
    library = check_loads(partial, llama_cpp, args.output)
    loss = conversion_loss(reference, partial, llama_cpp, args.output, library)
    size, weights = partial.stat().st_size, sum(math.prod(tensor.dims) for tensor in header.tensors)
    sizes = {"bytes": size, "parameters": weights, "bits_per_weight": round(8 * size / weights, 3)}
    return {"sha256": sha256, **sizes, COMPARED: loss}


def write_conversion_record(output: Path, partial: Path, model: Path, content: dict, was_removed: bool) -> None:
    """Write the record, unless it stayed when its output was removed and the output is made again of the same bytes.

    Then both get the time of the first ones, so that nothing made from those looks old to make (KEEP_F16=no). The
    output still has another name, `partial`: it is what make looks for, so the record must be there before.
    """
    record = record_path(output)
    newest = max(path.stat().st_mtime_ns for path in model.iterdir())
    stayed = (
        was_removed
        and record.is_file()
        and read_json(record) == {"version": ConversionRecord.current, **content}
        and record.stat().st_mtime_ns >= newest
    )
    if not stayed:
        write_record(record, content, ConversionRecord)
    os.utime(partial, ns=(record.stat().st_mtime_ns,) * 2)


def is_compared(output: Path, content: dict) -> bool:
    """Tell whether a conversion is there whose record says what `content` does, and how far it is from transformers."""
    return is_made_of(output, content, ConversionRecord) and bool(read_json(record_path(output)).get(COMPARED))


def check_name(output: Path, outtype: str) -> None:
    """Raise InputError for an output whose name ends with another type: cards and tables take the type from there."""
    said = output.stem.rpartition("-")[2].lower()
    if said in OUTTYPES and said != outtype:
        raise InputError(output, f"a name that ends with -{outtype.upper()}.gguf, as --outtype says", output.name)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    add("--output", type=named_path, required=True, help="GGUF file to write")
    add = parser.add_argument_group("what is written, and with what").add_argument
    add("--name", required=True, help="model name for the header")
    add("--outtype", type=str.lower, choices=OUTTYPES, default="f16", help="float type; q8_0 with --mmproj only")
    add("--mmproj", action="store_true", help="convert what sees and hears, into a file of its own; or nothing")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    args = parser.parse_args(argv)
    if args.outtype == "q8_0" and not args.mmproj:
        parser.error("--outtype q8_0: expected --mmproj with it, as quantize_gguf.py makes the quants of a model")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_name(args.output, args.outtype)
    transformers.utils.logging.disable_progress_bar()
    config = read_config(args.model)
    hold_checkpoint(args.model)
    tensors = read_checkpoint(args.model)
    if args.mmproj:
        tools, kind = find_llama_cpp(args.llama_cpp), args.outtype.upper()
        print(make_mmproj(args.model, config, tensors, args.name, kind, args.output, tools))
        return
    family = family_of(args.model, config, list(tensors))
    shape = shape_of(args.model, family, config)
    for name in READ_AS_JSON:  # the converter's own error over one does not name the file
        if (args.model / name).exists():
            read_json(args.model / name)
    llama_cpp = find_llama_cpp(args.llama_cpp)
    check_known_weights(args.model, tensors)
    check_complete(build_empty(args.model, torch.float32, "eager"), args.model, tensors)
    check_computed_alike(args.model, family, config)
    check_config_read_alike(args.model, config, lambda: llama_cpp)
    content = {"name": args.name, "outtype": args.outtype, "llama_cpp": llama_cpp.version()}
    # All bytes of a checkpoint are read for its digest: meanwhile the converter starts, which takes one core.
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(source_digest, args.model)
        there = args.output.is_file()
        if there and is_compared(args.output, {**content, "source_sha256": digest.result()}):
            for path in (args.output, record_path(args.output)):
                os.utime(path)  # for make, which goes by time; the record stays the newer one
            print(f"{args.output}: converted already")
            return
        stored = sum(tensor.size for tensor in tensors.values())  # 2 bytes per weight, as checkpoints are in BF16
        require_disk_space(args.output.parent, stored * BYTES_PER_WEIGHT[args.outtype] // 2)
        was_removed = not args.output.exists()
        with replace_when_done(args.output) as partial:
            content |= convert(args, partial, config, llama_cpp, family, shape, tensors)
            content |= {"source_sha256": digest.result(), "weights_sha256": weights_digest(tensors)}
            write_conversion_record(args.output, partial, args.model, content, was_removed)
    print(f"{args.output}: {args.outtype.upper()}, {shape.experts} experts, {gib(content['bytes'])} GiB")


if __name__ == "__main__":
    run(main)
