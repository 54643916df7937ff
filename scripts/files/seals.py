"""Seals show what was edited in a build folder after this project's commands wrote it.

A seal is an HMAC-SHA256 over a file's path in the build folder, the command that wrote it, its bytes, and what files
of BINDING beside it say; or over what is said of a part of it (sealed_lines.py, known_digests.py). The key lies outside
of the build folder: $SEAL_KEY, or moe-tools/seal.key in the user's state folder, made when it is first needed. The
seals of a build folder, a line each, are in its file LEDGER, so nothing lies beside the sealed files and no published
folder holds a seal. The ledger is only appended to: a stage that is set aside and put back keeps its seals. SEALS=no
neither seals nor checks. GGUF files have none: a sealed record beside each holds its digest.

The build folder is the topmost one with a file MARKER of its owner's or the user's, by a path as it is written; files
elsewhere have no seals. It may be reached by a link, a sealed file in it may not: else a file of one place could stand
for that of another.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import pwd
import re
import stat
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from pathlib import Path

from files.input_errors import InputError, check_ends, naming, own_file, read_whole, read_words, sha256_file

MARKER, LEDGER = ".built-by-this-project", ".seals"
# What a run computes from, and which evaluation it is. What lies beside such a file counts with that file alone, so
# what was kept of another run is none of this.
INPUTS_NAME, BEGUN = "inputs.json", "begun.json"
BINDING = (INPUTS_NAME, BEGUN)
BY_RECORD = ".gguf"
KEY_BYTES, KEY_NAME_DIGITS = 32, 12
# A part of every seal and of the key's name. It goes up whenever a command learns to look at something before it seals:
# what was sealed without that look would else be as good as what was looked at.
CHECKS = 7
KEY_MIB = 1  # at most
STATE_FOLDER, KEY_NAME = ".local/state", "moe-tools/seal.key"  # in a home folder, and in that
SEAL_LINE = re.compile(r'(?P<key>[0-9a-f]{12}) (?P<seal>[0-9a-f]{64}) "(?P<place>(?:[^"\\]|\\.)*)" (?P<command>\w*)')
KEEP_ADVICE = "make that stage again (REPLACE=STAGE), or go on without seals (SEALS=no)"
KEY_PLACE_ADVICE = "set SEAL_KEY to a file of your own"
LINK_ADVICE = "put the folder itself in its place; the build folder as a whole may be a link"


class Seal(Enum):
    """What the ledger says of a file or a line."""

    VALID = "a valid seal"
    NONE = "no seal"
    BROKEN = "one edited since it was sealed"
    OTHER = "one that another command wrote"
    LINKED = "a link on the way to it"
    FOREIGN = "the seal of another key or of an older version"


_running = [""]  # the command; the last one, where a test calls several in one process
# What a command went on from in no build folder, unchecked: it seals nothing any more. A marker that is taken away and
# put back meanwhile would else turn an edited file into a sealed one.
_unchecked: list[Path] = []


def set_command(source: str) -> None:
    """Say which command is running, by its source file: every seal from here on names it."""
    _running[0] = Path(source).stem
    _unchecked.clear()
    _held.clear()


def running_command() -> str:
    """Return the name of the running command, "" outside of any."""
    return _running[0]


State = tuple[int, ...]
_held: dict[Path, State] = {}  # what this command computes from and names by a digest, as it lay there then


def file_state(path: Path) -> State:
    """Return by what a file that nobody touched is known without reading it.

    The inode's own time is among it: the time of the content can be set to any value.
    """
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def flushed_state(path: Path) -> State:
    """Return the `file_state` of a file that any later touch changes.

    A store into a page that somebody has mapped, and that is not yet written to the disk, changes no time. Once the
    page has been written the next store does.
    """
    check_ends(path)
    with open(path, "rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # one of /proc
            raise InputError(path, "a file on a disk", str(error.strerror)) from error
    return file_state(path)


def hold(path: Path) -> State:
    """Note a file before its digest is taken: from here on `check_held` refuses any touch of it; return its state."""
    if path.absolute() not in _held:
        _held[path.absolute()] = flushed_state(path)
    return _held[path.absolute()]


def link_held(path: Path, link: Callable[[], None]) -> None:
    """Make a hard link to a held file, which changes the inode's time; say so, for others that hold it, by a seal."""
    check_held()
    before = hold(path)
    link()
    _held[path.absolute()] = now = file_state(path)
    seal_said(path, "", json.dumps(["linked", before, now]))


def _was_linked(path: Path, before: State) -> bool:
    """Tell whether another command has changed the state of a held file by `link_held`: quants are built at once."""
    seals = seals_over(path)
    said = json.dumps(["linked", before, file_state(path)])
    return seals is not None and seals.of_said(path, "", said) == Seal.VALID


def check_held() -> None:
    """Raise InputError when a held file was touched. Every seal asks for it, so for every output, line and record.

    Else a number could be that of a file that lay there for a moment, under the digest of the one that was put back.
    """
    for path, state in list(_held.items()):
        if path.exists() and file_state(path) != state and _was_linked(path, state):
            state = _held[path] = file_state(path)
        if not path.exists() or file_state(path) != state:
            raise InputError(path, "a file that stays as it is while it is used", "a change", "run the command again")


def sealing() -> bool:
    """Tell whether seals are made and checked: unless the user says SEALS=no."""
    return os.environ.get("SEALS") != "no"


def home_folder(advice: str) -> Path:
    """Return $HOME, or the account's home folder where that is empty; raise InputError where there is none.

    A relative one would be another folder in each working directory. advice: what to set in its place.
    """
    try:
        found = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        found = "none"
    if not os.path.isabs(found):
        raise InputError("HOME", "the absolute path of a home folder", found, advice)
    return Path(found)


def key_path() -> Path:
    """Return where the key lies; raise InputError where no home folder is known that it would lie in."""
    if given := os.environ.get("SEAL_KEY"):
        if given.startswith("~/"):
            return home_folder(KEY_PLACE_ADVICE) / given.removeprefix("~/")
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise InputError(given, "the home folder of a user", "no such user", KEY_PLACE_ADVICE) from error
    state = Path(os.environ.get("XDG_STATE_HOME", ""))  # a relative one counts as none, by its specification
    return (state if state.is_absolute() else home_folder(KEY_PLACE_ADVICE) / STATE_FOLDER) / KEY_NAME


def own_key() -> Path | None:
    """Return where the account's own key lies, whatever the environment says; None for a user without an account."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir, STATE_FOLDER, KEY_NAME)
    except KeyError:
        return None


def read_key() -> bytes:
    """Return the key, made first where there is none; raise InputError where it is no key or others may read it."""
    path = key_path()
    if build_folder(path) or build_folder(path.resolve()):
        raise InputError(path, "a key outside of a build folder", "one inside", "set SEAL_KEY to another file")
    if not path.exists():
        _make_key(path)
    # Exactly as many: nothing that was written over a key passes for one.
    if not path.is_file() or len(key := read_whole(path, KEY_MIB)) != KEY_BYTES:
        advice = "set SEAL_KEY to another file, which is made if it is not there"
        raise InputError(path, f"a key of {KEY_BYTES} bytes", "another file", advice)
    if path.stat().st_mode & 0o077:
        raise InputError(path, "a key that only its owner can read", "one that others can", f"chmod 600 {path}")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.unlink(missing_ok=True)  # of a process that was killed
    handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)  # nor written again through any link to it
    try:
        os.write(handle, os.urandom(KEY_BYTES))
        os.fsync(handle)
        os.link(own, path)  # whole or not at all; of two processes the second takes the first one's
    except FileExistsError:
        pass
    finally:
        os.close(handle)
        own.unlink()


def as_written(path: Path) -> Path:
    """Return the absolute path, without "..", and with its links as they are."""
    return Path(os.path.abspath(path))


def _is_marked(folder: Path) -> bool:
    """Tell whether a folder has a marker that is the user's own, or of the folder's owner."""
    # Where everybody may make files, as in /tmp, another user's marker would take seals and locks there.
    try:
        marker = (folder / MARKER).lstat()
    except OSError:
        return False
    return stat.S_ISREG(marker.st_mode) and marker.st_uid in (os.getuid(), folder.stat().st_uid)


def build_folder(path: Path) -> Path | None:
    """Return the build folder that a path lies in, by its marker; None where it lies in none."""
    # The topmost one: a marker within a build folder would give its files places, and seals, of their own. The root of
    # all folders is none, whoever has marked it.
    return next((place for place in [*reversed(as_written(path).parents)][1:] if _is_marked(place)), None)


def place_in(root: Path, path: Path) -> str:
    """Return a path as its seal names it: relative to the build folder, so that a build can be moved."""
    return as_written(path).relative_to(root).as_posix()


def is_linked(root: Path, path: Path) -> bool:
    """Tell whether a link lies on the way from a build folder to a file in it, or is climbed out of by ".."."""
    place = as_written(path)
    if path.exists() and not (place.exists() and place.samefile(path)):
        return True
    return any(part.is_symlink() for part in (place, *place.parents) if part != root and part.is_relative_to(root))


Bound = list[str | None]
_bound: dict[Path, str] = {}  # digests of what files of BINDING said


def bind(path: Path, said: object) -> None:
    """Bind what this process writes beside a file of BINDING to what that said when it was read.

    Whoever exchanges the file while a run is at work then gets seals that are good for nothing.
    """
    _bound[as_written(path)] = _digest_of_json(said)


def unbind(path: Path) -> None:
    """Go by the file again."""
    _bound.pop(as_written(path), None)


def bound_to(path: Path) -> Bound:
    """Return the digests of what the files of BINDING beside a path say, [] where there are none."""
    if path.name in BINDING:
        return []
    found = [_said_by(as_written(path).with_name(name)) for name in BINDING]
    return found if any(found) else []


def _said_by(place: Path) -> str | None:
    if place in _bound or not place.is_file():
        return _bound.get(place)
    try:
        return _digest_of_json(json.loads(read_whole(place)))
    except (ValueError, RecursionError):  # edited; its own reader says so
        return sha256_file(place)


def _digest_of_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal_of(key: bytes, place: str, command: str, digest: str, bound: Bound, subject: str | None = None) -> str:
    """Return the hex seal of a file's sha256 at a place, by who wrote it; with `subject` of a line's there."""
    said = json.dumps([CHECKS, place, command, digest, bound or None, subject])
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def key_name(key: bytes) -> str:
    """Return by what the ledger tells keys apart; it gives nothing of the key away."""
    return hmac.new(key, f"name {CHECKS}".encode(), hashlib.sha256).hexdigest()[:KEY_NAME_DIGITS]


def _append(root: Path, key: bytes, seal: str, place: str, flush: bool) -> None:
    """Append one seal to the ledger; several processes and hosts may at once."""
    check_ends(root / LEDGER)
    with naming(root / LEDGER), open(root / LEDGER, "ab+", buffering=0, opener=own_file) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        half = end and os.pread(file.fileno(), 1, end - 1) != b"\n"  # what a crash or a full disk has left
        line = f"{chr(10) * bool(half)}{key_name(key)} {seal} {json.dumps(place)} {running_command()}\n".encode()
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "half a seal")
        if flush:
            os.fsync(file.fileno())


def sealed_in(path: Path) -> Path | None:
    """Return the build folder in which this process seals a path, None where it does not."""
    root = build_folder(path) if sealing() else None
    if root and _unchecked:
        print(f"{path}: gets no seal: {_unchecked[0]}, which it was made from, lies in no build folder", flush=True)
        return None
    return root


def check_can_seal(path: Path) -> None:
    """Raise InputError where key or ledger could not be used: told after the work, half of it would lie there."""
    if sealing() and (root := build_folder(path)) and os.path.lexists(root / LEDGER):
        read_key()
        check_ends(root / LEDGER)
        with naming(root / LEDGER), open(root / LEDGER, "ab", opener=own_file):
            pass


def seal_file(path: Path, written: Path, flush: bool = True, sha256: str | None = None) -> None:
    """Seal what is about to be renamed to `path`; written: its temporary name; sha256: of it, where that is known.

    Before the rename: a kill in between leaves a seal of bytes that are nowhere, and the step is run again.
    """
    check_held()
    if path.suffix == BY_RECORD or not (root := sealed_in(path)):
        return
    key, place = read_key(), place_in(root, path)
    seal = seal_of(key, place, running_command(), sha256 or sha256_file(written), bound_to(path))
    _append(root, key, seal, place, flush)


def seal_said(path: Path, digest: str, subject: str) -> None:
    """Seal what is known of a part of a file, by its digest: a line, or all bytes as they lay there once."""
    check_held()
    if root := sealed_in(path):
        key, place = read_key(), place_in(root, path)
        seal = seal_of(key, place, running_command(), digest, bound_to(path), subject)
        _append(root, key, seal, place, flush=False)


Commands = tuple[str, ...]
ANY: Commands = ()  # whichever command wrote it: where its content is made again, or says nothing


def _is_place(name: str) -> bool:
    """Tell whether a name is spelled as the ledger spells places; a damaged line seals nothing."""
    try:
        return json.dumps(json.loads(f'"{name}"'))[1:-1] == name
    except ValueError:
        return False


class Seals:
    """The seals of one build folder, read once."""

    def __init__(self, root: Path) -> None:
        """Read the ledger; where there is none, nothing is sealed."""
        self.root, self.key = root, read_key()
        self.own: set[str] = set()
        self.writers: dict[str, set[str]] = {}  # by place, as the ledger names it: who sealed there with this key
        self.foreign: set[str] = set()  # places that another key sealed, or an older version
        ledger, mine = root / LEDGER, key_name(self.key)
        for line in read_words(ledger).splitlines() if ledger.is_file() else []:
            if not (found := SEAL_LINE.fullmatch(line)) or not _is_place(found["place"]):
                continue
            if found["key"] == mine:
                self.own.add(found["seal"])
                self.writers.setdefault(found["place"], set()).add(found["command"])
            else:
                self.foreign.add(found["place"])

    def _judged(self, path: Path, digest: str, subject: str | None, commands: Commands) -> Seal:
        place, bound = place_in(self.root, path), bound_to(path)
        if is_linked(self.root, path):
            return Seal.LINKED
        # The ledger can be edited, too: what it says beyond valid seals only chooses the words of a refusal.
        name = json.dumps(place)[1:-1]
        writers = self.writers.get(name, set())
        made = {command for command in writers if self._has(place, command, digest, bound, subject)}
        if made & set(commands) or made and commands == ANY:
            return Seal.VALID
        if made or writers:
            return Seal.OTHER if made else Seal.BROKEN
        return Seal.FOREIGN if name in self.foreign else Seal.NONE

    def _has(self, place: str, command: str, digest: str, bound: Bound, subject: str | None = None) -> bool:
        return seal_of(self.key, place, command, digest, bound, subject) in self.own

    def of_file(self, path: Path, commands: Commands = ANY) -> Seal:
        """Judge a file; commands: those that write it."""
        return self._judged(path, sha256_file(as_written(path)), None, commands)

    def of_renamed(self, path: Path, command: str, ending: str) -> Seal:
        """Judge a file whose folder may have got another name in the build: a release's.

        ending: of its name; what the command has written under other names, copies among it, is no such file.
        """
        if (found := self.of_file(path, (command,))) in (Seal.VALID, Seal.LINKED):
            return found
        digest, written = sha256_file(path), [json.loads(f'"{place}"') for place in self.writers]
        places = [place for place in written if place.endswith(ending)]
        return next((Seal.VALID for place in places if self._has(place, command, digest, [])), found)

    def of_said(self, path: Path, digest: str, subject: str, commands: Commands = ANY) -> Seal:
        """Judge what `seal_said` has sealed."""
        return self._judged(path, digest, subject, commands)


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


def kept_seals(path: Path) -> Seals | None:
    """Return the seals by which a file that a stage goes on from is judged; note where there are none."""
    seals = seals_over(path)
    if seals is None and sealing() and path.exists():
        _unchecked.append(path)
    return seals


def is_kept(path: Path) -> bool:
    """Tell whether a stage may go on from a file of its own: it is there as it was written. Else it is made again."""
    if (seals := kept_seals(path)) is None or not path.exists():
        return path.exists()
    if (seal := seals.of_file(path, (running_command(),))) == Seal.VALID:
        return True
    print(f"{path}: expected what this command wrote, found {seal.value}; it is made again", flush=True)
    return False


def advice_for(seal: Seal) -> str:
    """Return what to do about a file that a stage cannot go on from."""
    return LINK_ADVICE if seal == Seal.LINKED else KEEP_ADVICE


def check_kept(path: Path) -> None:
    """Raise InputError unless a file that a stage goes on from is as this command wrote it."""
    if (seals := kept_seals(path)) and (seal := seals.of_file(path, (running_command(),))) != Seal.VALID:
        raise InputError(path, "what this command wrote", seal.value, advice_for(seal))
