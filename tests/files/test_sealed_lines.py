"""Lines that are appended to a record: edited, mixed of two continuations, and of a machine that was added later."""

import shutil
from pathlib import Path

from files.input_errors import InputError
from files.sealed_lines import check_kept_lines, seal_line
from files.seals import LEDGER, MARKER

import pytest

ONE, MORE = ["model 1"], ["model 1", "model 1 and a second machine"]


def append(answers: Path, *lines: str, subject: str = ONE[0]) -> None:
    for line in lines:
        seal_line(answers, f"{line}\n".encode(), subject)
        with open(answers, "a") as file:
            file.write(f"{line}\n")


@pytest.fixture
def answers(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "keys/seal.key"))
    (tmp_path / "build/run").mkdir(parents=True)
    (tmp_path / "build" / MARKER).touch()
    append(tmp_path / "build/run/answers.jsonl", "A", "B")
    return tmp_path / "build/run/answers.jsonl"


def test_lines_are_bound_to_their_words_and_their_subject(answers):
    with open(answers, "a") as file:
        file.write("half of it")  # of a kill
    check_kept_lines(answers, ONE)
    with pytest.raises(InputError, match="line 1"):
        check_kept_lines(answers, ["model 2"])
    answers.write_text(answers.read_text().replace("B", "C"))
    with pytest.raises(InputError, match="line 2"):
        check_kept_lines(answers, ONE)


def test_a_record_goes_on_after_a_kill(answers):
    seal_line(answers, b"C\n", ONE[0])  # whose line never reached the file
    append(answers, "D")
    check_kept_lines(answers, ONE)


def test_two_continuations_do_not_mix(answers):
    """The build folder copied, gone on with in both, and the lines chosen; also where one's seals come to the other."""
    build = answers.parents[1]
    other = Path(shutil.copytree(build, build.with_name("other"))) / "run/answers.jsonl"
    append(answers, "C right", "D wrong")
    append(other, "C wrong", "D right")
    (build / LEDGER).write_text((build / LEDGER).read_text() + (other.parents[1] / LEDGER).read_text())
    whole = other.read_text()
    answers.write_text(whole)
    check_kept_lines(answers, ONE)
    for mixed in (["A", "B", "C right", "D right"], ["A", "B", "D right"], ["B", "A"], ["A", "C right"]):
        answers.write_text("".join(f"{line}\n" for line in mixed))
        with pytest.raises(InputError, match="edited since it was sealed"):
            check_kept_lines(answers, ONE)


def test_what_a_later_machine_answered_needs_the_record_that_names_it(answers):
    append(answers, "C", subject=MORE[1])
    check_kept_lines(answers, MORE)
    for subjects in (ONE, MORE[::-1]):  # the record put back, and an answer of the first machine after one of both
        with pytest.raises(InputError, match="line"):
            check_kept_lines(answers, subjects)
