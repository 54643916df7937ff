#!/usr/bin/env python3
"""Upload a release folder to the Hub, after the gates; without --send only list what would go.

Inputs:  a release folder of build_release.py; a repository USER/NAME; a token in HF_TOKEN or from `hf auth login` (to send).
Output:  one line per file (new, changed, same) and a summary; with --send one commit, whose message carries the manifest's sha256.
Use:     scripts/upload_release.py --release DIR --repo USER/NAME [--send]

The folder must be the one of its manifest, file by file, and the gates (check_release.py) must hold, in a dry run, too. A
broken or killed upload goes on with the same command. HF_ENDPOINT names another server. The token is never printed or written.
"""

import argparse
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from files.safe_files import InputError, only_writer, run
from release.front_matter import check_repo
from release.hub_upload import Sent, be_quiet, gate_environment, one_line, plan, remote_files, send, sent_of, token_of
from release.release_files import MANIFEST, folder_differences, read_manifest

GATES = Path(__file__).resolve().parent / "check_release.py"


def check_gates(gates: Path, folder: Path) -> None:
    """Run the gates on a release; raise InputError when they are not there or do not hold."""
    if not gates.is_file():
        raise InputError(gates, "the gates of a release", "nothing")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, gates, folder], env=gate_environment())
    if done.returncode:
        raise InputError(folder, "a release whose gates all hold", f"exit code {done.returncode} of {gates.name}")


def checked(args: argparse.Namespace) -> Sent:
    """Return what is sent; raise InputError unless the folder is the one of its manifest and the gates hold."""
    manifest = read_manifest(args.release)
    if args.name and manifest["name"] != args.name:
        raise InputError(args.release / MANIFEST, f"the manifest of {args.name}", f"that of {manifest['name']}")
    for difference in folder_differences(args.release, manifest):
        raise difference
    check_gates(args.gates, args.release)
    return sent_of(args.release, manifest)


def plan_lines(release: Sent, repo: str, states: dict[str, str], there: dict[str, tuple[int, str]]) -> list[str]:
    """Return what is said of a plan: a line per file, files on the Hub alone, a summary. GB are 10^9 bytes."""
    sizes = release.bytes
    lines = [f"{states[path]:8} {sizes[path] / 1e9:10.6f} GB  {path}" for path in sorted(sizes)]
    lines += [
        f"{'hub only':8} {there[path][0] / 1e9:10.6f} GB  {path} (stays)"
        for path in sorted(there.keys() - sizes.keys() - {".gitattributes"})
    ]
    counted = ", ".join(f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values()))
    moved = sum(size for path, size in sizes.items() if states[path] != "same")
    most = "at most " if "unknown" in states.values() else ""
    return [
        *lines,
        f"{repo}: {len(sizes)} files ({counted}), {most}{moved / 1e9:.6f} GB to send; manifest sha256 {release.sha256[MANIFEST]}",
    ]


def look(repo: str, token: str | None, needed: bool) -> dict[str, tuple[int, str]] | None:
    """Return the files on the Hub; None where it cannot be asked. Raises InputError then if an answer is `needed`."""
    try:
        with one_line(repo):
            return remote_files(repo, token) or {}
    except InputError as error:
        if needed:
            raise
        print(f"not compared with the Hub: {error}")
        return None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, required=True, help="release folder")
    parser.add_argument("--repo", required=True, help="repository on the Hub, USER/NAME")
    parser.add_argument("--name", default="", help="model that the manifest must be of")
    parser.add_argument("--send", action="store_true", help="send; without it only list what would go")
    parser.add_argument(
        "--gates", type=Path, default=GATES, help="program that checks a release (default: check_release.py)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    be_quiet()
    check_repo(args.repo)
    token = token_of(args.send)
    # The lock is that of build_release.py: what is checked stays as it is until it is sent.
    with only_writer(args.release) if args.send else nullcontext():
        release = checked(args)
        there = look(args.repo, token, args.send)
        states = dict.fromkeys(release.bytes, "unknown") if there is None else plan(release, there)
        print("\n".join(plan_lines(release, args.repo, states, there or {})), flush=True)
        if not args.send:
            print("Nothing was sent. UPLOAD=yes sends it.")
            return
        paths = [path for path, state in states.items() if state != "same"]
        end = (
            send(release, args.repo, token, paths, lambda line: print(line, flush=True))
            if paths
            else "nothing was sent"
        )
    print(f"{args.repo}: all {len(states)} files are on the Hub as the manifest lists them; {end}")


if __name__ == "__main__":
    run(main)
