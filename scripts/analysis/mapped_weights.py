"""The line of a command that dies because weights shrank under it.

Weights that transformers loads whole are mapped. Where such a file loses its end, the kernel ends whoever reads there
(SIGBUS), and no code of Python runs after that. So a process waits beside the command and speaks for it.
"""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.input_errors import InputError

ENDED_WELL = b"."


@contextmanager
def shrinking_told(model: Path) -> Iterator[None]:
    """Run a block that maps a checkpoint; if it dies and a file has become smaller, `error: PATH: ...` is on stderr.

    The exit code is that of the signal. What the block raises needs no such line.
    """
    sizes = {path: path.stat().st_size for path in sorted(model.glob("*.safetensors"))}
    reader, writer = os.pipe()
    if (watcher := os.fork()) == 0:
        _watch(reader, sizes)
    os.close(reader)
    try:
        yield
    finally:
        try:
            os.write(writer, ENDED_WELL)
        except BrokenPipeError:  # somebody has ended it
            pass
        os.close(writer)
        os.waitpid(watcher, 0)


def _watch(reader: int, sizes: dict[Path, int]) -> None:
    """Wait for the end of the parent, in the new process, and tell which file became smaller; never return."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A lock of the parent must not outlive it here, nor its end of the pipe or its stdout stay open.
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.closerange(3, reader)
        os.closerange(reader + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if os.read(reader, 1) != ENDED_WELL and (line := _shrunk(sizes)):
            # The first line end is for a bar of progress, which the parent could not end.
            os.write(2, f"\nerror: {line}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(0)


def _shrunk(sizes: dict[Path, int]) -> InputError | None:
    """Return what is wrong with the first file that has fewer bytes than before, None without any."""
    for path, size in sizes.items():
        if path.exists() and (found := path.stat().st_size) < size:
            return InputError(path, f"{size} bytes to its end", str(found), "leave a checkpoint alone while it is read")
    return None
