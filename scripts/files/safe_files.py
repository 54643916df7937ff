"""Files that are whole or absent, records in JSON, and errors of one line.

Every output of the pipeline goes through `replace_when_done` (a file) or `directory_when_done` (a directory). It is
written beside its place under a temporary name, flushed to disk and then renamed. A reader, or `make`, never finds half
of it, whenever a run is killed. Bad input raises `InputError`; `run` prints it as one line on stderr and exits with 1.
"""

import csv
import errno
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar


def ours_to_interrupt() -> bool:
    """Tell whether this process is one of our commands with Python's own handler of Ctrl-C; pytest keeps its own."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    ours = started and Path(started).resolve().is_relative_to(Path(__file__).resolve().parents[1])
    return bool(ours) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


# While a command imports (seconds, with torch) nothing is open that needs tidying up. Ctrl-C then ends it at once: an
# exception in the midst of an import would print a stack. `run` turns it into KeyboardInterrupt again.
if INTERRUPTIBLE := ours_to_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# What the commands import: `make setup` installs all of it. Another project's environment
# may have some of these. Looked up and not imported, so nothing is loaded for it.
PACKAGES = (
    *("aiohttp", "bokeh", "gguf", "httpx2", "huggingface_hub", "jinja2", "langdetect", "llama_cpp", "lm_eval"),
    *("markupsafe", "matplotlib", "nltk", "numpy", "pyarrow", "pydantic", "safetensors", "scipy", "tokenizers"),
    *("torch", "tqdm", "transformers", "yaml"),
)
if absent := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
    # Here, because every command comes by here before it imports any other package.
    more = "" if len(absent) == 1 else f" and {len(absent) - 1} more"
    sys.exit(
        f"error: {sys.executable}: expected this project's environment, found one without {absent[0]}{more}; "
        f"run `make setup`, then .venv/bin/python {sys.argv[0]}"
    )

from pydantic import BaseModel, ConfigDict, Field, ValidationError  # noqa: E402

COPY_BYTES = 8 << 20
GIB = 1 << 30
GB = 10**9  # in which the Hub shows sizes
SHOWN_CHARACTERS = 60  # of a refused value
REASON_CHARACTERS = 200
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's words for a full disk; it gives no errno
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports Ctrl-C
# Control characters as json.dumps writes them, but for line ends and tabs; a backslash of a text itself is doubled.
CONTROL = re.compile(r"(?<!\\)(?:\\\\)*(\\u00(?:[01][0-9a-f]|7f)|\\[bf])|[\x7f-\x9f]")
# What no text of a user's has and a terminal obeys; U+001F joins the parts of a question's digest. Others, which stray
# into a question by a copy from a PDF, are taken as they are.
STEERING = re.compile("[\x00\x07\x08\x1b\x1f\x9b]")
MAX_JSON_INTEGER = 1 << 64  # no count, size or offset of ours is larger; 60 digits would overflow a float later
# What a path, a disk or a machine can cause. Any other OSError is a defect of ours and keeps its traceback.
UNUSABLE_PATH = (
    *(errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EBUSY, errno.ENOMEM),
    *(errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETXTBSY, errno.EMFILE, errno.ENFILE, errno.EXDEV, errno.ENOTEMPTY),
    # Of network file systems, of those in user space and of damaged ones.
    *(errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EUCLEAN, errno.EMLINK, errno.ENOLCK, errno.EOPNOTSUPP),
)
OF_CONNECTIONS = (errno.ETIMEDOUT, errno.ENOTCONN)  # among them: a download fails by these, too


def printable(text: str) -> str:
    """Return a text with its control characters and line ends escaped: a file's words must not move the cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class InputError(Exception):
    """Name a path, what was expected there and what was found, in one line."""

    def __init__(self, path: object, expected: str, found: str, advice: str = "") -> None:
        line = f"{path}: expected {expected}, found {found}"
        super().__init__(printable(f"{line}; {advice}" if advice else line))


def reason_of(error: BaseException) -> str:
    """Return the class and the words of another library's error, in one line of at most REASON_CHARACTERS."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:REASON_CHARACTERS]


def shown(value: object) -> str:
    """Return a refused value as a message names it: at most SHOWN_CHARACTERS, so that an error stays one line."""
    return repr(value)[:SHOWN_CHARACTERS]


def check_words(arguments: list[str]) -> None:
    """Raise InputError for an argument that is no text: a record could not hold it, and no digest be made of it."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="ignore").decode():
            raise InputError(argument, "a name in UTF-8", "other bytes", "in a locale of ASCII, set PYTHONUTF8=1")


def run(main: Callable[[], None]) -> None:
    """Call `main`; print an InputError, a full disk or an unusable path as one line and exit with code 1."""
    rank = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""  # set by torchrun
    try:
        if INTERRUPTIBLE:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        check_words(sys.argv[1:])
        main()
    except InputError as error:
        sys.exit(f"error{rank}: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end, and would complain again
        sys.exit(f"error{rank}: output: expected a reader to the end, found a closed pipe")
    except OSError as error:
        place = error.filename or "output"
        if error.errno == errno.ENOSPC:
            sys.exit(f"error{rank}: {place}: expected enough disk space, found the disk full")
        if error.errno in UNUSABLE_PATH:
            sys.exit(f"error{rank}: {place}: expected a path that can be used, found: {error.strerror}")
        raise
    finally:
        if INTERRUPTIBLE:  # all is tidied up, and Python's own end would print a stack, too
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recorded_sha256(path: Path) -> str:
    """Return the hex sha256 of a file: from its record FILE.json, or from its bytes if those are newer.

    A digest of 50 GB takes minutes, so a recorded one is used where that is safe: a file that was replaced or edited
    later has a newer time or another size, and what is no record of ours has not the fields of one.
    """
    record = Path(f"{path}.json")
    if record.is_file() and record.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        known = read_json(record)
        if is_file_record(known) and known["bytes"] == path.stat().st_size:
            return known["sha256"]
    return sha256_file(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)  # resolved: else the link would be to a symbolic link, which can break
    except OSError:  # another file system, or one without links
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
    """Return the temporary name of a file that is being written; it keeps the suffix: some tools go by it."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def partial_directory(path: Path) -> Path:
    """Return the temporary name of a directory that is being written."""
    return path.with_name(f"{path.name}.partial")


def check_apart(inputs: Iterable[Path], outputs: list[Path]) -> None:
    """Raise InputError when an output would overwrite an input or another output.

    That is: when it, or one of its temporary names, is an input, lies inside one or holds one, or is given twice.
    """
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


def check_recorded(path: Path, what: str, belongs: Callable[[dict], bool]) -> None:
    """Raise InputError unless `path` is absent, or a file of ours: one whose record FILE.json `belongs` accepts.

    `what` names such a file in the message.
    """
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
    """Hold a lock on writing `path`; raise InputError when another run on this machine has it.

    The kernel drops the lock when the process ends, also by a kill, so no stale lock can stop the next run.
    """
    # Lock files are never deleted: a run could still hold the deleted one while another locks a new one of that name.
    # So they lie in the temporary directory, where they bother nobody, and not beside the output. Each user has a
    # directory of their own, because one user cannot open the lock files of another.
    directory = Path(tempfile.gettempdir()) / f"output-locks-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    # The temporary directory is everybody's: another user may have made a folder, or a link, of that name before.
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise InputError(directory, "a folder of your own, for locks", "one of another user", "set TMPDIR to another")
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()  # a path has slashes and can be too long for a name
    handle = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(path, "an output that no other run is writing", "one that is being written") from error
    finally:
        os.close(handle)


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, else delete it.

    Raises InputError when `path` is a directory, another run is writing it, or the disk is full.
    """
    if path.is_dir():
        raise InputError(path, "a file to write", "a directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(path)  # beside it: a rename is atomic only within one file system
    with only_writer(path):
        remove(partial)  # of a run that was killed
        try:
            yield partial
            # Flush, then rename: a crash of the machine could otherwise keep the rename and lose the bytes.
            flush_to_disk(partial)
            os.replace(partial, path)
            remove(partial)  # still there if both names were links to one file: such a rename does nothing
            # The directory holds the new name. Until it is flushed, a crash could bring back the old file, and make
            # would find a record or a later output newer than what it was made from.
            flush_to_disk(path.parent)
        except BaseException as error:  # Ctrl-C, too
            remove(partial)
            _refuse_failed_write(path, error)
            raise


def _refuse_failed_write(path: Path, error: BaseException) -> None:
    """Raise InputError when an error means that a write failed; name the output, not its temporary file."""
    if not isinstance(error, OSError):
        return
    if error.errno == errno.ENOSPC:
        raise InputError(path, "enough disk space", "the disk full") from error
    if error.errno is None and SHORT_WRITE.fullmatch(str(error)):
        raise InputError(path, "room to write it", f"a write cut short ({error})") from error
    # One that names no file is of a write or a flush: opening, renaming and deleting name theirs.
    if error.errno in UNUSABLE_PATH and error.errno not in OF_CONNECTIONS and error.filename is None:
        raise InputError(path, "a file that can be written", str(error.strerror)) from error


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
def directory_when_done(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success flush its files and rename it to `path`, else delete it.

    An old `path` is replaced only after the new one is complete, and only if it holds the file `marker`, which shows
    that the same step wrote it. Raises InputError otherwise, and when another run is writing `path`.
    """
    check_replaceable(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = partial_directory(path), partial_directory(partial_directory(path))
    with only_writer(path):
        remove(partial)  # both of a run that was killed
        remove(old)
        partial.mkdir()
        try:
            yield partial
            _flush_tree(partial)
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


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):  # NaN and Infinity are Python's own; 1e999 becomes infinite
        raise ValueError(f"expected a finite number, found {shown(text)}")
    return value


def _bounded(text: str) -> int:
    if len(text) > len(str(MAX_JSON_INTEGER)) or abs(value := int(text)) > MAX_JSON_INTEGER:
        raise ValueError(f"expected a whole number of at most 64 bits, found {shown(text)}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:SHOWN_CHARACTERS]!r} twice")
    return value


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise ValueError where Python would take more than JSON and a file can hold.

    That is: NaN and infinite numbers, whole numbers over 64 bits, half of a surrogate pair (no file can be written with
    one), and a key twice, of which another reader may take the other value. Raises RecursionError on brackets nested
    thousands deep.
    """
    decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    numbers: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite, "parse_int": _bounded}
    value = json.loads(decoded, object_pairs_hook=_each_once, **numbers)
    if "\\ud" in decoded.lower():  # only an escape can bring half a pair in; most texts have none and are not walked
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path) -> dict:
    """Read a JSON object; raise InputError when the file is missing, is not JSON or is not an object."""
    if not path.is_file():
        raise InputError(path, "a JSON file", "nothing" if not path.exists() else "no file")
    try:
        value = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise InputError(path, "valid JSON", str(error)) from error
    if not isinstance(value, dict):
        raise InputError(path, "a JSON object", type(value).__name__)
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented, keys in the given order, atomically."""
    with replace_when_done(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of a file's bytes, in hex
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Fields(BaseModel):
    """A part of a record: named fields of a JSON object, with their types. Other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)  # strict: "5" and true are no numbers


def require(holds: bool, rule: str) -> None:
    """Raise ValueError unless a rule between the fields of a record holds: for its validator.

    rule: as in "expected a record with RULE".
    """
    if not holds:
        raise ValueError(rule)


class Record(Fields):
    """A JSON file that one step writes and others read. A subclass names its fields and belongs to one module.

    `what` names the file in messages. `current` is the version of its form. It goes up when a field changes its name or
    meaning, so that an older file is refused and never misread. `any_letters`: it holds a model's own words, in which a
    control character may be; none of them is printed.
    """

    what: ClassVar[str]
    current: ClassVar[int] = 1
    any_letters: ClassVar[bool] = False
    version: int


class FileRecord(Record):
    """The record FILE.json beside a large file: its size and digest, by which reading the file again is spared."""

    bytes: Count
    sha256: Sha256


def is_file_record(content: dict) -> bool:
    """Tell whether an object has the fields of a FileRecord, of any owner and version."""
    try:
        FileRecord.model_validate(content)
    except ValidationError:
        return False
    return True


def check_record(path: object, content: dict, kind: type[Record], again: str = "make it again") -> dict:
    """Return a record's content unchanged; raise InputError when its version or a field is not as `kind` defines it.

    again: what to do about it.
    """
    # The version comes first: of an older file that is the reason, and a missing field only follows from it.
    if content.get("version") != kind.current:
        found = f"version {content['version']!r}"[:SHOWN_CHARACTERS] if "version" in content else "no version"
        raise InputError(path, f"{kind.what}, version {kind.current}", found, again)
    check_fields(path, content, kind, kind.what, again)
    # Some of what a record holds is printed: an escape sequence in a name would reach the terminal or a card.
    if not kind.any_letters and (control := CONTROL.search(json.dumps(content, ensure_ascii=False))):
        raise InputError(path, f"{kind.what} without control characters", repr(control[0]), again)
    return content


def check_fields(path: object, content: dict, kind: type[Fields], what: str, again: str = "make it again") -> None:
    """Raise InputError when a field is not as `kind` defines it; what: the file, in the message."""
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise _refused_field(path, what, again, error) from error


def _refused_field(path: object, what: str, again: str, error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]  # one line, so the first of them
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return InputError(path, f"{what} with the field {field!r}", "none", again)
    found = shown(first["input"])
    if first["type"] == "string_pattern_mismatch":  # of digests alone; the words of pydantic show the expression
        return InputError(path, f"{what} whose {field!r} is 64 hex digits", found, again)
    if first["type"] == "value_error":  # of `require`
        place = f"{what} whose {field!r} has" if field else f"{what} with"
        return InputError(path, f"{place} {first['ctx']['error']}", "others", again)
    words = first["msg"]  # of pydantic, mostly "Input should be a valid integer" and the like
    words = words.partition(" or instance of ")[0]  # of a class of ours, which says nothing to a reader
    rule = words.removeprefix("Input should be ") if words.startswith("Input should be ") else f"valid ({words})"
    return InputError(path, f"{what} whose {field!r} is {rule}", found, again)


def read_record(path: Path, kind: type[Record], again: str = "make it again") -> dict:
    """Read a record; raise InputError when it is missing or is not one of that kind. again: what to do about it."""
    return check_record(path, read_json(path), kind, again)


def write_record(path: Path, content: dict, kind: type[Record]) -> None:
    """Write a record, its version first; raise InputError rather than write what `read_record` would refuse."""
    write_json(path, check_record(path, {"version": kind.current, **content}, kind))


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    with replace_when_done(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows of one shape, at least one, as CSV, the first row's keys as columns, atomically."""
    with replace_when_done(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
