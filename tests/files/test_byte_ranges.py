"""Runs of bytes: which ones stay, copying them with a digest, comparing them."""

import errno
import hashlib
import os

from files.byte_ranges import Run, kept_runs, same_bytes, write_hashed, write_runs
from files.input_errors import InputError

import pytest


def test_kept_runs_are_consecutive():
    assert list(kept_runs([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]


def test_runs_are_copied_hashed_and_compared(tmp_path):
    (tmp_path / "in").write_bytes(bytes(range(100)) * 1000)
    runs = [Run(tmp_path / "in", 7, 50_000), Run(tmp_path / "in", 3, 1), Run(tmp_path / "in", 99_000, 1000)]
    source, seen = (tmp_path / "in").read_bytes(), []
    pieces = [b"head", *runs[:2], b"\0\0", runs[2]]
    digest = write_hashed({tmp_path / name: pieces for name in ("first", "second", "third", "out")}, seen.append)[
        tmp_path / "out"
    ]
    expected = b"head" + source[7:50_007] + source[3:4] + b"\0\0" + source[99_000:100_000]
    assert (tmp_path / "out").read_bytes() == expected and digest == hashlib.sha256(expected).hexdigest()
    assert sum(seen) == 4 * 51_001
    assert same_bytes(runs[0], tmp_path / "out", 4) and not same_bytes(runs[0], tmp_path / "out", 5)
    with pytest.raises(InputError, match="its end after 1000"):
        write_runs(tmp_path / "more", [Run(tmp_path / "in", 99_000, 1001)], seen.append)
    with pytest.raises(InputError, match="its end after 1000"):  # said by one of two files, whichever ends first
        write_hashed(
            {tmp_path / "long": [runs[0]] * 1000, tmp_path / "short": [Run(tmp_path / "in", 99_000, 1001)]}, seen.append
        )


def test_copying_works_where_the_kernel_cannot(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "in").write_bytes(os.urandom(20_000_000))
    write_runs(tmp_path / "out", [Run(tmp_path / "in", 5, 19_000_000)], lambda count: None)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()[5:19_000_005]
