#!/usr/bin/env python3
"""Start every stage twice at the same moment, then everything by make -j4, and compare with runs of their own.

Inputs:  the demo model and the first questions of the demo's.
Output:  FOLDER/at_once.md: a table of the stages; nothing is written outside of FOLDER.
Example: .venv/bin/python tests/kills/run_at_once.py --folder build/at-once

Of two runs at once one may be refused in a line, but the bytes must be those of one run, after one more call of make,
and no traceback may be printed. The exit code is 1 when that fails.
"""

import shutil
import sys

from compare_builds import differences
from demo_stages import GOALS, Place, prepare, run_undisturbed, stages_parser
from fault_stages import ERROR_LINE
from kill_stages import SECONDS_TO_END, end_all, tracebacks


def run_twice(place: Place, stage: str) -> tuple[int, list[str]]:
    """Start a stage twice, then once more; return how many of the two were refused, and what is not as it should be."""
    place.restore(stage)
    screens, faults, refused = [place.folder / f"screen{number}.txt" for number in (1, 2)], [], 0
    for screen in (*screens, place.folder / "screen.txt"):
        screen.unlink(missing_ok=True)
    both = [place.start(stage, screen) for screen in screens]
    if not all(end_all(place, process, SECONDS_TO_END + 6 * place.seconds[stage]) for process in both):
        faults.append("they do not end")
    for process, screen in zip(both, screens):
        text = screen.read_text(errors="replace")
        refused += process.returncode != 0
        if process.returncode and not ERROR_LINE.search(text):
            faults.append(f"no error line: {text[-400:]}")
    if refused == len(both):
        faults.append("none of the two was done")
    (place.folder / "screen.txt").write_bytes(b"".join(screen.read_bytes() for screen in screens))
    last = place.folder / "last.txt"
    if code := place.start(stage, last).wait():
        faults.append(f"exit code {code} of the last run: {last.read_text()[-400:]}")
    return refused, faults + differences(place.after(stage), place.work) + tracebacks(place)


def run_by_four(place: Place) -> list[str]:
    """Make the release and all before it from nothing, step by step and by make -j4; return how they differ.

    Without a draft model, whose speeds are measured by the clock and stand on the cards.
    """
    first = next(iter(GOALS))
    for jobs, kept in (("-j1", place.folder / "one"), ("-j4", None)):
        place.restore(first)
        screen = place.folder / f"make{jobs}.txt"
        if code := place.start("release", screen, options=(jobs, "DRAFT=")).wait():
            return [f"exit code {code} of make {jobs}: {screen.read_text()[-400:]}"]
        if kept:
            shutil.copytree(place.work, kept, symlinks=True)
    return differences(place.folder / "one", place.work)


def main() -> None:
    args = stages_parser(__doc__).parse_args()
    place = Place(args.folder.resolve())
    prepare(place)
    run_undisturbed(place, max(args.stages, key=list(GOALS).index))
    lines, failed = ["| stage | refused of two at once | not as it should be |", "| --- | --- | --- |"], False
    for stage in args.stages:
        refused, faults = run_twice(place, stage)
        failed |= bool(faults)
        lines.append(f"| {stage} | {refused} | {'; '.join(faults) or 'nothing'} |")
        print(lines[-1], flush=True)
    faults = run_by_four(place)
    lines.append(f"| make -j4 release | | {'; '.join(faults) or 'nothing'} |")
    print(lines[-1], flush=True)
    (place.folder / "at_once.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(1 if failed or faults else 0)


if __name__ == "__main__":
    main()
