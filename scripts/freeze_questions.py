#!/usr/bin/env python3
"""Freeze the order of the choices once and make the lm-eval task that reads it.

Inputs:  questions in GPQA's columns; the order seed.
Output:  DIR/frozen.jsonl (Record ID, Question, choice1..4, choices, answer) and DIR/gpqa_diamond_cot_zeroshot_frozen.yaml,
         which is lm-eval's own gpqa_diamond_cot_zeroshot without the shuffle. Holds question text: keep it in build/.
Use:     scripts/freeze_questions.py --questions FILE --seed 42 --output DIR

Why: the task shuffles with the global random state inside datasets.map, so the order depends on the cache of `datasets`
and prompts can disagree with targets.
"""

import argparse
import importlib.util
import json
from pathlib import Path

from questions import Question, load_questions
from safe_files import replace_when_done, run

TASK = "gpqa_diamond_cot_zeroshot_frozen"


def frozen_row(question: Question) -> dict:
    """Return the document that the task's templates read."""
    choices = {f"choice{i}": choice for i, choice in enumerate(question.choices, start=1)}
    return {"Record ID": question.record_id, "Question": question.text, **choices, "choices": list(question.choices),
            "answer": f"({question.letter})"}


def task_yaml(base: Path, data: Path) -> str:
    """Return the task: lm-eval's prompt, filters and metric over the frozen file."""
    return (f"include: {base}\ntask: {TASK}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files:\n    train: {data}\nprocess_docs: null\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=Path, required=True, help="questions in GPQA's columns")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order of choices (default 42)")
    parser.add_argument("--output", type=Path, required=True, help="directory to write into")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    questions = load_questions(args.questions, args.seed)
    lm_eval = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
    data = args.output.resolve() / "frozen.jsonl"
    with replace_when_done(data) as partial:
        partial.write_text("".join(json.dumps(frozen_row(q), ensure_ascii=False) + "\n" for q in questions))
    with replace_when_done(args.output / f"{TASK}.yaml") as partial:
        partial.write_text(task_yaml(lm_eval / "tasks/gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml", data))
    print(f"{args.output}: {len(questions)} questions, order of choices by seed {args.seed}")


if __name__ == "__main__":
    run(main)
