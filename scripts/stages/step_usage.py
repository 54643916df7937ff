"""What a step took: seconds, memory, bytes read and written, and the disk that the run's folder took meanwhile.

run_step.py measures every step and keeps the figures beside its log (`StepRecord`). Where the system is not Linux,
memory and bytes are 0.
"""

import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

from files.json_records import Count, Record, read_record
from files.seals import Seal, seals_over
from stages.step_logs import log_of

SAMPLE_SECONDS, DISK_EVERY = 0.25, 8  # a folder is walked at every eighth look at the memory
BLOCK_BYTES, KIB = 512, 1024


class StepRecord(Record):
    """One step that came to its end, as run_step.py saw it.

    began: seconds since 1970. cpu_seconds: of all cores together, which other work on the machine hardly lengthens.
    memory_bytes: most memory of all its processes at once that no file can give back; resident_bytes: most of all,
    mapped files included. read_bytes, written_bytes: by calls; disk_read_bytes: what came from the disk, mapped files
    included. disk_bytes: most that the run's folders took on the disk while it ran; disk_after_bytes: at its end.
    """

    what: ClassVar[str] = "a record of run_step.py"
    stage: str
    words: str
    target: str
    began: float
    seconds: float
    cpu_seconds: float
    memory_bytes: Count
    resident_bytes: Count
    read_bytes: Count
    written_bytes: Count
    disk_read_bytes: Count
    disk_bytes: Count
    disk_after_bytes: Count


def step_record_path(logs: Path, words: str) -> Path:
    """Return where the record of a step lies."""
    return log_of(logs, words).with_suffix(".json")


def read_step_records(logs: Path) -> list[dict]:
    """Return the records of all steps that a run has done, in the order of their times; no edited one is told."""
    paths = [path for path in sorted(logs.glob("*.json")) if not was_edited(path)]
    records = [read_record(path, StepRecord, "remove it") for path in paths]
    return sorted(records, key=lambda record: record["began"])


def was_edited(record: Path) -> bool:
    """Tell whether a record is another than what run_step.py wrote; what another user's key sealed was not edited."""
    seals = seals_over(record)
    return seals is not None and seals.of_file(record) == Seal.BROKEN


def disk_of(folders: list[Path]) -> int:
    """Return the bytes that folders take on the disk: holes not counted, a file of two names counted once."""
    taken: dict[tuple[int, int], int] = {}
    for place, _, names in (entry for folder in folders for entry in os.walk(folder)):
        for name in names:
            try:
                stat = os.lstat(os.path.join(place, name))
            except OSError:  # a temporary file, gone since it was listed
                continue
            taken[stat.st_dev, stat.st_ino] = stat.st_blocks * BLOCK_BYTES
    return sum(taken.values())


def processes_below(process: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [process]
    for parent in found:  # which grows meanwhile
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:  # it has ended
            continue
        for task in tasks:
            try:
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
            except OSError:
                continue
    return found


def memory_of_process(process: int) -> tuple[int, int]:
    """Return the memory of a process: what no file can give back, and all of it; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    parts = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    sizes = {name: KIB * int(text.split()[0]) for name, text in parts.items()}
    return sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sum(sizes.values())


class Usage:
    """Looks at this process's children and at folders, in a thread, until it is stopped."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders, self.began, self.clock = folders, time.time(), time.monotonic()
        self.memory = self.resident = self.disk = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        """Keep the largest of what is seen."""
        count = 0
        while not self.stopped.wait(SAMPLE_SECONDS):
            sizes = [memory_of_process(process) for process in processes_below(os.getpid())[1:]]
            self.memory = max(self.memory, sum(own for own, _ in sizes))
            self.resident = max(self.resident, sum(everything for _, everything in sizes))
            if count % DISK_EVERY == 0:
                self.disk = max(self.disk, disk_of(self.folders))
            count += 1

    def stop(self) -> dict:
        """Return the figures of the record, for all children have ended."""
        self.stopped.set()
        self.thread.join()
        seconds, ended = time.monotonic() - self.clock, resource.getrusage(resource.RUSAGE_CHILDREN)
        after = disk_of(self.folders)
        largest = ended.ru_maxrss * (KIB if sys.platform == "linux" else 1)
        counted = io_of_children()
        return {
            "began": self.began,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(ended.ru_utime + ended.ru_stime, 2),
            "memory_bytes": self.memory,
            "resident_bytes": max(self.resident, largest),
            "read_bytes": counted.get("rchar", 0),
            "written_bytes": counted.get("wchar", 0),
            "disk_read_bytes": counted.get("read_bytes", 0),
            "disk_bytes": max(self.disk, after),
            "disk_after_bytes": after,
        }


def io_of_children() -> dict[str, int]:
    """Return what this process and its children that have ended read and wrote, as Linux counts it."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:  # not Linux, or a kernel that does not count
        return {}
    return {name: int(number) for name, number in (line.split(": ") for line in lines)}
