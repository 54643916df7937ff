"""Whether a stored pass (measured_model.py) can be one of these statistics and of this checkpoint.

The same forward pass gave the statistics, so the weighted norms must be theirs, and so must the number of norms. In
bf16 a norm changes in its ninth bit, and no sum by more. The cosines between weights need no pass: they are computed
again, a layer at a time. What nothing else shows are the outputs on the sampled tokens.
"""

import math
from pathlib import Path

from analysis.expert_observer import expert_modules
from analysis.layer_stream import LayerStream
from files.input_errors import InputError
from findings.similarity import matrices_of, weight_figures

import numpy as np
import torch
from transformers import PreTrainedModel

MEASURE_AGAIN = "measure again: make findings REPLACE=findings"
OTHER_MACHINE = 0.02  # share of all norms that may differ: another device or version adds up in another order
BF16_CHANGE = 0.01  # of a sum of norms; each norm changes by 2**-9 at most
COSINE_CHANGE = 1e-4


def check_stored_norms(path: Path, stats: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> None:
    """Raise InputError unless the arrays of a stored pass are those that the statistics allow."""
    norms, own = stats["weighted_norm_sum"], stored["weighted_norm_sum"]
    if norms.shape != own.shape or np.abs(norms - own).sum() > OTHER_MACHINE * np.abs(norms).sum():
        raise InputError(path, "the weighted norms of the statistics", "others", MEASURE_AGAIN)
    if not np.array_equal(stored["norms"], stats["token_count"].sum(axis=2)):
        raise InputError(path, "as many norms as the statistics count", "others", MEASURE_AGAIN)
    whole = (stored["bf16_nonfinite_norms"] + stored["nonfinite_norms"] == 0)[:, :, None]
    if (np.abs(stored["weighted_norm_bf16"] - own) * whole > BF16_CHANGE * own + 1e-9).any():
        raise InputError(path, "norms in bf16 near those in fp32", "others", MEASURE_AGAIN)


def check_stored_weights(path: Path, runner: PreTrainedModel | LayerStream, layers: list[dict]) -> None:
    """Raise InputError unless the cosines between weights of a stored pass come out of the checkpoint again."""
    stream = runner if isinstance(runner, LayerStream) else None
    model = runner.model if isinstance(runner, LayerStream) else runner
    for (layer, module), found in zip(expert_modules(model).items(), layers, strict=True):
        if stream:
            stream.load_layer(layer, None)
        with torch.inference_mode():
            again = [weight_figures(layer, name, weights) for name, weights in matrices_of(module).items()]
        if stream:
            stream.free_layer(layer)
        for mine, theirs in zip(again, found["weights"], strict=True):
            for key, value in mine.items():
                exact = not isinstance(value, float) or key == "chance"
                if theirs[key] != value if exact else not math.isclose(theirs[key], value, abs_tol=COSINE_CHANGE):
                    wanted = f"{key} {value} of {mine['matrix']} in layer {layer}, as the checkpoint has it"
                    raise InputError(path, wanted, str(theirs[key])[:60], MEASURE_AGAIN)
