#!/usr/bin/env python3
"""Sum up one evaluation: raw, strict and patched score, invalid answers by class, and what chance would have added.

Inputs:  a run directory of ask_questions.py with its answers, lm-eval's results and samples and, unless the run is to
         stay unpatched, patched.json; for a pruned model its drop map or expert_drop_metadata.json.
Output:  RUN/summary.json: scores and for each question Record ID, order of choices, digests, letters, class and tokens;
         no text.
Example: .venv/bin/python scripts/summarize_scores.py --run build/try/eval \\
             --gguf build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf
         after the example of patch_answers.py.

The raw score is lm-eval's own number; it is refused if the recorded answers do not give the same. The strict score
reads the letter that a finished answer commits to (scoring/answer_record.py). In the patched score every invalid answer
counts as the patch step left it.
"""

import argparse
from pathlib import Path

from files.json_records import write_record
from files.option_types import command_parser
from files.safe_files import run
from scoring.evaluated_file import evaluated_facts
from scoring.run_summary import summed_up
from scoring.score_records import SUMMARY_NAME, Summary, scores_in_words


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--run", type=Path, required=True, help="run directory of ask_questions.py")
    add("--gguf", type=Path, required=True, help="the GGUF file that was evaluated, or the checkpoint")
    add("--chosen-by", type=Path, help="drop map or expert_drop_metadata.json of a pruned model")
    add = parser.add_argument_group("what is summed up").add_argument
    add("--unpatched", action="store_true", help="leave the patch step out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    summary = summed_up(args.run, not args.unpatched, args.chosen_by, evaluated_facts(args.gguf))
    write_record(args.run / SUMMARY_NAME, summary, Summary)
    print(scores_in_words(summary["name"], summary))


if __name__ == "__main__":
    run(main)
