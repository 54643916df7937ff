"""The choice of experts: formulas by hand, ties, the file's contract, bad input."""

import json

import numpy as np
import pytest
from drop_map import read_drop_map
from expert_observer import EXPERT_SUMS, LAYER_SUMS
from expert_stats import write_stats
from generate_drop_map import choose_layer, coverage, main, rank
from moe_families import Shape
from safe_files import InputError

# Two questions, one layer, four experts.
WEIGHTED = np.array([[[5.0, 3.0, 1.0, 0.0]], [[0.0, 3.0, 4.0, 2.0]]])


def test_coverage_counts_questions_that_have_the_expert_on_top():
    # Top 2 of question 1: experts 0, 1; of question 2: experts 2, 1.
    assert coverage(WEIGHTED, 2).tolist() == [[1, 2, 1, 0]]


def test_an_unused_expert_is_not_protected():
    assert coverage(WEIGHTED, 4).tolist() == [[1, 2, 2, 1]]


def test_ties_in_a_question_go_to_the_lower_index():
    assert coverage(np.ones((1, 1, 4)), 2).tolist() == [[1, 1, 0, 0]]


def test_rank_breaks_ties_by_total_norm_then_index():
    # Coverage 1, 2, 1, 1 and totals 5, 6, 7, 5: expert 1, then 2 (7), then 0 before 3 (both 5).
    assert rank(np.array([1, 2, 1, 1]), np.array([5.0, 6.0, 7.0, 5.0])).tolist() == [1, 2, 0, 3]


def test_choose_layer_partitions_and_reports_the_margin():
    entry = choose_layer(np.array([3, 9, 1, 7]), np.zeros(4), keep=2)
    assert entry == {"keep": [1, 3], "drop": [0, 2], "score": [3, 9, 1, 7], "margin": 4}


@pytest.fixture
def stats(tmp_path):
    """A statistics file of 5 questions, 2 layers, 6 experts."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.random((5, 2, 6)) for name in EXPERT_SUMS}
    arrays |= {name: np.ones((5, 2), np.int64) for name in LAYER_SUMS} | {"layer_numbers": np.arange(2)}
    metadata = {"questions": [{"id": f"q{i}"} for i in range(5)], "top_k": 2, "questions_sha256": "0" * 64,
                "config_sha256": "1" * 64, "weights_sha256": "2" * 64}
    write_stats(tmp_path / "stats.safetensors", arrays, metadata)
    return tmp_path / "stats.safetensors"


def test_the_map_holds_counts_criterion_and_digests_and_is_reproducible(stats, tmp_path):
    for name in ("a.json", "b.json"):
        main(["--stats", str(stats), "--keep", "4", "--protect-top", "3", "--output", str(tmp_path / name)])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["experts"], content["keep_count"], content["drop_count"]) == (6, 4, 2)
    assert content["criterion"] == "coverage" and len(content["stats_sha256"]) == 64
    for entry in content["layers"].values():
        assert sorted(entry["keep"] + entry["drop"]) == list(range(6))
        assert entry["keep"] == sorted(entry["keep"]) and entry["drop"] == sorted(entry["drop"])
    assert read_drop_map(tmp_path / "a.json", Shape(6, 2, 2)).keep_count == 4


@pytest.mark.parametrize("keep", [1, 7, 0, -3])
def test_keep_outside_top_k_to_experts_is_refused(stats, tmp_path, keep):
    with pytest.raises(InputError, match=f"from 2 .* to 6 .*, found {keep}"):
        main(["--stats", str(stats), "--keep", str(keep), "--output", str(tmp_path / "map.json")])
    assert not (tmp_path / "map.json").exists()


def test_a_plain_map_as_found_in_the_wild_is_read(tmp_path):
    (tmp_path / "map.json").write_text('{"0": [3, 1], "1": [0, 2]}')
    drop_map = read_drop_map(tmp_path / "map.json", Shape(4, 2, 2))
    assert drop_map.keep == {0: [0, 2], 1: [1, 3]} and drop_map.drop == {0: [1, 3], 1: [0, 2]}


@pytest.mark.parametrize("content, message", [
    ('{"0": [3, 3], "1": [0, 2]}', "once"),
    ('{"0": [4], "1": [0]}', "ids from 0 to 3"),
    ('{"0": [-1], "1": [0]}', "ids from 0 to 3"),
    ('{"0": [1]}', "layers 0 to 1"),
    ('{"0": [1], "1": [0], "2": [0]}', "layers 0 to 1"),
    ('{"0": [1], "1": [0, 2]}', "uniform"),
    ('{"0": [1, 2, 3], "1": [0, 1, 2]}', "from 2 .* to 4"),
    ('{"0": "all", "1": [0]}', "list of dropped"),
    ('{"0": [true], "1": [0]}', "list of dropped"),
    ('{"experts": 8, "layers": {"0": {"drop": [1]}, "1": {"drop": [0]}}}', "4 experts per layer"),
    ('{"experts": 4, "layers": {"0": {"drop": [1], "keep": [0, 1, 2]}, "1": {"drop": [0]}}}', "partition"),
    ("{}", "layers keyed by number"),
    ("[1, 2]", "JSON object"),
    ("{", "valid JSON"),
])
def test_a_wrong_map_is_refused(tmp_path, content, message):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_drop_map(tmp_path / "map.json", Shape(4, 2, 2))


def test_a_file_that_is_not_statistics_is_refused(tmp_path, script, refused):
    (tmp_path / "stats").write_text("not a safetensors file")
    refused(script("generate_drop_map.py", "--stats", tmp_path / "stats", "--keep", 4, "--output", tmp_path / "map.json"),
            tmp_path / "stats", "statistics file")
