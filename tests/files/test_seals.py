"""Seals: edited, missing, foreign, moved, copied; a kill between seal and rename; keys that are none."""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from conftest import REPO
from files import seals
from files.host_locks import lock_path
from files.input_errors import InputError
from files.option_types import command_parser
from files.run_state import RunState
from files.safe_files import directory_when_done, partial_file, replace_when_done, unchanged, write_whole
from files.seals import (
    INPUTS_NAME,
    LEDGER,
    MARKER,
    Seal,
    Seals,
    build_folder,
    check_kept,
    is_kept,
    key_name,
    key_path,
    read_key,
    running_command,
    set_command,
)
from files.written_records import write_json
from llama.llama_tools import built_here, tools_cache

import pytest


@pytest.fixture
def build(tmp_path, monkeypatch) -> Path:
    """A build folder with one sealed file, and a key of its own."""
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "keys/seal.key"))
    (tmp_path / "build/run").mkdir(parents=True)
    (tmp_path / "build" / MARKER).touch()
    write_json(tmp_path / "build/run/record.json", {"score": 1})
    return tmp_path / "build"


def seal(path: Path) -> Seal:
    """Return what the ledger of the build says of a file."""
    return Seals(next(parent for parent in reversed(path.parents) if (parent / MARKER).exists())).of_file(path)


def test_what_is_written_is_sealed_and_an_edit_is_seen(build):
    record = build / "run/record.json"
    assert seal(record) == Seal.VALID
    record.write_text(record.read_text().replace("1", "2"))
    assert seal(record) == Seal.BROKEN
    with pytest.raises(InputError, match="edited since it was sealed"):
        check_kept(record)
    write_json(record, {"score": 3})
    assert seal(record) == Seal.VALID


def test_a_build_can_be_moved_and_a_file_in_it_cannot(build):
    moved = build.rename(build.with_name("elsewhere"))
    assert seal(moved / "run/record.json") == Seal.VALID
    (moved / "other").mkdir()
    shutil.copy(moved / "run/record.json", moved / "other/record.json")
    assert seal(moved / "other/record.json") == Seal.NONE


def test_a_stage_that_was_put_back_keeps_its_seals(build):
    record, old = build / "run/record.json", (build / "run/record.json").read_bytes()
    write_json(record, {"score": 2})
    record.write_bytes(old)
    assert seal(record) == Seal.VALID


def test_another_key_and_no_ledger(build, monkeypatch):
    record = build / "run/record.json"
    monkeypatch.setenv("SEAL_KEY", str(build.parent / "keys/other.key"))
    assert seal(record) == Seal.FOREIGN and not is_kept(record)
    (build / LEDGER).unlink()
    assert seal(record) == Seal.NONE
    monkeypatch.setenv("SEALS", "no")
    assert is_kept(record)
    write_json(record, {"score": 2})
    assert not (build / LEDGER).exists()


def test_what_another_command_wrote_is_none_of_this(build):
    record = build / "run/record.json"
    set_command("measure.py")
    assert seal(record) == Seal.VALID and not is_kept(record)
    with pytest.raises(InputError, match="one that another command wrote"):
        check_kept(record)
    write_json(record, {"score": 1})
    assert is_kept(record)


def test_a_command_s_parser_says_which_one_it_is(build):
    command_parser("A command of this file.")
    assert running_command() == "test_seals"


def test_the_kept_state_of_another_run_is_none_of_this(tmp_path, monkeypatch):
    """One key serves all builds, and the places are the same."""
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "keys/seal.key"))
    files = {}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).touch()
        with RunState(tmp_path / name / "state", {"model": name}) as state:
            files[name] = state.directory / "layer-0.json"
            write_json(files[name], {"of": name})
    assert is_kept(files["one"])
    ledgers = [tmp_path / name / LEDGER for name in files]
    shutil.copy(files["other"], files["one"])
    ledgers[0].write_text("".join(ledger.read_text() for ledger in ledgers))
    assert not is_kept(files["one"])
    shutil.copy(files["other"].with_name(INPUTS_NAME), files["one"].with_name(INPUTS_NAME))
    with (
        pytest.raises(InputError, match='the state of a run with model "one"'),
        RunState(files["one"].parent, {"model": "one"}),
    ):
        pass


def test_inputs_that_are_exchanged_while_a_run_is_at_work_do_not_bind(build):
    with RunState(build / "state", {"model": "one"}) as state:
        (state.directory / INPUTS_NAME).write_text('{"model": "other"}')
        write_json(state.directory / "layer-0.json", {"loss": 1})
    assert not is_kept(state.directory / "layer-0.json")
    (state.directory / INPUTS_NAME).write_text('{"model": "one"}')
    assert is_kept(state.directory / "layer-0.json")


def test_a_temporary_file_that_is_exchanged_gets_no_seal(build):
    """By who waits for its name: the seal is that of the bytes in memory."""
    path, digest = build / "draft.json", hashlib.sha256(b"ours").hexdigest()
    with replace_when_done(path, digest) as partial:
        partial.write_bytes(b"ours")
        (build / "forged").write_bytes(b"forged")
        (build / "forged").rename(partial)
    assert seal(path) == Seal.BROKEN
    write_whole(path, b"ours")
    assert seal(path) == Seal.VALID


def test_a_file_that_is_exchanged_while_it_is_read_is_refused(build):
    """Also where it is put back, with its old time."""
    record, aside = build / "run/record.json", build / "aside"
    with unchanged(record):
        check_kept(record)
    with pytest.raises(InputError, match="stays as it is while it is read"), unchanged(record):
        times = record.stat()
        record.rename(aside)
        aside.rename(record)
        os.utime(record, ns=(times.st_atime_ns, times.st_mtime_ns))
    check_kept(record)


def test_a_marker_that_is_away_for_a_moment_seals_nothing(build):
    """What a command goes on from is then unchecked, and so must be what it makes of it."""
    record, other = build / "run/record.json", build / "run/other.json"
    record.write_text('{"score": 9}')
    (build / MARKER).rename(build / "away")
    assert is_kept(record)
    (build / "away").rename(build / MARKER)
    write_json(other, {"score": 9})
    assert seal(other) == Seal.NONE
    set_command("the_next.py")
    write_json(other, {"score": 1})
    assert seal(other) == Seal.VALID


@pytest.mark.parametrize("kind", ["of another user", "a pipe", "a link", "a folder"])
def test_what_a_neighbour_marks_is_no_build_folder(build, tmp_path, kind):
    """Where everybody may make files, a marker of somebody else's would take seals and locks there."""
    if kind == "of another user" and os.getuid():
        pytest.skip("chown: only root may give a file to another user")
    marker = tmp_path / MARKER
    {"a pipe": os.mkfifo, "a link": lambda path: path.symlink_to(build / MARKER), "a folder": os.mkdir}.get(
        kind, Path.touch
    )(marker)
    if kind == "of another user":
        os.chown(marker, 65534, 65534)
    assert build_folder(build / "file") == build and lock_path(build / "file").parent.parent == build
    if kind == "of another user":  # a builder's folder is one for all who work in it
        os.chown(tmp_path, 65534, 65534)
        assert build_folder(build / "file") == tmp_path


def test_the_root_of_all_folders_is_no_build_folder(monkeypatch):
    monkeypatch.setattr(seals, "_is_marked", lambda folder: True)
    assert build_folder(Path("/a/b/c")) == Path("/a")


def test_dots_that_climb_out_of_a_link_lead_nowhere_else(build, tmp_path):
    """The kernel follows the link first, a seal goes by the path as it is written: they must be one file."""
    (tmp_path / "far/away").mkdir(parents=True)
    (build / "link").symlink_to(tmp_path / "far/away")
    (tmp_path / "far/run").mkdir()
    (tmp_path / "far/run/record.json").write_text("{}")
    assert seal(build / "link/../run/record.json") == Seal.LINKED
    assert seal(build / "run/../run/record.json") == Seal.VALID


def test_a_seal_of_an_older_version_is_that_of_a_stranger(build, monkeypatch):
    """Its command looked at less before it sealed. Nor does it help to write today's name of the key over its own."""
    old = key_name(read_key())
    monkeypatch.setattr(seals, "CHECKS", seals.CHECKS + 1)
    assert seal(build / "run/record.json") == Seal.FOREIGN
    ledger = (build / LEDGER).read_text()
    (build / LEDGER).write_text(ledger.replace(old, key_name(read_key())))
    assert ledger.startswith(old) and seal(build / "run/record.json") == Seal.BROKEN


def test_half_a_seal_costs_no_other(build):
    with open(build / LEDGER, "a") as file:
        file.write("0123456789ab 0123\n")  # of a crash
        file.write(f'{key_name(read_key())} {"0" * 64} "run\\q" test\n')  # damaged: no JSON spells a place like that
    write_json(build / "run/next.json", {})
    assert seal(build / "run/next.json") == seal(build / "run/record.json") == Seal.VALID
    renamed = (build / "run").rename(build / "other")
    assert Seals(build).of_renamed(renamed / "record.json", "", "/record.json") == Seal.VALID


def test_the_files_of_a_folder_are_sealed_but_for_weights(build):
    with directory_when_done(build / "run/folder", "a.json") as folder:
        for name in ("a.json", "b.gguf", "c.safetensors"):
            (folder / name).write_text("x")
    assert [seal(build / "run/folder" / name) for name in ("a.json", "b.gguf", "c.safetensors")] == [
        Seal.VALID,
        Seal.NONE,
        Seal.NONE,
    ]


def test_a_kill_between_seal_and_rename_leaves_the_old_file_with_its_seal(build):
    record = build / "run/record.json"
    program = (
        "import os, signal, sys; from pathlib import Path; from files import safe_files\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "safe_files.os.replace = die\n"
        "from files.written_records import write_json; write_json(Path(sys.argv[1]), {'score': 2})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run([sys.executable, "-c", program, record], env=environment)
    assert done.returncode == -signal.SIGKILL and partial_file(record).exists()
    assert '"score": 1' in record.read_text() and seal(record) == Seal.VALID
    write_json(record, {"score": 2})
    assert seal(record) == Seal.VALID


@pytest.mark.parametrize("damage", ["short", "readable", "inside"])
def test_a_key_that_is_none_is_refused(build, monkeypatch, damage):
    key = build / "seal.key" if damage == "inside" else build.parent / "keys/bad.key"
    key.write_bytes(b"x" * (3 if damage == "short" else 32))
    key.chmod(0o644 if damage == "readable" else 0o600)
    monkeypatch.setenv("SEAL_KEY", str(key))
    with pytest.raises(InputError, match=str(key)):
        read_key()


@pytest.mark.parametrize("state, place", [("/a", "/a"), ("rel", "/home/x/.local/state"), ("", "/home/x/.local/state")])
def test_a_key_lies_in_no_folder_below_the_working_directory(monkeypatch, state, place):
    monkeypatch.delenv("SEAL_KEY", raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_STATE_HOME", state)
    assert key_path() == Path(place) / "moe-tools/seal.key"


def test_a_home_folder_is_that_of_the_account_or_refused(monkeypatch):
    for name in ("SEAL_KEY", "XDG_STATE_HOME", "XDG_CACHE_HOME", "MOE_TOOLS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    of_account, at = Path(pwd.getpwuid(os.getuid()).pw_dir), ".local/state/moe-tools/seal.key"
    monkeypatch.setenv("HOME", "")
    assert key_path() == of_account / at and tools_cache() == of_account / ".cache/moe-tools"
    monkeypatch.setenv("SEAL_KEY", "~/k")
    assert key_path() == of_account / "k"
    monkeypatch.setenv("SEAL_KEY", "~nosuchuser/k")
    with pytest.raises(InputError, match="~nosuchuser/k: expected the home folder of a user, found no such user; set"):
        key_path()
    monkeypatch.delenv("SEAL_KEY")
    for given, found in (("foo", "foo"), ("./x", "./x"), ("", "none")):
        monkeypatch.setenv("HOME", given)
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user without an account
        for place, advice in ((key_path, "set SEAL_KEY to a file"), (tools_cache, "set MOE_TOOLS_CACHE")):
            with pytest.raises(
                InputError, match=f"HOME: expected the absolute path of a home folder, found {found}; {advice}"
            ):
                place()


@pytest.mark.parametrize("given", [None, "", "foo", "/h"])
def test_the_tools_lie_below_the_same_home_folder(monkeypatch, given):
    for name in ("XDG_CACHE_HOME", "MOE_TOOLS_CACHE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("HOME", given)
    if given == "foo":
        with pytest.raises(InputError, match="HOME: expected the absolute path of a home folder, found foo"):
            built_here()
    else:
        assert built_here().parent == tools_cache()


@pytest.mark.parametrize("before, after", [(0o644, 0o600), (0o664, 0o660), (0o600, 0o600)])
def test_nobody_who_only_reads_can_open_the_ledger_and_so_hold_its_lock(build, before, after):
    """A group that may write shares the build."""
    (build / LEDGER).chmod(before)
    write_json(build / "run/record.json", {"score": 2})
    assert (build / LEDGER).stat().st_mode & 0o777 == after


@pytest.mark.parametrize(
    "name, done", [("model.gguf", replace_when_done), ("folder", partial(directory_when_done, marker="a"))]
)
def test_where_nothing_can_be_sealed_nothing_is_made(build, tmp_path, name, done):
    """A GGUF file has no seal, but its record has: it lay there, and then the record was refused."""
    (build / LEDGER).rename(tmp_path / "elsewhere")
    (build / LEDGER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="expected a file to write, found a link"), done(build / "run" / name):
        pytest.fail("the work has begun")
    assert [path.name for path in (build / "run").iterdir()] == ["record.json"]
