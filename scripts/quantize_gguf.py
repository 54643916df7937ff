#!/usr/bin/env python3
"""Build one quant from an unquantised GGUF file with llama-quantize.

Inputs:  an F16, BF16 or F32 GGUF file; an imatrix of the same model (needed for the lowest types); a quant's name
         (table: quant_recipes.py).
Output:  the quantised GGUF file and, beside it, FILE.json: recipe, tool version, digests, size, bits per weight.
Use:     scripts/quantize_gguf.py --input F16.gguf --imatrix FILE --type Q4_K_M --output FILE.gguf
"""

import argparse
import os
from pathlib import Path

from gguf_files import FILE_TYPES_FLOAT, GgufSummary, read_gguf, summarize_gguf
from llama_tools import find_llama_cpp, run_tool
from quant_recipes import RECIPES, Recipe, find_recipe
from safe_files import InputError, replace_when_done, require_disk_space, run, sha256_file, write_json


def quantize_command(tool: Path, recipe: Recipe, model: Path, imatrix: Path | None, output: Path,
                     threads: int) -> list[object]:
    """Return the command line of llama-quantize; the imatrix by its bare name, which is what the header will hold."""
    imatrix_flags = ("--imatrix", imatrix.name) if imatrix else ()
    return [tool, *imatrix_flags, *recipe.flags, model.resolve(), output.resolve(), recipe.base, threads]


def check_float(path: Path, summary: GgufSummary) -> None:
    """Raise InputError when a GGUF file is quantised already."""
    quantised = sorted(name for name, kind in summary.types.items() if kind not in FILE_TYPES_FLOAT)
    if quantised:
        raise InputError(path, "an unquantised GGUF file (F16, BF16, F32)",
                         f"{quantised[0]} in {summary.types[quantised[0]]}")


def check_imatrix(path: Path, summary: GgufSummary) -> None:
    """Raise InputError when an imatrix is in another format, of another expert count, or lacks an expert tensor."""
    counts = {tensor.name.removesuffix(".counts"): int(tensor.n_elements) for tensor in read_gguf(path).tensors
              if tensor.name.endswith(".counts")}
    if not counts:
        raise InputError(path, "an imatrix in GGUF form", "a GGUF file without token counts")
    for name, shape in summary.shapes.items():
        if not name.endswith("_exps.weight"):
            continue
        if name not in counts:
            raise InputError(path, f"the imatrix of this model, with {name}", "no such tensor")
        if counts[name] != shape[0]:
            raise InputError(path, f"{shape[0]} experts in {name}, as the model has", str(counts[name]),
                             "is it the imatrix of another model?")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="unquantised GGUF file")
    parser.add_argument("--imatrix", type=Path, help="imatrix of the same model (GGUF form)")
    parser.add_argument("--type", required=True, help=f"quant: {', '.join(RECIPES)}")
    parser.add_argument("--output", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (default: all)")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    recipe = find_recipe(args.type)
    source = summarize_gguf(args.input)
    check_float(args.input, source)
    if args.imatrix:
        check_imatrix(args.imatrix, source)
    elif recipe.needs_imatrix:
        raise InputError("--imatrix", f"an imatrix, which {recipe.base} needs", "none")
    require_disk_space(args.output.parent, args.input.stat().st_size * 9 // 16)  # Q8_0, the largest
    llama_cpp = find_llama_cpp(args.llama_cpp)
    record = Path(f"{args.output}.json")
    record.unlink(missing_ok=True)
    with replace_when_done(args.output) as partial:
        run_tool(quantize_command(llama_cpp.tool("llama-quantize"), recipe, args.input, args.imatrix, partial,
                                  args.threads),
                 cwd=args.imatrix.resolve().parent if args.imatrix else Path.cwd(), what=recipe.name,
                 step=r"\[\s*(\d+)/\s*(\d+)\]")
        result = summarize_gguf(partial)
        if result.shapes != source.shapes:
            raise InputError(args.output, "the tensors of its source", "other ones")
        size = partial.stat().st_size
        # The record comes first: a kill between the two leaves no quant without one.
        write_json(record, {
            "type": recipe.name, "base": recipe.base, "flags": list(recipe.flags), "note": recipe.note,
            "llama_cpp": llama_cpp.version(), "experts": result.experts, "parameters": result.parameters,
            "bytes": size, "bits_per_weight": round(8 * size / result.parameters, 3),
            "sha256": sha256_file(partial), "source_sha256": sha256_file(args.input),
            "imatrix_sha256": sha256_file(args.imatrix) if args.imatrix else None})
    print(f"{args.output}: {recipe.name}, {size / 2**30:.3f} GiB, {8 * size / result.parameters:.2f} bits per weight")


if __name__ == "__main__":
    run(main)
