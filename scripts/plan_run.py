#!/usr/bin/env python3
"""Say what each step of a run will take on this machine, and beside it what it took: seconds, memory, disk.

Inputs:  on stdin a dry run, as show_status.py reads it: the steps that are left; the run's plan (plan_quants.py); the
         records of the steps that are done (stages/step_usage.py); the questions.
Output:  a table on stdout. How fast this machine is stands in --calibration; without it half a minute is measured.
Example: make plan

Seconds are a plain model's (stages/run_costs.py), good for "minutes or hours?". An evaluation is counted with answers
of --answer-tokens, which most are shorter than. Disk is what model and run take after the step.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from chats.questions import load_questions
from files.display import screen_table
from files.option_types import command_parser
from files.safe_files import gib, read_json, run
from stages.calibration import calibration
from stages.needs import sizes_of_plan
from stages.planned_steps import PlannedStep, read_steps
from stages.run_costs import CHARACTERS_PER_TOKEN, Work, cost_of, disk_after, memory_of
from stages.step_usage import read_step_records

HEADS = ["step", "seconds", "took", "memory GiB", "took", "disk GiB", "took"]
# Of GPQA Diamond, and of calibration data v5, before they are fetched.
GPQA_QUESTIONS, GPQA_TOKENS, V5_CHARACTERS = 198, 120_000, 1_300_000
TEMPLATE_CHARACTERS = 120  # of a chat around a question


@dataclass(frozen=True)
class Row:
    """A step's figures: planned, and as recorded where it is done."""

    words: str
    planned: tuple[float, int, int]
    actual: tuple[float, int, int] | None


def characters_of(path: Path, seed: int = 0) -> tuple[int, int]:
    """Return the number of questions in a file, and the characters of their chats; of GPQA where there is none yet."""
    if not path.exists():
        return GPQA_QUESTIONS, GPQA_TOKENS * CHARACTERS_PER_TOKEN
    asked = load_questions(path, seed)
    return len(asked), sum(len(each.prompt) + len(each.explanation) + TEMPLATE_CHARACTERS for each in asked)


def work_of(args: argparse.Namespace, active_weights: int) -> Work:
    """Return the tokens and questions of a run; active_weights: of one token."""
    chats = characters_of(args.questions)[1]
    text = chats if args.text is None else args.text.stat().st_size if args.text.exists() else V5_CHARACTERS
    return Work(
        analysed_tokens=chats // CHARACTERS_PER_TOKEN,
        imatrix_tokens=text // CHARACTERS_PER_TOKEN,
        questions=characters_of(args.eval_questions)[0],
        answer_tokens=args.answer_tokens,
        active_weights=active_weights,
    )


def rows_of(args: argparse.Namespace, steps: list[PlannedStep], factors: dict[str, float]) -> list[Row]:
    """Return a row for each step, those that are done first."""
    sizes, plan = sizes_of_plan(args.plan), read_json(args.plan)
    work, streams = work_of(args, plan["active_weights"]), args.stream_layers == "yes"
    records = read_step_records(args.logs) if args.logs else []
    left = {step.target for step in steps}
    done = [record for record in records if record["stage"] and Path(record["target"]) not in left]
    rows, disk = [], sizes.full
    listed = [(record["words"], Path(record["target"]), record) for record in done]
    for words, target, record in [*listed, *((step.words, step.target, None) for step in steps)]:
        disk += disk_after(target, sizes)
        seconds = cost_of(target, sizes, work, streams).seconds(factors)
        actual = (record["seconds"], record["resident_bytes"], record["disk_after_bytes"]) if record else None
        rows.append(Row(words, (seconds, memory_of(target, sizes, streams), disk), actual))
    return rows


def cells_of(row: Row) -> list[str]:
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
    lines.append(
        f"Steps that are left: {left:.0f} seconds. Disk at its fullest: {gib(fullest)} GiB, the model included."
    )
    return "\n".join([screen_table(HEADS, [cells_of(row) for row in rows]), "", *lines])


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
    steps = read_steps(sys.stdin.read().splitlines())
    known = calibration(args.calibration)
    print(table_of(rows_of(args, steps, known["factors"])))
    print(f"Speed of this machine: {known['source']} ({known['machine']}).")


if __name__ == "__main__":
    run(main)
