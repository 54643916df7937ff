"""What a library prints past Python, kept off the screen."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
