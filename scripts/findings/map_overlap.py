"""How far two drop maps differ, against maps drawn without regard to each other.

In a layer of E experts, sets of a and b experts drawn by chance share a number of experts that is hypergeometric:
a b / E on average. Over the layers the numbers add up; their distribution is the convolution of the layers'.
"""

import numpy as np
from scipy.stats import hypergeom

Sets = dict[int, list[int]]  # expert ids by layer


def shared_by_chance(sizes: list[tuple[int, int]], experts: int) -> np.ndarray:
    """Return the probabilities of 0, 1, 2, ... shared experts over all layers; sizes: of both sets in each layer."""
    chances = np.ones(1)
    for one, other in sizes:
        chances = np.convolve(chances, hypergeom(experts, one, other).pmf(np.arange(min(one, other) + 1)))
    return chances


def quantile_of(chances: np.ndarray, part: float) -> int:
    """Return the smallest number whose cumulated probability reaches `part`; chances: of 0, 1, 2, ..."""
    # Sums of probabilities end a little below 1, and every part asked for lies below that.
    return int(np.searchsorted(chances.cumsum(), part - 1e-12))


def sets_overlap(one: Sets, other: Sets, experts: int) -> dict:
    """Return how far the sets of two maps differ, as the record's `Overlap`; both have the same layers.

    The share is of the smaller set, so that of two maps with different keep counts 0 is possible: one within the other.
    """
    layers = sorted(one)
    sizes = [(len(one[layer]), len(other[layer])) for layer in layers]
    shared = [len(set(one[layer]) & set(other[layer])) for layer in layers]
    chances, most = shared_by_chance(sizes, experts), sum(map(min, sizes))
    by_chance = sum(a * b / experts for a, b in sizes)
    high, low = quantile_of(chances, 0.975), quantile_of(chances, 0.025)
    return {
        "sizes": [sum(a for a, _ in sizes), sum(b for _, b in sizes)],
        "differ": 1 - sum(shared) / most if most else 0.0,
        "chance": 1 - by_chance / most if most else 0.0,
        "chance_interval": [1 - high / most, 1 - low / most] if most else [0.0, 0.0],
        "p": float(min(1.0, chances[sum(shared) :].sum())),
        "layers": [1 - count / min(pair) if min(pair) else 0.0 for count, pair in zip(shared, sizes)],
    }


def best_experts(scores: list[list], layers: list[int], top: int) -> Sets:
    """Return the `top` experts of each layer by score; ties go to the lower index. scores: [layers][experts]."""
    return {
        layer: sorted(np.argsort(-np.array(row), kind="stable")[:top].tolist()) for layer, row in zip(layers, scores)
    }


def map_pair(name: str, own: tuple[Sets, Sets | None], other: tuple[Sets, Sets | None], experts: int) -> dict:
    """Return another map against the run's own, as the record's `MapPair`; each: dropped ids, and the top experts."""
    kept = [{layer: sorted(set(range(experts)) - set(ids)) for layer, ids in each[0].items()} for each in (own, other)]
    pair = {
        "name": name,
        "keep_count": len(next(iter(kept[1].values()))),
        "dropped": sets_overlap(own[0], other[0], experts),
        "kept": sets_overlap(kept[0], kept[1], experts),
    }
    if own[1] is not None and other[1] is not None:
        pair["top"] = sets_overlap(own[1], other[1], experts)
    return pair
