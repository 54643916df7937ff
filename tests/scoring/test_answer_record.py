"""Answers: their kinds, and their record on disk."""

import json
import subprocess
import sys
from dataclasses import asdict

from conftest import REPO
from files.input_errors import InputError
from scoring.answer_classes import class_of
from scoring.answer_record import Answer, append_answer, cut_half_line, read_answers

import pytest


@pytest.mark.parametrize(
    "answer, reason, letter, kind",
    [
        ("(B)", "stop", "B", "answered"),
        (" \n", "stop", None, "empty"),
        ("(B) and", "length", "B", "truncated"),
        ("", "length", None, "truncated"),
        ("well", "stop", None, "no letter"),
    ],
)
def test_classes_of_answers(answer, reason, letter, kind):
    assert class_of(answer, reason, letter) == kind


def test_half_an_answer_never_stays(tmp_path):
    """A disk that fills up amid a line: the next answer begins a line of its own."""
    answer = Answer("r", "", "", "text", "", "stop", 1, 1, 0.0, 0.0, 1, [], "A", "A", True, "answered")
    path, limit = tmp_path / "answers.jsonl", len(json.dumps(asdict(answer))) + 20
    append_answer(path, answer)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.path.insert(0, sys.argv[2])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from pathlib import Path; from scoring.answer_record import append_answer, read_answers\n"
        "path = Path(sys.argv[1]); append_answer(path, *read_answers(path).values())"
    )
    done = subprocess.run([sys.executable, "-c", script, path, REPO / "scripts"], text=True, capture_output=True)
    assert done.returncode != 0 and "disk" in done.stderr, done.stderr
    assert list(read_answers(path).values()) == [answer]
    assert path.read_bytes().endswith(b"\n") and path.stat().st_size < limit


def test_reading_leaves_half_a_line_where_it_is(tmp_path):
    """Only the run that goes on cuts it off: a reader may look while another process writes."""
    answer = Answer("r", "", "", "text", "", "stop", 1, 1, 0.0, 0.0, 1, [], "A", "A", True, "answered")
    path = tmp_path / "answers.jsonl"
    append_answer(path, answer)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert list(read_answers(path).values()) == [answer] and path.read_bytes() == whole + whole[:20]
    cut_half_line(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"completion_tokens": -1},
        {"attempts": True},
        {"errors": [1]},
        {"kind": "zq"},
        {"correct": False},
        {"seconds": -0.5},
        {"letter": "B"},
        {"finish_reason": "STOP"},
    ],
)
def test_an_answer_that_cannot_be_is_refused(tmp_path, change):
    answer = Answer("r", "", "", "text", "", "stop", 1, 1, 0.0, 0.0, 1, [], "A", "A", True, "answered")
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(asdict(answer) | change) + "\n")
    with pytest.raises(InputError, match="a recorded answer in line 1"):
        read_answers(path)
