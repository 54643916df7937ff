#!/usr/bin/env python3
"""Drop experts from a checkpoint: a deterministic copy of the byte ranges that stay.

Inputs:  a safetensors checkpoint directory (family: moe_families.py); a drop map (schema: drop_map.py).
Output:  a checkpoint directory: model-0000N-of-0000M.safetensors of at most 5 GB, model.safetensors.index.json,
         config.json with the new expert count, every other small file of the source, and expert_drop_metadata.json
         (keep and drop per layer, method, digests of inputs and of every output shard).
Use:     scripts/expert_drop.py --source DIR --drop-map DROP_MAP.json --output DIR

Experts lie on axis 0 of their tensors, so an expert is one run of bytes: it is copied and never decoded. Equal inputs
give equal bytes; no time, host or path is written. Dropping an expert equals masking its router logit to -inf.
"""

import argparse
import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from checkpoint import INDEX_NAME, TensorRange, read_checkpoint, read_config, weights_digest
from drop_map import DropMap, read_drop_map
from moe_families import Family, expert_tensors, family_of, shape_of, text_config
from safe_files import COPY_BYTES, InputError, directory_when_done, require_disk_space, run, sha256_file, write_json

SHARD_BYTES = 5_000_000_000
METADATA_NAME = "expert_drop_metadata.json"
NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def kept_runs(keep: list[int]) -> Iterator[tuple[int, int]]:
    """Yield [first, last + 1) of each run of consecutive kept experts."""
    first = 0
    for i in range(1, len(keep) + 1):
        if i == len(keep) or keep[i] != keep[i - 1] + 1:
            yield keep[first], keep[i - 1] + 1
            first = i


def kept_ranges(tensor: TensorRange, keep: list[int] | None) -> list[tuple[int, int]]:
    """Return (offset, size) in the source file of what stays of a tensor; `keep` None keeps all of it."""
    if keep is None:
        return [(tensor.offset, tensor.size)]
    row = tensor.size // tensor.shape[0]
    return [(tensor.offset + first * row, (end - first) * row) for first, end in kept_runs(keep)]


def plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Distribute tensors, in order, over shards of at most `limit` bytes of data (a larger tensor gets its own)."""
    shards: list[list[str]] = []
    filled = limit + 1
    for name, size in sizes.items():
        if filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def pruned_config(config: dict, family: Family, keep_count: int) -> dict:
    """Return the config with the new expert count, and top-k lowered only where it exceeds what is left."""
    pruned = json.loads(json.dumps(config))
    text = text_config(pruned)
    text[family.experts_key] = keep_count
    text[family.top_k_key] = min(text[family.top_k_key], keep_count)
    return pruned


def shard_header(names: list[str], tensors: dict[str, TensorRange], sizes: dict[str, int],
                 keep: dict[str, list[int]]) -> bytes:
    """Return the header bytes of an output shard, length prefix included, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        shape = list(tensors[name].shape)
        if name in keep:
            shape[0] = len(keep[name])
        header[name] = {"dtype": tensors[name].dtype, "shape": shape, "data_offsets": [begin, begin + sizes[name]]}
        begin += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_shard(path: Path, names: list[str], tensors: dict[str, TensorRange], keep: dict[str, list[int]],
                header: bytes, progress: tqdm) -> str:
    """Write one shard from byte ranges of the source; return its hex sha256."""
    digest = hashlib.sha256(header)
    buffer = memoryview(bytearray(COPY_BYTES))
    with open(path, "wb") as output:
        output.write(header)
        for name in names:
            with open(tensors[name].file, "rb", buffering=0) as source:
                for offset, size in kept_ranges(tensors[name], keep.get(name)):
                    source.seek(offset)
                    while size:
                        count = source.readinto(buffer[:min(size, COPY_BYTES)])
                        if not count:
                            raise InputError(tensors[name].file, f"the bytes of {name}", "the end of the file")
                        digest.update(buffer[:count])
                        output.write(buffer[:count])
                        progress.update(count)
                        size -= count
    return digest.hexdigest()


def copy_small_files(source: Path, output: Path) -> None:
    """Copy tokenizer, template, generation and processor files; weights, index, config and hidden files stay behind."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in NOT_COPIED:
            if path.name not in (INDEX_NAME, "config.json", METADATA_NAME):
                shutil.copyfile(path, output / path.name)


def check_same_model(drop_map_path: Path, drop_map: DropMap, source: Path, weights_sha256: str) -> None:
    """Raise InputError when the map's digests are those of another checkpoint."""
    for key, actual in (("config_sha256", sha256_file(source / "config.json")), ("weights_sha256", weights_sha256)):
        if key in drop_map.details and drop_map.details[key] != actual:
            raise InputError(drop_map_path, f"the map of {source} ({key} {actual[:12]})",
                             f"that of another model ({drop_map.details[key][:12]})")


def check_places(source: Path, output: Path) -> None:
    """Raise InputError when the output would lie inside the source or hold it."""
    inside, outside = output.resolve(), source.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise InputError(output, f"an output outside the source {source}", "one that overlaps it")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="checkpoint directory of the full model")
    parser.add_argument("--drop-map", type=Path, required=True, help="drop map (JSON)")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="largest shard, in bytes of tensor data")
    return parser.parse_args(argv)


def write_checkpoint(args: argparse.Namespace, config: dict, family: Family, tensors: dict[str, TensorRange],
                     keep: dict[str, list[int]], drop_map: DropMap) -> tuple[int, int]:
    """Write the pruned checkpoint directory; return the number of shards and the bytes of tensor data."""
    sizes = {name: sum(size for _, size in kept_ranges(t, keep.get(name))) for name, t in tensors.items()}
    total = sum(sizes.values())
    require_disk_space(args.output.parent, total)
    shards = plan_shards(sizes, args.shard_bytes)
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    with directory_when_done(args.output, METADATA_NAME) as output, \
            tqdm(total=total, unit="B", unit_scale=True, desc="copy kept experts") as progress:
        digests = {file: write_shard(output / file, shard, tensors, keep, shard_header(shard, tensors, sizes, keep),
                                     progress) for file, shard in zip(names, shards)}
        copy_small_files(args.source, output)
        write_json(output / "config.json", pruned_config(config, family, drop_map.keep_count))
        write_json(output / INDEX_NAME, {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, shard in zip(names, shards) for name in shard}})
        write_json(output / METADATA_NAME, {
            "method": drop_map.details, "experts": len(drop_map.keep[0]) + len(drop_map.drop[0]),
            "keep_count": drop_map.keep_count, "drop_map_sha256": drop_map.sha256,
            "source": {"config_sha256": sha256_file(args.source / "config.json"),
                       "weights_sha256": weights_digest(tensors)},
            "shards": digests,
            "layers": {str(i): {"keep": drop_map.keep[i], "drop": drop_map.drop[i]} for i in drop_map.keep}})
    return len(shards), total


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    config = read_config(args.source)
    check_places(args.source, args.output)
    family = family_of(args.source, config)
    shape = shape_of(args.source, family, config)
    tensors = read_checkpoint(args.source)
    drop_map = read_drop_map(args.drop_map, shape)
    check_same_model(args.drop_map, drop_map, args.source, weights_digest(tensors))
    layer_of = expert_tensors(args.source, family, tensors, shape)
    keep = {name: drop_map.keep[layer] for name, layer in layer_of.items()}
    shards, total = write_checkpoint(args, config, family, tensors, keep, drop_map)
    print(f"{args.output}: {drop_map.keep_count} of {shape.experts} experts in {shape.layers} layers, "
          f"{total / 1e9:.3f} GB in {shards} shard{'s' if shards > 1 else ''}")


if __name__ == "__main__":
    run(main)
