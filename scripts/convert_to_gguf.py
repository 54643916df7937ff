#!/usr/bin/env python3
"""Convert a checkpoint to a GGUF file with llama.cpp's own converter, and check what came out.

Inputs:  a checkpoint directory; the name to write into the header.
Output:  one GGUF file (F16 unless --outtype says otherwise) and, beside it, FILE.json: size, sha256, tool version.
Use:     scripts/convert_to_gguf.py --model DIR --name NAME --output F16.gguf

Checked: the expert count is the config's, and a model with per-expert router scales has them as ffn_down_exps.scale
(llama.cpp loads a file without them in silence and computes something else).
"""

import argparse
import os
import sys
from pathlib import Path

from checkpoints.checkpoint import read_checkpoint, read_config
from ggufs.gguf_files import summarize_gguf
from llama.llama_tools import find_llama_cpp, run_tool
from checkpoints.moe_families import Family, Shape, family_of, shape_of
from files.safe_files import InputError, read_json, replace_when_done, require_disk_space, run, sha256_file, write_json

BYTES_PER_WEIGHT = {"f16": 2, "bf16": 2, "f32": 4}


def converter_command(converter: Path, model: Path, name: str, output: Path, outtype: str) -> list[object]:
    """Return the command line of convert_hf_to_gguf.py."""
    return [sys.executable, converter, model.resolve(), "--outfile", output.resolve(), "--outtype", outtype,
            "--model-name", name]


def check_converted(path: Path, family: Family, shape: Shape, tensor_names: list[str]) -> None:
    """Raise InputError when the GGUF lacks experts or per-expert scales that the checkpoint has."""
    summary = summarize_gguf(path)
    if summary.experts != shape.experts:
        raise InputError(path, f"{shape.experts} experts, as the checkpoint has", str(summary.experts))
    if any(name.endswith(".per_expert_scale") for name in tensor_names):
        missing = [layer for layer in shape.layers if f"blk.{layer}.ffn_down_exps.scale" not in summary.shapes]
        if missing:
            raise InputError(path, f"blk.{missing[0]}.ffn_down_exps.scale of {family.name}", "no such tensor")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--name", required=True, help="model name for the header")
    parser.add_argument("--output", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--outtype", choices=BYTES_PER_WEIGHT, default="f16", help="float type (default f16)")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    config = read_config(args.model)
    tensors = read_checkpoint(args.model)
    family = family_of(args.model, config, list(tensors))
    shape = shape_of(args.model, family, config)
    needed = sum(tensor.size for tensor in tensors.values()) * BYTES_PER_WEIGHT[args.outtype] // 2
    require_disk_space(args.output.parent, needed)
    llama_cpp = find_llama_cpp(args.llama_cpp)
    was_removed = not args.output.exists()
    with replace_when_done(args.output) as partial:
        run_tool(converter_command(llama_cpp.converter, args.model, args.name, partial, args.outtype), cwd=Path.cwd(),
                 what="convert to GGUF", step=r"Writing:\s+(\d+)%")
        check_converted(partial, family, shape, list(tensors))
        sha256, size = sha256_file(partial), partial.stat().st_size
    record, content = Path(f"{args.output}.json"), {"outtype": args.outtype, "llama_cpp": llama_cpp.version(), "bytes": size,
                                                    "sha256": sha256}
    newest = max(path.stat().st_mtime_ns for path in args.model.iterdir())
    # The same bytes as before a removal get the time of the first ones: nothing made from those then looks old to make.
    if not (was_removed and record.is_file() and read_json(record) == content and record.stat().st_mtime_ns >= newest):
        write_json(record, content)
    os.utime(args.output, ns=(record.stat().st_mtime_ns,) * 2)
    print(f"{args.output}: {args.outtype.upper()}, {shape.experts} experts, {args.output.stat().st_size / 2**30:.3f} GiB")


if __name__ == "__main__":
    run(main)
