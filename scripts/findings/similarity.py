"""Cosines between the experts of one layer: of their weights, and of their outputs on the same tokens.

All is done in blocks, so that beside the layer itself tens of megabytes are enough. Products are taken in fp32 and
added up in fp64.
"""

import math

from analysis.expert_observer import ExpertsModule, routed_outputs
from files.input_errors import InputError
from findings.sampling import interval_of_mean

import numpy as np
import torch

BLOCK_BYTES = 64 << 20
CARD_COSINE = 0.05  # the largest cosine between expert weights that the reference model's card names


def matrices_of(module: ExpertsModule) -> dict[str, torch.Tensor]:
    """Return the stacked weights of a layer's experts by name, [experts, ...] each."""
    names = ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")
    return {name: getattr(module, name) for name in names}


def gram(weights: torch.Tensor) -> np.ndarray:
    """Return the inner products of all experts' weights, fp64 [experts, experts]; weights: [experts, ...]."""
    flat = weights.reshape(len(weights), -1)
    step = max(1, BLOCK_BYTES // (4 * len(flat)))
    total = np.zeros((len(flat), len(flat)))
    for first in range(0, flat.shape[1], step):
        # In bf16 the products would keep three digits; in fp64 the weights would take four times their memory.
        block = flat[:, first : first + step].float()
        total += (block @ block.T).double().cpu().numpy()
    return total


def cosines(products: np.ndarray) -> np.ndarray:
    """Return the cosines of inner products [experts, experts]; those of a vector of zeros are NaN."""
    lengths = np.sqrt(np.diagonal(products))
    scale = np.outer(lengths, lengths)
    return np.divide(products, scale, out=np.full(products.shape, np.nan), where=scale > 0)


def weight_figures(layer: int, matrix: str, weights: torch.Tensor) -> dict:
    """Return the cosines between a layer's experts by one matrix, as the record's `WeightLayer`.

    A pair with an expert whose weights are all 0 is left out. Raises InputError when no pair is left.
    """
    one, other = np.triu_indices(len(weights), 1)
    values = cosines(gram(weights))[one, other]
    there = np.flatnonzero(np.isfinite(values))
    if not there.size:
        raise InputError(f"layer {layer}", f"weights of {matrix} that are finite and not 0", "none of two experts")
    largest = there[np.abs(values[there]).argmax()]
    size = math.prod(weights.shape[1:])
    return {
        "layer": layer,
        "matrix": matrix,
        "size": size,
        "pairs": int(there.size),
        "mean": float(values[there].mean()),
        "largest": float(values[largest]),
        "pair": [int(one[largest]), int(other[largest])],
        "above": int((np.abs(values[there]) > CARD_COSINE).sum()),
        "chance": size**-0.5,  # the standard deviation of the cosine of two independent directions
    }


def all_outputs(module: ExpertsModule, hidden: torch.Tensor) -> torch.Tensor:
    """Return the output of every expert for every token, [tokens, experts, hidden] fp32; hidden: [tokens, hidden]."""
    every = torch.arange(module.num_experts, device=hidden.device).expand(len(hidden), -1)
    outputs, place = routed_outputs(module, hidden, every)
    return outputs[place].float()


def output_cosines(
    module: ExpertsModule, inputs: np.ndarray, chosen: np.ndarray, like: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines of all pairs of experts for each token, and the mean over the pairs that the router chose.

    inputs: fp32 [tokens, hidden]; chosen: int [tokens, k]; like: a tensor of the dtype and device to compute with.
    Returns fp32 [tokens, pairs] in the order of triu_indices, and fp64 [tokens]; NaN where an output is 0 or not
    finite.
    """
    one, other = np.triu_indices(module.num_experts, 1)
    first, second = np.triu_indices(chosen.shape[1], 1)
    step = max(1, BLOCK_BYTES // (4 * module.num_experts * max(inputs.shape[1], module.num_experts)))
    pairs, own = np.empty((len(inputs), one.size), np.float32), np.full(len(inputs), np.nan)
    for start in range(0, len(inputs), step):
        block = slice(start, start + step)
        outputs = all_outputs(module, torch.from_numpy(inputs[block]).to(like))
        directions = outputs / torch.linalg.vector_norm(outputs, dim=-1, keepdim=True)
        found = (directions @ directions.transpose(1, 2)).cpu().numpy()
        # Neither an output of 0 nor one that overflowed has a direction: both are left out.
        found[~np.isfinite(found)] = np.nan
        pairs[block] = found[:, one, other]
        ids = chosen[block]
        picked = found[np.arange(len(ids))[:, None], ids[:, first], ids[:, second]]
        own[block] = picked.mean(axis=1) if first.size else np.nan
    return pairs, own


def output_figures(
    layer: int, pairs: np.ndarray, chosen: np.ndarray, groups: np.ndarray, experts: int, draws: tuple[int, int]
) -> dict:
    """Return the cosines between outputs as the record's `OutputLayer`.

    pairs, chosen: what `output_cosines` returned; groups: the question of each token; draws: resamples and seed.
    Raises InputError when no pair has a cosine.
    """
    there = np.isfinite(pairs)
    if not there.any():
        raise InputError(f"layer {layer}", "outputs of experts that are finite and not 0", "none on the sampled tokens")
    counts = there.sum(axis=0)
    # Means over what is there; np.nanmean would warn of a pair without any, and that must not win.
    sums = np.where(there, pairs, 0).sum(axis=0, dtype=np.float64)
    largest = int(np.divide(sums, counts, out=np.full(counts.shape, -np.inf), where=counts > 0).argmax())
    per_token = np.divide(
        np.where(there, pairs, 0).sum(axis=1, dtype=np.float64),
        there.sum(axis=1),
        out=np.full(len(pairs), np.nan),
        where=there.any(axis=1),
    )
    one, other = np.triu_indices(experts, 1)
    return {
        "layer": layer,
        "tokens": int(there.any(axis=1).sum()),
        "mean": interval_of_mean(per_token, groups, *draws),
        "chosen": interval_of_mean(chosen, groups, *draws),
        "largest": interval_of_mean(pairs[:, largest].astype(np.float64), groups, *draws),
        "pair": [int(one[largest]), int(other[largest])],
    }
