"""GGUF files: header facts that the pipeline checks and records. Format: gguf-py, the `gguf` package of llama.cpp."""

from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from safe_files import InputError

FILE_TYPES_FLOAT = {"F32", "F16", "BF16"}


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
