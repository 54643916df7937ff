"""The report's section on further tasks: its figures are those of the records."""

from collections.abc import Iterator

from browser import chromium, opened
from build_report import main
from files.safe_files import InputError, read_json
from scoring.task_tables import task_cells
from synthetic_build import TASK, change, options, write_build

import pytest
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def test_the_section_shows_what_the_records_hold(browser, tmp_path):
    write_build(tmp_path, 12, 2, 20, 16)
    main([*options(tmp_path), "--output", str(tmp_path / "report.html")])
    scores = read_json(tmp_path / TASK / "scores.json")
    with opened(browser, tmp_path / "report.html") as found:
        assert found.complaints == []
        section = found.page.locator("#tasks")
        text = section.inner_text()
        rows, shares = (
            section.locator(f"[data-table={key}] tbody tr").all_inner_texts() for key in ("task-1", "task-1-pass")
        )
        assert section.locator("#task-1-intervals").is_visible()
    assert [row.split("\t") for row in rows] == [task_cells(row, scores) for row in scores["rows"]]
    assert [row.split("\t")[0] for row in shares] == ["full-Q6_K", "pruned-Q6_K", "pruned-Q4_K_M"]
    assert f"{TASK}: 8 questions, 2 samples each by the seeds 42 to 43." in text
    # One of another build is refused, and without any there is no such section.
    change(tmp_path / TASK / "scores.json", "rows", 1, "gguf_sha256", value="9" * 64)
    with pytest.raises(InputError, match="pruned-Q6_K.gguf with sha256"):
        main([*options(tmp_path), "--output", str(tmp_path / "other.html")])
    main([*options(tmp_path)[:-2], "--output", str(tmp_path / "other.html")])
    assert "Further tasks" not in (tmp_path / "other.html").read_text()
