"""Seals show what was edited in a build folder after this project's commands wrote it.

A seal is an HMAC-SHA256 over a file's path in the build folder and its bytes, or over one line that is appended to a
record. The key lies outside of the build folder: $SEAL_KEY, or moe-tools/seal.key in the user's state folder, made when
it is first needed. The seals of a build folder, a line each, are in its file LEDGER, so nothing lies beside the sealed
files and no published folder holds a seal. The ledger is only appended to: a stage that is set aside and put back keeps
its seals. A folder is a build folder by the file MARKER; files elsewhere have no seals. SEALS=no neither seals nor
checks. GGUF files have none: a sealed record beside each holds its digest.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
from enum import Enum
from functools import lru_cache
from pathlib import Path

from files.input_errors import InputError

MARKER, LEDGER = ".built-by-this-project", ".seals"
BY_RECORD = ".gguf"
KEY_BYTES, KEY_NAME_DIGITS, CHUNK_BYTES = 32, 12, 8 << 20
SEAL_LINE = re.compile(r'(?P<key>[0-9a-f]{12}) (?P<seal>[0-9a-f]{64}) "(?P<place>(?:[^"\\]|\\.)*)"')
KEEP_ADVICE = "make that stage again (REPLACE=STAGE), or go on without seals (SEALS=no)"


class Seal(Enum):
    """What the ledger says of a file or a line."""

    VALID = "a valid seal"
    NONE = "no seal"
    BROKEN = "one edited since it was sealed"
    FOREIGN = "the seal of another key"


def sealing() -> bool:
    """Tell whether seals are made and checked: unless the user says SEALS=no."""
    return os.environ.get("SEALS") != "no"


def key_path() -> Path:
    """Return where the key lies."""
    if given := os.environ.get("SEAL_KEY"):
        return Path(given).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "moe-tools/seal.key"


def read_key() -> bytes:
    """Return the key, made first where there is none; raise InputError where it is no key or others may read it."""
    path = key_path()
    if build_folder(path):
        raise InputError(path, "a key outside of a build folder", "one inside", "set SEAL_KEY to another file")
    if not path.exists():
        _make_key(path)
    if not path.is_file() or len(key := path.read_bytes()) < KEY_BYTES:
        raise InputError(path, f"a key of {KEY_BYTES} bytes or more", "none", "set SEAL_KEY to another file")
    if path.stat().st_mode & 0o077:
        raise InputError(path, "a key that only its owner can read", "one that others can", f"chmod 600 {path}")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, os.urandom(KEY_BYTES))
        os.fsync(handle)
        os.link(own, path)  # whole or not at all; of two processes the second takes the first one's
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        own.unlink()


def build_folder(path: Path) -> Path | None:
    """Return the build folder that a path lies in, by its marker; None where it lies in none."""
    folder = path.absolute().parent.resolve()
    return next((place for place in (folder, *folder.parents) if (place / MARKER).exists()), None)


def place_in(root: Path, path: Path) -> str:
    """Return a path as its seal names it: relative to the build folder, so that a build can be moved."""
    return (path.absolute().parent.resolve() / path.name).relative_to(root).as_posix()


def seal_of(key: bytes, place: str, digest: str, subject: str | None = None) -> str:
    """Return the hex seal of a file's sha256 at a place, or with `subject` of a line's there."""
    said = json.dumps([place, digest, subject])
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def key_name(key: bytes) -> str:
    """Return by what the ledger tells keys apart; it gives nothing of the key away."""
    return hmac.new(key, b"name", hashlib.sha256).hexdigest()[:KEY_NAME_DIGITS]


def _append(root: Path, key: bytes, seal: str, place: str, flush: bool) -> None:
    """Append one seal to the ledger; several processes and hosts may at once."""
    with open(root / LEDGER, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        half = end and os.pread(file.fileno(), 1, end - 1) != b"\n"  # what a crash or a full disk has left
        line = f"{chr(10) * bool(half)}{key_name(key)} {seal} {json.dumps(place)}\n".encode()
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "half a seal", str(root / LEDGER))
        if flush:
            os.fsync(file.fileno())


def seal_file(path: Path, written: Path, flush: bool = True) -> None:
    """Seal what is about to be renamed to `path`; written: its temporary name.

    Before the rename: a kill in between leaves a seal of bytes that are nowhere, and the step is run again.
    """
    if path.suffix == BY_RECORD or not sealing() or not (root := build_folder(path)):
        return
    key, place = read_key(), place_in(root, path)
    _append(root, key, seal_of(key, place, digest_of(written)), place, flush)


def seal_line(path: Path, line: bytes, subject: str) -> None:
    """Seal a line that is about to be appended to `path`; subject: what it is about, beyond its own words."""
    if sealing() and (root := build_folder(path)):
        key, place = read_key(), place_in(root, path)
        digest = hashlib.sha256(line.strip()).hexdigest()
        _append(root, key, seal_of(key, place, digest, subject), place, flush=False)


def digest_of(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Seals:
    """The seals of one build folder, read once."""

    def __init__(self, root: Path) -> None:
        """Read the ledger; where there is none, nothing is sealed."""
        self.root, self.key = root, read_key()
        self.own: set[str] = set()
        self.places: set[tuple[str, bool]] = set()  # and whether this key sealed there
        ledger, mine = root / LEDGER, key_name(self.key)
        for line in ledger.read_text(errors="replace").splitlines() if ledger.is_file() else []:
            if found := SEAL_LINE.fullmatch(line):
                self.places.add((found["place"], found["key"] == mine))
                self.own |= {found["seal"]} if found["key"] == mine else set()

    def _judged(self, path: Path, digest: str, subject: str | None) -> Seal:
        place = place_in(self.root, path)
        if seal_of(self.key, place, digest, subject) in self.own:
            return Seal.VALID
        # The ledger can be edited, too: what it says beyond valid seals only chooses the words of a refusal.
        name = json.dumps(place)[1:-1]
        if (name, True) in self.places:
            return Seal.BROKEN
        return Seal.FOREIGN if (name, False) in self.places else Seal.NONE

    def of_file(self, path: Path) -> Seal:
        """Judge a file."""
        return self._judged(path, digest_of(path), None)

    def of_renamed(self, path: Path) -> Seal:
        """Judge a file whose folder may have got another name in the build: a release's."""
        if (found := self.of_file(path)) == Seal.VALID or not path.is_file():
            return found
        digest, places = digest_of(path), [json.loads(f'"{place}"') for place, own in self.places if own]
        return next((Seal.VALID for place in places if seal_of(self.key, place, digest) in self.own), found)

    def of_line(self, path: Path, line: bytes, subject: str) -> Seal:
        """Judge a line of a file."""
        return self._judged(path, hashlib.sha256(line.strip()).hexdigest(), subject)


@lru_cache(maxsize=4)
def _seals_at(root: Path, _size: int, _key: Path) -> Seals:
    return Seals(root)


def seals_over(path: Path) -> Seals | None:
    """Return the seals of the build folder that a path lies in; None where there is none, or with SEALS=no."""
    if not sealing() or not (root := build_folder(path)):
        return None
    ledger = root / LEDGER
    # Only appended to, so its size tells whether it must be read again.
    return _seals_at(root, ledger.stat().st_size if ledger.is_file() else 0, key_path())


def is_kept(path: Path) -> bool:
    """Tell whether a stage may go on from a file of its own: it is there as it was written. Else it is made again."""
    if not path.exists() or (seals := seals_over(path)) is None or (seal := seals.of_file(path)) == Seal.VALID:
        return path.exists()
    print(f"{path}: expected what this project wrote, found {seal.value}; it is made again", flush=True)
    return False


def check_kept(path: Path) -> None:
    """Raise InputError unless a file that a stage goes on from is as it was written."""
    if (seals := seals_over(path)) and (seal := seals.of_file(path)) != Seal.VALID:
        raise InputError(path, "what this project wrote", seal.value, KEEP_ADVICE)


def check_kept_lines(path: Path, subject: str) -> None:
    """Raise InputError unless every whole line that a stage goes on from is as it was written."""
    if seals := seals_over(path):
        for number, seal in line_seals(seals, path, subject):
            if seal != Seal.VALID:
                raise InputError(f"{path}, line {number}", "what this project wrote", seal.value, KEEP_ADVICE)


def line_seals(seals: Seals, path: Path, subject: str) -> list[tuple[int, Seal]]:
    """Return number and seal of every whole line of a file; half a line is one that a kill has cut off."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [(number, seals.of_line(path, line, subject)) for number, line in enumerate(lines, start=1)]
