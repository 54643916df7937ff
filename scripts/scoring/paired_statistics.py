"""Statistics of scores on one set of questions: intervals, paired tests, and what a set of this size could have shown.

Everything is per question: with several seeds a question's score is its mean over the seeds, so that a question asked
three times does not count as three questions.
"""

import numpy as np
from scipy.stats import norm

LEVEL = 0.95
POWER = 0.8
Z = float(norm.ppf(0.5 + LEVEL / 2))


def wilson(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the mean score; scores: [questions], 0 to 1.

    Wilson, 1927. With several seeds it takes the number of questions that would give right-or-wrong scores the same
    variance of the mean (effective sample size, Korn and Graubard, 1998); with one seed that is their number.
    """
    p, spread = float(scores.mean()), float(scores.var())
    n = p * (1 - p) / spread * scores.size if spread > 0 else scores.size
    centre, half = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return float((centre - half) / (1 + Z**2 / n)), float((centre + half) / (1 + Z**2 / n))


def sign_flip_tail(sizes: np.ndarray) -> np.ndarray:
    """Return P(|sum| >= s) for s = 0, 1, ..., sum(sizes), when every size gets a sign by a fair coin; sizes: whole numbers."""
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for size in sizes[sizes > 0]:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    both = chance[total:] + np.where(np.arange(total + 1) > 0, chance[total::-1], 0)
    return np.minimum(1.0, both[::-1].cumsum()[::-1])


def mcnemar(differences: np.ndarray) -> float:
    """Return the exact two-sided p of paired differences; differences: [questions], whole numbers.

    For -1, 0, 1 it is McNemar's exact test (binomial over the discordant questions); with several seeds, where the
    differences are sums over seeds, the same sign-flip test (Fisher, 1935) over questions.
    """
    return float(sign_flip_tail(np.abs(differences))[abs(int(differences.sum()))])


def difference_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper 95% limit of paired differences; differences: [questions], -1 to 1.

    Agresti and Min, 2005: half a question is added to each of the four cells, so no discordant question does not mean
    no doubt.
    """
    n, total = differences.size + 2, float(differences.sum())
    spread = float((differences**2).sum() + 1) / n - (total / n) ** 2
    half = Z * np.sqrt(spread / n)
    return float(differences.mean()), float(total / n - half), float(total / n + half)


def smallest_shown(differences: np.ndarray, seeds: int) -> float | None:
    """Return the smallest mean difference that the exact test would have called significant, or None if none could.

    differences: [questions], sums over `seeds` seeds. Given the questions on which the two models differ.
    """
    tail = sign_flip_tail(np.abs(differences))
    possible = tail > np.append(tail[1:], 0)  # not every sum can come about: of the sizes 2 and 1 only 1 and 3
    sums = np.flatnonzero(possible & (tail <= 1 - LEVEL))
    return float(sums[0] / (differences.size * seeds)) if sums.size else None


def smallest_likely(differences: np.ndarray) -> float:
    """Return the true difference that a set like this finds significant 8 times in 10; differences: [questions], -1 to 1."""
    n = differences.size + 2
    return float((Z + norm.ppf(POWER)) * np.sqrt(((differences**2).sum() + 1) / n / n))
