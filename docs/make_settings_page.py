#!/usr/bin/env python3
"""Write docs/settings.md from make/settings.mk: a table of variables under each of its headings.

Inputs:  a settings file. Headings: `# ---- words`. Settings: `NAME = default#  meaning`; a backslash continues one.
Output:  a Markdown page.
Use:     .venv/bin/python docs/make_settings_page.py --settings make/settings.mk --output docs/settings.md
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from files.option_types import command_parser  # noqa: E402
from files.safe_files import InputError, replace_when_done, run  # noqa: E402

HEADING = re.compile(r"# -{2,} (.+)")
SETTING = re.compile(r"([A-Z][A-Z0-9_]*) *[:?]?= *(.*)")
INTRODUCTION = """# Settings

<!-- Made from make/settings.mk by docs/make_settings_page.py. Do not edit: change the comment there. -->

`make TARGET KEEP=96` sets a variable for one command. The settings file of a run, such as `runs/demo.mk`, sets it for
that run, in lines such as `KEEP = 96  # why`. The command line wins. The environment sets none of them, but for those
of the tools. `make settings` prints every value and marks what differs from the default.
"""


def joined_lines(text: str) -> list[str]:
    """Return the lines of a make file, those that end in a backslash joined with the next."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def read_settings(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Return name, default and meaning of every setting, by heading.

    Raises InputError on a setting without heading or meaning, and where there is none at all.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in joined_lines(path.read_text(encoding="utf-8")):
        if match := HEADING.fullmatch(line.strip()):
            found[match[1].rstrip(" -")] = []
        elif match := SETTING.fullmatch(line):
            default, _, meaning = match[2].partition("#")
            if not meaning.strip():  # a variable that nobody can look up
                raise InputError(path, f"a comment with the meaning of {match[1]}", "none")
            if not found:
                raise InputError(path, f"a heading `# ---- words` above {match[1]}", "none")
            found[list(found)[-1]].append((match[1], default.strip(), meaning.strip()))
    if not any(found.values()):
        raise InputError(path, "settings `NAME = default#  meaning`", "none")
    return found


def settings_page(settings: dict[str, list[tuple[str, str, str]]]) -> str:
    """Return the page, its headings and rows in the order of the file."""
    parts = [INTRODUCTION]
    for heading, rows in settings.items():
        if rows:
            parts += [
                f"\n## {heading[0].upper()}{heading[1:]}\n\n| variable | default | meaning |\n| --- | --- | --- |\n"
            ]
            parts += [f"| `{name}` | {code(default)} | {cell(meaning)} |\n" for name, default, meaning in rows]
    return "".join(parts)


def code(default: str) -> str:
    """Return a default as code, nothing for an empty one."""
    return f"`{cell(default)}`" if default else ""


def cell(text: str) -> str:
    """Return text that may stand in a table, where a bar would end the cell."""
    return text.replace("|", "\\|")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--settings", type=Path, default=Path("make/settings.mk"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("docs/settings.md"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.settings.is_file():
        raise InputError(args.settings, "a settings file", "nothing")
    settings = read_settings(args.settings)
    with replace_when_done(args.output) as partial:
        partial.write_text(settings_page(settings), encoding="utf-8")
    print(f"{args.output}: {sum(map(len, settings.values()))} settings")


if __name__ == "__main__":
    run(main)
