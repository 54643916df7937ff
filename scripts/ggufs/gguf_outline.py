"""The outline of a GGUF file: header, routers and small tensors, which is what a release is held against."""

from pathlib import Path

from files.outlines import write_outline
from ggufs.gguf_header import read_header

SMALL_TENSOR_BYTES = 1 << 20
ROUTER = ".ffn_gate_inp."


def outline_path(gguf: Path) -> Path:
    """Return where the outline of a GGUF file lies."""
    return gguf.with_suffix(".outline.gguf")


def file_or_outline(gguf: Path) -> Path:
    """Return a GGUF file, or its outline where the file has gone and the outline stayed."""
    return outline_path(gguf) if not gguf.is_file() and outline_path(gguf).is_file() else gguf


def write_gguf_outline(gguf: Path) -> None:
    """Write the outline of a GGUF file beside it."""
    header = read_header(gguf)
    begin = min((tensor.offset for tensor in header.tensors), default=gguf.stat().st_size)
    kept = [each for each in header.tensors if each.size <= SMALL_TENSOR_BYTES or ROUTER in each.name]
    write_outline(gguf, [(0, begin), *((tensor.offset, tensor.size) for tensor in kept)], outline_path(gguf))
