#!/usr/bin/env python3
"""Put a model where the pipeline reads it: link a local checkpoint directory, or download a repository of the Hub.

Inputs:  a directory, or a Hub id OWNER/NAME.
Output:  DIR, a link to the directory or the downloaded snapshot.
Use:     scripts/fetch_model.py --model google/gemma-4-26B-A4B-it --output DIR
"""

import argparse
import os
import re
from pathlib import Path

from chats.chat_tokenizer import load_tokenizer
from checkpoints.checkpoint import read_checkpoint, read_config
from checkpoints.moe_families import expert_tensors, family_of, shape_of
from files.option_types import command_parser
from files.safe_files import InputError, run

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]  # no second copy of the weights in another format


def download_model(model_id: str, directory: Path) -> None:
    """Download a repository; raise InputError when the Hub refuses. A second call goes on with a stopped download."""
    if directory.is_symlink():  # of an earlier run: the download would be written into a directory of the user's
        directory.unlink()
    try:
        snapshot_download(model_id, local_dir=directory, allow_patterns=PATTERNS)
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise InputError(
            model_id,
            "a local directory, or a Hub repository that can be reached and read",
            str(error).splitlines()[0][:200],
            "for a gated one accept its terms and run `hf auth login`",
        ) from error


def check_model_directory(directory: Path) -> None:
    """Raise InputError when a checkpoint is of an unknown family, incomplete, or without a tokenizer that can chat.

    What is wrong shows here, in seconds, and not in the middle of the analysis.
    """
    config, tensors = read_config(directory), read_checkpoint(directory)
    family = family_of(directory, config, list(tensors))
    expert_tensors(directory, family, tensors, shape_of(directory, family, config))
    load_tokenizer(directory)


def link_model(source: Path, target: Path) -> None:
    """Make `target` a relative symbolic link to the directory `source`."""
    if target.exists() and not target.is_symlink():
        raise InputError(target, "nothing, or a link to replace", "something else")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    # Relative, so that a project directory can be moved together with its models.
    target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()), target_is_directory=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--model", required=True, help="checkpoint directory or Hub id")
    parser.add_argument("--output", type=Path, required=True, help="where to put the link or the download")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    local = Path(args.model)
    if local.is_dir():
        check_model_directory(local)
        link_model(local, args.output)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", args.model):
        download_model(args.model, args.output)
        check_model_directory(args.output)
    else:
        raise InputError(args.model, "a checkpoint directory or a Hub id OWNER/NAME", "neither")
    print(f"{args.output}: {args.model}")


if __name__ == "__main__":
    run(main)
