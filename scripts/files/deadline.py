"""Work that waits for a server, in a process of its own that is killed when its time is over.

A time limit of a library's is one between two bytes. A server that sends one now and then, or "100 Continue" again and
again, keeps it waiting for ever. The work may hold threads and code that is not Python's: only the end of a process
ends all of that.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from files.command_start import die_with_parent
from files.input_errors import InputError

CHECK_SECONDS = 30  # of one short answer
DOWNLOAD_SECONDS = 900  # of some MB, all together
MODEL_SECONDS = 1800  # after which a model's download must have gone on
SLOWEST_BYTES = 16 << 10  # per second: 26B parameters would take weeks
ENDING_SECONDS = 1
DISK_BLOCK = 512  # in which stat counts, whatever the file system
Answer = TypeVar("Answer")


class TimeOver(InputError):
    """Work that has not come to its end in its time."""


def within(
    seconds: float, what: object, work: Callable[[], Answer], advice: str = "", folder: Path | None = None
) -> Answer:
    """Return what `work` returns, which can be pickled; raise TimeOver, for `what`, after so many seconds.

    folder: where a large download goes: its time begins again as often as SLOWEST_BYTES per second have come in.
    An InputError or OSError of the work is raised here, too.
    """
    context = multiprocessing.get_context("fork")  # nothing to import again
    pipe, other_end = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(other_end, work, os.getpid()))
    held, least = held_bytes(folder), int(seconds * SLOWEST_BYTES)
    process.start()
    other_end.close()
    try:
        while not pipe.poll(seconds):
            before, held = held, held_bytes(folder)
            if folder is None:
                raise TimeOver(what, f"an end within {seconds:g} seconds", "none", advice)
            if abs(held - before) < least:  # less of it, too: a file can be begun again
                expected = f"{least} bytes or more in {seconds:g} seconds"
                raise TimeOver(what, expected, str(abs(held - before)), advice)
        done, answer = pipe.recv()
        process.join(ENDING_SECONDS)  # it may have something to print yet
    except EOFError:  # it has printed a stack, or something has killed it
        process.join()
        sys.exit(process.exitcode if process.exitcode and process.exitcode > 0 else 1)
    finally:
        process.kill()
        process.join()
    if not done:
        raise answer
    return answer


def _answer(pipe: Connection, work: Callable[[], object], parent: int) -> None:
    """Send what the work returns or raises, in the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent=parent)
    try:
        found = (True, work())
    except InputError as error:
        found = (False, error)
    except OSError as error:
        if not error.errno:
            raise
        found = (False, OSError(error.errno, error.strerror, error.filename))  # a library's own class may need more
    pipe.send(found)


def held_bytes(folder: Path | None) -> int:
    """Return the bytes that the files below a folder take on the disk."""
    # Not their sizes: a file can have its whole size before its first byte has come.
    found = 0
    for place, _, names in os.walk(folder) if folder else ():
        for name in names:
            try:
                found += os.lstat(os.path.join(place, name)).st_blocks * DISK_BLOCK
            except FileNotFoundError:  # renamed meanwhile
                continue
    return found
