#!/usr/bin/env python3
"""Convert a checkpoint to a GGUF file with llama.cpp's own converter, and check what came out.

Inputs:  a checkpoint directory; the name to write into the header.
Output:  one GGUF file (F16 unless --outtype says otherwise) and, beside it, FILE.json: size, sha256, tool version.
         With --mmproj the file is that of the vision tower, and of the audio tower where there is one
         (quants/mmproj_conversion.py); of a text-only checkpoint nothing is made.
Example: .venv/bin/python scripts/convert_to_gguf.py --model data/demo/model --name gemma-4-demo \\
             --output build/try/gemma-4-demo-F16.gguf

Checked: the expert count is the config's, and a model with per-expert router scales has them as ffn_down_exps.scale
(llama.cpp loads a file without them in silence and computes something else). An output whose record names the same
checkpoint, name, type and tools is left as it is.
"""

import argparse
import os
import sys
from pathlib import Path

from checkpoints.checkpoint import read_checkpoint, read_config
from checkpoints.moe_families import Family, family_of, shape_of
from choice.drop_map import Shape
from files.option_types import command_parser
from files.safe_files import (
    InputError,
    gib,
    read_json,
    replace_when_done,
    require_disk_space,
    run,
    sha256_file,
    sha256_json,
    write_record,
)
from ggufs.gguf_header import read_header
from llama.llama_tools import LlamaCpp, find_llama_cpp, run_tool
from quants.mmproj_conversion import make_mmproj
from quants.quant_record import ConversionRecord, is_made_of, record_path

BYTES_PER_WEIGHT = {"f16": 2, "bf16": 2, "f32": 4}
OTHER_TEMPLATES = "additional_chat_templates/*.jinja"
# Weights, config, tokenizer, chat template, and the model card, whose front matter goes into the header.
READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")


def converter_command(converter: Path, model: Path, name: str, output: Path, outtype: str) -> list[object]:
    """Return the command line of convert_hf_to_gguf.py."""
    flags = ["--outfile", output.resolve(), "--outtype", outtype, "--model-name", name]
    return [sys.executable, converter, model.resolve(), *flags]


def check_converted(path: Path, family: Family, shape: Shape, tensor_names: list[str]) -> None:
    """Raise InputError when the GGUF lacks experts or per-expert scales that the checkpoint has."""
    header = read_header(path)
    if header.experts != shape.experts:
        raise InputError(path, f"{shape.experts} experts, as the checkpoint has", str(header.experts))
    if any(name.endswith(".per_expert_scale") for name in tensor_names):
        names = {tensor.name for tensor in header.tensors}
        missing = [layer for layer in shape.layers if f"blk.{layer}.ffn_down_exps.scale" not in names]
        if missing:
            raise InputError(path, f"blk.{missing[0]}.ffn_down_exps.scale of {family.name}", "no such tensor")


def source_digest(model: Path) -> str:
    """Return the hex sha256 over name and sha256 of every file of a checkpoint that the converter may read.

    All bytes are read: an output is left as it is only if it was made of just these. `weights_digest` takes samples.
    """
    files = [path for path in (*model.iterdir(), *model.glob(OTHER_TEMPLATES)) if path.suffix in READ_SUFFIXES]
    digests = {str(path.relative_to(model)): sha256_file(path) for path in sorted(files) if path.is_file()}
    return sha256_json(digests)


def convert(args: argparse.Namespace, llama_cpp: LlamaCpp, family: Family, shape: Shape, names: list[str]) -> dict:
    """Convert and check; return size and sha256 of the output."""
    with replace_when_done(args.output) as partial:
        run_tool(
            converter_command(llama_cpp.converter, args.model, args.name, partial, args.outtype),
            cwd=Path.cwd(),
            what="convert to GGUF",
            step=r"Writing:\s+(\d+)%",
        )
        # Under its final name a later step would take the file for a good one.
        check_converted(partial, family, shape, names)
        return {"bytes": partial.stat().st_size, "sha256": sha256_file(partial)}


def write_conversion_record(output: Path, model: Path, content: dict, was_removed: bool) -> None:
    """Write the record, unless it stayed when its output was removed and the output is made again of the same bytes.

    Then both get the time of the first ones, so that nothing made from those looks old to make (KEEP_F16=no).
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
    os.utime(output, ns=(record.stat().st_mtime_ns,) * 2)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    add("--output", type=Path, required=True, help="GGUF file to write")
    add = parser.add_argument_group("what is written, and with what").add_argument
    add("--name", required=True, help="model name for the header")
    outtypes = [*BYTES_PER_WEIGHT, "q8_0"]
    add("--outtype", type=str.lower, choices=outtypes, default="f16", help="float type; q8_0 with --mmproj only")
    add("--mmproj", action="store_true", help="convert what sees and hears, into a file of its own; or nothing")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    args = parser.parse_args(argv)
    if args.outtype == "q8_0" and not args.mmproj:
        parser.error("--outtype q8_0: expected --mmproj with it, as quantize_gguf.py makes the quants of a model")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    config = read_config(args.model)
    tensors = read_checkpoint(args.model)
    if args.mmproj:
        tools, kind = find_llama_cpp(args.llama_cpp), args.outtype.upper()
        print(make_mmproj(args.model, config, tensors, args.name, kind, args.output, tools))
        return
    family = family_of(args.model, config, list(tensors))
    shape = shape_of(args.model, family, config)
    llama_cpp = find_llama_cpp(args.llama_cpp)
    content = {
        "name": args.name,
        "outtype": args.outtype,
        "source_sha256": source_digest(args.model),
        "llama_cpp": llama_cpp.version(),
    }
    if is_made_of(args.output, content, ConversionRecord):
        for path in (args.output, record_path(args.output)):
            os.utime(path)  # for make, which goes by time; the record stays the newer one
        print(f"{args.output}: converted already")
        return
    stored = sum(tensor.size for tensor in tensors.values())  # 2 bytes per weight, as checkpoints are in BF16
    require_disk_space(args.output.parent, stored * BYTES_PER_WEIGHT[args.outtype] // 2)
    was_removed = not args.output.exists()
    content |= convert(args, llama_cpp, family, shape, list(tensors))
    write_conversion_record(args.output, args.model, content, was_removed)
    print(f"{args.output}: {args.outtype.upper()}, {shape.experts} experts, {gib(content['bytes'])} GiB")


if __name__ == "__main__":
    run(main)
