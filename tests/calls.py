"""Commands called in this process, sealed by their names, and folders made once for all workers."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from files.seals import running_command, seal_file, set_command

ON_A_PORT = ["--host", "127.0.0.1", "--port", "0"]  # of a llama-server that is somebody else's to who asks it


def call(main, *arguments: object) -> None:
    """Call a command's main with arguments of any type: a process would import all of its libraries again."""
    main([str(argument) for argument in arguments])


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder; yield whether it is still to be made. It counts as made when this ends without error."""
    done = folder.with_name(f"{folder.name}.done")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


@contextmanager
def as_command(name: str) -> Iterator[None]:
    """Seal what is written meanwhile as a command does."""
    before = running_command()
    set_command(f"{name}.py")
    yield
    set_command(f"{before}.py")


def seal_all(folder: Path, command: str) -> None:
    """Seal every file of a folder, as the command does that would have written it."""
    with as_command(command):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                seal_file(path, path)
