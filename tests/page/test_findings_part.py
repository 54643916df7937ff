"""The report's section on what the experts are like: its figures are those of the record, and of this build."""

import shutil
from pathlib import Path

from browser import chromium, opened
from build_report import main
from files.json_records import read_json
from makers.synthetic_build import change, options, write_build

import pytest


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    write_build(folder, 24, 2, 20, 16)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def test_the_section_shows_what_the_record_holds(browser, build, tmp_path):
    main([*options(build), "--output", str(tmp_path / "report.html")])
    record = read_json(build / "findings.json")
    with opened(browser, tmp_path / "report.html") as found:
        assert found.complaints == []
        section = found.page.locator("#findings")
        text = section.inner_text()
        rows = section.locator("[data-table=domains] tbody tr").all_inner_texts()
        tables = section.locator("[data-table]").evaluate_all("all => all.map((each) => each.dataset.table)")
    distance = record["specialisation"]["distance"]
    assert f"is {distance['value']:.4f} bits" in text and f"(p = {distance['p']:.2g}" in text
    assert set(tables) == {"topics", "domains", "weights", "outputs", "bf16", "maps"}
    cells = {(cell["chosen_by"], cell["asked"]): cell["norm_lost"] for cell in record["specialisation"]["cells"]}
    assert len(rows) == 4 and rows[0].split("\t")[0] == "Biology"
    assert rows[0].split("\t")[2].startswith(f"{100 * cells['Biology', 'Chemistry'][0]:.2f}%")


def test_without_domains_the_section_says_why(build, tmp_path):
    folder = shutil.copytree(build, tmp_path / "copy")
    change(folder / "findings.json", "specialisation", value=None)
    change(folder / "findings.json", "missing", value={"specialisation": "expected a column 'X'"})
    main([*options(folder), "--output", str(folder / "report.html")])
    assert "Topics were not measured: expected a column &#39;X&#39;" in (folder / "report.html").read_text()


def test_findings_of_another_map_are_refused(build, tmp_path, refusal):
    folder = shutil.copytree(build, tmp_path / "copy")
    change(folder / "findings.json", "inputs", "drop_map_sha256", value="9" * 64)
    refusal(main, [*options(folder), "--output", folder / "report.html"], "findings.json", "drop map", "make findings")
