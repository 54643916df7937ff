#!/usr/bin/env python3
"""Kill every stage at random moments, run it again to its end, and compare all it made with an undisturbed run.

Inputs:  the demo model and the first questions of the demo's.
Output:  FOLDER/kills.md: a table of the stages; FOLDER/kills.json: each kill; nothing is written outside of FOLDER.
Example: .venv/bin/python tests/kills/kill_stages.py --kills 200 --seed 1 --folder build/kills

A stage is started by make, as a person does. At a random moment it gets SIGKILL or SIGTERM: the whole process group, or
one process among all that it has started. Every third trial is killed once more while it goes on. The last try is left
alone. Each file must be byte for byte that of the undisturbed run but for the times in answers and scores; no file may
be there that the undisturbed run has not; no process may be left; no traceback may be printed. The exit code is 1 when
one of these fails. Where strace is installed, each stage runs under it once more: every rename is looked at.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compare_builds import differences
from demo_stages import GOALS, LOCKS, Place, markdown, prepare, processes, run_undisturbed, stages_parser
from trace_flushes import count_flushes

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
AGAIN_EVERY = 3  # trials of which one is killed twice
SECONDS_TO_END = 600.0  # on a loaded machine a stage may wait for minutes; what hangs takes longer
TRACEBACK = b"Traceback (most recent call last)"


@dataclass
class Trial:
    """What became of one stage that was killed."""

    stage: str
    kills: list[str] = field(default_factory=list)  # such as "TERM one 0.61: python scripts/run_step.py"
    faults: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)  # left in TMPDIR, which no later run looks at


def name_of(process: int) -> str:
    """Return the command line of a process, cut to what a table can hold."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "ended"
    return words[:120]


def kill(place: Place, leader: int, how: str, choose: random.Random) -> str:
    """Send a signal to a whole process group or to one process of a stage; return whom it was sent to."""
    kind, whom = how.split()
    if whom == "group":
        os.killpg(leader, SIGNALS[kind])
        return "the process group"
    chosen = choose.choice(processes(place.folder) or [leader])
    name = name_of(chosen)
    try:
        os.kill(chosen, SIGNALS[kind])
    except ProcessLookupError:
        return "ended"
    return name


def end_all(place: Place, process: subprocess.Popen, seconds: float) -> bool:
    """Wait until a stage and all that it has started have ended; end what is left after so long, and tell of it."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if process.poll() is not None and not processes(place.folder):
            return True
        time.sleep(0.05)
    for left in processes(place.folder):
        try:
            os.kill(left, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    return False


def disturb(place: Place, trial: Trial, how: str, choose: random.Random) -> None:
    """Start a stage and kill it at a random moment, unless it is done before that."""
    screen, share = place.folder / "screen.txt", choose.random()
    process = place.start(trial.stage, screen)
    try:
        code = process.wait(share * place.seconds[trial.stage])
    except subprocess.TimeoutExpired:
        whom = kill(place, process.pid, how, choose)
        trial.kills.append(f"{how} at {share:.2f}: {whom}")
        if not end_all(place, process, SECONDS_TO_END + 2 * place.seconds[trial.stage]):
            trial.faults.append("a process that does not end")
        return
    if code:
        trial.faults.append(f"exit code {code} before the kill")


def tracebacks(place: Place) -> list[str]:
    """Return which logs, or what was shown on the screen, hold a traceback."""
    logs = [place.folder / "screen.txt", *place.work.rglob("logs/*.log")]
    return [f"traceback: {path.name}" for path in logs if path.exists() and TRACEBACK in path.read_bytes()]


def try_stage(place: Place, stage: str, how: str, twice: bool, choose: random.Random) -> Trial:
    """Kill a stage once or twice, let it go on to its end, and compare."""
    trial = Trial(stage)
    place.restore(stage)
    (place.folder / "screen.txt").unlink(missing_ok=True)
    for _ in range(2 if twice else 1):
        disturb(place, trial, how, choose)
    last = place.folder / "last.txt"
    last.unlink(missing_ok=True)
    process = place.start(stage, last)
    if not end_all(place, process, SECONDS_TO_END + 4 * place.seconds[stage]):
        trial.faults.append("a last run that does not end")
    elif process.returncode:
        trial.faults.append(f"exit code {process.returncode} of the last run: {last.read_text()[-400:]}")
    trial.faults += differences(place.after(stage), place.work) + tracebacks(place)
    trial.temporary = sorted(path.name for path in place.temporary.iterdir() if path.name != LOCKS)
    return trial


def table(trials: list[Trial], seconds: dict[str, float], flushes: dict[str, str]) -> str:
    """Return the Markdown table of the stages."""
    heads = ["stage", "seconds", "kills", "group", "one", "SIGKILL", "SIGTERM", "same bytes", "left over", "tracebacks"]
    rows = [[*heads, "renames, of these not flushed"]]
    for stage in [*flushes, "all"]:
        mine = [trial for trial in trials if stage in (trial.stage, "all")]
        words = Counter(word for trial in mine for kill in trial.kills for word in kill.split()[:2])
        faults = [fault for trial in mine for fault in trial.faults]
        unlike = {id(t) for t in mine for fault in t.faults if not fault.startswith(("left over", "traceback"))}
        row = [stage, f"{seconds[stage]:.1f}" if stage in seconds else "", str(sum(len(t.kills) for t in mine))]
        row += [str(words[word]) for word in ("group", "one", "KILL", "TERM")]
        row += [f"{len(mine) - len(unlike)} of {len(mine)}"]
        row += [str(sum(fault.startswith(kind) for fault in faults)) for kind in ("left over", "traceback")]
        rows.append([*row, flushes.get(stage, "")])
    return markdown(rows)


def parse_args() -> argparse.Namespace:
    parser = stages_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills in all, shared by the stages (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of moments, signals and processes (default: 1)")
    return parser.parse_args()


def main() -> None:
    args, trials = parse_args(), []
    place = Place(args.folder.resolve())
    prepare(place)
    run_undisturbed(place, max(args.stages, key=list(GOALS).index))
    flushes = {stage: count_flushes(place, stage) for stage in args.stages}
    choose = random.Random(args.seed)
    while sum(len(trial.kills) for trial in trials) < args.kills:
        stage = args.stages[len(trials) % len(args.stages)]
        how = f"{choose.choice(list(SIGNALS))} {choose.choice(('group', 'one'))}"
        trial = try_stage(place, stage, how, len(trials) % AGAIN_EVERY == 0, choose)
        trials.append(trial)
        print(f"{stage}: {'; '.join(trial.kills) or 'done before the kill'}: {trial.faults or 'the same'}", flush=True)
        report = {"seed": args.seed, "trials": [asdict(each) for each in trials]}
        (place.folder / "kills.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (place.folder / "kills.md").write_text(table(trials, place.seconds, flushes), encoding="utf-8")
    print((place.folder / "kills.md").read_text(encoding="utf-8"), end="")
    left = sum(len(trial.temporary) for trial in trials)
    print(f"Temporary files of killed processes in TMPDIR: {left}. Each kill: {place.folder / 'kills.json'}")
    bare = [stage for stage, words in flushes.items() if not words.endswith((", 0", "no strace"))]
    sys.exit(1 if bare or any(trial.faults for trial in trials) else 0)


if __name__ == "__main__":
    main()
