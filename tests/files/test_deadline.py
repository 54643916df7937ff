"""Downloads from servers that never come to an end: one line, in time, and nothing left over."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from conftest import REPO
from files.deadline import TimeOver, held_bytes, within
from files.input_errors import InputError

import pytest

SECONDS = 2  # in place of the limits of the commands
FOR_EVER = {
    "goes on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "drips": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
}


@pytest.fixture(params=FOR_EVER)
def endless(request) -> Iterator[str]:
    """The URL of a server that sends something now and then, for ever."""
    begin, more = FOR_EVER[request.param]

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(begin)
            while True:
                connection.sendall(more)
                time.sleep(0.05)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def from_server(url: str, folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a command with short limits, in a process of its own: the Hub's address is read when it starts."""
    limits = f"deadline.DOWNLOAD_SECONDS = deadline.MODEL_SECONDS = deadline.CHECK_SECONDS = {SECONDS}"
    code = f"from files import deadline; {limits}; import {command}; from files.safe_files import run"
    home = {"HF_ENDPOINT": url, "HF_HOME": folder / "home", "HF_HUB_OFFLINE": 0, "HF_TOKEN": ""}
    return subprocess.run(
        [sys.executable, "-c", f"{code}; run({command}.main)", *arguments],
        cwd=folder,
        env=os.environ | {name: str(value) for name, value in home.items()} | {"PYTHONPATH": str(REPO / "scripts")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "command, options, words",
    [
        ("fetch_gpqa", ["--output", "x.csv"], "gpqa_diamond.csv: expected an end within 2 seconds, found none"),
        ("fetch_calibration", ["--output", "x.txt", "--url", "{url}/a.txt"], "a.txt: expected an end within 2 seconds"),
        (
            "fetch_task",
            ["--output", "x.jsonl", "--task", "gsm8k_cot_zeroshot"],
            "openai/gsm8k: expected an end within 2 seconds",
        ),
        ("fetch_model", ["--output", "x", "--model", "a/b"], "a/b: expected 32768 bytes or more in 2 seconds, found 0"),
        ("plan_quants", ["--source", "a/b", "--output", "x"], "a/b: expected an end within 2 seconds, found none"),
    ],
)
def test_a_server_without_end_is_refused_in_one_line(endless, tmp_path, refused, command, options, words):
    done = from_server(endless, tmp_path, command, *(option.format(url=endless) for option in options))
    refused(done, words)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("home", "x")]


def test_a_check_of_the_hub_says_that_there_is_no_end(endless, tmp_path):
    done = from_server(endless, tmp_path, "check_machine", "--model", "a/b", "--questions", "gpqa", "--build", "build")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"network fault: {endless}: no end of an answer in 2 seconds" in done.stdout, done.stdout
    assert "not asked: the Hub was not reached" in done.stdout


def test_what_the_work_returns_and_raises_comes_back():
    assert within(60, "x", lambda: {"a": [1]}) == {"a": [1]}
    refusal = InputError("a\x1b", "b", "c", "d")

    def refuse() -> None:
        raise refusal

    def fill() -> None:
        raise OSError(28, "No space left on device", "/x")

    with pytest.raises(InputError) as caught:
        within(60, "x", refuse)
    assert str(caught.value) == str(refusal)
    with pytest.raises(OSError) as full:
        within(60, "x", fill)
    assert (full.value.errno, full.value.filename) == (28, "/x")


def test_a_large_download_may_last_while_bytes_come(tmp_path):
    def write(count: int) -> str:
        for number in range(count):
            (tmp_path / str(number)).write_bytes(b"x" * (1 << 18))
            time.sleep(0.3)
        return "done"

    assert within(0.8, "x", lambda: write(6), folder=tmp_path) == "done"
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)  # a place that is kept is no byte that has come
    assert 6 << 18 <= held_bytes(tmp_path) < 1 << 23
    with pytest.raises(TimeOver, match="^x: expected 8192 bytes or more in 0.5 seconds, found 0"):
        within(0.5, "x", lambda: time.sleep(60), folder=tmp_path)


def test_work_that_is_killed_ends_the_command():
    with pytest.raises(SystemExit):
        within(60, "x", lambda: os.kill(os.getpid(), signal.SIGKILL))
