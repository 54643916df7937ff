"""The error of bad input, one line: what was expected at a path, what was found, what to do; files read as a whole.

What is read as a whole has a bound, for a sparse file costs no disk, and all of a memory.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

OUTPUT = "output"  # what a command prints, in the message of an error
ENDS = re.compile(r"([\n\t])")
PLACE_CHARACTERS = 400  # of a path, an option or a word in a message: an argument can have any length
LONG_WORD = re.compile(rf"\S{{{PLACE_CHARACTERS + 1},}}")
SHOWN_CHARACTERS = 60  # of a refused value
REASON_CHARACTERS = 200
# What no text of a user's has and a terminal obeys; U+001F joins the parts of a question's digest. Others, which stray
# into a question by a copy from a PDF, are taken as they are.
STEERING = re.compile("[\x00\x07\x08\x1b\x1f\x9b]")
RECORD_MIB = 256  # of a JSON record or a text that is read as a whole: Python holds several times that
LINES_MIB = 1024  # of answers, samples or questions, one per line
MOST_LINES = 1 << 20  # of such a file: a short line takes ten times its bytes in memory


def printable(text: str) -> str:
    """Return a text with its control characters and line ends escaped: a file's words must not move the cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def printable_lines(text: str) -> str:
    """Return a text with its control characters escaped, but for line ends and tabs."""
    return "".join(part if part in "\n\t" else printable(part) for part in ENDS.split(text))


def ends_of(text: str) -> str:
    """Return a text of at most PLACE_CHARACTERS as it is, and of a longer one both ends."""
    half = PLACE_CHARACTERS // 2
    return text if len(text) <= PLACE_CHARACTERS else f"{text[:half]}...{text[-half:]}"


def in_one_line(message: str) -> str:
    """Return a message as a terminal is shown it: printable, and of each word of any length both ends."""
    return printable(LONG_WORD.sub(lambda word: ends_of(word[0]), message))


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Give an OSError that names no file, as that of a read, a write or a flush, the name of what is used."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(place)
        raise


def reason_of(error: BaseException) -> str:
    """Return the class and the words of another library's error, in one line of at most REASON_CHARACTERS."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:REASON_CHARACTERS]


def shown(value: object) -> str:
    """Return a refused value as a message names it: at most SHOWN_CHARACTERS, so that an error stays one line."""
    return repr(value)[:SHOWN_CHARACTERS]


class PrintableLines:
    """A text stream on which only line ends and tabs act: what a command prints may hold a name from elsewhere.

    Its errors name OUTPUT: else they would be taken for those of a file that is written meanwhile.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its other control characters escaped."""
        with naming(OUTPUT):
            return self._stream.write(printable_lines(text))

    def flush(self) -> None:
        """Flush the stream."""
        with naming(OUTPUT):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class InputError(Exception):
    """Name a path, what was expected there and what was found, in one line."""

    def __init__(self, path: object, expected: str, found: str, advice: str = "") -> None:
        place = ends_of(str(path))
        self._parts = (place, expected, found, advice)
        line = f"{place}: expected {expected}, found {found}"
        super().__init__(in_one_line(f"{line}; {advice}" if advice else line))

    def of(self, path: object) -> "InputError":
        """Return the same error of another path, such as that of an output whose file still has a temporary name."""
        return type(self)(path, *self._parts[1:])

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), self._parts  # for another process: Python would give the line alone


def check_ends(path: Path) -> None:
    """Raise InputError for what is no file: a pipe would be waited for, and a device read, for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a directory says so itself
        raise InputError(path, "a file", "a pipe, a device or a socket")


def no_link(path: str, flags: int) -> int:
    """Open a file as `opener` of open(); raise InputError for a link of either kind: another file would be written."""
    if os.path.islink(path):
        raise InputError(path, "a file to write", "a link")
    handle = os.open(path, flags & ~os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    if (names := os.fstat(handle).st_nlink) > 1:
        os.close(handle)
        raise InputError(path, "a file of one name", f"one of {names} names (hard links)", "copy it to a new file")
    if flags & os.O_TRUNC:
        os.ftruncate(handle, 0)
    return handle


def own_file(path: str, flags: int) -> int:
    """Open a file as `no_link` does, and keep out who may not write it: a reader could hold its lock for ever."""
    handle = no_link(path, flags)
    keep_readers_out(handle)
    return handle


def keep_readers_out(file: int | Path) -> None:
    """Take the rights of others off a file, and those of a group that may not write it: several may share a build."""
    with suppress(OSError):  # another user's, or a disk without rights
        mode = stat.S_IMODE(os.stat(file).st_mode)
        os.chmod(file, mode & (0o2770 if mode & stat.S_IWGRP else 0o2700))


def check_bounded(path: Path, most: int = RECORD_MIB) -> None:
    """Raise InputError for what is no file, or one of more MiB."""
    if not path.is_file():  # a pipe or a device, which may have no end
        raise InputError(path, "a file", "something else")
    if (found := path.stat().st_size) > most << 20:
        raise InputError(path, f"at most {most} MiB to be read as a whole", f"{found >> 20} MiB")


def read_whole(path: Path, most: int = RECORD_MIB) -> bytes:
    """Return the bytes of a file of at most so many MiB; raise InputError as `check_bounded`."""
    check_bounded(path, most)
    with naming(path):
        return path.read_bytes()


def read_lines(path: Path, most: int = LINES_MIB) -> list[bytes]:
    """Return a file's lines, each with its end; raise InputError as `check_bounded`, or for more than MOST_LINES."""
    check_bounded(path, most)
    with naming(path), open(path, "rb") as file:
        lines = list(islice(file, MOST_LINES + 1))
    if len(lines) > MOST_LINES:
        raise InputError(path, f"at most {MOST_LINES} lines", "more")
    return lines


def read_words(path: Path, most: int = RECORD_MIB) -> str:
    """Return a file's text, what is no UTF-8 in it replaced; raise InputError as `check_bounded`."""
    check_bounded(path, most)
    with naming(path):
        return path.read_text(encoding="utf-8", errors="replace")


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    check_ends(path)
    with naming(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
