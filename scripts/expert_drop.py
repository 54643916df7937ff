#!/usr/bin/env python3
"""Drop experts from a checkpoint or inside a GGUF file: a deterministic copy of the byte ranges that stay.

Inputs:  a safetensors checkpoint directory (families: checkpoints/moe_families.py), or a GGUF file of any quantisation
         (the first one of a split); a drop map (schema: choice/drop_map.py).
Output:  from a checkpoint, a directory: model-0000N-of-0000M.safetensors of at most 5 GiB, an index, config.json with
         the new expert count, the source's tokenizer and other small files (checkpoints/small_files.py), and
         expert_drop_metadata.json (how the experts were chosen, keep and drop per layer, digests of inputs and of every
         output shard).
         From a GGUF, a GGUF (split as the source is): experts, router rows, per-expert scales and biases sliced,
         expert_count set, nothing decoded; beside it NAME.expert_drop_metadata.json. With --imatrix, that imatrix
         sliced by the same map, too.
Example: .venv/bin/python scripts/expert_drop.py --source data/demo/model \\
             --drop-map build/gemma-4-demo/109e/drop_map.json --output build/try/checkpoint
         .venv/bin/python scripts/expert_drop.py --source build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --drop-map build/gemma-4-demo/109e/drop_map.json --output build/try/pruned-F16.gguf
         Either with --verify checks the output against its source and writes nothing.

Experts are the slowest axis of their tensors, so an expert is one run of bytes: it is copied and never decoded. Equal
inputs give equal bytes; no time, host or path is written. Dropping an expert equals masking its router logit to -inf.
"""

import argparse
from pathlib import Path

from checkpoints.checkpoint import hold_checkpoint, read_checkpoint, read_config, weights_digest
from checkpoints.checkpoint_drop import SHARD_BYTES, plan_tensors, verify_checkpoint, write_checkpoint
from checkpoints.moe_families import expert_tensors, family_of, pruned_config, shape_of
from checkpoints.small_files import left_out_words
from choice.drop_map import check_digests, read_drop_map
from choice.drop_metadata import METADATA_NAME, check_full
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, named_path, positive
from files.safe_files import check_apart, check_replaceable, gib, run
from ggufs.gguf_drop import (
    drop_in_gguf,
    drop_in_imatrix,
    metadata_beside,
    output_paths,
    read_imatrix_header,
    read_model,
    verify_gguf,
    verify_imatrix,
)
from ggufs.gguf_header import read_header

IF_MEANT = "use it with --force if you mean it"


def drop_in_checkpoint(args: argparse.Namespace) -> None:
    """Drop experts from a checkpoint directory, or with --verify check that it was done."""
    config = read_config(args.source)
    check_full(args.source)
    hold_checkpoint(args.source)
    # Before anything else: an output over the source would remove it when it is replaced.
    check_apart([args.source, args.drop_map], [args.output])
    tensors = read_checkpoint(args.source)
    family = family_of(args.source, config, list(tensors))
    shape = shape_of(args.source, family, config)
    experts = expert_tensors(args.source, family, tensors, shape)
    drop_map = read_drop_map(args.drop_map, shape)
    weights_sha256 = weights_digest(tensors)
    if not args.force:
        digests = {"config_sha256": sha256_file(args.source / "config.json"), "weights_sha256": weights_sha256}
        check_digests(args.drop_map, drop_map, args.source, digests, IF_MEANT)
    planned, pruned = plan_tensors(tensors, experts, drop_map.keep), pruned_config(config, family, drop_map.keep_count)
    what = f"{drop_map.keep_count} of {shape.experts} experts in {len(shape.layers)} layers"
    if args.verify:
        verify_checkpoint(args.source, args.output, pruned, planned)
        print(f"{args.output}: {what}, {len(planned)} tensors equal to {args.source}")
        return
    check_replaceable(args.output, METADATA_NAME)
    shards = write_checkpoint(args.source, args.output, args.shard_bytes, pruned, planned, drop_map, weights_sha256)
    total = sum(tensor.size for tensor in planned.values())
    left = left_out_words(args.source)
    print(f"{args.output}: {what}, {gib(total)} GiB in {shards} shard{'s' if shards > 1 else ''}{left}")


def check_no_other_file(output: Path) -> None:
    """Raise InputError where something else than an earlier imatrix lies in the place of one."""
    if output.exists() and read_header(output).value("general.type") != "imatrix":
        raise InputError(output, "nothing, or an earlier imatrix", "another file", "choose another name")


def drop_in_file(args: argparse.Namespace) -> None:
    """Drop experts inside a GGUF file and its imatrix, or with --verify check that it was done.

    A GGUF does not record what checkpoint it was made from, so of a map's digests only the imatrix's can be checked.
    """
    model = read_model(args.source)
    drop_map = read_drop_map(args.drop_map, model.shape)
    outputs = output_paths(args.output, len(model.headers))
    imatrix = read_imatrix_header(args.imatrix, model.shape) if args.imatrix else None
    inputs = [args.drop_map, *(header.path for header in model.headers), *([args.imatrix] if imatrix else [])]
    check_apart(inputs, [*outputs, metadata_beside(outputs[0])] + ([args.imatrix_output] if imatrix else []))
    if args.imatrix_output and not args.verify:
        check_no_other_file(args.imatrix_output)
    if imatrix and not args.force:
        digests = {"imatrix_sha256": sha256_file(args.imatrix)}
        check_digests(args.drop_map, drop_map, args.imatrix, digests, IF_MEANT)
    what = f"{drop_map.keep_count} of {model.shape.experts} experts"
    if args.verify:
        verify_gguf(model, drop_map, outputs)
        print(f"{outputs[0]}: {what}, every tensor equal to {args.source}")
        if imatrix:
            verify_imatrix(imatrix, drop_map, args.imatrix_output)
            print(f"{args.imatrix_output}: imatrix of {what}, every array equal to {args.imatrix}")
        return
    total = drop_in_gguf(model, drop_map, outputs)
    parts = f" in {len(outputs)} files" if len(outputs) > 1 else ""
    print(f"{outputs[0]}: {what} in {len(model.shape.layers)} layers, {gib(total)} GiB{parts}")
    if imatrix:
        count = drop_in_imatrix(imatrix, drop_map, args.imatrix_output)
        print(f"{args.imatrix_output}: imatrix of {what}, {count} arrays sliced")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--source", type=Path, required=True, help="checkpoint directory or GGUF file of the full model")
    add("--drop-map", type=Path, required=True, help="drop map (JSON)")
    add("--output", type=named_path, required=True, help="checkpoint directory or GGUF file to write")
    add = parser.add_argument_group("with a GGUF source").add_argument
    add("--imatrix", type=Path, help="its imatrix (GGUF), to be sliced as well")
    add("--imatrix-output", type=Path, help="where the sliced imatrix goes")
    add = parser.add_argument_group("how it is done").add_argument
    largest = f"largest shard of a checkpoint, in bytes (default {SHARD_BYTES})"
    add("--shard-bytes", type=positive, help=largest)
    add("--force", action="store_true", help="take a map made from other weights of this shape")
    add("--verify", action="store_true", help="check OUTPUT against the source, write nothing")
    args = parser.parse_args(argv)
    if (args.imatrix is None) != (args.imatrix_output is None):
        parser.error("expected --imatrix and --imatrix-output together")
    if args.imatrix and args.source.is_dir():
        parser.error("--imatrix: expected a GGUF source with it")
    if args.source.is_file() and (args.shard_bytes or args.force and not args.imatrix):
        parser.error(
            "--shard-bytes, or --force without --imatrix: expected a checkpoint, since a GGUF has no use for it"
        )
    args.shard_bytes = args.shard_bytes or SHARD_BYTES
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.source.is_file():
        drop_in_file(args)
    else:
        drop_in_checkpoint(args)


if __name__ == "__main__":
    run(main)
