"""How fast this machine is beside the one of reference: three measurements of some seconds, or a rehearsal's figures.

BUILD/plans/calibration.json keeps the factors with the machine's description, so that they are measured once.
`make rehearse` replaces them by what it has seen of each kind of step.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, ClassVar

from files.input_errors import REASON_CHARACTERS, InputError
from files.json_records import Record, read_record
from files.safe_files import GIB, flush_to_disk
from files.written_records import write_record
from stages.needs import machine_memory

from pydantic import Field

# What the machine of reference takes (2 cores of an AMD EPYC, nothing else running): seconds to import what most
# commands do, bytes per second into a flushed file, and products of bf16 matrices, in operations per second.
REFERENCE = {"start": 3.6, "copy": 0.6e9, "compute": 500e9}
MEASURED_BY = {
    # None is helped by units for products of matrices. A conversion rounds numbers, a release takes digests.
    "start": ("start", "quantise", "convert", "free weights", "release"),
    "copy": ("drop",),
    "compute": ("analyse", "imatrix", "score"),
}
# As long as that: many disks take the first some hundred megabytes faster than all that follows.
WRITTEN_BYTES, COMPUTE_SECONDS = GIB, 2.0
MOST_TIMES = 1e4  # as long as the machine of reference; no number of a table is wider than its column then


class Calibration(Record):
    """Factors by kind of step, "start" among them: how many times as long as on the machine of reference."""

    what: ClassVar[str] = "the calibration of a machine"
    machine: str
    source: str
    factors: dict[str, Annotated[float, Field(gt=0, le=MOST_TIMES)]]


def machine_words() -> str:
    """Return what tells this machine from others: processor, cores that may be used, memory."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{match[1] if match else platform.machine()}, {cores} cores, {machine_memory()[0] / GIB:.0f} GiB"


def seconds_to_start() -> float:
    """Return the seconds of a processor that Python takes to import what most commands do.

    Not those of the clock: what else runs at this moment will not run all the time.
    """
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import torch, transformers.modeling_utils"], capture_output=True
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
        raise InputError(sys.executable, "a Python that imports torch and transformers", said[-1][:REASON_CHARACTERS])
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def copy_speed(folder: Path) -> float:
    """Return the bytes per second that a file in a folder is written and flushed with."""
    folder.mkdir(parents=True, exist_ok=True)
    piece, began = os.urandom(1 << 20) * 16, time.monotonic()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="calibration-") as file:
        for _ in range(WRITTEN_BYTES // len(piece)):
            file.write(piece)
        file.flush()
        flush_to_disk(Path(file.name))
        return WRITTEN_BYTES / (time.monotonic() - began)


def compute_speed() -> float:
    """Return the operations per second of products of bf16 matrices of an expert's size, on all cores alone."""
    import torch  # here: it takes seconds, and a calibration that is there needs none of it

    tokens, weights = torch.randn(256, 2816).bfloat16(), torch.randn(1408, 2816).bfloat16()
    tokens @ weights.T
    count, began, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < COMPUTE_SECONDS:
        tokens @ weights.T
        count += 1
    seconds = (time.process_time() - used) / torch.get_num_threads()
    return 2 * count * tokens.numel() * weights.shape[0] / seconds


def measure_speed(folder: Path) -> dict:
    """Return this machine's calibration."""
    slower = {
        "start": seconds_to_start() / REFERENCE["start"],
        "copy": REFERENCE["copy"] / copy_speed(folder),
        "compute": REFERENCE["compute"] / compute_speed(),
    }
    factors: dict[str, float] = {}
    for measured, kinds in MEASURED_BY.items():
        factors |= dict.fromkeys(kinds, slower[measured])
    return {"machine": machine_words(), "source": "measured in some seconds", "factors": factors}


def calibration(path: Path) -> dict:
    """Return the calibration at a path; where there is none, or one of another machine, measure and keep it."""
    if path.exists() and (known := read_record(path, Calibration, "remove it"))["machine"] == machine_words():
        return known
    found = measure_speed(path.parent)
    write_record(path, found, Calibration)
    return found
