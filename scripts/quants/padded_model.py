"""Quants of padded models (PAD-*, and AUTO-<GiB> where it pays): what llama-quantize reads in a plan and in a build."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.input_errors import InputError
from files.safe_files import partial_directory, remove, require_disk_space
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.gguf_padding import (
    Width,
    changes_of,
    imatrix_changes,
    new_bytes,
    new_tensors,
    padded_header,
    padding_widths,
    write_padded,
)
from quants.recipes import Recipe


def widths_of(header: GgufHeader, recipe: Recipe) -> dict[str, Width]:
    """Return the widths that a recipe pads; raise InputError where it pads and there is nothing to pad."""
    widths = padding_widths(header, recipe.pad) if recipe.pad else {}
    if recipe.pad and not widths:
        raise InputError(
            recipe.name,
            "a model with a width that is no multiple of 256",
            "none",
            f"take {recipe.base}, it is the same",
        )
    return widths


def recorded_widths(header: GgufHeader, recipe: Recipe) -> dict[str, list[int]]:
    """Return by role the widths before and after, as a record names them; {} of a file that is not padded."""
    return {role: [width.now, width.then] for role, width in widths_of(header, recipe).items()}


def shapes_of(header: GgufHeader, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return the dims of every tensor of the file that a recipe makes."""
    changes = changes_of(header, widths_of(header, recipe))
    return {name: dims for name, dims, _ in new_tensors(header, changes)}


@contextmanager
def planned_header(header: GgufHeader, recipe: Recipe) -> Iterator[GgufHeader]:
    """Yield the header of what llama-quantize would read: the model's own, or a sparse one of the padded model."""
    widths = widths_of(header, recipe)
    if not widths:
        yield header
        return
    with tempfile.TemporaryDirectory() as folder:
        yield padded_header(header, widths, Path(folder) / "padded.gguf")


def padded_bytes(header: GgufHeader, recipe: Recipe) -> int:
    """Return the bytes of the padded model that a build holds on the disk meanwhile."""
    widths = widths_of(header, recipe)
    return new_bytes(header, changes_of(header, widths)) if widths else 0


def write_padded_pair(
    header: GgufHeader, widths: dict[str, Width], imatrix: Path | None, folder: Path
) -> tuple[Path, Path | None]:
    """Write the padded model and its imatrix into a folder; return both paths. The imatrix keeps its name."""
    model = folder / "padded.gguf"
    changes = changes_of(header, widths)
    require_disk_space(folder, new_bytes(header, changes))
    write_padded(header, widths, changes, model)
    if imatrix is None:
        return model, None
    matrix = read_header(imatrix)
    write_padded(matrix, {}, imatrix_changes(header, matrix, widths), folder / imatrix.name)
    return model, folder / imatrix.name


@contextmanager
def quantised_files(
    header: GgufHeader, recipe: Recipe, imatrix: Path | None, output: Path
) -> Iterator[tuple[Path, Path | None]]:
    """Yield the model and the imatrix that llama-quantize reads: the given ones, or padded ones, which go again."""
    widths = widths_of(header, recipe)
    if not widths:
        yield header.path, imatrix
        return
    folder = partial_directory(output)
    remove(folder)  # of a run that was killed
    try:
        folder.mkdir(parents=True)
        yield write_padded_pair(header, widths, imatrix, folder)
    finally:
        remove(folder)
