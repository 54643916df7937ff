"""Files that are whole or absent, records in JSON, and errors of one line.

Every output of the pipeline goes through `replace_when_done` (a file) or `directory_when_done` (a directory): it is
written beside its place under a temporary name, flushed to disk and renamed, so that a reader or `make` never meets
half of it. Bad input raises `InputError`; `run` turns it into one line on stderr and exit code 1.
"""

import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

COPY_BYTES = 8 << 20
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
GIB = 1 << 30


class InputError(Exception):
    """Name a path, what was expected there and what was found, in one line."""

    def __init__(self, path: object, expected: str, found: str, advice: str = "") -> None:
        line = f"{path}: expected {expected}, found {found}"
        super().__init__(f"{line}; {advice}" if advice else line)


def run(main: Callable[[], None]) -> None:
    """Call `main`; print an InputError, a full disk or an unusable path as one line and exit with code 1."""
    rank = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""  # set by torchrun
    try:
        main()
    except InputError as error:
        sys.exit(f"error{rank}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            sys.exit(f"error: {error.filename or 'output'}: expected enough disk space, found the disk full")
        if error.errno in (
            errno.EACCES,
            errno.EROFS,
            errno.EEXIST,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.ENOENT,
            errno.EPERM,
            errno.ENAMETOOLONG,
            errno.ELOOP,
            errno.EIO,
            errno.EFBIG,
        ):
            sys.exit(
                f"error{rank}: {error.filename or 'output'}: expected a path that can be used, found: {error.strerror}"
            )
        raise


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sha256(path: Path) -> str:
    """Return the sha256 of a file, from its record FILE.json when that is no older than the file, else from its bytes."""
    record = Path(f"{path}.json")
    if record.is_file() and record.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        known = read_json(record)
        if known.get("bytes") == path.stat().st_size and "sha256" in known:
            return known["sha256"]
    return sha256_file(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def sha256_json(value: object) -> str:
    """Return the hex sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def in_unit(count: int, unit: int) -> str:
    """Return bytes in a unit such as GIB: two decimals, or four below one unit, where two would show nothing."""
    return f"{count / unit:.2f}" if count >= unit else f"{count / unit:.4f}"


def gib(count: int) -> str:
    """Return bytes in GiB, without the unit. Every size that a person reads comes from here or from `in_unit`."""
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
    """fsync a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a directory tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def partial_file(path: Path) -> Path:
    """Return the temporary name of a file that is being written; it keeps the ending, which some tools go by."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def partial_directory(path: Path) -> Path:
    """Return the temporary name of a directory that is being written."""
    return path.with_name(f"{path.name}.partial")


def check_apart(inputs: Iterable[Path], outputs: list[Path]) -> None:
    """Raise InputError when an output, or its temporary name, is an input, lies inside one or holds one, or is named twice."""
    resolved = [path.resolve() for path in inputs]
    for number, output in enumerate(outputs):
        folder = partial_directory(output)
        for place in (path.resolve() for path in (output, partial_file(output), folder, partial_directory(folder))):
            for source in resolved:
                if (
                    place.is_relative_to(source)
                    or source.is_relative_to(place)
                    or (place.exists() and source.exists() and place.samefile(source))
                ):
                    raise InputError(output, "an output apart from every input", f"one that would overwrite {source}")
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise InputError(output, "an output of its own", "the name of two outputs")


def check_recorded(path: Path, what: str, belongs: Callable[[dict], bool]) -> None:
    """Raise InputError unless `path` is absent or a file whose record FILE.json `belongs` accepts; what: which file that is."""
    record = Path(f"{path}.json")
    if path.exists() and not (path.is_file() and record.is_file() and belongs(read_json(record))):
        raise InputError(
            path,
            f"nothing, or {what} with its record {record.name}",
            "another file",
            "move it away or give another --output",
        )


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a lock on writing `path`; raise InputError when another run on this machine has it."""
    directory = (
        Path(tempfile.gettempdir()) / f"output-locks-{os.getuid()}"
    )  # beside the output they would be left behind
    directory.mkdir(exist_ok=True)
    handle = os.open(
        directory / hashlib.sha256(str(path.resolve()).encode()).hexdigest(), os.O_RDWR | os.O_CREAT, 0o600
    )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(path, "an output that no other run is writing", "one that is being written") from error
    finally:
        os.close(handle)


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, else delete it."""
    if path.is_dir():
        raise InputError(path, "a file to write", "a directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(path)
    with only_writer(path):
        remove(partial)
        try:
            yield partial
            flush_to_disk(partial)
            os.replace(partial, path)
            remove(partial)  # a rename between two links to one file does nothing
            flush_to_disk(path.parent)
        except BaseException as error:
            remove(partial)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise InputError(path, "enough disk space", "the disk full") from error
            if (
                isinstance(error, OSError) and error.errno is None and SHORT_WRITE.fullmatch(str(error))
            ):  # numpy's, without a reason
                raise InputError(path, "room to write it", f"a write cut short ({error})") from error
            raise


def check_replaceable(path: Path, marker: str) -> None:
    """Raise InputError unless `path` is absent, an empty directory, or one that holds the file `marker`."""
    if (
        path.is_symlink()
        or path.exists()
        and not (path / marker).is_file()
        and (not path.is_dir() or any(path.iterdir()))
    ):
        raise InputError(path, f"no directory, an empty one or one with {marker} in it", "something else")


@contextmanager
def directory_when_done(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success flush its files and rename it to `path`, else delete it.

    An old `path` is replaced only after the new one is complete, and only if it holds the file `marker`, which shows
    that the same step wrote it.
    """
    check_replaceable(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = partial_directory(path), partial_directory(partial_directory(path))
    with only_writer(path):
        remove(partial)
        remove(old)
        partial.mkdir()
        try:
            yield partial
            for file in partial.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    flush_to_disk(file)
            flush_to_disk(partial)
            if path.exists():  # set aside whole: deleted in place, a kill would leave part of it under its name
                os.replace(path, old)
            os.replace(partial, path)
            flush_to_disk(path.parent)
            remove(old)
        except BaseException:
            remove(partial)
            raise


def read_json(path: Path) -> dict:
    """Read a JSON object; raise InputError when the file is missing, is not JSON or is not an object."""
    if not path.is_file():
        raise InputError(path, "a JSON file", "nothing" if not path.exists() else "no file")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(path, "valid JSON", str(error)) from error
    if not isinstance(value, dict):
        raise InputError(path, "a JSON object", type(value).__name__)
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented, keys in the given order, atomically."""
    with replace_when_done(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Record(BaseModel):
    """A JSON file that one step writes and others read. A subclass names its fields; the module that defines it owns the file.

    `what` names the file in refusals. `current` is its version: it goes up when a field changes its name or meaning, so
    that an older file is refused by name and never misread.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    what: ClassVar[str]
    current: ClassVar[int] = 1
    version: int


def check_record(path: object, content: dict, kind: type[Record]) -> dict:
    """Return a record's content as it is; raise InputError when its version or a field is not what `kind` says."""
    if content.get("version") != kind.current:
        raise InputError(
            path, f"{kind.what}, version {kind.current}", f"version {content.get('version')!r}"[:60], "make it again"
        )
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            path, f"{kind.what} with {place!r}: {first['msg'].lower()}", repr(first["input"])[:60], "make it again"
        ) from error
    return content


def read_record(path: Path, kind: type[Record]) -> dict:
    """Read a record; raise InputError when it is missing or is not one of that kind."""
    return check_record(path, read_json(path), kind)


def write_record(path: Path, content: dict, kind: type[Record]) -> None:
    """Write a record, its version first; raise InputError rather than write what `read_record` would refuse."""
    write_json(path, check_record(path, {"version": kind.current, **content}, kind))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows of one shape as CSV, the first row's keys as columns, atomically."""
    with replace_when_done(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
