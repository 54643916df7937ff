#!/usr/bin/env python3
"""Download GPQA Diamond, a gated dataset, with the user's own Hub token.

Output:  a CSV file in GPQA's columns. Its text must never be published: keep it in build/.
Use:     scripts/fetch_gpqa.py --output build/questions/gpqa_diamond.csv

Source: https://huggingface.co/datasets/Idavidrein/gpqa (Rein et al., 2023).
"""

import argparse
import os
import shutil
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from chats.questions import load_questions
from files.safe_files import InputError, partial_directory, remove, replace_when_done, run

DATASET = "Idavidrein/gpqa"
FILE = "gpqa_diamond.csv"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = partial_directory(args.output)  # not the Hub's cache in the home directory: no question text leaves build/
    os.environ["HF_XET_CHUNK_CACHE_SIZE_BYTES"] = "0"
    try:
        source = hf_hub_download(DATASET, FILE, repo_type="dataset", local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{DATASET}/{FILE}",
            "access to the gated dataset",
            str(error).splitlines()[0][:200],
            "accept its terms on the Hub and run `hf auth login`, or give QUESTIONS=FILE",
        ) from error
    questions = load_questions(Path(source), 42)
    with replace_when_done(args.output) as partial:
        shutil.copyfile(source, partial)
    remove(folder)
    print(f"{args.output}: {len(questions)} questions")


if __name__ == "__main__":
    run(main)
