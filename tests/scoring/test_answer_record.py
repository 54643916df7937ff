"""Answers: the letters that are read from them, their kinds, and their record on disk."""

import json
import random
import subprocess
import sys
from dataclasses import asdict

from conftest import REPO
from files.safe_files import InputError
from scoring.answer_classes import class_of
from scoring.answer_record import (
    Answer,
    append_answer,
    cut_half_line,
    flexible_letter,
    letter_of,
    read_answers,
    strict_letter,
)

import pytest
from lm_eval.filters.extraction import MultiChoiceRegexFilter


def extracted_by_lm_eval(texts: list[str], choices: list[list[str]]) -> list[str | None]:
    """Return the letters of lm-eval's flexible-extract; one call for all, as each builds a table of all of Unicode."""
    lm_eval = MultiChoiceRegexFilter(r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True)
    found = lm_eval.apply([[text] for text in texts], [{"choices": four} for four in choices])
    return [letter_of(letter) for (letter,) in found]


CHOICES = ["Copper (II)", "tin", "tin can", "lead"]
# An answer, the letter by flexible-extract, the letter by the strict rule.
TEXTS = [
    ("The answer is (B).", "B", "B"),
    ("So (B), which is (S)-limonene", None, "B"),
    ("The answer is (C), the (E)-isomer.", None, "C"),
    ("**B**", None, "B"),
    ("The answer is **(A)**", "A", "A"),
    (r"\boxed{D}", None, "D"),
    (r"\boxed{\text{C}}", None, "C"),
    ("(A) is wrong. The answer is (B), as (A) was.", "A", "B"),
    ("It is (D)-glucose, hence (A)", "A", "A"),
    ("**C) copper**", None, "C"),
    ("It is a Tin-can.", "B", None),
    ("a tin can", "C", None),
    ("COPPER II", "A", None),
    ("Final answer: B", "B", "B"),
    ("A thing that says nothing", None, None),
    ("", None, None),
    ("**Answer: B**", "B", "B"),
    ("ANSWER: D", "D", "D"),
    ("The answer is `B`, not tin", "B", "B"),
    (r"The answer is \(B\)", None, "B"),
    ("The answer is $C$.", None, "C"),
    (r"The answer is \textbf{(A)}", "A", "A"),
    ("The correct answer is option D.", None, "D"),
    ("B.", None, "B"),
    ("The answer is _B_", None, "B"),
    ("Answer: A-level tin", "B", None),
    ("answer: Because", "B", None),
    ("The correct answer is D-glucose", None, None),
]


@pytest.fixture(scope="session")
def by_lm_eval() -> dict[str, str | None]:
    texts = [text for text, _, _ in TEXTS]
    return dict(zip(texts, extracted_by_lm_eval(texts, [CHOICES] * len(texts))))


@pytest.mark.parametrize("text, flexible, strict", TEXTS)
def test_letters_by_lm_evals_filter_and_by_the_strict_rule(by_lm_eval, text, flexible, strict):
    assert flexible_letter(text, CHOICES) == by_lm_eval[text] == flexible
    assert strict_letter(text, "stop") == strict and strict_letter(text, "length") is None


PIECES = [
    "tin",
    "Tin can",
    "+",
    "-",
    "(",
    "…",
    "İ",
    "ß",
    "10",
    "1.0",
    "A",
    "B",
    "(A)",
    "(S)",
    "\\n",
    ": ",
    ":A",
    ": (B)",
    " ",
    "**",
    "2+",
    "2-",
    "|",
    ":\\u00a0C",
]


def test_letters_are_lm_evals_for_any_choices_of_punctuation_alone_too():
    """A letter that lm-eval sees otherwise would refuse a whole run at its end."""
    draw = random.Random(5)
    choices = [["".join(draw.choices(PIECES, k=draw.randint(1, 3))) for _ in range(4)] for _ in range(3000)]
    texts = ["".join(draw.choices(PIECES, k=draw.randint(0, 7))) + draw.choice(["", *four]) for four in choices]
    assert [flexible_letter(*pair) for pair in zip(texts, choices)] == extracted_by_lm_eval(texts, choices)


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
