"""Weights that shrink while they are read: the command dies by SIGBUS, and one line says which file it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import DEMO, REPO

import pytest

BLOCK = """
import mmap, os, sys
sys.path.insert(0, "scripts")
from pathlib import Path
from analysis.mapped_weights import shrinking_told
shard = Path(sys.argv[1])
with open(shard, "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
with shrinking_told(shard.parent):
    os.truncate(shard, 1)
    exec(sys.argv[2])
print("done")
"""
SHRUNK = "\nerror: {}: expected {} bytes to its end, found {}; leave a checkpoint alone while it is read\n"


@pytest.mark.parametrize(
    ("work", "code", "told"),
    [
        ("pages[-1]", -signal.SIGBUS, True),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, True),  # what the next run would find
        ("sys.exit('error: others')", 1, False),
        ("pass", 0, False),
    ],
)
def test_a_file_that_shrinks_is_told_when_the_process_dies(tmp_path, work, code, told):
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(bytes(100_000))
    done = subprocess.run([sys.executable, "-c", BLOCK, shard, work], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == code and done.stdout == ("done\n" if code == 0 else "")
    assert done.stderr == (SHRUNK.format(shard, 100_000, 1) if told else "error: others\n" if code == 1 else "")


def test_a_process_that_is_killed_with_its_files_whole_says_nothing(tmp_path):
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(b"1")
    line = [sys.executable, "-c", BLOCK, shard, "os.kill(os.getpid(), 9)"]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL and done.stderr == ""


def test_the_analysis_tells_the_shard_that_shrank(model_copy: Path, tmp_path):
    shard = next(model_copy.glob("*.safetensors"))
    size = shard.stat().st_size
    command = [sys.executable, "scripts/teacher_force_analysis.py", "--model", model_copy, "--batch-size", "1"]
    inputs = ["--questions", DEMO / "calibration_questions.csv", "--output", tmp_path / "stats"]
    process = subprocess.Popen([*command, *inputs], cwd=REPO, stderr=subprocess.PIPE, text=True)
    maps, ends = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 120
    while str(shard) not in maps.read_text():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.005)
    os.truncate(shard, size // 3)
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGBUS and said.endswith(SHRUNK.format(shard, size, size // 3)), said
    assert not (tmp_path / "stats").exists()
