"""The record of an evaluation: one JSON line per question, written as it happens.

answers.jsonl holds answers and reasoning. They quote question text, so the file stays in build/. A line that a kill cut
off is no answer: a reader leaves it out, and `cut_half_line` takes it off before a run goes on. So at most one question
is lost.
"""

import errno
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from files.input_errors import LINES_MIB, InputError, no_link, read_lines, read_whole
from files.json_records import parse_json
from files.sealed_lines import seal_line
from scoring.answer_classes import CLASSES, class_of_failure


def prompt_sha256(prompt: str) -> str:
    """Return the hex sha256 of a user message."""
    return hashlib.sha256(prompt.encode()).hexdigest()


FINISH_REASONS = (None, "stop", "length", "tool_calls", "content_filter", "function_call")  # of OpenAI's interface


@dataclass(frozen=True)
class Answer:
    """What became of one question.

    `answer` and `reasoning` are the server's texts. `letter` is what flexible-extract finds (A to D, or None).
    `asked_at` is in seconds since 1970, `seconds` the time of all attempts. `errors` has a line for each attempt that
    failed. `kind` is one of answer_classes.CLASSES. `server` is the one of several that gave the answer.
    """

    record_id: str
    prompt_sha256: str
    request_sha256: str
    answer: str
    reasoning: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    asked_at: float
    seconds: float
    attempts: int
    errors: list[str]
    letter: str | None
    target: str
    correct: bool
    kind: str
    server: str | None = None

    @property
    def invalid(self) -> bool:
        """Whether the answer goes through the patch step, as every kind but "answered" does."""
        return self.kind != "answered"


NEEDED = [field.name for field in fields(Answer) if field.name != "server"]


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the recorded answers by Record ID, without a last line that is not whole. It writes nothing.

    Raises InputError on lines that are no answers, or on a question that is answered twice.
    """
    if not path.exists():
        return {}
    answers: dict[str, Answer] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.endswith(b"\n"):  # one that a kill cut off
            break
        try:
            answer = read_line(line)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                path, f"a recorded answer in line {number}", f"{type(error).__name__}: {error}"[:120]
            ) from error
        if answer.record_id in answers:
            raise InputError(path, f"every Record ID once, as in lines before {number}", f"{answer.record_id} twice")
        answers[answer.record_id] = answer
    return answers


def read_line(line: bytes) -> Answer:
    """Return the answer of a line. Raises ValueError, KeyError, TypeError or RecursionError for another line."""
    row = parse_json(line.decode(errors="replace"))
    answer = Answer(**{name: row[name] for name in NEEDED}, server=row.get("server"))
    check_types(answer)
    if answer.kind == "server error" and answer.errors:  # all that an older version called a failure
        answer = replace(answer, kind=class_of_failure(answer.errors))
    return answer


def record_line(answer: Answer) -> bytes:
    """Return the line of an answer."""
    row = asdict(answer)
    if answer.server is None:
        del row["server"]
    return json.dumps(row).encode() + b"\n"


def cut_half_line(path: Path) -> None:
    """Cut a last line that is not whole off the record: the next answer would be appended to it."""
    content = read_whole(path, LINES_MIB) if path.exists() else b""
    if (whole := content.rfind(b"\n") + 1) < len(content):
        with open(path, "r+b", opener=no_link) as file:
            file.truncate(whole)


def check_types(answer: Answer) -> None:
    """Raise TypeError or ValueError when a value of a recorded answer is not of its field's type, or cannot be."""
    for field in fields(Answer):
        expected: Any = list if field.name == "errors" else field.type  # isinstance() does not take list[str]
        value = getattr(answer, field.name)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise TypeError(f"{field.name} {value!r}")
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{field.name} {value!r}")
    if not all(isinstance(error, str) for error in answer.errors):
        raise TypeError(f"errors {answer.errors!r}")
    if answer.finish_reason not in FINISH_REASONS:
        raise ValueError(f"finish_reason {answer.finish_reason!r}")
    same = answer.letter == answer.target
    if answer.correct and answer.letter and not answer.target.isalpha():
        same = True  # of a number more than one spelling is right: summarize_scores.py holds it against lm-eval's score
    if answer.kind not in CLASSES or answer.correct != same:
        raise ValueError(f"{answer.kind!r}, letter {answer.letter!r}, target {answer.target!r}")


def append_answer(path: Path, answer: Answer, subject: str = "") -> None:
    """Append one answer, sealed, whole or not at all; raise InputError when the disk is full.

    subject: of run_files.py: whose answer it is to what, so that no line of another run passes for one of this.
    Once written it outlives a kill of any process. answer_proxy.py forces it to the disk as well.
    """
    line = record_line(answer)
    seal_line(path, line, subject)
    with open(path, "ab", buffering=0, opener=no_link) as file:
        begin = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "half a line")
        except OSError as error:
            file.truncate(begin)  # or the next answer would be appended to half a line
            if error.errno != errno.ENOSPC:
                raise
            raise InputError(
                path, "enough disk space", "the disk full", "make room; the same command goes on"
            ) from error
