"""The outline of a GGUF file: header, routers and small tensors, which is what a release is held against."""

import hashlib
from pathlib import Path

from files.input_errors import InputError
from files.outlines import Range, write_outline
from files.seals import Seal, seal_said, seals_over
from ggufs.gguf_header import read_header

SEALED_AS = "outline"
SMALL_TENSOR_BYTES = 1 << 20
ROUTER = ".ffn_gate_inp."


def outline_path(gguf: Path) -> Path:
    """Return where the outline of a GGUF file lies."""
    return gguf.with_suffix(".outline.gguf")


def file_or_outline(gguf: Path) -> Path:
    """Return a GGUF file, or its outline where the file has gone and the outline stayed."""
    return outline_path(gguf) if not gguf.is_file() and outline_path(gguf).is_file() else gguf


def kept_ranges(gguf: Path) -> list[Range]:
    """Return the ranges of a GGUF file, or of its outline, that the outline holds."""
    header = read_header(gguf)
    begin = min((tensor.offset for tensor in header.tensors), default=gguf.stat().st_size)
    kept = [each for each in header.tensors if each.size <= SMALL_TENSOR_BYTES or ROUTER in each.name]
    return [(0, begin), *((tensor.offset, tensor.size) for tensor in kept)]


def outline_digest(outline: Path) -> str:
    """Return the hex sha256 of what an outline holds; the holes of a large file would take a minute."""
    digest = hashlib.sha256()
    with open(outline, "rb") as file:
        for first, length in kept_ranges(outline):
            file.seek(first)
            digest.update(file.read(length))
    return digest.hexdigest()


def write_gguf_outline(gguf: Path) -> None:
    """Write the outline of a GGUF file beside it, and seal what it holds, of which no record has a digest."""
    outline = outline_path(gguf)
    write_outline(gguf, kept_ranges(gguf), outline)
    seal_said(outline, outline_digest(outline), SEALED_AS)


def check_outline(outline: Path) -> None:
    """Raise InputError unless free_disk.py wrote an outline as it is. Outside of a build folder nothing is known."""
    if seals := seals_over(outline):
        seal = seals.of_said(outline, outline_digest(outline), SEALED_AS, ("free_disk",))
        if seal != Seal.VALID:
            raise InputError(outline, "what free_disk.py wrote", seal.value, "convert the model again")
