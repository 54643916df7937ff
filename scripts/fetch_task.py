#!/usr/bin/env python3
"""Download the questions of a task from the Hub, the dataset and split being those of lm-eval's own definition.

Inputs:  the task; for a gated dataset a token of an account that has accepted its terms, in HF_TOKEN or from
         `hf auth login`.
Output:  a JSONL file in the task's columns. Its text must never be published: keep it in build/.
Example: .venv/bin/python scripts/fetch_task.py --task gsm8k_cot_zeroshot --output build/downloads/tasks/gsm8k.jsonl

For IFEval the data by which nltk counts sentences are fetched, too.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from files.json_records import write_lines
from files.option_types import command_parser, named_path
from files.safe_files import InputError, partial_directory, reason_of, remove, run
from scoring.eval_tasks import EvalTask, base_task, task_of

import yaml

TOKEN_ADVICE = "is there a network? accept the terms of a gated dataset and run `hf auth login`; or give TASK_DATA=FILE"


class Definition(yaml.SafeLoader):
    """Reads lm-eval's definitions, in which a name may stand for a function."""


Definition.add_constructor("!function", lambda loader, node: None)


def dataset_of(base: Path) -> tuple[str, str | None]:
    """Return dataset and configuration of a definition; what it does not say stands in the one that it includes."""
    content = yaml.load(base.read_text(encoding="utf-8"), Definition)
    if "dataset_path" not in content or "dataset_name" not in content and "include" in content:
        inherited = dataset_of(base.parent / content["include"])
        return content.get("dataset_path", inherited[0]), content.get("dataset_name", inherited[1])
    return content["dataset_path"], content.get("dataset_name")


def hub_rows(dataset: str, name: str | None, split: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a split, downloaded into a folder; raise InputError when that fails."""
    # No question text may stay in the home directory. The libraries read these when they are imported.
    os.environ |= {"HF_HUB_CACHE": str(folder), "HF_DATASETS_CACHE": str(folder), "HF_XET_CHUNK_CACHE_SIZE_BYTES": "0"}
    datasets = importlib.import_module("datasets")
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its own line on a damaged file, beside ours
    try:
        return datasets.load_dataset(dataset, name, split=split).to_list()
    # Of the Hub, of the network, of a dataset without that split; the last, of a damaged file, says why in its cause.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = reason_of(error.__cause__ or error)
        raise InputError(f"{dataset}, split {split}", "a dataset that can be read", reason, TOKEN_ADVICE) from error


def fetch_punkt() -> None:
    """Fetch the data by which nltk counts sentences; raise InputError when that fails."""
    import nltk

    if not nltk.download("punkt_tab", download_dir=f"{sys.prefix}/nltk_data", quiet=True):
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
    dataset, name = (args.dataset, None) if args.dataset else dataset_of(base_task(task))
    folder = partial_directory(args.output)
    try:
        rows = hub_rows(dataset, name, split, folder)
        check_columns(args.output, rows, task)
        if task.is_ifeval:
            fetch_punkt()
        write_lines(args.output, rows)
    finally:
        remove(folder)  # also of a refused dataset: it holds question text
    print(f"{args.output}: {len(rows)} rows of {dataset}, split {split}")


if __name__ == "__main__":
    run(main)
