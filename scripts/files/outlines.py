"""Outlines of large files: of the same size, with the bytes of some ranges and holes elsewhere.

Where a large file goes (LOW_DISK=yes), its outline stays: a release is later held against the headers, the routers and
the samples in it. It takes next to no disk, and has a name of its own, so that nothing takes it for the file.
"""

from collections.abc import Iterable
from pathlib import Path

from files.byte_ranges import COPY_BYTES
from files.input_errors import InputError
from files.safe_files import replace_when_done

Range = tuple[int, int]  # first byte, length


def write_outline(source: Path, ranges: Iterable[Range], output: Path) -> None:
    """Write a file of the size of `source` that holds these ranges of it."""
    size = source.stat().st_size
    with replace_when_done(output) as partial, open(source, "rb") as file, open(partial, "wb") as target:
        target.truncate(size)
        for first, length in ranges:
            if first + length > size:
                raise InputError(source, f"{first + length} bytes or more", str(size))
            while length:
                file.seek(first)
                piece = file.read(min(length, COPY_BYTES))
                target.seek(first)
                target.write(piece)
                first, length = first + len(piece), length - len(piece)
