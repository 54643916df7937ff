"""The classes of answers: what became of a question, from the text that the server gave or from its errors."""

import re

CLASSES = ("answered", "empty", "truncated", "no letter", "parser error", "server error")

# llama-server's parsers follow the chat template's format, here "peg-gemma4". The text that does not match it is the
# model's own and follows from the seed.
PARSER_ERROR = re.compile(r"HTTP 500: .*does not match the expected \S+ format", re.DOTALL)


def class_of(answer: str, finish_reason: str | None, letter: str | None) -> str:
    """Return the class of an answer that the server gave: one of CLASSES but the two of failures."""
    # First of all: a thought that was cut off leaves an empty answer, too, and a letter in half an answer may be
    # anything.
    if finish_reason == "length":
        return "truncated"
    if not answer.strip():
        return "empty"
    return "answered" if letter else "no letter"


def is_parser_error(error: str) -> bool:
    """Tell whether a recorded error is llama-server's parser failing on what the model wrote."""
    return PARSER_ERROR.match(error) is not None


def class_of_failure(errors: list[str]) -> str:
    """Return the class of a question without an answer, from the errors of its attempts."""
    return "parser error" if is_parser_error(errors[-1]) else "server error"
