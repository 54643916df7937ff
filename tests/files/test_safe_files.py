"""Outputs that are whole or absent: two runs at once, kills while an older directory is replaced; sizes and digests."""

import argparse
import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import REPO
from files.input_errors import InputError, sha256_file
from files.option_types import output_file
from files.safe_files import (
    GIB,
    check_apart,
    check_replaceable,
    copy_file,
    directory_when_done,
    gib,
    in_unit,
    link_or_copy,
    only_writer,
    replace_when_done,
    require_disk_space,
)
from files.seals import flushed_state
from files.written_records import check_recorded, write_json

import pytest


def make(path: Path, content: str) -> None:
    with directory_when_done(path, "marker") as partial:
        for name in ("a", "b", "marker"):
            (partial / name).write_text(content)


def test_two_runs_never_write_one_output(tmp_path):
    with replace_when_done(tmp_path / "file") as partial:
        partial.write_text("first")
        with pytest.raises(InputError, match="no other run is writing"), replace_when_done(tmp_path / "file"):
            pass
        with replace_when_done(tmp_path / "other") as other:
            other.write_text("beside it")
    assert (tmp_path / "file").read_text() == "first"
    with directory_when_done(tmp_path / "folder", "marker") as partial:
        (partial / "marker").write_text("")
        with pytest.raises(InputError, match="no other run is writing"):
            make(tmp_path / "folder", "second")
    assert (tmp_path / "folder/marker").exists() and not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("calls", range(12))
def test_a_kill_while_a_directory_is_replaced_leaves_a_whole_one_or_none(tmp_path, calls):
    """A child dies at its N-th rename or removal; what lies under the name is old or new, whole, or absent."""
    make(tmp_path / "folder", "old")
    if not (child := os.fork()):
        left = [calls]

        def dying(real):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return real(*arguments, **options)

            return call

        os.replace, os.unlink, os.rmdir = dying(os.replace), dying(os.unlink), dying(os.rmdir)
        make(tmp_path / "folder", "new")
        os._exit(0)
    os.waitpid(child, 0)
    if (tmp_path / "folder").exists():
        assert {path.name: path.read_text() for path in (tmp_path / "folder").iterdir()} in (
            dict.fromkeys(("a", "b", "marker"), "old"),
            dict.fromkeys(("a", "b", "marker"), "new"),
        )
    make(tmp_path / "folder", "again")
    assert (tmp_path / "folder/b").read_text() == "again" and [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_outputs_apart_from_inputs(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "map").write_text("")
    os.link(tmp_path / "map", tmp_path / "link")
    check_apart([tmp_path / "model", tmp_path / "map"], [tmp_path / "new", tmp_path / "other"])
    for outputs in (
        [tmp_path / "model"],
        [tmp_path / "model/inside"],
        [tmp_path],
        [tmp_path / "link"],
        [tmp_path / "x/../map"],
        [tmp_path / "new", tmp_path / "new"],
    ):
        with pytest.raises(InputError):
            check_apart([tmp_path / "model", tmp_path / "map"], outputs)
    for output in (Path("."), Path("/")):
        with pytest.raises(InputError, match="expected an output with a name"):
            check_apart([tmp_path / "model"], [output])


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_of_several_outputs_none_is_written_where_one_cannot_lie(tmp_path, kind):
    (tmp_path / "target").write_text("mine")
    place = tmp_path / "b.json"
    makers = {"folder": place.mkdir, "pipe": lambda: os.mkfifo(place), "link": lambda: place.symlink_to("target")}
    makers[kind]()
    with pytest.raises(InputError, match="b.json: expected a file to write"):
        check_apart([], [tmp_path / "b.png", place])
    check_apart([], [tmp_path])  # a single output may be a folder


def test_a_foreign_directory_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else"), directory_when_done(tmp_path / "mine", "manifest.json"):
        pass
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_failed_write_leaves_the_old_file_and_names_a_full_disk(tmp_path):
    (tmp_path / "file").write_text("old")
    for error, words in (
        (OSError(errno.ENOSPC, "No space left on device"), "the disk full"),
        (OSError("1024 requested and 512 written"), "a write cut short"),  # numpy's words
        (ValueError("a defect"), "a defect"),
    ):
        with pytest.raises((InputError, ValueError), match=words), replace_when_done(tmp_path / "file") as partial:
            partial.write_text("half")
            raise error
        assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def test_a_directory_of_somebody_else_is_not_replaced(tmp_path):
    for name in ("empty", "ours", "theirs"):
        (tmp_path / name).mkdir()
    (tmp_path / "ours/marker").write_text("")
    (tmp_path / "theirs/letter").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("ours")
    for name in ("absent", "empty", "ours"):
        check_replaceable(tmp_path / name, "marker")
    for name in ("theirs", "file", "link"):
        with pytest.raises(InputError, match="with marker in it, found something else"):
            check_replaceable(tmp_path / name, "marker")


def test_only_a_file_with_its_own_record_is_replaced(tmp_path):
    path, record = tmp_path / "file", tmp_path / "file.json"
    check_recorded(path, "an earlier one", lambda content: False)
    path.write_text("")
    with pytest.raises(InputError, match="an earlier one with its record file.json, found another file"):
        check_recorded(path, "an earlier one", lambda content: True)
    write_json(record, {"kind": "ours"})
    check_recorded(path, "an earlier one", lambda content: content["kind"] == "ours")
    with pytest.raises(InputError, match="another file"):
        check_recorded(path, "an earlier one", lambda content: content["kind"] == "theirs")


def test_a_link_is_to_the_file_and_not_to_a_link(tmp_path):
    (tmp_path / "file").write_text("bytes")
    (tmp_path / "link").symlink_to("file")
    link_or_copy(tmp_path / "link", tmp_path / "output")
    assert not (tmp_path / "output").is_symlink() and (tmp_path / "output").samefile(tmp_path / "file")


def test_sizes_are_printed_one_way_and_small_ones_are_not_zero(tmp_path):
    assert [gib(count) for count in (0, 10 << 20, GIB, 3 * GIB // 2)] == ["0.0000", "0.0098", "1.00", "1.50"]
    assert in_unit(1_230_000_000, 10**9) == "1.23"
    with pytest.raises(InputError, match=r"expected 1073741824\.00 GiB of free disk space, found [0-9.]+ GiB"):
        require_disk_space(tmp_path / "not/yet/there", GIB * GIB)


def test_a_reader_that_goes_away_ends_a_command_in_one_line(tmp_path):
    program = tmp_path / "much.py"
    program.write_text(
        "from files.safe_files import run\nrun(lambda: [print('x' * 9999, flush=True) for _ in range(99)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    line = f"{sys.executable} {program} | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
    assert done.stdout == "x"
    assert done.stderr == "error: output: expected a reader to the end, found a closed pipe\n"


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "a").symlink_to("a")
    program = f"from pathlib import Path; from files.safe_files import run; run(Path({str(tmp_path / 'a')!r}).resolve)"
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    # From Python 3.13 on `resolve` takes such a link as it is.
    assert done.stderr.count("\n") == done.returncode and "Traceback" not in done.stderr


def test_a_name_that_steers_a_terminal_is_shown_without_doing_so(tmp_path):
    # The name of a shard comes from the index of a checkpoint, and that is somebody else's.
    program = (
        f"from files.safe_files import run; run(lambda: open({str(tmp_path / 'x')!r} + chr(27) + '[31m' + chr(8232)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stderr.startswith(f"error: {tmp_path}/x\\x1b[31m\\u2028: expected a path that can be used")
    assert len(done.stderr.splitlines()) == 1


def test_a_place_of_any_length_is_named_by_its_ends():
    line = str(InputError("a" * 5000 + "/z.json", "a file", "nothing"))
    assert len(line) < 450 and line.startswith("aaa") and "aaa/z.json: expected a file, found nothing" in line


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_the_digest_of_what_never_ends_is_not_waited_for(tmp_path, what):
    path = tmp_path / what
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for digest in (sha256_file, flushed_state):
        with pytest.raises(InputError, match="expected a file, found a pipe, a device or a socket"):
            digest(path)


def test_locks_do_not_go_through_a_link_that_another_user_may_have_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"output-locks-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a folder of your own, for locks"), only_writer(tmp_path / "output"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("what", ["pipe", "device", "socket", "link", "broken link", "link to a device"])
def test_what_is_no_file_is_never_replaced(tmp_path, monkeypatch, what):
    """A rename over /dev/null would give every other program a file in its place."""
    place = tmp_path / "output"
    (tmp_path / "file").write_text("kept")
    if what == "pipe":
        os.mkfifo(place)
    elif what == "device":
        try:
            os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # as /dev/null
        except PermissionError:
            pytest.skip("mknod: only root may make a device")
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            monkeypatch.chdir(tmp_path)  # the name of a socket is short
            listening.bind(place.name)
    else:
        place.symlink_to({"link": "file", "broken link": "nowhere", "link to a device": "/dev/null"}[what])
    before = place.lstat()
    with pytest.raises(InputError, match="output: expected a file to write, found a"), replace_when_done(place):
        pass
    with pytest.raises(InputError, match="something else"), directory_when_done(place, "marker"):
        pass
    with pytest.raises(argparse.ArgumentTypeError, match="expected the path of a file, found something else"):
        output_file(str(place))
    assert place.lstat() == before and (tmp_path / "file").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "output"}


def test_a_copy_that_fails_is_named_and_not_its_source(tmp_path):
    """By a limit on file sizes: shutil names the source."""
    (tmp_path / "source").write_bytes(bytes(100_000))
    program = "import resource; from pathlib import Path; from files.safe_files import copy_file, run\n"
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
    program += f"run(lambda: copy_file(Path({str(tmp_path)!r}, 'source'), Path({str(tmp_path)!r}, 'copy')))"
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stderr == f"error: {tmp_path}/copy: expected a path that can be used, found: File too large\n"
    with pytest.raises(FileNotFoundError, match="absent"):
        copy_file(tmp_path / "absent", tmp_path / "copy")
