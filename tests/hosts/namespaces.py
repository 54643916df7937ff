"""Hosts on one machine: processes with a host name, process ids, mounts and a temporary folder of their own.

What they share is the file system, as hosts share a folder. The locks of the kernel that lie in the temporary folder
are not shared, and no process of one host is seen by the other.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

OF_ROOT = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
LOOK_SECONDS = 0.02
KEPT: list[int] = []  # open spaces of process ids


def unshare() -> list[str]:
    """Return the words that begin a host here, as root or in a user namespace; [] where neither is allowed."""
    for words in (OF_ROOT, ["--user", "--map-root-user", *OF_ROOT]):
        command = ["unshare", *words]
        if shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode:
            return command
    return []


def start_host(name: str, line: str, temporary: Path, screen: Path, folder: Path) -> subprocess.Popen:
    """Start a line of bash on a host, in a folder; what it prints goes into `screen`."""
    temporary.mkdir(parents=True, exist_ok=True)
    outer = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    with open(screen, "ab") as output:
        return subprocess.Popen(
            [*unshare(), "bash", "-c", f"hostname {shlex.quote(name)} && {line}"],
            cwd=folder,
            env={**outer, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_host(process: subprocess.Popen) -> None:
    """End a host at once, as a power cut would: its first process takes all others of it along."""
    if process.poll() is None:
        # The kernel gives the number of a space of process ids that has gone to the next one, and the next host would
        # take the dead one for itself. An open space keeps its number.
        with contextlib.suppress(OSError):
            KEPT.append(os.open(f"/proc/{process.pid}/ns/pid_for_children", os.O_RDONLY))
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], object], seconds: float, process: subprocess.Popen) -> bool:
    """Wait for a condition while a host runs; tell whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(LOOK_SECONDS)
    return bool(condition())
