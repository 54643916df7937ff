"""Read the tensors of one layer from a checkpoint's shards to where they stay: in their final place, layout and dtype.

Experts that a checkpoint stores one by one are written straight into the stacked tensor that transformers makes of them
(MergeModulelist, Concatenate), and a cast goes through a window of READ_BYTES, so a layer never lies in memory twice.
"""

import io
import math
from dataclasses import dataclass

from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

TORCH_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
WEIGHT_DTYPES = ("F32", "BF16", "F16", "F64")
# A view of bytes as another dtype must start at a multiple of its size; 64 is a cache line and what torch itself uses.
ALIGN_BYTES = 64
# A cast needs the stored bytes beside the result. One expert of a large model is tens of MB: this much at a time costs
# few calls, and next to a layer of gigabytes it does not count.
READ_BYTES = 64 << 20
# The conversions that are copies of bytes to another place. What needs arithmetic is left to transformers' loader.
STACKED = (["MergeModulelist"], ["MergeModulelist", "Concatenate"])


@dataclass(frozen=True)
class Piece:
    """A tensor for transformers' loader: its name there, dtype and shape, and the stored tensors it consists of."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    sources: tuple[TensorRange, ...]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def memory_size(pieces: list[Piece]) -> int:
    """Return the bytes that `read_pieces` needs for them."""
    return sum(-(-piece.size // ALIGN_BYTES) * ALIGN_BYTES for piece in pieces)


def pieces_of(model: PreTrainedModel, tensors: dict[str, TensorRange]) -> dict[str, list[Piece]]:
    """Return the pieces of every parameter and buffer of `model` that the checkpoint has, by name in the model."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state, plan = model.state_dict(), model._get_dtype_plan(model.dtype)

    def dtype_of(target: str, stored: str) -> torch.dtype:
        """Return the dtype in the model; as stored where only the loader can tell (fp16 with modules kept in fp32)."""
        dtype = TORCH_DTYPES[stored]
        return state[target].dtype if dtype.is_floating_point and target in state and not plan else dtype

    pieces: dict[str, list[Piece]] = {}
    for target, names in _names_by_target(model, list(tensors), renamings, converters, state).items():
        if (stacked := _stacked(target, names, tensors, converters, state)) is not None:
            shape, sources = stacked
            pieces[target] = [Piece(target, dtype_of(target, sources[0].dtype), shape, sources)]
            continue
        pieces[target] = []
        for name in (name for group in names.values() for name in group):
            tensor = tensors[name]
            pieces[target].append(Piece(name, dtype_of(target, tensor.dtype), tensor.shape, (tensor,)))
    return pieces


def _names_by_target(
    model: PreTrainedModel,
    names: list[str],
    renamings: list[WeightRenaming],
    converters: list[WeightConverter],
    state: dict[str, torch.Tensor],
) -> dict[str, dict[str | None, list[str]]]:
    """Return the stored names by name in the model, and there by the converter's pattern that they match (or None)."""
    found: dict[str, dict[str | None, list[str]]] = {}
    # In the loader's order: expert 2 before expert 10, since the order is the place in the stacked tensor.
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        # As the loader does: a rule for other layouts of the family may rename what already has the model's name.
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        found.setdefault(target, {}).setdefault(pattern, []).append(name)
    return found


def _stacked(
    target: str,
    names: dict[str | None, list[str]],
    tensors: dict[str, TensorRange],
    converters: list[WeightConverter],
    state: dict[str, torch.Tensor],
) -> tuple[tuple[int, ...], tuple[TensorRange, ...]] | None:
    """Return shape and sources, in order, of a tensor stacked from experts; None when it comes about in another way."""
    converter = next((entry for entry in converters if set(names) == set(entry.source_patterns)), None)
    if converter is None or [type(step).__name__ for step in converter.operations] not in STACKED:
        return None
    # Only along these axes do the sources lie one after the other in the result: expert by expert, gate before up.
    if [getattr(step, "dim", None) for step in converter.operations] != [0, 1][: len(converter.operations)]:
        return None
    experts = list(zip(*(names[pattern] for pattern in converter.source_patterns)))
    sources = tuple(tensors[name] for expert in experts for name in expert)
    # `zip` ends with the shortest list, so fewer sources than names mean an expert that lacks a tensor.
    if len(sources) != sum(map(len, names.values())) or len({(s.dtype, s.shape[1:]) for s in sources}) > 1:
        return None
    rows = {sum(tensors[name].shape[0] for name in expert) for expert in experts}
    shape = (len(experts), *rows, *sources[0].shape[1:])
    return (shape, sources) if target in state and shape == tuple(state[target].shape) else None


def read_exactly(file: io.FileIO, room: memoryview, source: TensorRange) -> None:
    """Fill `room` from a file; raise InputError when the file ends before."""
    filled = 0
    while filled < len(room):  # Linux reads at most 2 GiB a call
        count = file.readinto(room[filled:])
        if not count:
            raise InputError(
                source.file,
                f"a tensor of {source.size} bytes at {source.offset}",
                "the end of the file",
                "did it change?",
            )
        filled += count


def _read_tensor(source: TensorRange, target: torch.Tensor, window: torch.Tensor) -> None:
    """Read a stored tensor into `target` [values], on the host; where its dtype is another one, through `window`."""
    stored = TORCH_DTYPES[source.dtype]
    with open(source.file, "rb", buffering=0) as file:
        file.seek(source.offset)
        if stored == target.dtype:
            read_exactly(file, target.view(torch.uint8).numpy().data, source)
            return
        step = len(window) // stored.itemsize
        for first in range(0, len(target), step):
            values = min(step, len(target) - first)
            part = window[: values * stored.itemsize]
            read_exactly(file, part.numpy().data, source)
            target[first : first + values] = part.view(stored)


def read_pieces(pieces: list[Piece], buffer: torch.Tensor) -> dict[str, torch.Tensor]:
    """Read tensors into a buffer, uint8 [memory_size(pieces) or more], at aligned places; return views of it by name.

    Raises InputError when a file ends before its tensor.
    """
    views, start = {}, 0
    window = torch.empty(READ_BYTES, dtype=torch.uint8)  # takes no memory until it is written to
    for piece in pieces:
        flat, written = buffer[start : start + piece.size].view(piece.dtype), 0
        for source in piece.sources:
            values = math.prod(source.shape)
            _read_tensor(source, flat[written : written + values], window)
            written += values
        views[piece.name] = flat.reshape(piece.shape)
        start += memory_size([piece])
    return views
