"""Outputs that are whole or absent: two runs at once, and kills while an older directory is replaced."""

import os
from pathlib import Path

import pytest

from files.safe_files import InputError, check_apart, directory_when_done, replace_when_done


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


def test_a_foreign_directory_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else"), directory_when_done(tmp_path / "mine", "manifest.json"):
        pass
    assert (tmp_path / "mine/thesis.txt").exists()
