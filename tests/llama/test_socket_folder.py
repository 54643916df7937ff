"""The folder of a server's socket: nobody else's, gone in the end, and removed later where its process was killed."""

import subprocess
import sys

from conftest import REPO
from llama import socket_folder as of_sockets
from llama.socket_folder import SOCKET, socket_folder

import pytest

WAITING = f"""
import sys
sys.path.insert(0, {str(REPO / "scripts")!r})
from llama import socket_folder
socket_folder.SHORT_PATH = 1000
with socket_folder.socket_folder():
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty temporary directory, in which a socket can be however long the path of the tests' own is."""
    monkeypatch.setattr(of_sockets.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(of_sockets, "SHORT_PATH", 1000)
    return tmp_path


def waiting(place) -> subprocess.Popen:
    """Return a process that has made its folder and keeps it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"TMPDIR": str(place)}
    )
    process.stdout.readline()
    return process


def test_the_folder_of_a_killed_process_is_removed_by_the_next(place):
    process = waiting(place)
    (left,) = place.iterdir()
    (left / SOCKET).touch()
    process.kill()
    process.communicate()
    assert left.is_dir()
    with socket_folder() as folder:
        assert list(place.iterdir()) == [folder]
    assert not list(place.iterdir())


def test_the_folder_of_a_process_that_runs_stays(place):
    process = waiting(place)
    (others,) = place.iterdir()
    with socket_folder() as folder:
        assert {*place.iterdir()} == {others, folder}
    process.communicate()
    assert process.returncode == 0 and not list(place.iterdir())


def test_what_is_no_such_folder_stays(place):
    (place / "moe-llama-server-notes").write_text("mine")
    (place / "moe-llama-server-link").symlink_to(place)
    (place / "moe-llama-server-full").mkdir(mode=0o700)
    (place / "moe-llama-server-full/notes").touch()
    (place / "moe-llama-server-open").mkdir()
    (place / "moe-llama-server-open").chmod(0o755)
    before = {*place.rglob("*")}
    with socket_folder():
        pass
    assert {*place.rglob("*")} == before
