"""The record of an evaluation: one JSON line per question, flushed as it happens, and the letters read from answers.

answers.jsonl holds answers and reasoning, which quote question text: it stays in build/. A line that a kill cut off is
dropped when the record is read again, so at most one question is lost.
"""

import errno
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from questions import LETTERS
from safe_files import InputError

CLASSES = ("answered", "empty", "truncated", "no letter", "server error")


@dataclass(frozen=True)
class Answer:
    """What became of one question.

    `answer` and `reasoning` are the server's texts, `letter` is what flexible-extract finds (A to D, or None), `seconds`
    the time of all attempts, `errors` what went wrong in the attempts that failed.
    """

    record_id: str
    prompt_sha256: str
    request_sha256: str
    answer: str
    reasoning: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    attempts: int
    errors: list[str]
    letter: str | None
    target: str
    correct: bool
    kind: str

    @property
    def invalid(self) -> bool:
        """Whether the answer goes through the patch step: it is anything but answered."""
        return self.kind != "answered"


@cache
def _flexible_filter():
    # Imported late: lm-eval takes a while, and only the evaluation itself needs its filter. Settings: the task's file.
    from lm_eval.filters.extraction import MultiChoiceRegexFilter

    return MultiChoiceRegexFilter(regex_pattern=r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True)


def flexible_letter(text: str, choices: Iterable[str]) -> str | None:
    """Return the letter that lm-eval's flexible-extract takes from an answer, or None if that is none of A to D."""
    return letter_of(_flexible_filter().apply([[text]], [{"choices": list(choices)}])[0][0])


def letter_of(extracted: str) -> str | None:
    """Return A to D of what a filter extracted, such as "(B)"; None for "[invalid]" and for other letters."""
    letter = extracted.strip("()").upper()
    return letter if letter in tuple(LETTERS) else None


# A commitment ("the answer is B", boxed, bold) outranks a bracketed letter. "(D)-glucose" is a name, not a choice.
COMMITTED = re.compile(r"\\boxed\{\s*(?:\\\w+\{)?\s*\(?([A-D])\b|\*\*\s*\(?([A-D])(?:\)|\.|:|\s*\*\*)"
                       r"|answer(?:\s+is)?\s*:?[\s*]*(?:\\boxed\{)?\(?([A-D])(?![\w'’]|\)?[-‐–]\w)")
BRACKETED = re.compile(r"\(([A-D])\)(?![-‐–]\w)")


def strict_letter(text: str, finish_reason: str | None) -> str | None:
    """Return the last letter A to D that a finished answer commits to, or None; a truncated answer commits to nothing."""
    if finish_reason == "length":
        return None
    found = COMMITTED.findall(text) or BRACKETED.findall(text)
    return ("".join(found[-1]) if found else None) or None


def kind_of(answer: str, finish_reason: str | None, letter: str | None) -> str:
    """Return the class of an answer that the server gave (of CLASSES)."""
    if finish_reason == "length":
        return "truncated"
    if not answer.strip():
        return "empty"
    return "answered" if letter else "no letter"


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the recorded answers by Record ID; cut a last line that is not whole off the file.

    Raises InputError on lines that are no answers, or on a question that is answered twice.
    """
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    answers: dict[str, Answer] = {}
    for number, line in enumerate(content[:whole].decode(errors="replace").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            answer = Answer(**{field.name: row[field.name] for field in fields(Answer)})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"a recorded answer in line {number}", f"{type(error).__name__}: {error}"[:120]) from error
        if answer.record_id in answers:
            raise InputError(path, f"every Record ID once, as in lines before {number}", f"{answer.record_id} twice")
        answers[answer.record_id] = answer
    return answers


def append_answer(path: Path, answer: Answer) -> None:
    """Append one answer and flush it to the disk; raise InputError when the disk is full."""
    try:
        with open(path, "ab") as file:
            file.write(json.dumps(asdict(answer)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(path, "enough disk space", "the disk full", "make room; the same command goes on") from error
