"""Safetensors checkpoints on disk, read by byte ranges: headers, shards, and where each tensor lies.

Format: https://huggingface.co/docs/safetensors (8-byte little-endian header length, JSON header, tensor bytes).
Nothing here decodes a tensor; values are handled by whoever needs them.
"""

import hashlib
import json
import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from checkpoints.card_text import CARD, check_no_references
from checkpoints.small_names import is_small_file
from files.input_errors import InputError, check_bounded, sha256_file, shown
from files.json_records import parse_json, read_json, sha256_json
from files.seals import hold
from files.tokenizer_names import TEMPLATES_NAME

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
# A router is under 1 MB and is read whole, since fine-tuning may change little else. Of the experts a page of 4 KiB in
# each MiB is read: 0.4 % of the file.
SMALL_TENSOR_BYTES = 2 << 20
SAMPLE_BYTES, SAMPLE_EVERY_BYTES = 4 << 10, 1 << 20
DIGEST_THREADS = 4  # of a shard each: one core hashes slower than a disk reads
HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors library
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
# Where a checkpoint may name code of its own (auto_map), which transformers and llama.cpp's converter could run, and
# weights in another place (transformers_weights), which no digest of ours covers.
MAY_NAME_CODE = (
    *("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    "video_preprocessor_config.json",
)
# Of layers, heads, labels and the like (num_*): transformers makes a list of some.
MOST_OF_ANYTHING = 1_000_000
FORBIDDEN_KEYS = {
    "auto_map": (
        "a model of a family that transformers knows, without code of its own",
        "that code is never run: remove auto_map if the model needs none",
    ),
    "transformers_weights": (
        "weights in the files of the index alone",
        "remove transformers_weights if the model needs no others",
    ),
    "fast_tokenizer_files": (
        "a tokenizer in tokenizer.json alone",
        "transformers would read another file instead: give that one the name tokenizer.json",
    ),
    "configuration_files": (
        "a model that is described in config.json alone",
        "transformers would read another file instead: write that one's content into config.json",
    ),
}
# Weights, config, tokenizer, chat template, and the model card, whose front matter goes into the header.
READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")


@dataclass(frozen=True)
class TensorRange:
    """One tensor: dtype name, shape, the file it lies in, its first byte there and its length in bytes."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


def read_shard(path: Path) -> dict[str, TensorRange]:
    """Return the tensors of one safetensors file; raise InputError on a missing, truncated or inconsistent file."""
    if not path.is_file():
        raise InputError(path, "a safetensors file", "nothing")
    file_size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise InputError(path, "a safetensors header", f"{file_size} bytes in all")
        header_size = struct.unpack("<Q", prefix)[0]
        # Checked before it is read: another kind of file has any number here, up to 2 ** 64.
        if header_size > min(HEADER_LIMIT_BYTES, file_size - 8):
            raise InputError(path, "a safetensors header inside the file", f"a header of {header_size} bytes")
        try:
            header = parse_json(file.read(header_size))
        except (ValueError, RecursionError) as error:
            raise InputError(path, "a safetensors header in JSON", str(error)) from error
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise InputError(path, "a safetensors header of tensors", "other JSON")
    header.pop("__metadata__", None)
    start = 8 + header_size
    tensors = {name: _tensor_range(path, name, entry, start) for name, entry in header.items()}
    end = start
    # The format allows neither gaps nor overlaps. Empty tensors come first of those at one offset.
    for name, tensor in sorted(tensors.items(), key=lambda entry: (entry[1].offset, entry[1].size)):
        if tensor.offset != end:
            raise InputError(path, f"{name} at byte {end}, right after the tensor before it", str(tensor.offset))
        end += tensor.size
    if end != file_size:
        raise InputError(path, f"{end} bytes, as its header says", f"{file_size} bytes", "is it truncated?")
    return tensors


def _tensor_range(path: Path, name: str, entry: dict, start: int) -> TensorRange:
    """Return a header's entry as a range of the file; `start` is the first byte after the header."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"dtype, shape and data_offsets of {name}", shown(entry)) from error
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):  # a bool is an int as well
        raise InputError(path, f"whole numbers in shape and data_offsets of {name}", shown(entry))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InputError(path, f"a known dtype of {name}", dtype)
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise InputError(path, f"{math.prod(shape) * DTYPE_BYTES[dtype]} bytes of {name}", f"{end - begin}")
    return TensorRange(dtype, shape, path, start + begin, end - begin)


def read_config(directory: Path) -> dict:
    """Return config.json of a checkpoint directory.

    Raises InputError when the directory or the file is missing, and when the checkpoint wants code of its own run.
    """
    if not directory.is_dir():
        raise InputError(directory, "a model directory", "nothing" if not directory.exists() else "a file")
    check_no_code(directory)
    config = read_json(path := directory / "config.json")
    for part in parts_of(config):
        for key, value in part.items():
            if key.startswith("num_") and isinstance(value, int | float) and value > MOST_OF_ANYTHING:
                raise InputError(path, f"at most {MOST_OF_ANYTHING} as {key}", shown(value))
    return config


def parts_of(config: dict) -> list[dict]:
    """Return a config and those within it, as of the text and of pictures."""
    return [config, *(value for value in config.values() if isinstance(value, dict))]


def check_no_code(directory: Path) -> None:
    """Raise InputError when a file of a checkpoint names code of its own to be run, or a file of other weights."""
    for path in (directory / name for name in MAY_NAME_CODE):
        content = read_json(path) if path.exists() else {}
        for part in parts_of(content):
            for key, (expected, advice) in FORBIDDEN_KEYS.items():
                if named := part.get(key):
                    raise InputError(path, expected, f"{key} {shown(named)}", advice)
            for key, named in part.items():  # such as attn_implementation: transformers would fetch it from the Hub
                if key.endswith("_implementation") and "/" in json.dumps(named):
                    expected = "an implementation that transformers has itself"
                    raise InputError(path, expected, f"{key} {shown(named)}", f"remove {key}: that code is never run")


def read_checkpoint(directory: Path) -> dict[str, TensorRange]:
    """Return every tensor of a checkpoint directory, by name, sorted.

    Raises InputError when the index is missing or names a file outside the directory, when a shard is missing or
    truncated, or when the index and the shards disagree on which tensors there are.
    """
    read_config(directory)
    index_path = directory / INDEX_NAME
    if not index_path.exists():
        if not (directory / SINGLE_NAME).exists():
            raise InputError(directory, f"{INDEX_NAME} or {SINGLE_NAME}", "neither")
        check_no_others(directory)
        return _named_once(directory, read_shard(directory / SINGLE_NAME))
    if (directory / SINGLE_NAME).exists():  # loaders differ in which one they read
        raise InputError(directory, f"{INDEX_NAME} or {SINGLE_NAME}", "both", "remove the one that is not meant")
    weight_map = _weight_map(index_path)
    tensors: dict[str, TensorRange] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:  # an index from elsewhere must not make us read ../../anything
            raise InputError(index_path, "shard names inside the directory", shard)
        if Path(shard).suffix != ".safetensors":  # another name would be left out of the checkpoint's digest
            raise InputError(index_path, "shards named *.safetensors", shard)
        for name, tensor in read_shard(directory / shard).items():
            if weight_map.get(name) != shard:
                raise InputError(index_path, f"{name} in {shard}", f"it mapped to {weight_map.get(name)}")
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise InputError(index_path, f"{missing[0]} in {weight_map[missing[0]]}", "no such tensor there")
    return _named_once(directory, tensors)


def _named_once(directory: Path, tensors: dict[str, TensorRange]) -> dict[str, TensorRange]:
    """Return tensors sorted by name; raise InputError for two that are one to llama.cpp's converter.

    It leaves "language_model." out of a name and takes the later of two; transformers would read the other.
    """
    seen: dict[str, str] = {}
    for name in tensors:
        if (other := seen.setdefault(name.replace("language_model.", ""), name)) != name:
            raise InputError(directory, "every tensor under one name", f"{other} and {name}")
    return dict(sorted(tensors.items()))


def check_no_others(directory: Path) -> None:
    """Raise InputError where other files lie beside a model's only one that llama.cpp's converter would read, too.

    Without an index it takes every model*.safetensors, and of a tensor in two files the later one's; analysis and drop
    would read the first.
    """
    if others := sorted(path for path in directory.glob("model*.safetensors") if path.name != SINGLE_NAME):
        wanted = f"no other file named model*.safetensors beside {SINGLE_NAME}"
        raise InputError(others[0], wanted, "one, which llama.cpp would read, too", "move it away")


def _weight_map(index_path: Path) -> dict[str, str]:
    """Return the shard of each tensor as the index has it."""
    weight_map = read_json(index_path).get("weight_map")
    named = isinstance(weight_map, dict) and all(isinstance(shard, str) for shard in weight_map.values())
    if not weight_map or not named:
        raise InputError(index_path, "a weight_map from tensors to shards", shown(weight_map))
    return weight_map


def has_weights(model: Path) -> bool:
    """Tell whether any of a checkpoint's own weights are there; an adapter beside them is none."""
    index = model / INDEX_NAME
    shards = set(_weight_map(index).values()) if index.is_file() else {SINGLE_NAME}
    return any((model / shard).is_file() for shard in shards)


def check_weights_alone(model: Path) -> None:
    """Raise InputError where a folder has other weights beside the model's, such as an adapter of the user's.

    They count as a part of the model, and what is held against it later would miss those that have gone.
    """
    own = {tensor.file for tensor in read_checkpoint(model).values()}
    if others := [path for path in sorted(model.glob("*.safetensors")) if path not in own]:
        advice = "say LOW_DISK=yes, which leaves a local model, or begin anew without that file"
        raise InputError(others[0], "no weights beside the model's with LOW_DISK=all", "others", advice)


def weights_digest(tensors: dict[str, TensorRange]) -> str:
    """Return a digest that tells a checkpoint from another one of its shape, independent of how it is sharded.

    It covers every tensor's name, dtype and shape, all bytes of those of up to SMALL_TENSOR_BYTES (routers, norms and
    scales), and of larger ones SAMPLE_BYTES in every SAMPLE_EVERY_BYTES: two trainings always differ there, a single
    edited weight may not. Reading all of a checkpoint would take as long as dropping its experts.
    """
    parts = {name: [tensor.dtype, list(tensor.shape), _content_digest(tensor)] for name, tensor in tensors.items()}
    return sha256_json(parts)


def _content_digest(tensor: TensorRange) -> str:
    """Return the hex sha256 of a tensor's bytes, of a large one of samples."""
    if tensor.size <= SMALL_TENSOR_BYTES:
        return bytes_digest(tensor, SMALL_TENSOR_BYTES, SMALL_TENSOR_BYTES)
    return bytes_digest(tensor, SAMPLE_EVERY_BYTES, SAMPLE_BYTES)


def bytes_digest(tensor: TensorRange, every: int, count: int) -> str:
    """Return the hex sha256 of `count` bytes in `every` ones of a tensor: of all bytes where both are the same."""
    content = hashlib.sha256()
    with open(tensor.file, "rb", buffering=0) as file:
        for first in range(0, tensor.size, every):
            content.update(os.pread(file.fileno(), min(count, tensor.size - first), tensor.offset + first))
    return content.hexdigest()


def read_files(model: Path) -> list[tuple[str, Path]]:
    """Return name and path of every file of a checkpoint that the converter may read or a drop copies, in order."""
    files = sorted([*model.iterdir(), *model.glob(f"{TEMPLATES_NAME}/*.jinja")])
    read = [path for path in files if path.suffix in READ_SUFFIXES or is_small_file(path.name)]
    return [(str(path.relative_to(model)), path) for path in read if path.is_file()]


def hold_checkpoint(model: Path) -> None:
    """Hold a checkpoint's files to what they are, before the first is read (files/seals.py).

    Raises InputError for one beside the weights that is too large to be what its name says.
    """
    for _, path in read_files(model):
        if path.name == CARD:
            check_no_references(path)
        if path.suffix != ".safetensors":
            check_bounded(path)
        hold(path)


def source_digest(model: Path, known: dict[str, str] | None = None) -> str:
    """Return the hex sha256 over name and sha256 of every file that the converter may read or a drop copies.

    All bytes are read: an output is left as it is only if it was made of just these. `weights_digest` takes samples.
    known: digests of files that need not be read.
    """
    names = read_files(model)
    with ThreadPoolExecutor(DIGEST_THREADS) as pool:
        digests = pool.map(lambda entry: (known or {}).get(entry[0]) or sha256_file(entry[1]), names)
        return sha256_json({name: digest for (name, _), digest in zip(names, digests)})
