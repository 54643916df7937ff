"""Small, quick runs of make: their variables, the call, and which scripts it names."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from conftest import REPO
from stages.calibration import machine_words


def variables_of(model: Path, questions: Path, build: Path) -> list[str]:
    """Make variables of a small, quick run."""
    return [
        f"MODEL={model}",
        "NAME=tiny",
        "KEEP=12",
        "PROTECT_TOP=4",
        "VARIANT=12e",
        f"QUESTIONS={questions}",
        f"EVAL_QUESTIONS={questions}",
        f"CALIBRATION={REPO / 'data/demo/calibration_questions.csv'}",
        "QUANTS=F16 Q8_0 IQ2_M CD-Q4_K_M",
        "EVAL_QUANT=Q8_0",
        "CTX=1024",
        "REASONING_BUDGET=16",
        "MAX_GEN_TOKS=32",
        "DRAFT=",  # that of the demo does not fit
        "LICENSE=cc0-1.0",  # the tiny model has no card
        f"BUILD={build}",
    ]


def make(*arguments: str, environment: dict[str, str] | None = None, host: Sequence[str] = ()) -> CompletedProcess:
    """Run make; V=1 shows the commands of the steps. host: words that begin a process on a host of another name."""
    environment = {**os.environ, **(environment or {})}
    return subprocess.run([*host, "make", "V=1", *arguments], cwd=REPO, capture_output=True, text=True, env=environment)


def canary_host() -> list[str]:
    """Return the words that begin a process on a host that is called $HOSTNAME; [] where that is not allowed."""
    for words in (["unshare", "--uts"], ["unshare", "--user", "--map-root-user", "--uts"]):
        # The name is none of the words: it must be on no command line.
        command = [*words, "bash", "-c", 'hostname "$HOSTNAME" && exec "$@"', "bash"]
        environment = {**os.environ, **SECRETS}
        if shutil.which("unshare") and not subprocess.run([*command, "true"], env=environment).returncode:
            return command
    return []


def write_known_speed(path: Path) -> None:
    """Write how fast this machine is, as if `make plan` had run before: its first run measures that for seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, "machine": machine_words(), "source": "a test", "factors": {}}))


# What the environment of a user has, and must be nowhere else: keys, and the names of user and machine.
SECRETS = {
    "HF_TOKEN": "hf_canaryOfTheTests",
    "OPENAI_API_KEY": "sk-canary-of-the-tests",
    **dict.fromkeys(("USER", "LOGNAME", "USERNAME"), "canary-user"),
    **dict.fromkeys(("HOST", "HOSTNAME"), "canary-host"),
}
SECRETS_ON_COMMAND_LINES: list[str] = []


@contextmanager
def secrets_looked_for() -> Iterator[None]:
    """Look at the command lines of all processes that begin meanwhile, ten times a second, for SECRETS."""
    ended, before = threading.Event(), set(Path("/proc").glob("[0-9]*/cmdline"))

    def look() -> None:
        while not ended.wait(0.1):
            for path in set(Path("/proc").glob("[0-9]*/cmdline")) - before:
                try:
                    line = path.read_bytes().decode(errors="replace")
                except OSError:  # it has ended
                    continue
                SECRETS_ON_COMMAND_LINES.extend(line for secret in SECRETS.values() if secret in line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def scripts_in_text(text: str) -> set[str]:
    return set(re.findall(r"scripts/(\w+)\.(?:py|sh)", text))


def scripts_in(done: subprocess.CompletedProcess) -> set[str]:
    """The scripts that a (dry) run names as commands."""
    assert done.returncode == 0, done.stdout + done.stderr
    return scripts_in_text(done.stdout)


def build_of(variables: list[str]) -> Path:
    return Path(variables[-1].removeprefix("BUILD="))
