"""The header of a GGUF file by byte positions: key-values as raw bytes, and where each tensor lies.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian). Unlike gguf-py's
reader this one builds no objects for a vocabulary, so that a header can be written again unchanged, in little memory.
"""

import math
import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.input_errors import InputError, shown

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

# What llama.cpp's families call the tensors that have an expert axis, always the slowest one: the experts' weights,
# scales and biases, the router's rows and its bias. ffn_norm_exps is a norm before all experts, without that axis.
EXPERT_TENSOR = re.compile(
    r"blk\.(\d+)\.(?:ffn_(?!norm_)\w*_exps\.\w+|ffn_gate_inp\.(?:weight|bias)|exp_probs_b(?:\.bias)?)"
)
BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.")
DEFAULT_ALIGNMENT = 32
# The format's type numbers of values, as Python's struct writes them.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT32, STRING, ARRAY = 4, 8, 9
ARRAY_HEAD_BYTES = 12  # the items' type and their number
SCALAR_KINDS = {bool: 7, int: UINT32, float: 6}  # how key_value() writes Python's types
# The end of the names that llama-gguf-split gives: a part's number, from 1, and how many there are.
PART_ENDING = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)

TensorPlan = tuple[str, tuple[int, ...], GGMLQuantizationType]  # name, dims (the slowest axis last), type


@dataclass(frozen=True)
class KeyValue:
    """One key-value: its type, its value (None for arrays), its bytes, and where in them the value begins."""

    key: str
    kind: int
    value: Any
    raw: bytes
    value_at: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: dims as in the file (the slowest axis last), type, first byte in the file, size in bytes."""

    name: str
    dims: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """One GGUF file."""

    path: Path
    version: int
    key_values: tuple[KeyValue, ...]
    tensors: tuple[TensorInfo, ...]
    alignment: int

    def value(self, key: str) -> Any:
        """Return a scalar or string value, None when the key is absent or holds an array."""
        return next((entry.value for entry in self.key_values if entry.key == key), None)

    def array(self, key: str) -> list | None:
        """Return an array of numbers or strings, None when the key is absent or holds no such array."""
        entry = next((entry for entry in self.key_values if entry.key == key and entry.kind == ARRAY), None)
        return None if entry is None else array_values(entry)

    @property
    def architecture(self) -> str:
        """The name of llama.cpp's architecture, which begins most keys."""
        return str(self.value("general.architecture"))

    @property
    def experts(self) -> int:
        """Experts per layer, 0 for a dense model."""
        count = self.value(f"{self.architecture}.expert_count")
        return count if isinstance(count, int) else 0

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding; raises InputError without one."""
        rows = next((tensor.dims[-1] for tensor in self.tensors if tensor.name == "token_embd.weight"), None)
        if rows is None:
            raise InputError(self.path, "a model with token_embd.weight", "none")
        return rows


def experts_used_key(header: GgufHeader) -> str:
    """Return the key of the number of experts that a token uses."""
    return f"{header.architecture}.expert_used_count"


def empty_header(path: Path) -> GgufHeader:
    """Return the header of a new file: version 3, nothing in it."""
    return GgufHeader(path, 3, (), (), DEFAULT_ALIGNMENT)


def aligned(size: int, alignment: int) -> int:
    """Round a number of bytes up to a multiple of the alignment."""
    return -(-size // alignment) * alignment


def array_values(entry: KeyValue) -> list | None:
    """Return the items of an array; None for an array of arrays, which llama.cpp does not write.

    Strings are decoded here and not while the header is read: a vocabulary has 262,144 of them, and few steps want it.
    """
    kind, count = struct.unpack_from("<IQ", entry.raw, entry.value_at)
    at = entry.value_at + ARRAY_HEAD_BYTES
    if kind in SCALARS:
        return list(struct.unpack_from(f"<{count}{SCALARS[kind][1]}", entry.raw, at))
    if kind != STRING:
        return None
    found = []
    for _ in range(count):
        length = struct.unpack_from("<Q", entry.raw, at)[0]
        found.append(entry.raw[at + 8 : at + 8 + length].decode("utf-8", "surrogateescape"))
        at += 8 + length
    return found


class _Cursor:
    """Reads values from a memory-mapped header, in order."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def unpack(self, form: str) -> Any:
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.unpack("<Q")
        # A slice beyond the end would be cut short without an error.
        if length > len(self.data) - self.at:
            raise struct.error("a string beyond the end of the file")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "surrogateescape")

    def skip_array(self) -> None:
        kind, count = self.unpack("<I"), self.unpack("<Q")
        if kind == STRING:
            for _ in range(count):
                self.at += 8 + struct.unpack_from("<Q", self.data, self.at)[0]
        else:
            self.at += count * struct.calcsize(SCALARS[kind])
        if self.at > len(self.data):
            raise struct.error("an array beyond the end of the file")

    def key_value(self) -> KeyValue:
        start = self.at
        key, kind = self.text(), self.unpack("<I")
        value_at = self.at - start
        value: Any = None
        if kind == STRING:
            value = self.text()
        elif kind == ARRAY:
            self.skip_array()
        else:
            value = self.unpack(SCALARS[kind])
        return KeyValue(key, kind, value, self.data[start : self.at], value_at)


def tensor_bytes(dims: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Return the size of a tensor in bytes."""
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(dims) // block * size


def read_header(path: Path) -> GgufHeader:
    """Read the header of one GGUF file; raise InputError when it is missing, not GGUF, damaged or truncated."""
    if not path.is_file():
        raise InputError(path, "a GGUF file", "nothing")
    with open(path, "rb") as file:
        magic = file.read(8)
        if len(magic) < 8 or magic[:4] != b"GGUF":
            raise InputError(path, "a GGUF file", f"a file that begins with {magic[:4]!r}")
        version = struct.unpack("<I", magic[4:])[0]
        if version not in (2, 3):
            raise InputError(path, "GGUF version 2 or 3, little-endian", str(version))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parse(path, version, data)
            # KeyError and ValueError: a type number that the format does not have.
            except (struct.error, KeyError, ValueError, UnicodeDecodeError, OverflowError) as error:
                raise InputError(
                    path, "a whole GGUF header", f"one that cannot be read ({error})", "is it truncated?"
                ) from error


def _parse(path: Path, version: int, data: mmap.mmap) -> GgufHeader:
    cursor = _Cursor(data)
    cursor.at = 8  # after the magic and the version
    tensor_count, pair_count = cursor.unpack("<Q"), cursor.unpack("<Q")
    pairs = tuple(cursor.key_value() for _ in range(pair_count))
    _check_once(path, "key", [pair.key for pair in pairs])
    alignment = next((pair.value for pair in pairs if pair.key == "general.alignment"), DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise InputError(path, "an alignment that is a power of two, 8 or more", repr(alignment))
    entries = []
    for _ in range(tensor_count):
        name = cursor.text()
        dims = tuple(cursor.unpack("<Q") for _ in range(cursor.unpack("<I")))
        kind = GGMLQuantizationType(cursor.unpack("<I"))
        if not dims or dims[0] % GGML_QUANT_SIZES[kind][0]:
            raise InputError(path, f"rows of whole blocks in {name} ({kind.name})", f"dimensions {list(dims)}")
        entries.append((name, dims, kind, cursor.unpack("<Q")))
    _check_once(path, "tensor", [entry[0] for entry in entries])
    start = aligned(cursor.at, alignment)
    tensors = tuple(
        TensorInfo(name, dims, kind, start + offset, tensor_bytes(dims, kind)) for name, dims, kind, offset in entries
    )
    _check_places(path, tensors, alignment, len(data))
    return GgufHeader(path, version, pairs, tensors, alignment)


def _check_once(path: Path, what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise InputError(path, f"every {what} once", f"{twice} twice")


def _check_places(path: Path, tensors: tuple[TensorInfo, ...], alignment: int, size: int) -> None:
    """Raise InputError when tensors overlap, are not aligned or do not fill the file: bytes are copied from there."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset < end or tensor.offset % alignment:
            raise InputError(path, f"{tensor.name} after byte {end}, at a multiple of {alignment}", str(tensor.offset))
        end = tensor.offset + tensor.size
    if end > size:
        raise InputError(path, f"at least {end} bytes, as its header says", f"{size} bytes", "is it truncated?")
    # The last tensor is padded or not. Bytes put in or taken out further up would else shift all that follow them.
    padded = aligned(end, alignment)
    if tensors and size not in (end, padded):
        raise InputError(path, f"{padded} bytes, as its header says", f"{size} bytes", "is it damaged?")


def header_bytes(header: GgufHeader, pairs: list[bytes], tensors: list[TensorPlan]) -> bytes:
    """Return a header with these key-values and tensors, padded so that data can follow."""
    parts = [struct.pack("<4sIQQ", b"GGUF", header.version, len(tensors), len(pairs)), *pairs]
    offset = 0
    for name, dims, kind in tensors:
        encoded = name.encode("utf-8", "surrogateescape")
        parts.append(
            struct.pack(f"<Q{len(encoded)}sI{len(dims)}QIQ", len(encoded), encoded, len(dims), *dims, kind, offset)
        )
        offset = aligned(offset + tensor_bytes(dims, kind), header.alignment)
    text = b"".join(parts)
    return text + bytes(aligned(len(text), header.alignment) - len(text))


def key_value(key: str, value: Any) -> bytes:
    """Return a key-value as bytes of a header: a str, bool, uint32 (int), float32 (float), or a list of one of them."""
    items = value if isinstance(value, list) else [value]
    kind = STRING if isinstance(items[0], str) else SCALAR_KINDS[type(items[0])]
    body = b"".join(_text(item) if kind == STRING else struct.pack(SCALARS[kind], item) for item in items)
    array = struct.pack("<IIQ", ARRAY, kind, len(items)) if isinstance(value, list) else struct.pack("<I", kind)
    return _text(key) + array + body


def _text(string: str) -> bytes:
    encoded = string.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def file_bytes(header: GgufHeader, pairs: list[bytes], tensors: list[TensorPlan]) -> int:
    """Return the size in bytes of a file with this header and its data, each tensor padded."""
    return len(header_bytes(header, pairs, tensors)) + sum(
        aligned(tensor_bytes(dims, kind), header.alignment) for _, dims, kind in tensors
    )


def write_header_only(header: GgufHeader, pairs: list[bytes], tensors: list[TensorPlan], output: Path) -> GgufHeader:
    """Write a header and a hole of the size of its data; return the header as read back.

    The hole takes no room on the disk, and a dry run of llama-quantize reads no further than the header.
    """
    with open(output, "wb") as file:
        file.write(header_bytes(header, pairs, tensors))
        file.truncate(file_bytes(header, pairs, tensors))
    return read_header(output)


def split_paths(path: Path) -> list[Path]:
    """Return all files of the model whose first file is `path`: one, or those of a split; check that they are there."""
    header = read_header(path)
    count = header.value("split.count") or 1
    if type(count) is not int:
        raise InputError(path, "a whole number split.count", shown(count))
    if count == 1:
        return [path]
    match = PART_ENDING.search(path.name)
    if not match or header.value("split.no") != 0 or int(match[2]) != count:
        raise InputError(
            path, f"the first file of a split, NAME-00001-of-{count:05d}.gguf", f"part {header.value('split.no')}"
        )
    stem = path.name[: match.start()]
    paths = [path, *(path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(2, count + 1))]
    # A part of another split of the same name would give a model of two.
    for number, part in enumerate(paths[1:], start=1):
        found = read_header(part)
        if (found.value("split.no"), found.value("split.count")) != (number, count):
            raise InputError(
                part,
                f"part {number} of {count} of a split (split.no counts from 0)",
                f"part {found.value('split.no')} of {found.value('split.count')}",
            )
    return paths
