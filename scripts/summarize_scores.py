#!/usr/bin/env python3
"""Sum up one evaluation: raw, strict and patched score, invalid answers by class, and what chance would have added.

Inputs:  a run directory of ask_questions.py with its answers, lm-eval's results and samples and, unless the run is to
         stay unpatched, patched.json; for a pruned model what proves which choice of experts it has
         (scoring/proven_choice.py). Where it is not proven, the summary says that it is not known.
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

from files.option_types import command_parser
from files.safe_files import run
from files.written_by import NotProvenError
from files.written_records import write_record
from quants.quant_record import record_path
from scoring.evaluated_file import evaluated_facts
from scoring.proven_choice import proven_choice
from scoring.run_summary import summed_up
from scoring.score_records import SUMMARY_NAME, Summary, scores_in_words


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--run", type=Path, required=True, help="run directory of ask_questions.py")
    add("--gguf", type=Path, required=True, help="the GGUF file that was evaluated, or the checkpoint")
    proofs = "of a pruned model: expert_drop_metadata.json, drop map, statistics, record of its F16 file"
    add("--chosen-by", type=Path, nargs="+", default=[], metavar="FILE", help=proofs)
    add = parser.add_argument_group("what is summed up").add_argument
    add("--unpatched", action="store_true", help="leave the patch step out")
    return parser.parse_args(argv)


def chosen_by(args: argparse.Namespace, sha256: str) -> Path | None:
    """Return the metadata of the drop that a scored file came from; None, and say why, where that is not proven."""
    if not args.chosen_by:
        return None
    own = record_path(args.gguf)
    try:
        return proven_choice(sha256, [*args.chosen_by, *([own] if own.is_file() else [])])
    except NotProvenError as error:
        print(f"{error}; so it is not known what chose the experts", flush=True)
        return None


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    facts = evaluated_facts(args.gguf)
    summary = summed_up(args.run, not args.unpatched, chosen_by(args, facts["gguf_sha256"]), facts)
    write_record(args.run / SUMMARY_NAME, summary, Summary)
    print(scores_in_words(summary["name"], summary))


if __name__ == "__main__":
    run(main)
