#!/usr/bin/env python3
"""Freeze the order of the choices once and make the lm-eval task that reads it.

Inputs:  questions in GPQA's columns; the order seed; for held-out scores a drop map, whose held-out questions stay.
Output:  DIR/frozen.jsonl (Record ID, Question, choice1..4, choices, order, answer, prompt) and
         DIR/gpqa_diamond_cot_zeroshot_frozen.yaml, which is lm-eval's own gpqa_diamond_cot_zeroshot without the shuffle.
         `order` is the place of each shown choice in [incorrect 1, 2, 3, correct]. Holds question text: keep it in build/.
Use:     scripts/freeze_questions.py --questions FILE --seed 42 --output DIR

Why: the task shuffles with the global random state inside datasets.map, so the order depends on the cache of `datasets`
and prompts can disagree with targets.
"""

import argparse
import importlib.util
import json
from pathlib import Path

from chats.questions import Question, clean_choice, load_questions, read_rows
from files.safe_files import InputError, read_json, replace_when_done, run
from scoring.lm_eval_samples import TASK

GPQA_ORDER = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer")


def frozen_row(question: Question, row: dict[str, str]) -> dict:
    """Return the document that the task's templates read, from a question and the row of the file that it comes from."""
    choices = {f"choice{i}": choice for i, choice in enumerate(question.choices, start=1)}
    unshuffled = [clean_choice(row[column]) for column in GPQA_ORDER]
    return {
        "Record ID": question.record_id,
        "Question": question.text,
        **choices,
        "choices": list(question.choices),
        "order": [unshuffled.index(choice) for choice in question.choices],
        "answer": f"({question.letter})",
        "prompt": question.prompt,
    }


def held_out(documents: list[dict], drop_map: Path) -> list[dict]:
    """Return the documents that did not choose the experts of a drop map, in the order that all of them have."""
    wanted = set(read_json(drop_map).get("held_out_question_ids") or [])
    kept = [document for document in documents if document["Record ID"] in wanted]
    if not wanted or len(kept) != len(wanted):
        raise InputError(
            drop_map,
            "held-out questions, all of them in the question file",
            f"{len(wanted)}, {len(kept)} of them in it",
            "make the map with --fold",
        )
    return kept


def task_yaml(base: Path, data: Path) -> str:
    """Return the task: lm-eval's prompt, filters and metric over the frozen file."""
    return (
        f"include: {json.dumps(str(base))}\ntask: {TASK}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n    train: {json.dumps(str(data))}\nprocess_docs: null\n"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True, help="questions in GPQA's columns")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order of choices (default 42)")
    parser.add_argument(
        "--held-out-of", type=Path, metavar="MAP", help="keep the questions that this drop map held out"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to write into")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    documents = [
        frozen_row(*pair) for pair in zip(load_questions(args.questions, args.seed), read_rows(args.questions))
    ]
    if args.held_out_of:
        documents = held_out(documents, args.held_out_of)
    content = "".join(json.dumps(document) + "\n" for document in documents)
    lm_eval = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
    data = args.output.resolve() / "frozen.jsonl"
    answers = args.output.parent / "answers.jsonl"
    if answers.exists() and answers.stat().st_size and data.exists() and data.read_text() != content:
        raise InputError(
            args.output.parent,
            f"answers to the questions of {args.questions} by seed {args.seed}",
            "those to others",
            "remove the directory or give another OUTPUT",
        )
    with replace_when_done(data) as partial:
        partial.write_text(content)
    with replace_when_done(args.output / f"{TASK}.yaml") as partial:
        partial.write_text(task_yaml(lm_eval / "tasks/gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml", data))
    print(f"{args.output}: {len(documents)} questions, order of choices by seed {args.seed}")


if __name__ == "__main__":
    run(main)
