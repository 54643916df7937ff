"""What a long run has finished, in a directory: a killed run goes on from there, and a run of other inputs is refused.

`inputs.json` holds what the state was computed from. Each command keeps its own files beside it. The directory is
removed when the output is in place.
"""

import json
from contextlib import ExitStack
from pathlib import Path

from files.host_locks import only_host
from files.input_errors import InputError
from files.json_records import read_json, sha256_json
from files.safe_files import leftovers_of, only_writer, remove
from files.seals import INPUTS_NAME, bind, unbind
from files.written_records import write_json

SHOWN_DIGITS = 12  # of a digest, in names
VALUE_CHARACTERS = 200


def results_folder(cache: Path, name: str, inputs: dict) -> Path:
    """Return where the cache keeps what depends on these inputs."""
    return cache / f"{name}-{sha256_json(inputs)[:SHOWN_DIGITS]}"


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
        if isinstance(here, dict) and isinstance(there, dict) and (inner := difference_in_words(here, there)):
            return f"{key}.{inner[0]}", f"{key}.{inner[1]}"
        return _value_in_words(key, here), _value_in_words(key, there)
    return None


def _value_in_words(key: str, value: object) -> str:
    return f"{key} {json.dumps(value)}"[:VALUE_CHARACTERS]


class RunState:
    """The directory that holds a running command's finished work."""

    def __init__(self, directory: Path, inputs: dict, owner: bool = True, waits: bool = False) -> None:
        """Open or create the state of `inputs`; of several processes one is the owner and locks it.

        waits: for another run that has it, whose work stays there for this one. Raises InputError when the directory
        holds a state of other inputs, or something else, or is in use.
        """
        self.directory, self.inputs, self.waits = directory, inputs, waits
        self.locks = ExitStack()
        try:
            if owner:
                self._open()
            else:  # it has read its inputs by itself, and one of them may have been exchanged meanwhile
                self._compare(read_json(directory / INPUTS_NAME))
            bind(directory / INPUTS_NAME, inputs)
        except BaseException:  # no `with` block is entered, so nothing else would let go of the lock
            self.__exit__()
            raise

    def __enter__(self) -> "RunState":
        return self

    def __exit__(self, *_: object) -> None:
        unbind(self.directory / INPUTS_NAME)
        self.locks.close()

    def _open(self) -> None:
        path = self.directory / INPUTS_NAME
        if self._is_something_else():
            raise InputError(self.directory, "the state of an earlier run, or nothing", "something else")
        # Steps that make other files may share a state, so the lock of a step is not enough.
        self.locks.enter_context(only_writer(self.directory, self.waits))
        self.locks.enter_context(only_host(self.directory, self.waits))
        self.directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._compare(read_json(path))
        else:
            write_json(path, self.inputs)

    def _is_something_else(self) -> bool:
        """Tell whether something lies there that no run left. Nothing is written into a directory of the user's."""
        inputs = self.directory / INPUTS_NAME
        if not self.directory.exists() or inputs.is_file():
            return False
        # A run killed at its very first write leaves the temporary file of inputs.json and nothing else.
        first = leftovers_of(inputs)
        return not self.directory.is_dir() or any(path not in first for path in self.directory.iterdir())

    def _compare(self, old: dict) -> None:
        # Through JSON and back, because a tuple among the inputs is a list in the file.
        if difference := difference_in_words(old, json.loads(json.dumps(self.inputs))):
            raise InputError(
                self.directory,
                f"the state of a run with {difference[1]}",
                difference[0],
                "finish that run with its own inputs; with make, REPLACE of that stage begins anew",
            )

    def discard(self) -> None:
        """Remove the state, inputs.json last: without it a kill would leave files that the next run refuses."""
        for path in self.directory.iterdir():
            if path.name != INPUTS_NAME:
                remove(path)
        remove(self.directory)
