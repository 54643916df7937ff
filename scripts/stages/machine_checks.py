"""What a run needs of the machine: programs, the llama.cpp tools, a GPU, disk and memory. No network is used here."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from files.input_errors import InputError
from files.safe_files import existing_parent, gib
from llama.hardware import listed_devices
from llama.llama_tools import LlamaCpp, built_here, find_llama_cpp
from stages.checks import FAIL, OK, WARN, Check, needed
from stages.needs import bytes_below

LEAST_PYTHON, LEAST_MAKE = (3, 11), (4, 3)  # make 4.3 brought the grouped targets (&:) that the Makefile uses
SECONDS = 10  # that a program may take to say its version
ESTIMATE_ERROR = 1.25  # an estimate that is short by less than this only warns
CUDA = "GGML_CUDA=ON"


def said(*command: str) -> str | None:
    """Return the first line that a program prints, None where there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the first version number in a text, such as (4, 3)."""
    match = re.search(r"\d+(?:\.\d+)+", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def check_make() -> Check:
    """Check GNU make and its version."""
    found = said("make", "--version")
    if found and numbers_of(found) < LEAST_MAKE:
        return Check(FAIL, "make", found, "GNU make 4.3 or newer is needed")
    return needed("make", found, "install GNU make (Debian: apt-get install make)")


def check_python() -> Check:
    """Check the version of the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return Check(FAIL, "Python", version, "Python 3.11 or newer is needed; then remove .venv and run `make setup`")
    return Check(OK, "Python", version)


def tools_folder(llama_cpp: Path | None, cmake_args: str) -> Path:
    """Return where the llama.cpp tools lie or will lie."""
    if llama_cpp:
        return llama_cpp
    return built_here({**os.environ, "CMAKE_ARGS": cmake_args})


def tools_are_built(folder: Path, given: bool) -> bool:
    """Tell whether the tools are there; of our own build its record is the last file."""
    if not given:
        return (folder / "llama_cpp.json").is_file()
    try:
        LlamaCpp(folder).tool("llama-quantize")
    except InputError:
        return False
    return True


def check_tools(folder: Path, given: bool, ggufs: bool) -> Check:
    """Check that the llama.cpp tools are built."""
    what = "llama.cpp tools"
    if tools_are_built(folder, given):
        return Check(OK, what, find_llama_cpp(folder).version().removeprefix("version: "))
    if given:
        advice = "give the folder of a llama.cpp build, or leave LLAMA_CPP empty"
        return Check(FAIL if ggufs else WARN, what, f"{folder}: no llama-quantize", advice)
    advice = "`make setup` builds them once, 10 to 20 minutes on 2 cores" if ggufs else ""
    return Check(WARN if ggufs else OK, what, f"not built yet{'' if ggufs else ', and not needed'}", advice)


def check_compiler(tools_built: bool, ggufs: bool) -> Check:
    """Check that there is a C++ compiler, which only a build of the tools needs."""
    found = said(os.environ.get("CXX") or "c++", "--version")
    if found is None and (tools_built or not ggufs):
        return Check(OK, "C++ compiler", "none, and none is needed")
    return needed("C++ compiler", found, "install one (Debian: apt-get install g++): it builds the llama.cpp tools")


def sees_gpu(folder: Path, cmake_args: str, built: bool) -> bool:
    """Tell whether the llama.cpp tools use a GPU, or will once they are built."""
    if not built:
        return CUDA in cmake_args
    return bool(listed_devices(LlamaCpp(folder).tool("llama-server")))


def gpu_name() -> str | None:
    """Return name and memory of the first GPU of NVIDIA, None without one."""
    return said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")


def torch_has_gpu() -> bool:
    """Tell whether there is a GPU and a torch that was built for one. By its version: to import it takes seconds."""
    return gpu_name() is not None and "+cpu" not in importlib.metadata.version("torch")


def check_gpu(folder: Path, cmake_args: str, built: bool, ggufs: bool) -> Check:
    """Check whether what uses the processor could use a GPU that is there."""
    gpu = gpu_name()
    if gpu is None:
        return Check(OK, "GPU", "none (nvidia-smi finds none): the CPU does the work")
    if ggufs and not sees_gpu(folder, cmake_args, built):
        return Check(WARN, "GPU", f"{gpu}, but llama.cpp is built without it", f"give CMAKE_ARGS=-D{CUDA}")
    if not torch_has_gpu():
        return Check(
            WARN,
            "GPU",
            f"{gpu}, but this torch has no CUDA",
            "install one with CUDA into .venv, or the analysis runs on the CPU",
        )
    return Check(OK, "GPU", gpu)


def check_disk(build: Path, needed_bytes: int, how: str, exact: bool) -> Check:
    """Check that a run fits the disk; what lies in `build` already is counted. how: where the size is from."""
    free = shutil.disk_usage(existing_parent(build)).free
    there = bytes_below(build) if build.is_dir() else 0
    found = f"{gib(needed_bytes)} GiB for the whole run ({how}), {gib(free)} GiB free"
    found += f", {gib(there)} GiB there already" if there else ""
    if free + there >= needed_bytes:
        return Check(OK, "disk", found)
    short = not exact and (free + there) * ESTIMATE_ERROR >= needed_bytes
    advice = "ask for fewer QUANTS, or give BUILD a place on a larger disk"
    return Check(WARN if short else FAIL, "disk", found, advice)


def check_memory(resident: int, streamed: int | None, streams: bool, memory: tuple[int, int]) -> Check:
    """Check that an analysis fits the memory: it takes `streamed` bytes with STREAM_LAYERS=yes, else `resident`.

    streamed is None where the size of a layer is not known yet; memory: all of this machine's, and what of it is free.
    """
    if streams and streamed is None:
        return Check(WARN, "memory", "the size of a layer is not known yet", "run `make plan`, then this again")
    total, free = memory
    wanted, how = (streamed, "one layer at a time") if streams else (resident, "the whole model")
    assert wanted is not None  # see above
    found = f"{gib(wanted)} GiB for the analysis ({how}), {gib(total)} GiB here, {gib(free)} GiB free"
    if wanted <= free:
        return Check(OK, "memory", found)
    if wanted <= total:
        return Check(WARN, "memory", found, "end other programs first")
    if not streams and (streamed is None or streamed <= total):
        takes = f", which takes {gib(streamed)} GiB" if streamed else ""
        return Check(FAIL, "memory", found, f"give STREAM_LAYERS=yes{takes}")
    return Check(FAIL, "memory", found, "a machine with more memory is needed")
