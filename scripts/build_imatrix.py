#!/usr/bin/env python3
"""Measure the importance matrix of a GGUF model on a calibration text with llama-imatrix.

Inputs:  an unquantised GGUF file; a text in which special tokens are written out.
Output:  an imatrix in GGUF form: per tensor and expert, sums of squared activations and token counts. Beside it,
         FILE.json: digests of the model, the text and the imatrix, context, tool version.
Use:     scripts/build_imatrix.py --model F16.gguf --calibration TEXT --output imatrix.gguf

Upstream: llama.cpp tools/imatrix/README.md.
"""

import argparse
from pathlib import Path

from gguf_files import summarize_gguf
from imatrix_files import check_reached, read_imatrix
from llama_tools import find_llama_cpp, run_tool
from safe_files import InputError, recorded_sha256, replace_when_done, run, sha256_file, write_json

CONTEXT_TOKENS = 512


def imatrix_command(tool: Path, model: Path, calibration: Path, output: Path, context: int) -> list[object]:
    """Return the command line of llama-imatrix, run in the calibration's directory so that its header has no path."""
    return [tool, "-m", model.resolve(), "-f", calibration.name, "-o", output.resolve(), "-c", context,
            "--parse-special", "--no-ppl"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="unquantised GGUF file")
    parser.add_argument("--calibration", type=Path, required=True, help="calibration text")
    parser.add_argument("--output", type=Path, required=True, help="imatrix to write")
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS, help="tokens per chunk (default 512)")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    summarize_gguf(args.model)
    if not args.calibration.is_file():
        raise InputError(args.calibration, "a calibration text", "nothing")
    if args.calibration.stat().st_size < 2 * args.context:  # no token is shorter than a byte
        raise InputError(args.calibration, f"{2 * args.context} tokens or more, which llama-imatrix needs",
                         f"{args.calibration.stat().st_size} bytes")
    llama_cpp = find_llama_cpp(args.llama_cpp)
    with replace_when_done(args.output) as partial:
        run_tool(imatrix_command(llama_cpp.tool("llama-imatrix"), args.model, args.calibration, partial, args.context),
                 cwd=args.calibration.resolve().parent, what="imatrix", step=r"\[(\d+)\]", total=r"over (\d+) chunks")
        reached = check_reached(read_imatrix(partial), 0)
        write_json(Path(f"{args.output}.json"), {
            "model_sha256": recorded_sha256(args.model), "calibration": args.calibration.name,
            "calibration_sha256": sha256_file(args.calibration), "context": args.context, "llama_cpp": llama_cpp.version(),
            "bytes": partial.stat().st_size, "sha256": sha256_file(partial)})
    print(f"{args.output}: {reached}")


if __name__ == "__main__":
    run(main)
