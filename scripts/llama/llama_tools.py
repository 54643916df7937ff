"""The llama.cpp tools: where they are, which version they are, and one place that runs them.

A tools directory holds bin/ (or build/bin/, as in a llama.cpp checkout) and convert_hf_to_gguf.py. It is given
explicitly, by $LLAMA_CPP, or is the cache entry of build_llama_cpp.sh.
"""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from files.command_start import dying_with_parent, without_modes
from files.input_errors import InputError, sha256_file
from files.json_records import read_json, sha256_json
from files.seals import home_folder

from tqdm import tqdm

SCRIPTS = Path(__file__).resolve().parents[1]
# Whose output is published, or what is published depends on.
BUILT_TOOLS = ("llama-quantize", "llama-imatrix", "llama-server")
START_CONVERTER = SCRIPTS / "llama/start_converter.py"
HEADER_ONLY = SCRIPTS / "llama/convert_header_only.py"
STREAMED = SCRIPTS / "llama/convert_streamed.py"
LAUNCHERS = (sys.executable, START_CONVERTER, STREAMED)
READ_BYTES = 65536
KEPT_CHARACTERS = 20000  # of a tool's output: enough for a stack of calls and the error before it
LINE_CHARACTERS = 300
LOG_PREFIX = re.compile(r"\d+(?:\.\d+){3} ([EWID])(?: |$)")  # llama.cpp's log: minutes.s.ms.us, then the level
# Warnings whose words an error may have, too. The log of libllama reaches Python without levels, so words must do.
WARNING = re.compile(r"^warning\b|control-looking token|is not marked as EOG|special_eo[sg]_id", re.IGNORECASE)
FAILURE = re.compile(r"error|fail|invalid|unable|missing|abort|what\(\):", re.IGNORECASE)
# What follows the reason: that the caller, and the caller's caller, could not go on either.
AFTERMATH = re.compile(
    r"failed to (?:quantize model from|load model|create_?\s?context with|init\b)|unable to load model|exiting due to"
    r"|trying to fit params|chat template is not supported|failed to (?:initialize chat|apply) template|please consider"
)
NO_BACKTRACE = {"GGML_NO_BACKTRACE": "1"}  # a failed assertion of llama.cpp would call gdb, which prints after it
STACK_OF_CALLS = re.compile(r"#\d+ +0x")


@dataclass(frozen=True)
class LlamaCpp:
    """A directory with llama.cpp's tools and converter."""

    directory: Path

    def tool(self, name: str) -> Path:
        """Return the path of a tool; raise InputError when it is not there."""
        if found := self._found(name):
            return found
        raise InputError(
            self.directory, f"bin/{name} or build/bin/{name}", "neither", "run `make setup` or set LLAMA_CPP"
        )

    def _found(self, name: str) -> Path | None:
        places = (self.directory / folder / name for folder in ("bin", "build/bin"))
        return next((place.resolve() for place in places if place.is_file()), None)

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
        """Return the version that llama-server prints, and the source archive when this project built it."""
        shown = subprocess.run([self.tool("llama-server"), "--version"], capture_output=True, text=True)
        match = re.search(r"version: .*", shown.stdout + shown.stderr)
        version = match[0] if match else "version: unknown"
        record = self.directory / "llama_cpp.json"
        return f"{version}, {read_json(record)['source']}" if record.exists() else version

    def digest(self) -> str:
        """Return the hex sha256 of the build: of what quantises, measures and answers, and of the libraries beside.

        The version does not tell two builds apart: another processor or compiler can round otherwise, and then some
        weights are quantised otherwise.
        """
        # A machine that only answers may have llama-server alone. Each tool may lie, or be a link, elsewhere.
        tools = [place for name in BUILT_TOOLS if (place := self._found(name))]
        folders = {place.parent for place in tools}
        libraries = [path for kind in ("so", "dylib") for folder in folders for path in folder.glob(f"*.{kind}")]
        return sha256_json(sorted([path.name, sha256_file(path)] for path in {*libraries, *tools}))


def converter_command(
    llama_cpp: LlamaCpp, model: Path, name: str, output: Path, outtype: str, *more: str
) -> list[object]:
    """Return the command line of convert_hf_to_gguf.py; name: for the header, more: further flags.

    Its second word is the launcher, which has others for files without data and for large tensors in pieces.
    """
    flags = ["--outfile", output.resolve(), "--outtype", outtype, "--model-name", name, *more]
    return [sys.executable, START_CONVERTER, llama_cpp.converter, model.resolve(), *flags]


def convert_header_only(llama_cpp: LlamaCpp, model: Path, name: str, output: Path, outtype: str, *more: str) -> None:
    """Let the converter write a file without its data, of the same size; raise InputError when it cannot."""
    python, _, *command = map(str, converter_command(llama_cpp, model, name, output, outtype, *more))
    done = subprocess.run([python, HEADER_ONLY, *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(model, "a checkpoint that llama.cpp's converter reads", last_words(done.stderr))


def convert_streamed(llama_cpp: LlamaCpp, model: Path, name: str, output: Path, outtype: str) -> str:
    """Let the converter write a file, its large tensors in pieces; return the file's hex sha256."""
    python, _, *command = converter_command(llama_cpp, model, name, output, outtype)
    text = run_tool([python, STREAMED, *command], cwd=Path.cwd(), what="convert to GGUF", step=r"Writing:\s+(\d+)%")
    digests = re.findall(r"^sha256 ([0-9a-f]{64})$", text, re.MULTILINE)
    if not digests:
        raise InputError(llama_cpp.converter, "a converter that writes by gguf-py's GGUFWriter", "another one")
    return digests[-1]


def tools_cache() -> Path:
    """Return the cache that build_llama_cpp.sh builds into, too: $MOE_TOOLS_CACHE, or moe-tools in the user's cache."""
    if os.environ.get("MOE_TOOLS_CACHE"):
        return Path(os.environ["MOE_TOOLS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder("set MOE_TOOLS_CACHE") / ".cache") / "moe-tools"


def built_here(environment: dict[str, str] | None = None) -> Path:
    """Return where the tools that are built here lie or will lie; raise InputError where their script cannot tell."""
    script = SCRIPTS / "build_llama_cpp.sh"
    done = subprocess.run([script, "--where"], capture_output=True, text=True, env=environment, errors="replace")
    if done.returncode:
        advice = "set PATH and HOME as a login shell has them, or LLAMA_CPP"
        raise InputError(script, "a shell in which it runs", last_words(done.stderr), advice)
    return Path(done.stdout.strip())


def find_llama_cpp(explicit: Path | None) -> LlamaCpp:
    """Return the tools directory: explicit, $LLAMA_CPP, or the cache; raise InputError when there is none."""
    if explicit is None and os.environ.get("LLAMA_CPP"):
        explicit = Path(os.environ["LLAMA_CPP"])
    if explicit is None:
        explicit = built_here()
    if not explicit.is_dir():
        raise InputError(explicit, "the llama.cpp tools", "nothing", "run `make setup` or set LLAMA_CPP")
    return LlamaCpp(explicit)


def run_tool(command: list[object], *, cwd: Path, what: str, step: str, total: str | None = None) -> str:
    """Run a tool in `cwd` with a progress bar; return the last KEPT_CHARACTERS of its output.

    `step` is a pattern whose group 1 is the step just reached and whose group 2, if there is one, is the number of
    steps; else `total` is a pattern for that number. Raises InputError with the tool's own last words when it fails.
    """
    text = ""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=without_modes(os.environ) | NO_BACKTRACE,
        preexec_fn=dying_with_parent(),
    )
    try:
        assert process.stdout is not None  # it is a pipe
        with tqdm(desc=what, leave=False) as progress:
            while chunk := process.stdout.read1(READ_BYTES):  # type: ignore[attr-defined]  # a BufferedReader
                text = text[-KEPT_CHARACTERS:] + chunk.decode(errors="replace")
                _show_steps(progress, text, step, total)
        if process.wait() != 0:
            # Of a script that Python runs, such as the converter, its own name says more than "python".
            tool = Path(str(next(part for part in command if part not in LAUNCHERS))).name
            raise InputError(tool, "success", f"{how_ended(process.returncode)}: {last_words(text)}")
        return text
    finally:
        # Ctrl-C too ends here. The tool must be gone before its half-written output is removed.
        if process.poll() is None:
            process.kill()
            process.wait()


def _show_steps(progress: tqdm, text: str, step: str, total: str | None) -> None:
    """Move a progress bar to the last step in a tool's output, see `run_tool`."""
    if total and not progress.total and (match := re.search(total, text)):
        progress.total = int(match[1])
    if steps := re.findall(step, text):
        last = steps[-1] if isinstance(steps[-1], tuple) else (steps[-1],)
        progress.total = int(last[1]) if len(last) > 1 else progress.total
        # The kept text may name a step twice, and a tool may begin again at 1: the bar never goes back.
        progress.update(max(0, int(last[0]) - progress.n))


def how_ended(code: int) -> str:
    """Return a process's exit code in words: a negative one is the signal that ended it."""
    return f"exit code {code}" if code >= 0 else f"an end by {signal.Signals(-code).name} ({signal.strsignal(-code)})"


def level_of(line: str) -> str:
    """Return the level of a line of output: E, W, I or D as llama.cpp logs it, without that E, W or "" by its words."""
    if match := LOG_PREFIX.match(line):
        return match[1]
    if WARNING.search(line):
        return "W"
    return "E" if FAILURE.search(line) else ""


def last_words(text: str) -> str:
    """Return the line of a tool's output that says best why it failed, without the log's time and level.

    That is the last error that is no mere aftermath; without any error the last line that is no warning, then the last.
    """
    stripped = [line.strip() for line in text.splitlines()]
    lines = [line for line in stripped if line and not STACK_OF_CALLS.match(line)]
    errors = [line for line in lines if level_of(line) == "E"]
    reasons = [line for line in errors if not AFTERMATH.search(line)]
    others = [line for line in lines if level_of(line) != "W"]
    found = (reasons or errors or others or lines or ["no output"])[-1]
    return LOG_PREFIX.sub("", found, count=1)[:LINE_CHARACTERS]
