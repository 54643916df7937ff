"""How far a run is, from the lines of a dry run, the files that are there and the locks on logs."""

import fcntl
import io
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import show_status
from files.host_locks import lock_path, new_holder
from files.safe_files import host_digest
from stages.step_logs import is_at_work, log_of

import pytest

GIB = 1 << 30
PLAN = {
    "experts": 109,
    "f16_bytes": 4 * GIB,
    "full_f16_bytes": 5 * GIB,
    "largest_layer_bytes": GIB,
    "active_weights": 1,
    "vocabulary_bytes": GIB // 2,
    "quants": [
        {"name": "F16", "bytes": 4 * GIB},
        {"name": "Q6_K", "bytes": 2 * GIB},
        {"name": "CD-Q6_K", "bytes": 3 * GIB},
        {"name": "IQ2_M", "refused": "no imatrix"},
    ],
}


def step(stage: str, words: str, target: str) -> str:
    """Return a line of a dry run."""
    return f"@step\t{stage}\t{words}\t{target}\t\n"  # make leaves a tab at the end


@pytest.fixture
def status(tmp_path, monkeypatch, capsys):
    """Return what the command prints for the lines of a dry run, started in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def show(dry_run: str, *arguments: str) -> list[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(dry_run))
        show_status.main(["--logs", "build/x/109e/logs", *arguments])
        return capsys.readouterr().out.splitlines()

    return show


def write(name: str, size: int = 0) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(b"x" * size)


def test_done_stale_and_missing(status):
    write("drop_map.json", 1 << 20)
    write("a.gguf", 3 << 20)
    os.utime("a.gguf", (time.mktime((2026, 3, 4, 5, 6, 0, 0, 0, -1)),) * 2)
    write("checkpoint/one", 1 << 20)
    os.link("checkpoint/one", "checkpoint/same")  # two names of one file
    lines = status(
        "make: something else\n" + step("quants", "Quantise b", "b.gguf") + step("drop", "Drop", "checkpoint/meta"),
        *("--stage", "choice=drop_map.json", "--stage", "drop=checkpoint", "--stage", "quants=a.gguf,b.gguf"),
        *("--stage", "eval=scores.json"),
    )
    cells = {line.split()[0]: line.split() for line in lines[1:5]}
    assert cells["choice"][1] == "done" and cells["choice"][-4:] == ["1", "of", "1", "0.0010"]
    assert cells["drop"][1] == "stale" and cells["drop"][-1] == "0.0010"
    assert cells["quants"][1:] == ["missing", "2026-03-04", "05:06", "1", "of", "2", "0.0029"]
    assert cells["eval"][1:] == ["missing", "0", "of", "1"]
    assert lines[-2:] == ["Next: Quantise b (quants), then 1 more step.", lines[-1]] and "`make plan`" in lines[-1]
    assert max(map(len, lines)) <= 100


def test_a_step_that_holds_its_log_is_running(status):
    write("build/x/109e/logs/quantise-q6_k.log")
    dry_run = step("quants", "Quantise Q6_K", "q.gguf") + step("eval", "Score x", "summary.json")
    arguments = ("--stage", "quants=q.gguf")
    assert "running" not in "".join(status(dry_run, *arguments))  # the log of an earlier try
    with open("build/x/109e/logs/quantise-q6_k.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        lines = status(dry_run, *arguments)
        assert lines[1].split()[:2] == ["quants", "running"]
        assert "Running: Quantise Q6_K, log build/x/109e/logs/quantise-q6_k.log" in lines
        assert "Next: Score x (eval), the last step." in lines
    assert "missing" in status(dry_run, *arguments)[1]


def test_a_step_of_another_host_is_running_there(status):
    write("build/.built-by-this-project")
    lock = lock_path(Path("q.gguf").absolute().parent / "build/q.gguf")
    lock.parent.mkdir()
    lock.write_text(json.dumps(asdict(replace(new_holder(), host=host_digest("node-b"), place="another kernel"))))
    lines = status(step("quants", "Quantise Q6_K", "build/q.gguf"), "--stage", "quants=build/q.gguf")
    assert lines[1].split()[:2] == ["quants", "running"] and "Running on host 91d267d1: Quantise Q6_K" in lines


def test_asking_for_a_lock_takes_none(tmp_path):
    log = log_of(tmp_path, "Score gemma-4-demo (full)")
    assert log.name == "score-gemma-4-demo-full.log" and not is_at_work(log)
    log.write_text("")
    assert not is_at_work(log)
    with open(log, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert is_at_work(log)


def test_nothing_left(status):
    write("a")
    lines = status("", "--stage", "choice=a", "--plan", "none.json")
    assert lines[1].split()[:2] == ["choice", "done"] and lines[-1] == "Nothing is left to do."


@pytest.mark.parametrize(
    "targets, disk, memory",
    [
        # pruned checkpoint, its F16, one quant of each model (the full one's in the proportion of the F16 files)
        (["x/109e/checkpoint/expert_drop_metadata.json"], "4.00", None),
        (["x/109e/f16/x-109e-F16.gguf", "x/109e/gguf/x-109e-Q6_K.gguf"], "6.00", None),
        (["x/full/gguf/x-Q6_K.gguf"], "2.50", None),
        (["x/109e/gguf/x-109e-CD-Q6_K.gguf"], "3.00", None),
        (["x/109e/gguf/imatrix.gguf"], "0.0000", "4.00"),
        (["x/full/statistics/q/expert_stats.safetensors", "x/109e/eval/Q6_K/summary.json"], "0.0000", "6.00"),
        (["x/full/eval/Q6_K-seed7/summary.json"], "0.0000", "2.50"),
    ],
)
def test_what_the_rest_needs_by_the_plan(status, targets, disk, memory):
    Path("plan.json").write_text(json.dumps(PLAN))
    dry_run = "".join(step("s", f"Step {target}", f"build/{target}") for target in targets)
    line = status(dry_run, "--stage", "s=none", "--plan", "plan.json")[-1]
    assert f"needs {disk} GiB of disk (" in line
    assert (f"and {memory} GiB of memory at once (" if memory else "and little memory.") in line


def test_streaming_needs_a_layer_and_the_vocabulary(status):
    Path("plan.json").write_text(json.dumps(PLAN))
    dry_run = step("analyze", "Analyse", "build/x/full/statistics/q/expert_stats.safetensors")
    line = status(dry_run, "--stage", "s=none", "--plan", "plan.json", "--stream-layers", "yes")[-1]
    assert "and 2.80 GiB of memory" in line  # 1.3 x 1 + 0.5, and 1 for Python and torch


def test_too_little_room_is_said(status):
    Path("plan.json").write_text(json.dumps(PLAN | {"full_f16_bytes": 10**18}))
    line = status(step("s", "Convert", "build/x/full/f16/x-F16.gguf"), "--stage", "s=none", "--plan", "plan.json")[-1]
    assert ": too little)" in line


def test_bad_input_is_refused(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    arguments = ["--logs", "logs", "--stage", "s=none"]
    monkeypatch.setattr("sys.stdin", io.StringIO("@step\tonly\ttwo\n"))
    refusal(show_status.main, arguments, "@step", "tabs between")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"@step\xff\n"), "utf-8"))
    refusal(show_status.main, arguments, "stdin", "the lines of a dry run")
    for content, words in (({"f16_bytes": 1}, "full_f16_bytes"), (PLAN | {"f16_bytes": "1"}, "valid integer")):
        (tmp_path / "plan.json").write_text(json.dumps(content))
        monkeypatch.setattr("sys.stdin", io.StringIO(step("s", "a", "b")))
        refusal(show_status.main, [*arguments, "--plan", "plan.json"], "plan.json", words, "make plan")


def test_it_is_quick(script, tmp_path):
    began = time.process_time(), os.times().children_user + os.times().children_system
    done = script("show_status.py", "--help")
    used = os.times().children_user + os.times().children_system - began[1]
    assert done.returncode == 0 and used < 0.5, used  # of processor time: other work on the machine does not count
