#!/usr/bin/env python3
"""Show how far a run is: each stage done, stale, missing or running, what comes next, and what the rest needs.

Inputs:  on stdin a dry run: of its lines only those of the form "@step<TAB>STAGE<TAB>WORDS<TAB>TARGET" count, the steps
         that would run now, in order. The files or folders that each stage finally makes; the folder of the logs.
Output:  a table and at most three lines on stdout.
Example: make -n release | .venv/bin/python scripts/show_status.py --stage choice=DROP_MAP.json --logs LOGS

done: all is there and no step of it would run. stale: all is there, but steps of it would run. missing: something is
not there. running: a step of it holds the lock on its log, or another host that on its target.
"""

import argparse
import os
import shutil
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from files.display import plural, screen_table
from files.host_locks import holder_of, is_dead, lock_path
from files.option_types import command_parser
from files.safe_files import existing_parent, gib, run, this_host
from stages.needs import RunSizes, machine_memory, memory_of_step, sizes_of_plan
from stages.planned_steps import PlannedStep, given_steps
from stages.run_costs import disk_after
from stages.step_logs import is_at_work, log_of

DONE, STALE, MISSING, RUNNING = "done", "stale", "missing", "running"
HEADS = ["stage", "state", "made", "files", "GiB"]


@dataclass(frozen=True)
class Found:
    """What is there of a stage: how many of its outputs, their bytes, and the time of the newest, 0 of none."""

    outputs: int
    bytes: int
    newest: float


def found_of(paths: list[Path]) -> Found:
    """Return what is there of a stage. A folder counts with all files below it; links are not followed."""
    there = [path for path in paths if path.exists()]
    files = {(stat.st_dev, stat.st_ino): stat for path in there for stat in stats_of(path)}.values()
    return Found(len(there), sum(stat.st_size for stat in files), max((stat.st_mtime for stat in files), default=0.0))


def stats_of(path: Path) -> list[os.stat_result]:
    """Return the stat of a file, or of all files below a folder."""
    if not path.is_dir():
        return [path.stat()]
    return [os.lstat(os.path.join(place, name)) for place, _, names in os.walk(path) for name in names]


def maker_of(step: PlannedStep, logs: Path) -> str | None:
    """Return the host that makes a step's target at this moment, in words, "" for this one, None when none does."""
    lock = lock_path(step.target)
    holder = holder_of(lock) if lock else None
    if holder and not is_dead(holder):
        return "" if holder.host == this_host() else holder.host_in_words()
    return "" if is_at_work(log_of(logs, step.words)) else None


def makes(step: PlannedStep, paths: list[Path]) -> bool:
    """Tell whether a step makes one of these paths, or a file below one."""
    target = Path(step.target)
    return any(path == target or path in target.parents for path in paths)


def state_of(found: Found, paths: list[Path], steps: list[PlannedStep], logs: Path) -> str:
    """Return the state of a stage that makes `paths`; steps: those of it that would run now."""
    if any(maker_of(step, logs) is not None for step in steps):
        return RUNNING
    if found.outputs < len(paths):
        return MISSING
    # Others of its steps may be left, such as pictures: what it is for is there all the same.
    return STALE if any(makes(step, paths) for step in steps) else DONE


def stage_row(name: str, paths: list[Path], steps: list[PlannedStep], logs: Path) -> list[str]:
    """Return the cells of one stage."""
    found = found_of(paths)
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.newest)) if found.newest else ""
    size = gib(found.bytes) if found.outputs else ""
    return [name, state_of(found, paths, steps, logs), made, f"{found.outputs} of {len(paths)}", size]


def next_lines(steps: list[PlannedStep], logs: Path) -> list[str]:
    """Return what is at work, and what would run next."""
    makers = {step: maker_of(step, logs) for step in steps}
    busy = [step for step in steps if makers[step] is not None]
    lines = [f"Running: {step.words}, log {log_of(logs, step.words)}" for step in busy if not makers[step]][:1]
    lines += [f"Running on {makers[step]}: {step.words}" for step in busy if makers[step]]
    left = [step for step in steps if step not in busy]
    if not steps:
        return ["Nothing is left to do."]
    if left:
        more = f", then {plural(len(left) - 1, 'more step')}" if left[1:] else ", the last step"
        lines.append(f"Next: {left[0].words} ({left[0].stage}){more}.")
    return lines


def needs_line(steps: list[PlannedStep], sizes: RunSizes, streams: bool, place: Path) -> str:
    """Return what disk and memory the steps need, by the plan, beside what this machine has."""
    disk = max(accumulate(disk_after(step.target, sizes) for step in steps), default=0)
    memory = max((memory_of_step(step.target, sizes, streams) for step in steps), default=0)
    free, (total, _) = shutil.disk_usage(existing_parent(place)).free, machine_memory()
    held = f"{gib(memory)} GiB of memory at once ({amount(total, memory)})" if memory else "little memory"
    return f"By the plan the rest needs {gib(disk)} GiB of disk ({amount(free, disk)}) and {held}."


def amount(there: int, wanted: int) -> str:
    """Return how much of something there is, and that it is too little where it is."""
    return f"{gib(there)} there{'' if there >= wanted else ': too little'}"


def parse_stage(text: str) -> tuple[str, list[Path]]:
    """Parse NAME=PATH[,PATH...]."""
    name, mark, paths = text.partition("=")
    found = [Path(path) for path in paths.split(",") if path]
    if not (name and mark and found):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH[,PATH...], found {text!r}")
    return name, found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    what = parser.add_argument_group("the run")
    stage_help = "a stage and what it finally makes, with commas between; once for each stage, in order"
    what.add_argument(
        "--stage", type=parse_stage, action="append", required=True, metavar="NAME=PATHS", help=stage_help
    )
    what.add_argument("--logs", type=Path, required=True, help="folder of the logs of the steps")
    size = parser.add_argument_group("what the rest needs")
    size.add_argument("--plan", type=Path, help="plan.json of plan_quants.py; without it the needs are not known")
    size.add_argument("--stream-layers", choices=("yes", "no", ""), default="no", help="yes: one layer in memory")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    steps = given_steps()
    rows = [stage_row(name, paths, [s for s in steps if s.stage == name], args.logs) for name, paths in args.stage]
    print(screen_table(HEADS, rows, left=3))
    print("", *next_lines(steps, args.logs), sep="\n")
    if steps and args.plan and args.plan.exists():
        print(needs_line(steps, sizes_of_plan(args.plan), args.stream_layers == "yes", args.logs))
    elif steps:
        print("What the rest needs is not known yet: run `make plan`.")


if __name__ == "__main__":
    run(main)
