"""Command lines: the parser of a command, made from its docstring, and numbers as types for argparse."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from files.input_errors import in_one_line
from files.seals import set_command

# One line, in a file of its own: the shell scripts read it, too, and a new number remakes no output of make.
VERSION_FILE = Path(__file__).resolve().parents[2] / "VERSION"
HELP_COLUMN = 32  # where help begins; an option longer than that has a line of its own


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Docstrings as they are written (argparse would run their lines together), and every option with its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Where the help itself names a default, that one is worked out later.
        if not action.help or "default" in action.help or not has_shown_default(action.default):
            return action.help
        default = action.default
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{action.help} (default {shown.replace('%', '%%')})"


class CommandParser(argparse.ArgumentParser):
    """A parser that says what is wrong with an argument in a line that steers no terminal and has an end."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        super().error(in_one_line(message))


def has_shown_default(default: object) -> bool:
    """Return whether a default is a value that a person could type: not absent, not off, not empty."""
    return default is not None and default is not False and default not in ("", [], (), argparse.SUPPRESS)


def command_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command. The command adds its groups of options.

    What is written from here on is sealed as this command's (files/seals.py).

    --help prints the docstring (its first line above the options, the rest below) and every default; --version prints
    the project's version.
    """
    set_command(sys._getframe(1).f_globals.get("__file__", ""))  # the caller: also where pytest calls its main
    first, _, rest = (doc or "").partition("\n")  # python -OO leaves none
    parser = CommandParser(
        description=first,
        epilog=rest.strip(),
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # a mistyped option is none: --out would else be --output
    )
    version = VERSION_FILE.read_text().strip()
    parser.add_argument("--version", action="version", version=version, help="print the project's version and exit")
    return parser


def named_path(text: str) -> Path:
    """Parse the path of an output; one without a name, such as a dot, has nothing beside it."""
    if not Path(text).name:
        raise argparse.ArgumentTypeError(f"expected a path that ends with a name, found {text!r}")
    return Path(text)


def output_file(text: str) -> Path:
    """Parse the path of an output that is a file, others of its name beside it: what else lies there is seen before."""
    if Path(text).is_symlink() or Path(text).exists() and not Path(text).is_file():
        found = "a directory" if Path(text).is_dir() else "something else"
        raise argparse.ArgumentTypeError(f"expected the path of a file, found {found}, {text!r}")
    return named_path(text)


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
