"""What a running analysis has finished, on disk: a killed run goes on from there.

One safetensors file per batch of questions, named for its first question: the sums so far, the number of decoder
layers done (metadata key `layers_done`) and, while layers are left, the `hidden` states that enter the next one.
`inputs.json` says what the state was computed from; a state of other inputs is refused. The directory is removed when
the statistics file is in place.
"""

import fcntl
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safe_files import InputError, read_json, remove, write_json

INPUTS_NAME = "inputs.json"
LAYERS_DONE = "layers_done"
HIDDEN = "hidden"


def first_difference(old: dict, new: dict) -> str | None:
    """Return the first key whose values differ, or None."""
    return next((key for key in sorted({*old, *new}) if old.get(key) != new.get(key)), None)


class AnalysisState:
    """The directory that holds a running analysis."""

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
        if key := first_difference(old, self.inputs):
            found, expected = (f"{key} {str(values.get(key))[:40]}" for values in (old, self.inputs))
            raise InputError(self.directory, f"the state of a run with {expected}", found,
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
        try:
            with safe_open(self._path(first), framework="pt") as file:
                names = set(file.keys())
                sums = {name: file.get_tensor(name).numpy() for name in names - {HIDDEN}}
                hidden = file.get_tensor(HIDDEN) if with_hidden and HIDDEN in names else None
                return sums, int(file.metadata()[LAYERS_DONE]), hidden
        except FileNotFoundError:
            return None
        except SafetensorError as error:  # after a power failure a file may be cut short
            print(f"{self._path(first)}: unreadable ({error}), its questions are done again", flush=True)
            return None

    def discard(self) -> None:
        """Remove the state."""
        remove(self.directory)
