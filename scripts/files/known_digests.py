"""The digests of large files by which results name them: read from the bytes, once.

A digest of 50 GB takes a minute or two, so it is not taken for each command. But a record beside the file only says
what was written there: whoever damages the file in place, measures, and puts bytes and time back, would get the numbers
of another file under its digest. So whoever has read a file seals the digest together with inode, size and times. The
inode's own time cannot be set, so such a seal is good for as long as nobody has touched the file; a hard link to it, as
`make release` makes one, counts as a touch.
"""

import json
import os
import time
from pathlib import Path

from files.input_errors import InputError, sha256_file
from files.json_records import is_file_record, read_json
from files.seals import Seal, State, file_state, flushed_state, hold, seal_said, seals_over

SETTLED_SECONDS = 0.05  # the clock of files goes in steps: a second write within one would leave their time as it is
SETTLED_NS = int(SETTLED_SECONDS * 1e9)
IN_MEMORY = ("tmpfs", "ramfs")


def _subject(state: State) -> str:
    return json.dumps(["read", *state])


def settled_state(path: Path) -> State:
    """Return the `file_state` of a file, once a further write would change it."""
    state = flushed_state(path)
    if abs(time.time_ns() - state[-1]) < SETTLED_NS:
        time.sleep(SETTLED_SECONDS)
        state = flushed_state(path)
    return state


def is_in_memory(path: Path) -> bool:
    """Tell whether a file lies, or may lie, in memory alone (tmpfs), where stores into mapped pages change no time."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:  # not Linux, or no /proc: nothing is known, so nothing is believed
        return True
    kinds = [fields[fields.index("-") + 1] for fields in mounts if fields[2] == number]
    return not kinds or any(kind in IN_MEMORY for kind in kinds)


def sha256_now(path: Path) -> str:
    """Return the hex sha256 of a file's bytes, read unless a seal says that they were since it was last touched.

    Outside of a build folder and with SEALS=no there are no seals, so each command reads: 50 GB in a minute or two.
    """
    state, record = settled_state(path), Path(f"{path}.json")
    sealed = not is_in_memory(path) and record.is_file() and is_file_record(known := read_json(record))
    if sealed and (seals := seals_over(path)):
        # The record only tells which digest to look for.
        if seals.of_said(path, known["sha256"], _subject(state)) == Seal.VALID:
            return known["sha256"]
    digest = sha256_file(path)
    if file_state(path) != state:
        raise InputError(path, "a file that stays as it is while it is read", "a change", "run the same command again")
    seal_said(path, digest, _subject(state))
    return digest


def known_sha256(path: Path) -> str:
    """Return `sha256_now` of a file that this command computes from, and hold the file to it (files/seals.py)."""
    settled_state(path)
    hold(path)
    return sha256_now(path)


def held_sha256(path: Path) -> str:
    """Return the hex sha256 of a small file's bytes, which are read, and hold it to them."""
    hold(path)
    return sha256_file(path)
