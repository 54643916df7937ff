"""Copying runs of bytes, such as those of one expert, between files at the speed of `cp`, and comparing them.

The kernel copies (copy_file_range), so nothing is held in memory. Another thread maps what was written into memory and
takes its sha256.
"""

import errno
import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from files.input_errors import InputError

COPY_BYTES = 8 << 20  # that a copy holds at once
COPY_CALL_BYTES = 16 << 20  # of one call: progress is shown, Ctrl-C is heard and the digest keeps up between calls
# What copy_file_range says where it cannot copy: between file systems, or on one that does not support it.
NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Run:
    """`size` bytes of `file` from `offset` on."""

    file: Path
    offset: int
    size: int


def kept_runs(keep: list[int]) -> Iterator[tuple[int, int]]:
    """Yield [first, last + 1) of each run of consecutive kept experts."""
    first = 0
    for i in range(1, len(keep) + 1):
        if i == len(keep) or keep[i] != keep[i - 1] + 1:
            yield keep[first], keep[i - 1] + 1
            first = i


def runs_of(file: Path, offset: int, size: int, experts: int, keep: list[int] | None) -> list[Run]:
    """Return what stays of a tensor whose bytes are `experts` equal parts; `keep` None keeps all of it.

    Works for a tensor whose first dimension counts the experts: each expert's bytes are then one piece.
    """
    if keep is None:
        return [Run(file, offset, size)]
    of_one = size // experts
    return [Run(file, offset + first * of_one, (end - first) * of_one) for first, end in kept_runs(keep)]


def write_runs(
    path: Path,
    pieces: Iterable[bytes | Run],
    advance: Callable[[int], object],
    follow: Callable[[int], object] = lambda count: None,
) -> None:
    """Write byte strings and runs, one after the other, as a new file, and flush it to the disk.

    `advance` gets the number of bytes of runs as they are copied, `follow` that of all bytes as they are written.
    Raises InputError when a source file ends before a run does.
    """
    with open(path, "xb", buffering=0) as output:  # no buffer: the kernel appends to the same file in between
        for piece in pieces:
            if isinstance(piece, bytes):
                _write_all(output.fileno(), piece)
                follow(len(piece))
            else:
                for count in _copy(piece, output.fileno()):
                    follow(count)
                    advance(count)
        os.fsync(output.fileno())


def write_hashed(files: dict[Path, Iterable[bytes | Run]], advance: Callable[[int], object]) -> dict[Path, str]:
    """Write files as `write_runs` does, two at once; return their hex sha256.

    A digest takes longer than a copy. So each file is hashed while it is written, and two at once use two processors.
    """
    lock = threading.Lock()
    errors: list[BaseException] = []

    def advance_one(count: int) -> None:
        with lock:
            advance(count)
        if errors:  # of the other file: this one is not written to its end
            raise errors[0]

    def write(path: Path, pieces: Iterable[bytes | Run]) -> str:
        hasher = _Hasher(path)
        try:
            write_runs(path, pieces, advance_one, hasher.add)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            digest = hasher.finish()
        return digest

    with ThreadPoolExecutor(2) as pool:
        try:
            return dict(zip(files, pool.map(write, files, files.values())))
        except BaseException as error:  # Ctrl-C, too: both writers stop at their next step
            errors.append(error)
            raise


def same_bytes(run: Run, file: Path, offset: int) -> bool:
    """Tell whether a run's bytes are those of `file` from `offset` on."""
    with open(run.file, "rb", buffering=0) as one, open(file, "rb", buffering=0) as other:
        done = 0
        while done < run.size:
            count = min(COPY_BYTES, run.size - done)
            expected = os.pread(one.fileno(), count, run.offset + done)
            if not expected or os.pread(other.fileno(), len(expected), offset + done) != expected:
                return False
            done += len(expected)
    return True


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _copy(run: Run, output: int) -> Iterator[int]:
    """Append a run to the open file `output`; yield the bytes of each step."""
    with open(run.file, "rb", buffering=0) as source:
        done = 0
        while done < run.size:
            count = min(COPY_CALL_BYTES, run.size - done)
            try:
                copied = os.copy_file_range(source.fileno(), output, count, run.offset + done)
            except OSError as error:
                if error.errno not in NO_KERNEL_COPY:
                    raise
                data = os.pread(source.fileno(), min(count, COPY_BYTES), run.offset + done)
                _write_all(output, data)
                copied = len(data)
            if not copied:
                raise InputError(run.file, f"{run.size} bytes from {run.offset} on", f"its end after {done}")
            done += copied
            yield copied


class _Hasher:
    """A thread that follows a growing file and takes its sha256."""

    def __init__(self, path: Path) -> None:
        self.digest, self.path = hashlib.sha256(), path
        self.steps: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.error: OSError | ValueError | None = None
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def add(self, count: int) -> None:
        """Announce `count` more bytes at the end of the file."""
        self.steps.put(count)

    def finish(self) -> str:
        """Wait for all that was announced; return the hex sha256."""
        self.steps.put(0)  # the end: no step has 0 bytes
        self.thread.join()
        if self.error:
            raise self.error
        return self.digest.hexdigest()

    def _follow(self) -> None:
        done = 0
        try:
            while count := self.steps.get():  # the file is there when the first bytes are announced
                with open(self.path, "rb", buffering=0) as file:
                    first = done - done % mmap.ALLOCATIONGRANULARITY  # a map starts at a multiple of this
                    with (
                        mmap.mmap(file.fileno(), done + count - first, access=mmap.ACCESS_READ, offset=first) as pages,
                        memoryview(pages) as view,
                    ):
                        self.digest.update(view[done - first :])
                done += count
        except (OSError, ValueError) as error:  # ValueError: the file is shorter than announced; raised by `finish`
            self.error = error
