"""The pictures: their numbers by hand, files that open, equal bytes, and a map that belongs to the statistics."""

import json

from choice.expert_stats import kept_first, write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from files.pictures import SHOWN_PIXELS, WIDTH_INCHES, plt, save_picture
from generate_drop_map import main as choose
from plot_expert_stats import (
    Ranked,
    draw_coverage,
    draw_heatmap,
    draw_layers,
    dropped_mask,
    layer_shares,
    main,
    ranked_experts,
)

import numpy as np
from matplotlib import image
from matplotlib.colors import LogNorm
from matplotlib.text import Text

FILES = ("experts-heatmap.png", "experts-coverage.png", "experts-layers.png")


def test_shares_by_hand():
    weighted = np.array([[[1.0, 3.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 6.0]]])  # 2 questions, 2 layers, 2 experts
    assert layer_shares(weighted).tolist() == [[3 / 8, 5 / 8], [0, 1]]


def test_dropped_experts_of_layers_that_do_not_start_at_0():
    assert dropped_mask({1: [0], 3: [2]}, [1, 3], 3).tolist() == [[True, False, False], [False, False, True]]


def test_experts_by_rank_are_the_kept_ones_by_score_then_the_dropped_ones():
    dropped = np.array([[False, True, False, False, True]])
    score, norms = np.array([[1.0, 9.0, 2.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 4.0, 5.0, 1.0]])
    assert kept_first(dropped, score, norms).tolist() == [[3, 2, 0, 1, 4]]  # equal scores: by weighted norm


def ranked(drop_map: dict) -> Ranked:
    """Two layers of four experts, by hand; experts 0 and 3 of each are dropped."""
    coverage = np.array([[0, 5, 3, 1], [2, 4, 6, 0]])
    shares = np.array([[0.1, 0.4, 0.3, 0.2], [0.2, 0.3, 0.5, 0.0]])
    return ranked_experts("a model", [1, 4], drop_map, coverage, shares, np.array([[True, False, False, True]] * 2))


def test_the_map_ranks_by_its_own_scores_and_a_map_without_by_coverage():
    plain = {"layers": {"1": {"drop": [0, 3]}, "4": {"drop": [0, 3]}}}
    assert ranked(plain).coverage.tolist() == [[5, 3, 1, 0], [6, 4, 2, 0]]
    assert not ranked(plain).tosses.any() and ranked(plain).kept == 2
    scored = {"layers": {layer: {"drop": [0, 3], "score": [4, 1, 2, 3], "coin_toss": [2, 3]} for layer in "14"}}
    assert ranked(scored).coverage.tolist() == [[3, 5, 0, 1], [6, 4, 2, 0]]
    assert ranked(scored).shares.tolist() == [[0.3, 0.4, 0.1, 0.2], [0.5, 0.3, 0.2, 0.0]]
    assert ranked(scored).tosses.tolist() == [[True, False, False, True]] * 2
    assert ranked({"1": [0, 3], "4": [0, 3]}).kept == 2  # of another tool, without entries


def test_a_name_with_two_dollar_signs_is_no_formula(tmp_path):
    figure, axes = plt.subplots()
    axes.set_title(r"$\frac{x$")
    save_picture(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_the_numbers_of_log_axes_and_color_bars_are_no_formulas_either(tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda _: None)  # the figure is looked at after it was saved
    figure, axes = plt.subplots()
    axes.plot([1, 2], [1e-5, 1])
    axes.set_yscale("log")
    figure.colorbar(plt.cm.ScalarMappable(LogNorm(1e-4, 1)), ax=axes)
    save_picture(figure, tmp_path / "x.png")
    for part in figure.axes:
        shown = [label.get_text() for label in part.yaxis.get_ticklabels(which="both")]
        assert "1e\N{MINUS SIGN}02" in shown and not any("$" in text for text in shown)


def test_coverage_shows_each_layer_by_rank_with_the_cut_and_the_band_of_coin_tosses():
    scored = {"layers": {layer: {"drop": [0, 3], "score": [4, 1, 2, 3], "coin_toss": [2, 3]} for layer in "14"}}
    figure = draw_coverage(ranked(scored), questions=7, top=2)
    first = figure.axes[0]
    kept, dropped = first.containers
    assert [(bar.get_center()[0], bar.get_height()) for bar in (*kept, *dropped)] == [(1, 3), (2, 5), (3, 0), (4, 1)]
    assert [line.get_xdata()[0] for line in first.lines] == [2.5]
    bars = {*kept, *dropped}
    bands = [(band.get_x(), band.get_width()) for band in first.patches if band not in bars]
    assert bands == [(0.5, 1), (3.5, 1), (2.5, 2)]  # two coin tosses, and where the dropped ones are
    assert [axes.get_title("left") for axes in figure.axes] == ["layer 1", "layer 4"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["kept: 2 of 4 in each layer", "dropped: 2", "a coin toss: 4 in all", "the cut"]
    plt.close(figure)


def test_the_heat_map_is_by_rank_with_the_cut():
    figure = draw_heatmap(ranked({"layers": {"1": {"drop": [0, 3]}, "4": {"drop": [0, 3]}}}))
    assert figure.axes[0].images[0].get_array().tolist() == [[0.4, 0.3, 0.2, 0.1], [0.5, 0.3, 0.2, None]]
    assert {line.get_xdata()[0] for line in figure.axes[0].lines} == {2.5}
    plt.close(figure)


def test_the_pictures_name_the_model_in_letters_that_can_be_read_760_pixels_wide():
    """The figures of a model of the reference case's size."""
    draw = np.random.default_rng(0)
    shares, coverage, dropped = draw.random((30, 128)), draw.integers(0, 99, (30, 128)), np.arange(128) >= 109
    dropped, layers = np.broadcast_to(dropped, shares.shape), list(range(30))
    experts = ranked_experts("my-model-109e", layers, {}, coverage, shares, dropped)
    share = (shares * dropped).sum(axis=1)
    figures = [
        draw_coverage(experts, questions=198, top=16),
        draw_heatmap(experts),
        draw_layers("my-model-109e", shares.sum(axis=1), share, dropped.mean(), layers),
    ]
    for figure in figures:
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert any(text.get_text().startswith("my-model-109e") for text in texts)
        pixels_per_point = SHOWN_PIXELS / (WIDTH_INCHES * 72)
        assert min(text.get_fontsize() for text in texts) * pixels_per_point >= 10
        plt.close(figure)


def test_the_name_is_that_of_the_option_or_the_start_of_the_paths(tmp_path):
    write(tmp_path / "stats", 2, 8)
    few = ["--keep", "5", "--protect-top", "4"]
    choose(["--stats", str(tmp_path / "stats"), *few, "--output", str(tmp_path / "map.json")])
    paths = ["--stats", str(tmp_path / "stats"), "--drop-map", str(tmp_path / "map.json"), "--output-prefix"]
    for folder, name in (("a", ["--name", "experts"]), ("b", []), ("c", ["--name", "another"])):
        main([*paths, str(tmp_path / folder / "experts"), *name])
    for file in FILES:
        a, b, c = ((tmp_path / folder / file).read_bytes() for folder in "abc")
        assert a == b != c


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
    """The same experts are drawn as of a map that all questions chose, but for what a plain map does not know."""
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
        same = (tmp_path / "ours" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
        assert same == (file != "experts-coverage.png"), file  # that one shows which experts are a coin toss
    (tmp_path / "plain.json").write_text(json.dumps({"0": [1]}))
    refusal(main, arguments("plain"), "plain.json", "the 2 layers 0 to 1")


def write(path, layers, experts):
    generator = np.random.default_rng(0)
    arrays = {name: generator.random((5, layers, experts)) for name in EXPERT_SUMS}
    arrays["token_count"] = np.ceil(9 * arrays["token_count"]).astype(np.int64)
    arrays["weighted_norm_sum"][:, 0, 1] = 0
    arrays |= {name: np.full((5, layers), 999) for name in LAYER_SUMS} | {"layer_numbers": np.arange(layers)}
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


def draw_all(folder, layers, experts, keep, names):
    """Draw the pictures of made-up statistics, once under each name."""
    write(folder / "stats", layers, experts)
    choose(["--stats", str(folder / "stats"), "--keep", str(keep), "--output", str(folder / "map.json")])
    files = ["--stats", str(folder / "stats"), "--drop-map", str(folder / "map.json")]
    for name in names:
        main([*files, "--output-prefix", str(folder / name / "experts")])


def test_three_pictures_at_card_width(tmp_path):
    draw_all(tmp_path, 30, 128, 109, ["a"])  # as many as the 26B has
    for file in FILES:
        pixels = image.imread(tmp_path / "a" / file)
        assert pixels.shape[1] == 1200 and pixels.std() > 0.05


def test_equal_statistics_give_equal_bytes(tmp_path):
    draw_all(tmp_path, 3, 24, 18, ["a", "b"])
    for file in FILES:
        equal = (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert equal, file


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
