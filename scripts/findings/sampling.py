"""Chance as it is used here: shuffled labels, questions drawn anew, and the intervals and p that follow."""

import numpy as np

TAILS = (0.025, 0.975)  # what a 95% interval leaves out, half on each side


def generator_of(*seed: int) -> np.random.Generator:
    """Return a generator of random numbers by name: default_rng may be another one some day."""
    return np.random.Generator(np.random.PCG64(seed))


def percentiles(values: np.ndarray) -> list[float]:
    """Return the middle 95% of values along the first axis, of one dimension: [low, high]."""
    return np.quantile(values, TAILS, axis=0).tolist()


def tail_p(value: float, by_chance: np.ndarray) -> float:
    """Return the p of a value as large by chance; by_chance: [shuffles].

    The value counts as one of the shuffles, so p is never 0 (Phipson and Smyth, 2010).
    """
    # Equal sums in another order differ in their last bits. A shuffle that changes nothing must count.
    return float((1 + (by_chance >= value - 1e-12).sum()) / (1 + by_chance.size))


def corrected(p: np.ndarray) -> np.ndarray:
    """Return p-values corrected for their number (Holm, 1979): by these, one false finding in all is 5% likely."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    result = np.empty_like(p)
    result[order] = np.minimum(raised, 1)
    return result


def draws_within(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return rows drawn anew with replacement, as many of each label as there are; labels: int [questions]."""
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([own[generator.integers(own.size, size=own.size)] for own in rows])


def interval_of_mean(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> list[float] | None:
    """Return the mean of values and its 95% interval by groups drawn anew: [mean, low, high].

    values: [n]; groups: int [n], values of one group (tokens of a question) are not independent. NaN values are left
    out; without any other there is no mean, and None is returned.
    """
    there = np.isfinite(values)
    values, number = values[there], np.unique(groups[there], return_inverse=True)[1]
    if not values.size:
        return None
    sums, counts = np.bincount(number, values), np.bincount(number)
    drawn = generator_of(seed).integers(sums.size, size=(resamples, sums.size))
    return [float(values.mean()), *percentiles(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))]
