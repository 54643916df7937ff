"""The logits that transformers computes from a checkpoint on the CPU, for a short text."""

import gc
import math
from collections.abc import Callable
from pathlib import Path

from analysis.decoder import build_empty, load_resident
from analysis.layer_stream import LayerStream, release_free_memory
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError

import numpy as np
import torch
from torch import nn

ROUTERS = {"router", "gate"}  # as the families call them
ROWS = 4096  # of an embedding that are compared at once


def round_weights(part: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights that a part has to those of a dtype, and leave them in their own."""
    for parameter in part.parameters():
        if dtype != parameter.dtype and not parameter.is_meta:
            parameter.copy_(parameter.to(dtype))


def with_digits(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return numbers rounded to so many binary digits, whatever their size."""
    digits, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(digits * 2**bits) / 2**bits, exponent)


def rounded_matrices(part: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of a part, but for those of routers: these and vectors are F32 in a GGUF file of any type."""
    return [
        parameter
        for name, parameter in part.named_parameters()
        if parameter.dim() > 1 and not parameter.is_meta and not ROUTERS & {*name.split(".")}
    ]


def round_digits(part: nn.Module, bits: int) -> None:
    """Round the matrices of a part to so many binary digits; see `rounded_matrices`."""
    for matrix in rounded_matrices(part):
        matrix.copy_(with_digits(matrix, bits))


def lost_in_f16(part: nn.Module) -> float:
    """Return the largest share of its norm that a matrix of a part loses in F16, an expert's own by itself.

    Rounding alone costs 2^-11 at most; more is lost where numbers are too small or too large for F16.
    """
    worst = 0.0
    for stored in rounded_matrices(part):
        for matrix in stored if stored.dim() > 2 else [stored]:
            lost = norm = 0.0
            for rows in matrix.split(ROWS):
                lost = math.hypot(lost, (rows - rows.half().to(rows.dtype)).norm().item())
                norm = math.hypot(norm, rows.norm().item())
            worst = max(worst, lost / norm if norm else 0.0)
    return min(worst, 1.0)  # what is too large becomes infinite


@torch.inference_mode()
def checkpoint_logits(
    directory: Path,
    tensors: dict[str, TensorRange],
    ids: list[int],
    change: Callable[[nn.Module], None],
    computed_in: torch.dtype = torch.float32,
    between: Callable[[torch.Tensor], torch.Tensor] = lambda hidden: hidden,
) -> np.ndarray:
    """Return the logits after each of `ids`, fp32 [tokens, vocabulary].

    tensors: of the checkpoint, which must be known to be whole; change: called with each part, and again with what has
    its weights already, before it runs; between: makes of the hidden states that leave a layer those that enter the
    next. One layer at a time is in memory, embedding and head beside the last; of a model whose layers need more than
    the one before, the whole model, and then nothing comes between.
    """
    text = torch.tensor([ids])
    model = build_empty(directory, computed_in, "eager")
    try:
        stream = LayerStream(directory, tensors, model, torch.device("cpu"))
    except InputError:
        whole = load_resident(directory, computed_in, "eager", None)
        change(whole)
        return whole(input_ids=text, use_cache=False).logits[0].float().numpy()
    stream.load_embedding()
    change(model)
    hidden = stream.embed(text, None)
    stream.free_embedding()
    last = len(stream.layers) - 1
    for layer in range(last + 1):
        stream.load_layer(layer, layer + 1 if layer < last else None)
        change(stream.layers[layer])
        hidden = between(stream.run_layer(layer, hidden, None))
        stream.free_layer(layer)
    stream.load_head()
    change(model)
    logits = stream.logits(text, hidden)[0].float().numpy()
    del stream, model
    gc.collect()  # the two hold each other, and gigabytes
    release_free_memory()
    return logits
