"""Records to which lines are appended, each sealed with the one before it: only a whole history is valid.

Two runs that went on from one record would else have lines that can be mixed at will. A line's seal also depends on a
subject: what it is about, beyond its own words. Subjects may follow each other, such as a run's, to which a machine is
added while it goes on. A kill may leave a seal whose line never reached the file; the next line does without.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from files.input_errors import InputError, read_lines
from files.seals import Commands, Seal, Seals, advice_for, as_written, kept_seals, running_command, seal_said

_last: dict[Path, tuple[int, str]] = {}  # of what this process has appended: the size with it, and the history's digest


def _history(before: str, line: bytes) -> str:
    """Return the digest of a history: that of all lines before, and one more line."""
    return hashlib.sha256(before.encode() + line.strip()).hexdigest()


def _whole_lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file; half a line is one that a kill has cut off."""
    lines = read_lines(as_written(path)) if path.is_file() else []
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def seal_line(path: Path, line: bytes, subject: str) -> None:
    """Seal a line that is about to be appended to `path`, whose last line must be whole."""
    place, size = as_written(path), path.stat().st_size if path.is_file() else 0
    known, before = _last.get(place, (-1, ""))
    if known != size:
        before = ""
        for earlier in _whole_lines(path):
            before = _history(before, earlier)
    digest = _history(before, line)
    seal_said(path, digest, subject)
    _last[place] = (size + len(line), digest)


def line_seals(
    seals: Seals, path: Path, subjects: Sequence[str], commands: Commands
) -> tuple[int, tuple[int, Seal] | None]:
    """Return how many whole lines a file has, and number and seal of the first one that is not as it was written.

    What follows that one is not looked at: its history is none of ours. subjects: in the order in which they hold.
    """
    lines, left, before = _whole_lines(path), list(subjects), ""
    for number, line in enumerate(lines, start=1):
        before = _history(before, line)
        seal = seals.of_said(path, before, left[0], commands)
        while seal != Seal.VALID and len(left) > 1:
            del left[0]
            seal = seals.of_said(path, before, left[0], commands)
        if seal != Seal.VALID:
            return len(lines), (number, seal)
    return len(lines), None


def check_kept_lines(path: Path, subjects: Sequence[str]) -> None:
    """Raise InputError unless every whole line that a stage goes on from is as this command wrote it."""
    if (seals := kept_seals(path)) and (broken := line_seals(seals, path, subjects, (running_command(),))[1]):
        number, seal = broken
        raise InputError(f"{path}, line {number}", "what this command wrote", seal.value, advice_for(seal))
