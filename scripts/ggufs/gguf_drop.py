"""Dropping experts inside GGUF files: slices of bytes, whatever the quantisation.

llama.cpp names tensors alike in all families, and the expert axis is the slowest, so one expert is one run of bytes:
the experts' weights, scales and biases (ffn_*_exps), the router's rows (ffn_gate_inp) and its bias (exp_probs_b).
An imatrix holds for each expert tensor the sums of squared activations and the token counts per expert, sliced alike.

The tensors equal those of pruning before converting and quantising, with one exception: llama-quantize types attention
otherwise in models of exactly 8 experts (Mixtral). So a drop from or to 8 keeps types that it would not choose.
Names: gguf-py's constants, https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

import re
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from choice.drop_map import DropMap, Shape
from choice.drop_metadata import METADATA_NAME, DropMetadata, metadata_of, read_metadata
from files.byte_ranges import Run, runs_of, same_bytes, write_runs
from files.input_errors import InputError, sha256_file
from files.safe_files import flush_to_disk, replace_when_done, require_disk_space
from files.written_records import write_record
from ggufs.gguf_header import (
    EXPERT_TENSOR,
    PART_ENDING,
    UINT32,
    GgufHeader,
    TensorInfo,
    aligned,
    header_bytes,
    read_header,
    split_paths,
)

from tqdm import tqdm

# Biases and scales of experts come with weights; a layer has experts only if it has these.
ROUTED_WEIGHTS = re.compile(r"blk\.(\d+)\.ffn_\w*_exps\.weight")
IMATRIX_TENSOR = re.compile(r"blk\.(\d+)\.ffn_\w*_exps\.weight\.(?:in_sum2|counts)")
# One tensor per expert (files of 2023), or unknown ones: to copy them unchanged would leave a broken model.
LOOKS_ALIKE = re.compile(r"blk\.\d+\.(?:ffn_\w+\.\d+\.weight|\w*exps?\b.*)")


@dataclass(frozen=True)
class GgufModel:
    """The files of a GGUF model and its mixture-of-experts shape."""

    headers: list[GgufHeader]
    count_key: str
    shape: Shape


def read_model(path: Path) -> GgufModel:
    """Read the headers of a GGUF model, split or not.

    Raises InputError when it has no experts, when routing is by groups of experts, when experts are stored in a way not
    known here, or when a tensor has another number of experts than the header says.
    """
    headers = [read_header(part) for part in split_paths(path)]
    architecture = headers[0].value("general.architecture")
    key = f"{architecture}.expert_count"
    experts, top_k = headers[0].value(key), headers[0].value(f"{architecture}.expert_used_count")
    if not isinstance(experts, int) or not isinstance(top_k, int) or experts < 2:
        raise InputError(path, f"a mixture-of-experts model ({key})", repr(experts))
    groups = headers[0].value(f"{architecture}.expert_group_count") or 1
    if groups != 1:
        raise InputError(
            path, "routing over single experts", "routing by groups of experts", "dropping would break the groups"
        )
    layers = set()
    for header in headers:
        for tensor in header.tensors:
            layers |= _check_tensor(header.path, tensor, experts)
    if not layers:
        raise InputError(path, "tensors named blk.N.ffn_*_exps.weight", "none")
    for name in (tensor.name for header in headers for tensor in header.tensors):
        if layer_of(name, EXPERT_TENSOR) not in (None, *layers):
            raise InputError(path, f"expert weights in the layer of {name}", "none")
    check_whole_layers(path, {tensor.name for header in headers for tensor in header.tensors}, sorted(layers))
    return GgufModel(headers, key, Shape(experts, top_k, tuple(sorted(layers))))


def check_whole_layers(path: Path, names: set[str], layers: list[int]) -> None:
    """Raise InputError for a layer that lacks weights of experts that another one has, or a router."""
    kinds = {match[0].partition(match[1])[2] for name in names if (match := ROUTED_WEIGHTS.fullmatch(name))}
    for layer in layers:
        for kind in sorted({*kinds, ".ffn_gate_inp.weight"}):
            if (name := f"blk.{layer}{kind}") not in names:
                raise InputError(path, f"{name}, as layers with experts have", "no such tensor")


def _check_tensor(path: Path, tensor: TensorInfo, experts: int) -> set[int]:
    """Return the layer of a tensor with experts' weights, as a set; refuse one that does not fit."""
    if match := EXPERT_TENSOR.fullmatch(tensor.name):
        if tensor.dims[-1:] != (experts,) or ROUTED_WEIGHTS.fullmatch(tensor.name) and len(tensor.dims) < 3:
            raise InputError(path, f"{experts} experts in {tensor.name}", f"dimensions {list(tensor.dims)}")
        return {int(match[1])} if ROUTED_WEIGHTS.fullmatch(tensor.name) else set()
    if LOOKS_ALIKE.fullmatch(tensor.name) and "shexp" not in tensor.name and "ffn_norm_exps" not in tensor.name:
        raise InputError(path, "experts in tensors named blk.N.ffn_*_exps", tensor.name)
    return set()


def layer_of(name: str, pattern: re.Pattern[str]) -> int | None:
    """Return the layer of a tensor that `pattern` takes for one with experts, else None."""
    match = pattern.fullmatch(name)
    return int(match[1]) if match else None


def sliced(
    header: GgufHeader, pattern: re.Pattern[str], keep: dict[int, list[int]]
) -> list[tuple[TensorInfo, tuple[int, ...], list[Run]]]:
    """Return each tensor of a file with its new dims and the runs that stay of it."""
    result = []
    for tensor in header.tensors:
        layer = layer_of(tensor.name, pattern)
        kept = None if layer is None else keep[layer]
        experts = 1 if layer is None else tensor.dims[-1]
        # Experts are the slowest axis, which GGUF names last: an expert's bytes (the size by
        # the number of experts, in `runs_of`) are one run, and nothing is decoded.
        dims = tensor.dims if kept is None else (*tensor.dims[:-1], len(kept))
        result.append((tensor, dims, runs_of(header.path, tensor.offset, tensor.size, experts, kept)))
    return result


def key_value_bytes(header: GgufHeader, changes: dict[str, int]) -> list[bytes]:
    """Return the key-values of a file as bytes, with the uint32 values of `changes` replaced."""
    pairs = []
    for pair in header.key_values:
        if pair.key in changes:
            if pair.kind != UINT32:
                raise InputError(header.path, f"{pair.key} as uint32", f"type {pair.kind}")
            # In place and of the same width, so the rest of the header stays as it is, to the byte.
            pairs.append(pair.raw[: pair.value_at] + struct.pack("<I", changes[pair.key]))
        else:
            pairs.append(pair.raw)
    return pairs


def write_pruned(
    header: GgufHeader,
    output: Path,
    pattern: re.Pattern[str],
    keep: dict[int, list[int]],
    changes: dict[str, int],
    progress: tqdm,
) -> None:
    """Write one GGUF file with the kept experts only."""
    tensors = sliced(header, pattern, keep)
    pieces: list[bytes | Run] = [
        header_bytes(header, key_value_bytes(header, changes), [(t.name, dims, t.kind) for t, dims, _ in tensors])
    ]
    for _, _, runs in tensors:
        size = sum(run.size for run in runs)
        # llama.cpp refuses a tensor that is not at the aligned end of the one before.
        pieces += [*runs, bytes(aligned(size, header.alignment) - size)]
    write_runs(output, pieces, progress.update)


def output_paths(output: Path, count: int) -> list[Path]:
    """Return the names of the files to write: one, or `count` of a split in llama.cpp's naming."""
    if output.suffix != ".gguf":
        raise InputError(output, "a name that ends in .gguf", repr(output.suffix))
    if count == 1:
        return [output]
    match = PART_ENDING.search(output.name)
    stem = output.name[: match.start()] if match else output.stem
    return [output.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def metadata_beside(output: Path) -> Path:
    """Return where the record of a pruned GGUF lies: beside its (first) file, under the file's name."""
    match = PART_ENDING.search(output.name)
    return output.with_name(f"{output.name[: match.start()] if match else output.stem}.{METADATA_NAME}")


def drop_in_gguf(model: GgufModel, drop_map: DropMap, outputs: list[Path]) -> int:
    """Write the pruned GGUF and its record; return its bytes of tensors.

    The record, and the file of a split that loaders open, are absent meanwhile. The record has the digest of the
    output, so that an evaluation of it can show which map it was pruned by.
    """
    cuts = [cut for header in model.headers for cut in sliced(header, EXPERT_TENSOR, drop_map.keep)]
    total = sum(run.size for _, _, runs in cuts for run in runs)
    require_disk_space(outputs[0].parent, total)
    changes, digests = {model.count_key: drop_map.keep_count}, dict[str, str]()
    # An older record would vouch for a file that is half new, should this run be killed.
    metadata_beside(outputs[0]).unlink(missing_ok=True)
    with tqdm(total=total, unit="B", unit_scale=True, desc="copy kept experts") as progress, ExitStack() as renames:
        # The stack renames in reverse order, the first file last: until then a loader finds no model.
        for header, path in zip(model.headers, outputs):
            partial = renames.enter_context(replace_when_done(path))
            write_pruned(header, partial, EXPERT_TENSOR, drop_map.keep, changes, progress)
            digests[path.name] = sha256_file(partial)
        if len(outputs) > 1:  # an older first file would make a model of old and new parts
            outputs[0].unlink(missing_ok=True)
            flush_to_disk(outputs[0].parent)
    write_record(metadata_beside(outputs[0]), metadata_of(drop_map, {}, digests), DropMetadata)
    return total


def drop_in_imatrix(header: GgufHeader, drop_map: DropMap, output: Path) -> int:
    """Write an imatrix sliced by the map; return the number of arrays sliced."""
    with tqdm(unit="B", unit_scale=True, desc="slice the imatrix") as progress, replace_when_done(output) as partial:
        write_pruned(header, partial, IMATRIX_TENSOR, drop_map.keep, {}, progress)
    return sum(layer_of(tensor.name, IMATRIX_TENSOR) is not None for tensor in header.tensors)


def read_imatrix_header(path: Path, shape: Shape) -> GgufHeader:
    """Read the header of an imatrix; raise InputError when its experts are not the model's."""
    header = read_header(path)
    if header.value("general.type") != "imatrix":
        raise InputError(path, "an imatrix in GGUF form", f"general.type {header.value('general.type')!r}")
    found = [tensor for tensor in header.tensors if layer_of(tensor.name, IMATRIX_TENSOR) is not None]
    for tensor in found:
        if tensor.dims[-1] != shape.experts or layer_of(tensor.name, IMATRIX_TENSOR) not in shape.layers:
            raise InputError(
                path,
                f"{shape.experts} experts in {tensor.name}",
                f"dimensions {list(tensor.dims)}",
                "is it the imatrix of another model?",
            )
    if not found:
        raise InputError(path, "activations of expert tensors", "none")
    return header


def verify_gguf(model: GgufModel, drop_map: DropMap, outputs: list[Path]) -> None:
    """Raise InputError unless a pruned GGUF has its source's header and kept bytes, and its record, if there, fits."""
    if (record := metadata_beside(outputs[0])).exists():
        known = read_metadata(record)
        # Of an older version it has no digests.
        digests = {path.name: sha256_file(path) for path in outputs} if known["shards"] else {}
        if known != {"version": DropMetadata.current, **metadata_of(drop_map, {}, digests)}:
            raise InputError(record, "the record of this drop", "that of another map")
    for header, path in zip(model.headers, outputs):
        _verify_file(header, path, EXPERT_TENSOR, drop_map.keep, {model.count_key: drop_map.keep_count})


def verify_imatrix(header: GgufHeader, drop_map: DropMap, output: Path) -> None:
    """Raise InputError unless a sliced imatrix holds the kept bytes of its source."""
    _verify_file(header, output, IMATRIX_TENSOR, drop_map.keep, {})


def _verify_file(
    header: GgufHeader, path: Path, pattern: re.Pattern[str], keep: dict[int, list[int]], changes: dict[str, int]
) -> None:
    found, expected = read_header(path), sliced(header, pattern, keep)
    # As bytes: values that read alike can be stored as other types, which another loader may refuse.
    if [pair.raw for pair in found.key_values] != key_value_bytes(header, changes):
        raise InputError(path, "the source's header with the new expert count", "another one")
    if [(t.name, t.dims, t.kind) for t in found.tensors] != [(t.name, dims, t.kind) for t, dims, _ in expected]:
        raise InputError(path, "the source's tensors with the kept experts", "others")
    for tensor, (_, _, runs) in zip(found.tensors, expected):
        offset = tensor.offset
        for piece in runs:
            if not same_bytes(piece, path, offset):
                raise InputError(path, f"the source's bytes of {tensor.name}", "others")
            offset += piece.size
