#!/usr/bin/env python3
"""Write what each step of a rehearsal took, and what that comes to with all layers; keep how fast the machine was.

Inputs:  the logs folder of the rehearsed run with the records of its steps; its plan and that of the whole shape (`make
         plan`, with SHAPE); its questions.
Output:  a table in Markdown; with --calibration the factors by which `make plan` counts on this machine.
Example: .venv/bin/python bench/rehearsal_table.py --logs LOGS --plan PLAN.json --whole-plan WHOLE.json \\
           --questions Q.csv --eval-questions E.csv --answer-tokens 2048 --layers 2 --output TABLE.md  # make rehearse

memory: of all processes of the step at once; "mapped too" counts files that llama.cpp or the converter map, which the
system can give back. read: by calls, or from the disk where that is more, as mapped files are not read by calls.
Extrapolated are seconds and disk: what a step does beyond its start grows with its bytes, weights or tokens
(stages/run_costs.py), at the speed that the rehearsal had.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.display import markdown_table
from files.option_types import command_parser
from files.safe_files import gib, replace_when_done, run
from files.written_records import write_record
from stages.calibration import Calibration, machine_words
from stages.planned_steps import PlannedStep
from stages.run_plan import RunPlan, factors_of, rows_of, run_plan
from stages.step_usage import read_step_records

SIZES = ["memory", "mapped too", "read", "written", "disk"]
HEADS = ["step", "seconds", *(f"{name}, GiB" for name in SIZES), "all layers: seconds", "disk, GiB"]


def table_of(records: list[dict], plan: RunPlan, whole: RunPlan) -> str:
    """Return the table; plan: of the rehearsed model, whole: of one with all layers."""
    steps = [PlannedStep(each["stage"], each["words"], Path(each["target"])) for each in records]
    factors = factors_of(plan, records)
    here, there = rows_of(plan, [], steps, factors), rows_of(whole, [], steps, factors)
    rows = []
    for record, mine, theirs in zip(records, here, there):
        read = max(record["read_bytes"], record["disk_read_bytes"])
        found = [record[f"{name}_bytes"] for name in ("memory", "resident")]
        found += [read, record["written_bytes"], record["disk_bytes"]]
        # Of the step itself, and not of all steps of its kind: what it took beside what the plan makes of it.
        seconds = record["seconds"] * theirs.planned[0] / mine.planned[0]
        sizes = [f"{size / (1 << 30):.2f}" for size in found]
        words = record["words"].replace(str(Path(record["target"]).parents[0]), "")
        rows.append([words, f"{record['seconds']:.0f}", *sizes, f"{seconds:.0f}", gib(theirs.planned[2])])
    seconds = [sum(float(row[column]) for row in rows) for column in (1, 7)]
    largest = [max(float(row[column]) for row in rows) for column in (2, 3, 6, 8)]
    moved = [sum(float(row[column]) for row in rows) for column in (4, 5)]
    shown = [f"{number:.2f}" for number in (*largest[:2], *moved, largest[2])]
    rows.append(["all, or the most", f"{seconds[0]:.0f}", *shown, f"{seconds[1]:.0f}", f"{largest[3]:.2f}"])
    return markdown_table(HEADS, rows)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("the rehearsed run").add_argument
    add("--logs", type=Path, required=True, help="folder of the logs, with the records of the steps")
    add("--plan", type=Path, required=True, help="its plan.json")
    add("--whole-plan", type=Path, required=True, help="plan.json of the shape with all layers")
    add("--questions", type=Path, required=True, help="questions that choose the experts")
    add("--eval-questions", type=Path, required=True, help="questions that are scored")
    add("--answer-tokens", type=int, required=True, help="tokens of one answer")
    add("--layers", required=True, help="layers of the rehearsed model, for the words about it")
    add = parser.add_argument_group("outputs").add_argument
    add("--output", type=Path, required=True, help="Markdown file to write")
    add("--calibration", type=Path, help="JSON file for the speed of this machine, which make plan takes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    records = [record for record in read_step_records(args.logs) if record["stage"]]
    plans = [
        run_plan(path, args.questions, None, args.eval_questions, args.answer_tokens, streams=True)
        for path in (args.plan, args.whole_plan)
    ]
    table = table_of(records, *plans)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(records[0]["began"]))
    text = f"{args.layers} layers, {machine_words()}, begun {when}\n\n{table}\n"
    with replace_when_done(args.output) as partial:
        partial.write_text(text, encoding="utf-8")
    print(text, end="")
    if args.calibration:
        source = f"a rehearsal of {args.layers} layers"
        found = {"machine": machine_words(), "source": source, "factors": factors_of(plans[0], records)}
        write_record(args.calibration, found, Calibration)


if __name__ == "__main__":
    run(main)
