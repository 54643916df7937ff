"""Paired statistics: intervals and tests against hand-computed figures and scipy's."""

import math
from itertools import combinations

from scoring.paired_statistics import (
    difference_interval,
    mcnemar,
    pass_at,
    sign_flip_tail,
    smallest_likely,
    smallest_shown,
    wilson,
)

import numpy as np
import pytest
from scipy.stats import binomtest


def differences(lost: int, won: int, same: int) -> np.ndarray:
    return np.array([-1] * lost + [1] * won + [0] * same)


def test_the_cards_difference_gives_the_known_figures():
    low, high = wilson(np.array([1.0] * 162 + [0.0] * 36))
    assert (round(100 * low, 1), round(100 * high, 1)) == (75.9, 86.6)
    card = differences(10, 7, 181)
    assert round(mcnemar(card), 2) == 0.63
    assert round(100 * smallest_shown(card, 1), 1) == 4.5  # 13 to 4: p = 0.049; 12 to 5: p = 0.14
    mean, low, high = difference_interval(card)
    # (lost, won) + half a question each, n + 2: -3/200 ± 1.96 sqrt((18/200 - (3/200)^2) / 200)
    half = 1.959964 * math.sqrt((18 / 200 - (3 / 200) ** 2) / 200)
    assert (mean, low, high) == pytest.approx((-3 / 198, -3 / 200 - half, -3 / 200 + half), abs=1e-6)
    assert smallest_likely(card) == pytest.approx(2.801585 * math.sqrt(18 / 200 / 200), abs=1e-6)


@pytest.mark.parametrize("right, total", [(0, 7), (7, 7), (3, 10), (159, 198)])
def test_wilson_is_scipys_for_one_seed(right, total):
    interval = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(np.array([1.0] * right + [0.0] * (total - right))) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


@pytest.mark.parametrize("lost, won", [(0, 0), (1, 0), (6, 0), (3, 9), (13, 4), (20, 20)])
def test_the_paired_test_is_the_exact_binomial_for_one_seed(lost, won):
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(differences(lost, won, 5)) == pytest.approx(expected)


def test_several_seeds_are_tested_by_question():
    # Sizes 2 and 1: the sums are ±3, ±1, each by one of four signs.
    assert sign_flip_tail(np.array([2, 1, 0])).tolist() == [1.0, 1.0, 0.5, 0.5]
    assert mcnemar(np.array([2, 1, 0])) == 0.5
    once = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    assert wilson(once) == pytest.approx(wilson((once * 3) / 3))  # the same answer three times says no more than once
    assert wilson(np.array([0.5] * 4 + [1.0, 0.0]))[0] > wilson(np.array([1.0, 0.0] * 3))[0]


def test_too_few_questions_that_differ_can_show_nothing():
    assert smallest_shown(differences(3, 2, 100), 1) is None and smallest_shown(differences(6, 0, 94), 1) == 0.06
    # The sizes 2 2 2 2 2 3 give 13, 9, 7, ..., never 11.
    assert smallest_shown(np.array([-2, 0, 2, 3, -2, 0, 2, -2]), 3) == 13 / 24
    low, high = difference_interval(differences(0, 0, 198))[1:]
    assert low < 0 < high


def test_the_variance_is_that_of_answers_clustered_by_question():
    """Miller's sum over all pairs of answers within each cluster, computed as it stands."""
    answers = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
    mean, total = answers.mean(), 0.0
    for cluster in answers:
        for one in cluster:
            total += sum((one - mean) * (other - mean) for other in cluster)
    scores = answers.mean(axis=1)
    assert float(scores.var()) / len(scores) == pytest.approx(total / answers.size**2)
    effective = mean * (1 - mean) / scores.var() * len(scores)  # right-or-wrong answers with that variance
    centre = (mean + 1.959964**2 / (2 * effective)) / (1 + 1.959964**2 / effective)
    assert sum(wilson(scores)) / 2 == pytest.approx(centre, abs=1e-6)


def test_pass_at_k_is_the_share_of_drawings_with_a_right_one():
    right = np.array([0, 1, 3, 4])
    for k in (1, 2, 4):
        drawn = [list(combinations([1] * count + [0] * (4 - count), k)) for count in right]
        expected = np.mean([np.mean([any(samples) for samples in one]) for one in drawn])
        assert pass_at(right, 4, k) == pytest.approx(expected)
