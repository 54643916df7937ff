"""The folder of a llama-server's Unix socket: our user's alone (mode 0700), locked while its process runs.

A process that was killed leaves its folder in the temporary directory; the next one that wants a folder removes it.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "moe-llama-server-"  # no other program's
SOCKET = "llama.sock"  # llama-server knows a socket by that end
SHORT_PATH = 60  # bytes of a folder in which a socket can be: the name of one is 103 bytes at most, on macOS


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder whose path llama-server takes for that of a socket, and remove it in the end."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > SHORT_PATH or "," in place:  # llama-server takes a comma for the end of the path
        place = "/tmp"
    remove_left_over(Path(place))
    folder, handle = _new_folder(place)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(handle)


def remove_left_over(place: Path) -> None:
    """Remove the folders of our processes that were killed; leave what is not quite such a folder."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # its process runs, or it is another user's
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(handle)
                if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700:
                    _remove(folder)
            finally:
                os.close(handle)


def _new_folder(place: str) -> tuple[Path, int]:
    """Return a new folder and the handle that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        with suppress(FileNotFoundError):  # before it was locked, another process took it for one that is left over
            handle = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # some network file systems lock no folders: there nothing left over is removed
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, handle
            os.close(handle)


def _remove(folder: Path) -> None:
    (folder / SOCKET).unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it, and not ours to delete
        folder.rmdir()
