#!/usr/bin/env python3
"""Say what each step of a run will take on this machine, and beside it what it took: seconds, memory, disk.

Inputs:  on stdin a dry run, as show_status.py reads it: the steps that are left; the run's plan (plan_quants.py); the
         records of the steps that are done (stages/step_usage.py); the questions.
Output:  a table on stdout. How fast this machine is stands in --calibration; where it does not, it is measured.
Example: make -n COUNTING=yes release | .venv/bin/python scripts/plan_run.py --plan PLAN.json --questions Q.csv \\
           --eval-questions E.csv --answer-tokens 2048 --calibration build/plans/calibration.json  # as `make plan` does

Seconds are a plain model's (stages/run_costs.py), good for "minutes or hours?". An evaluation is counted with answers
of --answer-tokens, which most are shorter than. Disk is what model and run take after the step.
"""

import argparse
from pathlib import Path

from files.display import screen_table
from files.option_types import command_parser
from files.safe_files import gib, run
from stages.calibration import calibration
from stages.needs import machine_memory
from stages.planned_steps import given_steps
from stages.run_plan import Row, rows_of, run_plan
from stages.step_usage import read_step_records

HEADS = ["step", "seconds", "took", "memory GiB", "took", "disk GiB", "took"]


def row_cells(row: Row) -> list[str]:
    """Return the cells of a row."""
    (seconds, memory, disk), actual = row.planned, row.actual
    took = [f"{actual[0]:.0f}", gib(actual[1]), gib(actual[2])] if actual else ["", "", ""]
    return [row.words, f"{seconds:.0f}", took[0], gib(memory), took[1], gib(disk), took[2]]


def table_of(rows: list[Row]) -> str:
    """Return the rows, and what they come to."""
    done = [(row.planned[0], row.actual[0]) for row in rows if row.actual]
    both = f"{sum(planned for planned, _ in done):.0f} planned, {sum(taken for _, taken in done):.0f} taken"
    left = sum(row.planned[0] for row in rows if not row.actual)
    fullest = max((row.planned[2] for row in rows), default=0)
    lines = [f"Steps that are done: {both} seconds."] if done else []
    here = machine_memory()[0]
    if rows and (most := max(rows, key=lambda row: row.planned[1])).planned[1] > here:
        lines.append(f"{most.words}: more memory than the {gib(here)} GiB here. A mapped file is read again and again.")
    lines.append(f"Steps that are left: {left:.0f} seconds. Disk at its fullest, with the model: {gib(fullest)} GiB.")
    return "\n".join([screen_table(HEADS, [row_cells(row) for row in rows]), "", *lines])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("the run").add_argument
    add("--plan", type=Path, required=True, help="plan.json of plan_quants.py")
    add("--logs", type=Path, help="folder of the logs, with the records of the steps that are done")
    add("--questions", type=Path, required=True, help="questions that choose the experts")
    add("--text", type=Path, help="calibration text of the imatrix (default: the questions as chats)")
    add("--eval-questions", type=Path, required=True, help="questions that are scored")
    add("--answer-tokens", type=int, required=True, help="tokens of one answer")
    add("--stream-layers", choices=("yes", "no", ""), default="no", help="yes: one layer in memory")
    add = parser.add_argument_group("the machine").add_argument
    add("--calibration", type=Path, required=True, help="JSON file of its speed; measured and written where it is not")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    steps = given_steps()
    streams = args.stream_layers == "yes"
    plan = run_plan(args.plan, args.questions, args.text, args.eval_questions, args.answer_tokens, streams)
    known, records = calibration(args.calibration), read_step_records(args.logs) if args.logs else []
    print(table_of(rows_of(plan, records, steps, known["factors"])))
    print(f"Downloads are not counted. Speed of this machine: {known['source']} ({known['machine']}).")


if __name__ == "__main__":
    run(main)
