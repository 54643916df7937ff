"""A command in a world against it: failing calls, no room, read-only folders, odd names, another locale and umask."""

import argparse
import errno
import os
import re
import resource
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import build_release
import build_report
import compare_scores
import fetch_model
import freeze_questions
import new_run
import pool_heldout
import train_demo_model
from cards.front_matter import check_front_matter
from chats.chat_tokenizer import load_tokenizer
from chats.questions import read_ids
from checkpoints.checkpoint import hold_checkpoint
from checkpoints.small_files import small_files
from choice.expert_stats import write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from conftest import REPO
from files import input_errors, safe_files, written_records
from files.host_locks import UNKNOWN, holder_of
from files.input_errors import InputError
from files.safe_files import directory_when_done, partial_directory, partial_file, replace_when_done
from files.seals import LEDGER, MARKER, Seals, bound_to, read_key
from release.published_texts import file_texts
from stages.turns import sign_of

import numpy as np
import pytest
import torch

COMMAND = [sys.executable, str(REPO / "scripts/generate_drop_map.py")]
ODD_NAMES = ["-x", "line\nend", "mäß-漢字 a'b\"c $(touch owned)`;& %s{0}\\n"]


@pytest.fixture(scope="module")
def stats(tmp_path_factory) -> Path:
    """A statistics file of 5 questions, 2 layers, 6 experts."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.random((5, 2, 6)) for name in EXPERT_SUMS}
    arrays["token_count"] = np.ceil(9 * arrays["token_count"]).astype(np.int64)
    arrays |= {name: np.full((5, 2), 60) for name in LAYER_SUMS} | {"layer_numbers": np.arange(2)}
    digests = {f"{name}_sha256": "0" * 64 for name in ("questions", "config", "weights")}
    path = tmp_path_factory.mktemp("stats") / "stats.safetensors"
    write_stats(path, arrays, {"questions": [{"id": f"q{i}"} for i in range(5)], "top_k": 2, **digests})
    return path


@pytest.fixture(scope="module")
def expected(stats) -> bytes:
    """The map that nothing disturbs."""
    assert choose(stats, stats.with_name("map.json")).returncode == 0
    return stats.with_name("map.json").read_bytes()


def choose(
    stats: Path, output: object, before: Callable[[], None] | None = None, **how: object
) -> subprocess.CompletedProcess:
    """Run the choice of experts in a process of its own."""
    words = [*COMMAND, "--stats", str(stats), "--keep", "4", "--protect-top", "2", f"--output={output}"]
    return subprocess.run(words, capture_output=True, preexec_fn=before, **how)


def line_of(done: subprocess.CompletedProcess) -> str:
    """The one line by which a command refuses."""
    text = done.stderr.decode()
    assert done.returncode == 1 and text.startswith("error: ") and len(text.splitlines()) == 1, text
    return text


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_write_that_fails_is_told_in_one_line_by_the_outputs_name(tmp_path, number):
    """As a write fails: the error names no file. A file system may give any number, also EAGAIN and EPIPE."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/marker").write_text("old")
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="file: expected .* found"), replace_when_done(tmp_path / "file") as partial:
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    with pytest.raises(InputError, match="folder: expected"), directory_when_done(tmp_path / "folder", "marker"):
        raise OSError(number, os.strerror(number))
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/marker").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_is_flushed_before_its_rename_and_its_folder_after(tmp_path, monkeypatch):
    calls: list[tuple[str, str]] = []
    flush, rename = os.fsync, os.replace

    def seen_flush(handle: int) -> None:
        calls.append(("flush", os.readlink(f"/proc/self/fd/{handle}").removeprefix(f"{tmp_path}/")))
        flush(handle)

    def seen_rename(old: Path, new: Path) -> None:
        calls.append(("rename", str(old).removeprefix(f"{tmp_path}/")))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", seen_flush)
    monkeypatch.setattr(os, "replace", seen_rename)
    begun, folder = partial_file(tmp_path / "a.txt"), partial_directory(tmp_path / "d").name
    with replace_when_done(tmp_path / "a.txt") as partial:
        partial.write_text("x")
    assert calls == [("flush", begun.name), ("rename", begun.name), ("flush", str(tmp_path))]
    for _ in range(2):
        calls.clear()
        with directory_when_done(tmp_path / "d", "marker") as partial:
            (partial / "inner").mkdir()
            (partial / "inner/file").write_text("x")
            (partial / "marker").write_text("x")
    first_rename = calls.index(("rename", "d"))  # the old folder is set aside after all of the new one is flushed
    flushed = {path for call, path in calls[:first_rename] if call == "flush"}
    assert flushed == {folder, f"{folder}/inner", f"{folder}/inner/file", f"{folder}/marker"}
    assert calls[first_rename:] == [("rename", "d"), ("rename", folder), ("flush", str(tmp_path))]


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_rename_that_fails_is_one_line(tmp_path, monkeypatch, number):
    def failing(old: Path, new: Path) -> None:
        raise OSError(number, os.strerror(number), str(old), None, str(new))

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(SystemExit) as refused:
        safe_files.run(lambda: written_records.write_json(tmp_path / "file", {}))
    line = str(refused.value)
    assert re.fullmatch(r"error: \S+/file\S*: expected .* found.*", line) and len(line.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_call_that_fails_without_a_name_is_one_line(number):
    """As of a read, of a lock or of a new process. Some numbers only a defect of ours can cause."""

    def failing() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError if number in safe_files.DEFECTS else SystemExit) as refused:
        safe_files.run(failing)
    if number not in safe_files.DEFECTS:
        line = str(refused.value)
        assert re.fullmatch(r"error: (output|system): expected .* found.*", line) and len(line.splitlines()) == 1


@pytest.mark.parametrize("read", [input_errors.sha256_file, input_errors.read_whole, input_errors.read_lines])
def test_a_read_that_fails_names_the_file(tmp_path, monkeypatch, read):
    (tmp_path / "file").write_text("x")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))

    monkeypatch.setattr(input_errors, "open", failing, raising=False)
    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(SystemExit, match="/file: expected a path that can be used, found: Bad message"):
        safe_files.run(lambda: read(tmp_path / "file"))


def test_no_thread_more_is_one_line():
    def failing() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(SystemExit, match="processes: expected one more, found as many as this user may have"):
        safe_files.run(failing)


def test_no_memory_for_torch_is_one_line():
    def failing() -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(SystemExit, match="memory: expected enough of it, found none left"):
        safe_files.run(failing)


def test_a_temporary_directory_without_locks_is_one_line(tmp_path, monkeypatch):
    def failing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(safe_files.fcntl, "flock", failing)
    with pytest.raises(InputError, match="output-locks-.* expected a file system with locks"):
        written_records.write_json(tmp_path / "file", {})


def test_a_file_system_that_flushes_no_folders(tmp_path, monkeypatch):
    flush = os.fsync

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(handle)

    monkeypatch.setattr(os, "fsync", no_folders)
    written_records.write_json(tmp_path / "file", {})
    with directory_when_done(tmp_path / "folder", "marker") as partial:
        (partial / "marker").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_printed_while_a_file_is_written_is_not_that_file(tmp_path):
    """A full device behind stdout, and a closed pipe."""
    program = "from files.safe_files import run, replace_when_done\nfrom pathlib import Path\ndef main():\n"
    program += "    with replace_when_done(Path('file')):\n        while True: print('x' * 9999, flush=True)\nrun(main)"
    environment = os.environ | {"PYTHONPATH": str(REPO / "scripts")}
    for reader, found in ((">/dev/full", "the disk full"), ("| head -c 1 >/dev/null", "a closed pipe")):
        line = f"{shlex.join([sys.executable, '-c', program])} {reader}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert re.match(f"error: output: expected .*, found {found}\n", done.stderr) and not list(tmp_path.iterdir())


def test_a_limit_on_file_sizes_and_a_full_device(stats, tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    assert "map.json: expected a file that can be written, found File too large" in line_of(
        choose(stats, tmp_path / "map.json", small_files)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream(stats, expected, tmp_path, streams):
    """Its number is that of no file which the command opens, and what is printed goes nowhere."""
    words = [*COMMAND, "--stats", stats, "--keep", "4", "--protect-top", "2", "--output", tmp_path / "map.json"]
    line = f"exec {shlex.join(map(str, words))} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr, (tmp_path / "map.json").read_bytes()) == (0, "", expected)
    done = subprocess.run(["bash", "-c", line.replace(str(stats), "none")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr[:5] == ("" if "2" in streams else "error")


def test_a_limit_on_memory_is_told_in_one_line(stats, tmp_path):
    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    with open(tmp_path / "stats.safetensors", "wb") as file:
        file.write(stats.read_bytes())
        file.truncate(8 << 30)  # its reader maps all of it
    assert "memory: expected enough of it" in line_of(
        choose(tmp_path / "stats.safetensors", tmp_path / "map.json", little_memory)
    )


@pytest.mark.parametrize("place", ["/sys/kernel/map.json", "/proc/map.json", "/dev/null/map.json"])
def test_a_folder_that_takes_no_files(stats, place):
    assert f"{os.path.dirname(place)}" in line_of(choose(stats, place))


def test_a_folder_without_the_right_to_write(tmp_path):
    """As another user, since root may write everywhere; in a fork, since that user may not read the environment."""
    with tempfile.TemporaryDirectory() as name:
        locks, locked = Path(name, "locks"), Path(name, "locked")
        locks.mkdir()
        locked.mkdir()
        locks.chmod(0o777)
        locked.chmod(0o555)
        Path(name).chmod(0o755)
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.dup2(writer, 2)
            try:
                if not os.getuid():
                    os.setuid(65534)
                tempfile.tempdir = str(locks)
                safe_files.run(lambda: written_records.write_json(locked / "map.json", {}))
            except SystemExit as error:
                os.write(2, str(error).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as said:
            text = said.read()
        os.waitpid(child, 0)
        assert re.fullmatch(r"error: \S*/locked\S*: expected a path that can be used, found: Permission denied", text)
        assert not list(locked.iterdir())


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(stats, expected, tmp_path, name):
    (tmp_path / name).mkdir()
    odd = tmp_path / name / f"{name}.safetensors"
    odd.write_bytes(stats.read_bytes())
    done = choose(odd, f"{name}.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{name}.json").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{name}.json"])
    absent = line_of(choose(tmp_path / name / "absent", tmp_path / "x.json"))  # one line, whatever is in the name
    assert "absent: expected a statistics file" in absent


@pytest.mark.parametrize("locale", ["C", "tr_TR.UTF-8"])
def test_another_locale_and_umask_give_the_same_bytes(stats, expected, tmp_path, locale):
    """Without these two variables Python takes UTF-8 for the locale C, which else means ASCII."""
    ascii_only = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": locale, "LANG": locale}
    environment = {**os.environ, **ascii_only}
    done = choose(stats, tmp_path / "a.json", lambda: os.umask(0o077) and None, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.json").read_bytes() == expected
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600
    assert "UTF-8" in line_of(choose(stats, tmp_path / "ä.json", env=environment))


def test_a_name_that_is_no_text_is_refused(stats, tmp_path):
    assert "udcff.json" in line_of(choose(stats, os.fsdecode(b"\xff.json"), cwd=tmp_path)) and not list(
        tmp_path.iterdir()
    )


def sparse(path: Path) -> Path:
    """A file of 6 GiB that takes no disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, 6 << 30)
    return path


def test_a_text_without_end_is_read_nowhere(tmp_path, monkeypatch):
    """Also what lies in an output's place, in a build folder, or beside a model's weights."""
    large = sparse(tmp_path / "build/large.mk")
    (tmp_path / "build" / MARKER).touch()
    sparse(tmp_path / "build/run/begun.json")
    sparse(tmp_path / "other" / LEDGER)
    (tmp_path / "other" / MARKER).touch()
    model = sparse(tmp_path / "model/chat_template.jinja").parent
    (model / "tokenizer.json").write_text("{}")
    readers = [
        lambda: new_run.read_settings(large),
        lambda: build_report.check_not_poorer(large, {}),
        lambda: read_ids(large),
        lambda: train_demo_model.check_template(large),
        lambda: small_files(model),
        lambda: hold_checkpoint(model),
        lambda: load_tokenizer(model),
        lambda: bound_to(tmp_path / "build/run/answers.jsonl"),
        lambda: Seals(tmp_path / "other"),
        lambda: check_front_matter(large, "standard"),
        lambda: file_texts(large),
    ]
    for read in readers:
        with pytest.raises(InputError, match=r"expected at most \d+ MiB to be read as a whole, found 6144 MiB"):
            read()
    assert holder_of(large) == UNKNOWN
    monkeypatch.setenv("SEAL_KEY", str(sparse(tmp_path / "key")))
    with pytest.raises(InputError, match="key: expected at most 1 MiB"):
        read_key()


@pytest.mark.parametrize("kind", ["pipe", "device", "broken link"])
def test_a_lock_and_a_ledger_that_are_no_files(tmp_path, stats, kind):
    """A pipe would be waited for, a device read, a broken link taken for no lock, and written through, for ever."""
    for path in (tmp_path / "lock", tmp_path / LEDGER):
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    assert holder_of(tmp_path / "lock") == UNKNOWN
    assert sign_of(tmp_path / "lock") > 0
    (tmp_path / MARKER).touch()
    done = choose(stats, tmp_path / "map.json", env=os.environ | {"SEAL_KEY": str(stats.parent / "key")})
    if kind == "broken link":
        assert f"{LEDGER}: expected a file to write, found a link" in line_of(done)
    else:
        assert f"{LEDGER}: expected a file, found a pipe, a device or a socket" in line_of(done)
        assert not (tmp_path / "map.json").exists()


def test_an_output_in_the_place_of_an_input(tmp_path, refusal):
    """Also one that another output's name leads to: TABLE.md has a record TABLE.json beside it."""
    summary, questions = tmp_path / "summary.json", tmp_path / "frozen.jsonl"
    calls = [
        (compare_scores.main, ["--runs", summary, "--output", tmp_path / "summary.md"]),
        (compare_scores.main, ["--model", summary, "--model", tmp_path / "b.json", "--output", tmp_path / "b.md"]),
        (pool_heldout.main, ["--name", "n", "--summary", summary, "--output", summary]),
        (freeze_questions.main, ["--questions", questions, "--output", tmp_path]),
        (fetch_model.main, ["--model", tmp_path, "--output", tmp_path.parent / "m", "--record", tmp_path / "a.json"]),
    ]
    for main, arguments in calls:
        refusal(main, arguments, "an output apart from every input")
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_a_pipe_is_not_copied(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.png")
    monkeypatch.setattr(build_release, "copies_of", lambda _: {"a.png": tmp_path / "a.png"})
    args = argparse.Namespace(mmproj=[], draft=None, checkpoint=None)
    with pytest.raises(InputError, match="a.png: expected a file, found a pipe"):
        build_release.place_copies(args, tmp_path / "release")
