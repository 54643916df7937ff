"""The llama.cpp tools: where they are, which version they are, and one place that runs them.

A tools directory holds bin/ (or build/bin/, as in a llama.cpp checkout) and convert_hf_to_gguf.py. It is given
explicitly, by $LLAMA_CPP, or is the cache entry of build_llama_cpp.sh.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from files.safe_files import InputError, read_json

SCRIPTS = Path(__file__).resolve().parents[1]
TAIL_LINES = 200
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class LlamaCpp:
    """A directory with llama.cpp's tools and converter."""

    directory: Path

    def tool(self, name: str) -> Path:
        """Return the path of a tool; raise InputError when it is not there."""
        for folder in ("bin", "build/bin"):
            if (self.directory / folder / name).is_file():
                return (self.directory / folder / name).resolve()
        raise InputError(
            self.directory, f"bin/{name} or build/bin/{name}", "neither", "run `make setup` or set LLAMA_CPP"
        )

    @property
    def library_folder(self) -> Path:
        """The folder of the shared library libllama; raise InputError when the build has none."""
        for folder in ("bin", "build/bin", "lib", "build/lib"):
            if any((self.directory / folder / f"libllama.{kind}").exists() for kind in ("so", "dylib")):
                return (self.directory / folder).resolve()
        raise InputError(self.directory, "libllama as a shared library", "none", "build with -DBUILD_SHARED_LIBS=ON")

    @property
    def converter(self) -> Path:
        """The path of convert_hf_to_gguf.py."""
        path = self.directory / "convert_hf_to_gguf.py"
        if not path.is_file():
            raise InputError(path, "llama.cpp's converter", "nothing")
        return path.resolve()

    def version(self) -> str:
        """Return what llama-server says of its version, and the source archive when this project built it."""
        shown = subprocess.run([self.tool("llama-server"), "--version"], capture_output=True, text=True)
        match = re.search(r"version: .*", shown.stdout + shown.stderr)
        version = match[0] if match else "version: unknown"
        record = self.directory / "llama_cpp.json"
        return f"{version}, {read_json(record)['source']}" if record.exists() else version


def tools_cache() -> Path:
    """Return the cache that build_llama_cpp.sh builds into, too: $MOE_TOOLS_CACHE, or moe-tools in the user's cache."""
    if os.environ.get("MOE_TOOLS_CACHE"):
        return Path(os.environ["MOE_TOOLS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-tools"


def find_llama_cpp(explicit: Path | None) -> LlamaCpp:
    """Return the tools directory: explicit, $LLAMA_CPP, or the cache; raise InputError when there is none."""
    if explicit is None and os.environ.get("LLAMA_CPP"):
        explicit = Path(os.environ["LLAMA_CPP"])
    if explicit is None:
        shown = subprocess.run([SCRIPTS / "build_llama_cpp.sh", "--where"], check=True, capture_output=True, text=True)
        explicit = Path(shown.stdout.strip())
    if not explicit.is_dir():
        raise InputError(explicit, "the llama.cpp tools", "nothing", "run `make setup` or set LLAMA_CPP")
    return LlamaCpp(explicit)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed script leaves no tool at work."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run_tool(command: list[object], *, cwd: Path, what: str, step: str, total: str | None = None) -> str:
    """Run a tool in `cwd` with a progress bar; return its last lines of output.

    `step` is a pattern whose group 1 is the step just reached and whose group 2, if there is one, is the number of
    steps; else `total` is a pattern for that number. Raises InputError with the tool's own last words when it fails.
    """
    text, done = "", 0
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )
    try:
        with tqdm(desc=what, leave=False) as progress:
            while chunk := process.stdout.read1(65536):
                text = text[-20000:] + chunk.decode(errors="replace")
                if total and not progress.total and (match := re.search(total, text)):
                    progress.total = int(match[1])
                if steps := re.findall(step, text):
                    last = steps[-1] if isinstance(steps[-1], tuple) else (steps[-1],)
                    progress.total = int(last[1]) if len(last) > 1 else progress.total
                    progress.update(max(0, int(last[0]) - done))
                    done = max(done, int(last[0]))
        if process.wait() != 0:
            raise InputError(
                Path(str(command[0])).name, "success", f"{how_ended(process.returncode)}: {last_words(text)}"
            )
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def how_ended(code: int) -> str:
    """Return a process's exit code in words: a negative one is the signal that ended it."""
    return f"exit code {code}" if code >= 0 else f"an end by {signal.Signals(-code).name} ({signal.strsignal(-code)})"


def last_words(text: str) -> str:
    """Return the line that says best why a tool failed: the last one with an error in it, else the last one."""
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not re.match(r"#\d+ +0x", line)
    ]  # no stack of calls
    failures = [
        line
        for line in lines
        if re.search(r"error|fail|invalid|unable|missing|abort", line, re.IGNORECASE)
        and "failed to quantize model from" not in line
    ]  # says nothing that the line before it does not
    return (failures or lines or ["no output"])[-1][:300]
