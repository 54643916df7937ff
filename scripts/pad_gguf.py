#!/usr/bin/env python3
"""Pad the MLPs of a float GGUF file with zeros to widths that are multiples of 256, so that the smaller types fit.

Inputs:  an F16, BF16 or F32 GGUF file in one part; with --imatrix, its imatrix.
Output:  the padded GGUF and, beside it, FILE.json (digests, widths); the imatrix padded to match, with its record.
Example: .venv/bin/python scripts/pad_gguf.py --input build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --output build/try/padded-F16.gguf
         .venv/bin/python scripts/pad_gguf.py --undo --input build/try/padded-F16.gguf --output build/try/F16.gguf

With --undo the bytes are those before the padding; with --verify the output is compared and nothing is written. Which
MLPs can be padded, and why that changes no result: ggufs/gguf_padding.py. quantize_gguf.py pads by itself for the PAD-*
and AUTO-* quants that want it.
"""

import argparse
from pathlib import Path

from files.input_errors import InputError, sha256_file
from files.json_records import FileRecord
from files.known_digests import known_sha256
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, gib, replace_when_done, require_disk_space, run
from files.written_by import check_copied_from
from files.written_records import check_recorded, write_record
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.gguf_padding import (
    DENSE,
    EXPERTS,
    Change,
    PaddingRecord,
    Width,
    changes_of,
    check_plain,
    imatrix_changes,
    new_bytes,
    padding_widths,
    undoing_widths,
    verify_padded,
    write_padded,
)
from ggufs.imatrix import WRITE_IMATRIX_RECORDS, ImatrixRecord, read_imatrix, read_imatrix_record


def open_model_to_pad(args: argparse.Namespace) -> tuple[GgufHeader, dict[str, Width]]:
    """Return the header of the source and the widths to change; raise InputError where there is nothing to do."""
    header = read_header(args.input)
    if (parts := header.value("split.count") or 1) > 1:
        raise InputError(args.input, "a model in one file", f"{parts} files", "join them with llama-gguf-split --merge")
    check_plain(header)
    widths = undoing_widths(header) if args.undo else padding_widths(header, tuple(args.roles or (EXPERTS, DENSE)))
    if not widths:
        expected = "a padded model" if args.undo else "a width that is no multiple of 256"
        raise InputError(args.input, expected, "none", "it needs no padding" if not args.undo else "")
    return header, widths


def write_with_record(
    header: GgufHeader,
    widths: dict[str, Width],
    changes: dict[str, Change],
    output: Path,
    record: dict,
    kind: type[FileRecord],
) -> str:
    """Write one file and its record; return its sha256."""
    require_disk_space(output.parent, new_bytes(header, changes))
    with replace_when_done(output) as partial:
        write_padded(header, widths, changes, partial)
        digest = sha256_file(partial)
        # The record comes first: a kill between the two leaves no file without one.
        content = {**record, "bytes": partial.stat().st_size, "sha256": digest}
        write_record(Path(f"{output}.json"), content, kind)
    return digest


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--input", type=Path, required=True, help="unquantised GGUF file")
    add("--output", type=named_path, required=True, help="GGUF file to write")
    add("--imatrix", type=Path, help="its imatrix, to be padded as well")
    add("--imatrix-output", type=Path, help="where the padded imatrix goes")
    add = parser.add_argument_group("how it is done").add_argument
    add("--roles", nargs="+", choices=(EXPERTS, DENSE), help="MLPs to pad (default: both)")
    add("--undo", action="store_true", help="give back the bytes before the padding")
    add("--verify", action="store_true", help="compare OUTPUT with what would be written, write nothing")
    args = parser.parse_args(argv)
    if (args.imatrix is None) != (args.imatrix_output is None):
        parser.error("expected --imatrix and --imatrix-output together")
    if args.undo and args.roles:
        parser.error("expected --undo without --roles: it undoes all padding of the file")
    return args


def check_places(args: argparse.Namespace) -> None:
    """Raise InputError when an output would overwrite an input, or something that is not ours."""
    outputs = [path for path in (args.output, args.imatrix_output) if path]
    inputs = [path for path in (args.input, args.imatrix) if path]
    check_apart(inputs, [*outputs, *(Path(f"{path}.json") for path in outputs)])
    check_recorded(args.output, "an earlier file of pad_gguf.py", lambda record: "widths" in record)
    if args.imatrix:
        check_recorded(args.imatrix_output, "an earlier imatrix", lambda record: "model_sha256" in record)


def imatrix_record(imatrix: Path, source_sha256: str, output: Path) -> dict:
    """Return the record of an imatrix; raise InputError when it has none, is of another model, or was edited.

    The last is asked where the output's record gets a seal, as quantize_gguf.py does.
    """
    known = read_imatrix_record(imatrix)
    check_copied_from(Path(f"{imatrix}.json"), WRITE_IMATRIX_RECORDS, output)
    if known["model_sha256"] != source_sha256:
        found = known["model_sha256"][:12]
        raise InputError(imatrix, f"an imatrix of the model with sha256 {source_sha256[:12]}", f"one of {found}")
    return known


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    header, widths = open_model_to_pad(args)
    changes = changes_of(header, widths)
    matrix = read_header(read_imatrix(args.imatrix).path) if args.imatrix else None
    of_matrix = imatrix_changes(header, matrix, widths) if matrix else {}
    what = ", ".join(f"{role} {width.now} -> {width.then}" for role, width in widths.items())
    if args.verify:
        for path in [path for path in (args.output, args.imatrix_output) if path]:
            if not path.is_file():
                raise InputError(path, "a file to compare", "nothing", "write it first, without --verify")
        verify_padded(header, widths, changes, args.output)
        if matrix:
            verify_padded(matrix, {}, of_matrix, args.imatrix_output)
        print(f"{args.output}: {what}, every byte as it should be")
        return
    check_places(args)
    source_sha256 = known_sha256(args.input)
    known = imatrix_record(args.imatrix, source_sha256, args.imatrix_output) if matrix else {}
    record = {
        "source_sha256": source_sha256,
        "widths": {role: [width.now, width.then] for role, width in widths.items()},
    }
    digest = write_with_record(header, widths, changes, args.output, record, PaddingRecord)
    if matrix:
        record = {**known, "model_sha256": digest}
        write_with_record(matrix, {}, of_matrix, args.imatrix_output, record, ImatrixRecord)
    print(f"{args.output}: {what}, {gib(args.output.stat().st_size)} GiB")


if __name__ == "__main__":
    run(main)
