"""How two build folders differ: files that only one of them has, and files with other bytes, times aside."""

import json
import re
from pathlib import Path

# What holds times by design: how long each question took and when it was asked; lm-eval's own record of its run, with
# the speed of the processor at that moment and the port that the proxy got.
TIMES = {"asked_at", "seconds", "date", "total_evaluation_time_seconds", "pretty_env_info", "base_url"}
# Logs are appended to by each try, and the server's tells about its own process. So are seals, and each machine has
# a key of its own. A kill can leave the lock of a step that was done; the next step of that host removes it. begun.json
# is a random number by design. What a draft model gains is measured by the clock.
LOGS = re.compile(r"(^|/)logs/|\.log$|^\.locks($|/)|(^|/)\.seals$|(^|/)begun\.json$|(^|/)draft/draft\.(json|md)$")


def without_times(value: object) -> object:
    """Return a JSON value without the fields that hold times."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def content_of(path: Path) -> object:
    """Return what must be the same in a file: its bytes; of answers and scores the values that are no times."""
    if path.is_symlink():
        return path.readlink()
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        try:
            values = [json.loads(line) for line in lines]
        except ValueError:  # half of a record: compared as it is
            return content
        if (shorter := [without_times(value) for value in values]) != values:
            return json.dumps(shorter)  # the order of the fields counts
    return content


def files_of(folder: Path) -> dict[str, Path]:
    """Return all files, links and empty folders of a build folder but its logs, by their paths in it."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not LOGS.search(name) and (path.is_symlink() or not path.is_dir() or not any(path.iterdir())):
            found[name] = path
    return found


def differences(expected: Path, found: Path) -> list[str]:
    """Return in words how a build folder differs from another one, [] when it does not."""
    here, there = files_of(expected), files_of(found)
    missing = [f"missing: {name}" for name in sorted(here.keys() - there.keys())]
    left = [f"left over: {name}" for name in sorted(there.keys() - here.keys())]
    others = []
    for name in sorted(here.keys() & there.keys()):
        kinds = [path.is_dir() and not path.is_symlink() for path in (here[name], there[name])]
        if kinds[0] != kinds[1] or (not kinds[0] and content_of(here[name]) != content_of(there[name])):
            others.append(f"other bytes: {name}")
    return missing + left + others
