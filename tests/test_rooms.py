"""The house: commands on the shelf, modules in rooms. Read from the imports themselves, so that no list goes stale."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from conftest import REPO
from files.command_start import PACKAGES

import pytest

SCRIPTS = REPO / "scripts"
ROOMS = sorted(path.name for path in SCRIPTS.iterdir() if (path / "__init__.py").is_file())
LONGEST_CHAIN = 10
# A plan for this layout had 7, 7, 14 and 12. Since then records are read by strict models, outputs are sealed and
# locked, and digests are remembered: each by a module of its own, which fewer modules would have to share.
MOST_MODULES = {
    "report_imatrix": 10,
    "build_imatrix": 14,
    "build_report": 39,
    "quantize_gguf": 25,
}  # that a command imports
MOST_FILES = 48  # of a folder: more is a corridor


@cache
def trees() -> dict[str, ast.Module]:
    """Every module by its dotted name; a command has no dot in it."""
    paths = [path for path in SCRIPTS.rglob("*.py") if path.name != "__init__.py"]
    return {".".join(path.relative_to(SCRIPTS).with_suffix("").parts): ast.parse(path.read_text()) for path in paths}


@cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, anywhere in it."""
    known, found = trees().keys(), {}
    for name, tree in trees().items():
        asked: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                asked |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                asked |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = asked & known
    return found


def all_imports(name: str) -> set[str]:
    """What a module imports, directly or by another one."""
    found: set[str] = set()
    left = [name]
    while left:
        new = imports()[left.pop()] - found
        found |= new
        left += new
    return found


@cache
def chain(name: str) -> int:
    """The modules of the longest chain of imports that begins here."""
    return 1 + max(map(chain, imports()[name]), default=0)


def room_of(name: str) -> str | None:
    """The room of a module, None for a command."""
    return name.split(".")[0] if "." in name else None


def commands() -> list[str]:
    return sorted(name for name in trees() if room_of(name) is None)


def test_no_command_is_imported():
    assert not [(name, other) for name, asked in imports().items() for other in asked if room_of(other) is None]


def test_rooms_form_no_circle():
    between = {room: set() for room in ROOMS}
    for name, asked in imports().items():
        if room := room_of(name):
            between[room] |= {room_of(other) for other in asked} - {room}
    left = dict(between)
    while free := [room for room, needs in left.items() if not needs & left.keys()]:
        for room in free:
            del left[room]
    assert not left, f"circles among {left}"


def test_no_module_of_ours_is_imported_by_a_text():
    """The imports that are written as such are looked at; these two name packages of others and the converter."""
    asks = ("import_module(", "run_path(", "run_module(", "__import__(")
    found = {path.name for path in SCRIPTS.rglob("*.py") if any(word in path.read_text() for word in asks)}
    assert found == {"fetch_task.py", "start_converter.py"}


def test_imports_stay_short():
    assert max(map(chain, trees())) <= LONGEST_CHAIN
    for command, most in MOST_MODULES.items():
        assert len(all_imports(command)) <= most, (command, sorted(all_imports(command)))


def test_a_room_is_a_folder_with_a_one_line_name_that_no_package_has():
    installed = set(importlib.metadata.packages_distributions())
    assert not installed & set(ROOMS)
    for room in ROOMS:
        (line,) = ast.parse((SCRIPTS / room / "__init__.py").read_text()).body  # no import can hide there
        assert isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
        assert len((SCRIPTS / room / "__init__.py").read_text().splitlines()) == 1
    folders = [path for path in REPO.glob("**/") if not {".venv", "build", ".git"} & set(path.parts)]
    assert max(len(list(folder.glob("*.py"))) for folder in folders) <= MOST_FILES


def test_tests_lie_in_the_rooms_of_what_they_test():
    rooms = {path.parent.name for path in (REPO / "tests").glob("*/test_*.py")}
    assert rooms <= set(ROOMS)


def test_one_name_has_one_meaning():
    owners: dict[str, list[str]] = {}
    for name, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not re.match("_|main$|parse_args$", node.name):
                owners.setdefault(node.name, []).append(name)
    assert not {name: where for name, where in owners.items() if len(where) > 1}


def test_the_makefile_knows_the_rooms_of_each_quick_step():
    flags = (REPO / "make/flags.mk").read_text().replace("\\\n", "")  # a long line goes on in the next
    listed = dict(re.findall(r"\$\(call code,(\w+),([a-z ]+)\)", flags))
    assert len(listed) == 12
    for command, rooms in listed.items():
        assert rooms.split() == sorted({room_of(name) for name in all_imports(command)}), command


def test_a_module_of_another_room_is_named_with_its_room():
    rooms = {path.name: path.parent.name for room in ROOMS for path in (SCRIPTS / room).glob("*.py")}
    wrong = []
    for path in [*SCRIPTS.glob("**/*.py"), *SCRIPTS.glob("*.sh"), *(REPO / "modelfiles").iterdir()]:
        for folder, name in re.findall(r"((?:\w+/)*)(\w+\.py)\b", path.read_text()):
            if name in rooms and rooms[name] not in (*folder.split("/"), path.parent.name):
                wrong.append((str(path.relative_to(REPO)), folder + name))
    assert not wrong


@pytest.mark.parametrize("command", commands())
def test_a_command_outside_of_the_environment_says_so(command):
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", SCRIPTS / f"{command}.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and "make setup" in done.stderr


def test_the_guard_knows_every_package_that_is_imported():
    asked: set[str] = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                asked |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                asked.add(node.module)
    ours = {*ROOMS, *commands(), *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in asked} - ours == set(PACKAGES)


@pytest.mark.parametrize("command", ["ask_questions", "plot_expert_stats", "teacher_force_analysis"])
def test_an_environment_that_has_pydantic_alone_is_refused(command, tmp_path):
    """Another project's: what it has must not lead to a traceback over what it lacks."""
    for package in ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"):
        place = Path(importlib.util.find_spec(package).origin)
        place = place.parent if place.name == "__init__.py" else place
        (tmp_path / place.name).symlink_to(place)
    done = subprocess.run(
        [sys.executable, "-s", "-S", SCRIPTS / f"{command}.py", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"found one without aiohttp and {len(PACKAGES) - 2} more; run `make setup`" in done.stderr
