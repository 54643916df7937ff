"""A GGUF file above the size limit, split by llama.cpp's own tool. The parts are compared with the whole."""

from pathlib import Path
from typing import ClassVar

from files.byte_ranges import Run, same_bytes
from files.input_errors import InputError, sha256_file
from files.json_records import Record, Sha256, read_record
from files.safe_files import check_replaceable, directory_when_done, require_disk_space
from files.seals import is_kept
from files.written_records import write_record
from ggufs.gguf_header import TensorInfo, aligned, header_bytes, read_header, split_paths
from llama.llama_tools import LlamaCpp, run_tool

SPLIT_RECORD = "split.json"
SPLIT_UNIT_BYTES = 1_000_000  # llama-gguf-split's M
OF_A_SPLIT = "split."  # keys that llama-gguf-split adds


class Split(Record):
    """What parts were made from, and their digests by file name."""

    what: ClassVar[str] = "the record of a split GGUF file"
    sha256: Sha256
    limit_bytes: int
    llama_cpp: str
    parts: dict[str, Sha256]


def tensors_of(first: Path) -> dict[str, tuple[Path, TensorInfo]]:
    """Return the tensors of a GGUF file, each with the file it lies in; of a split one the first part is given."""
    return {tensor.name: (path, tensor) for path in split_paths(first) for tensor in read_header(path).tensors}


def shapes_and_types(tensors: dict[str, tuple[Path, TensorInfo]]) -> dict[str, tuple]:
    """Return dimensions and type of each tensor."""
    return {name: (tensor.dims, tensor.kind) for name, (_, tensor) in tensors.items()}


def check_key_values(whole: Path, parts: list[Path]) -> None:
    """Raise InputError unless the first part has the key-values of a file, and no part others but those of a split."""
    header = read_header(whole)
    own = {pair.key: pair.raw for pair in header.key_values}
    for number, part in enumerate(parts):
        pairs = read_header(part).key_values
        of_split = {"split.no": number, "split.count": len(parts), "split.tensors.count": len(header.tensors)}
        said = {pair.key: pair.value for pair in pairs if pair.key.startswith(OF_A_SPLIT)}
        found = {pair.key: pair.raw for pair in pairs if pair.key not in said}
        if (found, said) != ({} if number else own, of_split):
            expected = "those of its place in the split alone" if number else f"those of {whole.name}"
            raise InputError(part, f"as key-values {expected}", "others")


def check_no_room(part: Path) -> None:
    """Raise InputError unless a part is header and tensors, one after the other, zeros between, nothing behind."""
    header = read_header(part)
    plans = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]
    begin = header_bytes(header, [pair.raw for pair in header.key_values], plans)
    with open(part, "rb") as file:
        plain, end = file.read(len(begin)) == begin, len(begin)
        for tensor in header.tensors:
            file.seek(tensor.offset + tensor.size)
            end = aligned(tensor.offset + tensor.size, header.alignment)
            plain = plain and not any(file.read(end - tensor.offset - tensor.size))
    if not plain or part.stat().st_size != end:
        raise InputError(part, "header and tensors alone, with zeros between", "other bytes")


def check_parts(whole: Path, parts: list[Path], limit: int) -> None:
    """Raise InputError unless parts are what a file is split into, byte for byte, each within the limit in bytes."""
    check_key_values(whole, parts)
    for part in parts:
        check_no_room(part)
    found, expected = tensors_of(parts[0]), tensors_of(whole)
    if shapes_and_types(found) != shapes_and_types(expected):
        raise InputError(parts[0], f"the tensors of {whole.name} in its parts", "others")
    for name, (path, tensor) in found.items():
        source = expected[name][1]
        if not same_bytes(Run(whole, source.offset, source.size), path, tensor.offset):
            raise InputError(path, f"the bytes of {name} in {whole.name}", "others")
    for part in parts:
        if (size := part.stat().st_size) > limit:
            advice = "one tensor or the header alone may be as large"
            raise InputError(part, f"at most {limit} bytes", f"{size}", advice)


def split_command(tool: Path, whole: Path, prefix: Path, limit: int) -> list[object]:
    """Return llama-gguf-split's command line for parts of at most `limit` bytes; raise InputError if it is too low."""
    header_bytes = min(tensor.offset for tensor in read_header(whole).tensors)
    # The tool counts the tensors alone, and the first part also holds the whole header: its bytes are left free.
    tensor_bytes = limit - header_bytes
    if tensor_bytes < SPLIT_UNIT_BYTES:
        most = limit - SPLIT_UNIT_BYTES
        raise InputError(whole, f"a header of at most {most} bytes, to be split at {limit}", f"one of {header_bytes}")
    size = f"{tensor_bytes // SPLIT_UNIT_BYTES}M"
    return [tool, "--split", "--split-max-size", size, whole.resolve(), prefix.resolve()]


def kept_parts(folder: Path, made_from: dict) -> list[Path]:
    """Return the parts of an earlier run, [] unless all of them are there, whole, sealed, and made from the same."""
    record = folder / SPLIT_RECORD
    known = read_record(record, Split, f"remove {folder}") if is_kept(record) else {}
    if {key: known.get(key) for key in made_from} != made_from:
        return []
    parts = {folder / name: digest for name, digest in known["parts"].items()}
    whole = all(part.is_file() and sha256_file(part) == digest for part, digest in parts.items())
    return list(parts) if whole else []


def split_gguf(tools: LlamaCpp, whole: Path, sha256: str, limit: int, folder: Path) -> list[Path]:
    """Return the parts of a GGUF file of at most `limit` bytes each, in a folder that keeps them for the next time.

    Raises InputError when the tool fails or a part is not what it should be.
    """
    made_from = {"sha256": sha256, "limit_bytes": limit, "llama_cpp": tools.version()}
    if parts := kept_parts(folder, made_from):
        return parts
    check_replaceable(folder, SPLIT_RECORD)
    require_disk_space(folder.parent, whole.stat().st_size)
    with directory_when_done(folder, SPLIT_RECORD) as partial:
        command = split_command(tools.tool("llama-gguf-split"), whole, partial / whole.stem, limit)
        run_tool(command, cwd=Path.cwd(), what=f"split {whole.name}", step=r"Writing file .*-(\d{5})-of-(\d{5})")
        parts = sorted(partial.glob("*.gguf"))
        if not parts:
            raise InputError(whole, "parts by llama-gguf-split", "none")
        check_parts(whole, parts, limit)
        digests = {part.name: sha256_file(part) for part in parts}
        write_record(partial / SPLIT_RECORD, {**made_from, "parts": digests}, Split)
    return [folder / part.name for part in parts]
