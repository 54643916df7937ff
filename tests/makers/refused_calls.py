"""Calls of make that are refused before anything runs, and what they then say."""

import os
import subprocess
from pathlib import Path

from conftest import REPO


def call_make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run make with these variables of the environment beside ours."""
    environment = {**os.environ, **environment}
    return subprocess.run(["make", *arguments], cwd=REPO, capture_output=True, text=True, env=environment)


def assert_refused(done: subprocess.CompletedProcess, name: str, canary: Path) -> None:
    """Assert that make stopped in one line that names the setting, and that nothing ran."""
    assert done.returncode != 0 and not done.stdout and not canary.exists(), (name, done.stdout)
    assert len(done.stderr.splitlines()) == 1 and f" {name}: expected " in done.stderr, done.stderr
