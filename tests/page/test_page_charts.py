"""The charts of the report page, in headless Chromium with a build of the reference case's size."""

import re
from itertools import combinations
from pathlib import Path

from browser import chromium, opened
from files.json_records import read_json
from ggufs.imatrix import read_imatrix
from install_browser import LOAD_MS
from makers.report_pages import GRID, centre, check_figures, pixels, ranked, settle, shared_page

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return shared_page(tmp_path_factory)


@pytest.fixture(scope="module")
def build(report) -> Path:
    return report.parent


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_and_asks_for_nothing(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as found:
        page = found.page
        settle(page)
        assert found.complaints == [] and found.requests == [report.resolve().as_uri()]
        canvases = page.locator(".canvas").evaluate_all("all => all.map((one) => one.id)")
        assert canvases == [
            "loss-total",
            "loss-quantisation",
            "score-intervals",
            "pair-intervals",
            "grid-questions",
            "task-1-intervals",
            "loop-intervals",
            "grid-experts",
            "topic-intervals",
            "grid-imatrix",
        ]
        for canvas in canvases:
            assert pixels(page, f"#{canvas}").std() > 5, canvas
        assert page.locator(".missing:visible").count() == 0


@pytest.mark.parametrize("width", [360, 1440])
def test_the_hover_shows_the_experts_own_figures(browser, build, report, width):
    with opened(browser, report, width) as found:
        for layer, rank in ((0, 0), (0, 3), (17, 60), (29, 127)):
            x, y = centre(found.page, "grid-experts", layer, rank)
            found.page.mouse.move(x - 1, y - 1)
            found.page.mouse.move(x, y)
            found.page.wait_for_selector("#tip:visible", timeout=LOAD_MS)
            check_figures(found.page.locator("#tip").inner_text(), build, layer, ranked(build, layer)[rank])
            found.page.keyboard.press("Escape")
            assert not found.page.locator("#tip").is_visible()


def test_the_keyboard_walks_over_the_heat_map_and_says_its_figures(browser, build, report):
    with opened(browser, report) as found:
        page, status = found.page, found.page.locator(f"{GRID} .status")
        for _ in range(300):  # more than the page has controls
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement === document.querySelector('{GRID} .walk')"):
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert status.get_attribute("aria-live") == "polite"
        check_figures(status.inner_text(), build, 0, ranked(build, 0)[0])
        for key, layer, rank in (
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
            check_figures(status.inner_text(), build, layer, ranked(build, layer)[rank])
            assert page.evaluate(
                "(() => { const {document} = charts.get('grid-experts').model;"
                " const {column, row} = document.get_model_by_name('cursor').data;"
                " return [row[0], column[0]]; })()"
            ) == [layer, rank]


def test_a_tap_chooses_a_cell(browser, build, report):
    with opened(browser, report, 360) as found:
        found.page.mouse.click(*centre(found.page, "grid-experts", 11, 90))
        check_figures(found.page.locator(f"{GRID} .status").inner_text(), build, 11, ranked(build, 11)[90])


def test_the_switch_of_measures_works_by_keyboard_and_changes_the_colours(browser, build, report):
    with opened(browser, report) as found:
        page = found.page
        page.locator(f"{GRID} input[value=number]").check(force=True)
        dropped = read_json(build / "drop_map.json")["layers"]["5"]["drop"][0]
        seen = []
        page.locator(f"{GRID} input[value=coverage]").focus()
        for measure in ("coverage", "weighted_norm", "tokens", "dropped"):
            assert page.locator(f"{GRID} [name$=measure]:checked").get_attribute("value") == measure
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
        assert page.locator("#questions tbody tr").count() == 198
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
        found.page.locator('[data-grid="grid-imatrix"] input[value=number]').check(force=True)
        found.page.mouse.click(*centre(found.page, "grid-imatrix", 10, 7))
        assert found.page.locator('[data-grid="grid-imatrix"] .status').inner_text() == (
            f"Layer 10, expert 7 (expert {kept[7]} of the full model): {counts[10][7]} calibration tokens"
        )
        assert "The calibration text never reached 1 of 3270 experts." in found.page.locator("#imatrix").inner_text()


def test_the_order_by_rank_has_the_cut_and_the_order_by_number_the_ids(browser, build, report):
    with opened(browser, report) as found:
        page, status = found.page, found.page.locator(f"{GRID} .status")
        seen = """() => Object.fromEntries(charts.get("grid-experts").model.renderers.filter((each) => each.name)
            .map((each) => [each.name, each.visible]))"""
        shown = page.evaluate(seen)
        assert shown["cut"] and shown["mark-circle"] and not shown["mark-x-told"]
        cut = "charts.get('grid-experts').model.renderers.find((each) => each.name === 'cut').data_source.data.x0[0]"
        assert page.evaluate(cut) == 108.5
        page.mouse.click(*centre(page, "grid-experts", 4, 100))
        chosen = status.inner_text()
        page.locator(f"{GRID} input[value=number]").check(force=True)
        shown = page.evaluate(seen)
        assert not shown["cut"] and shown["mark-circle"] and shown["mark-x-told"]
        assert status.inner_text() == chosen  # the same expert, in its other place
        page.mouse.click(*centre(page, "grid-experts", 4, 100))
        check_figures(status.inner_text(), build, 4, 100)
        assert page.evaluate("charts.get('grid-experts').model.below[0].axis_label") == "expert"


def test_zoom_by_buttons_by_drag_and_by_the_wheel_with_ctrl(browser, report):
    ranges = """(chart) => { const {x_range: x, y_range: y} = charts.get(chart).model;
        return [x.start, x.end, y.start, y.end]; }"""
    with opened(browser, report) as found:
        page, tools = found.page, found.page.locator('[data-tools="loss-total"]')
        whole = page.evaluate(ranges, "loss-total")
        tools.get_by_label("Zoom in").click()
        inner = page.evaluate(ranges, "loss-total")
        assert whole[0] < inner[0] < inner[1] < whole[1] and whole[2] < inner[2] < inner[3] < whole[3]
        assert np.log(inner[1] / inner[0]) == pytest.approx(np.log(whole[1] / whole[0]) / 2)
        tools.get_by_label("Zoom out").click()
        assert page.evaluate(ranges, "loss-total") == whole
        x, y = centre(page, "grid-experts", 5, 20)
        before = page.evaluate("scrollY")
        page.mouse.move(x, y)
        page.mouse.wheel(0, -120)
        settle(page)
        assert page.evaluate(ranges, "grid-experts") == [-0.5, 127.5, 29.5, -0.5]
        assert page.evaluate("scrollY") < before  # the wheel alone scrolls the page
        page.mouse.move(*centre(page, "grid-experts", 5, 20))
        page.keyboard.down("Control")
        page.mouse.wheel(0, -120)
        page.keyboard.up("Control")
        settle(page)
        start, end, *_ = page.evaluate(ranges, "grid-experts")
        assert -0.5 < start < end < 127.5
        page.locator('[data-tools="grid-experts"]').get_by_text("Whole").click()
        page.mouse.move(*centre(page, "grid-experts", 5, 20))
        page.mouse.down()
        page.mouse.move(*centre(page, "grid-experts", 15, 60), steps=5)
        page.mouse.up()
        settle(page)
        start, end, bottom, top = page.evaluate(ranges, "grid-experts")
        assert (start, end, top, bottom) == pytest.approx((20, 60, 5, 15), abs=0.5)
        assert page.locator(f"{GRID} .status").inner_text() == "No cell chosen yet."  # a drag is no click
        page.locator(f"{GRID} .walk").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        start, end, *_ = page.evaluate(ranges, "grid-experts")
        assert start <= 2.5 and end - start == pytest.approx(40, abs=1)  # the part that is seen follows the cursor


def test_a_finger_scrolls_over_a_chart_and_zooms_by_its_buttons(browser, report):
    context = browser.new_context(viewport={"width": 360, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=LOAD_MS)
    assert page.evaluate("getComputedStyle(charts.get('loss-total').view.canvas_view.events_el).touchAction") == (
        "pan-x pan-y"
    )
    page.locator('[data-tools="grid-experts"]').get_by_label("Zoom in").tap()
    assert page.evaluate(
        "charts.get('grid-experts').model.x_range.end - charts.get('grid-experts').model.x_range.start"
    ) == (pytest.approx(64))
    page.touchscreen.tap(*centre(page, "grid-experts", 11, 60))
    assert page.locator(f"{GRID} .status").inner_text().startswith("Layer 11, expert")
    context.close()


def test_a_saved_picture_has_the_name_the_legend_and_the_chart(browser, report, tmp_path):
    with opened(browser, report) as found:
        for chart in ("loss-total", "grid-experts"):
            with found.page.expect_download() as waited:
                found.page.locator(f'[data-tools="{chart}"]').get_by_text("PNG").click()
            assert waited.value.suggested_filename == f"pruned-{chart}.png"
            waited.value.save_as(tmp_path / chart)
            picture = np.asarray(Image.open(tmp_path / chart).convert("RGB")).astype(int)
            box = found.page.locator(f"#{chart}").bounding_box()
            assert picture.shape[:2] == (round(box["height"]) + 54, round(box["width"]))
            assert (picture[0, 0] == 255).all()  # the panel's colour, not transparent
            assert all(rows.std() > 5 for rows in (picture[:30], picture[30:54], picture[54:]))
