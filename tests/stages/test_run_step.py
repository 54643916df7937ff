"""One line a step: what it shows when all is well, when it fails, on a terminal and when it is told to stop."""

import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from conftest import REPO
from run_step import error_lines, result_of, step_line, time_in_words
from stages.step_logs import log_of

import pytest


def start(logs: Path, *command: str, options: tuple[str, ...] = (), **how: object) -> subprocess.Popen:
    """Start a step in a process of its own."""
    line = [sys.executable, REPO / "scripts/run_step.py", "--place", "2/7", "--words", "Say Hello", "--logs", logs]
    return subprocess.Popen([*line, *options, "--", *command], text=True, **how)


def run(logs: Path, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a step; return its exit code, stdout and stderr."""
    process = start(logs, *command, options=options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize(
    "output, result",
    [
        ("build/x/y.gguf: Q6_K, 0.01 GiB\n", "Q6_K, 0.01 GiB"),
        ("first\nname: raw 3/4\n", "raw 3/4"),
        ("| a | b |\n| --- | --- |\nthe last words: these\n| 1 | 2 |\n", "the last words: these"),
        ("\n\n", ""),
    ],
)
def test_the_result_is_the_last_line_without_its_path(output, result):
    assert result_of(output) == result


def test_a_line_is_never_wider_than_a_hundred_columns():
    line = step_line("3/11", "Quantise Q6_K", "w" * 200, 3725)
    assert len(line) == 100 and line.startswith("[3/11] Quantise Q6_K ") and line.endswith("...   1 h 02 min")
    assert [time_in_words(s) for s in (0.4, 59.6, 61, 3600)] == ["0 s", "1 min 00 s", "1 min 01 s", "1 h 00 min"]


def test_a_failure_shows_the_error_line_and_else_the_last_lines():
    assert error_lines("a\r\nerror: x: expected y, found z\nb\n") == ["error: x: expected y, found z"]
    assert error_lines("tool.py: error: no such option\n") == ["tool.py: error: no such option"]
    assert error_lines("error: \x1b[31m: expected y, found z\n") == [r"error: \x1b[31m: expected y, found z"]
    assert result_of("y: \x1b[2Jdone\n") == r"\x1b[2Jdone"
    assert error_lines("".join(f"{n}\n" for n in range(9))) == ["4", "5", "6", "7", "8"]


def test_a_step_is_one_line_and_its_output_is_in_the_log(tmp_path):
    code, out, err = run(tmp_path, "sh", "-c", "echo much; echo noise >&2; echo 'path/x: the result'")
    assert code == 0 and re.fullmatch(r"\[2/7\] Say Hello +the result   \d s\n", out) and not err
    log = (tmp_path / "say-hello.log").read_text()
    assert "$ sh -c" in log and "much\n" in log and "noise\n" in log and log_of(tmp_path, "Say Hello").exists()


def test_echo_shows_command_and_output(tmp_path):
    code, out, _ = run(tmp_path, "echo", "hello there", options=("--echo",))
    assert code == 0 and out.startswith("echo 'hello there'\nhello there\n[2/7] ")


@pytest.mark.parametrize("stream", ["", ">&2"])
def test_what_a_tool_echoes_steers_no_terminal(tmp_path, stream):
    """As without --echo; the log has the bytes. A letter comes in two parts, and a bar ends its lines by a return."""
    write = r"printf 'a\033[2J\t\342\200\256b\303'; sleep 0.3; printf '\251\r1%%\r2%%\r\n\377\n'"
    code, out, _ = run(tmp_path, "sh", "-c", f"({write}) {stream}", options=("--echo",))
    assert code == 0 and out.count("a\\x1b[2J\t\\u202ebé\n1%\n2%\n\ufffd\n") == 1
    assert (tmp_path / "say-hello.log").read_bytes().count(b"a\x1b[2J\t\xe2\x80\xaeb\xc3\xa9\r1%\r2%\r\n\xff\n") == 1


def test_a_step_goes_on_when_whoever_reads_its_output_has_left(tmp_path):
    """As `make release V=1 | head`: the step's own pipe must be read to its end."""
    work = ["sh", "-c", f"seq 100000; echo done >{tmp_path}/done"]
    with start(tmp_path, *work, options=("--echo",), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (tmp_path / "done").read_text() == "done\n" and log_of(tmp_path, "Say Hello").stat().st_size > 500_000
    assert said == "error: output: expected a reader to the end, found a closed pipe\n"


def test_a_failed_step_says_why_where_the_log_is_and_that_it_goes_on(tmp_path):
    code, out, err = run(tmp_path, "sh", "-c", "echo before; echo 'error: a: expected b, found c' >&2; exit 3")
    assert code == 3 and not out
    assert err.splitlines() == [
        "error: a: expected b, found c",
        f"[2/7] Say Hello: failed; full output: {tmp_path / 'say-hello.log'}",
        "When that is mended, the same command goes on from here.",
    ]
    code, _, err = run(tmp_path, "no-such-command-at-all")
    assert code == 1 and "error: no-such-command-at-all: expected a command that can be run" in err


def test_what_replace_set_aside_goes_when_the_step_is_done_and_comes_back_when_it_is_refused(tmp_path):
    folder = tmp_path / "12e"
    aside, options = folder / ".before-settings", ("--replacing", "--aside", str(folder / ".before-settings"))

    def replaced(command: str) -> tuple[dict[str, str], str]:
        """Run a step after REPLACE has set old outputs aside; return what then lies there, and the words on it."""
        shutil.rmtree(folder, ignore_errors=True)
        aside.mkdir(parents=True)
        for name in ("map.json", "settings.txt"):
            (aside / name).write_text("old")
        (folder / "settings.txt").write_text("new")
        _, _, err = run(tmp_path, "sh", "-c", f"cd {folder}; {command}", options=options)
        return {path.name: path.read_text() for path in folder.glob("*") if path.is_file()}, err

    new, old = {"map.json": "new", "settings.txt": "new"}, {"map.json": "old", "settings.txt": "old"}
    assert replaced("printf new >map.json")[0] == new and not aside.exists()
    there, err = replaced("exit 1")
    assert there == old and not aside.exists() and "is there again" in err and "the same command goes on" in err
    # What was made before the refusal stays, and so does what is aside: the same command without REPLACE goes on.
    there, err = replaced("printf new >map.json; exit 1")
    assert there == new and aside.exists() and "the same command without REPLACE" in err
    # What an evaluation begins with is no result: of hours of answers a server that cannot start takes none.
    shutil.rmtree(folder)
    aside.mkdir(parents=True)
    (aside / "task").mkdir()
    for name in ("begun.json", "answers.jsonl", "task/old"):
        (aside / name).write_text("old")
    begin = f"cd {folder}; mkdir task; touch task/new answers.jsonl; printf new >begun.json; exit 1"
    _, _, err = run(tmp_path, "sh", "-c", begin, options=options)
    assert "is there again" in err and [path.name for path in folder.glob("task/*")] == ["old"]
    assert {(folder / name).read_text() for name in ("begun.json", "answers.jsonl")} == {"old"} and not aside.exists()
    there, err = replaced("kill -9 $$")
    assert there == {"settings.txt": "new"} and aside.exists() and "The same command without REPLACE" in err


BARS = """
import sys, time
from tqdm import tqdm
assert sys.stderr.isatty()
for _ in tqdm(range(4), desc="half", mininterval=0.01):
    time.sleep(0.1)
print("x: done")
"""


def test_a_terminal_shows_the_progress_bar_and_then_the_line_alone(tmp_path):
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    process = start(tmp_path, sys.executable, "-c", BARS, stdout=writer, stderr=writer)
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 1000)
        except OSError:  # the other end was closed
            break
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"\[2/7\] Say Hello   half: +50%", text), text
    assert re.fullmatch(r"\[2/7\] Say Hello +done   \d s\s*", text.rsplit("\x1b[K", 1)[1])


def test_a_step_that_a_shrunken_file_ended_is_told(tmp_path):
    code, out, err = run(tmp_path, "sh", "-c", "echo 'error: x: expected 9 bytes, found 3' >&2; kill -BUS $$")
    assert code == 128 + signal.SIGBUS and not out
    lines = err.splitlines()
    assert lines[0] == "error: x: expected 9 bytes, found 3" and len(lines) == 3
    assert ": ended by SIGBUS: a file that it read has shrunk, or the disk is full; full output: " in lines[1]
    assert lines[2].startswith("When that is mended, the same command goes on")


def test_a_full_disk_under_the_log_keeps_no_step_from_its_end(tmp_path):
    process = start(
        *(tmp_path, "sh", "-c", "head -c 300000 /dev/zero >&2; echo done"),  # more than a pipe holds
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    out, err = process.communicate()
    assert process.returncode == 0 and "done" in out and "Traceback" not in err
    assert "say-hello.log: expected a log that can be written, found: " in err


@pytest.mark.parametrize(
    "link, words", [(os.symlink, "file to write, found a link"), (os.link, "found one of 2 names")]
)
def test_a_log_that_is_a_link_is_refused(tmp_path, link, words):
    (tmp_path / "letter").write_text("mine")
    link(tmp_path / "letter", tmp_path / "say-hello.log")
    code, _, err = run(tmp_path, "echo", "done")
    assert code == 1 and "say-hello.log: expected a " in err and words in err
    assert (tmp_path / "letter").read_text() == "mine"


def test_a_running_step_holds_its_log_and_ends_its_command_when_it_is_told_to_stop(tmp_path):
    process = start(
        tmp_path, "sh", "-c", "echo begun; exec sleep 60", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "say-hello.log"
    while not (log.exists() and "begun\n" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    with open(log) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True).stdout


def test_a_killed_step_leaves_no_command_at_work(tmp_path):
    """Its output would be taken when make starts the step again."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    step = start(tmp_path, "sh", "-c", "echo $$ >&2; exec sleep 60", **nowhere)
    log = log_of(tmp_path, "Say Hello")
    while not (found := re.findall(r"^\d+$", log.read_text() if log.exists() else "", re.MULTILINE)):
        time.sleep(0.01)
    step.kill()
    step.wait()
    wait_until_gone(int(found[0]))


def wait_until_gone(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
