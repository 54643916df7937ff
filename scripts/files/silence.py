"""What a library prints past Python, kept off the screen."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from files.input_errors import InputError, reason_of


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Drop what is written to the process's stdout meanwhile, by C as well.

    For HiGHS, which scipy's `milp` calls: where a solution that it finds in the reduced problem misses a bound of the
    whole one, it says so by a bare printf, whatever its options (transformNewIntegerFeasibleSolution). Without its
    reduction it would print nothing, and take minutes for seconds.
    """
    flush = ctypes.CDLL(None).fflush  # C keeps its own buffer, which would come out later
    sys.stdout.flush()
    flush(None)
    with _nowhere(1):
        try:
            yield
        finally:
            flush(None)


@contextmanager
def in_a_library(what: object, expected: str) -> Iterator[None]:
    """Raise InputError for whatever a library raises; drop what is written to the process's stderr meanwhile.

    For tokenizers: on damaged files it raises anything. A panic of its Rust code is no Exception, and is told on stderr
    before Python hears of it.
    """
    sys.stderr.flush()
    try:
        with _nowhere(2):
            yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InputError(what, expected, reason_of(error)) from error


@contextmanager
def _nowhere(stream: int) -> Iterator[None]:
    kept, nowhere = os.dup(stream), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream)
        yield
    finally:
        os.dup2(kept, stream)
        os.close(kept)
        os.close(nowhere)
