"""The error of bad input, one line: what was expected at a path, what was found, what to do."""


def printable(text: str) -> str:
    """Return a text with its control characters and line ends escaped: a file's words must not move the cursor."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


class InputError(Exception):
    """Name a path, what was expected there and what was found, in one line."""

    def __init__(self, path: object, expected: str, found: str, advice: str = "") -> None:
        line = f"{path}: expected {expected}, found {found}"
        super().__init__(printable(f"{line}; {advice}" if advice else line))
