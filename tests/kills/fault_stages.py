#!/usr/bin/env python3
"""Let a write, a flush or a rename of a stage fail, run it again to its end, and compare with an undisturbed run.

Inputs:  the demo model and the first questions of the demo's; strace, which makes a call fail.
Output:  FOLDER/faults.md: a table of the errors; FOLDER/faults.json: each fault; nothing is written outside of FOLDER.
Example: .venv/bin/python tests/kills/fault_stages.py --faults 100 --seed 1 --folder build/faults

A first run under strace shows which files a stage writes to. Then one kind of call fails for one of them with one
errno, from one of its calls on. The stage must end with an error line and without a traceback, or be done
with the same bytes; it must not hang. The next run must end with the same bytes and leave nothing over.
"""

import argparse
import json
import random
import re
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compare_builds import differences
from demo_stages import GOALS, Place, markdown, prepare, run_undisturbed, stages_parser
from kill_stages import SECONDS_TO_END, end_all, tracebacks
from trace_flushes import files_by_call, traced_calls

WRITES = ("ENOSPC", "EDQUOT", "EIO", "EBUSY", "ENOMEM", "EROFS", "EFBIG", "EPERM")
FLUSHES = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
RENAMES = ("EACCES", "EBUSY", "EPERM", "ENOSPC", "EDQUOT", "EROFS", "EIO", "ENOMEM")
RANDOM_NAME = re.compile(r"/\.?tmp\w{6,}|/[0-9a-f]{16,}")  # another run has another one
ERROR_LINE = re.compile(r"^error\b.*: expected .+, found.+|^\S+: error: .+|^bash: line 1: .+ error: .+", re.MULTILINE)


@dataclass
class Fault:
    """What became of a stage in which calls failed."""

    stage: str
    call: str
    errno: str
    path: str
    when: str
    said: str = ""
    faults: list[str] = field(default_factory=list)


def choose_fault(stage: str, files: dict[str, Counter[str]], place: Place, choose: random.Random) -> Fault:
    """Return a fault at random, of a file whose name is the same in every run."""
    call = choose.choice(sorted(files))
    errnos = FLUSHES if "sync" in call else RENAMES if call.startswith("rename") else WRITES
    path = choose.choice(sorted(files[call]))
    name = Path(path).relative_to(place.work).as_posix()
    first = choose.randint(1, files[call][path])  # as when a disk runs full at some moment
    return Fault(stage, call, choose.choice(errnos), name, f"{first}+")


def try_fault(place: Place, fault: Fault) -> None:
    """Run a stage in which a call fails, run it again, and note what is not as it should be."""
    place.restore(fault.stage)
    screen, last = place.folder / "screen.txt", place.folder / "last.txt"
    for path in (screen, last):
        path.unlink(missing_ok=True)
    inject = ("-e", f"trace={fault.call}", "-e", f"inject={fault.call}:error={fault.errno}:when={fault.when}")
    words = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-P", str(place.work / fault.path), *inject)
    process = place.start(fault.stage, screen, words)
    seconds = SECONDS_TO_END + 4 * place.seconds[fault.stage]
    if not end_all(place, process, seconds):
        fault.faults.append("it does not end")
    text = screen.read_text(errors="replace")
    found = ERROR_LINE.search(text)
    fault.said = found[0] if found else ""
    if process.returncode and not found:
        fault.faults.append(f"no error line: {text[-400:]}")
    fault.faults += tracebacks(place)
    process = place.start(fault.stage, last)
    if not end_all(place, process, seconds):
        fault.faults.append("the next run does not end")
    elif process.returncode:
        fault.faults.append(f"exit code {process.returncode} of the next run: {last.read_text()[-400:]}")
    fault.faults += differences(place.after(fault.stage), place.work)


def table(tried: list[Fault]) -> str:
    """Return the Markdown table of the errors by call."""
    heads = ["call", "errors", "told in one line", "done all the same", "not as it should be"]
    rows = [heads]
    for call in [*sorted({fault.call for fault in tried}), "all"]:
        mine = [fault for fault in tried if call in (fault.call, "all")]
        errnos = Counter(fault.errno for fault in mine)
        names = ", ".join(f"{errnos[name]} {name}" for name in sorted(errnos))
        told = sum(bool(fault.said) for fault in mine)
        bad = sum(bool(fault.faults) for fault in mine)
        rows.append([call, names if call != "all" else str(len(mine)), str(told), str(len(mine) - told), str(bad)])
    return markdown(rows)


def parse_args() -> argparse.Namespace:
    parser = stages_parser(__doc__)
    parser.add_argument("--faults", type=int, default=100, help="faults in all, shared by the stages (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of files, calls and errors (default: 1)")
    return parser.parse_args()


def main() -> None:
    args, tried = parse_args(), []
    if not shutil.which("strace"):
        sys.exit("error: strace: expected it on PATH, found nothing; install it (Debian: apt-get install strace)")
    place = Place(args.folder.resolve())
    prepare(place)
    run_undisturbed(place, max(args.stages, key=list(GOALS).index))
    choose, files = random.Random(args.seed), dict[str, dict[str, Counter[str]]]()
    for stage in args.stages:
        found = files_by_call(traced_calls(place, stage), place.work)
        for call, counts in found.items():
            named = Counter({path: times for path, times in counts.items() if not RANDOM_NAME.search(path)})
            if named:
                files.setdefault(stage, {})[call] = named
    while len(tried) < args.faults:
        stage = args.stages[len(tried) % len(args.stages)]
        fault = choose_fault(stage, files[stage], place, choose)
        try_fault(place, fault)
        tried.append(fault)
        told = fault.said or "done"
        print(
            f"{stage}: {fault.call} {fault.errno} {fault.path}: {told}: {fault.faults or 'as it should be'}", flush=True
        )
        report = {"seed": args.seed, "faults": [asdict(each) for each in tried]}
        (place.folder / "faults.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (place.folder / "faults.md").write_text(table(tried), encoding="utf-8")
    print((place.folder / "faults.md").read_text(encoding="utf-8"), end="")
    sys.exit(1 if any(fault.faults for fault in tried) else 0)


if __name__ == "__main__":
    main()
