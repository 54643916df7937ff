"""Backward elimination: drop the expert whose loss the layer's output feels least, one after the other.

After every drop the router takes the next-best experts, so the order knows which experts stand in for which. The error
of a token is the squared distance of the layer's expert output from that of the full layer. Where a norm follows the
experts (Gemma 4), both outputs pass it first, for what comes after sees nothing else.

Outputs are never held: a token's errors follow from the inner products of its experts' outputs. Those are
8 bytes * experts^2 a token, however wide the model is.

Greedy backward elimination is old (Marill and Green 1963); a layer's output error as what is made least is that of
layer-wise pruning, and of Lu et al. 2024 for experts, https://arxiv.org/abs/2402.14800, who try all subsets of 8.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerTokens:
    """Some tokens of one layer: what the router makes of them, and the inner products of their experts' outputs.

    scores: [tokens, experts] fp64, the router's logits (or their softmax's logarithm); scale: [experts] fp64, the
    factor of each expert's weight; renormalised: the weights of the chosen experts add up to 1 before that factor;
    products: [tokens, experts, experts] fp32, f_a(x) . f_b(x); normed: the same of outputs times the weight of the norm
    that follows, None without a norm; width: of an output; eps: the norm's; weights: [tokens] fp64, how much a token
    counts.
    """

    scores: np.ndarray
    scale: np.ndarray
    renormalised: bool
    products: np.ndarray
    normed: np.ndarray | None
    width: int
    eps: float
    weights: np.ndarray


def weights_of(
    scores: np.ndarray, scale: np.ndarray, renormalised: bool, rows: np.ndarray, sets: np.ndarray, alive: np.ndarray
) -> np.ndarray:
    """Return the weights that the router gives to experts, once it has only those in `alive`, bool [experts].

    scores, scale, renormalised: as in `LayerTokens`; rows: [n], of the tokens; sets: [n, ..., k], experts.
    """
    rows = rows.reshape(-1, *[1] * (sets.ndim - 1))
    chosen = scores[rows, sets]
    top = chosen.max(axis=-1, keepdims=True)
    powers = np.exp(chosen - top)
    if renormalised:
        return powers / powers.sum(axis=-1, keepdims=True) * scale[sets]
    # Else the softmax runs over all experts that are left.
    left = np.exp(np.where(alive, scores[rows[..., 0]], -np.inf) - top).sum(axis=-1, keepdims=True)
    return powers / left * scale[sets]


class Elimination:
    """One layer's elimination: which experts are left, the chosen ones of each token, and what each drop would cost."""

    def __init__(self, layer: LayerTokens, top_k: int) -> None:
        """Start with all experts."""
        self.layer, self.top_k = layer, top_k
        tokens, experts = layer.scores.shape
        self.alive = np.ones(experts, bool)
        # Stable, so that equal scores go to the lower index as in torch.topk on a CPU.
        self.order = np.argsort(-layer.scores, axis=1, kind="stable")
        every = np.arange(tokens)
        self.best = self.order[:, : top_k + 1].copy()  # the chosen experts, and the one that would be next
        full = self._weights(every, self.best[:, :top_k])
        self.full = np.zeros((tokens, experts))
        np.put_along_axis(self.full, self.best[:, :top_k], full, axis=1)
        seen = layer.products if layer.normed is None else layer.normed
        self.toward = np.einsum("tab,tb->ta", seen, self.full)  # product of each expert's output with the full output
        self.own = (self.toward * self.full).sum(axis=1)
        self.full_size = self._size(every, self.best[:, :top_k], full)
        self.others = np.array([[place for place in range(top_k + 1) if place != gone] for gone in range(top_k)])
        self.error = np.zeros(tokens)
        self.rise = np.zeros((tokens, top_k))
        self.aside = np.zeros((0 if layer.renormalised else tokens, experts))  # what the drop of others costs a token
        self._weigh(every)

    def _size(self, rows: np.ndarray, sets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the root mean square that the norm divides by, 1 without a norm."""
        if self.layer.normed is None:
            return np.ones(sets.shape[:-1])
        return np.sqrt(self._square(self.layer.products, rows, sets, weights) / self.layer.width + self.layer.eps)

    @staticmethod
    def _square(products: np.ndarray, rows: np.ndarray, sets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the squared norm of the weighted sum of outputs."""
        rows = rows.reshape(-1, *[1] * sets.ndim)
        own = products[rows, sets[..., :, None], sets[..., None, :]].astype(np.float64)
        return np.einsum("...a,...ab,...b->...", weights, own, weights)

    def _weights(self, rows: np.ndarray, sets: np.ndarray) -> np.ndarray:
        layer = self.layer
        return weights_of(layer.scores, layer.scale, layer.renormalised, rows, sets, self.alive)

    def errors(self, rows: np.ndarray, sets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return each token's error when its experts are `sets`, [n, ..., k], with `weights` of that shape."""
        seen = self.layer.products if self.layer.normed is None else self.layer.normed
        size = self._size(rows, sets, weights)
        wide = rows.reshape(-1, *[1] * (sets.ndim - 1))
        toward = (weights * self.toward[wide, sets]).sum(axis=-1)
        full_size, own = self.full_size[wide[..., 0]], self.own[wide[..., 0]]
        return self._square(seen, rows, sets, weights) / size**2 - 2 * toward / (size * full_size) + own / full_size**2

    def _weigh(self, rows: np.ndarray) -> None:
        """Set what it costs the tokens `rows` to lose each of their chosen experts."""
        k = self.top_k
        sets = self.best[rows, :k]
        weights = self._weights(rows, sets)
        now = self.errors(rows, sets, weights)
        without = self.best[rows][:, self.others]  # [n, k, k]
        lacking = self._weights(rows, without)
        if not self.layer.renormalised:
            # The softmax loses the expert that goes, too, chosen or not: the others' weights grow by 1 / (1 - share).
            growth = self._growth(rows)
            lacking *= np.take_along_axis(growth, sets, axis=1)[..., None]
            every = np.broadcast_to(sets[:, None], (len(rows), len(self.alive), k))
            grown = self.errors(rows, every, weights[:, None] * growth[..., None]) - now[:, None]
            np.put_along_axis(grown, sets, 0, axis=1)
            self.aside[rows] = grown * self.layer.weights[rows, None]
        self.error[rows] = now * self.layer.weights[rows]
        self.rise[rows] = (self.errors(rows, without, lacking) - now[:, None]) * self.layer.weights[rows, None]

    def _growth(self, rows: np.ndarray) -> np.ndarray:
        """Return by what a softmax over the experts that are left grows when one goes, [n, experts]."""
        scores = np.where(self.alive, self.layer.scores[rows], -np.inf)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        share = powers / powers.sum(axis=1, keepdims=True)
        return 1 / np.maximum(1 - share, np.finfo(np.float64).eps)

    def costs(self) -> np.ndarray:
        """Return by how much the error rises with the drop of each expert, [experts]; inf for those that are gone."""
        experts = len(self.alive)
        cost = np.bincount(self.best[:, : self.top_k].reshape(-1), self.rise.reshape(-1), minlength=experts)
        return np.where(self.alive, cost + self.aside.sum(axis=0), np.inf)

    def drop(self, expert: int) -> None:
        """Drop an expert; the tokens that had it, or had it next, route again."""
        self.alive[expert] = False
        self._route(np.flatnonzero((self.best == expert).any(axis=1)))

    def _route(self, rows: np.ndarray) -> None:
        """Choose the experts of the tokens `rows` again, among those that are left."""
        order = self.order[rows]
        left = self.alive[order]
        place = np.argsort(~left, axis=1, kind="stable")[:, : self.top_k + 1]
        self.best[rows] = np.take_along_axis(order, place, axis=1)
        self._weigh(rows if self.layer.renormalised else np.arange(len(self.order)))


def eliminate(layer: LayerTokens, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Drop one expert after the other until `top_k` are left.

    Returns, both [experts]: how many went before each expert, int64, and the error once it is gone, fp64, as a share of
    the full output's mean square (of the last `top_k`: once they are alone). The last `top_k` are ranked by what the
    drop of each would cost if the dropped expert that scores best took its place; no choice depends on that, for at
    least `top_k` are kept. Of equal costs the expert goes that the router gives less, then the one of higher index.
    """
    experts = layer.scores.shape[1]
    if experts <= top_k:
        return np.arange(experts), np.zeros(experts)
    run = Elimination(layer, top_k)
    powers = np.exp(layer.scores - layer.scores.max(axis=1, keepdims=True))
    given = (powers / powers.sum(axis=1, keepdims=True)).T @ layer.weights
    rank, error = np.zeros(experts, np.int64), np.zeros(experts)
    whole = float((layer.weights * run.own / run.full_size**2).sum()) or 1.0  # 0 where no expert puts out anything
    for step in range(experts):
        cost = run.costs()
        gone = int(np.lexsort((-np.arange(experts), given, cost))[0])
        if step < experts - top_k:
            run.drop(gone)
        else:
            run.alive[gone] = False
        rank[gone], error[gone] = step, run.error.sum() / whole
    return rank, error
