"""The neurons of a dense SwiGLU layer, split into experts of equal size, in the form of a Mixtral layer.

Mixtral weights the chosen experts by a softmax over them, so the weights add up to 1. With a router of zeros and all
experts active each weight is 1 / experts; the down projection times the number of experts then gives the dense layer
again. A number of experts that is a power of two makes both exact in any float format. The other families cannot do
that: Qwen3-MoE and OLMoE norm queries and keys, which a Llama does not.

Neurons that are active on the same tokens go together, so that a token needs few experts. Balanced k-means: each step
gives every neuron to a centre by a linear assignment with as many places per centre as an expert has neurons. The idea
is that of MoEfication (Zhang et al. 2022, https://arxiv.org/abs/2110.01786) and its followers.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

CLUSTER_STEPS = 4


@dataclass(frozen=True)
class SplitLayer:
    """Experts in Mixtral's form: router [E, H], gate and up [E, W, H], down [E, H, W]."""

    router: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


def first_centres(features: torch.Tensor, experts: int) -> torch.Tensor:
    """Return unit features [neurons, D] of so many neurons, each as unlike the earlier ones as can be."""
    chosen = [0]
    nearest = features @ features[0]
    for _ in range(experts - 1):
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, features @ features[chosen[-1]])
    return features[chosen]


def balanced_clusters(features: torch.Tensor, experts: int) -> torch.Tensor:
    """Return the expert [neurons] of each neuron, all experts with equally many; features: [neurons, D]."""
    width = len(features) // experts
    unit = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    centres = first_centres(unit, experts)
    for _ in range(CLUSTER_STEPS):
        likeness = (unit @ centres.T).numpy()
        _, places = linear_sum_assignment(np.repeat(likeness, width, axis=1), maximize=True)
        of_neuron = torch.from_numpy(places // width)
        sums = torch.zeros_like(centres).index_add_(0, of_neuron, unit)
        centres = sums / sums.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return of_neuron


def split_layer(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, of_neuron: torch.Tensor) -> SplitLayer:
    """Return the layer that equals the dense one with all experts active. gate, up [neurons, H], down [H, neurons]."""
    experts, hidden = int(of_neuron.max()) + 1, gate.shape[1]
    order = torch.argsort(of_neuron, stable=True)
    return SplitLayer(
        torch.zeros(experts, hidden),
        gate[order].view(experts, -1, hidden),
        up[order].view(experts, -1, hidden),
        (down[:, order].view(hidden, experts, -1).transpose(0, 1) * experts).contiguous(),
    )


def layer_tensors(layer: SplitLayer, number: int) -> dict[str, torch.Tensor]:
    """Return a layer's tensors as Mixtral checkpoints name them."""
    place = f"model.layers.{number}.block_sparse_moe"
    tensors = {f"{place}.gate.weight": layer.router}
    for expert in range(len(layer.router)):
        for name, stacked in (("w1", layer.gate), ("w2", layer.down), ("w3", layer.up)):
            tensors[f"{place}.experts.{expert}.{name}.weight"] = stacked[expert].clone()
    return tensors
