#!/usr/bin/env python3
"""Write the settings file of a new run: a copy of another run's, comments included, under a heading of its own.

Inputs:  the settings file of a run, runs/NAME.mk.
Output:  another one. A file that is there already is never replaced.
Example: .venv/bin/python scripts/new_run.py --from runs/gemma-4-26b-a4b-109e.mk --output runs/my-26b.mk
"""

import argparse
import re
from pathlib import Path

from files.input_errors import InputError, check_bounded
from files.json_records import CONTROL
from files.option_types import command_parser, named_path
from files.safe_files import replace_when_done, run

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MOST_CHARACTERS = 60  # of a run's name: it is typed, and printed in tables
FIRST_LINE, LAST_LINE = "# Run {name}: copied from {source}.", "# ----"
HEADING = f"""{FIRST_LINE}
# Change what you want below; `make settings RUN={{name}}` shows what differs from the defaults. Then:
#   make doctor RUN={{name}}    # is this machine up to it?
#   make plan RUN={{name}}      # the size of every file, before any work
#   make release RUN={{name}}   # everything; a later command line may still override, as in KEEP=96
{LAST_LINE}
"""


def without_heading(text: str) -> str:
    """Return the text of a settings file without the heading of an earlier copy."""
    start = FIRST_LINE.partition("{")[0]
    if not text.startswith(start):
        return text
    heading, mark, rest = text.partition(f"\n{LAST_LINE}\n")
    # Only a whole heading goes. A comment of the user's that begins alike stays.
    return rest if mark and all(line.startswith("#") for line in heading.splitlines()) else text


def without_first_comment(text: str) -> str:
    """Return the text without the comment that says what the copied run is: it is not true of the new one."""
    lines = text.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if first == len(lines) or lines[first].strip():  # a comment on the setting below it: the user's, or still true
        return text
    return "".join(lines[first:]).lstrip("\n")


def check_run_file(path: Path) -> None:
    """Raise InputError unless a path can be that of a new run's settings file."""
    if path.suffix != ".mk" or not RUN_NAME.fullmatch(path.stem) or len(path.stem) > MOST_CHARACTERS:
        raise InputError(
            path, "a run's name of letters, digits, dots, dashes and underscores, such as my-26b", repr(path.stem)
        )
    if path.exists() or path.is_symlink():
        raise InputError(path, "no file yet", "one", "edit it, or choose another name")
    if not path.parent.is_dir():
        raise InputError(path.parent, "the folder of the runs", "nothing")


def read_settings(path: Path) -> str:
    """Return the text of a run's settings file; raise InputError when there is none."""
    if not path.is_file():
        known = sorted(other.stem for other in path.parent.glob("*.mk"))
        raise InputError(path, "the settings file of a run", "nothing", f"there are: {', '.join(known) or 'none'}")
    check_bounded(path)
    try:
        # Python would make a line end of a carriage return alone: to make, what follows it is part of the comment.
        text = path.read_bytes().decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(path, "text in UTF-8", str(error)) from error
    if control := next((letter for letter in CONTROL.findall(text) if letter not in "\n\t"), None):
        raise InputError(path, "text without control characters", ascii(control))
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--from", dest="source", type=Path, required=True, help="settings file that is copied")
    files.add_argument("--output", type=named_path, required=True, help="settings file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_run_file(args.output)
    text = without_first_comment(without_heading(read_settings(args.source)))
    heading = HEADING.format(name=args.output.stem, source=args.source.stem)
    with replace_when_done(args.output) as partial:
        partial.write_text(heading + text, encoding="utf-8")
    print(f"{args.output}: copied from {args.source.stem}; edit it, then `make doctor RUN={args.output.stem}`")


if __name__ == "__main__":
    run(main)
