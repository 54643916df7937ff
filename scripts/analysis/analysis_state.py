"""The state of an analysis (files/run_state.py): a safetensors file per batch of questions, named for its first one.

It holds the sums so far, the number of decoder layers done (metadata key `layers_done`) and, while layers are left, the
`hidden` states that enter the next one. Metadata key `crc32` holds a sum of each array's bytes.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path

from analysis.batches import Batch
from analysis.expert_observer import expert_modules, is_integer_sum
from analysis.layer_reader import TORCH_DTYPES
from analysis.model_parts import decoder_of, layers_of
from analysis.ranks import Ranks
from analysis.sampled_tokens import TokenSample, sampled_arrays, sampled_widths
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from files.input_errors import InputError
from files.run_state import RunState
from files.safe_files import remove, require_disk_space
from files.seals import MARKER, build_folder, is_kept, seal_file, sealing

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

LAYERS_DONE = "layers_done"
HIDDEN = "hidden"
CHECK_SUMS = "crc32"
STATE_SLACK_BYTES = 64 << 20  # for the sums, which are small, and for a file that is written before it replaces another
PATH_DIGITS = 12

BatchState = tuple[dict[str, np.ndarray], int, torch.Tensor | None]  # sums, layers done, hidden states


def check_sum(tensor: torch.Tensor) -> int:
    """Return the CRC-32 of a contiguous tensor's bytes."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


class AnalysisState(RunState):
    """The directory that holds a running analysis."""

    def __init__(
        self,
        directory: Path,
        inputs: dict,
        owner: bool,
        layers: int,
        arrays: dict[int, dict[str, tuple[str, list[int]]]],
        spilled: bool = False,
    ) -> None:
        """Open or create it as RunState does.

        `arrays`: what a batch's file holds, by its first question: safetensors' dtype name and shape of each array
        (of HIDDEN the first two axes). `layers`: decoder layers. `spilled`: to another disk, away from the output.
        """
        self.layers, self.arrays = layers, arrays
        super().__init__(directory, inputs, owner)
        if spilled and owner and sealing() and not build_folder(self._path(0)):
            # What is kept there needs seals, too, for what it becomes is sealed elsewhere.
            (directory / MARKER).touch()

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
            sums_of_bytes = json.dumps({name: check_sum(tensor) for name, tensor in tensors.items()})
            save_file(tensors, partial, {LAYERS_DONE: str(layers_done), CHECK_SUMS: sums_of_bytes})
        except SafetensorError as error:
            partial.unlink(missing_ok=True)
            raise InputError(self.directory, "a place to keep the state in", str(error)) from error
        # No fsync: there is one file per batch and layer, and a flush each time would take longer than the layer. After
        # a power failure `load` finds a file that is cut short or has zeros in it, and its questions are done again.
        seal_file(self._path(first), partial, flush=False)
        os.replace(partial, self._path(first))

    def load(self, first: int, with_hidden: bool) -> BatchState | None:
        """Return the sums, the layers done and the hidden states of a batch; None when nothing (whole) is there."""
        path = self._path(first)
        if not is_kept(path):
            return None
        try:
            with safe_open(path, framework="pt") as file:
                names, notes = set(file.keys()), file.metadata() or {}
                done, known = notes.get(LAYERS_DONE, ""), json.loads(notes.get(CHECK_SUMS, "null"))
                shapes = {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in names}
                self._check(first, done, shapes)
                read = names if with_hidden else names - {HIDDEN}
                tensors = {name: file.get_tensor(name) for name in read}
                if not isinstance(known, dict) or any(check_sum(tensors[name]) != known.get(name) for name in read):
                    raise ValueError("bytes that were never written")
                hidden = tensors.pop(HIDDEN, None)
                return {name: tensor.numpy() for name, tensor in tensors.items()}, int(done), hidden
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            remove(path)
            print(f"{path}: unreadable ({error}), its questions are done again", flush=True)
            return None

    def reload(self, first: int, with_hidden: bool) -> BatchState:
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
            # A whole-model run and the last layer save none. With layers left they must be there.
            del expected[HIDDEN]
        if found != expected:
            name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
            raise ValueError(f"{name} {found.get(name)}, not {expected.get(name)}")


def state_directory(output: Path, spill: Path | None) -> Path:
    """Return where the state of a run lies: beside the output, or in `spill`."""
    name = f"{output.name}.state"
    if spill is None:
        return output.parent / name
    # A fast disk is shared by runs whose outputs may have one name in different folders.
    return spill / f"{hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:PATH_DIGITS]}-{name}"


def batch_arrays(batch: Batch, moe_layers: int, experts: int, dtype: torch.dtype) -> dict[str, tuple[str, list[int]]]:
    """Return what the state holds of a batch: dtypes as safetensors names them, and shapes."""
    rows = [len(batch.sequences), moe_layers]
    arrays: dict[str, tuple[str, list[int]]] = {}
    for names, shape in ((EXPERT_SUMS, [*rows, experts]), (LAYER_SUMS, rows)):
        arrays |= {name: ("I64" if is_integer_sum(name) else "F64", shape) for name in names}
    stored = next(name for name, kind in TORCH_DTYPES.items() if kind == dtype)
    return arrays | {HIDDEN: (stored, [len(batch.sequences), batch.longest])}


def open_state(
    directory: Path,
    inputs: dict,
    ranks: Ranks,
    batches: list[Batch],
    model: PreTrainedModel,
    keeps_hidden: bool,
    sample: TokenSample | None = None,
    spilled: bool = False,
) -> AnalysisState:
    """Open the state of this run; raise InputError when the disk cannot hold it, or as RunState does.

    keeps_hidden: hidden states of all questions are kept between two layers; sample: of the tokens that are kept, too;
    spilled: whether the state lies away from the output.
    """
    experts, layers = expert_modules(model), len(layers_of(decoder_of(model)[1]))
    most = max(module.num_experts for module in experts.values())
    tokens = sum(question["tokens"] for question in inputs["questions"])
    kept_bytes = keeps_hidden * tokens * model.config.get_text_config().hidden_size * model.dtype.itemsize
    arrays = {batch.first: batch_arrays(batch, len(experts), most, model.dtype) for batch in batches}
    if sample is not None:
        for batch in batches:
            arrays[batch.first] |= sampled_arrays(batch, model, sample)
        kept_bytes += len(sample.weights) * len(experts) * sum(sampled_widths(model).values()) * 4
    if ranks.rank == 0:
        require_disk_space(directory, STATE_SLACK_BYTES + kept_bytes)
    else:
        ranks.begin()
    # The first process holds the lock; the others use the directory that it has opened.
    state = AnalysisState(directory, inputs, ranks.rank == 0, layers, arrays, spilled)
    if ranks.rank == 0:
        ranks.begin()
    return state
