"""The letter that an answer gives, by three rules: the raw score's, the strict score's and the patch step's.

`flexible_letter` is lm-eval's own rule and makes the raw score. `strict_letter` asks for an answer that commits itself.
`completion_letter` reads what follows "The answer is (". MMLU-Pro's letters, A to J, are read in eval_tasks.py.
"""

import re
import unicodedata
from collections.abc import Iterable

from chats.questions import LETTERS


def flexible_letter(text: str, choices: Iterable[str]) -> str | None:
    """Return the letter that lm-eval's flexible-extract takes from an answer, or None if that is none of A to D.

    The rules are those of MultiChoiceRegexFilter in lm-eval 0.4.13 with the settings of the GPQA task: the last "(X)";
    else the last of the choices' texts, where case and punctuation do not count; else the last ": X". The filter itself
    is not called, as it builds a table of all of Unicode each time. summarize_scores.py checks that both find the same.
    """
    if found := re.findall(r"\([A-Z]\)", text):
        return letter_of(found[-1])
    letters = {_plain(choice.strip()): letter for letter, choice in zip(LETTERS, choices)}
    # Longest first: of "tin" and "tin can" an alternation takes the first that fits.
    longest_first = sorted(map(re.escape, letters), key=len, reverse=True)
    found = re.findall("|".join(longest_first), _plain(text))
    # A choice of punctuation alone is empty here and is found everywhere; lm-eval then goes on to the next rule.
    if found and found[-1].strip():
        return letters.get(found[-1].strip()) or letter_of(found[-1].strip())
    found = re.findall(r":\s*([A-D])", text)
    return found[-1] if found else None


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if not unicodedata.category(character).startswith("P"))


def letter_of(extracted: str) -> str | None:
    """Return A to D of what a filter extracted, such as "(B)"; None for "[invalid]" and for other letters."""
    letter = extracted.strip("()").upper()
    return letter if letter in tuple(LETTERS) else None


# A commitment ("the answer is B", boxed, bold, or a letter alone) outranks a bracketed letter. The lookaheads keep out
# names and words: "(D)-glucose", "A-level", "Because". What is taken is never given back (++, *+, ?+): a model that
# writes blanks to the end would else be read for hours.
COMMITTED = re.compile(
    r"\\boxed\{\s*+(?:\\\w++\{)?+\s*+\(?([A-D])\b|\*\*\s*+\(?([A-D])(?:\)|\.|:|\s*+\*\*)"
    r"|(?i:answer(?:\s++is)?+\s*+:?+\s*+(?:(?:option|choice)\s++)?+)(?:[\s*_`$]|\\\(|\\\w++\{)*+\(?([A-D])"
    r"(?![^\W_]|['’]|\)?[-‐–]\w)"
    r"|\A\W*([A-D])\W*\Z"
)
BRACKETED = re.compile(r"\(([A-D])\)(?![-‐–]\w)")


def strict_letter(text: str, finish_reason: str | None) -> str | None:
    """Return the last letter A to D that a finished answer commits to, or None. A truncated answer commits to none."""
    if finish_reason == "length":
        return None
    found = COMMITTED.findall(text) or BRACKETED.findall(text)
    return ("".join(found[-1]) if found else None) or None


def completion_letter(text: str) -> str | None:
    """Return the letter that a completion of "The answer is (" begins with, or None."""
    match = re.match(r"\s*([A-D])\b", text)
    return match[1] if match else None
