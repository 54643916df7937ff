#!/usr/bin/env python3
"""Wrap the GGUF files of a release with Ollama's Gemma 4 renderer and parser: print the commands, or run them.

Inputs:  a release folder (manifest.json, params, GGUF files), or with --repo its name on the Hub once it is there.
Output:  the commands, one `ollama create` for each file. If `ollama` is on PATH they are run, unless --print.
Example: .venv/bin/python scripts/release_ollama.py build/gemma-4-demo/109e/release/GGUF --print

Run it again, and it replaces what it made: `ollama create` stores each layer by its digest.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from cards.front_matter import check_repo, check_same_repository
from files.input_errors import InputError
from files.option_types import command_parser
from files.safe_files import run
from ollama.ollama_files import Wrap, ollama_params, quants_of, wrap_commands, wraps
from release.manifest import entry_difference, read_manifest


def create(ollama: str, wrap: Wrap) -> None:
    """Run `ollama create`; raise InputError with its last words when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "Modelfile")
        path.write_text(wrap.modelfile, encoding="utf-8")
        done = subprocess.run(
            [ollama, "create", wrap.model, "-f", path], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise InputError(f"ollama create {wrap.model}", "success", f"exit code {done.returncode}: {words[:200]}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs").add_argument
    add("release", type=Path, help="release folder")
    add("--repo", default="", help="USER/NAME on the Hub: wrap the files there, not the folder's")
    add = parser.add_argument_group("what is done").add_argument
    add("--print", action="store_true", help="only print the commands, even where there is an ollama")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    manifest = read_manifest(args.release)
    if args.repo:
        check_repo(args.repo)
        check_same_repository(args.repo, manifest)
    ggufs = [name for name in manifest["files"] if name.endswith(".gguf")]
    found = wraps(manifest["name"], ggufs, {}, args.repo)
    if not found:
        raise InputError(args.release, "GGUF files, not in parts", "none")
    params_path = args.release / "params"
    listed = manifest["files"].get(params_path.name)
    if listed and params_path.is_file() and (difference := entry_difference(params_path, listed)):
        raise difference
    params = ollama_params(params_path, args.release / quants_of(ggufs)[0])
    print(wrap_commands(manifest["name"], ggufs, params, args.repo, args.release), end="")
    ollama = shutil.which("ollama")
    if args.print or not ollama:
        print(f"# {len(found)} models, not created: " + ("asked to print only" if args.print else "no ollama on PATH"))
        return
    # A path after FROM is relative to the Modelfile. `create` writes that in a temporary folder, so here it is
    # absolute; the printed commands write it where they are run.
    for wrap in wraps(manifest["name"], ggufs, params, args.repo, args.release.resolve()):
        create(ollama, wrap)
        print(f"created {wrap.model}", flush=True)


if __name__ == "__main__":
    run(main)
