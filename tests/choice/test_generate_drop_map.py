"""The choice of experts: formulas by hand, ties, the file's contract, bad input."""

import json

from choice import criteria
from choice.drop_map import Shape, read_drop_map
from choice.expert_stats import protected, read_stats, write_stats
from choice.ranking import bootstrap, choose_questions, layer_entry, rank, stability
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from files.input_errors import InputError
from generate_drop_map import compare_lines, main

import numpy as np
import pytest


def test_rank_is_by_protection_then_score_then_total_norm_then_index():
    # Scores 1, 2, 1, 1 and totals 5, 6, 7, 5: expert 1, then 2 (7), then 0 before 3 (both 5).
    score, total = np.array([1, 2, 1, 1]), np.array([5.0, 6.0, 7.0, 5.0])
    assert rank(np.zeros(4, bool), score, total).tolist() == [1, 2, 0, 3]
    assert rank(np.array([False, False, False, True]), score, total).tolist() == [3, 1, 2, 0]


def test_a_layer_is_partitioned_and_has_a_margin():
    score, nobody = np.array([3.0, 9.0, 1.0, 7.0]), np.zeros(4, bool)
    entry = layer_entry(np.array([1, 3, 0, 2]), nobody, score, keep=2)
    assert entry == {"keep": [1, 3], "drop": [0, 2], "score": [3, 9, 1, 7], "margin": 4}
    assert layer_entry(np.array([1, 3, 0, 2]), nobody, score, keep=4)["margin"] is None
    guarded = np.array([False, True, False, False])  # protection, not the score, parts the first from the rest
    assert layer_entry(np.array([1, 3, 0, 2]), guarded, score, keep=1)["margin"] is None


def test_more_folds_than_questions_are_refused_at_the_first():
    """Else the empty folds would be met after the evaluation of all others."""
    assert len(choose_questions(list("abc"), None, (1, 3))) == 2
    with pytest.raises(InputError, match="at most 3 folds"):
        choose_questions(list("abc"), None, (1, 4))


def test_folds_hold_out_every_kth_question():
    ids = list("abcdefg")
    assert choose_questions(ids, None, (1, 3)) == [1, 2, 4, 5]  # a, d, g are held out
    assert choose_questions(ids, None, (3, 3)) == [0, 1, 3, 4, 6]
    assert choose_questions(ids, {"a", "c", "d"}, None) == [0, 2, 3]
    assert choose_questions(ids, {"a", "c", "d"}, (2, 2)) == [0, 3]


def test_stability_by_hand():
    share = np.array([[1.0, 0.8, 0.5, 0.2], [1.0, 1.0, 0.0, 0.0]])
    assert stability(share, [[0, 1], [0, 1]]) == [
        {"expected_overlap": 0.9, "coin_toss": [2]},
        {"expected_overlap": 1.0, "coin_toss": []},
    ]


def test_bootstrap_is_sure_of_what_every_question_says_and_not_of_the_rest():
    weighted = np.zeros((8, 1, 4))
    weighted[:, 0, 0] = 9  # first in every question
    weighted[:4, 0, 1] = weighted[4:, 0, 2] = 1  # experts 1 and 2 are each wanted by half of the questions
    arrays = {
        "weighted_norm_sum": weighted,
        "token_count": np.ones((8, 1, 4), np.int64),
        "protected": protected(weighted, 2),
    }
    share = bootstrap(arrays, "coverage", keep=2, resamples=300, seed=1)
    assert share[0, 0] == 1 and share[0, 3] == 0 and 0.3 < share[0, 1] < 0.7 and share.sum() == pytest.approx(2)
    assert np.array_equal(share, bootstrap(arrays, "coverage", keep=2, resamples=300, seed=1))


def test_overlap_of_two_maps_by_hand():
    lines = compare_lines("other", {0: [1, 2], 1: [0, 3]}, {0: [2, 5], 1: [0, 3]}, experts=8)
    assert lines[1].split(":")[1] == "   1 of 2 dropped experts are dropped by both"
    assert "3 of 4 dropped experts (75.0%) are dropped by both, 25.0% differ; 11 experts are kept by both" in lines[3]


@pytest.fixture
def stats(tmp_path):
    """A statistics file of 5 questions, 2 layers, 6 experts."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.random((5, 2, 6)) for name in EXPERT_SUMS}
    arrays["token_count"] = np.ceil(9 * arrays["token_count"]).astype(np.int64)
    arrays |= {name: np.full((5, 2), 60) for name in LAYER_SUMS} | {"layer_numbers": np.arange(2)}
    metadata = {
        "questions": [{"id": f"q{i}"} for i in range(5)],
        "top_k": 2,
        "questions_sha256": "0" * 64,
        "config_sha256": "1" * 64,
        "weights_sha256": "2" * 64,
    }
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
    assert read_drop_map(tmp_path / "a.json", Shape(6, 2, (0, 1))).keep_count == 4


def make(stats, output, *options) -> dict:
    main(["--stats", str(stats), "--keep", "4", "--output", str(output), *map(str, options)])
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", [*criteria.answerable({}), "random:3"])
def test_every_criterion_makes_a_map_twice_alike(stats, tmp_path, name):
    protects = name in criteria.PROTECTING
    options = ["--criterion", name] + (["--protect-top", 3] if protects else [])
    first, second = (make(stats, tmp_path / f"{place}.json", *options) for place in "ab")
    assert first == second and (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert first["criterion"] == name and first["protect_top"] == (3 if protects else 0)
    arrays, _ = read_stats(stats)
    arrays["protected"] = protected(arrays["weighted_norm_sum"], first["protect_top"])
    for row, entry in enumerate(first["layers"].values()):
        np.testing.assert_array_equal(entry["score"], criteria.scores_of(name, arrays)[row])
        if name != "norm-plus-count":  # there the protected come before the score
            assert min(entry["score"][i] for i in entry["keep"]) >= max(entry["score"][i] for i in entry["drop"])
        assert name.startswith("random") or 0 <= entry["expected_overlap"] <= 1
    assert ("bootstrap" in first) is not name.startswith("random")  # no question changes a random choice


def test_protection_changes_the_map_and_keeps_its_promise(stats, tmp_path):
    plain = make(stats, tmp_path / "plain.json", "--criterion", "frequency")
    safe = make(stats, tmp_path / "safe.json", "--criterion", "frequency", "--protect-top", 1)
    assert any(plain["layers"][layer]["drop"] != safe["layers"][layer]["drop"] for layer in plain["layers"])
    weighted = read_stats(stats)[0]["weighted_norm_sum"]
    broken = {"plain": 0, "safe": 0}
    for row, layer in enumerate(safe["layers"]):
        top = set(weighted[:, row].argmax(axis=1).tolist())
        for name, content in (("plain", plain), ("safe", safe)):
            entry = content["layers"][layer]
            broken[name] += bool(top & set(entry["drop"])) and bool(set(entry["keep"]) - top)
    assert broken["plain"] > 0 and broken["safe"] == 0


def test_worst_first_drops_the_best(stats, tmp_path):
    best, worst = (
        make(stats, tmp_path / "a.json", "--criterion", "ean"),
        make(stats, tmp_path / "b.json", "--criterion", "ean", "--worst-first"),
    )
    for layer, entry in best["layers"].items():
        ranked = sorted(range(6), key=lambda expert: -entry["score"][expert])
        assert worst["layers"][layer]["drop"] == sorted(ranked[:2]) and entry["drop"] == sorted(ranked[4:])


def test_questions_restrict_the_choice(stats, tmp_path):
    fold = make(stats, tmp_path / "fold.json", "--criterion", "ean", "--fold", "2/5")
    assert fold["held_out_question_ids"] == ["q1"] and fold["question_ids"] == ["q0", "q2", "q3", "q4"]
    (tmp_path / "ids.txt").write_text("q0\nq2\nq3\nq4\n")
    listed = make(stats, tmp_path / "listed.json", "--criterion", "ean", "--questions-in", tmp_path / "ids.txt")
    assert listed["layers"] == fold["layers"]
    norms = read_stats(stats)[0]["norm_sum"][[0, 2, 3, 4]].sum(axis=0)
    np.testing.assert_array_equal(fold["layers"]["1"]["score"], norms[1])


def test_two_maps_are_compared(stats, tmp_path, capsys):
    make(stats, tmp_path / "ean.json", "--criterion", "ean")
    make(stats, tmp_path / "same.json", "--criterion", "ean", "--compare", tmp_path / "ean.json")
    assert "4 of 4 dropped experts (100.0%) are dropped by both, 0.0% differ" in capsys.readouterr().out


def test_a_wrong_choice_is_refused(stats, tmp_path, refusal):
    def refuse(*words, options):
        refusal(main, ["--stats", stats, "--keep", 4, "--output", tmp_path / "map.json", *options], *words)

    refuse("--criterion", "random:SEED", "magic", options=["--criterion", "magic"])
    refuse("random:", options=["--criterion", "random:"])
    refuse("1 to 6", options=["--protect-top", 0])
    refuse("0 to 6", options=["--criterion", "reap", "--protect-top", 7])
    (tmp_path / "ids.txt").write_text("q0\nelsewhere\n")
    refuse("ids.txt", "elsewhere", options=["--protect-top", 2, "--questions-in", tmp_path / "ids.txt"])
    for option, value in (("--fold", "6/5"), ("--seed", "-1"), ("--bootstrap", "-1")):
        with pytest.raises(SystemExit):
            main(["--stats", str(stats), "--keep", "4", "--output", str(tmp_path / "map.json"), option, value])
    (tmp_path / "ids.txt").write_bytes(bytes(range(128, 256)))
    refuse("ids.txt", options=["--protect-top", 2, "--questions-in", tmp_path / "ids.txt"])
    for content, word in (
        ({"0": [1], "2": [1]}, "layers 0, 1"),
        ({"0": [1, 1], "1": [1]}, "once"),
        ({"0": [9], "1": [1]}, "0 to 5"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(content))
        refuse("other.json", word, options=["--protect-top", 2, "--compare", tmp_path / "other.json"])
    assert not (tmp_path / "map.json").exists()


def test_an_output_never_overwrites_an_input(stats, tmp_path, refusal):
    before = stats.read_bytes()
    arguments = ["--stats", stats, "--keep", 4, "--protect-top", 2]
    refusal(main, [*arguments, "--output", stats], "overwrite")
    make(stats, tmp_path / "map.json", "--protect-top", 2)
    refusal(main, [*arguments, "--output", tmp_path / "map.json", "--compare", tmp_path / "map.json"], "overwrite")
    assert stats.read_bytes() == before


def test_one_question_says_nothing_of_others(stats, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("\ufeffq0\n", encoding="utf-8")
    assert "bootstrap" not in make(
        stats, tmp_path / "map.json", "--protect-top", 2, "--questions-in", tmp_path / "ids.txt"
    )
    assert "kept again" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage, word",
    [
        (
            lambda arrays, metadata: arrays["weighted_norm_sum"].__setitem__((0, 0, 0), np.nan),
            "finite sums in weighted_norm_sum",
        ),
        (lambda arrays, metadata: arrays["weighted_norm_sum"].fill(1e308), "infinite over all questions"),
        (lambda arrays, metadata: arrays["weighted_norm_sum"][:, 1].fill(0), "an expert in every layer whose outputs"),
        (lambda arrays, metadata: metadata["questions"].pop(), "ids of 5 questions"),
        (lambda arrays, metadata: arrays.update(layer_numbers=np.arange(1)), "layer_numbers of shape"),
        (lambda arrays, metadata: arrays.update(norm_sum=np.ones((5, 2, 5))), "norm_sum of shape"),
        (lambda arrays, metadata: arrays.update(token_count=np.full((5, 2, 6), 1.5)), "in token_count, found float64"),
        (lambda arrays, metadata: arrays.update(tokens=np.ones((5, 2))), "whole numbers (int64) in tokens"),
        (lambda arrays, metadata: arrays.update(layer_numbers=np.arange(2) + 0.5), "in layer_numbers, found float64"),
        (lambda arrays, metadata: arrays["token_count"].__setitem__((0, 0, 0), 9 * 10**18), "2 experts for each token"),
        (lambda arrays, metadata: arrays["nonfinite_tokens"].fill(0), "2 experts for each token"),
        (lambda arrays, metadata: arrays["token_count"].fill(21), "2 experts for each token"),
        (lambda arrays, metadata: arrays["skipped_tokens"].__setitem__((1, 0), 2), "q1 in each layer, found 62, 120"),
        (lambda arrays, metadata: metadata["questions"][2].update(tokens=119), "the 119 tokens of question q2"),
        (lambda arrays, metadata: metadata.pop("top_k"), "top_k"),
        (lambda arrays, metadata: metadata.update(questions=3), "questions"),
    ],
)
def test_damaged_statistics_are_refused(stats, tmp_path, refusal, damage, word):
    arrays, metadata = read_stats(stats)
    damage(arrays, metadata)
    write_stats(stats, arrays, metadata)
    refusal(main, ["--stats", stats, "--keep", 4, "--protect-top", 2, "--output", tmp_path / "map.json"], stats, word)
    assert not (tmp_path / "map.json").exists()


@pytest.mark.parametrize("keep", [1, 7, 6, 0, -3])
def test_keep_outside_top_k_to_one_fewer_than_all_is_refused(stats, tmp_path, keep):
    with pytest.raises(InputError, match=f"from 2 .* to 5 .*, found {keep}"):
        main(["--stats", str(stats), "--keep", str(keep), "--output", str(tmp_path / "map.json")])
    assert not (tmp_path / "map.json").exists()


def test_a_plain_map_as_found_in_the_wild_is_read(tmp_path):
    (tmp_path / "map.json").write_text('{"0": [3, 1], "1": [0, 2]}')
    drop_map = read_drop_map(tmp_path / "map.json", Shape(4, 2, (0, 1)))
    assert drop_map.keep == {0: [0, 2], 1: [1, 3]} and drop_map.drop == {0: [1, 3], 1: [0, 2]}


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"0": [3, 3], "1": [0, 2]}', "once"),
        ('{"0": [4], "1": [0]}', "ids from 0 to 3"),
        ('{"0": [-1], "1": [0]}', "ids from 0 to 3"),
        ('{"0": [1]}', "layers 0 to 1"),
        ('{"0": [1], "1": [0], "2": [0]}', "layers 0 to 1"),
        ('{"1": [1], "2": [0]}', "layers 0 to 1"),
        ('{"0": [1], "1": [0, 2]}', "uniform"),
        ('{"0": [1, 2, 3], "1": [0, 1, 2]}', "from 2 .* to 3 .*, found 1"),
        ('{"0": [], "1": []}', "from 2 .* to 3 .*, found 4"),
        ('{"question_ids": "q1", "layers": {"0": [1], "1": [0]}}', "'question_ids' is a valid list, found 'q1'"),
        ('{"question_ids": [1], "layers": {"0": [1], "1": [0]}}', "'question_ids.0' is a valid string, found 1"),
        ('{"0": "all", "1": [0]}', "list of dropped"),
        ('{"0": [true], "1": [0]}', "list of dropped"),
        ('{"experts": 8, "layers": {"0": {"drop": [1]}, "1": {"drop": [0]}}}', "4 experts per layer"),
        ('{"experts": 4, "layers": {"0": {"drop": [1], "keep": [0, 1, 2]}, "1": {"drop": [0]}}}', "partition"),
        ("{}", "layers keyed by number"),
        ("[1, 2]", "JSON object"),
        ("{", "valid JSON"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path, content, message):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_drop_map(tmp_path / "map.json", Shape(4, 2, (0, 1)))


def one_tensor(kind: str, shape: list[int], size: int) -> bytes:
    """A safetensors file."""
    header = json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


# A model's weights: numpy has no such type, nor so many dimensions.
@pytest.mark.parametrize("content", [b"not one", one_tensor("BF16", [2], 4), one_tensor("F32", [1] * 70, 4)])
def test_a_file_that_is_not_statistics_is_refused(tmp_path, script, refused, content):
    (tmp_path / "stats").write_bytes(content)
    refused(
        script("generate_drop_map.py", "--stats", tmp_path / "stats", "--keep", 4, "--output", tmp_path / "map.json"),
        tmp_path / "stats",
        "statistics file",
    )
