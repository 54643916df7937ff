"""Files that are whole or absent, and errors of one line.

Every output of the pipeline goes through `replace_when_done` (a file) or `directory_when_done` (a directory). It is
written beside its place under a temporary name, flushed to disk and then renamed. A reader, or `make`, never finds half
of it, whenever a run is killed. Bad input raises `InputError`; `run` prints it as one line on stderr and exits with 1.
"""

import csv
import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TextIO, cast

from files.command_start import INTERRUPTIBLE, collect_garbage_again
from files.input_errors import (
    OUTPUT,
    STEERING,
    InputError,
    PrintableLines,
    ends_of,
    in_one_line,
    printable,
    sha256_file,
)
from files.seals import check_can_seal, file_state, seal_file

GIB = 1 << 30
GB = 10**9  # in which the Hub shows sizes
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's words for a full disk; it gives no errno
HOST_DIGITS = 8  # of the digest of a host's name
LINK_LOOP = "Symlink loop"  # how Path.resolve begins its error, before Python 3.13
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports Ctrl-C
NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")  # torch's words, of a GPU the last
NO_THREAD = "can't start new thread"  # Python's words for a user's limit of processes; it gives no errno
DEFECTS = (errno.EBADF, errno.EFAULT)  # no disk and no machine causes them: a defect of ours keeps its traceback
# Of a file on a network file system, or of a download.
OF_CONNECTIONS = (
    *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
)
NO_FLUSH_OF_FOLDERS = (errno.EINVAL, errno.EBADF)  # by which some file systems refuse it; PostgreSQL goes by these, too


def check_words(arguments: list[str]) -> None:
    """Raise InputError for an argument that is no text: no record holds it, or a terminal would obey it."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="ignore").decode():
            raise InputError(argument, "a name in UTF-8", "other bytes", "in a locale of ASCII, set PYTHONUTF8=1")
        if STEERING.search(argument):
            raise InputError(argument, "a text without signs that a terminal obeys", "one")


def open_streams() -> None:
    """Open on nothing what the caller has closed of stdin, stdout and stderr.

    A file that is opened next would get its number, and what a tool prints would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, so this one
    sys.stdin, sys.stdout, sys.stderr = (
        stream or cast(TextIO, open(number, mode))  # noqa: SIM115
        for number, (stream, mode) in enumerate([(sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")])
    )


def run(main: Callable[[], None]) -> None:
    """Call `main`; print an InputError, a full disk or an unusable path as one line and exit with code 1."""
    rank = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""  # analysis/ranks.py
    collect_garbage_again()
    try:
        if INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        open_streams()
        check_words(sys.argv[1:])
        sys.stdout = cast(TextIO, PrintableLines(sys.stdout))
        main()
    except InputError as error:
        sys.exit(f"error{rank}: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except MemoryError:  # as of `ulimit -v`, or of a machine without overcommitment
        sys.exit(f"error{rank}: memory: expected enough of it, found none left")
    except RuntimeError as error:
        if NO_MEMORY.search(str(error)):
            sys.exit(f"error{rank}: memory: expected enough of it, found none left")
        if str(error).startswith(NO_THREAD):
            sys.exit(f"error{rank}: processes: expected one more, found as many as this user may have")
        if not str(error).startswith(LINK_LOOP):
            raise
        sys.exit(f"error{rank}: {in_one_line(str(error))}: expected a path that can be used, found links in a circle")
    except OSError as error:
        # A file's name may come from an archive or a record: its control characters stay off the terminal.
        named = isinstance(error.filename, str | bytes)
        place = printable(ends_of(os.fsdecode(error.filename))) if named else OUTPUT
        if error.errno == errno.EPIPE and place == OUTPUT:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
            sys.exit(f"error{rank}: {OUTPUT}: expected a reader to the end, found a closed pipe")
        if error.errno == errno.ENOSPC:
            sys.exit(f"error{rank}: {place}: expected enough disk space, found the disk full")
        if named:
            sys.exit(f"error{rank}: {place}: expected a path that can be used, found: {error.strerror}")
        if error.errno is None or error.errno in DEFECTS:
            raise
        # Of a read, of a write to a file that stays, or of a new process.
        sys.exit(f"error{rank}: system: expected a disk and processes that can be used, found: {error.strerror}")
    finally:
        if INTERRUPTIBLE:  # all is tidied up, and Python's own end would print a stack, too
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise InputError at the end when a file was exchanged or edited while it was read."""
    before = file_state(path)
    yield
    if file_state(path) != before:
        raise InputError(path, "a file that stays as it is while it is read", "a change", "run the same command again")


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file. An error names the copy; shutil names the source, also where a write failed."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.filename is None or error.filename2:  # what cannot be opened is named alone
            error.filename, error.filename2 = str(target), None
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)  # resolved: else the link would be to a symbolic link, which can break
    except OSError:  # another file system, or one without links
        copy_file(source, target)


def in_unit(count: int, unit: int) -> str:
    """Return bytes in a unit such as GIB: two decimals, or four below one unit, where two would show nothing."""
    return f"{count / unit:.2f}" if count >= unit else f"{count / unit:.4f}"


def gib(count: int) -> str:
    """Return bytes in GiB, without the unit, as every size of a file or of memory that was measured is shown."""
    return in_unit(count, GIB)


def existing_parent(directory: Path) -> Path:
    """Return a directory, or the first of its parents that exists."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return place


def require_disk_space(directory: Path, needed_bytes: int) -> None:
    """Raise InputError when the file system of `directory` (or of its first existing parent) has too little room."""
    free_bytes = shutil.disk_usage(existing_parent(directory)).free
    if free_bytes < needed_bytes:
        raise InputError(directory, f"{gib(needed_bytes)} GiB of free disk space", f"{gib(free_bytes)} GiB")


def flush_to_disk(path: Path) -> None:
    """fsync a file or a directory, as far as the file system can flush directories."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH_OF_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a directory tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except RecursionError as error:
            raise InputError(path, "a folder that can be removed", "a chain of folders too deep for it") from error
    else:
        path.unlink(missing_ok=True)


def host_digest(name: str) -> str:
    """Return by what a host is known in names of files and in locks: what `hostname | sha256sum` begins with there."""
    return hashlib.sha256(os.fsencode(f"{name}\n")).hexdigest()[:HOST_DIGITS]


@cache
def this_host() -> str:
    """Return this host's digest. Its name is nobody else's business, and temporary names are on command lines."""
    return host_digest(socket.gethostname())


def _check_named(path: Path) -> None:
    if not path.name:  # "." and "/": nothing lies beside them
        raise InputError(path, "an output with a name", "a directory without one")


def partial_file(path: Path) -> Path:
    """Return the temporary name of a file that is being written; it keeps the suffix: some tools go by it.

    The host's digest is in it: if two hosts ever wrote one output, each would still write a whole file of its own.
    """
    _check_named(path)
    return path.with_name(f"{path.stem}.{this_host()}.partial{path.suffix}")


def partial_directory(path: Path) -> Path:
    """Return the temporary name of a directory that is being written."""
    _check_named(path)
    return path.with_name(f"{path.name}.{this_host()}.partial")


@contextmanager
def folder_for_now(path: Path) -> Iterator[Path]:
    """Make an empty folder for this block, for us alone to read; one that a killed run has left goes first."""
    remove(path)
    path.mkdir(mode=0o700, parents=True)
    try:
        yield path
    finally:
        remove(path)


def leftovers_of(path: Path) -> list[Path]:
    """Return what lies beside an output under a temporary name of its own, of whatever host."""
    # A host's digest has no dot in it, so the temporary names of A.B.json are not taken for those of A.json.
    begun = r"(?:\.[A-Za-z0-9-]+\.partial)+"
    names = re.compile(f"{re.escape(path.stem)}{begun}{re.escape(path.suffix)}|{re.escape(path.name)}{begun}")
    return sorted(found for found in path.parent.glob(f"{glob.escape(path.stem)}*") if names.fullmatch(found.name))


def check_apart(inputs: Iterable[Path], outputs: list[Path]) -> None:
    """Raise InputError when an output would overwrite an input or another output.

    That is: when it, or one of its temporary names, is an input, lies inside one or holds one, or is given twice.
    Several outputs are files: where one of them cannot lie, none is written.
    """
    for output in outputs if len(outputs) > 1 else []:
        check_writable_place(output)
    sources = [path.resolve() for path in inputs]
    for number, output in enumerate(outputs):
        folder = partial_directory(output)
        # The temporary names count too: a writer deletes what it finds there before it starts.
        for name in (output, partial_file(output), folder, partial_directory(folder)):
            place = name.resolve()
            for source in sources:
                if place.is_relative_to(source) or source.is_relative_to(place) or _same_file(place, source):
                    raise InputError(output, "an output apart from every input", f"one that would overwrite {source}")
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise InputError(output, "an output of its own", "the name of two outputs")


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)  # two hard links have two names


@contextmanager
def only_writer(path: Path, waits: bool = False) -> Iterator[None]:
    """Hold a lock on writing `path`; raise InputError when another run on this machine has it, or wait for its end.

    The kernel drops the lock when the process ends, also by a kill, so no stale lock can stop the next run. Other hosts
    are kept out by files/host_locks.py, for a whole step of make.
    """
    # Lock files are never deleted: a run could still hold the deleted one while another locks a new one of that name.
    # So they lie in the temporary directory, where they bother nobody, and not beside the output. Each user has a
    # directory of their own, because one user cannot open the lock files of another.
    directory = Path(tempfile.gettempdir()) / f"output-locks-{os.getuid()}"
    with suppress(FileExistsError):  # as something else than a folder
        directory.mkdir(mode=0o700, exist_ok=True)
    # The temporary directory is everybody's: another user may have made a folder, or a link, of that name before.
    if directory.is_symlink() or not directory.is_dir() or directory.stat().st_uid != os.getuid():
        raise InputError(directory, "a folder of your own, for locks", "one of another user", "set TMPDIR to another")
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()  # a path has slashes and can be too long for a name
    handle = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not waits:
                raise InputError(path, "an output that no other run is writing", "one that is being written") from error
            print(f"{path}: another run makes it; waiting", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            found = f"one without ({error.strerror})"
            raise InputError(directory, "a file system with locks", found, "set TMPDIR to another") from error
        yield
    finally:
        os.close(handle)


def check_writable_place(path: Path) -> None:
    """Raise InputError where anything but a file lies, or a link: a rename would put a file in its place.

    Of a device, as /dev/null, all other programs would then read that file.
    """
    if path.is_symlink() or os.path.lexists(path) and not path.is_file():
        found = "a link" if path.is_symlink() else "a directory" if path.is_dir() else "a pipe, a device or a socket"
        raise InputError(path, "a file to write", found)


@contextmanager
def replace_when_done(path: Path, sha256: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, else delete it.

    sha256: of what is written, where that is known; what lies there then gets no seal if it has been exchanged.
    Raises InputError when something else than a file lies there (`check_writable_place`), another run is writing it, or
    the disk is full.
    """
    check_writable_place(path)
    check_can_seal(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(path)  # beside it: a rename is atomic only within one file system
    with only_writer(path):
        remove(partial)  # of a run that was killed
        try:
            yield partial
            # Flush, then rename: a crash of the machine could otherwise keep the rename and lose the bytes.
            flush_to_disk(partial)
            seal_file(path, partial, sha256=sha256)
            os.replace(partial, path)
            remove(partial)  # still there if both names were links to one file: such a rename does nothing
            # The directory holds the new name. Until it is flushed, a crash could bring back the old file, and make
            # would find a record or a later output newer than what it was made from.
            flush_to_disk(path.parent)
        except BaseException as error:  # Ctrl-C, too
            remove(partial)
            _refuse_failed_write(path, error)
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically and seal these very bytes, whatever lies under its temporary name by then."""
    digest = hashlib.sha256(content).hexdigest()
    with replace_when_done(path, digest) as partial:
        partial.write_bytes(content)
        if sha256_file(partial) != digest:
            raise InputError(path, "the bytes that were just written", "others", "who else writes there?")


def _refuse_failed_write(path: Path, error: BaseException) -> None:
    """Raise InputError when an error means that a write failed; name the output, not its temporary file."""
    if not isinstance(error, OSError) or error.filename == OUTPUT:
        return
    if error.errno == errno.ENOSPC:
        raise InputError(path, "enough disk space", "the disk full") from error
    if error.errno is None and SHORT_WRITE.fullmatch(str(error)):
        raise InputError(path, "room to write it", f"a write cut short ({error})") from error
    # One that names no file is of a write or a flush: opening, renaming and deleting name theirs. A file system may
    # give any number; one without a number is a library's own.
    if error.errno is not None and error.filename is None:
        expected = "a disk and a network that answer" if error.errno in OF_CONNECTIONS else "a file that can be written"
        raise InputError(path, expected, str(error.strerror)) from error


def check_replaceable(path: Path, marker: str) -> None:
    """Raise InputError unless `path` is absent, an empty directory, or one that holds the file `marker`."""
    if path.is_symlink():  # a rename would replace the link, and what it points to would stay as it is
        ours = False
    elif path.is_dir():
        ours = (path / marker).is_file() or not any(path.iterdir())
    else:
        ours = not path.exists()
    if not ours:
        raise InputError(path, f"no directory, an empty one or one with {marker} in it", "something else")


@contextmanager
def directory_when_done(path: Path, marker: str, sealed: str = "**/*") -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success flush its files and rename it to `path`, else delete it.

    sealed: pattern of the files in it that get seals.

    An old `path` is replaced only after the new one is complete, and only if it holds the file `marker`, which shows
    that the same step wrote it. Raises InputError otherwise, and when another run is writing `path`.
    """
    check_replaceable(path, marker)
    check_can_seal(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = partial_directory(path), partial_directory(partial_directory(path))
    with only_writer(path):
        remove(partial)  # both of a run that was killed
        remove(old)
        partial.mkdir()
        try:
            yield partial
            _flush_tree(partial)
            for file in sorted(partial.glob(sealed)):
                # The digests of weights are in a record beside them.
                if file.is_file() and file.suffix != ".safetensors":
                    seal_file(path / file.relative_to(partial), file, flush=False)
            # A directory with files in it cannot be renamed over. Deleted in place, a kill would leave part of it under
            # its name. So it is set aside whole; a kill before the second rename leaves nothing under the name.
            if path.exists():
                os.replace(path, old)
            os.replace(partial, path)
            flush_to_disk(path.parent)
            remove(old)  # last: until here the old files could still be had
        except BaseException as error:
            remove(partial)
            _refuse_failed_write(path, error)
            raise


def _flush_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            flush_to_disk(path)
    flush_to_disk(directory)  # a directory holds the names of its files, so it is flushed as well


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows of one shape, at least one, as CSV, the first row's keys as columns, atomically."""
    with replace_when_done(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
