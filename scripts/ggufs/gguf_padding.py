"""Padding MLPs inside a float GGUF file to widths that are multiples of 256, and undoing it: bytes moved, none decoded.

llama.cpp's smaller types pack 256 weights of a row. Rows of 704 or 2112, as `down` has them in Gemma 4 26B-A4B, cannot
have these types. Padding adds rows of zeros to gate and up and columns of zeros to down. A padded unit computes
act(0) * 0 = 0, whatever the type: a row of zeros stays one in every type (tests/ggufs/test_gguf_padding.py). So what
`down` holds in the padded columns does not matter, and some types cannot hold a zero beside other weights.

That holds for down(act(gate) * up) without biases, so other tensors of an MLP are refused by name: biases, norms of its
inside, an `up` without a gate. An imatrix gets 0 for the padded columns of down: llama-quantize then spends nothing on
them. The width before stands in the header as KEY_unpadded, which llama.cpp ignores, and the same command undoes it.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from files.byte_ranges import write_runs
from files.input_errors import InputError, shown
from files.json_records import FileRecord, Sha256
from ggufs.gguf_header import (
    UINT32,
    GgufHeader,
    TensorInfo,
    TensorPlan,
    aligned,
    header_bytes,
    key_value,
    tensor_bytes,
    write_header_only,
)

import numpy as np
from gguf.constants import GGML_QUANT_SIZES

MULTIPLE = 256  # weights in a block of the smaller types
CHUNK_BYTES = 16 << 20  # held at once, or one row of blocks if that is more
UNPADDED = "_unpadded"
EXPERTS, DENSE = "experts", "dense"
ENDINGS = {EXPERTS: "_exps", DENSE: ""}
PART = re.compile(r"blk\.(\d+)\.ffn_(gate|up|gate_up|down)(|_exps)\.weight")
WHOLE = ({"gate", "up", "down"}, {"gate_up", "down"})
# Beside the weights of an MLP, all that neither follows its width nor sees its inside.
HARMLESS = re.compile(
    r"blk\.\d+\.(?:ffn_norm\w*\.\w+|ffn_gate_inp\w*\.\w+|ffn_\w*_exps\.scale|ffn_(?:gate|up|down)_shexp\.weight)"
)


class PaddingRecord(FileRecord):
    """FILE.gguf.json of pad_gguf.py; widths: by role, before and after."""

    what: ClassVar[str] = "a record of pad_gguf.py"
    source_sha256: Sha256
    widths: dict[str, list[int]]


@dataclass(frozen=True)
class Width:
    """The width of one role's MLPs: its key in the header, the number there, and the number to be."""

    key: str
    now: int
    then: int


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor: its new dims, and of how many bytes each of its equal parts is and will be."""

    tensor: TensorInfo
    dims: tuple[int, ...]
    part: int
    new_part: int


def padded_width(width: int) -> int:
    """Return the next multiple of MULTIPLE."""
    return aligned(width, MULTIPLE)


def mlp_parts(header: GgufHeader, role: str) -> dict[int, dict[str, TensorInfo]]:
    """Return the weights of a role's MLPs by layer and part (gate, up, gate_up, down)."""
    found: dict[int, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        match = PART.fullmatch(tensor.name)
        if match and match[3] == ENDINGS[role]:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    return found


def width_key(header: GgufHeader, role: str) -> str:
    """Return the key of a role's width. Where experts have none of their own (Mixtral), it is that of the dense MLP."""
    own = f"{header.architecture}.expert_feed_forward_length"
    return own if role == EXPERTS and header.value(own) else f"{header.architecture}.feed_forward_length"


def check_paddable(header: GgufHeader, role: str) -> None:
    """Raise InputError unless the MLPs of a role are down(act(gate) * up) and nothing else."""
    for layer, parts in mlp_parts(header, role).items():
        if parts.keys() not in WHOLE:
            what = f"gate, up and down in the {role} MLP of layer {layer}, to pad it"
            raise InputError(header.path, what, ", ".join(sorted(tensor.name for tensor in parts.values())))
        for tensor in parts.values():
            if GGML_QUANT_SIZES[tensor.kind][0] != 1:
                raise InputError(header.path, f"{tensor.name} in F16, BF16 or F32, to pad it", tensor.kind.name)
    shared_key = f"{header.architecture}.expert_shared_feed_forward_length"
    for tensor in header.tensors:
        if ".ffn_" in tensor.name and not PART.fullmatch(tensor.name) and not HARMLESS.fullmatch(tensor.name):
            raise InputError(header.path, "MLPs of gate, up and down alone, to pad them", tensor.name)
        # Else llama.cpp computes the width of shared experts from that of the others.
        if role == EXPERTS and "_shexp." in tensor.name and not header.value(shared_key):
            raise InputError(header.path, f"{shared_key}, to pad the experts beside {tensor.name}", "none")


def role_width(header: GgufHeader, role: str) -> Width | None:
    """Return a role's width and its padded one, None of a model without such MLPs; raise InputError for odd ones."""
    parts = mlp_parts(header, role)
    if not parts:
        return None
    key, found = width_key(header, role), {each["down"].dims[0] for each in parts.values() if "down" in each}
    number = header.value(key)
    if found != {number}:
        raise InputError(
            header.path, f"{key}: one width, that of every {role} MLP", f"{shown(number)}, {sorted(found)}"
        )
    return Width(key, number, padded_width(number))


def padding_widths(header: GgufHeader, roles: tuple[str, ...] = (EXPERTS, DENSE)) -> dict[str, Width]:
    """Return by role what padding would change; {} where all widths fit. Raises InputError where it may not be done."""
    found = {}
    for role in roles:
        width = role_width(header, role)
        if width and width.then != width.now:
            check_paddable(header, role)
            found[role] = width
    return found


def undoing_widths(header: GgufHeader) -> dict[str, Width]:
    """Return by role what undoing a padding would change, {} of a file that is not padded."""
    found = {}
    for role in (EXPERTS, DENSE):
        width = role_width(header, role)
        if width and (before := header.value(f"{width.key}{UNPADDED}")):
            check_paddable(header, role)
            found[role] = Width(width.key, width.now, before)
    return found


def changes_of(header: GgufHeader, widths: dict[str, Width]) -> dict[str, Change]:
    """Return by name what becomes of the tensors of a model."""
    changes = {}
    for role, width in widths.items():
        for parts in mlp_parts(header, role).values():
            for part, tensor in parts.items():
                size, (first, second, *experts) = GGML_QUANT_SIZES[tensor.kind][1], tensor.dims
                if part == "down":  # its parts are rows
                    dims, bytes_of_one = (width.then, second, *experts), size
                else:  # those of gate and up are matrices, one behind the other where the two share a tensor
                    dims, bytes_of_one = (first, second // width.now * width.then, *experts), size * first
                changes[tensor.name] = Change(tensor, dims, width.now * bytes_of_one, width.then * bytes_of_one)
    return changes


def imatrix_changes(model: GgufHeader, imatrix: GgufHeader, widths: dict[str, Width]) -> dict[str, Change]:
    """Return by name what becomes of the arrays of an imatrix: those of down have as many columns as its rows."""
    changes = {}
    arrays = {tensor.name: tensor for tensor in imatrix.tensors}
    for role, width in widths.items():
        for parts in mlp_parts(model, role).values():
            name = f"{parts['down'].name}.in_sum2"
            if name not in arrays:
                raise InputError(imatrix.path, f"the imatrix of this model, with {name}", "no such array")
            tensor, size = arrays[name], GGML_QUANT_SIZES[arrays[name].kind][1]
            if tensor.dims[0] != width.now:
                raise InputError(imatrix.path, f"{width.now} columns in {name}, as the model has", str(tensor.dims[0]))
            changes[name] = Change(tensor, (width.then, *tensor.dims[1:]), width.now * size, width.then * size)
    return changes


def new_pairs(header: GgufHeader, widths: dict[str, Width]) -> list[bytes]:
    """Return the key-values of the new file: the widths changed, those before added at the end, or taken away again."""
    targets = {width.key: width for width in widths.values()}
    pairs, notes = [], []
    for pair in header.key_values:
        if (width := targets.get(pair.key)) is None:
            if pair.key.removesuffix(UNPADDED) not in targets:
                pairs.append(pair.raw)
            continue
        if pair.kind != UINT32:
            raise InputError(header.path, f"{pair.key} as uint32", f"type {pair.kind}")
        pairs.append(pair.raw[: pair.value_at] + struct.pack("<I", width.then))
        if header.value(f"{pair.key}{UNPADDED}") is None:
            # The width before is written into the file, so that padding can be undone, and counted without its zeros.
            notes.append(key_value(f"{pair.key}{UNPADDED}", width.now))
    return pairs + notes


def new_tensors(header: GgufHeader, changes: dict[str, Change]) -> list[TensorPlan]:
    """Return the tensors of the new file."""
    dims = {name: change.dims for name, change in changes.items()}
    return [(tensor.name, dims.get(tensor.name, tensor.dims), tensor.kind) for tensor in header.tensors]


def padded_pieces(header: GgufHeader, widths: dict[str, Width], changes: dict[str, Change]) -> Iterator[bytes]:
    """Yield the new file, CHUNK_BYTES or one part at a time; raises InputError where undoing would lose a weight."""
    yield header_bytes(header, new_pairs(header, widths), new_tensors(header, changes))
    for tensor in header.tensors:
        change = changes.get(tensor.name) or Change(tensor, tensor.dims, tensor.size or 1, tensor.size or 1)
        at_once = max(1, CHUNK_BYTES // max(change.part, change.new_part))
        count, kept, written = tensor.size // change.part, min(change.part, change.new_part), 0
        for first in range(0, count, at_once):
            parts = min(at_once, count - first)
            found = np.fromfile(header.path, np.uint8, parts * change.part, offset=tensor.offset + first * change.part)
            rows = found.reshape(parts, change.part)
            if rows[:, kept:].any():
                raise InputError(header.path, f"zeros in the padding of {tensor.name}", "others", "it cannot be undone")
            out = np.zeros((parts, change.new_part), np.uint8)
            out[:, :kept] = rows[:, :kept]
            written += out.size
            yield out.tobytes()
        yield bytes(aligned(written, header.alignment) - written)


def check_plain(header: GgufHeader) -> None:
    """Raise InputError unless a file is laid out as llama.cpp writes it, which is how it would be restored."""
    plan = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]
    at = len(header_bytes(header, [pair.raw for pair in header.key_values], plan))
    for tensor in header.tensors:
        if tensor.offset != at:
            raise InputError(header.path, f"{tensor.name} at byte {at}, as llama.cpp writes it", str(tensor.offset))
        at += aligned(tensor_bytes(tensor.dims, tensor.kind), header.alignment)
    if header.path.stat().st_size != at:
        raise InputError(header.path, f"{at} bytes", str(header.path.stat().st_size))


def new_bytes(header: GgufHeader, changes: dict[str, Change]) -> int:
    """Return the bytes of the data of the new file."""
    return sum(tensor_bytes(dims, kind) for _, dims, kind in new_tensors(header, changes))


def padded_header(header: GgufHeader, widths: dict[str, Width], output: Path) -> GgufHeader:
    """Write the header of the padded model and a hole in place of its data; return it as read back."""
    return write_header_only(header, new_pairs(header, widths), new_tensors(header, changes_of(header, widths)), output)


def dims_before(header: GgufHeader, name: str, dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dims that a tensor had before padding, which the header tells; of any type."""
    match = PART.fullmatch(name)
    key = width_key(header, EXPERTS if match and match[3] else DENSE)
    before = header.value(f"{key}{UNPADDED}")
    if match is None or before is None:
        return dims
    first, second, *experts = dims
    if match[2] == "down":
        return (before, second, *experts)
    return (first, second // header.value(key) * before, *experts)


def widths_in(header: GgufHeader) -> dict[str, list[int]]:
    """Return by role the widths before and after padding that a header tells; {} of a file that is not padded."""
    found = {}
    for role in (EXPERTS, DENSE):
        key = width_key(header, role)
        if mlp_parts(header, role) and (before := header.value(f"{key}{UNPADDED}")):
            found[role] = [before, header.value(key)]
    return found


def write_padded(header: GgufHeader, widths: dict[str, Width], changes: dict[str, Change], output: Path) -> None:
    """Write the new file."""
    write_runs(output, padded_pieces(header, widths, changes), lambda count: None)


def verify_padded(header: GgufHeader, widths: dict[str, Width], changes: dict[str, Change], output: Path) -> None:
    """Raise InputError unless a file is, byte by byte, what `write_padded` writes."""
    with open(output, "rb") as file:
        for piece in padded_pieces(header, widths, changes):
            if file.read(len(piece)) != piece:
                where = f"byte {file.tell() - len(piece)} or soon after"
                raise InputError(output, f"the bytes of {header.path.name}, padded or restored", f"others at {where}")
        if file.read(1):
            raise InputError(output, f"the bytes of {header.path.name}, padded or restored", "more than that")
