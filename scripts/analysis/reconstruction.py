"""The order in which each layer's experts are dropped by reconstruction, from the sampled tokens of an analysis.

One layer's weights are in memory at a time, where the layers are streamed. All its experts run on the sampled tokens,
some tokens at a time, and only the inner products of their outputs stay (choice/elimination.py). A finished layer is
kept in the state of the analysis.
"""

from pathlib import Path
from typing import Any, cast

from analysis.expert_observer import ExpertsModule, expert_modules, routed_outputs
from analysis.layer_stream import LayerStream
from analysis.sampled_tokens import CHOSEN, GIVEN, INPUTS, SCORES, router_modules
from choice.elimination import LayerTokens, eliminate, weights_of
from files.input_errors import InputError
from files.json_records import Count, Fields, check_fields, read_json
from files.seals import check_kept, is_kept
from files.written_records import write_json

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

CHUNK_BYTES = 128 << 20  # outputs of all experts for some tokens, in fp32
NORM_AFTER = (
    "post_feedforward_layernorm_2"  # Gemma 4 norms what its experts put out; the other families add it as it is
)
TOLERANCE = 0.02  # of a routing weight: bf16 has 8 significant bits
TIE = 1e-4  # of a logit
ALIKE = 0.99  # share of the tokens that must fit


class Eliminated(Fields):
    """A finished layer: when each expert goes, and by how much that changes the layer's output."""

    rank: list[Count]
    error: list[float]


def norm_after(model: PreTrainedModel, layer: int) -> Any:
    """Return the norm that a layer's expert output passes, None without one."""
    module = expert_modules(model)[layer]
    path = next(name for name, found in model.named_modules() if found is module)
    return getattr(model.get_submodule(path.rpartition(".")[0]), NORM_AFTER, None)


@torch.inference_mode()
def products_of(
    module: ExpertsModule, hidden: torch.Tensor, weight: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the inner products of all experts' outputs for each token, [tokens, experts, experts] fp32.

    hidden: [tokens, hidden]; weight: [hidden] of the norm that follows. The second array is of outputs times `weight`,
    None without one.
    """
    experts, width = module.num_experts, hidden.shape[1]
    step = max(1, CHUNK_BYTES // (experts * width * 4))
    shape = (len(hidden), experts, experts)
    # Filled in place: joined at the end, they would lie in memory twice.
    plain = np.empty(shape, np.float32)
    normed = None if weight is None else np.empty(shape, np.float32)
    every = torch.arange(experts, device=hidden.device)
    for first in range(0, len(hidden), step):
        some = hidden[first : first + step]
        outputs, place = routed_outputs(module, some, every.expand(len(some), experts))
        each = outputs[place.reshape(-1)].view(len(some), experts, -1).float()
        plain[first : first + step] = (each @ each.mT).cpu().numpy()
        if normed is not None and weight is not None:
            each *= weight.float()
            normed[first : first + step] = (each @ each.mT).cpu().numpy()
    return plain, normed


def logits_of(scores: np.ndarray) -> np.ndarray:
    """Return a router's scores as logits, fp64; some families record their softmax instead."""
    values = scores.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(values, np.finfo(np.float32).tiny))
    return values


def is_renormalised(layer: int, logits: np.ndarray, scale: np.ndarray, chosen: np.ndarray, given: np.ndarray) -> bool:
    """Tell whether the weights of the chosen experts are made to add up to 1.

    chosen, given: [tokens, k], experts and weights as the model had them. Raises InputError when no softmax over the
    router's scores gives them: the weights after a drop could not be known then.
    """
    # By scores and not by numbers: scores of bf16 products are often equal, and any of those may be taken.
    least = np.take_along_axis(logits, chosen, axis=1).min(axis=1)
    best = least >= np.sort(logits, axis=1)[:, -chosen.shape[1]] - TIE
    alive = np.ones(logits.shape[1], bool)
    for renormalised in (True, False):
        found = weights_of(logits, scale, renormalised, np.arange(len(logits)), chosen, alive)
        far = np.abs(found - given).max(axis=1) / np.abs(given).max(axis=1)
        if (best & (far <= TOLERANCE)).mean() >= ALIKE:
            return renormalised
    wanted = "a router that takes the largest of a softmax over its experts"
    raise InputError(f"layer {layer}", wanted, "another", "choose by another criterion")


def layer_tokens(
    model: PreTrainedModel, layer: int, row: int, sampled: dict[str, np.ndarray], weights: np.ndarray
) -> LayerTokens:
    """Return what one layer, whose weights are in memory, makes of the sampled tokens; row: of the layer in arrays."""
    module, norm = expert_modules(model)[layer], norm_after(model, layer)
    experts = module.num_experts
    logits = logits_of(sampled[SCORES][:, row, :experts])
    router = router_modules(model)[layer][0]
    factor = getattr(router, "per_expert_scale", None)
    scale = np.ones(experts) if factor is None else factor.detach().double().cpu().numpy()
    renormalised = is_renormalised(layer, logits, scale, sampled[CHOSEN][:, row], sampled[GIVEN][:, row])
    like = cast(nn.Module, module).get_parameter("down_proj")
    hidden = torch.from_numpy(sampled[INPUTS][:, row]).to(like.device, like.dtype)
    plain, normed = products_of(module, hidden, None if norm is None else norm.weight)
    arrays = [array for array in (logits, plain, normed) if array is not None]
    # One token after the other: a mask over all products would be a quarter of their size.
    whole = np.array([all(np.isfinite(array[token]).all() for array in arrays) for token in range(len(weights))])
    if not whole.any():
        raise InputError(f"layer {layer}", "sampled tokens with finite outputs", "none", "try --dtype float32")
    if not whole.all():
        logits, plain, weights = logits[whole], plain[whole], weights[whole]
        normed = None if normed is None else normed[whole]
    eps = 0.0 if norm is None else float(norm.eps)
    return LayerTokens(logits, scale, renormalised, plain, normed, hidden.shape[1], eps, weights / weights.sum())


def eliminate_layers(
    runner: PreTrainedModel | LayerStream, sampled: dict[str, np.ndarray], weights: np.ndarray, directory: Path
) -> dict[str, np.ndarray]:
    """Return `elimination_rank` and `elimination_error` of choice/expert_stats.py.

    sampled: arrays [tokens, layers, ...] by name; directory: where finished layers are kept.
    """
    stream = runner if isinstance(runner, LayerStream) else None
    model = runner.model if isinstance(runner, LayerStream) else runner
    modules = expert_modules(model)
    paths = {layer: directory / f"elimination-{layer:06d}.json" for layer in modules}
    left = [layer for layer in modules if not is_kept(paths[layer])]
    shape = (len(modules), max(module.num_experts for module in modules.values()))
    ranks, errors = np.zeros(shape, np.int64), np.zeros(shape)
    for row, layer in enumerate(tqdm(modules, desc="experts dropped by reconstruction", unit="layer", disable=None)):
        if layer in left:
            following = left[left.index(layer) + 1 :]
            if stream:
                stream.load_layer(layer, following[0] if following else None)
            tokens = layer_tokens(model, layer, row, sampled, weights)
            rank, error = eliminate(tokens, sampled[CHOSEN].shape[2])
            write_json(paths[layer], {"rank": rank.tolist(), "error": error.tolist()})
            if stream:
                stream.free_layer(layer)
        check_kept(paths[layer])
        found = read_json(paths[layer])
        check_fields(paths[layer], found, Eliminated, "the order of a layer", "remove it")
        experts = modules[layer].num_experts
        if not len(found["rank"]) == len(found["error"]) == experts:
            raise InputError(paths[layer], f"{experts} ranks and errors", "another number", "remove it")
        ranks[row, :experts], errors[row, :experts] = found["rank"], found["error"]
    return {"elimination_rank": ranks, "elimination_error": errors}
