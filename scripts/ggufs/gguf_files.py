"""GGUF files: header facts that the pipeline checks and records. Format: gguf-py, the `gguf` package of llama.cpp."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader

from files.safe_files import InputError


@dataclass(frozen=True)
class GgufSummary:
    """Architecture, experts per layer (0 when dense), tensor shapes (as in numpy order) and tensor types by name."""

    architecture: str
    experts: int
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    parameters: int


def read_gguf(path: Path) -> GGUFReader:
    """Open a GGUF file; raise InputError when it is missing, is not GGUF or is truncated."""
    if not path.is_file():
        raise InputError(path, "a GGUF file", "nothing")
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(path, "a GGUF file", f"a file that begins with {magic!r}")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(path, "a whole GGUF file", f"one that cannot be read ({error})", "is it truncated?") from error
    return reader


def field(reader: GGUFReader, key: str) -> object:
    """Return a header value, or None when the header does not have it."""
    entry = reader.get_field(key)
    return None if entry is None else entry.contents()


def summarize_gguf(path: Path) -> GgufSummary:
    """Return the header facts of a GGUF file."""
    reader = read_gguf(path)
    architecture = str(field(reader, "general.architecture"))
    return GgufSummary(
        architecture=architecture,
        experts=int(field(reader, f"{architecture}.expert_count") or 0),
        shapes={tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors},
        types={tensor.name: tensor.tensor_type.name for tensor in reader.tensors},
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors))


def expert_counts(imatrix: Path) -> dict[int, np.ndarray]:
    """Return how many calibration tokens reached each expert, [experts] int64 by layer, from an imatrix in GGUF form.

    Raises InputError when it is no imatrix, has no experts, or when layers differ in their number.
    """
    reader = read_gguf(imatrix)
    if field(reader, "general.type") != "imatrix":
        raise InputError(imatrix, "an imatrix in GGUF form", f"general.type {field(reader, 'general.type')!r}")
    counts: dict[int, np.ndarray] = {}
    for tensor in reader.tensors:
        if match := re.fullmatch(r"blk\.(\d+)\.ffn_down_exps\.weight\.counts", tensor.name):
            counts[int(match[1])] = np.rint(np.asarray(tensor.data).reshape(-1)).astype(np.int64)
    if not counts or len({row.size for row in counts.values()}) > 1 or next(iter(counts.values())).size < 2:
        raise InputError(imatrix, "token counts of as many experts in every layer", f"those of {len(counts)} layers")
    return counts
