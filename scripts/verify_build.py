#!/usr/bin/env python3
"""Check the files that a release is made of, wherever they were built: all there, whole, of one source and one build.

Inputs:  the pruned checkpoint, its F16 file, the imatrix, the quants and the files for pictures, each with its record
         FILE.json; the build folder, for the locks in it.
Output:  a line for each file (pass or FAIL), below it what is wrong; a summary. The exit code is 0 only if all pass.
Example: .venv/bin/python scripts/verify_build.py --build build --checkpoint build/gemma-4-demo/109e/checkpoint \\
             --f16 build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --imatrix build/gemma-4-demo/109e/gguf/imatrix.gguf \\
             --quants build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf

Checked: sizes and digests, by reading every byte but those of the checkpoint's weights, which expert_drop.py --verify
compares with the full model's; that the F16 file was converted from this checkpoint, the imatrix measured on that file,
and each quant made of it, with that imatrix or none; that one build of llama.cpp made all quants; that no host is at
work and none left half a file. The F16 file itself may be gone (KEEP_F16=no).
"""

import argparse
from pathlib import Path

from checkpoints.checkpoint import read_checkpoint, read_config, source_digest
from checkpoints.towers import towers_of
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.display import plural
from files.host_locks import locks_in
from files.input_errors import InputError
from files.json_records import FileRecord, read_record
from files.option_types import command_parser
from files.safe_files import leftovers_of, run
from ggufs.imatrix import ImatrixRecord
from quants.quant_record import (
    ConversionRecord,
    MmprojRecord,
    QuantRecord,
    of_other_builds,
    read_whole_gguf,
    record_path,
)

DIGITS = 12  # of a digest that is shown
Found = dict[Path, list[str]]  # what is wrong, by file


def whole(path: Path, kind: type[FileRecord], found: Found) -> dict:
    """Return a file's record, {} when it is missing, cut short or has other bytes."""
    found[path] = []
    try:
        return read_whole_gguf(path, kind)
    except InputError as error:
        found[path].append(str(error))
        return {}


def f16_record(args: argparse.Namespace, found: Found) -> dict:
    """Return the record of the F16 file; the file itself is read where it is there."""
    record = whole(args.f16, ConversionRecord, found) if args.f16.exists() else {}
    if not args.f16.exists():
        found[args.f16] = []
        try:
            record = read_record(record_path(args.f16), ConversionRecord)
        except InputError as error:
            found[args.f16].append(str(error))
    shards = read_metadata(args.checkpoint / METADATA_NAME)["shards"]  # `expert_drop.py --verify` reads these
    if record and record["source_sha256"] != source_digest(args.checkpoint, shards):
        found[args.f16].append(f"{args.f16}: expected a file of {args.checkpoint}, found one of another checkpoint")
    return record


def note_difference(path: Path, what: str, expected: str | None, other: str | None, found: Found) -> None:
    """Note a digest in a file's record that is not the one of this build."""
    if expected != other:
        here, there = (str(digest)[:DIGITS] for digest in (expected, other))
        found[path].append(f"{path}: expected {what} {here}, found {there}; build it again")


def wanted_pictures(args: argparse.Namespace) -> list[Path]:
    """Return the files for pictures that there must be: none of a model that sees nothing."""
    if not args.mmproj:
        return []
    config, tensors = read_config(args.checkpoint), read_checkpoint(args.checkpoint)
    return args.mmproj if towers_of(args.checkpoint, config, tensors) else []


def verified(args: argparse.Namespace) -> tuple[Found, set[str]]:
    """Return what is wrong with each file, and the builds of llama.cpp that made the quants."""
    found: Found = {}
    f16 = f16_record(args, found)
    imatrix = whole(args.imatrix, ImatrixRecord, found) if args.imatrix else {}
    if imatrix and f16:
        note_difference(args.imatrix, "an imatrix of the F16 file", f16["sha256"], imatrix["model_sha256"], found)
    quants = {path: record for path in args.quants if (record := whole(path, QuantRecord, found))}
    for path, record in quants.items():
        if f16:
            note_difference(path, "a quant of the F16 file", f16["sha256"], record["source_sha256"], found)
        if record["imatrix_sha256"]:
            note_difference(path, "the imatrix", imatrix.get("sha256"), record["imatrix_sha256"], found)
    by_name = {str(path): record for path, record in quants.items()}
    for error in of_other_builds(by_name):
        found[next(Path(name) for name in by_name if str(error).startswith(f"{name}: "))].append(str(error))
    pictures = {path: record for path in wanted_pictures(args) if (record := whole(path, MmprojRecord, found))}
    for path, record in pictures.items():
        first = next(iter(pictures.values()))
        note_difference(path, "the towers", first["towers_sha256"], record["towers_sha256"], found)
    return found, {record["tools_sha256"] for record in quants.values() if record.get("tools_sha256")}


def unfinished(build: Path, paths: list[Path]) -> list[str]:
    """Return a line for each host that is at work in a build folder, and for what was left of these files."""
    lines = [f"{lock}: expected no host at work, found {holder.in_words()}" for lock, holder in locks_in(build).items()]
    left = sorted({path for output in paths for path in leftovers_of(output)})
    return lines + [f"{path}: expected no half file, found one of a run that was killed; remove it" for path in left]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs").add_argument
    add("--build", type=Path, required=True, help="build folder")
    add("--checkpoint", type=Path, required=True, help="pruned checkpoint")
    add("--f16", type=Path, required=True, help="its F16 file")
    add("--imatrix", type=Path, help="imatrix of that file")
    add("--quants", type=Path, nargs="+", required=True, help="all quants that are wanted")
    add("--mmproj", type=Path, nargs="*", default=[], help="all files for pictures, which a model that sees must have")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    found, builds = verified(args)
    for path, lines in found.items():
        print("\n".join([f"{'FAIL' if lines else 'pass'}  {path}", *(f"      {line}" for line in lines)]))
    others = unfinished(args.build, list(found))
    print("".join(f"FAIL  {line}\n" for line in others), end="")
    failed = [str(path) for path, lines in found.items() if lines]
    if failed or others:
        wrong = f"{plural(len(failed), 'file')} that {'fails' if len(failed) == 1 else 'fail'}"
        raise InputError(args.build, f"{len(found)} whole files of one build, and no host at work", wrong)
    tools = ", ".join(sorted(build[:DIGITS] for build in builds)) or "not recorded"
    print(f"{args.build}: {len(found)} files are whole, of one source and one build of llama.cpp ({tools})")


if __name__ == "__main__":
    run(main)
