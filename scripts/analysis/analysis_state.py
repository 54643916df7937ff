"""The state of an analysis (run_state.py): a safetensors file per batch of questions, named for its first question.

It holds the sums so far, the number of decoder layers done (metadata key `layers_done`) and, while layers are left, the
`hidden` states that enter the next one.
"""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from files.run_state import RunState
from files.safe_files import InputError, remove

LAYERS_DONE = "layers_done"
HIDDEN = "hidden"


class AnalysisState(RunState):
    """The directory that holds a running analysis."""

    def __init__(
        self,
        directory: Path,
        inputs: dict,
        owner: bool,
        layers: int,
        arrays: dict[int, dict[str, tuple[str, list[int]]]],
    ) -> None:
        """Open or create it as RunState does.

        `arrays`: what a batch's file holds, by its first question: safetensors' dtype name and shape of each array
        (of HIDDEN the first two axes). `layers`: decoder layers.
        """
        self.layers, self.arrays = layers, arrays
        super().__init__(directory, inputs, owner)

    def _path(self, first: int) -> Path:
        return self.directory / f"questions-{first:06d}.safetensors"

    def save(
        self, first: int, sums: dict[str, np.ndarray], layers_done: int, hidden: torch.Tensor | None = None
    ) -> None:
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
