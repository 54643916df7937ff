"""The letters that are read from answers, held against lm-eval's own filter."""

import random

from scoring.answer_letters import flexible_letter, letter_of, strict_letter

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


def test_an_answer_of_blanks_is_read_at_once():
    """A model that loops can write 24,576 tokens of them. Steps by the cube of their number would be hours."""
    for words in ("The answer", "The answer is:", r"\boxed{", "**", r"The answer is \text{"):
        assert strict_letter(f"{words}{' ' * 100_000}is unknown (B)", "stop") == "B"


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
