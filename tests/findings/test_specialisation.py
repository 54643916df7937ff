"""Topics: the divergence by hand, a control that is null where it should be, and what dropping by one domain costs."""

from choice.expert_stats import protected
from findings.domain_drops import domain_drops, folds_of, losses_of
from findings.sampling import corrected, interval_of_mean, percentiles, tail_p
from findings.specialisation import (
    domain_shares,
    jensen_shannon,
    labels_of,
    question_shares,
    specialisation,
    top_differs,
)

import numpy as np
import pytest

QUESTIONS, LAYERS, EXPERTS, KEEP = 60, 2, 20, 14
LABELS = np.arange(QUESTIONS) % 3
DRAWS = (99, 60, 1)  # shuffles, resamples, seed


def norms(seed: int, planted: float) -> np.ndarray:
    """Weighted norms of questions in three domains; `planted` times as much of some experts in the first domain."""
    draw = np.random.default_rng(seed)
    values = draw.lognormal(0, 0.5, (QUESTIONS, LAYERS, EXPERTS)) * draw.lognormal(0, 1, (1, LAYERS, EXPERTS))
    values[LABELS == 0, :, :4] *= planted
    return values


def found(seed: int, planted: float) -> dict:
    return specialisation(norms(seed, planted), LABELS, [0, 1], 5, *DRAWS)


def test_the_divergence_by_hand():
    same = np.array([[[0.5, 0.5, 0, 0]], [[0.5, 0.5, 0, 0]]])
    apart = np.array([[[0.5, 0.5, 0, 0]], [[0, 0, 0.5, 0.5]]])
    half = np.array([[[1.0, 0]], [[0.5, 0.5]]])
    even = np.array([0.5, 0.5])
    assert jensen_shannon(same, even)[0] == pytest.approx(0)
    assert jensen_shannon(apart, even)[0] == pytest.approx(1)  # the entropy of two domains of one size
    assert jensen_shannon(apart, np.array([0.25, 0.75]))[0] == pytest.approx(0.25 * 2 + 0.75 * np.log2(4 / 3))
    # H(3/4, 1/4) - (H(1, 0) + H(1/2, 1/2)) / 2
    assert jensen_shannon(half, even)[0] == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2 - 0.5)


def test_a_long_question_counts_as_much_as_a_short_one():
    shares = question_shares(np.array([[[3.0, 1.0]], [[0.0, 200.0]], [[0.0, 0.0]]]))
    assert shares[:, 0].tolist() == [[0.75, 0.25], [0, 1], [0, 0]]
    means, parts = domain_shares(shares, np.array([0, 0, 1]))
    assert means[:, 0].tolist() == [[0.375, 0.625], [0, 0]] and parts.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_top_that_differs_by_hand():
    shares = np.array([[[4.0, 3, 2, 1]], [[1, 4, 3, 2]], [[4, 3, 1, 2]]])
    # The top two are {0, 1}, {1, 2} and {0, 1}: two pairs share one of two, one pair both.
    assert top_differs(shares, 2)[0] == pytest.approx(1 / 3)


def test_shuffled_labels_are_null_and_a_planted_difference_is_found():
    null = [found(seed, 1.0) for seed in range(12)]
    assert sum(each["distance"]["p"] < 0.05 for each in null) <= 2
    inside = [each["distance"]["beyond_interval"] for each in null]
    assert sum(low <= 0 <= high for low, high in inside) >= 9
    planted = found(0, 2.0)
    assert planted["distance"]["p"] == 1 / 100 and planted["distance"]["beyond_interval"][0] > 0
    assert all(layer["p_corrected"] <= 0.02 for layer in planted["layers"])
    top = found(0, 50.0)["top_differs"]
    assert top["value"] > top["chance_interval"][1] and top["p"] == 1 / 100


def test_beyond_chance_is_the_difference_that_was_planted():
    """Against the divergence of a sample so large that chance gives nothing."""
    draw = np.random.default_rng(5)
    base = draw.lognormal(0, 1, (1, 1, EXPERTS))
    labels = np.arange(3000) % 3

    def sample(count: int) -> np.ndarray:
        values = draw.lognormal(0, 0.5, (count, 1, EXPERTS)) * base
        values[labels[:count] == 0, :, :4] *= 1.6
        return values

    truth = jensen_shannon(*domain_shares(question_shares(sample(3000)), labels))[0]
    inside = 0
    for seed in range(10):
        distance = specialisation(sample(60), labels[:60], [0], 5, 60, 100, seed)["distance"]
        inside += distance["beyond_interval"][0] <= truth <= distance["beyond_interval"][1]
        assert distance["value"] > distance["beyond"]
    assert inside >= 8


def arrays_of(values: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that coverage needs."""
    return {"weighted_norm_sum": values, "protected": protected(values, 5), "token_count": np.ones(values.shape)}


def test_losses_equal_a_naive_recomputation():
    values = norms(3, 3.0)
    arrays, folds = arrays_of(values), folds_of(LABELS)
    measures = question_shares(values)[None]
    lost = losses_of(arrays, measures, LABELS, folds, "coverage", KEEP)[0]
    for source, question in ((0, 0), (1, 0), (2, 7), (3, 11)):
        choosing = [
            row
            for row in range(QUESTIONS)
            if (source == 3 or LABELS[row] == source)
            and not ((source == 3 or LABELS[question] == source) and folds[row] == folds[question])
        ]
        assert question not in choosing
        expected = []
        for layer in range(LAYERS):
            coverage = arrays["protected"][choosing, layer].sum(axis=0)
            total = values[choosing, layer].sum(axis=0)
            order = sorted(range(EXPERTS), key=lambda e: (coverage[e] == 0, -coverage[e], -total[e], e))
            own = values[question, layer]
            expected.append(own[order[KEEP:]].sum() / own.sum())
        assert lost[source, question] == pytest.approx(np.mean(expected))


def drops_of(values: np.ndarray) -> dict:
    arrays = arrays_of(values)
    return domain_drops(arrays, arrays["protected"], ["a", "b", "c"], LABELS, ("weighted-norm", KEEP), (19, 40, 1))


def test_dropping_by_a_domain_costs_the_others_only_where_they_differ():
    same = [drops_of(norms(seed, 1.0)) for seed in range(6)]
    assert sum(each["penalty"]["p"] <= 0.05 for each in same) <= 1
    values = norms(0, 1.0)
    values[LABELS == 0, :, :4] *= 50  # what the other domains hardly use
    values[LABELS != 0, :, :4] *= 0.02
    planted = drops_of(values)
    assert planted["penalty"]["p"] == 0.05 and planted["penalty_interval"][0] > 0
    cells = {(cell["chosen_by"], cell["asked"]): cell["norm_lost"] for cell in planted["cells"]}
    assert len(cells) == 12 and cells["b", "a"][0] > 10 * cells["a", "a"][0]
    assert cells["b", "a"][1] <= cells["b", "a"][0] <= cells["b", "a"][2]


def test_the_domains_of_a_question_file():
    named = {str(number): domain for number, domain in enumerate("aaaaabbbbbbc")} | {"x": ""}
    domains, labels = labels_of(named, ["6", "0", "1", "2", "3", "4", "5", "7", "8", "9", "11", "x"])
    assert domains == {"a": 5, "b": 5} and labels.tolist() == [1, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1, -1]


def test_chance_by_hand():
    assert tail_p(3.0, np.array([1.0, 2.0, 3.0, 4.0])) == 3 / 5
    assert corrected(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert percentiles(np.arange(41.0)) == [1.0, 39.0]
    mean, low, high = interval_of_mean(np.array([1.0, 1.0, np.nan, 4.0]), np.array([7, 7, 7, 9]), 999, 1)
    assert (mean, low, high) == (2.0, 1.0, 4.0)  # one of two groups alone gives the ends
    assert interval_of_mean(np.array([np.nan]), np.array([0]), 9, 1) is None
