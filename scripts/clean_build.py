#!/usr/bin/env python3
"""List what would be deleted of a build folder, with sizes, and with --yes delete it: only what this project built.

Inputs:  a build folder, known by the file .built-by-this-project in it; what of it: all, gguf (or gguf and paths inside
         it: the GGUF files there), or paths inside it.
Output:  a line per file or folder, and a summary, on stdout.
Example: .venv/bin/python scripts/clean_build.py --build build --what gguf          # list
         .venv/bin/python scripts/clean_build.py --build build --what gguf --yes    # delete

gguf: every GGUF file but the imatrix, which is small and takes hours; the records of the files stay, a release folder
that holds such files goes whole. all: everything but files of others that lie in the build folder. Symbolic links are
deleted and never followed: build/NAME/full/checkpoint is a link to the user's own model.
"""

import argparse
import os
from pathlib import Path

from files.display import plural
from files.host_locks import LOCKS, advice_on, locks_in
from files.input_errors import InputError
from files.option_types import command_parser
from files.safe_files import gib, partial_directory, remove, run
from files.seals import LEDGER, MARKER
from release.manifest import MANIFEST
from stages.needs import FULL_FOLDER, IMATRIX
from stages.step_logs import is_at_work

ALL, GGUF = "all", "gguf"
LAST = (LEDGER, MARKER)
# Of a build folder; the others are named for models.
SHARED_FOLDERS = ("downloads", "comparison", "bench", "plans", "rehearsal", "cluster", LOCKS)
PARTIAL = ".partial"  # ends the name of what was being written, or deleted, when a run was killed
SHOWN = 40  # lines of a list; of 200 quants the sum says more


def check_ours(build: Path) -> None:
    """Raise InputError unless a folder holds the marker."""
    if not build.is_dir():
        raise InputError(build, "a build folder", "nothing" if not build.exists() else "a file")
    if not (build / MARKER).is_file():
        raise InputError(
            build, f"a build folder of this project, with {MARKER} in it", "none", "nothing of it is deleted"
        )


def check_idle(build: Path) -> None:
    """Raise InputError when a step is at work in a build folder."""
    if busy := next((log for log in build.glob("*/*/logs/*.log") if is_at_work(log)), None):
        raise InputError(build, "no step at work", f"one that writes {busy}", "end it first")
    for lock, holder in locks_in(build).items():
        raise InputError(build, "no step at work", f"one on {holder.in_words()}", advice_on(lock, holder))


def is_ours(entry: Path) -> bool:
    """Tell whether an entry of a build folder is what this project makes there: shared files, or those of a model."""
    if entry.is_symlink():
        return False
    if entry.is_dir() and not os.access(entry, os.R_OK | os.X_OK):  # as root's lost+found of a disk
        return False
    known = entry.name in SHARED_FOLDERS or entry.suffix == PARTIAL or (entry / FULL_FOLDER).is_dir()
    return entry.name in LAST or (entry.is_dir() and known)


def everything(build: Path) -> tuple[list[Path], list[Path]]:
    """Return what this project built in a folder, and what else lies there. Seals and marker are the last to go."""
    entries = sorted(build.iterdir(), key=lambda path: (LAST.index(path.name) if path.name in LAST else -1, path.name))
    ours = [entry for entry in entries if is_ours(entry)]
    others = [entry for entry in entries if entry not in ours]
    # While others' files stay, so does the marker: a later run builds here again.
    return [entry for entry in ours if not (others and entry.name == MARKER)], others


def gguf_files(folder: Path) -> list[Path]:
    """Return the GGUF files below a folder; in place of those of a release its folder."""
    found: list[Path] = []
    for place, _, names in os.walk(folder):  # links are not followed
        ggufs = [Path(place) / name for name in sorted(names) if name.endswith(".gguf") and name != IMATRIX]
        # Without its files a release would be half a one; with them, links to the same bytes, no room would be free.
        found += [Path(place)] if ggufs and MANIFEST in names else ggufs
    return found


def path_inside(build: Path, path: Path) -> Path:
    """Return a path that is to be deleted; raise InputError unless it lies inside the build folder, by no link."""
    if not (path.is_symlink() or path.exists()):
        raise InputError(path, "a file or folder to delete", "nothing")
    root, parent = build.resolve(), path.parent.resolve()
    # The parent and not the path itself is resolved: a link inside the folder may go, what it points to may not.
    if path.name in ("", "..") or not parent.is_relative_to(root):
        raise InputError(path, f"a path inside {build}, by no link", "another one", "nothing is deleted")
    return path


def inodes_of(path: Path) -> dict[tuple[int, int], os.stat_result]:
    """Return the stats of a path's files by inode; of a link that of the link."""
    if path.is_symlink() or not path.is_dir():
        paths = [str(path)]
    else:
        paths = [os.path.join(place, name) for place, _, names in os.walk(path) for name in names]
    stats = map(os.lstat, paths)
    return {(stat.st_dev, stat.st_ino): stat for stat in stats}


def total_line(paths: list[Path], deleted: bool) -> str:
    """Return how many bytes the paths hold; a file with several names counts once."""
    inodes: dict[tuple[int, int], os.stat_result] = {}
    for path in paths:
        inodes |= inodes_of(path)
    size = gib(sum(stat.st_size for stat in inodes.values()))
    size_of_all = f"{size} GiB in {plural(len(paths), 'place')}"
    return f"deleted {size_of_all}" if deleted else f"{size_of_all} would be deleted with YES=1"


def entry_line(path: Path) -> str:
    """Return a path's line: its size, and where a link leads."""
    size = gib(sum(stat.st_size for stat in inodes_of(path).values()))
    link = f" (a link; {os.readlink(path)} stays)" if path.is_symlink() else ""
    return f"{size:>9} GiB  {path}{'/' if path.is_dir() and not path.is_symlink() else ''}{link}"


def delete(path: Path) -> None:
    """Delete a file, a link or a folder. A kill leaves no half of a folder under its name."""
    if path.suffix != PARTIAL:
        gone = partial_directory(path)
        remove(gone)
        path = path.rename(gone)
    remove(path)


def chosen_paths(build: Path, what: list[str]) -> tuple[list[Path], list[Path]]:
    """Return what is to be deleted, and what is left alone although all was asked for."""
    if what == [ALL]:
        return everything(build)
    asked = what[1:] if what[0] == GGUF else what
    paths = list(dict.fromkeys(path_inside(build, Path(text)) for text in asked))
    if what[0] == GGUF:
        if link := next((path for path in paths if path.is_symlink()), None):  # os.walk follows one that it begins with
            raise InputError(link, f"a folder inside {build}", "a link", "nothing is deleted")
        return [file for folder in paths or [build] for file in gguf_files(folder)], []
    return [path for path in paths if not any(other in path.parents for other in paths)], []


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    what = parser.add_argument_group("what is deleted")
    what.add_argument("--build", type=Path, required=True, help="build folder")
    what.add_argument(
        "--what", nargs="+", required=True, metavar="WHAT", help="all, gguf, or paths in the build folder"
    )
    what.add_argument("--yes", action="store_true", help="delete; without it the paths are only listed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_ours(args.build)
    if args.yes:  # a list does no harm
        check_idle(args.build)
    paths, others = chosen_paths(args.build, args.what)
    for path in paths[:SHOWN]:
        print(entry_line(path))
    if paths[SHOWN:]:
        print(f"... and {len(paths) - SHOWN} more")
    for path in others:
        print(f"stays: {path}, which this project did not build")
    told = total_line(paths, args.yes)
    if args.yes:
        for path in paths:
            delete(path)
        if args.what == [ALL] and not others and not args.build.is_symlink():
            args.build.rmdir()
    print(told)


if __name__ == "__main__":
    run(main)
