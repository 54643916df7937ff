#!/usr/bin/env python3
"""Drop experts from a checkpoint or inside a GGUF file: a deterministic copy of the byte ranges that stay.

Inputs:  a safetensors checkpoint directory (family: moe_families.py), or a GGUF file of any quantisation (the first
         one of a split); a drop map (schema: drop_map.py).
Output:  from a checkpoint, a directory: model-0000N-of-0000M.safetensors of at most 5 GB, model.safetensors.index.json,
         config.json with the new expert count, every other small file of the source, and expert_drop_metadata.json
         (keep and drop per layer, method, digests of inputs and of every output shard).
         From a GGUF, a GGUF (split as the source is): experts, router rows, per-expert scales and biases sliced,
         expert_count set, nothing decoded. With --imatrix, that imatrix sliced by the same map, too.
Use:     scripts/expert_drop.py --source DIR --drop-map DROP_MAP.json --output DIR
         scripts/expert_drop.py --source FULL.gguf --drop-map DROP_MAP.json --output PRUNED.gguf
         scripts/expert_drop.py ... --verify        check an output against its source, write nothing

Experts are the slowest axis of their tensors, so an expert is one run of bytes: it is copied and never decoded. Equal
inputs give equal bytes; no time, host or path is written. Dropping an expert equals masking its router logit to -inf.
"""

import argparse
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from files.byte_ranges import Run, runs_of, same_bytes, write_hashed
from checkpoints.checkpoint import INDEX_NAME, TensorRange, read_checkpoint, read_config, weights_digest
from choice.drop_map import DropMap, read_drop_map
from ggufs.gguf_drop import (drop_in_gguf, drop_in_imatrix, output_paths, read_imatrix_header, read_model, verify_gguf,
                       verify_imatrix)
from checkpoints.moe_families import ExpertTensor, Family, expert_tensors, family_of, shape_of, text_config
from files.option_types import positive
from files.safe_files import (InputError, check_apart, check_replaceable, directory_when_done, read_json, require_disk_space,
                        run, sha256_file, write_json)

SHARD_BYTES = 5_000_000_000
HEADER_ENTRY_BYTES = 200  # more than a tensor's entry takes beside its name
METADATA_NAME = "expert_drop_metadata.json"
TEMPLATES_NAME = "additional_chat_templates"
NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the pruned checkpoint: dtype, shape, and the runs of source bytes it is made of."""

    dtype: str
    shape: tuple[int, ...]
    runs: list[Run]

    @property
    def size(self) -> int:
        return sum(run.size for run in self.runs)


def plan_tensors(tensors: dict[str, TensorRange], experts: dict[str, ExpertTensor],
                 keep: dict[int, list[int]]) -> dict[str, OutputTensor]:
    """Return the tensors of the pruned checkpoint by name, sorted.

    A tensor with all experts of a layer keeps rows of axis 0; one with a single expert goes, or gets its new number.
    """
    planned: dict[str, OutputTensor] = {}
    for name, tensor in tensors.items():
        place = experts.get(name)
        if place is None or place.expert is None:
            kept = None if place is None else keep[place.layer]
            shape = tensor.shape if kept is None else (len(kept), *tensor.shape[1:])
            planned[name] = OutputTensor(tensor.dtype, shape, runs_of(
                tensor.file, tensor.offset, tensor.size, tensor.shape[0] if kept else 1, kept))
        elif place.expert in keep[place.layer]:
            number = keep[place.layer].index(place.expert)
            renamed = name.replace(f".experts.{place.expert}.", f".experts.{number}.")
            planned[renamed] = OutputTensor(tensor.dtype, tensor.shape, runs_of(tensor.file, tensor.offset, tensor.size, 1, None))
    return dict(sorted(planned.items()))


def pack_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Fill shards of at most `limit` bytes, headers included, one after the other (a larger tensor gets its own)."""
    shards: list[list[str]] = []
    filled = limit + 1
    for name, size in sizes.items():
        size += len(name) + HEADER_ENTRY_BYTES
        if filled + size > limit:
            shards.append([])
            filled = HEADER_ENTRY_BYTES
        shards[-1].append(name)
        filled += size
    return shards


def plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Distribute tensors, in order, over as few shards of at most `limit` bytes as it takes, the largest as small as can be.

    Shards are written two at once; of equal ones neither waits for the other.
    """
    count, low = len(pack_shards(sizes, limit)), 0
    while low < limit:
        middle = (low + limit) // 2
        if len(pack_shards(sizes, middle)) <= count:
            limit = middle
        else:
            low = middle + 1
    return pack_shards(sizes, limit)


def pruned_config(config: dict, family: Family, keep_count: int) -> dict:
    """Return the config with the new expert count."""
    pruned = json.loads(json.dumps(config))
    text = text_config(pruned)
    text |= {key: keep_count for key in family.experts_keys if key in text}
    return pruned


def shard_header(names: list[str], planned: dict[str, OutputTensor]) -> bytes:
    """Return the header bytes of an output shard, length prefix included, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        tensor = planned[name]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, begin + tensor.size]}
        begin += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def small_files(source: Path) -> list[Path]:
    """Return tokenizer, templates, generation and processor files; weights, indexes, config and hidden files stay behind."""
    files = [path for path in sorted(source.iterdir()) if path.is_file() and path.suffix not in NOT_COPIED
             and not path.name.startswith(".") and path.name not in ("config.json", METADATA_NAME)
             and not path.name.endswith(".index.json")]
    return files + [path for path in sorted((source / TEMPLATES_NAME).rglob("*")) if path.is_file()]


def copy_small_files(source: Path, output: Path) -> None:
    """Copy the small files of a checkpoint into another."""
    for path in small_files(source):
        target = output / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def check_digests(drop_map_path: Path, drop_map: DropMap, source: Path, digests: dict[str, str]) -> None:
    """Raise InputError when a digest that the map records is not that of `source`."""
    for key, actual in digests.items():
        if key in drop_map.details and drop_map.details[key] != actual:
            raise InputError(drop_map_path, f"the map of {source} ({key} {actual[:12]})",
                             f"that of another model ({str(drop_map.details[key])[:12]})",
                             "--force takes it, if layers and experts agree")


def write_checkpoint(args: argparse.Namespace, config: dict, family: Family, planned: dict[str, OutputTensor],
                     drop_map: DropMap, weights_sha256: str) -> int:
    """Write the pruned checkpoint directory; return the number of shards."""
    total = sum(tensor.size for tensor in planned.values())
    require_disk_space(args.output.parent, total)
    shards = plan_shards({name: tensor.size for name, tensor in planned.items()}, args.shard_bytes)
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    with directory_when_done(args.output, METADATA_NAME) as output, \
            tqdm(total=total, unit="B", unit_scale=True, desc="copy kept experts") as progress:
        digests = write_hashed({output / file: [shard_header(shard, planned), *(
            run for name in shard for run in planned[name].runs)] for file, shard in zip(files, shards)}, progress.update)
        copy_small_files(args.source, output)
        write_json(output / "config.json", pruned_config(config, family, drop_map.keep_count))
        write_json(output / INDEX_NAME, {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, shard in zip(files, shards) for name in shard}})
        write_json(output / METADATA_NAME, {
            "method": drop_map.details, "experts": drop_map.experts, "keep_count": drop_map.keep_count,
            "drop_map_sha256": drop_map.sha256,
            "source": {"config_sha256": sha256_file(args.source / "config.json"), "weights_sha256": weights_sha256},
            "shards": {file: digests[output / file] for file in files},
            "layers": {str(i): {"keep": drop_map.keep[i], "drop": drop_map.drop[i]} for i in drop_map.keep}})
    return len(shards)


def verify_files(source: Path, output: Path, planned: dict[str, OutputTensor], found: dict[str, TensorRange]) -> None:
    """Raise InputError unless the files beside the weights are the source's and the index and digests are the shards'."""
    for path in small_files(source):
        copy = output / path.relative_to(source)
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            raise InputError(copy, f"the bytes of {path}", "others" if copy.exists() else "nothing")
    size = sum(tensor.size for tensor in planned.values())
    if read_json(output / INDEX_NAME).get("metadata") != {"total_size": size}:
        raise InputError(output / INDEX_NAME, f"total_size {size}", str(read_json(output / INDEX_NAME).get("metadata"))[:80])
    shards = read_json(output / METADATA_NAME).get("shards")
    files = sorted({tensor.file.name for tensor in found.values()})
    if not isinstance(shards, dict) or sorted(shards) != files:
        raise InputError(output / METADATA_NAME, f"digests of {', '.join(files)}"[:200], repr(shards)[:80])
    for file, digest in shards.items():
        if sha256_file(output / file) != digest:
            raise InputError(output / file, f"sha256 {str(digest)[:12]}, as {METADATA_NAME} says", "another")


def verify_checkpoint(source: Path, output: Path, config: dict, planned: dict[str, OutputTensor]) -> None:
    """Raise InputError unless a pruned checkpoint holds the planned tensors, byte for byte, and the planned config."""
    found = read_checkpoint(output)
    if read_config(output) != config:
        raise InputError(output / "config.json", "the source's config with the new expert count", "another one")
    for name in sorted({*planned, *found}):
        if name not in found or name not in planned:
            raise InputError(output, f"{name} {'present' if name in planned else 'absent'}", "the opposite")
        if (found[name].dtype, found[name].shape) != (planned[name].dtype, planned[name].shape):
            raise InputError(found[name].file, f"{name} {planned[name].dtype} {list(planned[name].shape)}",
                             f"{found[name].dtype} {list(found[name].shape)}")
        offset = found[name].offset
        for piece in planned[name].runs:
            if not same_bytes(piece, found[name].file, offset):
                raise InputError(found[name].file, f"the source's bytes of {name}", "others")
            offset += piece.size
    verify_files(source, output, planned, found)


def drop_in_checkpoint(args: argparse.Namespace) -> None:
    """Drop experts from a checkpoint directory, or with --verify check that it was done."""
    config = read_config(args.source)
    check_apart([args.source, args.drop_map], [args.output])
    tensors = read_checkpoint(args.source)
    family = family_of(args.source, config, list(tensors))
    shape = shape_of(args.source, family, config)
    experts = expert_tensors(args.source, family, tensors, shape)
    drop_map = read_drop_map(args.drop_map, shape)
    weights_sha256 = weights_digest(tensors)
    if not args.force:
        check_digests(args.drop_map, drop_map, args.source, {
            "config_sha256": sha256_file(args.source / "config.json"), "weights_sha256": weights_sha256})
    planned = plan_tensors(tensors, experts, drop_map.keep)
    what = f"{drop_map.keep_count} of {shape.experts} experts in {len(shape.layers)} layers"
    if args.verify:
        verify_checkpoint(args.source, args.output, pruned_config(config, family, drop_map.keep_count), planned)
        print(f"{args.output}: {what}, {len(planned)} tensors equal to {args.source}")
        return
    check_replaceable(args.output, METADATA_NAME)
    shards = write_checkpoint(args, config, family, planned, drop_map, weights_sha256)
    total = sum(tensor.size for tensor in planned.values())
    print(f"{args.output}: {what}, {total / 1e9:.3f} GB in {shards} shard{'s' if shards > 1 else ''}")


def drop_in_file(args: argparse.Namespace) -> None:
    """Drop experts inside a GGUF file and its imatrix, or with --verify check that it was done.

    A GGUF does not say what checkpoint it was made from, so of a map's digests only the imatrix's can be checked.
    """
    model = read_model(args.source)
    drop_map = read_drop_map(args.drop_map, model.shape)
    outputs = output_paths(args.output, len(model.headers))
    imatrix = read_imatrix_header(args.imatrix, model.shape) if args.imatrix else None
    check_apart([header.path for header in model.headers] + [args.drop_map] + ([args.imatrix] if imatrix else []),
                outputs + ([args.imatrix_output] if imatrix else []))
    if imatrix and not args.force:
        check_digests(args.drop_map, drop_map, args.imatrix, {"imatrix_sha256": sha256_file(args.imatrix)})
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
    print(f"{outputs[0]}: {what} in {len(model.shape.layers)} layers, {total / 2**30:.3f} GiB{parts}")
    if imatrix:
        count = drop_in_imatrix(imatrix, drop_map, args.imatrix_output)
        print(f"{args.imatrix_output}: imatrix of {what}, {count} arrays sliced")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="checkpoint directory or GGUF file of the full model")
    parser.add_argument("--drop-map", type=Path, required=True, help="drop map (JSON)")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory or GGUF file to write")
    parser.add_argument("--imatrix", type=Path, help="with a GGUF source: its imatrix (GGUF), to be sliced as well")
    parser.add_argument("--imatrix-output", type=Path, help="where the sliced imatrix goes")
    parser.add_argument("--shard-bytes", type=positive, help=f"largest shard of a checkpoint, in bytes (default {SHARD_BYTES})")
    parser.add_argument("--force", action="store_true", help="take a map made from other weights of this shape")
    parser.add_argument("--verify", action="store_true", help="check OUTPUT against the source, write nothing")
    args = parser.parse_args(argv)
    if (args.imatrix is None) != (args.imatrix_output is None):
        parser.error("expected --imatrix and --imatrix-output together")
    if args.imatrix and args.source.is_dir():
        parser.error("--imatrix: expected a GGUF source with it")
    if args.source.is_file() and (args.shard_bytes or args.force and not args.imatrix):
        parser.error("--shard-bytes, or --force without --imatrix: expected a checkpoint with it; a GGUF has no use for it")
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
