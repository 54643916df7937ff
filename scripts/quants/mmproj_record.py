"""The record of a file for pictures, FILE.gguf.json: convert_to_gguf.py --mmproj writes it, a release holds a copy."""

from pathlib import Path
from typing import ClassVar

from files.safe_files import FileRecord, InputError, Sha256, read_record, sha256_file
from quants.quant_record import record_path


class MmprojRecord(FileRecord):
    """A converted tower.

    towers: vision, and audio where the checkpoint has it. projection_width: values of an embedding, the hidden size of
    the model that it is for. added: header keys that are not the converter's (ggufs/mmproj.py). source_sha256: over the
    checkpoint's config files and the digest of its towers, which a drop of experts leaves as they are.
    """

    what: ClassVar[str] = "a record of convert_to_gguf.py --mmproj"
    name: str
    type: str
    towers: list[str]
    projection_width: int
    parameters: int
    tensors_per_type: dict[str, int]
    added: list[str]
    towers_sha256: Sha256
    source_sha256: Sha256
    llama_cpp: str


def read_whole_mmproj(gguf: Path) -> dict:
    """Return the record of a file for pictures; raise InputError when its bytes are not those that the record names."""
    if not gguf.is_file():
        raise InputError(gguf, "a GGUF file", "nothing")
    record = read_record(record_path(gguf), MmprojRecord)
    if (record["bytes"], record["sha256"]) != (gguf.stat().st_size, sha256_file(gguf)):
        expected = f"the file of its record, sha256 {record['sha256'][:12]}"
        raise InputError(gguf, expected, "other bytes", "build it again")
    return record
