"""The steps that a dry run of make would take, as `make status` and `make plan` hand them to their commands."""

import sys
from dataclasses import dataclass
from pathlib import Path

from files.input_errors import InputError, printable, reason_of, shown

STEP_MARK, STEP_PARTS = "@step", 4
MOST_LETTERS = 64 << 20  # of a dry run: that of the 26B with all quants has 100,000


@dataclass(frozen=True)
class PlannedStep:
    """A step that would run now: its stage, what a person reads of it, and what it makes."""

    stage: str
    words: str
    target: Path


def given_steps() -> list[PlannedStep]:
    """Return the steps of the dry run on stdin."""
    try:
        text = sys.stdin.read(MOST_LETTERS)
        if sys.stdin.read(1):
            raise InputError("stdin", f"a dry run of at most {MOST_LETTERS} letters", "more")
        return read_steps(text.splitlines())
    except UnicodeDecodeError as error:
        raise InputError("stdin", "the lines of a dry run", reason_of(error)) from error


def read_steps(lines: list[str]) -> list[PlannedStep]:
    """Return the steps among the lines of a dry run; raise InputError for a step with missing parts."""
    steps = []
    for line in lines:
        mark, *parts = line.strip().split("\t")
        if mark != STEP_MARK:
            continue
        if len(parts) != STEP_PARTS - 1:
            raise InputError("stdin", f"stage, words and target behind {STEP_MARK}, with tabs between", shown(line))
        steps.append(PlannedStep(parts[0], printable(parts[1]), Path(parts[2])))
    return steps
