"""The outline of a checkpoint: its small files, and of each shard the header and the samples of `weights_digest`."""

from pathlib import Path

from checkpoints.checkpoint import (
    INDEX_NAME,
    SAMPLE_BYTES,
    SAMPLE_EVERY_BYTES,
    SINGLE_NAME,
    SMALL_TENSOR_BYTES,
    TensorRange,
    read_checkpoint,
    read_files,
    weights_digest,
)
from checkpoints.small_files import check_lies_in
from files.input_errors import InputError
from files.outlines import Range, write_outline
from files.safe_files import copy_file, directory_when_done


def sampled(tensor: TensorRange) -> list[Range]:
    """Return the ranges of a tensor that its digest is made of."""
    if tensor.size <= SMALL_TENSOR_BYTES:
        return [(tensor.offset, tensor.size)]
    places = range(0, tensor.size, SAMPLE_EVERY_BYTES)
    return [(tensor.offset + first, min(SAMPLE_BYTES, tensor.size - first)) for first in places]


def write_checkpoint_outline(source: Path, output: Path) -> None:
    """Write the outline of a checkpoint directory; raise InputError when its digest is not that of the checkpoint."""
    tensors = read_checkpoint(source)
    shards = sorted({tensor.file for tensor in tensors.values()})
    marker = INDEX_NAME if (source / INDEX_NAME).exists() else SINGLE_NAME
    with directory_when_done(output, marker) as partial:
        for name, path in read_files(source):
            if path not in shards:
                check_lies_in(source, path)
                (partial / name).parent.mkdir(exist_ok=True)
                copy_file(path, partial / name)
        for shard in shards:
            own = [tensor for tensor in tensors.values() if tensor.file == shard]
            header = (0, min((tensor.offset for tensor in own), default=shard.stat().st_size))
            write_outline(shard, [header, *(part for tensor in own for part in sampled(tensor))], partial / shard.name)
        if (found := weights_digest(read_checkpoint(partial))) != (wanted := weights_digest(tensors)):
            raise InputError(output, f"an outline with the digest {wanted[:12]}", found[:12])
