"""What can be set in a layer in closed form after a drop, so that its output comes nearer to that of the full model.

Every fit is a least-squares problem in the change of some parameters, with a ridge that pulls the change to 0. The
ridge is the one that predicts best on chats that were left out; where none of them does better than no change, nothing
changes. The error is that of the expert output behind its norm (the layer's own output for `layer_scalar`), and
parameters whose effect is not linear take one Gauss-Newton step. All keep the sizes of the file: 0 bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from masked_model import Parts
from scipy.optimize import linear_sum_assignment

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # shares of the mean diagonal
FOLDS = 3
SIMILAR_TOKENS = 800


@dataclass(frozen=True)
class Passed:
    """What a layer did with the tokens of the choosing chats, [tokens, ...]: all fp32 but `chosen`.

    hidden: what reaches the experts; chosen, given, scores: [tokens, k], experts, their weights, and the router's
    logits; out: of the experts, before the norm; normed: behind it; after: the layer's output.
    """

    hidden: torch.Tensor
    chosen: torch.Tensor
    given: torch.Tensor
    scores: torch.Tensor
    out: torch.Tensor
    normed: torch.Tensor
    after: torch.Tensor


Fit = Callable[[Parts, torch.Tensor, Passed, Passed, torch.Tensor], None]


def inner_of(experts: Any, hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the experts' inner activations, [tokens, k, width]."""
    width = experts.down_proj.shape[-1]
    found = torch.empty(*chosen.shape, width)
    for expert in chosen.unique().tolist():
        rows, places = torch.where(chosen == expert)
        found[rows, places] = experts._apply_gate(hidden[rows] @ experts.gate_up_proj[expert].T)
    return found


def parts_of(experts: Any, passed: Passed) -> torch.Tensor:
    """Return what each chosen expert adds to the output, [tokens, k, hidden]."""
    inner = inner_of(experts, passed.hidden, passed.chosen) * passed.given[..., None]
    found = torch.empty(*passed.chosen.shape, passed.hidden.shape[-1])
    for expert in passed.chosen.unique().tolist():
        rows, places = torch.where(passed.chosen == expert)
        found[rows, places] = inner[rows, places] @ experts.down_proj[expert].T
    return found


def cross_validated(grams: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    """Return the change [n, m] by the best ridge of least squares with normal equations of each fold.

    grams: [folds, n, n]; sides: [folds, n, m], of the residual.
    """
    grams, sides = grams.double(), sides.double()
    gram, side = grams.sum(0), sides.sum(0)
    one = torch.eye(len(gram), dtype=torch.float64) * gram.diagonal().mean()

    def change(gram: torch.Tensor, side: torch.Tensor, ridge: float) -> torch.Tensor:
        return torch.cholesky_solve(side, torch.linalg.cholesky(gram + ridge * one))

    def error(ridge: float) -> float:  # less that of no change
        total = 0.0
        for own, wanted in zip(grams, sides):
            found = change(gram - own, side - wanted, ridge)
            total += float((found * (own @ found - 2 * wanted)).sum())
        return total

    errors = {ridge: error(ridge) for ridge in RIDGES}
    best = min(errors, key=lambda ridge: errors[ridge])
    return (change(gram, side, best) if errors[best] < 0 else torch.zeros_like(side)).float()


def by_expert(
    directions: torch.Tensor, chosen: torch.Tensor, residual: torch.Tensor, folds: torch.Tensor, experts: int
) -> torch.Tensor:
    """Return the best change of one number per expert, [experts]; directions: [tokens, k, hidden]."""
    places = chosen + folds[:, None] * experts
    grams = torch.zeros(FOLDS * experts * experts)
    pairs = places[:, :, None] * experts + chosen[:, None, :]
    grams.index_add_(0, pairs.reshape(-1), (directions @ directions.mT).reshape(-1))
    sides = torch.zeros(FOLDS * experts)
    sides.index_add_(0, places.reshape(-1), (directions @ residual[..., None]).reshape(-1))
    return cross_validated(grams.view(FOLDS, experts, experts), sides.view(FOLDS, experts, 1))[:, 0]


def size_of(values: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
    """Return the root mean square that a norm divides by, [tokens, 1]."""
    return (values.square().mean(-1, keepdim=True) + eps).sqrt()


def normed_of(layer: Parts, mine: Passed, theirs: Passed) -> torch.Tensor:
    """Return the expert output as what comes after it sees it.

    Without a norm of its own it is added to the layer's output, which the next layer norms. Plain, a few tokens of huge
    outputs would decide every fit.
    """
    return mine.normed if layer.norm is not None else mine.out / size_of(theirs.after)


def through_norm(layer: Parts, directions: torch.Tensor, mine: Passed, theirs: Passed) -> torch.Tensor:
    """Return how the normed output changes, to first order, where the output changes by `directions`."""
    if layer.norm is None:
        return directions / size_of(theirs.after)[:, None]
    size = size_of(mine.out, layer.norm.eps)[:, None]
    unit = mine.out[:, None] / size
    return (directions - unit * (directions * unit).mean(-1, keepdim=True)) / size * layer.norm.weight


def fit_scales(layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor) -> None:
    """Set `per_expert_scale`, or multiply `down_proj` where there is none."""
    steps = through_norm(layer, parts_of(layer.experts, mine), mine, theirs)
    residual = normed_of(layer, theirs, theirs) - normed_of(layer, mine, theirs)
    change = by_expert(steps, mine.chosen, residual, folds, len(mask))
    if layer.scale is not None:
        layer.scale.mul_(1 + change)
    else:
        layer.experts.down_proj.mul_(1 + change[:, None, None])


def fit_rows(layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor) -> None:
    """Scale the router's rows, the nearest thing to a bias that it has."""
    share = torch.softmax(mine.scores, dim=-1)[..., None]
    steps = (parts_of(layer.experts, mine) - share * mine.out[:, None]) * mine.scores[..., None]
    residual = normed_of(layer, theirs, theirs) - normed_of(layer, mine, theirs)
    change = by_expert(through_norm(layer, steps, mine, theirs), mine.chosen, residual, folds, len(mask))
    layer.router.weight.mul_(1 + change[:, None])


def fit_norm(layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor) -> None:
    """Set the weight of `post_feedforward_layernorm_2`."""
    weight = layer.norm.weight
    units, residual = mine.normed / weight, theirs.normed - mine.normed
    grams = torch.stack([units[folds == fold].square().sum(0).diag() for fold in range(FOLDS)])
    sides = torch.stack([(units * residual)[folds == fold].sum(0)[:, None] for fold in range(FOLDS)])
    weight.add_(cross_validated(grams, sides)[:, 0])


def fit_layer_scalar(layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor) -> None:
    """Set `layer_scalar`."""
    rest = theirs.after - mine.after
    grams = torch.stack([mine.after[folds == fold].square().sum().view(1, 1) for fold in range(FOLDS)])
    sides = torch.stack([(mine.after * rest)[folds == fold].sum().view(1, 1) for fold in range(FOLDS)])
    layer.module.layer_scalar.mul_(1 + cross_validated(grams, sides)[0])


def fold_outputs(layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor) -> None:
    """Fold what is missing into `down_proj` of all experts that stay, by one least-squares problem over all of them."""
    down = layer.experts.down_proj
    kept = torch.where(mask)[0]
    place = torch.cumsum(mask, 0) - 1
    size = size_of(theirs.after) if layer.norm is None else size_of(theirs.out, layer.norm.eps)
    inner = inner_of(layer.experts, mine.hidden, mine.chosen) * mine.given[..., None] / size[..., None]
    features = torch.zeros(len(inner), len(kept), inner.shape[-1])
    features[torch.arange(len(inner))[:, None], place[mine.chosen]] = inner
    features, residual = features.flatten(1), (theirs.out - mine.out) / size
    grams = torch.stack([features[folds == fold].T @ features[folds == fold] for fold in range(FOLDS)])
    sides = torch.stack([features[folds == fold].T @ residual[folds == fold] for fold in range(FOLDS)])
    change = cross_validated(grams, sides).view(len(kept), -1, down.shape[1])
    down[kept] += change.mT


def nearest_kept(layer: Parts, mask: torch.Tensor, theirs: Passed) -> np.ndarray:
    """Return for each expert the kept one whose outputs, times the router's weights of all experts, are most alike."""
    step = max(1, len(theirs.hidden) // SIMILAR_TOKENS)
    hidden, every = theirs.hidden[::step], torch.arange(len(mask))
    inner = inner_of(layer.experts, hidden, every.expand(len(hidden), -1))
    # The router's input is not kept: the experts' own differs from it by the weights of two norms.
    given = torch.zeros(len(hidden), len(mask)).scatter_(1, theirs.chosen[::step], theirs.given[::step])
    outputs = torch.einsum("tei,ehi->eth", inner, layer.experts.down_proj)
    flat = torch.nn.functional.normalize((outputs * (given.T[..., None] + 1e-3)).flatten(1), dim=1)
    alike = (flat @ flat.T).masked_fill(~mask, -torch.inf)
    return torch.where(mask, every, alike.argmax(1)).numpy()


def merge(
    layer: Parts, mask: torch.Tensor, mine: Passed, theirs: Passed, folds: torch.Tensor, matched: bool = True
) -> None:
    """Average each dropped expert's weights into the nearest kept one's, by their sums of routing weights, as REAM.

    matched: a dropped expert's neurons are first put into the order in which they are most like the kept one's.
    """
    experts = layer.experts
    scale = torch.ones(len(mask)) if layer.scale is None else layer.scale
    mass = torch.zeros(len(mask)).index_add_(0, theirs.chosen.reshape(-1), theirs.given.reshape(-1))
    nearest = nearest_kept(layer, mask, theirs)
    both = experts.gate_up_proj.view(len(mask), 2, -1, experts.gate_up_proj.shape[-1])
    neurons = torch.cat([both[:, 0], both[:, 1], experts.down_proj.mT], dim=-1)  # [experts, width, 3 * hidden]
    merged = neurons.clone()
    for kept in torch.where(mask)[0].tolist():
        group = np.flatnonzero(nearest == kept)
        share = mass[group] / mass[group].sum().clamp(min=1e-12)
        total = torch.zeros_like(neurons[kept])
        for expert, part in zip(group.tolist(), share):
            own = neurons[expert].clone()
            own[:, 2 * experts.hidden_dim :] *= scale[expert] / scale[kept]
            if matched and expert != kept:
                own = own[linear_sum_assignment((neurons[kept] @ own.T).numpy(), maximize=True)[1]]
            total += part * own
        merged[kept] = total if mass[kept] > 0 else neurons[kept]
    gate, up, down = merged.split(experts.hidden_dim, dim=-1)
    experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
    experts.down_proj.copy_(down.mT)
