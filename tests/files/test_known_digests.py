"""Digests of large files: believed where nobody can have touched the file, and the file held to them."""

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import REPO
from files.input_errors import InputError, sha256_file
from files.known_digests import is_in_memory, known_sha256
from files.seals import LEDGER, MARKER, seal_said, set_command
from files.written_records import write_json

import pytest


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A file in a build folder with its record, read once."""
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "keys/seal.key"))
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / MARKER).touch()
    path = tmp_path / "build/model.gguf"
    path.write_bytes(b"weights")
    write_json(Path(f"{path}.json"), {"version": 1, "bytes": 7, "sha256": sha256_file(path)})
    known_sha256(path)
    set_command("the_next.py")
    return path


def damage(path: Path, content: bytes) -> None:
    """Write other bytes in place, of the same size, and put the old time back."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def read_again(path: Path) -> bool:
    """Tell whether the bytes are read, which leaves a seal."""
    ledger = path.parent / LEDGER
    before = ledger.stat().st_size
    assert known_sha256(path) == sha256_file(path)
    set_command("the_next.py")
    return ledger.stat().st_size > before


def test_a_file_is_read_once_until_somebody_touches_it(model):
    assert not read_again(model)
    damage(model, b"damaged")
    assert read_again(model) and not Path(f"{model}.json").read_text().count(sha256_file(model))
    damage(model, b"weights")
    assert read_again(model) and not read_again(model)
    os.link(model, model.with_name("release.gguf"))
    assert read_again(model) and not read_again(model)


def test_a_store_into_a_mapped_page_is_a_touch_too(model):
    """One into a page that is not yet on the disk would change no time."""
    with open(model, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        content[:] = b"weights"
        assert read_again(model) and not read_again(model)
        content[:] = b"damaged"
        assert read_again(model)
        content[:] = b"weights"


def test_a_file_in_memory_is_read_each_time():
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:  # tmpfs on every Linux
        assert is_in_memory(Path(file.name)) and not is_in_memory(Path("/proc/self/mountinfo"))


@pytest.mark.parametrize("moment", ["record", "line"])
def test_what_was_damaged_for_a_moment_gives_no_number(model, moment):
    known_sha256(model)
    damage(model, b"damaged")
    damage(model, b"weights")
    ledger, output = (model.parent / LEDGER).read_bytes(), model.with_name("score.json")
    with pytest.raises(InputError, match="stays as it is while it is used, found a change"):
        write_json(output, {"score": 1}) if moment == "record" else seal_said(output, "0" * 64, "an answer")
    assert not output.exists() and (model.parent / LEDGER).read_bytes() == ledger


def test_a_link_that_a_command_makes_stops_no_other_one(model):
    """An F16 quant is a hard link to its source, from which other quants are built at once."""
    known_sha256(model)
    program = (
        "import os, sys; from pathlib import Path; from files.seals import link_held\n"
        "path = Path(sys.argv[1]); link_held(path, lambda: os.link(path, f'{path}.f16'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO / "scripts")}
    subprocess.run([sys.executable, "-c", program, model], env=environment, check=True)
    write_json(model.with_name("record.json"), {})
    os.link(model, f"{model}.other")
    with pytest.raises(InputError, match="found a change"):
        write_json(model.with_name("record.json"), {})


def test_a_record_alone_is_not_believed(model):
    damage(model, b"damaged")
    write_json(Path(f"{model}.json"), {"version": 1, "bytes": 7, "sha256": "a" * 64})
    assert read_again(model)
    other = model.rename(model.with_name("other.gguf"))
    Path(f"{model}.json").rename(f"{other}.json")
    assert read_again(other)
