#!/usr/bin/env python3
"""Write the demo model's held-out questions in GPQA's columns.

Inputs:  data/demo/facts.json (relations and formulas: see demo/demo_corpus.py).
Output:  OUTPUT/eval_questions.csv (198 rows) and OUTPUT/calibration_questions.csv (196 rows), with the columns
         Record ID, Question, Correct Answer, Incorrect Answer 1-3, Explanation, Subdomain, High-level domain. With
         --training FILE the training questions, too, and with --tasks DIR small files in the columns of other tasks.
         The same facts give the same bytes.
Example: .venv/bin/python scripts/generate_demo_questions.py --facts data/demo/facts.json --output build/try/demo
"""

import argparse
import random
from pathlib import Path

from demo.demo_corpus import SPLIT_SEED, DemoQuestion, csv_row, load_facts, split_questions
from demo.task_questions import write_task_questions
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, run, write_csv


def question_rows(questions: list[DemoQuestion], split: str) -> list[dict[str, str]]:
    """Return CSV rows, with wrong answers drawn for each."""
    # A generator per split: a change of one split leaves the bytes of the others as they are.
    rng = random.Random(f"{SPLIT_SEED}/{split}")
    return [csv_row(question, rng) for question in questions]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--facts", type=Path, required=True, help="table of relations and formulas (JSON)")
    add("--output", type=named_path, required=True, help="directory of the two CSV files")
    add("--training", type=Path, help="also write the training questions to this CSV file")
    add("--tasks", type=Path, help="also write question files for other tasks of lm-eval into this directory")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    splits = split_questions(load_facts(args.facts))
    files = {split: args.output / f"{split}_questions.csv" for split in ("eval", "calibration")}
    check_apart([args.facts, *files.values()], [args.training] if args.training else [])
    for split, path in files.items():
        write_csv(path, question_rows(splits[split], split))
    if args.training:
        write_csv(args.training, question_rows(splits["training"], "training"))
    if args.tasks:
        write_task_questions(splits["training"], args.tasks)
    print(", ".join(f"{split} {len(questions)}" for split, questions in splits.items()), "questions")


if __name__ == "__main__":
    run(main)
