"""Steps of make on several hosts: one makes a target, the others wait, and a dead host is told, never guessed."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from conftest import REPO
from files.host_locks import lock_path, new_holder
from files.safe_files import host_digest
from files.seals import MARKER

import pytest

sys.path.insert(0, str(REPO / "tests/hosts"))
from namespaces import kill_host, start_host, unshare, wait_until  # noqa: E402

SLOW = "sleep 2; echo made by $(hostname) >>"
WAITED = r"host (\S+) \(pid \d+, since [^)]*\) makes it; waiting"


@pytest.fixture
def build(tmp_path) -> Path:
    """A build folder that hosts share."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / MARKER).touch()
    return tmp_path / "build"


def step(target: Path, line: str, patience: int = 30, began: float | None = None) -> list[str]:
    """Return the command line of a step that makes a target by a line of bash."""
    command = [sys.executable, str(REPO / "scripts/run_step.py"), "--place", "1/1", "--words", "Make it"]
    command += ["--logs", str(target.parent / "logs"), "--target", str(target), "--patience", str(patience)]
    return [*command, "--began", str(began or time.time()), "--", "bash", "-c", line]


def quoted(command: list[str]) -> str:
    return " ".join(f"'{word}'" for word in command)


@pytest.fixture
def host(build):
    """Start a step on a host by name; skipped where a process cannot have a host name of its own."""
    if not unshare():
        pytest.skip("unshare: neither root nor user namespaces may give a process a host name of its own here")
    started = []

    def start(name: str, command: list[str]) -> subprocess.Popen:
        place = build.parent
        started.append(start_host(name, f"exec {quoted(command)}", place / f"tmp-{name}", place / f"{name}.txt", REPO))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill_host(process)


def test_two_hosts_make_a_target_once(build, host):
    target = build / "quant.gguf"
    both = [host(name, step(target, f"{SLOW} {target}")) for name in ("node-a", "node-b")]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(target.read_text().splitlines()) == 1
    texts = {name: (build.parent / f"{name}.txt").read_text() for name in ("node-a", "node-b")}
    maker = target.read_text().split()[-1]
    waiter = next(name for name in texts if name != maker)
    assert (
        re.search(WAITED, texts[waiter])[1] == host_digest(maker) and "made by another run meanwhile" in texts[waiter]
    )
    assert not list((build / ".locks").iterdir())


def test_a_killed_host_is_named_and_its_half_file_goes_with_its_lock(build, host):
    target = build / "quant.gguf"
    half = target.with_name(f"quant.{host_digest('node-a')}.partial.gguf")
    first = host("node-a", step(target, f"echo half >{half}; sleep 60"))
    assert wait_until(half.exists, 60, first)
    kill_host(first)
    other = step(target, f"{SLOW} {target}", patience=1)
    assert host("node-b", other).wait(120) == 1 and not target.exists()
    text = (build.parent / "node-b.txt").read_text()
    lock = lock_path(target)
    assert re.search(
        rf"^error: {target}: expected an output that no other run is writing, found one that "
        rf"host {host_digest('node-a')} \(pid \d+, since [^)]*\) makes, without a sign of life for 1 s; "
        rf"if `ps -p \d+` on it \(there `hostname \| sha256sum` begins so\) shows no such process any more, "
        rf"remove {lock}$",
        text,
        re.MULTILINE,
    ), text
    lock.unlink()
    assert host("node-b", other).wait(120) == 0
    assert target.read_text() == "made by node-b\n" and not half.exists()
    assert f"{half}: left by a host that did not finish it; removed" in (build.parent / "node-b.txt").read_text()


def test_a_dead_process_of_this_host_holds_nothing_up(build):
    target = build / "quant.gguf"
    for output in (target, build / "another"):
        lock = lock_path(output)
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(json.dumps(asdict(replace(new_holder(), started="1"))))
    done = subprocess.run(step(target, f"echo >{target}"), capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not list((build / ".locks").iterdir())


@pytest.mark.parametrize("age, runs", [(-5, False), (5, True), (None, True)])
def test_what_another_run_made_since_make_began_is_not_made_again(build, age, runs):
    target, now = build / "quant.gguf", time.time()
    if age is not None:
        target.write_text("old")
        os.utime(target, (now - 20 - age,) * 2)
    done = subprocess.run(step(target, f"echo new >{target}", began=now - 20), capture_output=True, text=True)
    assert done.returncode == 0 and (target.read_text() == "new\n") == runs
    assert ("made by another run meanwhile" in done.stdout) != runs


def test_a_time_to_come_is_no_other_runs(build):
    target = build / "quant.gguf"
    target.write_text("old")
    os.utime(target, (time.time() + 3600,) * 2)
    assert subprocess.run(step(target, f"echo new >{target}"), capture_output=True).returncode == 0
    assert target.read_text() == "new\n"


def test_a_step_that_fails_lets_go(build):
    target = build / "quant.gguf"
    done = subprocess.run(step(target, "echo 'error: x: no'; exit 3"), capture_output=True, text=True)
    assert done.returncode == 3 and "error: x: no" in done.stderr and not list((build / ".locks").iterdir())
