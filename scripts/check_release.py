#!/usr/bin/env python3
"""Check a release folder before it is public: print what holds and what does not, line by line.

Inputs:  a folder of build_release.py, and what it was made from, by FOLDER.sources.json beside it.
Output:  a line for each check (holds, FAILS, does not apply), below it what was found; a summary. Exit code 0 only if all hold.
Use:     scripts/check_release.py RELEASE [--questions FILE ...]

Checked: sizes and sha256 of all files, the build's own records and copied files, card, params and Modelfile made again from
them, tensor types, names that shadow each other, order of size and KLD, label of in-sample scores, front matter, tokens,
paths, hosts and question texts in anything published, Ollama's params, Modelfile and template, and an answer of the smallest
file by llama-server (release_gates.py, release_runs.py).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from files.option_types import whole_number
from files.safe_files import InputError, run
from llama.llama_tools import find_llama_cpp
from release.gates import GATES, Checked, Outcome
from release.release_files import read_manifest, read_sources
from release.running_gates import running_gates

MOST_LINES = 20  # of one check


def outcome_of(gate: Callable[[Checked], Outcome], checked: Checked) -> Outcome:
    """Return a gate's outcome; an InputError, an unusable file or one of another form is a deviation.

    What was edited by hand can be wrong in any way: the gates after the first read it nevertheless, to say all that fails.
    """
    try:
        return gate(checked)
    except InputError as error:
        return Outcome("stopped by", [str(error)])
    except OSError as error:
        return Outcome("stopped by", [f"{error.filename}: expected a file that can be read, found: {error.strerror}"])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        return Outcome(
            "stopped by", [f"{checked.folder}: expected files as build_release.py writes them, found {found}"]
        )


def check_lines(name: str, outcome: Outcome) -> list[str]:
    """Return the lines of one check."""
    verdict = "FAILS" if outcome.deviations else "holds" if outcome.applies else "n/a  "
    lines = [f"{verdict}  {name}: {outcome.looked_at}" + ("" if outcome.applies else " (does not apply)")]
    lines += [f"       named: {sentence}" for sentence in outcome.named]
    lines += [f"       {line}" for line in outcome.deviations[:MOST_LINES]]
    return lines + [f"       ... and {len(outcome.deviations) - MOST_LINES} more"] * (
        len(outcome.deviations) > MOST_LINES
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="release folder")
    parser.add_argument(
        "--questions",
        type=Path,
        nargs="+",
        help="question files whose text must not be published (default: the build's)",
    )
    parser.add_argument(
        "--gpu-layers", type=whole_number, default=99, help="layers on the GPU, if there is one (default 99)"
    )
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    manifest, sources = read_manifest(args.release), read_sources(args.release)
    asked = {"questions": {str(path): path for path in args.questions}} if args.questions else {}
    checked = Checked(args.release, manifest, sources | asked)
    gates = {**GATES, **running_gates(find_llama_cpp(args.llama_cpp), args.gpu_layers)}
    failed, applied = [], 0
    for name, gate in gates.items():
        outcome = outcome_of(gate, checked)
        print("\n".join(check_lines(name, outcome)), flush=True)
        applied += outcome.applies or bool(outcome.deviations)
        failed += [name] * bool(outcome.deviations)
    if failed:
        raise InputError(
            args.release, f"all of {applied} checks to hold", f"{len(failed)} that fail: {', '.join(failed)}"
        )
    print(f"{args.release}: all of {applied} checks hold, {len(gates) - applied} do not apply")


if __name__ == "__main__":
    run(main)
