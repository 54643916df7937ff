"""Locks between hosts that share a build folder: who makes an output, and whether that process still runs.

BUILD/.locks/OUTPUT.lock holds a `Holder` as JSON. It appears whole and only where there is none: it is written under a
name of its own and hard-linked, which NFS does as one step. A lock of fcntl would do on NFSv4 alone; some mounts keep
those locks to themselves (nolock, local_lock), and none of them says who holds one.

The kernel does not remove such a file when its process is killed. A dead process of the same host is seen, and its lock
is taken over. Of another host nothing can be known for sure, so a person decides, by `advice_on`.
"""

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from files.input_errors import InputError, keep_readers_out
from files.safe_files import this_host
from files.seals import build_folder

LOCKS = ".locks"
LOOK_SECONDS = 0.5
NAME_CHARACTERS = 180  # of a lock's name
HOLDER_CHARACTERS = 1 << 16  # of what a lock holds; a longer one is none of ours
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
STATE, STARTED = 0, 19  # of /proc/PID/stat, counted behind the command's name


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    host: by its digest (safe_files.py). place: the running kernel and its space of process ids, in which `pid` means
    something. started: of the process, in ticks of that kernel, for a process id is used again.
    """

    host: str
    place: str
    pid: int
    started: str
    since: str
    token: str

    def in_words(self) -> str:
        """Return who holds the lock, for a message."""
        return f"{self.host_in_words()} (pid {self.pid}, since {self.since})"

    def host_in_words(self) -> str:
        """Return the host, for a message: another one by its digest."""
        if self == UNKNOWN:
            return self.host
        return "this host" if self.host == this_host() else f"host {self.host}"


UNKNOWN = Holder("an unknown host", "", 0, "", "an unknown time", "")  # of a lock that is no JSON of ours


def this_place() -> str:
    """Return what tells this kernel and its space of process ids from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return this_host()


def start_of(pid: int) -> str | None:
    """Return when a process of this place started, "" where the system does not say; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[STATE] == "Z" else fields[STARTED]
    except OSError:  # no Linux, or one that hides the processes of other users (hidepid)
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it is another user's
        pass
    return ""


def is_dead(holder: Holder) -> bool:
    """Tell whether the process of a lock is known to have ended."""
    if holder.place != this_place():
        return False
    started = start_of(holder.pid)
    return started is None or started not in ("", holder.started)


def lock_path(output: Path) -> Path | None:
    """Return where the lock of an output lies: a name that people can read. None outside of a build folder."""
    # The folder is resolved and not the output: an output may be a link, such as that to the model.
    place = output.parent.resolve() / output.name
    build = build_folder(place)
    if build is None:
        return None
    name = place.relative_to(build).as_posix().replace("/", ",")
    if len(name) > NAME_CHARACTERS:
        name = f"{sha256(name.encode()).hexdigest()[:12]},{name[-NAME_CHARACTERS:]}"
    return build / LOCKS / f"{name}.lock"


def holder_of(lock: Path) -> Holder | None:
    """Return who holds a lock, None when nobody does."""
    if os.path.lexists(lock) and not lock.is_file():  # a pipe would be waited for, and a broken link taken for none
        return UNKNOWN
    try:
        with open(lock, encoding="utf-8") as file:
            holder = Holder(**json.loads(file.read(HOLDER_CHARACTERS)))
    except FileNotFoundError:
        return None
    except (PermissionError, ValueError, TypeError, RecursionError):  # the first: another user's
        return UNKNOWN
    texts = (holder.host, holder.place, holder.started, holder.since, holder.token)
    # They go to the screen, and another host may have written them.
    is_ours = type(holder.pid) is int and all(isinstance(text, str) and text.isprintable() for text in texts)
    return holder if is_ours else UNKNOWN


def new_holder() -> Holder:
    """Return this process as the holder of a lock."""
    pid = os.getpid()
    return Holder(
        this_host(), this_place(), pid, start_of(pid) or "", time.strftime("%Y-%m-%d %H:%M:%S"), uuid.uuid4().hex
    )


def appear(lock: Path, holder: Holder) -> bool:
    """Create a lock, whole, unless there is one; tell whether that was done."""
    draft = lock.with_name(f"{lock.name}.{holder.host}-{holder.token}")
    draft.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    keep_readers_out(draft)
    try:
        os.link(draft, lock)
        return True
    except FileExistsError:
        # A server can do it, lose its answer and be asked again: then the file has two names.
        return draft.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return appear_without_links(lock, draft.read_bytes())
    finally:
        draft.unlink()


def appear_without_links(lock: Path, content: bytes) -> bool:
    """Create a lock where the file system has no hard links. A kill between the two calls leaves an empty one."""
    try:
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    with open(handle, "wb") as file:
        file.write(content)
    return True


def take(lock: Path) -> tuple[Holder, bool]:
    """Take a lock; return its holder, and whether that is this call. A lock of a dead process is taken over."""
    mine = new_holder()
    lock.parent.mkdir(exist_ok=True)
    while not appear(lock, mine):
        other = holder_of(lock)
        if other and is_dead(other):
            remove_dead(lock)
        elif other:
            return other, False
    return mine, True


def remove_dead(lock: Path) -> None:
    """Remove a lock whose process is dead."""
    try:
        with open(lock, "r+b") as file:
            # Of two that see the same dead lock, the second would else remove the new lock of the first.
            fcntl.flock(file, fcntl.LOCK_EX)
            there, holder = lock.stat(), holder_of(lock)
            if holder and is_dead(holder) and os.path.samestat(there, os.fstat(file.fileno())):
                lock.unlink()
    except FileNotFoundError:  # the other one was quicker
        return


def release(lock: Path, mine: Holder) -> None:
    """Let go of a lock. One that a person removed, and another took since, stays."""
    if holder_of(lock) == mine:
        lock.unlink(missing_ok=True)


def locks_in(build: Path) -> dict[Path, Holder]:
    """Return the locks of a build folder, with their holders; those of dead processes are removed first."""
    found = {}
    for lock in sorted((build / LOCKS).glob("*.lock")):
        holder = holder_of(lock)
        if holder and is_dead(holder):
            remove_dead(lock)
        elif holder:
            found[lock] = holder
    return found


def advice_on(lock: Path, holder: Holder) -> str:
    """Return how to make sure that a lock is stale, and what to do then."""
    if holder == UNKNOWN:
        return f"if no host works on it, remove {lock}"
    where = holder.host_in_words() if holder.host == this_host() else "it (there `hostname | sha256sum` begins so)"
    return f"if `ps -p {holder.pid}` on {where} shows no such process any more, remove {lock}"


def held_by_another(output: Path, lock: Path, holder: Holder, more: str = "") -> InputError:
    """Return the error of an output that another run makes; more: what else is known of that run."""
    found = f"one that {holder.in_words()} makes{more}"
    return InputError(output, "an output that no other run is writing", found, advice_on(lock, holder))


@contextmanager
def only_host(output: Path, waits: bool = False) -> Iterator[None]:
    """Hold the lock of an output; raise InputError when another process has it, or wait for its end."""
    lock = lock_path(output)
    if lock is None:
        yield
        return
    holder, is_mine = take(lock)
    if not is_mine and not waits:
        raise held_by_another(output, lock, holder)
    if not is_mine:
        print(f"{output}: {holder.in_words()} makes it; waiting; {advice_on(lock, holder)}", flush=True)
    while not is_mine:
        time.sleep(LOOK_SECONDS)
        holder, is_mine = take(lock)
    try:
        yield
    finally:
        release(lock, holder)
