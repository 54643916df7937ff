"""Files for pictures and sound (mmproj): names, what headers say, and a key that the converter leaves out.

llama.cpp and Ollama keep a model's towers in a GGUF file of their own, of the architecture `clip`. Keys: llama.cpp
tools/mtmd/clip-impl.h. Names: its common/download.cpp takes a file for one of these, and never for a model, if `mmproj`
is in the name (ggufs/sibling_choice.py).
"""

from pathlib import Path

from files.byte_ranges import Run, write_runs
from files.input_errors import InputError
from ggufs.companions import MMPROJ
from ggufs.gguf_header import GgufHeader, TensorPlan, aligned, file_bytes, header_bytes, key_value

from gguf import GGMLQuantizationType

ENCODERS = ("vision", "audio")
# Without this key llama.cpp computes x * sigmoid(1.702 x) in place of GELU, and its pinned converter leaves it out for
# Gemma 4. On a random tower the embeddings are then 1.0% off those of transformers, with it 0.1%.
TRUE_GELU = "clip.use_gelu"


def mmproj_name(model: str, kind: str) -> str:
    """Return the name of a model's file for pictures of a type such as F16."""
    return f"{MMPROJ}{model}-{kind}.gguf"


def projection_widths(header: GgufHeader) -> dict[str, int]:
    """Return the width that each encoder of a file projects to, by its name; raise InputError for another file."""
    if header.value("general.type") != "mmproj":
        raise InputError(header.path, "a file for pictures (general.type mmproj)", str(header.value("general.type")))
    found = {}
    for encoder in ENCODERS:
        if header.value(f"clip.has_{encoder}_encoder"):
            width = header.value(f"clip.{encoder}.projection_dim")
            if type(width) is not int:
                raise InputError(header.path, f"a whole number clip.{encoder}.projection_dim", repr(width))
            found[encoder] = width
    return found


def with_true_gelu(header: GgufHeader) -> tuple[list[bytes], list[TensorPlan]]:
    """Return the key-values of a file with TRUE_GELU among them, and its tensors."""
    pairs = [pair.raw for pair in header.key_values if pair.key != TRUE_GELU]
    return [*pairs, key_value(TRUE_GELU, True)], [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]


def true_gelu_bytes(header: GgufHeader) -> int:
    """Return the size of what `write_with_true_gelu` writes."""
    return file_bytes(header, *with_true_gelu(header))


def write_with_true_gelu(header: GgufHeader, output: Path) -> None:
    """Write a new file with the same tensors, byte for byte, and TRUE_GELU in its header."""
    pieces: list[bytes | Run] = [header_bytes(header, *with_true_gelu(header))]
    for tensor in header.tensors:
        padding = aligned(tensor.size, header.alignment) - tensor.size
        pieces += [Run(header.path, tensor.offset, tensor.size), bytes(padding)]
    write_runs(output, pieces, lambda count: None)


def types_of(header: GgufHeader) -> dict[str, int]:
    """Return the number of tensors of each type, the most frequent first."""
    kinds = [tensor.kind for tensor in header.tensors]
    found: dict[GGMLQuantizationType, int] = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return {kind.name: count for kind, count in sorted(found.items(), key=lambda entry: (-entry[1], entry[0].name))}
