#!/usr/bin/env python3
"""Measure what planning, checking and recording cost: quantize_gguf.py against the bare llama-quantize, file by file.

Inputs:  a checkpoint of generate_checkpoint.py (random weights, the 26B's layer sizes).
Output:  a JSON of rows (bench_table.py) and a table on stdout: seconds of both loops, their ratio, and the plan's time.
Example: .venv/bin/python bench/bench_quantize.py --checkpoint build/bench/checkpoints/2 \\
             --output build/bench/quantize.json

The F16 GGUF, its digest and the imatrix are made once, before the clock starts. Both loops flush every file to the
disk. Each type is built bare and then by the script, so that both meet the same load; with --repeat the order changes.
"""

import argparse
import filecmp
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.option_types import command_parser
from files.safe_files import GIB, flush_to_disk, require_disk_space, run
from files.written_records import write_json
from llama.llama_tools import SCRIPTS, dying_with_parent, find_llama_cpp
from quants.recipes import RECIPES

from bench_table import row, table

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "IQ4_XS"]
LIMIT = 1.05
TEXT = "".join(f"Line {n}: {n} times {n} is {n * n}.\n" for n in range(200))


def processor_seconds() -> float:
    """Return the processor time, user and system, of this process's ended children and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(*command: object, cwd: Path | None = None, flush: Path | None = None) -> tuple[float, float]:
    """Run a command, then flush a file; return wall and processor seconds. A failure ends the benchmark."""
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=dying_with_parent(),
    )
    if flush:
        flush_to_disk(flush)
    return time.perf_counter() - start, processor_seconds() - used


def script(name: str, *arguments: object) -> tuple[float, float]:
    """Run one of the pipeline's scripts; return wall and processor seconds."""
    return seconds(sys.executable, SCRIPTS / name, *arguments)


def bare(tool: Path, kind: str, f16: Path, imatrix: Path, output: Path, threads: int) -> tuple[float, float]:
    """Build a quant by llama-quantize alone and flush it; return wall and processor seconds."""
    output.unlink(missing_ok=True)
    recipe = RECIPES[kind]
    arguments = ["--imatrix", imatrix.name, *recipe.arguments, f16, output, recipe.base, threads]
    return seconds(tool, *arguments, cwd=imatrix.parent, flush=output)


def ours(kind: str, f16: Path, imatrix: Path, output: Path, threads: int) -> tuple[float, float]:
    """Build a quant by quantize_gguf.py; return wall and processor seconds."""
    for path in (output, Path(f"{output}.json")):
        path.unlink(missing_ok=True)
    paths = ("--input", f16, "--imatrix", imatrix, "--output", output)
    return script("quantize_gguf.py", *paths, "--type", kind, "--threads", threads)


def build_both(
    tool: Path,
    kind: str,
    f16: Path,
    imatrix: Path,
    threads: int,
    ours_first: bool,
    times: dict[str, list[tuple[float, float]]],
) -> None:
    """Build a quant in both ways and add their times; end the benchmark when the two files differ."""
    files = {name: f16.parent / f"{name}-{kind}.gguf" for name in ("bare", "ours")}
    for name in sorted(files, reverse=ours_first):
        if name == "bare":
            times[name].append(bare(tool, kind, f16, imatrix, files[name], threads))
        else:
            times[name].append(ours(kind, f16, imatrix, files[name], threads))
    walls = {name: values[-1][0] for name, values in times.items()}
    print(f"{kind}: bare {walls['bare']:.1f} s, quantize_gguf.py {walls['ours']:.1f} s", file=sys.stderr)
    if not filecmp.cmp(files["bare"], files["ours"], shallow=False):
        sys.exit(f"error: {files['ours']}: expected the bytes of llama-quantize alone, found others")


def rows_of(times: dict[str, list[tuple[float, float]]], what: str, plan: float) -> list[dict]:
    """Return the table's rows from wall and processor seconds per file, and the seconds of a plan."""
    (bare_wall, bare_used), (our_wall, our_used) = (
        [sum(column) for column in zip(*times[name])] for name in ("bare", "ours")
    )
    return [
        row(f"{what}, quantize_gguf.py / bare llama-quantize", our_wall / bare_wall, "x", LIMIT),
        row("the same in processor time, which other work disturbs less", our_used / bare_used, "x"),
        row("seconds per file beyond llama-quantize", (our_wall - bare_wall) / len(times["bare"]), "s"),
        row("plan of the 109-expert 26B, all files", plan, "s"),
    ]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--checkpoint", type=Path, required=True, help="checkpoint of generate_checkpoint.py")
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    known = [name for name, recipe in RECIPES.items() if not recipe.tiers]
    add("--types", nargs="+", default=TYPES, choices=known, metavar="QUANT", help="quants to build")
    add("--repeat", type=int, default=1, help="times that every quant is built")
    add("--threads", type=int, default=os.cpu_count(), help="threads (default: all)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    tool = find_llama_cpp(None).tool("llama-quantize")
    work = args.output.parent.resolve() / "quantize"
    work.mkdir(parents=True, exist_ok=True)
    require_disk_space(work, 8 * GIB)
    f16, text, imatrix = work / "F16.gguf", work / "text.txt", work / "imatrix.gguf"
    if not f16.exists():
        script("convert_to_gguf.py", "--model", args.checkpoint, "--name", "bench", "--output", f16)
    text.unlink(missing_ok=True)  # not through a link
    text.write_text(TEXT)
    if not imatrix.exists():
        script("build_imatrix.py", "--model", f16, "--calibration", text, "--output", imatrix)
    bare(tool, args.types[0], f16, imatrix, work / "bare.gguf", args.threads)  # not timed: reads the source into memory
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    for turn in range(args.repeat):
        for kind in args.types:
            build_both(tool, kind, f16, imatrix, args.threads, bool(turn % 2), times)
    plan, _ = script("plan_quants.py", "--shape", "gemma-4-26b-a4b", "--keep", 109)
    rows = rows_of(times, f"{len(args.types)} quants of {f16.stat().st_size / GIB:.1f} GiB", plan)
    write_json(args.output, {"rows": rows, "types": args.types, "wall_and_processor_seconds": times})
    print(table(rows))


if __name__ == "__main__":
    run(main)
