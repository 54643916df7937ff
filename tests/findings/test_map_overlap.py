"""Two maps against chance: by hand, and by counting all sets of a small layer."""

from itertools import combinations

from findings.map_overlap import map_pair, sets_overlap, shared_by_chance

import pytest


def test_an_overlap_by_hand():
    found = sets_overlap({0: [0, 1, 2], 1: [4, 5, 6]}, {0: [0, 1, 3], 1: [7, 8, 9]}, 10)
    assert found["sizes"] == [6, 6]
    assert found["differ"] == pytest.approx(4 / 6) and found["layers"] == pytest.approx([1 / 3, 1])
    assert found["chance"] == pytest.approx(0.7)  # 3 x 3 / 10 of 3 are shared on average


def test_chance_is_what_all_sets_give():
    counts = [0] * 4
    for one in combinations(range(6), 3):
        for other in combinations(range(6), 2):
            counts[len(set(one) & set(other))] += 1
    assert shared_by_chance([(3, 2)], 6) == pytest.approx([count / (20 * 15) for count in counts[:3]])
    twice = shared_by_chance([(3, 2), (3, 2)], 6)
    assert twice[0] == pytest.approx((counts[0] / 300) ** 2) and twice.sum() == pytest.approx(1)
    alike = sets_overlap({0: [0, 1, 2]}, {0: [1, 2]}, 6)
    assert alike["differ"] == 0 and alike["p"] == pytest.approx(counts[2] / 300)
    assert sets_overlap({0: [0, 1, 2]}, {0: [3, 4]}, 6)["p"] == pytest.approx(1)


def test_the_interval_of_chance_holds_95_in_100():
    one = {layer: list(range(19)) for layer in range(3)}
    low, high = sets_overlap(one, one, 128)["chance_interval"]
    chances = shared_by_chance([(19, 19)] * 3, 128)
    inside = sum(chance for shared, chance in enumerate(chances) if low - 1e-9 <= 1 - shared / 57 <= high + 1e-9)
    outside = sum(chance for shared, chance in enumerate(chances) if 1 - shared / 57 < low - 1e-9)
    assert inside >= 0.95 and outside <= 0.025


def test_maps_of_different_keep_counts():
    inner, outer = {0: [0, 1]}, {0: [0, 1, 2, 3]}
    pair = map_pair("other", (outer, None), (inner, {0: [9]}), 10)
    assert pair["keep_count"] == 8 and pair["dropped"]["differ"] == 0 and pair["kept"]["differ"] == 0
    assert "top" not in pair
    assert pair["dropped"]["chance"] == pytest.approx(1 - 4 / 10)  # a set of two finds 4 of 10 taken
    both = map_pair("other", (outer, {0: [8, 9]}), (inner, {0: [7, 9]}), 10)
    assert both["top"]["differ"] == 0.5
