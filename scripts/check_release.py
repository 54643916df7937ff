#!/usr/bin/env python3
"""Check release folders before they are public: print pass or fail for each check.

Inputs:  folders of build_release.py, and what each was made from, by FOLDER.sources.json beside it.
Output:  of each folder a line for each check (pass, FAIL, n/a: does not apply), below it what is wrong; a line for each
         thing that only the owner can still give; a summary. The exit code is 0 only if no check fails.
Example: .venv/bin/python scripts/check_release.py build/gemma-4-demo/109e/release/GGUF

Checked: seals of what the numbers rest on (gates/seals_gate.py; SEALS=no leaves that out); sizes and sha256 of all
files; the build's own records and copied files; card, params and Modelfile made again from them; tensor types; names
that shadow each other; order of size and KLD; the label of in-sample scores; front matter; secret tokens, paths, hosts
and question texts in anything published (gates/gates.py); the chain of digests from the statistics to the quants;
scores, losses, choice of experts and pictures, made again from what was recorded (gates/remade_gates.py); scores of
further tasks (gates/tasks_gate.py) and rates of loops and tool calls (gates/loops_gate.py), from the recorded answers;
the tokens that begin and end a text (gates/text_ends_gate.py); Ollama's params, Modelfile and template; an answer of
the smallest file by llama-server (gates/running_gates.py); the draft model, with which it must answer the same
(gates/speed_gate.py); of a release that sees, its files for pictures and an answer about one (gates/sight_gate.py);
that nothing was edited while all this was checked (gates/unchanged_gate.py).
"""

import argparse
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from cards.chores import chores
from files.input_errors import InputError
from files.option_types import command_parser, whole_number
from files.safe_files import run
from files.seals import sealing
from gates.checked import Checked, Outcome
from gates.gates import GATES
from gates.loops_gate import loops_gate
from gates.remade_gates import COMMAND_GATES, RECORD_GATES
from gates.running_gates import QUESTION, running_gates, smallest
from gates.seals_gate import seals_gate
from gates.sight_gate import sight_gates
from gates.speed_gate import speed_gates
from gates.tasks_gate import tasks_gate
from gates.text_ends_gate import tokens_gate
from gates.unchanged_gate import unchanged_gate
from gates.written_again import forget_headers, writing_gates
from llama.llama_tools import find_llama_cpp
from release.given_places import check_model_folder
from release.manifest import read_manifest
from release.sources import read_sources

MOST_LINES = 20  # of one check
INDENT = " " * 6
# What reading a file of another form than ours can end in.
FORMS = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration, struct.error)


def outcome_of(gate: Callable[[Checked], Outcome], checked: Checked) -> Outcome:
    """Return a gate's outcome; an InputError, an unreadable file or one of another form is a deviation.

    A file that was edited by hand can be wrong in any way. The gates after the first read it all the same, so that one
    run shows everything that fails.
    """
    try:
        return gate(checked)
    except InputError as error:
        line = str(error)
    except OSError as error:
        line = f"{error.filename}: expected a file that can be read, found: {error.strerror}"
    except FORMS as error:
        found = f"{type(error).__name__}: {error}"[:200]
        line = f"{checked.folder}: expected files as build_release.py writes them, found {found}"
    return Outcome("stopped by", [line])


def check_lines(name: str, outcome: Outcome) -> list[str]:
    """Return the lines of one check."""
    verdict = "FAIL" if outcome.deviations else "pass" if outcome.applies else "n/a "
    lines = [f"{verdict}  {name}: {outcome.looked_at}" + ("" if outcome.applies else " (does not apply)")]
    lines += [f"{INDENT}exception: {sentence}" for sentence in outcome.exceptions]
    lines += [f"{INDENT}{line}" for line in outcome.deviations[:MOST_LINES]]
    if len(outcome.deviations) > MOST_LINES:
        lines.append(f"{INDENT}... and {len(outcome.deviations) - MOST_LINES} more")
    return lines


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs").add_argument
    add("release", type=Path, nargs="+", help="release folder")
    questions = "question files whose text must not be published (default: the build's)"
    add("--questions", type=Path, nargs="+", help=questions)
    given = "model.json of the build, and the folder that its model is taken from, to compare"
    add("--given-model", type=Path, nargs=2, metavar=("RECORD", "FOLDER"), help=given)
    add = parser.add_argument_group("how the smallest file is asked").add_argument
    add("--gpu-layers", type=whole_number, default=99, help="layers on the GPU, if there is one")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def check_folder(folder: Path, args: argparse.Namespace) -> None:
    """Print pass or fail for each check of a release folder; raise InputError when one fails."""
    folder = folder.resolve() if folder.is_symlink() else folder
    manifest, sources = read_manifest(folder), read_sources(folder)
    asked = {"asked": {str(path): path for path in args.questions}} if args.questions else {}
    checked = Checked(folder, manifest, sources | asked)
    tools = find_llama_cpp(args.llama_cpp)
    running = {
        **writing_gates(tools),
        **running_gates(tools, args.gpu_layers),
        **speed_gates(smallest, QUESTION, tools, args.gpu_layers),
        **sight_gates(smallest, tools, args.gpu_layers),
    }
    gates = {
        "seals": seals_gate,
        **GATES,
        **RECORD_GATES,
        **COMMAND_GATES,
        "tasks": tasks_gate,
        "loops": loops_gate,
        "tokens": tokens_gate,
        **running,
        "unchanged": unchanged_gate(folder, manifest),
    }
    failed, applied = [], 0
    for name, gate in gates.items():
        outcome = outcome_of(gate, checked)
        print("\n".join(check_lines(name, outcome)), flush=True)  # the answer of a large model takes minutes
        applied += outcome.applies or bool(outcome.deviations)
        failed += [name] * bool(outcome.deviations)
    print("".join(f"owner {line}\n" for line in chores(manifest)), end="", flush=True)
    if failed:
        names = ", ".join(failed)
        raise InputError(folder, f"all of {applied} checks to pass", f"{len(failed)} that fail: {names}")
    unsealed = "" if sealing() else "; that nothing was edited was NOT checked (SEALS=no)"
    print(f"{folder}: all of {applied} checks pass, {len(gates) - applied} do not apply{unsealed}", flush=True)


def check_folders(args: argparse.Namespace) -> None:
    """Check every folder; exit with 1 when one of them fails."""
    *others, last = args.release
    failed = False
    for folder in others:
        try:
            check_folder(folder, args)
        except InputError as error:  # the others are checked all the same, so that one run shows everything that fails
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed = True
    check_folder(last, args)
    if failed:
        sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.given_model:
        check_model_folder(*args.given_model)
    try:
        check_folders(args)
    finally:
        forget_headers()


if __name__ == "__main__":
    run(main)
