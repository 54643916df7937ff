"""Command lines: what --help and --version of every command print, and how defaults are shown."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mutations.table
import report_imatrix
from conftest import REPO
from files.option_types import command_parser, output_file

import pytest

VERSION = (REPO / "VERSION").read_text().strip()
SHELF = [*sorted(REPO.glob("scripts/*.py")), *sorted(REPO.glob("bench/*.py"))]
COMMANDS = [path for path in SHELF if "def parse_args" in path.read_text()]
SHELL_SCRIPTS = sorted(REPO.glob("scripts/*.sh"))


def named(path: Path) -> str:
    """The name of a test's case."""
    return str(path.relative_to(REPO))


def groups_of(text: str) -> dict[str, str]:
    """The groups of options in a --help: their lines by title."""
    return dict(re.findall(r"^(\S.*):\n((?:  .*\n)+)", text, re.M))


def examples_of(text: str, path: Path) -> list[str]:
    """The commands of a --help's example that call `path`, each as one line."""
    block = re.search(r"^Example: (.*?)(?=\n\n|\Z)", text, re.M | re.S)
    lines = re.sub(r"\\\n\s+", "", block[1]).splitlines() if block else []
    return [line for line in lines if f"{named(path)} " in line]


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return what a command prints for one option. In this process: sixty starts would take minutes."""

    def call(path: Path, option: str) -> str:
        monkeypatch.syspath_prepend(str(path.parent))
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(path.stem).parse_args([option])
        out, err = capsys.readouterr()
        assert ended.value.code == 0 and not err
        return out

    return call


def test_every_command_takes_the_arguments_of_its_mutations():
    """test_mutations.py does not run those that take seconds. In a campaign they would all be refused, unnoticed."""
    for command in mutations.table.COMMANDS:
        importlib.import_module(command.name).parse_args(command.arguments.split())


@pytest.mark.parametrize("path", COMMANDS, ids=named)
def test_help_of_a_command(path, printed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(path, "--help")
    groups = groups_of(text)
    assert re.findall(r"^  -[^ ,]+", groups.pop("options"), re.M) == ["  -h", "  --version"], "options without a group"
    assert groups and "positional arguments" not in groups
    for lines in groups.values():
        for option in re.split(r"^(?=  \S)", lines, flags=re.M)[1:]:
            assert re.search(r"\S\s{2,}\S", option), f"{option} without help"
            assert option.count("(default") <= 1, f"{option} with two defaults"


@pytest.mark.parametrize("path", COMMANDS, ids=named)
def test_the_example_of_a_command_has_options_that_it_knows(path, printed):
    examples = examples_of(printed(path, "--help"), path)
    assert examples
    for line in examples:
        arguments = line.split(named(path), 1)[1].split(" | ")[0]
        importlib.import_module(path.stem).parse_args(shlex.split(arguments, comments=True))


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        ("fetch_model", "--output x --model LONG", "aaa: expected a path that can be used, found: File name too long"),
        ("fetch_task", "--output x --task LONG", "psychology, found 'aaa"),
        ("generate_drop_map", "--stats x --output x --keep LONG", "argument --keep: invalid int value: 'aaa"),
        ("generate_drop_map", "--stats x --output x --keep 4 a\u202eb LONG", r"unrecognized arguments: a\u202eb aaa"),
    ],
)
def test_of_an_argument_of_any_length_a_message_has_both_ends(script, command, arguments, words):
    done = script(f"{command}.py", *arguments.replace("LONG", "a" * 5000).split())
    line = done.stderr.splitlines()[-1]
    assert done.returncode and words in line and "a" * 190 + "..." + "a" * 190 in line, line
    assert len(line) < 900 and line.isprintable()


@pytest.mark.parametrize("name", ["freeze_questions", "generate_demo_questions"])
def test_an_example_runs_as_printed(name, printed, tmp_path):
    # The others need files of a finished demo.
    for name_there, place in ((".venv", sys.prefix), ("data", REPO / "data"), ("scripts", REPO / "scripts")):
        (tmp_path / name_there).symlink_to(place)
    path = REPO / f"scripts/{name}.py"
    for line in examples_of(printed(path, "--help"), path):
        subprocess.run(line, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert any((tmp_path / "build/try").iterdir())


@pytest.mark.parametrize("path", COMMANDS, ids=named)
def test_version_of_a_command(path, printed):
    assert printed(path, "--version") == f"{VERSION}\n"


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=named)
def test_a_shell_script_answers_without_the_environment(path):
    def ask(option: str) -> str:
        # Nothing but the shell's own tools: the answer must come before any step that needs more.
        environment = {"PATH": os.defpath, "PYTHON": "/nowhere/python"}
        done = subprocess.run([path, option], capture_output=True, text=True, env=environment, cwd="/")
        assert done.returncode == 0 and not done.stderr
        return done.stdout

    assert ask("--version") == f"{VERSION}\n"
    text = ask("--help")
    assert ask("-h") == text and "#" not in text
    assert examples_of(text, path)
    described = {name for lines in groups_of(text).values() for name in re.findall(r"^  ([A-Z_]+) ", lines, re.M)}
    read = set(re.findall(r"\$\{([A-Z_]+):[-+]", path.read_text())) - {"HOME", "XDG_CACHE_HOME", "BASH_SOURCE"}
    assert read <= described, f"variables that --help does not list: {read - described}"


def test_the_newest_heading_of_the_changelog_is_the_version():
    headings = re.findall(r"^## (\d\S*)", (REPO / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == VERSION and re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_defaults_are_shown_once_and_only_where_there_are_any(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    parser = command_parser("Do a thing.\n\nInputs:  a file.\nExample: thing.py 1")
    add = parser.add_argument_group("how").add_argument
    add("--zero", type=int, default=0, help="a number")
    add("--several", nargs="+", default=[109, 96], help="numbers")
    add("--share", default="100%", help="a share")
    add("--threads", default=4, help="threads (default: all)")
    add("--nothing", help="a path")
    add("--empty", default="", help="a text")
    add("--none-yet", nargs="*", default=[], help="paths")
    add("--switch", action="store_true", help="turn it on")
    text = parser.format_help()
    lines = re.sub(r"\n {10,}", "  ", groups_of(text)["how"])  # help below a long option
    assert re.findall(r"^  --(\S+).*?  (\S.*)", lines, re.M) == [
        ("zero", "a number (default 0)"),
        ("several", "numbers (default 109 96)"),
        ("share", "a share (default 100%)"),
        ("threads", "threads (default: all)"),
        ("nothing", "a path"),
        ("empty", "a text"),
        ("none-yet", "paths"),
        ("switch", "turn it on"),
    ]
    assert text.endswith("\n\nInputs:  a file.\nExample: thing.py 1\n") and "\n\nDo a thing.\n\n" in text


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_an_output_has_a_name(path, capsys):
    with pytest.raises(SystemExit) as ended:
        report_imatrix.parse_args(["--imatrix", "x", "--output-prefix", path])
    assert ended.value.code == 2
    assert f"--output-prefix: expected a path that ends with a name, found {path!r}" in capsys.readouterr().err


def test_an_output_that_has_files_beside_it_is_no_folder(tmp_path):
    assert output_file(str(tmp_path / "table.md")) == tmp_path / "table.md"
    for text in (str(tmp_path), ".", "/"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected the path of a file, found a directory"):
            output_file(text)


def test_a_command_runs_without_docstrings():
    done = subprocess.run([sys.executable, "-OO", REPO / "scripts/report_imatrix.py", "--version"], capture_output=True)
    assert (done.returncode, done.stdout.decode().strip(), done.stderr) == (0, VERSION, b"")
