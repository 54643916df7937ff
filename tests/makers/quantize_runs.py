"""Command lines of quantize_gguf.py over the demo's files."""

from pathlib import Path


def quantize_arguments(
    built: Path, quant: str, output: Path, *more: object, source: Path | None = None, imatrix: object = ""
) -> list[str]:
    """Return the arguments for F16.gguf and imatrix.gguf of a folder; `imatrix` None leaves the imatrix out."""
    flags = [] if imatrix is None else ["--imatrix", imatrix or built / "imatrix.gguf"]
    parts = ("--input", source or built / "F16.gguf", *flags, "--type", quant, "--output", output, *more)
    return [str(part) for part in parts]
