"""Dropping experts from a safetensors checkpoint: which bytes stay, how they fill shards, and the check of it.

Experts are the slowest axis of their tensors, so an expert is one run of bytes. Nothing is decoded. Equal inputs give
equal bytes, and no time, host or path is written. ggufs/gguf_drop.py does the same inside a GGUF file.
"""

import json
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from checkpoints.checkpoint import INDEX_NAME, TensorRange, read_checkpoint, read_config, source_digest
from checkpoints.licence import CARD, DIGEST, card_digest
from checkpoints.moe_families import ExpertTensor
from checkpoints.small_files import copy_small_files, small_files
from choice.drop_map import DropMap
from choice.drop_metadata import METADATA_NAME, DropMetadata, metadata_of, read_metadata
from files.byte_ranges import Run, runs_of, same_bytes, write_hashed
from files.input_errors import InputError, read_whole, sha256_file, shown
from files.json_records import read_json
from files.safe_files import directory_when_done, require_disk_space
from files.written_records import write_json, write_record

from tqdm import tqdm

HEADER_ENTRY_BYTES = 200  # more than a tensor's entry takes beside its name
HEADER_ALIGN_BYTES = 8  # so that the tensors of a mapped file start at a multiple of any dtype's size
SHOWN_DIGITS = 12
SHARD_BYTES = 5 << 30  # what the Hub's libraries call 5 GB; the 26B at 109 experts has the card's nine


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the pruned checkpoint: dtype, shape, and the runs of source bytes it is made of."""

    dtype: str
    shape: tuple[int, ...]
    runs: list[Run]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(run.size for run in self.runs)


def plan_tensors(
    tensors: dict[str, TensorRange], experts: dict[str, ExpertTensor], keep: dict[int, list[int]]
) -> dict[str, OutputTensor]:
    """Return the tensors of the pruned checkpoint by name, sorted.

    A tensor with all experts of a layer keeps rows of axis 0; one with a single expert goes, or gets its new number.
    """
    planned: dict[str, OutputTensor] = {}
    for name, tensor in tensors.items():
        place = experts.get(name)
        whole = runs_of(tensor.file, tensor.offset, tensor.size, 1, None)
        if place is None:
            planned[name] = OutputTensor(tensor.dtype, tensor.shape, whole)
        elif place.expert is None:
            kept = keep[place.layer]
            runs = runs_of(tensor.file, tensor.offset, tensor.size, tensor.shape[0], kept)
            planned[name] = OutputTensor(tensor.dtype, (len(kept), *tensor.shape[1:]), runs)
        elif place.expert in keep[place.layer]:
            # Loaders count experts from 0 without a gap. The router's rows move to the same numbers.
            number = keep[place.layer].index(place.expert)
            renamed = name.replace(f".experts.{place.expert}.", f".experts.{number}.")
            planned[renamed] = OutputTensor(tensor.dtype, tensor.shape, whole)
    return dict(sorted(planned.items()))


def pack_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Fill shards of at most `limit` bytes, headers included, one after the other (a larger tensor gets its own)."""
    shards: list[list[str]] = []
    filled = limit + 1  # as if a shard before the first were full
    for name, size in sizes.items():
        size += len(name) + HEADER_ENTRY_BYTES
        if filled + size > limit:
            shards.append([])
            filled = HEADER_ENTRY_BYTES
        shards[-1].append(name)
        filled += size
    return shards


def plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Distribute tensors, in order, over as few shards of at most `limit` bytes as can be, the largest one kept small.

    Shards are written two at once; of equal ones neither waits for the other.
    """
    # A smaller limit never gives fewer shards, so halving finds the smallest limit with the same number.
    count, low = len(pack_shards(sizes, limit)), 0
    while low < limit:
        middle = (low + limit) // 2
        if len(pack_shards(sizes, middle)) <= count:
            limit = middle
        else:
            low = middle + 1
    return pack_shards(sizes, limit)


def shard_header(names: list[str], planned: dict[str, OutputTensor]) -> bytes:
    """Return the header bytes of an output shard, length prefix included, padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # as save_pretrained writes it
    begin = 0
    for name in names:
        tensor = planned[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.size],
        }
        begin += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGN_BYTES)
    return struct.pack("<Q", len(text)) + text


def write_checkpoint(
    source: Path,
    target: Path,
    shard_bytes: int,
    config: dict,
    planned: dict[str, OutputTensor],
    drop_map: DropMap,
    weights_sha256: str,
) -> int:
    """Write the pruned checkpoint directory, its metadata last; return the number of shards.

    config: the pruned one; weights_sha256: of the source. Raises InputError when the disk has too little room.
    """
    total = sum(tensor.size for tensor in planned.values())
    require_disk_space(target.parent, total)
    sizes = {name: tensor.size for name, tensor in planned.items()}
    shards = plan_shards(sizes, shard_bytes)
    # make gives no other size. Where one comes to the same shards it is no other checkpoint.
    by_hand = {} if shards == plan_shards(sizes, SHARD_BYTES) else {"shard_bytes": shard_bytes}
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    with directory_when_done(target, METADATA_NAME) as output, ThreadPoolExecutor(1) as pool:
        # Of all bytes, as the record of the full model's F16 file has it: the digest of the weights takes samples.
        # Taken while the bytes are copied: as far as memory holds them, they are read from the disk once.
        whole = pool.submit(source_digest, source)
        digests = write_shards(output, dict(zip(names, shards)), planned)
        copy_small_files(source, output)
        write_json(output / "config.json", config)
        weight_map = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
        write_json(output / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
        # Last, since a directory that has it counts as complete.
        source_digests = {"config_sha256": sha256_file(source / "config.json"), "weights_sha256": weights_sha256}
        source_digests |= {"source_sha256": whole.result(), DIGEST: card_digest(source)}
        rest = [path for path in sorted(output.rglob("*")) if path.is_file() and path.name not in digests]
        small = {path.relative_to(output).as_posix(): sha256_file(path) for path in rest}
        content = metadata_of(drop_map, source_digests, digests, small) | by_hand
        write_record(output / METADATA_NAME, content, DropMetadata)
    return len(shards)


def write_shards(output: Path, shards: dict[str, list[str]], planned: dict[str, OutputTensor]) -> dict[str, str]:
    """Write shards, given as tensor names by file name; return their hex sha256 by file name."""
    contents: dict[Path, Iterable[bytes | Run]] = {}
    for name, shard in shards.items():
        runs = [run for tensor in shard for run in planned[tensor].runs]
        contents[output / name] = [shard_header(shard, planned), *runs]
    total = sum(tensor.size for tensor in planned.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="copy kept experts") as progress:
        digests = write_hashed(contents, progress.update)
    return {path.name: digest for path, digest in digests.items()}


def verify_files(source: Path, output: Path, planned: dict[str, OutputTensor], found: dict[str, TensorRange]) -> None:
    """Raise InputError unless small files equal the source's, and index and digests fit the shards that are there.

    The card may be another: a release has its own.
    """
    for path in (path for path in small_files(source) if path != source / CARD):
        copy = output / path.relative_to(source)
        if not copy.is_file() or read_whole(copy) != path.read_bytes():
            raise InputError(copy, f"the bytes of {path}", "others" if copy.exists() else "nothing")
    size = sum(tensor.size for tensor in planned.values())
    metadata = read_json(output / INDEX_NAME).get("metadata")
    if metadata != {"total_size": size}:
        raise InputError(output / INDEX_NAME, f"total_size {size}", shown(metadata))
    shards = read_metadata(output / METADATA_NAME)["shards"]
    files = sorted({tensor.file.name for tensor in found.values()})
    if sorted(shards) != files:
        raise InputError(output / METADATA_NAME, f"digests of {', '.join(files)}"[:200], shown(shards))
    for file, digest in shards.items():
        if sha256_file(output / file) != digest:
            raise InputError(output / file, f"sha256 {digest[:SHOWN_DIGITS]}, as {METADATA_NAME} says", "another")


def verify_checkpoint(source: Path, output: Path, config: dict, planned: dict[str, OutputTensor]) -> None:
    """Raise InputError unless a pruned checkpoint holds the planned tensors, byte for byte, and the planned config."""
    found = read_checkpoint(output)
    if read_config(output) != config:
        raise InputError(output / "config.json", "the source's config with the new expert count", "another one")
    for name in sorted({*planned, *found}):
        if name not in found or name not in planned:
            raise InputError(output, f"{name} {'present' if name in planned else 'absent'}", "the opposite")
        if (found[name].dtype, found[name].shape) != (planned[name].dtype, planned[name].shape):
            raise InputError(
                found[name].file,
                f"{name} {planned[name].dtype} {list(planned[name].shape)}",
                f"{found[name].dtype} {list(found[name].shape)}",
            )
        # The bytes themselves are compared: the digests in the metadata say nothing about the source.
        offset = found[name].offset
        for piece in planned[name].runs:
            if not same_bytes(piece, found[name].file, offset):
                raise InputError(found[name].file, f"the source's bytes of {name}", "others")
            offset += piece.size
    verify_files(source, output, planned, found)
