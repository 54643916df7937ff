"""What a long run has finished, in a directory: a killed run goes on from there, and a run of other inputs is refused.

`inputs.json` says what the state was computed from. Each command keeps its own files beside it. The directory is removed
when the output is in place.
"""

import fcntl
import json
import os
from pathlib import Path

from files.safe_files import InputError, read_json, remove, write_json

INPUTS_NAME = "inputs.json"
SHOWN_CHARACTERS = 200


def difference_in_words(old: dict, new: dict) -> tuple[str, str] | None:
    """Return how the first values that differ read in both, down to the list element; None when all are equal."""
    for key in sorted({*old, *new}):
        here, there = old.get(key), new.get(key)
        if here == there:
            continue
        if isinstance(here, list) and isinstance(there, list):
            if len(here) != len(there):
                return f"{len(here)} {key}", f"{len(there)} {key}"
            number = next(i for i, (a, b) in enumerate(zip(here, there)) if a != b)
            key, here, there = f"{key}[{number}]", here[number], there[number]
        if isinstance(here, dict) and isinstance(there, dict):
            inner = difference_in_words(here, there)
            return f"{key}.{inner[0]}", f"{key}.{inner[1]}"
        return tuple(f"{key} {json.dumps(value)}"[:SHOWN_CHARACTERS] for value in (here, there))
    return None


class RunState:
    """The directory that holds a running command's finished work."""

    def __init__(self, directory: Path, inputs: dict, owner: bool = True) -> None:
        """Open or create the state of `inputs`; of several processes on a machine one is the owner and locks it.

        Raises InputError when the directory holds a state of other inputs, or something else, or is in use.
        """
        self.directory, self.inputs, self.lock = directory, inputs, None
        try:
            if owner:
                self._open()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "RunState":
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            os.close(self.lock)

    def _open(self) -> None:
        path = self.directory / INPUTS_NAME
        if (
            self.directory.exists()
            and not path.is_file()
            and (
                not self.directory.is_dir()
                or any(file.name != "inputs.partial.json" for file in self.directory.iterdir())
            )
        ):
            raise InputError(self.directory, "the state of an earlier run, or nothing", "something else")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(self.directory, "a state that no other run works on", "one in use") from error
        if path.exists():
            self._compare(read_json(path))
        else:
            write_json(path, self.inputs)

    def _compare(self, old: dict) -> None:
        # Through JSON and back: a tuple among the inputs is a list in the file.
        if difference := difference_in_words(old, json.loads(json.dumps(self.inputs))):
            raise InputError(
                self.directory,
                f"the state of a run with {difference[1]}",
                difference[0],
                "finish that run with its own inputs, or remove the directory to start again",
            )

    def discard(self) -> None:
        """Remove the state, the file that says what it is last, so that a kill leaves nothing that is refused."""
        for path in self.directory.iterdir():
            if path.name != INPUTS_NAME:
                remove(path)
        remove(self.directory)
