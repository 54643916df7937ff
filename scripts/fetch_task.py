#!/usr/bin/env python3
"""Download the questions of a task from the Hub, the dataset and split being those of lm-eval's own definition.

Inputs:  the task; for a gated dataset a token of an account that has accepted its terms, in HF_TOKEN or from
         `hf auth login`.
Output:  a JSONL file in the task's columns and, beside it, FILE.json: URL, size, sha256. A card names the benchmark by
         that record alone. The text must never be published: keep it in build/.
Example: .venv/bin/python scripts/fetch_task.py --task gsm8k_cot_zeroshot --output build/downloads/tasks/gsm8k.jsonl

For IFEval the data by which nltk counts sentences are fetched, too.
"""

import argparse
import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from files.deadline import DOWNLOAD_SECONDS, within
from files.fetched_files import FetchedRecord, check_online, dataset_url
from files.input_errors import InputError, reason_of
from files.option_types import command_parser, named_path
from files.safe_files import partial_directory, remove, run, write_whole
from files.silence import in_a_library
from files.written_records import as_lines, write_record
from scoring.eval_tasks import EvalTask, task_of

TOKEN_ADVICE = "is there a network? accept the terms of a gated dataset and run `hf auth login`; or give TASK_DATA=FILE"
CACHES = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH", "HF_MODULES_CACHE")
XET_CACHE = "HF_XET_CHUNK_CACHE_SIZE_BYTES"


def fetched_rows(dataset: str, name: str | None, split: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of a split, downloaded into a folder, and where they lie; raise InputError when that fails.

    dataset: a Hub id, or a directory.
    """
    # No question text may stay in the home directory, and what lies in a cache there is not what lies on the Hub. The
    # libraries read these when they are imported.
    os.environ |= {variable: str(folder / variable.lower()) for variable in CACHES} | {XET_CACHE: "0"}
    datasets, hub = importlib.import_module("datasets"), importlib.import_module("huggingface_hub.constants")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its own line on a damaged file, beside ours
    place = f"file:{Path(dataset).name}"  # not the path as it was given: folders can be called like a place on the Hub
    if not Path(dataset).exists():
        place = dataset_url(dataset, name, split, hub.ENDPOINT.rstrip("/"))
        check_online(datasets.config.HF_HUB_OFFLINE, f"fetch {dataset}")
    try:
        return datasets.load_dataset(dataset, name, split=split).to_list(), place
    # Of the Hub, of the network, of a dataset without that split; of a damaged file it says why in its cause. A server
    # that is no Hub makes the library raise anything.
    except Exception as error:
        reason = reason_of(error.__cause__ or error)
        raise InputError(f"{dataset}, split {split}", "a dataset that can be read", reason, TOKEN_ADVICE) from error


def fetch_punkt() -> None:
    """Fetch the data by which nltk counts sentences; raise InputError when that fails."""
    import nltk

    with in_a_library("nltk", "its data punkt_tab from the network"):  # it prints lines of its own, also when quiet
        done = nltk.download("punkt_tab", download_dir=f"{sys.prefix}/nltk_data", quiet=True)
    if not done:
        raise InputError("nltk", "its data punkt_tab from the network", "none")


def check_columns(output: Path, rows: list[dict[str, Any]], task: EvalTask) -> None:
    """Raise InputError when the dataset has not the task's columns any more."""
    if missing := [column for column in task.columns if not rows or column not in rows[0]]:
        raise InputError(output, f"the column {missing[0]!r}", "none", "give TASK_DATA=FILE")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("what is fetched").add_argument
    add("--task", required=True, help="task of lm-eval")
    add("--examples", action="store_true", help="the few shots, in place of the questions")
    add("--dataset", help="dataset in place of lm-eval's own: a Hub id, or a directory with a file of the split's name")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=named_path, required=True, help="JSONL file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    task = task_of(args.task)
    split = task.examples if args.examples else task.questions
    if not split:
        raise InputError("--examples", f"a task with few shots, which {args.task} has not", "--examples")
    dataset, name = (args.dataset, None) if args.dataset else (task.dataset, task.configuration)
    if not args.dataset and Path(dataset).exists():
        raise InputError(
            dataset, "nothing of the name of the Hub's dataset here, which would be taken for it", "a place"
        )
    folder = partial_directory(args.output)
    remove(folder)  # of a run that was killed: what lies there would be taken for a download
    try:
        rows, place = within(
            DOWNLOAD_SECONDS, dataset, lambda: fetched_rows(dataset, name, split, folder), TOKEN_ADVICE
        )
        check_columns(args.output, rows, task)
        if task.is_ifeval:
            within(DOWNLOAD_SECONDS, "nltk", fetch_punkt)
        content = as_lines(rows)
        fetched = {"url": place, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_record(Path(f"{args.output}.json"), fetched, FetchedRecord)  # first, as in fetch_calibration.py
        write_whole(args.output, content)
    finally:
        remove(folder)  # also of a refused dataset: it holds question text
    print(f"{args.output}: {len(rows)} rows of {dataset}, split {split}")


if __name__ == "__main__":
    run(main)
