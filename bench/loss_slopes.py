"""What swaps of experts would cost, estimated for all of them at once from gradients of the measured loss.

With fewer experts a token's expert output changes by D. The loss then changes by about g D + (y D)^2 / 2: g is the
loss's gradient with respect to that output, y the gradient of -log p(a token drawn from the model's own distribution),
whose squares are the Fisher information, the curvature of the KL divergence (averaged over some draws). Both products
are needed only with the outputs of single experts, one number for each token and expert. Tokens count one by one here.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from masked_model import MaskedModel, Masks, one_by_one
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

DRAWS = 2  # of a token from the model's own distribution


@dataclass(frozen=True)
class LayerSlopes:
    """One layer: products of every expert's output with the gradients, for each token.

    scores: [tokens, experts] fp32, the router's logits; scale: [experts]; slopes: [1 + DRAWS, tokens, experts] fp32,
    with g first and then y.
    """

    scores: torch.Tensor
    scale: torch.Tensor
    slopes: torch.Tensor

    def weighted(self, sets: torch.Tensor) -> torch.Tensor:
        """Return the products with the whole expert output, [1 + DRAWS, ...], of tokens whose experts are `sets`.

        sets: [tokens, ..., k].
        """
        rows = torch.arange(len(sets)).reshape(-1, *[1] * (sets.ndim - 1))
        weights = torch.softmax(self.scores[rows, sets], dim=-1) * self.scale[sets]
        return torch.stack([(slope[rows, sets] * weights).sum(-1) for slope in self.slopes])


def with_probes(probes: list[torch.Tensor], seen: list[torch.Tensor]) -> Any:
    """Return a stand-in for the layers' experts that adds a probe of zeros, and keeps what reaches the experts."""

    def run(module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        experts, order = torch.sort(index.reshape(-1))
        tokens, counts = order // index.shape[1], torch.bincount(experts, minlength=module.num_experts).tolist()
        parts = [
            module._apply_gate(some @ module.gate_up_proj[expert].T) @ module.down_proj[expert].T
            for expert, some in enumerate(hidden[tokens].split(counts))
        ]
        outputs = torch.cat(parts) * weights.reshape(-1)[order, None]
        probe = torch.zeros_like(hidden, requires_grad=True)
        probes.append(probe)
        seen.append(hidden.detach())
        return torch.zeros_like(hidden).index_add(0, tokens, outputs) + probe

    return run


def gradients(model: MaskedModel, masks: Masks, counted: torch.Tensor) -> tuple[list[Any], list[Any], list[Any]]:
    """Return for each layer the gradients [1 + DRAWS, tokens, hidden], inputs of the experts, and router logits.

    counted: bool [scored positions], those whose loss is meant.
    """
    probes: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    scores: list[torch.Tensor] = []
    hooks = [
        layer.router.proj.register_forward_hook(lambda proj, given, _: scores.append(given[0].detach() @ proj.weight.T))
        for layer in model.layers
    ]
    ALL_EXPERTS_FUNCTIONS.register("one_by_one", with_probes(probes, seen))
    with model.choosing(masks):
        logits = model.logits()[counted]
    ALL_EXPERTS_FUNCTIONS.register("one_by_one", one_by_one)
    for hook in hooks:
        hook.remove()
    logs = torch.log_softmax(logits, dim=-1)
    targets = [-(torch.softmax(model.full[counted], dim=-1) * logs).sum()]
    for _ in range(DRAWS):
        drawn = torch.multinomial(logs.detach().exp(), 1)
        targets.append(-logs.gather(1, drawn).sum())
    found = [torch.autograd.grad(target, probes, retain_graph=target is not targets[-1]) for target in targets]
    return [torch.stack(each) for each in zip(*found)], seen, scores


def slopes_of(model: MaskedModel, masks: Masks, counted: torch.Tensor) -> Iterator[LayerSlopes]:
    """Yield the slopes of each layer at the given masks."""
    found = gradients(model, masks, counted)
    real = model.there.reshape(-1).bool()
    for layer, slopes, hidden, scores in zip(model.layers, *found):
        experts, gradient, reaching = layer.experts, slopes[:, real], hidden[real]
        products = torch.empty(len(gradient), len(reaching), model.experts)
        for expert in range(model.experts):
            inner = experts._apply_gate(reaching @ experts.gate_up_proj[expert].T)
            products[:, :, expert] = ((gradient @ experts.down_proj[expert]) * inner).sum(-1)
        yield LayerSlopes(scores.reshape(-1, model.experts)[real], layer.router.per_expert_scale, products)


def swap_costs(layer: LayerSlopes, mask: np.ndarray, top_k: int) -> np.ndarray:
    """Return by how much the summed loss would rise, [experts, experts], when one comes back and another one goes.

    inf where the first is there already or the second is not.
    """
    kept, experts = torch.from_numpy(mask), len(mask)
    own = layer.weighted(layer.scores.masked_fill(~kept, -torch.inf).topk(top_k).indices)
    others = torch.tensor([[place for place in range(top_k + 1) if place != gone] for gone in range(top_k)])

    def rise(sets: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        change = layer.weighted(sets) - own
        return change[0] + change[1:].square().mean(0) / 2

    costs = np.full((experts, experts), np.inf)
    for back in torch.where(~kept)[0].tolist():
        alive = kept.clone()
        alive[back] = True
        best = layer.scores.masked_fill(~alive, -torch.inf).topk(top_k + 1).indices
        now = rise(best[:, :top_k], own)
        without = rise(best[:, others], own[..., None]) - now[:, None]
        total = torch.zeros(experts, dtype=torch.float64)
        total.index_add_(0, best[:, :top_k].reshape(-1), without.reshape(-1).double())
        costs[back] = np.where(mask, now.double().sum().item() + total.numpy(), np.inf)
    return costs
