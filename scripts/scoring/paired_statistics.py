"""Statistics of scores on one set of questions: intervals, paired tests, and what a set of this size could have shown.

Everything is per question. With several seeds the score of a question is its mean over the seeds, so that a question
asked three times does not count as three questions. Every question has equally many answers, so the variance of those
means is that of the standard error clustered by question (Miller, 2024, "Adding Error Bars to Evals",
https://arxiv.org/abs/2411.00640). `mean_and_error` does the same for parts of unequal size, such as chats.
"""

from math import comb
from statistics import NormalDist
from typing import Annotated

import numpy as np
from pydantic import Field

NORMAL = NormalDist()  # not scipy's, whose import takes most of a second
LEVEL = 0.95
POWER = 0.8
Z = NORMAL.inv_cdf(0.5 + LEVEL / 2)  # 1.96: half of what the level leaves out lies on each side

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]  # as a record holds it


def wilson(scores: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of the mean score; scores: [questions], 0 to 1.

    Wilson, 1927, over the effective sample size (Korn and Graubard, 1998): the number of right-or-wrong scores whose
    mean would have the same variance. With one seed that is the number of questions.
    """
    p, variance = float(scores.mean()), float(scores.var())
    # All questions alike (a variance of 0) leave no ratio: then every question counts.
    n = p * (1 - p) / variance * scores.size if variance > 0 else scores.size
    centre, half = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return float((centre - half) / (1 + Z**2 / n)), float((centre + half) / (1 + Z**2 / n))


def pass_at(right: np.ndarray, samples: int, k: int) -> float:
    """Return pass@k: the chance that of k samples of a question at least one is right; right: int [questions].

    The unbiased estimate 1 - C(n - c, k) / C(n, k) from n samples with c right ones, mean over the questions (Chen et
    al., 2021, https://arxiv.org/abs/2107.03374).
    """
    return float(np.mean([1 - comb(samples - int(count), k) / comb(samples, k) for count in right]))


def sign_flip_tail(sizes: np.ndarray) -> np.ndarray:
    """Return P(|sum| >= s) for s = 0, 1, ..., sum(sizes), every sign random; sizes: int [questions], 0 or more."""
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)  # of the sums -total to total; nothing but zeros is rolled over the ends
    chance[total] = 1.0
    for size in sizes[sizes > 0]:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    both = chance[total:] + np.where(np.arange(total + 1) > 0, chance[total::-1], 0)
    return np.minimum(1.0, both[::-1].cumsum()[::-1])  # rounding may lead just above 1


def mcnemar(differences: np.ndarray) -> float:
    """Return the exact two-sided p of paired differences; differences: [questions], whole numbers.

    For -1, 0, 1 it is McNemar's exact test (binomial over the discordant questions). With several seeds the differences
    are sums over seeds, and it is the sign-flip test over questions (Fisher, 1935), of which McNemar's is a case.
    """
    return float(sign_flip_tail(np.abs(differences))[abs(int(differences.sum()))])


def difference_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper 95% limit of paired differences; differences: [questions], -1 to 1.

    Agresti and Min, 2005. Half a question is added to each of the four cells: without that, two models that agree on
    all questions would get an interval of width 0.
    """
    n, total = differences.size + 2, float(differences.sum())
    variance = float((differences**2).sum() + 1) / n - (total / n) ** 2
    half = Z * np.sqrt(variance / n)
    return float(differences.mean()), float(total / n - half), float(total / n + half)


def smallest_shown(differences: np.ndarray, seeds: int) -> float | None:
    """Return the smallest mean difference that the exact test would have called significant, or None if none could.

    differences: [questions], sums over `seeds` seeds. The sizes of the differences are taken as given, their signs not.
    """
    tail = sign_flip_tail(np.abs(differences))
    possible = tail > np.append(tail[1:], 0)  # not every sum can occur: of the sizes 2 and 1 only 1 and 3 can
    sums = np.flatnonzero(possible & (tail <= 1 - LEVEL))
    return float(sums[0] / (differences.size * seeds)) if sums.size else None


def smallest_likely(differences: np.ndarray) -> float:
    """Return the true difference that a set like this finds significant 8 times in 10.

    differences: [questions], -1 to 1. The usual formula of power; the variance is that of `difference_interval`
    with no true difference.
    """
    n = differences.size + 2
    return float((Z + NORMAL.inv_cdf(POWER)) * np.sqrt(((differences**2).sum() + 1) / n / n))


def mean_and_error(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the mean per token and its standard error over chats, or over other parts that are independent.

    sums, counts: [chats], a chat's sum of values and its number of tokens. The error is that of a ratio of two sums
    over independent chats, linearised (Cochran, Sampling Techniques, 3rd edition 1977, chapter 6).
    """
    chats, mean = len(sums), sums.sum() / counts.sum()
    variance = ((sums - mean * counts) ** 2).sum() * chats / (chats - 1)
    return float(mean), float(np.sqrt(variance) / counts.sum())
