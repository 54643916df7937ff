"""The pictures: their numbers by hand, files that open, equal bytes, and a map that belongs to the statistics."""

import json

from choice.expert_stats import EXPERT_SUMS, LAYER_SUMS, write_stats
from files.pictures import plt
from generate_drop_map import main as choose
from plot_expert_stats import draw_coverage, dropped_mask, layer_shares, main

import numpy as np
from matplotlib import image

FILES = ("experts-heatmap.png", "experts-coverage.png", "experts-layers.png")


def test_shares_by_hand():
    weighted = np.array([[[1.0, 3.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 6.0]]])  # 2 questions, 2 layers, 2 experts
    assert layer_shares(weighted).tolist() == [[3 / 8, 5 / 8], [0, 1]]


def test_dropped_experts_of_layers_that_do_not_start_at_0():
    assert dropped_mask({1: [0], 3: [2]}, [1, 3], 3).tolist() == [[True, False, False], [False, False, True]]


def test_coverage_is_counted_by_hand():
    """Whatever criterion chose: its scores are no counts of questions."""
    marked = np.array([[[True, True, False]], [[True, False, False]]])  # 2 questions, 1 layer, 3 experts
    figure = draw_coverage(marked, np.array([[False, False, True]]), top=2)
    kept, dropped = figure.axes[0].containers
    assert [bar.get_height() for bar in kept] == [0, 1, 1]  # one kept expert in 1 question, one in 2
    assert [bar.get_height() for bar in dropped] == [1, 0, 0]  # the dropped one in none
    plt.close(figure)


def test_a_map_by_another_criterion_has_its_pictures(tmp_path):
    write(tmp_path / "stats", 2, 8)
    options = ["--keep", "5", "--criterion", "reap", "--fold", "1/2", "--output", str(tmp_path / "map.json")]
    choose(["--stats", str(tmp_path / "stats"), *options])
    main(
        ["--stats", str(tmp_path / "stats"), "--drop-map", str(tmp_path / "map.json")]
        + ["--output-prefix", str(tmp_path / "experts")]
    )
    assert all((tmp_path / file).stat().st_size > 10_000 for file in FILES)


def test_a_map_that_nobody_chose_here_is_drawn_over_all_questions(tmp_path, refusal):
    """The same experts give the same pictures as a map that all questions chose, whatever form the map has."""
    write(tmp_path / "stats", 2, 8)
    options = ["--keep", "5", "--protect-top", "8", "--output", str(tmp_path / "ours.json")]
    choose(["--stats", str(tmp_path / "stats"), *options])
    layers = json.loads((tmp_path / "ours.json").read_text())["layers"]
    (tmp_path / "plain.json").write_text(json.dumps({layer: entry["drop"] for layer, entry in layers.items()}))

    def arguments(name: str) -> list[str]:
        files = ["--stats", tmp_path / "stats", "--drop-map", tmp_path / f"{name}.json"]
        return [*map(str, files), "--output-prefix", str(tmp_path / name / "experts")]

    for name in ("ours", "plain"):
        main(arguments(name))
    for file in FILES:
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    (tmp_path / "plain.json").write_text(json.dumps({"0": [1]}))
    refusal(main, arguments("plain"), "plain.json", "the 2 layers 0 to 1")


def write(path, layers, experts):
    generator = np.random.default_rng(0)
    arrays = {name: generator.random((5, layers, experts)) for name in EXPERT_SUMS}
    arrays["weighted_norm_sum"][:, 0, 1] = 0
    arrays |= {name: np.ones((5, layers), np.int64) for name in LAYER_SUMS} | {"layer_numbers": np.arange(layers)}
    write_stats(
        path,
        arrays,
        {
            "questions": [{"id": f"q{i}"} for i in range(5)],
            "top_k": 2,
            "questions_sha256": "0",
            "config_sha256": "1",
            "weights_sha256": "2",
        },
    )


def test_three_pictures_at_card_width_with_equal_bytes(tmp_path):
    write(tmp_path / "stats", 30, 128)
    choose(["--stats", str(tmp_path / "stats"), "--keep", "109", "--output", str(tmp_path / "map.json")])
    for name in ("a", "b"):
        main(
            [
                "--stats",
                str(tmp_path / "stats"),
                "--drop-map",
                str(tmp_path / "map.json"),
                "--output-prefix",
                str(tmp_path / name / "experts"),
            ]
        )
    for file in FILES:
        pixels = image.imread(tmp_path / "a" / file)
        assert pixels.shape[1] == 1200 and pixels.std() > 0.05
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_map_of_other_statistics_is_refused(tmp_path, refusal):
    write(tmp_path / "stats", 2, 8)
    others = {"stats_sha256": "0", "question_ids": ["q0"], "layers": {"0": [1], "1": [2]}}
    (tmp_path / "map.json").write_text(json.dumps(others))
    refusal(
        main,
        ["--stats", tmp_path / "stats", "--drop-map", tmp_path / "map.json", "--output-prefix", tmp_path / "x"],
        "map.json",
        "other statistics",
    )
    assert not list(tmp_path.glob("*.png"))
