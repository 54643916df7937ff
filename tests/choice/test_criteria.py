"""Every criterion on two questions, one layer, four experts, computed by hand."""

import re

import generate_drop_map
from choice.criteria import CRITERIA, PROTECTING, coverage, random_scores, scores_of
from choice.expert_stats import protected
from conftest import REPO
from files.input_errors import InputError

import numpy as np
import pytest

# Question 1 uses experts 0, 1, 2; question 2 uses experts 1, 2, 3. Nobody uses expert 4.
ARRAYS = {
    "token_count": np.array([[[2, 1, 1, 0, 0]], [[0, 3, 1, 4, 0]]]),
    "routing_weight_sum": np.array([[[1.5, 0.25, 0.25, 0, 0]], [[0, 1.5, 0.5, 1.0, 0]]]),
    "norm_sum": np.array([[[8.0, 12.0, 2.0, 0, 0]], [[0, 6.0, 6.0, 20.0, 0]]]),
    "weighted_norm_sum": np.array([[[5.0, 3.0, 1.0, 0, 0]], [[0, 3.0, 4.0, 2.0, 0]]]),
    "elimination_rank": np.array([[3, 4, 2, 1, 0]]),
}
BY_HAND = {
    "weighted-norm": [5, 6, 5, 2, 0],
    "reap": [5 / 2, 6 / 4, 5 / 2, 2 / 4, 0],
    "ean": [8, 18, 8, 20, 0],
    "man": [8 / 2, 18 / 4, 8 / 2, 20 / 4, 0],
    "frequency": [2, 4, 2, 4, 0],
    "gate": [1.5, 1.75, 0.75, 1.0, 0],
    "reconstruction": [3, 4, 2, 1, 0],
    "norm-plus-count": [10 + 2, 12 + 4, 10 + 2, 4 + 4, 0],
}


def test_coverage_by_hand():
    # Top 2 of question 1: experts 0, 1; of question 2: experts 2, 1.
    assert coverage({"protected": protected(ARRAYS["weighted_norm_sum"], 2)}).tolist() == [[1, 2, 1, 0, 0]]


def test_an_unused_expert_is_not_protected():
    assert protected(ARRAYS["weighted_norm_sum"], 5).sum(axis=0).tolist() == [[1, 2, 2, 1, 0]]


def test_ties_in_a_question_go_to_the_lower_index():
    assert protected(np.ones((1, 1, 4)), 2).tolist() == [[[True, True, False, False]]]


@pytest.mark.parametrize("name", BY_HAND)
def test_criterion_by_hand(name):
    assert scores_of(name, ARRAYS).tolist() == [BY_HAND[name]]


def test_every_criterion_has_a_case_and_a_source():
    assert {*BY_HAND, "coverage"} == set(CRITERIA)
    assert all("Source:" in function.__doc__ for function in CRITERIA.values())


def test_random_scores_depend_on_the_seed_alone():
    first = random_scores(ARRAYS, 1)
    assert first.shape == (1, 5) and ((0 <= first) & (first < 1)).all() and len(set(first[0])) == 5
    assert (scores_of("random:1", ARRAYS) == first).all() and (random_scores(ARRAYS, 2) != first).all()
    assert first[0, 0] == pytest.approx(0.8849795520051538)  # first 8 bytes of sha256("1 0 0") over 2**64


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="random:SEED"):
        scores_of("Coverage", ARRAYS)


def test_make_protects_by_the_rule_of_the_command():
    rule = r"\$\(if \$\(filter ([a-z -]+),\$\(CRITERION\)\),(\d+),0\)"
    spelt = [found for path in (REPO / "make").glob("*.mk") for found in re.findall(rule, path.read_text())]
    assert spelt == [(" ".join(PROTECTING), str(generate_drop_map.PROTECT_TOP))]
