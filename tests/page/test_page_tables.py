"""Tables, links, downloads, navigation and accessibility of the report page, in headless Chromium."""

import csv
import json
from pathlib import Path

from browser import chromium, opened
from files.json_records import read_json
from makers.report_pages import EXPERTS, LAYERS, QUESTIONS, centre, ranked, settle, shared_page

import pytest
from axe_playwright_python.sync_playwright import Axe

FILES = '[data-table="files"]'
# What has the focus, also inside of a chart, as the keyboard sees it; null where the page has none.
FOCUSED = """() => {
    let element = document.activeElement;
    while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
    if (element === document.body) return null;
    const shown = element.type === "radio" ? element.nextElementSibling : element; // its label is what one sees
    const style = getComputedStyle(shown), box = shown.getBoundingClientRect();
    const bar = document.querySelector("nav").getBoundingClientRect().bottom;
    return {
        what: `${element.tagName} ${element.id} ${element.className} ${element.textContent.slice(0, 30)}`,
        ring: style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2,
        seen: box.width > 5 && box.height > 5 && box.left >= 0 && box.right <= innerWidth + 1 && box.top < innerHeight,
        covered: Boolean(element.closest("main")) && box.bottom <= bar,
    };
}"""


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


def open_all(page) -> None:
    """Open every folded table."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


def shown(page, table: str, column: int) -> list[str]:
    """The texts of a column of a table, of the rows that are shown."""
    return page.locator(f'[data-table="{table}"] tbody tr:not([hidden])').evaluate_all(
        "(rows, column) => rows.map((row) => row.cells[column].textContent)", column
    )


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


def test_a_table_is_sorted_by_its_heads_with_the_keyboard_too(browser, build, report):
    files = read_json(build / "quality.json")["files"]
    by_size = [entry["label"] for entry in sorted(files, key=lambda entry: entry["bytes"])]
    losses = {entry["label"]: entry["losses"]["quantisation"]["kld"][0] for entry in files}
    with opened(browser, report) as found:
        head = found.page.locator(f"{FILES} thead th", has_text="GiB")
        head.locator("button").focus()
        found.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending" and shown(found.page, "files", 0) == by_size[::-1]
        found.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending" and shown(found.page, "files", 0) == by_size
        found.page.locator(f"{FILES} thead button", has_text="quantisation loss").click()
        assert head.get_attribute("aria-sort") is None
        found_losses = [losses[label] for label in shown(found.page, "files", 0)]
        assert found_losses == pytest.approx(sorted(losses.values(), reverse=True), rel=0.05)
        found.page.locator(f"{FILES} thead button", has_text="file").first.click()
        assert shown(found.page, "files", 0)[:3] == ["AUTO-9.5", "AUTO-10.5", "AUTO-12"]  # as numbers, not as letters


def test_a_table_is_filtered_by_words_and_by_kind(browser, build, report):
    kinds = {entry["label"]: entry["kind"] for entry in read_json(build / "quality.json")["files"]}
    with opened(browser, report) as found:
        page, count = found.page, found.page.locator(f"{FILES} .count")
        page.locator(f"{FILES} select").select_option("ContribDynamic")
        dynamic = [label for label, kind in kinds.items() if kind == "ContribDynamic"]
        assert shown(page, "files", 0) == dynamic and count.inner_text() == f"{len(dynamic)} of {len(kinds)} rows"
        page.locator(f"{FILES} input").fill("q4_k better")
        assert shown(page, "files", 0) == ["CD-Q4_K_M"]
        page.locator(f"{FILES} select").select_option("")
        page.locator(f"{FILES} input").fill("")
        assert len(shown(page, "files", 0)) == len(kinds) and count.inner_text() == f"{len(kinds)} rows"
        open_all(page)
        page.locator('[data-table="questions"] select').select_option("lost")
        assert len(shown(page, "questions", 0)) == read_json(build / "scores.json")["pairs"][0]["lost"]
        assert set(shown(page, "questions", 2)) == {"\u22121"}


def saved(page, holder: str, ending: str, path: Path) -> str:
    """Press a button that saves; return what was saved, and check its name."""
    with page.expect_download() as waited:
        page.locator(f'{holder} [data-save="{ending}"]').click()
    assert waited.value.suggested_filename.startswith("pruned-") and waited.value.suggested_filename.endswith(ending)
    waited.value.save_as(path)
    return path.read_text(encoding="utf-8")


def test_downloads_have_the_exact_figures_of_the_records(browser, build, report, tmp_path):
    files = read_json(build / "quality.json")["files"]
    with opened(browser, report) as found:
        page = found.page
        rows = json.loads(saved(page, FILES, "json", tmp_path / "a"))
        assert [(row["label"], row["bytes"], row["sha256"]) for row in rows] == [
            (entry["label"], entry["bytes"], entry["sha256"]) for entry in files
        ]
        assert [row["total_kld"] for row in rows] == [entry["losses"]["total"]["kld"][0] for entry in files]
        table = list(csv.DictReader(saved(page, FILES, "csv", tmp_path / "b").splitlines()))
        assert [float(row["quantisation_kld_error"]) for row in table] == [
            entry["losses"]["quantisation"]["kld"][1] for entry in files
        ]
        open_all(page)
        answers = json.loads(saved(page, '[data-table="questions"]', "json", tmp_path / "c"))
        assert len(answers) == QUESTIONS and {answer["Record ID"] for answer in answers} == {
            answer["record_id"] for answer in read_json(build / "full.json")["answers"]
        }
        cells = list(csv.DictReader(saved(page, '[data-tools="grid-experts"]', "csv", tmp_path / "d").splitlines()))
        assert len(cells) == LAYERS * EXPERTS
        ranks = {int(cell["expert"]): int(cell["rank"]) for cell in cells if cell["layer"] == "7"}
        assert [ranks[expert] for expert in ranked(build, 7)] == list(range(1, EXPERTS + 1))


def test_a_mark_leads_to_its_row_and_a_row_to_its_mark(browser, build, report):
    entry = next(entry for entry in read_json(build / "quality.json")["files"] if entry["label"] == "IQ2_M")
    point = [entry["bytes"] / 2**30, entry["losses"]["total"]["kld"][0]]
    ring = """(chart) => { const {x, y} = charts.get(chart).model.document.get_model_by_name("chosen").data;
        return [x[0], y[0]]; }"""
    with opened(browser, report) as found:
        page = found.page
        page.locator(f"{FILES} input").fill("Q8_0")  # the row is hidden, and comes back
        page.locator("#loss-total").scroll_into_view_if_needed()
        x, y = page.evaluate(
            """([size, kld]) => { const {view} = charts.get("loss-total"), box = view.el.getBoundingClientRect();
            return [box.left + view.frame.x_scale.compute(size), box.top + view.frame.y_scale.compute(kld)]; }""",
            point,
        )
        page.mouse.click(x, y)
        row = page.locator(f"{FILES} tr.chosen")
        assert row.count() == 1 and row.locator("th").inner_text() == "IQ2_M"
        assert page.evaluate("document.activeElement.textContent") == "IQ2_M"
        page.wait_for_function("document.querySelector('tr.chosen').getBoundingClientRect().top < innerHeight")
        page.locator(f"{FILES} tr[data-link='IQ2_M'] button").click()
        assert page.evaluate(ring, "loss-total") == pytest.approx(point)
        assert page.evaluate(ring, "loss-quantisation")[0] == pytest.approx(point[0])
        page.wait_for_function("document.getElementById('loss-total').getBoundingClientRect().bottom > 0")
        page.mouse.click(*centre(page, "grid-questions", 2, 5))
        record_id = f"rec<{2 * 33 + 5:03d}>"
        assert page.evaluate("document.activeElement.textContent") == record_id  # in a table that was folded
        page.locator("[data-link='rec<197>'] button").click()
        assert page.evaluate("document.activeElement.className") == "walk"
        assert "Question rec<197>:" in page.locator('[data-grid="grid-questions"] .status').inner_text()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == "rec<197>"


def test_the_navigation_stays_and_tells_the_place(browser, report):
    with opened(browser, report, 1280) as found:
        page = found.page
        page.locator("nav a", has_text="Scores").click()
        page.wait_for_function("document.querySelector('nav [aria-current]').textContent === 'Scores'")
        page.wait_for_function("Math.abs(document.getElementById('scores').getBoundingClientRect().top) < 80")
        assert page.locator("nav").bounding_box()["y"] == 0
        order = page.locator("main section").evaluate_all("all => all.map((each) => each.id)")
        assert order[0] == "summary" and order[-1] == "pipeline"  # the digests come last
        assert page.locator("nav a").evaluate_all("all => all.map((each) => each.hash.slice(1))") == order
    with opened(browser, report, 360) as found:
        menu, link = found.page.locator("#menu"), found.page.locator("nav a", has_text="Glossary")
        assert not link.is_visible()
        menu.click()
        link.click()
        assert menu.get_attribute("aria-expanded") == "false" and not link.is_visible()
        found.page.wait_for_function("document.getElementById('glossary').getBoundingClientRect().top < innerHeight")


def test_every_term_of_a_section_is_in_the_glossary(browser, report):
    with opened(browser, report) as found:
        links = found.page.locator("[data-term]").evaluate_all("all => all.map((each) => each.hash.slice(1))")
        terms = found.page.locator(".glossary dt").evaluate_all("all => all.map((each) => each.id)")
        assert links and set(links) == set(terms) and len(terms) == len(set(terms))


@pytest.mark.parametrize("width", [360, 1280])
def test_whatever_can_have_the_focus_shows_it(browser, report, width):
    with opened(browser, report, width) as found:
        page, stops = found.page, []
        page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        page.locator("#pipeline details").evaluate("each => { each.open = true; }")
        while len(stops) < 400:
            page.keyboard.press("Tab")
            if not (stop := page.evaluate(FOCUSED)):
                break
            stops.append(stop)
        assert 100 < len(stops) < 400, len(stops)
        assert not [stop["what"] for stop in stops if not (stop["ring"] and stop["seen"]) or stop["covered"]]


@pytest.mark.parametrize("width", [360, 760, 965, 1280])
def test_nothing_has_to_be_scrolled_sideways(browser, report, width):
    with opened(browser, report, width) as found:
        open_all(found.page)
        settle(found.page)
        assert found.page.evaluate("document.documentElement.scrollWidth") == width
        wide = """() => [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()
            && !each.closest(".skip, noscript, caption") && !(each instanceof HTMLInputElement)
            && (each.getBoundingClientRect().right > innerWidth || each.scrollWidth > each.clientWidth + 1
                && getComputedStyle(each).overflowX !== "visible")).map((each) => each.outerHTML.slice(0, 90))"""
        assert found.page.evaluate(wide) == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as found:
        open_all(found.page)
        settle(found.page)
        faults = Axe().run(found.page).response["violations"]
        assert not [
            (fault["id"], fault["impact"], [node["target"] for node in fault["nodes"]][:3])
            for fault in faults
            if fault["impact"] in ("serious", "critical")
        ]


def test_without_scripts_the_tables_and_the_links_are_there(browser, report):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(report.resolve().as_uri())
    assert page.locator("noscript").inner_text() == "The charts need JavaScript; the tables do not."
    assert page.locator(f"{FILES} tbody tr").count() == 40 and page.locator("nav a").first.is_visible()
    assert page.locator("button:visible").count() == page.locator("[data-zoom]:visible, figure [data-save]").count()
    context.close()
