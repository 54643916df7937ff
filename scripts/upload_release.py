#!/usr/bin/env python3
"""Upload a release folder to the Hub after the gates have passed; without --send only list what would be sent.

Inputs:  a release folder of build_release.py; a repository USER/NAME; to send, a token in HF_TOKEN or from
         `hf auth login`.
Output:  a line per file (new, changed, same) and a summary; with --send one commit, whose message carries the
         manifest's sha256.
Example: .venv/bin/python scripts/upload_release.py --release build/gemma-4-demo/109e/release/GGUF \\
             --repo USER/gemma-4-demo-109e-GGUF
         with your name on the Hub for USER; nothing is sent without --send.

The folder must be that of its manifest, file by file, and the gates (check_release.py) must pass, in a dry run, too.
A release whose card has USER for the owner of its repository is refused.
After a break or a kill the same command goes on. HF_ENDPOINT names another server. The token is never printed or
written.
"""

import argparse
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from cards.front_matter import check_repo, check_same_repository
from files.deadline import DOWNLOAD_SECONDS, SLOWEST_BYTES, within
from files.input_errors import InputError
from files.option_types import command_parser
from files.safe_files import GB, in_unit, only_writer, run
from files.seals import sealing
from release.hub_upload import (
    GO_ON,
    Payload,
    RemoteFiles,
    be_quiet,
    gate_environment,
    one_line,
    payload_of,
    plan,
    remote_files,
    send,
    token_of,
)
from release.manifest import EDITED, MANIFEST, folder_differences, listed_paths, read_manifest
from release.names import PLACEHOLDER_OWNER, has_placeholder
from release.published_texts import texts_of

WEIGHTS = (".gguf", ".safetensors")
GATES = Path(__file__).resolve().parent / "check_release.py"


def check_gates(folder: Path) -> None:
    """Run the gates on a release; raise InputError when they are missing or do not pass."""
    if not GATES.is_file():
        raise InputError(GATES, "the gates of a release", "nothing")
    sys.stdout.flush()  # else our lines would come after those of the gates
    done = subprocess.run([sys.executable, GATES, folder], env=gate_environment(), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = "".join(done.stderr.splitlines()[-1:]).removeprefix("error: ")
        found = f"exit code {done.returncode} of {GATES.name}" + (f": {said}" if said else "")
        raise InputError(folder, "a release whose gates all pass", found)


def check_owner(folder: Path, repo: str) -> None:
    """Raise InputError when a text of the release still has the placeholder for the owner of the repository."""
    paths = [name for name in listed_paths(folder) if not name.endswith(WEIGHTS)]
    texts = [text for name in paths for text in texts_of(folder / name, name)]
    # What is the base model's own, such as its vocabulary, may hold any letters.
    named = [text.place for text in texts if not text.of_base and has_placeholder(text.text)]
    if named:
        owner, more = repo.split("/")[0], f", as in {len(named) - 1} other files" if len(named) > 1 else ""
        advice = f"run `make release OWNER={owner}`, then upload again"
        raise InputError(folder / named[0], f"commands for {owner}/...", f"{PLACEHOLDER_OWNER}/...{more}", advice)


def checked_payload(args: argparse.Namespace) -> Payload:
    """Return what is to be sent; raise InputError unless the folder is that of its manifest and the gates pass."""
    manifest = read_manifest(args.release)
    if args.name and manifest["name"] != args.name:
        raise InputError(args.release / MANIFEST, f"the manifest of {args.name}", f"that of {manifest['name']}")
    for difference in folder_differences(args.release, manifest):
        raise difference
    check_same_repository(args.repo, manifest)
    check_gates(args.release)
    check_owner(args.release, args.repo)
    if not sealing():
        print(f"{args.release}: that nothing was edited was NOT checked (SEALS=no)", flush=True)
    if read_manifest(args.release) != manifest:
        raise InputError(args.release / MANIFEST, "the manifest that was checked", "another", EDITED)
    return payload_of(args.release, manifest)


def file_line(state: str, size: int, path: str) -> str:
    """Return the line of one file; GB are 10^9 bytes, as the Hub counts them."""
    return f"{state:8} {in_unit(size, GB):>10} GB  {path}"


def plan_lines(payload: Payload, repo: str, states: dict[str, str], there: RemoteFiles) -> list[str]:
    """Return what is printed of a plan: a line per file, also of files that only the Hub has, and a summary."""
    sizes = payload.bytes
    lines = [file_line(states[path], sizes[path], path) for path in sorted(sizes)]
    # The Hub makes .gitattributes itself.
    others = sorted(there.keys() - sizes.keys() - {".gitattributes"})
    lines += [file_line("hub only", there[path][0], f"{path} (stays)") for path in others]
    counted = ", ".join(f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values()))
    bytes_to_send = sum(size for path, size in sizes.items() if states[path] != "same")
    most = "at most " if "unknown" in states.values() else ""
    return [
        *lines,
        f"{repo}: {len(sizes)} files ({counted}), {most}{in_unit(bytes_to_send, GB)} GB to send; manifest sha256 "
        f"{payload.sha256[MANIFEST]}",
    ]


def look(repo: str, token: str | None, needed: bool) -> RemoteFiles | None:
    """Return the files on the Hub; None where it cannot be asked. Raises InputError then if an answer is `needed`."""

    def asked() -> RemoteFiles | None:
        with one_line(repo):
            return remote_files(repo, token)

    try:
        return within(DOWNLOAD_SECONDS, repo, asked) or {}
    except InputError as error:
        if needed:
            raise
        print(f"not compared with the Hub: {error}")
        return None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("what is uploaded, and where").add_argument
    add("--release", type=Path, required=True, help="release folder")
    add("--repo", required=True, help="repository on the Hub, USER/NAME; NAME is the manifest's")
    add("--name", default="", help="model that the manifest must be of")
    add("--send", action="store_true", help="send; without it only list what would go")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    be_quiet()
    check_repo(args.repo)
    token = token_of(args.send)
    # The lock is that of build_release.py: what is checked stays as it is until it is sent.
    with only_writer(args.release) if args.send else nullcontext():
        payload = checked_payload(args)
        there = look(args.repo, token, args.send)
        states = dict.fromkeys(payload.bytes, "unknown") if there is None else plan(payload, there)
        print("\n".join(plan_lines(payload, args.repo, states, there or {})), flush=True)
        if not args.send:
            print("Nothing was sent. --send sends it (make upload: UPLOAD=yes).")
            return
        assert token is not None  # token_of refuses to send without one
        paths = [path for path, state in states.items() if state != "same"]
        end = "nothing was sent"
        if paths:
            seconds = DOWNLOAD_SECONDS + sum(payload.bytes[path] for path in paths) / SLOWEST_BYTES
            report = partial(print, flush=True)
            end = within(seconds, args.repo, lambda: send(payload, args.repo, token, paths, report), GO_ON)
    print(f"{args.repo}: all {len(states)} files are on the Hub as the manifest lists them; {end}")


if __name__ == "__main__":
    run(main)
