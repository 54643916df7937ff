"""The report page: in headless Chromium with a build of the reference case's size, in bytes, and what it refuses."""

import io
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

from browser import chromium, opened
from build_report import main
from choice.expert_stats import protected, read_stats
from conftest import REPO
from files.display import KIND_COLORS
from files.safe_files import read_json
from generate_drop_map import main as choose
from ggufs.imatrix import read_imatrix
from install_browser import LOAD_MS
from page.charts import KIND_MARKERS
from page.records import read_experts
from synthetic_build import change, options, write_build

import numpy as np
import pytest
from PIL import Image

QUESTIONS, LAYERS, EXPERTS, KEEP = 198, 30, 128, 109
GRID = '[data-grid="grid-experts"]'


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """The records of a build of 198 questions, 30 layers and 128 experts."""
    folder = tmp_path_factory.mktemp("build")
    write_build(folder, QUESTIONS, LAYERS, EXPERTS, KEEP)
    return folder


@pytest.fixture(scope="module")
def report(build) -> Path:
    main([*options(build), "--output", str(build / "report.html")])
    return build / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def figures_of(text: str) -> tuple[float, int, int, str]:
    """The weighted norm, tokens, coverage and fate in the sentence of an expert."""
    match = re.fullmatch(
        r"Layer \d+, expert \d+: weighted norm (\S+); (\d+) tokens; coverage (\d+) of 198 questions; (kept|dropped)",
        text,
    )
    assert match, text
    return float(match[1]), int(match[2]), int(match[3]), match[4]


def check_figures(text: str, build: Path, layer: int, expert: int) -> None:
    """Hold an expert's sentence against the statistics file and the drop map."""
    arrays, _ = read_stats(build / "expert_stats.safetensors")
    norm, tokens, coverage, fate = figures_of(text)
    assert text.startswith(f"Layer {layer}, expert {expert}:")
    assert norm == pytest.approx(arrays["weighted_norm_sum"][:, layer, expert].sum(), rel=1e-5)
    assert tokens == arrays["token_count"][:, layer, expert].sum()
    assert coverage == protected(arrays["weighted_norm_sum"], 16)[:, layer, expert].sum()
    dropped = read_json(build / "drop_map.json")["layers"][str(layer)]["drop"]
    assert fate == ("dropped" if expert in dropped else "kept")


def centre(page, grid: str, row: int, column: int) -> tuple[float, float]:
    """Where a cell's centre is in the window, after it was scrolled there."""
    page.locator(f"#{grid}").scroll_into_view_if_needed()
    return tuple(
        page.evaluate(
            """([grid, row, column]) => {
        const {view} = charts.get(grid), scroller = document.getElementById(grid).parentElement;
        scroller.scrollLeft = view.frame.x_scale.compute(column) - scroller.clientWidth / 2;
        const box = view.el.getBoundingClientRect();
        return [box.left + view.frame.x_scale.compute(column), box.top + view.frame.y_scale.compute(row)];
    }""",
            [grid, row, column],
        )
    )


def settle(page) -> None:
    """Wait until the page has painted what was asked for: some frames, however long a busy machine takes for one."""
    page.evaluate("async () => { for (let i = 0; i < 15; i++) await new Promise(requestAnimationFrame); }")


def pixels(page, selector: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def test_the_page_is_small_and_the_same_every_time(build, report, tmp_path, script):
    assert report.stat().st_size < 5_000_000
    moved = shutil.copytree(build, tmp_path / "moved")
    (moved / "report.html").unlink()
    done = script("build_report.py", *options(moved), "--output", moved / "report.html")
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout and "MB" in done.stdout
    text = report.read_bytes()
    assert (moved / "report.html").read_bytes() == text
    assert str(build).encode() not in text and str(REPO).encode() not in text
    assert not [path for path in moved.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_asks_for_nothing_and_fits(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as found:
        page = found.page
        settle(page)
        assert found.complaints == [] and found.requests == [report.resolve().as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(
            "[...document.querySelectorAll('main *')].every((e) => e.closest('.scroll, details, .canvas') || "
            "e.getBoundingClientRect().right <= innerWidth)"
        )
        canvases = page.locator(".canvas").evaluate_all("all => all.map((one) => one.id)")
        assert canvases == [
            "grid-experts",
            "loss-total",
            "loss-quantisation",
            "score-intervals",
            "grid-questions",
            "grid-imatrix",
        ]
        for canvas in canvases:
            assert pixels(page, f"#{canvas}").std() > 5, canvas
        assert page.locator(".missing:visible").count() == 0


@pytest.mark.parametrize("width", [360, 1440])
def test_the_hover_shows_the_experts_own_figures(browser, build, report, width):
    with opened(browser, report, width) as found:
        for layer, expert in ((0, 0), (0, 3), (17, 60), (29, 127)):
            x, y = centre(found.page, "grid-experts", layer, expert)
            found.page.mouse.move(x - 1, y - 1)
            found.page.mouse.move(x, y)
            found.page.wait_for_selector("#tip:visible", timeout=LOAD_MS)
            check_figures(found.page.locator("#tip").inner_text(), build, layer, expert)
            found.page.keyboard.press("Escape")
            assert not found.page.locator("#tip").is_visible()


def test_the_keyboard_walks_over_the_heat_map_and_says_its_figures(browser, build, report):
    with opened(browser, report) as found:
        page, status = found.page, found.page.locator(f"{GRID} .status")
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement === document.querySelector('{GRID} .walk')"):
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert status.get_attribute("aria-live") == "polite"
        check_figures(status.inner_text(), build, 0, 0)
        for key, layer, expert in (
            ("ArrowUp", 0, 0),
            ("ArrowLeft", 0, 0),
            ("ArrowRight", 0, 1),
            ("ArrowDown", 1, 1),
            ("End", 1, 127),
            ("ArrowRight", 1, 127),
            ("ArrowDown", 2, 127),
            ("Home", 2, 0),
            ("ArrowUp", 1, 0),
        ):
            page.keyboard.press(key)
            check_figures(status.inner_text(), build, layer, expert)
            assert page.evaluate(
                "(() => { const {document} = charts.get('grid-experts').model;"
                " const {column, row} = document.get_model_by_name('cursor').data;"
                " return [row[0], column[0]]; })()"
            ) == [layer, expert]


def test_a_tap_chooses_a_cell(browser, build, report):
    with opened(browser, report, 360) as found:
        found.page.mouse.click(*centre(found.page, "grid-experts", 11, 90))
        check_figures(found.page.locator(f"{GRID} .status").inner_text(), build, 11, 90)


def test_the_switch_of_measures_works_by_keyboard_and_changes_the_colours(browser, build, report):
    with opened(browser, report) as found:
        page = found.page
        dropped = read_json(build / "drop_map.json")["layers"]["5"]["drop"][0]
        seen = []
        page.locator(f"{GRID} input[value=weighted_norm]").focus()
        for measure in ("weighted_norm", "tokens", "coverage", "dropped"):
            assert page.locator(f"{GRID} input:checked").get_attribute("value") == measure
            assert page.locator(f"{GRID} .legend:visible").get_attribute("data-measure") == measure
            settle(page)
            seen.append(pixels(page, "#grid-experts"))
            page.keyboard.press("ArrowRight")
        assert all(np.abs(one - other).mean() > 1 for one, other in combinations(seen, 2))
        x, y = centre(page, "grid-experts", 5, dropped)
        left, top = page.locator("#grid-experts").evaluate(
            "e => { const b = e.getBoundingClientRect(); return [b.left, b.top]; }"
        )
        around = seen[3][int(y - top) - 7 : int(y - top) + 7, int(x - left) - 4 : int(x - left) + 4].reshape(-1, 3)
        assert (np.abs(around - (0xE6, 0x9F, 0)).max(axis=1) < 8).any()  # the colour of dropped, under its mark


def test_dark_follows_the_system_and_the_switch(browser, report):
    with opened(browser, report) as found:
        page, seen = found.page, {}
        for name, scheme, choice in (
            ("light", "light", "light dark"),
            ("system", "dark", "light dark"),
            ("forced light", "dark", "light"),
            ("forced dark", "light", "dark"),
        ):
            page.emulate_media(color_scheme=scheme)
            page.locator(f"input[name=theme][value='{choice}']").check(force=True)
            settle(page)
            axis = page.evaluate("charts.get('loss-total').model.below[0].major_label_text_color")
            seen[name] = (
                page.evaluate("getComputedStyle(document.body).backgroundColor"),
                axis,
                pixels(page, "#loss-total").mean() > 127,
            )
        assert seen["light"] == seen["forced light"] and seen["system"] == seen["forced dark"]
        assert all(one != other for one, other in zip(seen["light"], seen["system"]))


@pytest.mark.parametrize("width, least", [(360, 12), (1440, 30)])
def test_labels_of_the_pareto_charts_do_not_overlap(browser, build, report, width, least):
    with opened(browser, report, width) as found:
        settle(found.page)
        for loss in ("total", "quantisation"):
            boxes = found.page.evaluate(
                """(chart) => {
                const {model, view} = charts.get(chart);
                const {x, y, label} = model.document.get_model_by_name("labels").data;
                const pen = document.createElement("canvas").getContext("2d");
                pen.font = "11px sans-serif";
                const {x_scale, y_scale} = view.frame, width = (text) => pen.measureText(text).width;
                return Array.from(label, (text, i) => [x_scale.compute(x[i]), y_scale.compute(y[i]), width(text)]);
            }""",
                f"loss-{loss}",
            )
            assert len(boxes) >= least
            for (x, y, width_1), (other_x, other_y, width_2) in combinations(boxes, 2):
                assert abs(x - other_x) >= (width_1 + width_2) / 2 or abs(y - other_y) >= 11
        table = found.page.locator("#quality table").inner_text()
        assert all(
            re.search(rf"^{re.escape(entry['label'])}\s", table, re.MULTILINE)
            for entry in read_json(build / "quality.json")["files"]
        )


def test_points_and_tables_say_what_the_records_say(browser, build, report):
    quality, scores = read_json(build / "quality.json"), read_json(build / "scores.json")
    with opened(browser, report) as found:
        page = found.page
        entry = next(entry for entry in quality["files"] if entry["label"] == "IQ2_M")
        page.locator("#loss-total").scroll_into_view_if_needed()
        x, y = page.evaluate(
            """([size, kld]) => { const {view} = charts.get("loss-total"), box = view.el.getBoundingClientRect();
            return [box.left + view.frame.x_scale.compute(size), box.top + view.frame.y_scale.compute(kld)]; }""",
            [entry["bytes"] / 2**30, entry["losses"]["total"]["kld"][0]],
        )
        page.mouse.move(x - 1, y)
        page.mouse.move(x, y)
        page.wait_for_selector("#tip:visible", timeout=LOAD_MS)
        assert page.locator("#tip").inner_text().startswith("IQ2_M (standard)")
        text = page.locator("#scores").inner_text()
        for row in scores["rows"]:
            low, high = row["interval"]
            assert f"{row['patched_correct']}/198 = {row['patched']:.2%}" in text and f"{low:.1%} to {high:.1%}" in text
            assert f"{row['invalid']}: {row['invalid']} empty" in text
        pair, text = scores["pairs"][0], page.locator("#questions").inner_text()
        assert f"{pair['lost']} lost, {pair['won']} won" in text and pair["lost"] > 0 < pair["won"]
        page.locator("#questions summary").click()
        assert page.locator("#questions tbody tr").count() == pair["lost"] + pair["won"]
        assert "rec<" in page.locator("#questions table").inner_text()  # a Record ID with a letter that HTML knows
        pipeline = page.locator("#pipeline").inner_text()
        for digest in (
            read_json(build / "imatrix.gguf.json")["sha256"],
            read_json(build / "expert_drop_metadata.json")["drop_map_sha256"],
        ):
            assert digest[:12] in pipeline


def test_layers_of_the_imatrix_are_in_order_with_their_own_figures(browser, build, report):
    with opened(browser, report) as found:
        counts = read_imatrix(build / "imatrix.gguf").expert_counts()
        kept = read_json(build / "drop_map.json")["layers"]["10"]["keep"]
        found.page.mouse.click(*centre(found.page, "grid-imatrix", 10, 7))
        assert found.page.locator('[data-grid="grid-imatrix"] .status').inner_text() == (
            f"Layer 10, expert 7 (expert {kept[7]} of the full model): {counts[10][7]} calibration tokens"
        )
        assert "The calibration text never reached 1 of 3270 experts." in found.page.locator("#imatrix").inner_text()


def test_tables_and_controls_are_named(browser, report):
    with opened(browser, report) as found:
        assert found.page.evaluate(
            "[...document.querySelectorAll('table')].every((table) => "
            "table.caption.textContent.trim() && table.querySelector('th[scope=col]'))"
        )
        ids = found.page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids))
        assert found.page.evaluate(
            "[...document.querySelectorAll('fieldset')].every((each) => each.querySelector('legend'))"
        )
        assert found.page.evaluate("document.documentElement.lang") == "en"


def test_what_was_not_made_is_said_to_be_missing_and_not_filled_in(browser, build, tmp_path, capsys):
    output = tmp_path / "report.html"
    main(
        [
            "--name",
            "pruned",
            "--stats",
            str(build / "expert_stats.safetensors"),
            "--drop-map",
            str(build / "drop_map.json"),
            "--output",
            str(output),
        ]
    )
    said = capsys.readouterr().out
    assert all(f"(make {target})" in said for target in ("quality", "eval", "imatrix")) and "(make analyze)" not in said
    with opened(browser, output) as found:
        assert found.complaints == []
        for section, command in (
            ("quality", "make quality"),
            ("scores", "make eval"),
            ("questions", "make eval"),
            ("imatrix", "make imatrix"),
        ):
            assert (
                f"Run {command} with the variables of this build"
                in found.page.locator(f"#{section} .missing").inner_text()
            )
            assert found.page.locator(f"#{section} :is(table, figure)").count() == 0
        assert found.page.locator("#experts .missing").count() == 0
        assert found.page.locator("#pipeline .waits").count() == 6


@pytest.fixture(scope="module")
def pristine_build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_build(folder, 12, 2, 20, 16)
    return folder


@pytest.fixture
def small_build(pristine_build, tmp_path) -> Path:
    """The records of a small build, which a test may damage."""
    return Path(shutil.copytree(pristine_build, tmp_path / "small"))


@pytest.mark.parametrize(
    "file, keys, value, words",
    [
        ("drop_map.json", ("stats_sha256",), "0", ("drop_map.json", "other statistics")),
        ("drop_map.json", ("layers", "1", "drop"), [99, 98], ("drop_map.json", "layer 1")),
        ("quality.json", ("files", 0), {"label": "Q8_0"}, ("quality.json", "the field 'files.0.kind'")),
        ("pruned.json", ("answers", 0), {}, ("pruned.json", "12 answered questions")),
        ("expert_drop_metadata.json", ("drop_map_sha256",), "0" * 64, ("expert_drop_metadata.json", "make drop")),
        ("pruned-F16.gguf.json", ("sha256",), "0" * 64, ("imatrix.gguf", "an imatrix of the F16 GGUF", "make imatrix")),
        ("imatrix.gguf.json", ("sha256",), "0" * 64, ("imatrix.gguf.json", "make imatrix")),
        ("quants/pruned-Q6_K.gguf.json", ("source_sha256",), "0" * 64, ("pruned-Q6_K.gguf.json", "make quants")),
        ("quants/pruned-Q4_K_M.gguf.json", ("sha256",), "e" * 64, ("quality.json", "Q4_K_M", "make quality")),
        ("quality.json", ("inputs", "pruned_sha256"), "0" * 64, ("quality.json", "make quality")),
        ("scores.json", ("rows", 1, "raw_correct"), 0, ("scores.json", "make eval")),
        ("pruned.json", ("gguf_sha256",), "0" * 64, ("pruned-Q6_K.gguf", "make eval")),
        ("pruned.json", ("answers", 0, "record_id"), "other", ("pruned", "12 questions of full")),
    ],
)
def test_records_of_another_build_are_refused(small_build, refusal, file, keys, value, words):
    change(small_build / file, *keys, value=value)
    refusal(main, [*options(small_build), "--output", small_build / "report.html"], *words)
    assert not (small_build / "report.html").exists()


def test_a_fold_shows_the_questions_that_chose_and_nothing_of_the_others(small_build, tmp_path):
    choose(
        [
            "--stats",
            str(small_build / "expert_stats.safetensors"),
            "--keep",
            "16",
            "--fold",
            "1/4",
            "--criterion",
            "reap",
            "--bootstrap",
            "0",
            "--output",
            str(tmp_path / "fold.json"),
        ]
    )
    experts, drop_map, _ = read_experts(small_build / "expert_stats.safetensors", tmp_path / "fold.json")
    arrays, rows = read_stats(small_build / "expert_stats.safetensors")[0], [row for row in range(12) if row % 4]
    assert (experts.questions, experts.top, experts.layers) == (
        9,
        16,
        [0, 1],
    )  # reap protects none: shown by the card's 16
    assert (experts.tokens == arrays["token_count"][rows].sum(axis=0)).all()
    assert np.allclose(experts.weighted_norm, arrays["weighted_norm_sum"][rows].sum(axis=0))
    assert [np.nonzero(row)[0].tolist() for row in experts.dropped] == [
        drop_map["layers"][layer]["drop"] for layer in "01"
    ]


def test_records_that_are_none_are_refused_in_one_line(small_build, refusal):
    output, flags = small_build / "report.html", options(small_build)
    refusal(main, ["--name", "pruned", "--output", output], "report.html", "none", "make analyze")
    (small_build / "quality.json").write_text("{")
    refusal(main, [*flags, "--output", output], "quality.json", "valid JSON")
    (small_build / "quality.json").write_text("{}")
    refusal(main, [*flags, "--output", output], "quality.json", "measurements of measure_quality.py, version 1")
    refusal(main, [*flags, "--output", small_build / "scores.json"], "scores.json", "apart")
    assert not output.exists()


def theme_colors() -> dict[str, tuple[str, str]]:
    """The colours of page.css by variable, in the light and in the dark."""
    style = (REPO / "scripts/page/page.css").read_text()
    return {name: (light, dark) for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", style)}


def luminance(color: str) -> float:
    """The relative luminance of #rrggbb; source: WCAG 2.2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_kinds_have_the_colours_of_the_pictures_and_can_be_seen_on_the_page():
    colors, names = theme_colors(), {"standard": "standard", "ContribDynamic": "contrib", "target size": "target"}
    assert {kind: colors[name][0] for kind, name in names.items()} == KIND_COLORS
    assert KIND_MARKERS.keys() == KIND_COLORS.keys()
    for scheme in (0, 1):
        panel = luminance(colors["panel"][scheme])
        for name in names.values():
            low, high = sorted((panel, luminance(colors[name][scheme])))
            assert (high + 0.05) / (low + 0.05) >= 3, name  # WCAG 2.2, 1.4.11: graphics


def test_make_report_takes_what_is_there_and_builds_nothing_else(tiny_text_model, few_questions, tmp_path):
    variables = [
        f"MODEL={tiny_text_model}",
        "NAME=tiny",
        "KEEP=12",
        "PROTECT_TOP=4",
        f"QUESTIONS={few_questions}",
        f"BUILD={tmp_path}/build",
    ]

    def make(*goals: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["make", "--no-print-directory", *goals, *variables], cwd=REPO, capture_output=True, text=True
        )

    done = make("report")
    assert done.returncode != 0 and "found none; run make analyze" in done.stderr and "build_report" in done.stdout
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob("*.safetensors"))
    assert make("analyze").returncode == 0
    done = make("report")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"scripts/(\w+)\.py", done.stdout) == ["build_report"] and "make quality" in done.stdout
    page = next(tmp_path.rglob("*-report.html"))
    before = page.stat().st_mtime_ns
    assert "build_report" not in make("report").stdout and page.stat().st_mtime_ns == before
    for name in ("source.txt", "drop_map.json"):  # the statistics, and what follows from the map, are out of date now
        next(tmp_path.rglob(name)).touch()
    done = make("report")
    assert re.findall(r"scripts/(\w+)\.py", done.stdout) == ["build_report"] and page.stat().st_mtime_ns > before
    next(tmp_path.rglob("drop_map.json")).unlink()
    assert "found none" in make("report").stderr
