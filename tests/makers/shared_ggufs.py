"""Float GGUF files with a calibration text and an imatrix: made once for all tests and workers, and never changed."""

import os
import shutil
from pathlib import Path

import build_imatrix
import convert_to_gguf
import render_calibration
from calls import call, made_once
from conftest import DEMO

CALIBRATION_QUESTIONS = 60


def demo_ggufs(factory) -> Path:
    """A folder with the demo's F16.gguf, text.txt (calibration questions as chats), imatrix.gguf, and the records."""
    return made_in(shared_folder(factory, "demo-ggufs"), DEMO / "model", "demo")


def copy_demo_ggufs(factory) -> Path:
    """A folder with copies of the demo's files, for tests that write beside them or change a file's time."""
    folder = factory.mktemp("copied")
    for path in demo_ggufs(factory).iterdir():
        shutil.copy2(path, folder / path.name)
    return folder


def tiny_ggufs(factory, model: Path) -> Path:
    """The same of `tiny_text_model`; its weights are the same in every worker."""
    return made_in(shared_folder(factory, "tiny-ggufs"), model, "tiny")


def link_f16(folder: Path, path: Path) -> Path:
    """Give a folder's F16.gguf and its record another place, as links that no test writes through; return the place."""
    for end in ("", ".json"):
        Path(f"{path}{end}").symlink_to(folder / f"F16.gguf{end}")
    return path


def shared_folder(factory, name: str) -> Path:
    """Where a worker of pytest-xdist and its fellows meet; of a run without workers, in its own folder."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


def made_in(folder: Path, model: Path, name: str) -> Path:
    """Convert a model, render a text and measure its imatrix, unless that was done."""
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            f16, text = folder / "F16.gguf", folder / "text.txt"
            lines = (DEMO / "calibration_questions.csv").read_text().splitlines(keepends=True)
            (folder / "few.csv").write_text("".join(lines[: CALIBRATION_QUESTIONS + 1]))
            call(convert_to_gguf.main, "--model", model, "--name", name, "--output", f16)
            call(render_calibration.main, "--model", model, "--questions", folder / "few.csv", "--output", text)
            call(build_imatrix.main, "--model", f16, "--calibration", text, "--output", folder / "imatrix.gguf")
    return folder
