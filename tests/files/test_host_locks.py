"""Locks between hosts: taken once, seen by others, taken over from the dead of this host and never of another one."""

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

from conftest import REPO
from files.host_locks import (
    UNKNOWN,
    Holder,
    holder_of,
    is_dead,
    lock_path,
    locks_in,
    new_holder,
    only_host,
    release,
    start_of,
    take,
)
from files.input_errors import InputError
from files.safe_files import host_digest, leftovers_of, partial_directory, partial_file, this_host
from files.seals import MARKER

import pytest


@pytest.fixture
def output(tmp_path) -> Path:
    """An output in a build folder."""
    (tmp_path / MARKER).touch()
    return tmp_path / "demo/gguf/demo-Q6_K.gguf"


def write_lock(lock: Path, holder: Holder) -> None:
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps(asdict(holder)))


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_a_lock_has_a_readable_name_and_only_in_a_build_folder(output, tmp_path):
    assert lock_path(output) == tmp_path / ".locks/demo,gguf,demo-Q6_K.gguf.lock"
    long = [lock_path(output.with_name(f"{'x' * 200}{end}")) for end in ("1", "2")]
    assert len(set(long)) == 2 and all(len(lock.name) < 250 for lock in long)
    assert lock_path(REPO / "x") is None


def test_a_host_is_known_by_a_digest_that_a_person_can_make(output):
    """Its name stands in no file and in no name of one, which tools get on their command lines."""
    said = subprocess.run(["bash", "-c", "hostname | sha256sum"], capture_output=True, text=True, check=True).stdout
    assert len(this_host()) == 8 and said.startswith(this_host())
    assert f".{this_host()}." in partial_file(output).name and f".{this_host()}." in partial_directory(output).name


def test_a_lock_is_taken_once_and_let_go(output):
    lock = lock_path(output)
    mine, is_mine = take(lock)
    assert is_mine and mine.pid == os.getpid() and mine.host == this_host() and holder_of(lock) == mine
    assert take(lock) == (mine, False)
    release(lock, replace(mine, token="another"))
    assert lock.exists()
    release(lock, mine)
    assert not list(lock.parent.iterdir())


def test_of_many_at_once_one_gets_a_lock_also_that_of_a_dead_process(output):
    lock = lock_path(output)
    for stale in (False, True) * 5:
        if stale:
            write_lock(lock, replace(new_holder(), pid=dead_process()))
        won: list[Holder] = []
        gate = threading.Barrier(8)

        def compete(gate: threading.Barrier = gate, won: list[Holder] = won) -> None:
            gate.wait()
            holder, is_mine = take(lock)
            won += [holder] * is_mine

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and holder_of(lock) == won[0]
        release(lock, won[0])


def test_the_dead_are_those_of_this_kernel_alone(output, tmp_path):
    mine, dead = new_holder(), dead_process()
    assert start_of(dead) is None and not is_dead(mine)
    assert is_dead(replace(mine, pid=dead)) and is_dead(replace(mine, started="1"))  # a process id is used again
    assert not is_dead(replace(mine, pid=dead, place="another kernel"))
    away = replace(mine, host=host_digest("node-b"), pid=dead, place="another kernel")
    write_lock(lock_path(output), away)
    write_lock(lock_path(tmp_path / "old"), replace(mine, pid=dead))
    assert locks_in(tmp_path) == {lock_path(output): away} and not lock_path(tmp_path / "old").exists()
    with pytest.raises(InputError) as refused, only_host(output):
        pass
    lock = lock_path(output)
    assert str(refused.value) == (
        f"{output}: expected an output that no other run is writing, found one that host 91d267d1 (pid {dead}, since "
        f"{away.since}) makes; if `ps -p {dead}` on it (there `hostname | sha256sum` begins so) shows "
        f"no such process any more, remove {lock}"
    )


def test_a_process_of_another_user_that_proc_hides_is_not_taken_for_dead(monkeypatch):
    """As with /proc mounted by hidepid=2."""

    def another_users(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    mine = new_holder()
    monkeypatch.setattr(Path, "read_text", lambda path, **_: open(path / "hidden"))
    monkeypatch.setattr(os, "kill", another_users)
    monkeypatch.setattr("files.host_locks.this_place", lambda: mine.place)
    assert not is_dead(mine)


def test_a_lock_that_is_damaged_is_nobodys_to_take(output):
    lock = lock_path(output)
    lock.parent.mkdir()
    holder = asdict(new_holder())
    wrong = [json.dumps(holder | change) for change in ({"pid": "1"}, {"place": 1}, {"since": "\x1b[31m"})]
    for text in ("", "[]", '{"host": 1}', "[" * 100_000, *wrong):
        lock.write_text(text)
        assert take(lock) == (UNKNOWN, False)
        with pytest.raises(InputError, match=f"if no host works on it, remove {lock}"), only_host(output):
            pass


def test_a_file_system_without_hard_links(output, monkeypatch):
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", no_link)
    mine, is_mine = take(lock_path(output))
    assert is_mine and take(lock_path(output)) == (mine, False)


def test_a_link_that_the_server_made_and_did_not_confirm_counts(output, monkeypatch):
    link = os.link

    def twice(draft: Path, lock: Path) -> None:
        link(draft, lock)
        link(draft, lock)

    monkeypatch.setattr(os, "link", twice)
    assert take(lock_path(output))[1]


def test_a_process_that_ends_by_an_error_lets_go(output):
    program = "import sys; from pathlib import Path; from files.host_locks import only_host\n"
    program += "with only_host(Path(sys.argv[1])): sys.exit('no')"
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run([sys.executable, "-c", program, output], env=environment, capture_output=True, text=True)
    assert done.stderr == "no\n" and not list(lock_path(output).parent.iterdir())


def test_leftovers_are_those_of_this_output_of_every_host(tmp_path):
    output = tmp_path / "Qwen2.json"
    own = [partial_file(output), partial_directory(output), partial_file(partial_file(output))]
    own += [tmp_path / "Qwen2.node-b.partial.json"]
    others = [output, partial_file(tmp_path / "Qwen2.5.json"), tmp_path / "Qwen2.partial.txt", tmp_path / "Qwen2.5"]
    for path in (*own, *others):
        path.touch()
    assert leftovers_of(output) == sorted(own)
