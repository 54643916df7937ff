#!/usr/bin/env python3
"""Remove large files that no later step of a run needs; what a release is held against stays as an outline.

Inputs:  GGUF files of this project's (--gguf; with --outlined their headers and routers stay), or a checkpoint
         directory (--checkpoint), of which the weights go. One that is a link goes where it leads to --local alone.
Output:  an outline of the same size that takes next to no disk: of NAME.gguf the file NAME.outline.gguf, of a
         checkpoint the directory --outline. Records (NAME.gguf.json) stay. What has gone already is left alone.
Example: .venv/bin/python scripts/free_disk.py --outlined --gguf build/my-26b/full/f16/my-26b-F16.gguf

`make` calls it with LOW_DISK=yes (make/low_disk.mk), once the last step that needs a file is done.
"""

import argparse
from pathlib import Path

from checkpoints.checkpoint import check_weights_alone
from checkpoints.outline import write_checkpoint_outline
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.input_errors import InputError
from files.json_records import is_file_record, read_json
from files.known_digests import sha256_now
from files.option_types import command_parser
from files.safe_files import gib, remove, run
from files.written_by import check_copied_from
from ggufs.gguf_header import read_header
from ggufs.gguf_outline import outline_path, write_gguf_outline
from quants.quant_record import record_path


def check_of_record(path: Path, outlined: bool) -> None:
    """Raise InputError for a GGUF file that is not the one of its record; one that has gone, but for it, is fine.

    outlined: its header must be one that the outline can keep.
    """
    if not path.exists() and not record_path(path).is_file():
        raise InputError(path, "a GGUF file, or the record of one that has gone", "neither")
    if not path.exists():
        return
    known = read_json(record_path(path))
    if not is_file_record(known) or known["bytes"] != path.stat().st_size:
        raise InputError(path, f"the file of its record {record_path(path).name}", "another", "move it away")
    if outlined:
        read_header(path)
        # What stays is sealed, and stands for the file from now on.
        check_copied_from(record_path(path), ("convert_to_gguf",), outline_path(path))
        if (found := sha256_now(path)) != known["sha256"]:
            raise InputError(path, f"the file of its record, sha256 {known['sha256'][:12]}", found[:12], "move it away")


def free_gguf(path: Path, outlined: bool) -> int:
    """Remove a GGUF file; return its bytes, 0 where it has gone."""
    if not path.exists():
        return 0
    size = path.stat().st_size
    if outlined:
        write_gguf_outline(path)
    remove(path)
    return size


def free_weights(directory: Path, outline: Path, local: bool) -> int:
    """Remove the weights of a checkpoint, once its outline is there; return their bytes, 0 where they have gone.

    local: it is the user's own, so nothing goes where other weights lie beside the model's. Links stay.
    """
    if not directory.is_dir() and not outline.is_dir():
        raise InputError(directory, "a checkpoint, or the outline of one that has gone", "neither")
    # A kill may have left some of the shards. The outline was whole by then.
    shards = sorted(directory.resolve().glob("*.safetensors"))
    if shards and (directory / METADATA_NAME).exists():
        read_metadata(directory / METADATA_NAME)  # else nobody would know the digests of what goes
    if shards and not outline.is_dir():
        if local:
            check_weights_alone(directory.resolve())
        write_checkpoint_outline(directory.resolve(), outline)
    if links := [path for path in shards if path.is_symlink()]:  # as in the Hub's cache: the bytes are elsewhere
        print(f"{directory}: {len(links)} of its {len(shards)} weight files are links, left as they are")
    shards = [path for path in shards if path not in links]
    size = sum(path.stat().st_size for path in shards)
    for path in shards:
        remove(path)
    return size


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("what goes").add_argument
    add("--gguf", type=Path, nargs="+", default=[], help="GGUF files with a record of ours")
    add("--checkpoint", type=Path, help="checkpoint directory whose weights go")
    add("--local", type=Path, help="model of the user's own, which the checkpoint may be a link to")
    add = parser.add_argument_group("what stays").add_argument
    add("--outlined", action="store_true", help="keep headers, routers and small tensors of the GGUF files")
    add("--outline", type=Path, help="directory for the checkpoint's outline")
    args = parser.parse_args(argv)
    if (args.checkpoint is None) != (args.outline is None):
        parser.error("expected --checkpoint and --outline together")
    if args.local and not args.checkpoint:
        parser.error("expected --local with --checkpoint")
    if not args.gguf and not args.checkpoint:
        parser.error("expected --gguf or --checkpoint")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for path in args.gguf:  # all of them before the first one goes
        check_of_record(path, args.outlined)
    if args.local and args.checkpoint.is_symlink() and args.checkpoint.resolve() != args.local.resolve():
        raise InputError(args.checkpoint, f"a link to {args.local}", "one to another model", "remove the link")
    size, left = 0, args.checkpoint and args.checkpoint.is_symlink() and not args.local
    if left:
        print(f"{args.checkpoint}: a local model, left as it is")
    elif args.checkpoint:  # before the files: its outline may be refused
        size += free_weights(args.checkpoint, args.outline, bool(args.local))
    size += sum(free_gguf(path, args.outlined) for path in args.gguf)
    if left and not args.gguf:
        return
    print(f"{(args.gguf or [args.checkpoint])[0]}: {gib(size)} GiB of disk given back")


if __name__ == "__main__":
    run(main)
