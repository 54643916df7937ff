"""The scores of further tasks among the files of a release, and what they were made from, by their names."""

import re
from collections.abc import Mapping
from pathlib import Path

from files.input_errors import InputError, shown
from files.json_records import CONTROL

TASK_KINDS = ("run", "questions", "examples")  # of what a task's scores are made from
TASK_COPY = re.compile(r"scores-([A-Za-z0-9._-]+)\.json")  # by the name of the task's folder


def task_copies(copies: Mapping[str, Path]) -> dict[str, Path]:
    """Return the scores of further tasks among the copies of a release, by the names of the tasks' folders."""
    return {found[1]: path for name, path in sorted(copies.items()) if (found := TASK_COPY.fullmatch(name))}


def task_sources(sources: Mapping[str, Mapping[str, Path]], name: str) -> dict[str, list[Path]]:
    """Return what the scores of a further task were made from: its runs, questions and few shots."""
    own = {key: path for key, path in sources.get("tasks", {}).items() if key.split(" ")[1] == name}
    return {kind: [path for key, path in own.items() if key.split(" ")[0] == kind] for kind in TASK_KINDS}


def task_sources_of(tasks: list[list[Path]]) -> dict[str, Path]:
    """Return what the scores of further tasks were made from, as KIND NAME NUMBER; tasks: SCORES.json KIND=PATH ..."""
    found = {}
    for scores, *words in tasks:
        for number, word in enumerate(words):
            kind, sign, path = str(word).partition("=")
            if not sign or kind not in TASK_KINDS or CONTROL.search(str(word)):
                kinds = " or ".join(f"{kind}=PATH" for kind in TASK_KINDS)
                raise InputError("--task", f"{kinds} after {scores}, in one line", shown(str(word)))
            found[f"{kind} {scores.parent.name} {number}"] = Path(path)
    return found
