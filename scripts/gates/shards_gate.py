"""The gate on a published checkpoint's shards: their digests, their headers to the byte, and the index of them."""

from pathlib import Path

from checkpoints.checkpoint import INDEX_NAME, TensorRange, read_checkpoint, read_config, read_shard
from checkpoints.checkpoint_drop import OutputTensor, plan_tensors, shard_header
from checkpoints.moe_families import expert_tensors, family_of, shape_of
from choice.drop_metadata import METADATA_NAME
from files.byte_ranges import Run
from files.input_errors import InputError
from files.json_records import read_json
from release.manifest import BUILD_AGAIN
from release.sources import read_evidence

Shards = dict[str, dict[str, TensorRange]]  # tensors by name, by file name


def header_breaks_of(path: Path, tensors: dict[str, TensorRange]) -> list[InputError]:
    """A shard's header is the one that the drop writes of its tensors: no text of anybody else is in it."""
    planned = {
        name: OutputTensor(tensor.dtype, tensor.shape, [Run(path, tensor.offset, tensor.size)])
        for name, tensor in tensors.items()
    }
    wanted = shard_header(sorted(tensors), planned)
    with open(path, "rb") as file:
        found = file.read(len(wanted))
    return [] if found == wanted else [InputError(path, "the header that the drop writes", "another", BUILD_AGAIN)]


def index_breaks(folder: Path, shards: Shards) -> list[InputError]:
    """The index names the file of each tensor and the size of all, as the shards' headers have them, and no more."""
    total = sum(tensor.size for tensors in shards.values() for tensor in tensors.values())
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    if read_json(folder / INDEX_NAME) == {"metadata": {"total_size": total}, "weight_map": weight_map}:
        return []
    return [InputError(folder / INDEX_NAME, f"total_size {total} and the shards' tensors", "others", BUILD_AGAIN)]


def tensor_breaks(folder: Path, shards: Shards, source: Path | None, metadata: dict) -> list[InputError]:
    """Names, dtypes and shapes are those of the full model without the dropped experts; source: its checkpoint."""
    if source is None or not source.is_dir():
        return []
    config, tensors = read_config(source), read_checkpoint(source)
    family = family_of(source, config, list(tensors))
    keep = {int(layer): entry["keep"] for layer, entry in metadata["layers"].items()}
    experts = expert_tensors(source, family, tensors, shape_of(source, family, config))
    planned = {name: (each.dtype, each.shape) for name, each in plan_tensors(tensors, experts, keep).items()}
    found = {name: (each.dtype, each.shape) for shard in shards.values() for name, each in shard.items()}
    if planned == found:
        return []
    return [InputError(folder, "the full model's tensors without the dropped experts", "others", BUILD_AGAIN)]


def shard_breaks(folder: Path, digests: dict[str, str], source: Path | None) -> list[InputError]:
    """Return every way in which the shards are not those of the metadata; digests: as the manifest has them."""
    path = folder / METADATA_NAME
    metadata = read_evidence(path, METADATA_NAME)
    if digests != metadata["shards"]:
        return [InputError(path, f"the digests of {', '.join(sorted(digests))}", "others")]
    shards = {name: read_shard(folder / name) for name in sorted(digests)}
    found = [error for name, tensors in shards.items() for error in header_breaks_of(folder / name, tensors)]
    return found + index_breaks(folder, shards) + tensor_breaks(folder, shards, source, metadata)
