"""Whose turn it is to make a step's target, where several hosts, or several calls of make, share a build folder.

The lock is that of files/host_locks.py. Its holder touches it every BEAT_SECONDS while it works. Who waits goes by
that alone and by a clock of its own: the clocks of two hosts differ.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from files.host_locks import LOOK_SECONDS, Holder, held_by_another, holder_of, locks_in, release, take
from files.safe_files import leftovers_of, remove, this_host

BEAT_SECONDS = 1.0
TIME_ERROR = 0.1  # of a file's time, seconds; it is never ahead. Some file systems have whole seconds.


@contextmanager
def turn(target: Path, lock: Path, began: float, patience: float, tell: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock of a target; yield whether it is still to be made, or another run made it since make began.

    began: when make did, in seconds since 1970. patience: seconds without a sign of life of the holder until InputError
    is raised. tell: is given a line when this run has to wait.
    """
    locks_in(lock.parents[1])  # what dead processes of this host hold goes, whatever target it is of
    mine = wait_for(lock, target, patience, tell)
    ended = threading.Event()
    beat = threading.Thread(target=keep_beating, args=(lock, mine, ended))
    beat.start()
    try:
        remove_leftovers(target)
        yield not made_since(target, began, lock)
    finally:
        ended.set()
        beat.join()
        release(lock, mine)


def wait_for(lock: Path, target: Path, patience: float, tell: Callable[[str], None]) -> Holder:
    """Take a lock, wait while another run that shows signs of life has it; raise InputError when these end."""
    told: Holder | None = None
    seen, last = 0, time.monotonic()
    while True:
        holder, is_mine = take(lock)
        if is_mine:
            return holder
        if holder != told:
            told, last = holder, time.monotonic()
            tell(f"{holder.in_words()} makes it; waiting")
        sign = sign_of(lock)
        if sign != seen:
            seen, last = sign, time.monotonic()
        if time.monotonic() - last > patience:
            raise held_by_another(target, lock, holder, f", without a sign of life for {patience:.0f} s")
        time.sleep(LOOK_SECONDS)


def sign_of(lock: Path) -> int:
    """Return the time of a lock, 0 when it is gone."""
    try:
        with suppress(PermissionError):  # of another user, who shares the folder but not the file
            if lock.is_file():
                lock.open("rb").close()  # an NFS client looks anew only at what is opened
        return lock.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def keep_beating(lock: Path, mine: Holder, ended: threading.Event) -> None:
    """Touch a lock until the work has ended, or the lock is another's."""
    while not ended.wait(BEAT_SECONDS):
        try:
            if holder_of(lock) == mine:
                os.utime(lock)
        except OSError:  # a server that is away for a while; the work goes on
            continue


def made_since(target: Path, began: float, lock: Path) -> bool:
    """Tell whether a target was made after make began, and so by another run: make makes each but once.

    Times are those of the file system, which this host's clock is held against by the lock that it has taken.
    """
    if target.parent.is_dir():
        os.listdir(target.parent)  # an NFS client could else take a minute to see a new file
    os.utime(lock)
    now = lock.stat().st_mtime
    begun = began + now - time.time() + TIME_ERROR + (now == int(now))
    return target.exists() and begun <= target.stat().st_mtime <= now


def remove_leftovers(target: Path) -> None:
    """Remove and name what other hosts left of a target that they did not finish; commands tidy up after their own."""
    for output in (target, target.with_name(f"{target.name}.json")):
        for path in leftovers_of(output):
            if f".{this_host()}.partial" not in path.name:
                print(f"{path}: left by a host that did not finish it; removed", flush=True)
                remove(path)
