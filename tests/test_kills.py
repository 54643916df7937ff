"""What the kill tests judge by: how builds differ, and which renames of a trace a power cut could undo."""

import json
import sys
from pathlib import Path

from conftest import REPO

import pytest

sys.path.insert(0, str(REPO / "tests/kills"))
from compare_builds import differences  # noqa: E402
from trace_flushes import files_by_call, unflushed_renames, whole_lines  # noqa: E402


@pytest.fixture
def builds(tmp_path) -> tuple[Path, Path]:
    """Two builds that differ in times and logs alone."""
    for number, name in enumerate(("a", "b")):
        (tmp_path / name / "logs").mkdir(parents=True)
        (tmp_path / name / "logs/x.log").write_text(name)
        (tmp_path / name / "map.json").write_text('{"keep": 1}')
        answer = {"id": "q", "letter": "A", "seconds": number, "asked_at": number}
        (tmp_path / name / "answers.jsonl").write_text(f"{json.dumps(answer)}\n")
    return tmp_path / "a", tmp_path / "b"


def test_times_and_logs_may_differ_and_nothing_else(builds):
    one, other = builds
    assert differences(one, other) == []
    (other / "map.json").write_text('{"keep": 2}')
    (other / "GGUF.split").mkdir()
    (other / "answers.jsonl").write_text((other / "answers.jsonl").read_text().replace('"A"', '"B"'))
    (one / "only").write_text("")
    assert differences(one, other) == [
        "missing: only",
        "left over: GGUF.split",
        "other bytes: answers.jsonl",
        "other bytes: map.json",
    ]


def trace(*calls: str) -> list[str]:
    return [f"7 {call} = 0" for call in calls]


SAFE = ['write(3</w/a.partial>, ""..., 9)', "fsync(3</w/a.partial>)", 'rename("/w/a.partial", "/w/a")', "fsync(4</w>)"]


@pytest.mark.parametrize(
    "calls, found",
    [
        (SAFE, []),
        (SAFE[:3], ["its folder not flushed: /w/a"]),
        ([SAFE[0], *SAFE[2:]], ["written and not flushed: /w/a.partial"]),
        ([SAFE[1], SAFE[0], *SAFE[2:]], ["written and not flushed: /w/a.partial"]),
        (['write(3</w/d/f>, ""..., 1)', 'rename("/w/d", "/w/e")', "fsync(4</w>)"], ["written and not flushed: /w/d/f"]),
        (
            ["copy_file_range(3</w/x>, [0], 4</w/a.partial>, NULL, 9, 0)", *SAFE[2:]],
            ["written and not flushed: /w/a.partial"],
        ),
    ],
)
def test_a_rename_is_safe_between_two_flushes(calls, found):
    assert unflushed_renames(trace(*calls), Path("/w")) == (1, found)


def test_renames_elsewhere_of_a_state_and_those_that_failed_do_not_count():
    others = [
        *trace('rename("/v/a", "/v/b")', 'rename("/w/s.state/a", "/w/s.state/b")'),
        '7 rename("/w/a", "/w/b") = -1 EIO',
    ]
    assert unflushed_renames(others, Path("/w")) == (0, [])


def test_a_call_in_two_lines_is_put_together_and_files_are_listed():
    lines = ["7 fsync(3</w/a> <unfinished ...>", '8 write(4</w/b>, ""..., 1) = 1', "7 <... fsync resumed>) = 0"]
    assert whole_lines("\n".join(lines)) == ['8 write(4</w/b>, ""..., 1) = 1', "7 fsync(3</w/a>) = 0"]
    assert files_by_call(whole_lines("\n".join(lines)), Path("/w")) == {"write": {"/w/b": 1}, "fsync": {"/w/a": 1}}
