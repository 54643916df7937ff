#!/usr/bin/env python3
"""Mutate the inputs of every command and judge what each command does with them.

Output: a table on stdout; failures, each with the one mutation that makes it, as lines of JSON in --failures.
"""

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]
# Of the processes of the cases: one thread, since a fork copies no others; no network; no bars among the errors.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
# What is made up here is sealed by a key of the tests.
ENVIRONMENT["SEAL_KEY"] = f"{tempfile.gettempdir()}/seals-of-tests-{os.getuid()}/seal.key"
if __name__ == "__main__":
    os.environ |= ENVIRONMENT

from files.display import markdown_table
from mutations.command import Command
from mutations.formats import format_of
from mutations.harness import BROKEN, DIGEST_ONLY, FAILURES, LABEL, ONCE, REFUSED, SAME, SUBJECT, Case, Workshop
from mutations.table import COMMANDS

ACCEPTED = (SAME, DIGEST_ONLY, SUBJECT, LABEL, ONCE)
HEADS = ["Command", "Cases", "Refused", *(f"Accepted: {reason}" for reason in ACCEPTED), "Failures"]


def draw_cases(command: Command, folder: Path, count: int, seed: int) -> list[Case]:
    """Return a command's cases: as many as its weight says, its inputs in turn."""
    draw = random.Random(f"{seed} {command.title}")  # its own: a command that is added changes no case of another
    inputs, total = command.inputs(folder), sum(command.weight for command in COMMANDS)
    cases = []
    for number in range(max(1, round(count * command.weight / total))):
        name = inputs[number % len(inputs)]
        cases.append(Case(command.title, name, format_of(name).choose((folder / name).read_bytes(), draw)))
    return cases


def make_artefacts(folder: Path) -> None:
    """Make the artefacts, in a process of its own: what that imports would make every fork of a campaign slower."""
    from mutations.artefacts import make

    make(folder)


def made_artefacts(folder: Path) -> Path:
    """Return the artefacts in a folder, made unless they are there."""
    done = folder.with_name(f"{folder.name}.done")
    if not done.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        worker = get_context("fork").Process(target=make_artefacts, args=[folder])
        worker.start()
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"{folder}: the artefacts could not be made")
        done.touch()
    return folder


def try_command(command: Command, cases: list[Case], workshop: Workshop, sink: Connection) -> None:
    """Try the cases of one command and send each verdict.

    This is a process of its own, which imports this command alone: the smaller a process, the faster it forks. It has
    no thread, such as that of a queue, since a fork would copy the locks that the thread holds.
    """
    os.environ |= ENVIRONMENT
    importlib.import_module(command.name)
    for case in cases:
        sink.send((case, *workshop.verdict(command, case)))


def verdicts(command: Command, cases: list[Case], workshop: Workshop) -> Iterator[tuple[Case, str, str]]:
    """Yield the verdict on each case, and the words that show it."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=try_command, args=[command, cases, workshop, theirs])
    worker.start()
    theirs.close()
    with suppress(EOFError):
        while True:
            yield ours.recv()
    worker.join()
    if worker.exitcode:
        yield Case(command.title, "", {}), BROKEN, f"the process of its cases ended with exit code {worker.exitcode}"


def table_of(counts: dict[str, Counter]) -> str:
    """Return the verdicts by command."""
    rows = []
    for name, found in counts.items():
        accepted = [str(found[reason]) for reason in ACCEPTED]
        failed = ", ".join(f"{found[kind]} {kind}" for kind in FAILURES if found[kind])
        rows.append([name, str(found.total()), str(found[REFUSED]), *accepted, failed or "0"])
    every: Counter = sum(counts.values(), Counter())
    accepted = [str(every[reason]) for reason in ACCEPTED]
    failed = str(sum(every[kind] for kind in FAILURES))
    return markdown_table(HEADS, [*rows, ["all", str(every.total()), str(every[REFUSED]), *accepted, failed]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the artefacts and of the cases")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the names of the commands to try")
    parser.add_argument(
        "--speed", choices=("all", "quick", "slow"), default="all", help="commands by how long they take"
    )
    parser.add_argument("--failures", type=Path, help="file of JSON lines to write (default: failures.jsonl in FOLDER)")
    args = parser.parse_args()
    made, counts, begin = made_artefacts(args.folder / "artefacts"), {}, time.monotonic()
    workshop = Workshop(made, args.folder / f"case-{os.getpid()}")
    failures = args.failures or args.folder / "failures.jsonl"
    failures.unlink(missing_ok=True)  # not through a link
    with open(failures, "w") as file:
        wanted = {"all": (True, False), "quick": (True,), "slow": (False,)}[args.speed]
        for command in (each for each in COMMANDS if args.only in each.title and each.quick in wanted):
            counts[command.title] = Counter()
            for case, verdict, words in verdicts(command, draw_cases(command, made, args.cases, args.seed), workshop):
                counts[command.title][verdict] += 1
                if verdict in FAILURES:
                    print(f"{verdict}: {command.title}: {case.input}: {words}", file=sys.stderr, flush=True)
                    file.write(json.dumps(vars(case)) + "\n")
                    file.flush()
            print(f"{command.title}: {dict(counts[command.title])}", file=sys.stderr, flush=True)
    print(table_of(counts))
    print(f"\n{time.monotonic() - begin:.0f} s")
    sys.exit(any(found[kind] for found in counts.values() for kind in FAILURES))


if __name__ == "__main__":
    main()
