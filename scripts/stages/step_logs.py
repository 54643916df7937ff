"""The log of a step: its name, and whether the step is at work.

run_step.py holds flock on the log while its step runs. The kernel drops that lock when the process ends, also by a
kill, so a lock means a step at work and nothing else does.
"""

import fcntl
import os
import re
from pathlib import Path


def slug(words: str) -> str:
    """Return the words of a step as a file name: "Quantise Q6_K" is quantise-q6_k."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-").lower()


def log_of(logs: Path, words: str) -> Path:
    """Return where the log of a step lies."""
    return logs / f"{slug(words)}.log"


def is_at_work(log: Path) -> bool:
    """Tell whether a step holds a lock on its log, of either kind."""
    try:
        # NFS lends no exclusive lock on what cannot be written.
        with open(log, "r+b" if os.access(log, os.W_OK) else "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # dropped at once: the file is closed
    except BlockingIOError:
        return True
    except (FileNotFoundError, PermissionError):  # not begun, or made anew at this moment; or another user's
        return False
    return False
