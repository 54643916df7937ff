#!/usr/bin/env python3
"""Download GPQA Diamond, a gated dataset, with the user's own Hub token.

Inputs:  a token of an account that has accepted the dataset's terms, in HF_TOKEN or from `hf auth login`.
Output:  a CSV file in GPQA's columns and, beside it, FILE.json: URL, size, sha256. Its text must never be published:
         keep it in build/.
Example: .venv/bin/python scripts/fetch_gpqa.py --output build/downloads/gpqa_diamond.csv

Source: https://huggingface.co/datasets/Idavidrein/gpqa (Rein et al., 2023).
"""

import argparse
import os
from pathlib import Path

from chats.questions import GPQA_DATASET, GPQA_FILE, QUESTION_SEED, load_questions
from files.deadline import DOWNLOAD_SECONDS, within
from files.fetched_files import GPQA_URL, HUB, FetchedRecord, check_online
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, named_path
from files.safe_files import copy_file, partial_directory, remove, replace_when_done, run
from files.written_records import write_record
from stages.hub_checks import downloading

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import logging


def download_questions(folder: Path) -> Path:
    """Download GPQA Diamond into a folder; raise InputError when the Hub refuses or cannot be reached."""
    # The Hub's transfer library keeps pieces of downloads in the home directory. No question text may stay there.
    os.environ["HF_XET_CHUNK_CACHE_SIZE_BYTES"] = "0"
    logging.set_verbosity_error()  # it would report each of its attempts before the one line of ours
    check_online(constants.HF_HUB_OFFLINE, "fetch GPQA Diamond")
    advice = "accept its terms on the Hub and run `hf auth login`, or give QUESTIONS=FILE"
    what = f"{GPQA_DATASET}/{GPQA_FILE}"

    def fetch() -> Path:
        # With local_dir the file does not go through the Hub's cache in the home directory. The client would still take
        # one that lies there, whatever it holds, so the cache is an empty one of this download.
        cache, kind = folder / "cache", "dataset"
        with downloading(what, "access to the gated dataset", advice):
            return Path(hf_hub_download(GPQA_DATASET, GPQA_FILE, repo_type=kind, local_dir=folder, cache_dir=cache))

    return within(DOWNLOAD_SECONDS, what, fetch, advice)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("output").add_argument
    add("--output", type=named_path, required=True, help="CSV file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.output.is_dir():  # here, since the record is written first
        raise InputError(args.output, "a file to write", "a directory")
    folder = partial_directory(args.output)
    remove(folder)  # of a run that was killed: without a network the client would take what lies there for a download
    try:
        source = download_questions(folder)
        questions = load_questions(source, QUESTION_SEED)  # before it is put in place: a damaged file is refused here
        # The record comes first, as in fetch_calibration.py.
        # Of a mirror (HF_ENDPOINT) the record names the mirror: a card then credits nobody with its file.
        url = GPQA_URL.replace(HUB, constants.ENDPOINT.rstrip("/"))
        found = {"url": url, "bytes": source.stat().st_size, "sha256": sha256_file(source)}
        write_record(Path(f"{args.output}.json"), found, FetchedRecord)
        with replace_when_done(args.output) as partial:
            copy_file(source, partial)
    finally:
        remove(folder)  # else a damaged download would be taken for a good one by the next call
    print(f"{args.output}: {len(questions)} questions")


if __name__ == "__main__":
    run(main)
