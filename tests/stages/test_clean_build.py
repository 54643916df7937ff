"""What make clean would delete, and that it deletes nothing of others."""

import fcntl
import os
import re
import subprocess
from pathlib import Path

import clean_build
from conftest import REPO
from files.host_locks import LOCKS, only_host
from files.seals import LEDGER, MARKER

import pytest


@pytest.fixture
def model(tmp_path) -> Path:
    """A user's own model, which a build links to."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/model.safetensors").write_bytes(b"w" * 4096)
    return tmp_path / "mine"


@pytest.fixture
def build(tmp_path, model) -> Path:
    """A build folder with one run, one release whose file is a link to the quant, and a user's own file."""
    build = tmp_path / "build"
    files = (
        MARKER,
        LEDGER,
        "downloads/calibration.txt",
        "x/full/source.txt",
        "x/full/gguf/imatrix.gguf",
        "x/full/gguf/imatrix.gguf.json",
        "x/109e/drop_map.json",
        "x/109e/gguf/x-109e-Q6_K.gguf",
        "x/109e/gguf/x-109e-Q6_K.gguf.json",
        "x/109e/release/GGUF/manifest.json",
        "x/109e/release/checkpoint/manifest.json",
        "x/109e/logs/analyse.log",
    )
    for name in files:
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_text("")
    (build / "x/109e/gguf/x-109e-Q6_K.gguf").write_bytes(b"q" * 1_000_000)
    os.link(build / "x/109e/gguf/x-109e-Q6_K.gguf", build / "x/109e/release/GGUF/x-109e-Q6_K.gguf")
    (build / "x/full/checkpoint").symlink_to(model)
    (build / "notes.txt").write_text("the user's")
    return build


def clean(build: Path, *what: object, yes: bool = False) -> None:
    clean_build.main(["--build", str(build), "--what", *map(str, what), *(["--yes"] if yes else [])])


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


@pytest.mark.parametrize("what", ["all", "gguf", "x/109e"])
def test_without_yes_nothing_is_deleted(build, model, what, capsys):
    before = files_of(build)
    clean(build, build / what if "/" in what else what)
    shown = capsys.readouterr().out
    assert files_of(build) == before and "would be deleted with YES=1" in shown
    assert "0.0009 GiB in" in shown  # the quant and its link in the release, once


def test_all_deletes_what_was_built_and_nothing_of_others(build, model, capsys):
    clean(build, "all", yes=True)
    assert files_of(build) == {MARKER, "notes.txt"}
    assert (model / "model.safetensors").stat().st_size == 4096
    assert f"stays: {build}/notes.txt" in capsys.readouterr().out


def test_all_takes_the_folder_too_where_nothing_of_others_is_in_it(build):
    (build / "notes.txt").unlink()
    (build / "x.partial").mkdir()  # of a clean that was killed
    clean(build, "all", yes=True)
    assert not build.exists()


def test_a_build_folder_that_is_a_link_is_emptied_and_stays(build, tmp_path):
    (build / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(build)
    clean(tmp_path / "link", "all", yes=True)
    assert (tmp_path / "link").is_symlink() and not list(build.iterdir())


def test_gguf_keeps_imatrix_and_records_and_takes_a_release_whole(build):
    (build / "y/full/gguf").mkdir(parents=True)
    (build / "y/full/gguf/y-F16.gguf").write_text("of another model")
    clean(build, "gguf", build / "x", yes=True)
    left = files_of(build)
    kept = {"x/full/gguf/imatrix.gguf", "x/109e/release/checkpoint/manifest.json", "y/full/gguf/y-F16.gguf"}
    assert kept | {"x/109e/gguf/x-109e-Q6_K.gguf.json"} <= left
    assert "x/109e/gguf/x-109e-Q6_K.gguf" not in left and not (build / "x/109e/release/GGUF").exists()
    clean(build, "gguf", yes=True)
    assert not (build / "y/full/gguf/y-F16.gguf").exists()


def test_a_link_is_deleted_and_not_what_it_points_to(build, model, capsys):
    clean(build, build / "x/full/checkpoint", yes=True)
    assert not (build / "x/full/checkpoint").is_symlink() and (model / "model.safetensors").exists()
    assert f"a link; {model} stays" in capsys.readouterr().out


def test_paths_outside_or_behind_a_link_are_refused(build, model, refusal):
    before = files_of(build)
    outside = (model, model / "model.safetensors", build, build / "x/..", build / "x/full/checkpoint/model.safetensors")
    for path in outside:
        refusal(clean_build.main, ["--build", build, "--what", path, "--yes"], path, "inside", "nothing is deleted")
    (build / "link").symlink_to(model)
    before |= {"link"}
    (model / "mine.gguf").touch()
    refusal(
        clean_build.main, ["--build", build, "--what", "gguf", build / "link", "--yes"], "link", "nothing is deleted"
    )
    assert (model / "mine.gguf").exists()
    refusal(clean_build.main, ["--build", build, "--what", build / "x", build / "y", "--yes"], "y", "found nothing")
    assert files_of(build) == before and (model / "model.safetensors").exists()


def test_a_folder_without_the_marker_is_refused(build, model, refusal):
    (build / MARKER).unlink()
    before = files_of(build)
    for folder in (build, model):
        refusal(clean_build.main, ["--build", folder, "--what", "all", "--yes"], MARKER, "nothing of it is deleted")
    refusal(clean_build.main, ["--build", build / "none", "--what", "all", "--yes"], "found nothing")
    assert files_of(build) == before


def test_a_step_at_work_is_not_pulled_away(build, refusal):
    with open(build / "x/109e/logs/analyse.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        refusal(clean_build.main, ["--build", build, "--what", "all", "--yes"], "analyse.log", "end it first")
    with only_host(build / "x/109e/gguf/q.gguf"):
        refusal(clean_build.main, ["--build", build, "--what", "all", "--yes"], "no step at work", "q.gguf.lock")
    clean(build, "all", yes=True)
    assert not (build / "x").exists() and not (build / LOCKS).exists()


def test_folders_that_all_models_share_have_no_model_s_name():
    """Each would be taken for the other; make refuses such a NAME."""
    shared = set(clean_build.SHARED_FOLDERS) - {LOCKS}
    for name in shared:
        done = subprocess.run(["make", "-n", "drop", f"NAME={name}"], cwd=REPO, capture_output=True, text=True)
        assert done.returncode != 0 and "NAME: expected another name than that of a folder that all" in done.stderr
    (known,) = re.findall(r"^OTHER_FOLDERS := (.*)$", (REPO / "make/paths.mk").read_text(), re.MULTILINE)
    assert set(known.split()) == shared
