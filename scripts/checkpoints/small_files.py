"""The small files of a checkpoint, which a pruned one gets as they are; their names are those of small_names.py."""

from pathlib import Path

from checkpoints.small_names import is_small_file
from files.input_errors import InputError, check_bounded, shown
from files.safe_files import copy_file
from files.tokenizer_names import TEMPLATES_NAME

# Weights in any format, and what a drop writes itself: no news in a list of what was left out.
NOT_SMALL = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
MOST_NAMES = 5


def small_files(source: Path) -> list[Path]:
    """Return tokenizer, templates, generation and processor files, card and licence; not weights, index and config.

    Raises InputError for a link to nothing, which may stand for any of them, for a file that is not small, and for a
    link to a file of another folder: what these hold is published.
    """
    for path in sorted(source.iterdir()):
        if path.is_symlink() and not path.exists():
            raise InputError(path, "a file", "a link to nothing", "fetch the model again")
    files = [*sorted(source.iterdir()), *sorted((source / TEMPLATES_NAME).glob("*"))]
    small = [path for path in files if path.is_file() and is_small_file(path.relative_to(source).as_posix())]
    for path in small:
        check_bounded(path)
        check_lies_in(source, path)
    return small


def check_lies_in(source: Path, path: Path) -> None:
    """Raise InputError unless a file lies in a checkpoint's folder, or where the Hub's cache has a snapshot's."""
    folder = source.resolve()
    cached = folder.parent.name == "snapshots" and path.resolve().parent == folder.parent.parent / "blobs"
    if not cached and not path.resolve().is_relative_to(folder):
        advice = "put the file itself there, if it is the model's"
        raise InputError(path, "a file of the checkpoint", f"a link to {shown(path.resolve())}", advice)


def left_out(source: Path) -> list[str]:
    """Return the names of the files and folders of a checkpoint that a pruned one does not get, but hidden ones."""
    return [
        path.name
        for path in sorted(source.iterdir())
        if not (is_small_file(path.name) or path.name.endswith(NOT_SMALL) or path.name.startswith("."))
        and path.name not in ("config.json", TEMPLATES_NAME)
    ]


def left_out_words(source: Path) -> str:
    """Return how a closing line ends that names what was left out; "" where that is nothing."""
    names = [ascii(name)[1:-1][:60] for name in left_out(source)]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"; left out: {', '.join(names[:MOST_NAMES])}{more}" if names else ""


def copy_small_files(source: Path, output: Path) -> None:
    """Copy the small files of a checkpoint into another."""
    for path in small_files(source):
        target = output / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, target)
