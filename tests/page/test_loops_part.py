"""The report's section on loops and tool calls: its figures are those of the record."""

from browser import chromium, opened
from build_report import main
from files.json_records import read_json
from loops.loop_results import loop_cells, shown_pairs
from makers.synthetic_build import options, write_build


def test_the_section_shows_what_the_record_holds(tmp_path):
    write_build(tmp_path, 12, 2, 20, 16)
    main([*options(tmp_path), "--output", str(tmp_path / "report.html")])
    record = read_json(tmp_path / "loops.json")
    with chromium() as browser, opened(browser, tmp_path / "report.html") as found:
        assert found.complaints == []
        section = found.page.locator("#loops")
        text = section.inner_text()
        rows, pairs = (
            section.locator(f"[data-table={key}] tbody tr").all_inner_texts() for key in ("loops", "loop-pairs")
        )
        assert section.locator("#loop-intervals").is_visible()
    assert [row.split("\t") for row in rows] == [loop_cells(row) for row in record["rows"]]
    assert len(pairs) == len(shown_pairs(record)) and any("pruned-Q4_K_M\tempty" in pair for pair in pairs)
    assert "Significantly more often than full-Q6_K: pruned-Q4_K_M (any failure), pruned-Q4_K_M (empty)." in text


def test_without_the_record_the_section_names_the_command(tmp_path):
    write_build(tmp_path, 12, 2, 20, 16)
    flags = options(tmp_path)
    place = flags.index("--loops")
    main([*flags[:place], *flags[place + 2 :], "--output", str(tmp_path / "report.html")])
    assert "Run <code>make loops</code>" in (tmp_path / "report.html").read_text()
