"""The report's section on further tasks: its figures are those of the records."""

from collections.abc import Iterator

from browser import chromium, opened
from build_report import main
from compare_scores import main as compare_scores
from files.input_errors import InputError
from files.json_records import read_json
from files.written_records import write_json, write_record
from makers.synthetic_build import TASK, change, options, write_build
from scoring.eval_protocol import Protocol
from scoring.score_records import Summary
from scoring.task_tables import seeds_in_words, task_cells

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


def test_several_samples_of_the_evaluation_are_pooled_and_the_first_is_shown(tmp_path):
    write_build(tmp_path, 12, 2, 20, 16)
    paths = []
    for name in ("full", "pruned"):
        summary = read_json(tmp_path / f"{name}.json")
        protocol = Protocol(seed=43, choice_order_seed=43)
        summary |= {"protocol": vars(protocol), "protocol_sha256": protocol.digest}
        write_record(tmp_path / f"{name}-43.json", summary, Summary)
        paths += [str(tmp_path / f"{name}.json"), str(tmp_path / f"{name}-43.json")]
    compare_scores(["--runs", *paths, "--output", str(tmp_path / "scores.md")])
    flags = options(tmp_path)
    place = flags.index("--summaries") + 1
    main([*flags[:place], *paths, *flags[place + 2 :], "--output", str(tmp_path / "report.html")])
    text = (tmp_path / "report.html").read_text()
    assert "Of 2 samples of each question this is the first." in text and "pass@2" in text
    assert "Scores are sums over the seeds 42, 43" in text
    # Summaries of other runs than those that the scores are the sums of are refused.
    with pytest.raises(InputError, match="expected the scores of full and pruned"):
        main([*flags[:place], paths[0], paths[2], *flags[place + 2 :], "--output", str(tmp_path / "other.html")])


@pytest.mark.parametrize(("field", "value"), [("task", ["x"]), ("filter", None), ("lm_eval", 1.5), ("seed", "42")])
def test_a_protocol_of_other_values_is_refused(tmp_path, refusal, field, value):
    write_build(tmp_path, 12, 2, 20, 16)
    change(tmp_path / TASK / "scores.json", "protocol", field, value=value)
    refusal(main, [*options(tmp_path), "--output", tmp_path / "report.html"], "scores.json", f"protocol.{field}")


def test_a_task_without_its_filter_is_refused(tmp_path, refusal):
    write_build(tmp_path, 12, 2, 20, 16)
    scores = read_json(tmp_path / TASK / "scores.json")
    del scores["protocol"]["filter"]
    write_json(tmp_path / TASK / "scores.json", scores)
    refusal(main, [*options(tmp_path), "--output", tmp_path / "report.html"], "scores.json", "filter and lm_eval")


def test_seeds_that_do_not_follow_one_another_are_named():
    assert seeds_in_words([42, 43, 44]) == "42 to 44" and seeds_in_words([42, 47]) == "42, 47"
