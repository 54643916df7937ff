#!/usr/bin/env python3
"""Pool the runs of a k-fold into one: every question scored by the model whose experts it did not choose.

Inputs:  the summary.json of each fold (eval_gpqa_v3.sh with HELD_OUT_OF); a name for the pooled model.
Output:  a summary.json of the same schema over all questions, for compare_scores.py; gguf_sha256 is over the digests of
         the folds.
Example: .venv/bin/python scripts/pool_heldout.py --name gemma-4-demo-109e \\
             --summary build/gemma-4-demo/109e/heldout/fold*/eval/summary.json --output build/try/heldout.json
         after make eval-heldout.

Refused: folds with different protocols or patch steps, a question in two folds, a fold that was scored on questions
which chose its experts, or of which that is not known, and in a build folder a summary without the seal of
summarize_scores.py.
"""

import argparse
from pathlib import Path

from files.input_errors import InputError
from files.json_records import sha256_json
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, run
from files.seals import Seal, kept_seals
from files.written_records import write_record
from scoring.eval_protocol import first_differing_key
from scoring.score_records import Summary, figures, read_summary, scores_in_words


def check_folds(paths: list[Path], folds: list[dict]) -> None:
    """Raise InputError unless the folds have one protocol and patch step, are held out, and share no question."""
    seen: dict[str, Path] = {}
    for path, fold in zip(paths, folds):
        # That the fold is held out, its summary alone says. One in no build folder gets the pooled one no seal.
        if (seals := kept_seals(path)) and (seal := seals.of_file(path, ("summarize_scores",))) != Seal.VALID:
            raise InputError(path, "what summarize_scores wrote", seal.value, "make that fold again (REPLACE=heldout)")
        if key := first_differing_key(folds[0]["protocol"], fold["protocol"]):
            raise InputError(path, f"the first fold's {key}", str(fold["protocol"].get(key)))
        if fold["patch"] != folds[0]["patch"]:
            raise InputError(path, "the first fold's patch step", "another, or none")
        if fold["in_sample"] is None or fold["in_sample"]["scored_and_chosen_on"] != 0:  # None: not known
            raise InputError(path, "questions that did not choose the experts", str(fold["in_sample"]))
        for answer in fold["answers"]:
            if (other := seen.setdefault(answer["record_id"], path)) is not path:
                raise InputError(path, "every question in one fold", f"{answer['record_id']} in {other}, too")


def pool(name: str, folds: list[dict]) -> dict:
    """Return one summary over the questions of all folds, by Record ID."""
    answers = sorted((answer for fold in folds for answer in fold["answers"]), key=lambda answer: answer["record_id"])
    return {
        "name": name,
        "gguf": f"{len(folds)} folds of {folds[0]['gguf']}",
        "gguf_sha256": sha256_json([fold["gguf_sha256"] for fold in folds]),
        "gguf_bytes": max(fold["gguf_bytes"] for fold in folds),
        "experts": folds[0]["experts"],
        "protocol_sha256": folds[0]["protocol_sha256"],
        "protocol": folds[0]["protocol"],
        # The smallest: no fold had its experts chosen on fewer questions.
        "in_sample": {"chosen_on": min(fold["in_sample"]["chosen_on"] for fold in folds), "scored_and_chosen_on": 0},
        **figures(answers, folds[0]["patch"]),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--name", required=True, help="name of the pooled model")
    add("--summary", type=Path, nargs="+", required=True, help="summary.json of each fold")
    add("--output", type=named_path, required=True, help="summary to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_apart(args.summary, [args.output])
    folds = [read_summary(path) for path in args.summary]
    check_folds(args.summary, folds)
    pooled = pool(args.name, folds)
    write_record(args.output, pooled, Summary)
    print(f"{len(folds)} folds, {scores_in_words(args.name, pooled)}")


if __name__ == "__main__":
    run(main)
