#!/usr/bin/env python3
"""Put a model where the pipeline reads it: link a local checkpoint directory, or download a repository of the Hub.

Inputs:  a directory, or a Hub id OWNER/NAME; with --assistant of an assistant, which drafts for a model.
Output:  DIR, a link to the directory or the downloaded snapshot; with --record a JSON file that knows the model by the
         digests of its config and weights (schema: checkpoints/model_record.py).
Example: .venv/bin/python scripts/fetch_model.py --model data/demo/model --output build/try/checkpoint

A download is held against the Hub's digests, file by file, and which repository it is of is sealed. A model is known
by its digests and not by where it lies. A record that is there already is only compared: a moved or downloaded copy of
the same model passes, another model is refused.
"""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from analysis.known_weights import check_known_weights
from chats.chat_tokenizer import load_tokenizer
from checkpoints.assistant import check_assistant
from checkpoints.checkpoint import read_checkpoint, read_config, source_digest, weights_digest
from checkpoints.computed_alike import check_computed_alike
from checkpoints.model_record import ModelRecord, seal_fetched
from checkpoints.moe_families import expert_tensors, family_of, shape_of
from choice.drop_metadata import check_full
from files.deadline import MODEL_SECONDS, within
from files.hub_client import is_on_hub
from files.input_errors import InputError, keep_readers_out, sha256_file
from files.json_records import read_record
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, run
from files.written_records import write_record
from llama.config_reading import check_config_read_alike
from llama.llama_tools import LlamaCpp, find_llama_cpp
from stages.hub_checks import downloading

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile

HUB_NOTES = ".cache"  # folder in which the Hub's client keeps what it has downloaded
# No second copy of the weights in another format. The card names the licence.
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICEN[CS]E*", "NOTICE*"]


SHOWN_DIGITS = 12


def download_model(model_id: str, directory: Path) -> None:
    """Download a repository, and hold it against the Hub's digests. A second call goes on with a stopped download.

    Raises InputError when the Hub refuses, and for a file that is not the Hub's.
    """
    if directory.is_symlink():  # of an earlier run: the download would be written into a directory of the user's
        directory.unlink()
    expected = "a local directory, or a Hub repository that can be reached and read"

    def fetch_snapshot() -> dict[str, RepoFile]:
        with downloading(model_id, expected, "for a gated one accept its terms and run `hf auth login`"):
            revision = HfApi().model_info(model_id).sha
            # Who could read its notes could hold the client's locks there.
            (directory / HUB_NOTES).mkdir(parents=True, exist_ok=True)
            keep_readers_out(directory / HUB_NOTES)
            snapshot_download(model_id, revision=revision, local_dir=directory, allow_patterns=PATTERNS)
            listed = HfApi().list_repo_tree(model_id, recursive=True, revision=revision)
            return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}

    entries = within(MODEL_SECONDS, model_id, fetch_snapshot, "the same command goes on from here", directory)
    # What lies there already counts as downloaded, by a note beside it that anybody can write.
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and name.parts[0] != HUB_NOTES:
            entry = entries.get(name.as_posix())
            if entry is None or not is_on_hub(path, entry):
                found = "another file" if entry else "a file that is not there"
                raise InputError(path, f"the file of {model_id} on the Hub", found, "remove it")


def check_model_directory(directory: Path) -> dict:
    """Return what tells a checkpoint from others, as ModelRecord has it.

    Raises InputError when it is of an unknown family, incomplete, or without a tokenizer that can chat. What is wrong
    shows here, in seconds, and not in the middle of the analysis.
    """
    config, tensors = read_config(directory), read_checkpoint(directory)
    check_full(directory)
    family = family_of(directory, config, list(tensors))
    shape = shape_of(directory, family, config)
    expert_tensors(directory, family, tensors, shape)
    check_computed_alike(directory, family, config)
    check_known_weights(directory, tensors)
    check_config_read_alike(directory, config, tools_if_built)
    load_tokenizer(directory)
    return {
        "model_type": str(config.get("model_type")),
        "experts": shape.experts,
        "layers": len(shape.layers),
        "config_sha256": sha256_file(directory / "config.json"),
        "weights_sha256": weights_digest(tensors),
    }


def tools_if_built() -> LlamaCpp | None:
    """Return the tools of llama.cpp where there are some: a machine that only drops needs none."""
    try:
        return find_llama_cpp(None)
    except InputError:
        return None  # the conversion looks again


def fetch(model: str, output: Path, check: Callable[[Path], dict]) -> dict:
    """Download a repository of the Hub, or take a directory as it is; return what `check` says of it."""
    if Path(model).is_dir():
        return check(Path(model))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise InputError(model, "a checkpoint directory or a Hub id OWNER/NAME", "neither")
    download_model(model, output)
    return check(output)


def keep_record(path: Path, model: str, directory: Path, found: dict, replace: bool) -> str | None:
    """Write the record of a model; unless `replace`, raise InputError when there is one and it is of another model.

    directory: where the model lies. found: what `check_model_directory` says of it. Returns its `source_digest`, None
    where an older record has none.
    """
    if replace or not path.exists():
        # All bytes: an edit between the samples of the weights, or of a tokenizer, would pass for this model.
        digest = source_digest(directory)
        write_record(path, found | {"source_sha256": digest}, ModelRecord)
        return digest
    known = read_record(path, ModelRecord)
    found = {**found, "source_sha256": source_digest(directory) if known["source_sha256"] else None}
    for key in ("weights_sha256", "config_sha256", "source_sha256"):
        if known[key] != found[key]:
            raise InputError(
                path,
                f"outputs of {model} ({key} {found[key][:SHOWN_DIGITS]})",
                f"those of another model ({known[key][:SHOWN_DIGITS]})",
                "choose another NAME, or add REPLACE=model to make all of it again",
            )
    return found["source_sha256"]


def check_link_place(target: Path) -> None:
    """Raise InputError for a place of a link that something else has."""
    if target.exists() and not target.is_symlink():
        advice = "a download lies there: choose another NAME, or move it away"
        raise InputError(target, "nothing, or a link to replace", "something else", advice)


def link_model(source: Path, target: Path) -> None:
    """Make `target` a relative symbolic link to the directory `source`."""
    check_link_place(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    # Relative, so that a project directory can be moved together with its models.
    target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()), target_is_directory=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("the model, and where it goes").add_argument
    add("--model", required=True, help="checkpoint directory or Hub id")
    add("--output", type=named_path, required=True, help="where to put the link or the download")
    add("--record", type=Path, help="JSON file to know the model by; one that is there is compared")
    add("--replace", action="store_true", help="write the record of another model over it")
    add("--assistant", action="store_true", help="the model is an assistant, which has no experts and no record")
    args = parser.parse_args(argv)
    if args.assistant and args.record:
        parser.error("--record: expected none with --assistant")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    local = Path(args.model)
    if local.is_dir():
        check_link_place(args.output)
        check_apart([local], [args.record] if args.record else [])
    found = fetch(args.model, args.output, check_assistant if args.assistant else check_model_directory)
    directory, digest = local if local.is_dir() else args.output, None
    if args.record:
        digest = keep_record(args.record, args.model, directory, found, args.replace)
    if not local.is_dir():
        seal_fetched(args.record or args.output, args.model, digest or source_digest(directory))
    else:  # last: another model must not take the place of the one that the outputs were made from
        link_model(local, args.output)
    what = "an assistant" if args.assistant else f"{found['experts']} experts in {found['layers']} layers"
    print(f"{args.output}: {found['model_type']}, {what}")


if __name__ == "__main__":
    run(main)
