"""What a running analysis has finished, on disk: a killed run goes on from there.

One safetensors file per batch of questions, named for its first question: the sums so far, the number of decoder
layers done (metadata key `layers_done`) and, while layers are left, the `hidden` states that enter the next one.
`inputs.json` says what the state was computed from; a state of other inputs is refused. The directory is removed when
the statistics file is in place.
"""

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from files.safe_files import InputError, read_json, remove, write_json

INPUTS_NAME = "inputs.json"
LAYERS_DONE = "layers_done"
HIDDEN = "hidden"


def first_difference(old: dict, new: dict) -> tuple[str, str] | None:
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
            inner = first_difference(here, there)
            return f"{key}.{inner[0]}", f"{key}.{inner[1]}"
        return tuple(f"{key} {json.dumps(value)}"[:200] for value in (here, there))
    return None


class AnalysisState:
    """The directory that holds a running analysis."""

    def __init__(self, directory: Path, inputs: dict, owner: bool = True, layers: int = 0,
                 arrays: dict[int, dict[str, tuple[str, list[int]]]] | None = None) -> None:
        """Open or create the state of `inputs`; of several processes on a machine one is the owner and locks it.

        `arrays`: what a batch's file holds, by its first question: safetensors' dtype name and shape of each array
        (of HIDDEN the first two axes). `layers`: decoder layers. Raises InputError when the directory holds a state of
        other inputs, or something else, or is in use.
        """
        self.directory, self.inputs, self.lock = directory, inputs, None
        self.layers, self.arrays = layers, arrays or {}
        try:
            if owner:
                self._open()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "AnalysisState":
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            os.close(self.lock)

    def _open(self) -> None:
        path = self.directory / INPUTS_NAME
        if self.directory.exists() and not path.is_file() and (
                not self.directory.is_dir() or any(file.name != "inputs.partial.json" for file in self.directory.iterdir())):
            raise InputError(self.directory, "the state of an analysis, or nothing", "something else")
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
        if difference := first_difference(old, json.loads(json.dumps(self.inputs))):
            raise InputError(self.directory, f"the state of a run with {difference[1]}", difference[0],
                             "finish that run with its own inputs, or remove the directory to start again")

    def _path(self, first: int) -> Path:
        return self.directory / f"questions-{first:06d}.safetensors"

    def save(self, first: int, sums: dict[str, np.ndarray], layers_done: int, hidden: torch.Tensor | None = None) -> None:
        """Record that the batch that starts with question `first` is through `layers_done` layers.

        The file is renamed into place whole, so a kill loses nothing; it is not flushed to the disk each time.
        """
        tensors = {name: torch.from_numpy(array) for name, array in sums.items()}
        if hidden is not None:
            tensors[HIDDEN] = hidden.contiguous()
        partial = self._path(first).with_suffix(".partial")
        try:
            save_file(tensors, partial, {LAYERS_DONE: str(layers_done)})
        except SafetensorError as error:
            partial.unlink(missing_ok=True)
            raise InputError(self.directory, "a place to keep the state in", str(error)) from error
        os.replace(partial, self._path(first))

    def load(self, first: int, with_hidden: bool) -> tuple[dict[str, np.ndarray], int, torch.Tensor | None] | None:
        """Return the sums, the layers done and the hidden states of a batch; None when nothing (whole) is there."""
        path = self._path(first)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                names, done = set(file.keys()), (file.metadata() or {}).get(LAYERS_DONE, "")
                shapes = {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in names}
                self._check(first, done, shapes)
                sums = {name: file.get_tensor(name).numpy() for name in names - {HIDDEN}}
                return sums, int(done), file.get_tensor(HIDDEN) if with_hidden and HIDDEN in names else None
        except (SafetensorError, OSError, ValueError) as error:  # after a power failure a file may be cut short
            remove(path)
            print(f"{path}: unreadable ({error}), its questions are done again", flush=True)
            return None

    def reload(self, first: int, with_hidden: bool) -> tuple[dict[str, np.ndarray], int, torch.Tensor | None]:
        """Return what this run has saved of a batch; raise InputError when it was removed or damaged meanwhile."""
        found = self.load(first, with_hidden)
        if found is None:
            raise InputError(self._path(first), "the state that this run saved", "none that is whole", "run it again")
        return found

    def _check(self, first: int, done: str, found: dict[str, tuple[str, list[int]]]) -> None:
        """Raise ValueError when a batch's file does not hold what `save` writes."""
        if not done.isdecimal() or int(done) > self.layers:
            raise ValueError(f"{LAYERS_DONE} {done!r} of {self.layers}")
        expected = dict(self.arrays[first])
        if HIDDEN in found:
            found[HIDDEN] = (found[HIDDEN][0], found[HIDDEN][1][:2])
        elif int(done) == self.layers:
            del expected[HIDDEN]
        if found != expected:
            name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
            raise ValueError(f"{name} {found.get(name)}, not {expected.get(name)}")

    def discard(self) -> None:
        """Remove the state, the file that says what it is last, so that a kill leaves nothing that is refused."""
        for path in self.directory.iterdir():
            if path.name != INPUTS_NAME:
                remove(path)
        remove(self.directory)
