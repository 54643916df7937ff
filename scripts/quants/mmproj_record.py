"""The record of a file for pictures, FILE.gguf.json: convert_to_gguf.py --mmproj writes it, a release holds a copy."""

from typing import ClassVar

from files.json_records import FileRecord, Sha256


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
