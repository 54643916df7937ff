#!/usr/bin/env python3
"""Compare evaluations question by question: the model card's table, intervals, paired tests, and what they can show.

Inputs:  summaries of eval_gpqa_v3.sh. Either --runs: run directories or summary.json files; the runs of one GGUF file
         with several seeds are one model. Or --model, once for each model: its summaries and the FILE.gguf.json records
         of its quants. The first model is the reference.
Output:  OUTPUT.md, OUTPUT.json (scoring/score_records.py) and OUTPUT.png.
Example: .venv/bin/python scripts/compare_scores.py \\
             --runs build/gemma-4-demo/full/eval/Q6_K build/gemma-4-demo/109e/eval/Q6_K --output build/try/scores.md

Refused: different protocols (but for the seeds), orders of choices or question sets, and patched beside unpatched
scores. Statistics: scoring/paired_statistics.py.
"""

import argparse
from itertools import chain
from pathlib import Path

from files.input_errors import InputError
from files.json_records import check_record, read_record
from files.option_types import command_parser, output_file
from files.safe_files import check_apart, replace_when_done, run
from files.written_records import write_record
from quants.quant_record import QuantRecord
from scoring.comparison import check_group, compare, group_runs
from scoring.eval_protocol import DEFAULT_TASK
from scoring.score_picture import draw_scores
from scoring.score_records import SUMMARY_NAME, Scores, read_summary
from scoring.score_tables import scores_page
from scoring.task_tables import task_parts

QUANT_RECORD_ENDING = ".gguf.json"  # by which --model knows a quant's record from a summary


def check_scored_file(path: Path, quant: dict, runs: list[dict]) -> None:
    """Raise InputError when the record of a scored file says another size or number of experts than its summary."""
    for summary in runs:
        if summary["gguf_sha256"] == quant["sha256"]:
            wanted, found = ((one[size], one["experts"]) for one, size in ((summary, "gguf_bytes"), (quant, "bytes")))
            if wanted != found:
                expected = f"{wanted[0]} bytes and {wanted[1]} experts, as the summary of {summary['name']} says"
                raise InputError(path, expected, f"{found[0]} and {found[1]}")


def read_models(files: list[list[Path]]) -> tuple[list[list[dict]], list[list[dict]]]:
    """Return the summaries and the quant records of each --model."""
    models: list[list[dict]] = []
    quants: list[list[dict]] = []
    for paths in files:
        records = [path for path in paths if path.name.endswith(QUANT_RECORD_ENDING)]
        models.append(check_group([read_summary(path) for path in paths if path not in records]))
        quants.append([read_record(path, QuantRecord) for path in records])
        for path, quant in zip(records, quants[-1]):
            check_scored_file(path, quant, models[-1])
    return models, quants


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    group = parser.add_argument_group("inputs and output")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help="run directories or summary.json files")
    one = "summaries and quant records of one model; the first --model is the reference"
    source.add_argument("--model", type=Path, nargs="+", action="append", metavar="FILE", help=one)
    group.add_argument(
        "--output", type=output_file, required=True, help="Markdown file to write; JSON and PNG go beside it"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    read = [path / SUMMARY_NAME if path.is_dir() else path for path in args.runs or chain(*args.model)]
    check_apart(read, [args.output, args.output.with_suffix(".json"), args.output.with_suffix(".png")])
    if args.runs:
        models = group_runs(args.runs)
        quants: list[list[dict]] = [[] for _ in models]
    else:
        models, quants = read_models(args.model)
    result = compare(models, quants)
    # The page is what make waits for: written last, it shows that picture and record are there. A comparison that is no
    # record leaves no picture.
    check_record(args.output.with_suffix(".json"), {"version": Scores.current, **result}, Scores)
    draw_scores(result, args.output.with_suffix(".png"))
    write_record(args.output.with_suffix(".json"), result, Scores)
    with replace_when_done(args.output) as partial:
        own_task = result["protocol"].get("task", DEFAULT_TASK) == DEFAULT_TASK
        page = scores_page(result) if own_task else "\n\n".join(task_parts(result)) + "\n"
        partial.write_text(page, encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run(main)
