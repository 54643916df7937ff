#!/usr/bin/env python3
"""Freeze the order of the choices, and write the lm-eval task that reads it.

Inputs:  questions in GPQA's columns, or in those of another task of lm-eval, with its few shots; the order's seed. For
         held-out scores a drop map: its held-out questions stay.
Output:  DIR/frozen.jsonl (Record ID, Question, choice1..4, choices, order, answer, prompt) and
         DIR/gpqa_diamond_cot_zeroshot_frozen.yaml, lm-eval's own gpqa_diamond_cot_zeroshot without the shuffle.
         `order` is the place of each shown choice in [incorrect 1, 2, 3, correct]. The files hold question text: keep
         them in build/.
Example: .venv/bin/python scripts/freeze_questions.py --questions data/demo/eval_questions.csv \\
             --output build/try/eval/task

Why: lm-eval's task shuffles with the global random state inside datasets.map. So the order depends on the cache of
`datasets`, and prompts can disagree with targets.
"""

import argparse
import json
from pathlib import Path

from chats.questions import QUESTION_SEED
from choice.drop_map import read_map
from files.input_errors import LINES_MIB, InputError, read_whole, sha256_file
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, replace_when_done, run
from files.written_records import write_json, write_lines
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import MMLU_PRO_SHOTS, EvalTask, frozen_name, task_of
from scoring.frozen_questions import documents_of, other_documents
from scoring.frozen_task import task_yaml
from scoring.run_files import ANOTHER_OUTPUT, FROZEN, READ_FROM, SHOTS


def held_out(documents: list[dict], drop_map: Path) -> list[dict]:
    """Return the documents that did not choose the experts of a drop map, in their order.

    Raises InputError when the map held out no questions, or some that are not among the documents.
    """
    wanted = set(read_map(drop_map).get("held_out_question_ids", []))
    kept = [document for document in documents if document["Record ID"] in wanted]
    if not wanted or len(kept) != len(wanted):
        found = f"{len(wanted)}, {len(kept)} of them in it"
        raise InputError(
            drop_map, "held-out questions, all of them in the question file", found, "make the map with --fold"
        )
    return kept


def examples_of(path: Path | None, task: EvalTask, name: str) -> list[dict]:
    """Return the few shots of a task, [] where it has none; raise InputError when they are missing or not wanted."""
    if bool(path) != bool(task.examples):
        raise InputError("EXAMPLES", f"{'a file of' if task.examples else 'no'} few shots for {name}", str(path))
    shots = other_documents(path, task, shots=True) if path else []
    if path and len(shots) < MMLU_PRO_SHOTS:
        raise InputError(path, f"{MMLU_PRO_SHOTS} few shots or more for {name}", str(len(shots)))
    return shots


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--questions", type=Path, required=True, help="questions in GPQA's columns")
    add("--output", type=named_path, required=True, help="directory to write into")
    add = parser.add_argument_group("what is frozen").add_argument
    add("--seed", type=int, default=QUESTION_SEED, help="seed of the order of choices")
    add("--task", default=DEFAULT_TASK, help="task of lm-eval; scoring/eval_tasks.py has them all")
    add("--examples", type=Path, metavar="FILE", help="few shots of a task that has them, in its columns")
    add("--held-out-of", type=Path, metavar="MAP", help="keep only the questions that this drop map held out")
    return parser.parse_args(argv)


def check_unanswered(output: Path, content: str, what: str) -> None:
    """Raise InputError when the run around `output` has answers to questions other than `content`."""
    # Answers are recorded by Record ID. With another order of choices an old letter would count as an answer to it.
    data, answers = output / FROZEN, output.parent / "answers.jsonl"
    answered = answers.exists() and answers.stat().st_size > 0
    if answered and data.exists() and read_whole(data, LINES_MIB) != content.encode():
        raise InputError(output.parent, f"answers to {what}", "those to others", ANOTHER_OUTPUT)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    inputs = [path for path in (args.questions, args.examples, args.held_out_of) if path]
    check_apart(inputs, [args.output / FROZEN, args.output / SHOTS])
    task, name = task_of(args.task), frozen_name(args.task)
    documents = documents_of(args.questions, task, args.seed)
    if args.held_out_of:
        documents = held_out(documents, args.held_out_of)
    content = "".join(json.dumps(document) + "\n" for document in documents)
    check_unanswered(args.output, content, f"the questions of {args.questions} by seed {args.seed}")
    examples = examples_of(args.examples, task, args.task)
    read_from = {"question_file_sha256": args.questions, "examples_file_sha256": args.examples}
    write_json(args.output / READ_FROM, {key: sha256_file(path) for key, path in read_from.items() if path})
    write_lines(args.output / FROZEN, documents)
    if examples:
        write_lines(args.output / SHOTS, examples)
    with replace_when_done(args.output / f"{name}.yaml") as partial:
        partial.write_text(task_yaml(args.task, args.output, bool(examples)), encoding="utf-8")
    print(f"{args.output}: {len(documents)} questions, order of choices by seed {args.seed}")


if __name__ == "__main__":
    run(main)
