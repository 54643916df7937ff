"""Command lines: the parser of a command, made from its docstring, and numbers as types for argparse."""

import argparse


def command_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose --help prints a command's docstring: its first line above the options, the rest below."""
    first, _, rest = doc.partition("\n")
    # Raw: argparse would run the lines of Inputs, Output and Use together.
    return argparse.ArgumentParser(
        description=first, epilog=rest.strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )


def whole_number(text: str) -> int:
    """Parse a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value
