"""The first moments of a command: Ctrl-C shows no stack, nothing looks for garbage. Other programs go on as ever."""

import gc
import os
import signal
import subprocess
import sys

from conftest import REPO
from files import command_start
from files.command_start import INTERRUPTIBLE, collect_garbage_again, die_with_parent, dying_with_parent

import pytest

TORCH_LIKE = "import time; print('importing', flush=True); time.sleep(60)"


@pytest.fixture
def slow_import(tmp_path) -> dict[str, str]:
    """The environment in which a package that a command imports takes a minute."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text(TORCH_LIKE)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("command", ["plot_expert_stats.py", "llama/convert_streamed.py"])
def test_ctrl_c_during_imports_shows_no_stack(slow_import, command):
    process = subprocess.Popen(
        [sys.executable, REPO / "scripts" / command, "--help"],
        env=slow_import,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_within_a_command_it_is_an_exception_that_tidies_up(tmp_path):
    """Under `run` the partial file goes, and the exit code is that of Ctrl-C."""
    code = (
        "import sys, time; from pathlib import Path; from files.safe_files import replace_when_done, run\n"
        "def main():\n"
        "    with replace_when_done(Path(sys.argv[1])) as partial:\n"
        "        partial.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
        "run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "file"],
        cwd=REPO / "scripts",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "writing\n" and list(tmp_path.iterdir())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "") and process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_only_commands_of_ours_take_the_handler():
    assert not INTERRUPTIBLE  # pytest has its own way with Ctrl-C
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL


def test_what_a_command_imports_is_not_looked_through_for_garbage(slow_import, tmp_path, monkeypatch):
    (tmp_path / "numpy/__init__.py").write_text("import gc; raise SystemExit(f'collects: {gc.isenabled()}')")
    command = [sys.executable, REPO / "scripts/plot_expert_stats.py", "--help"]
    assert subprocess.run(command, env=slow_import, capture_output=True, text=True).stderr == "collects: False\n"
    assert gc.isenabled()  # pytest is no command of ours
    monkeypatch.setattr(command_start, "IS_COMMAND", True)
    gc.disable()
    collect_garbage_again()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.unfreeze()


def test_a_process_whose_parent_has_died_before_it_could_be_asked_ends_at_once():
    """Linux tells only of a death that is still to come."""
    command = [sys.executable, "-c", "print('at work')"]
    assert subprocess.run(command, preexec_fn=dying_with_parent(), capture_output=True).returncode == 0
    late = subprocess.run(command, preexec_fn=lambda: die_with_parent(parent=1 << 30), capture_output=True)
    assert (late.returncode, late.stdout) == (1, b"")
