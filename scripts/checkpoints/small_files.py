"""The small files of a checkpoint, which a pruned one gets as they are: tokenizer, templates, generation settings."""

import shutil
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.input_errors import InputError

TEMPLATES_NAME = "additional_chat_templates"
# Weights in any format: a copy of the full model's beside the pruned ones would be loaded in their place.
NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


def small_files(source: Path) -> list[Path]:
    """Return tokenizer, templates, generation and processor files; not weights, indexes, config and hidden files.

    Raises InputError for a link that leads to nothing: it may stand for any of them.
    """
    for path in sorted(source.iterdir()):
        if path.is_symlink() and not path.exists():
            raise InputError(path, "a file", "a link to nothing", "fetch the model again")
    files = [
        path
        for path in sorted(source.iterdir())
        if path.is_file()
        and path.suffix not in NOT_COPIED
        and not path.name.startswith(".")
        and path.name not in ("config.json", METADATA_NAME)
        and not path.name.endswith(".index.json")
    ]
    return files + [path for path in sorted((source / TEMPLATES_NAME).rglob("*")) if path.is_file()]


def copy_small_files(source: Path, output: Path) -> None:
    """Copy the small files of a checkpoint into another."""
    for path in small_files(source):
        target = output / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
