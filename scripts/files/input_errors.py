"""The error of bad input, one line: what was expected at a path, what was found, what to do."""

import re
from typing import Any, TextIO

ENDS = re.compile(r"([\n\t])")
PLACE_CHARACTERS = 400  # of a path or an option in a message: an argument can have any length


def printable(text: str) -> str:
    """Return a text with its control characters and line ends escaped: a file's words must not move the cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class PrintableLines:
    """A text stream on which only line ends and tabs act: what a command prints may hold a name from elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its other control characters escaped."""
        return self._stream.write("".join(part if part in "\n\t" else printable(part) for part in ENDS.split(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class InputError(Exception):
    """Name a path, what was expected there and what was found, in one line."""

    def __init__(self, path: object, expected: str, found: str, advice: str = "") -> None:
        place = str(path)
        if len(place) > PLACE_CHARACTERS:
            place = f"{place[: PLACE_CHARACTERS // 2]}...{place[-PLACE_CHARACTERS // 2 :]}"
        line = f"{place}: expected {expected}, found {found}"
        super().__init__(printable(f"{line}; {advice}" if advice else line))
